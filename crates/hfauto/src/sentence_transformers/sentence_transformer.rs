//! `SentenceTransformer`: from texts to vectors.

use rayon::prelude::*;

use super::embedding::{Embedding, prompt_tokens};
use super::workers;
use crate::auto::{
    AutoModel, AutoTokenizer, Head, LoadOptions, Module, SentenceTransformerConfig, TextInput,
    load_options,
};
use crate::batch::in_batches;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::batch_tokens;
use crate::nn::{PoolingMode, not_finite, to_host};

/// A loaded bi-encoder, as `SentenceTransformer` of sentence-transformers.
///
/// As in sentence-transformers, a model without its files gets mean pooling. All methods take `&self`, block, and may
/// be called from several threads.
///
/// # Example
/// ```
/// use hfauto::sentence_transformers::{EmbedOptions, SentenceTransformer};
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "sentence-transformers/all-MiniLM-L6-v2".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/mini-embedder");
/// let model = SentenceTransformer::from_pretrained(id)?;
///
/// let embeddings = model.encode(&["The room was quiet.", "A long film."])?;
/// assert_eq!(embeddings.len(), 2);
/// assert_eq!(embeddings[0].len(), model.embedding_dimension());
///
/// let options = EmbedOptions::default().truncate_dim(8).normalize_embeddings(true);
/// let short = model.encode_with(&["The room was quiet."], &options)?;
/// let length: f32 = short[0].iter().map(|x| x * x).sum();
/// assert_eq!(short[0].len(), 8);
/// assert!((length - 1.0).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SentenceTransformer {
    config: SentenceTransformerConfig,
    tokenizer: AutoTokenizer,
    model: AutoModel,
    modules: Head,
    max_seq_length: usize,
    truncate_dim: Option<usize>,
}

/// Options of [`SentenceTransformer::builder`].
#[derive(Clone, Debug)]
pub struct SentenceTransformerBuilder {
    options: LoadOptions,
    pooling: Vec<PoolingMode>,
    max_seq_length: Option<usize>,
    truncate_dim: Option<usize>,
}

impl SentenceTransformerBuilder {
    load_options!();

    /// Overrides the directory's pooling; several modes are concatenated.
    #[must_use]
    pub fn pooling(mut self, modes: impl IntoIterator<Item = PoolingMode>) -> Self {
        self.pooling = modes.into_iter().collect();
        self
    }

    /// Sets the maximum number of tokens per text, including special tokens; longer texts are truncated. The default
    /// comes from the directory.
    #[must_use]
    pub fn max_seq_length(mut self, max_seq_length: usize) -> Self {
        self.max_seq_length = Some(max_seq_length);
        self
    }

    /// Sets the default dimension to which embeddings are truncated.
    #[must_use]
    pub fn truncate_dim(mut self, truncate_dim: usize) -> Self {
        self.truncate_dim = Some(truncate_dim);
        self
    }

    /// Sets the task whose adapter is merged into the weights (Jina Embeddings v3); the default comes from the directory.
    #[must_use]
    pub fn default_task(mut self, default_task: &str) -> Self {
        self.options.override_key("default_task", default_task);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; `Config` for a sparse encoder and for options that do not fit the model;
    /// `Unsupported` or `Model` when the files are unusable.
    pub fn load(self) -> Result<SentenceTransformer> {
        let described = self.options.describe()?;
        let mut config = described.config.bi_encoder()?;
        if config.static_embedding.is_some() {
            let name = config.transformer.name();
            let message = format!("model `{name}` is a static embedding, without a transformer");
            return Err(Error::new(ErrorKind::Config, message).hint("load it as `StaticModel`"));
        }
        if self.pooling.is_empty() {
            config.require_pooling()?;
        } else {
            config = config.with_pooling(self.pooling)?;
        }
        let stated = described.tokenizer.model_max_length();
        let max_seq_length = TextInput::max_tokens(
            &config.config,
            &described.tokenizer,
            self.max_seq_length,
            stated,
            false,
        )?;
        let model = described.load()?;
        let modules = described.load_modules(&config)?;
        let truncate_dim = self.truncate_dim.or(config.truncate_dim);
        let tokenizer = described.tokenizer;
        Ok(SentenceTransformer { config, tokenizer, model, modules, max_seq_length, truncate_dim })
    }
}

/// Options of [`SentenceTransformer::encode_with`], under the names of sentence-transformers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbedOptions {
    /// The prompt before each text; takes precedence over `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; by default the model's default prompt.
    pub prompt_name: Option<String>,
    /// Whether to scale vectors to unit length after truncation. Otherwise, they stay as the model's modules return
    /// them.
    pub normalize_embeddings: bool,
    /// The dimension to truncate to, capped at the model's; by default the model's own.
    pub truncate_dim: Option<usize>,
    /// The token budget of one forward pass; by default, it fits the device and its memory.
    pub max_batch_tokens: Option<usize>,
}

impl EmbedOptions {
    /// Sets the prompt before each text.
    #[must_use]
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Selects one of the model's prompts by name.
    #[must_use]
    pub fn prompt_name(mut self, prompt_name: impl Into<String>) -> Self {
        self.prompt_name = Some(prompt_name.into());
        self
    }

    /// Sets whether to scale vectors to unit length.
    #[must_use]
    pub fn normalize_embeddings(mut self, normalize_embeddings: bool) -> Self {
        self.normalize_embeddings = normalize_embeddings;
        self
    }

    /// Sets the dimension to truncate to.
    #[must_use]
    pub fn truncate_dim(mut self, truncate_dim: usize) -> Self {
        self.truncate_dim = Some(truncate_dim);
        self
    }

    /// Sets the token budget of one forward pass; a longer text gets its own pass.
    #[must_use]
    pub fn max_batch_tokens(mut self, max_batch_tokens: usize) -> Self {
        self.max_batch_tokens = Some(max_batch_tokens);
        self
    }
}

impl SentenceTransformer {
    /// Loads a hub id or a directory, in f32 on the CPU.
    ///
    /// # Errors
    /// As [`SentenceTransformerBuilder::load`].
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// Starts a builder with options.
    pub fn builder(id: impl Into<String>) -> SentenceTransformerBuilder {
        SentenceTransformerBuilder {
            options: LoadOptions::new(id),
            pooling: Vec::new(),
            max_seq_length: None,
            truncate_dim: None,
        }
    }

    /// One vector per text, in input order, with the model's default prompt.
    ///
    /// # Shapes
    /// [`embedding_dimension`](Self::embedding_dimension) elements each.
    ///
    /// # Errors
    /// As [`encode_with`](Self::encode_with).
    pub fn encode<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.encode_with(texts, &EmbedOptions::default())
    }

    /// Like [`encode`](Self::encode), with options. Texts longer than the maximum are truncated.
    ///
    /// # Shapes
    /// `truncate_dim` elements each, but at most the model's dimension.
    ///
    /// # Errors
    /// `Config` for an unknown prompt name or a `truncate_dim` of 0; `Data` for a text with a token that the model has
    /// no embedding for; `Model` when the model computes NaN or infinity; `Internal` when a tensor operation fails.
    pub fn encode_with<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Vec<f32>>> {
        let name = options.prompt_name.as_deref();
        let prompt = self.config.prompt_text(options.prompt.as_deref(), name)?;
        let embedding = self.embedding(&prompt, options)?;
        let input = self.input();
        let encode = |(number, text): (usize, &T)| {
            let text = text.as_ref();
            let encoding = match prompt.as_str() {
                "" => self.tokenizer.encode(text, &input.options()),
                prompt => self.tokenizer.encode(&format!("{prompt}{text}"), &input.options()),
            };
            encoding
                .and_then(|encoding| {
                    input.check_tokens(&encoding.input_ids, &encoding.token_type_ids)?;
                    Ok(encoding)
                })
                .map_err(|e| e.at(format!("text {number}")))
        };
        let encodings: Vec<Result<_>> = texts.par_iter().enumerate().map(encode).collect();
        let encodings = encodings.into_iter().collect::<Result<Vec<_>>>()?;

        let lengths: Vec<usize> = encodings.iter().map(|e| e.input_ids.len()).collect();
        let device = self.model.device();
        let budget = options.max_batch_tokens.unwrap_or_else(|| {
            let dimensions = self.config.config.dimensions();
            batch_tokens(Some(dimensions), std::slice::from_ref(device), false)
        });
        in_batches(&lengths, budget, workers(device), |rows| {
            let rows = rows.iter().map(|&row| {
                let encoding = &encodings[row];
                (encoding.input_ids.as_slice(), encoding.token_type_ids.as_slice())
            });
            let vectors = embedding.forward(&self.model, &self.modules, rows)?;
            let values = to_host(&vectors)
                .map_err(|e| Error::new(ErrorKind::Internal, "cannot read embeddings").source(e))?;
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(not_finite(*value));
            }
            Ok(values.chunks_exact(embedding.dimensions).map(<[f32]>::to_vec).collect())
        })
    }

    /// The directory's configuration.
    pub fn config(&self) -> &SentenceTransformerConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// The underlying transformer.
    pub fn model(&self) -> &AutoModel {
        &self.model
    }

    /// The maximum number of tokens per text, including special tokens; longer texts are truncated. `usize::MAX` if
    /// neither the directory nor the model sets a maximum.
    pub fn max_seq_length(&self) -> usize {
        self.max_seq_length
    }

    /// The dimension of embeddings, unless a call sets `truncate_dim`.
    pub fn embedding_dimension(&self) -> usize {
        let full = self.config.embedding_dimension();
        self.truncate_dim.map_or(full, |dimensions| dimensions.min(full))
    }

    fn embedding(&self, prompt: &str, options: &EmbedOptions) -> Result<Embedding> {
        let full = self.config.embedding_dimension();
        let dimensions = match options.truncate_dim {
            Some(dimensions) => dimensions.min(full),
            None => self.embedding_dimension(),
        };
        if dimensions == 0 {
            let message = "`truncate_dim` is 0, expected at least 1";
            return Err(Error::new(ErrorKind::Config, message));
        }
        let prompt_tokens = if self.config.include_prompt() || prompt.is_empty() {
            0
        } else {
            prompt_tokens(prompt, &self.tokenizer, self.max_seq_length)?
        };
        // Unit vectors that are not truncated stay unchanged.
        let is_unit = dimensions == full && self.config.modules.last() == Some(&Module::Normalize);
        let normalize = options.normalize_embeddings && !is_unit;
        Ok(Embedding { prompt_tokens, dimensions, normalize })
    }

    fn input(&self) -> TextInput<'_> {
        TextInput {
            name: self.model.name(),
            config: &self.config.config,
            tokenizer: &self.tokenizer,
            max_length: self.max_seq_length,
            truncation: true,
        }
    }
}
