//! `SentenceTransformer`: texts to vectors.

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
/// A model without files of sentence-transformers gets mean pooling, as there. All methods take `&self` and may be called
/// from several threads; they block.
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

    /// Pools otherwise than the directory says; several modes are concatenated.
    #[must_use]
    pub fn pooling(mut self, modes: impl IntoIterator<Item = PoolingMode>) -> Self {
        self.pooling = modes.into_iter().collect();
        self
    }

    /// Tokens of a text at most, special tokens included; longer texts are cut. Without it, what the directory says.
    #[must_use]
    pub fn max_seq_length(mut self, max_seq_length: usize) -> Self {
        self.max_seq_length = Some(max_seq_length);
        self
    }

    /// The dimensions that embeddings are truncated to, unless a call says otherwise.
    #[must_use]
    pub fn truncate_dim(mut self, truncate_dim: usize) -> Self {
        self.truncate_dim = Some(truncate_dim);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// `Hub` when the files cannot be had; `Config` for a sparse encoder and for options that do not fit the model;
    /// `Unsupported` or `Model` when the files cannot be used.
    pub fn load(self) -> Result<SentenceTransformer> {
        let described = self.options.describe()?;
        let mut config = described.config.bi_encoder()?;
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
    /// The text before each text; comes before `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; without it, the model's default prompt.
    pub prompt_name: Option<String>,
    /// Whether vectors are scaled to unit length after the cut. Without it, they are as the model's modules leave them.
    pub normalize_embeddings: bool,
    /// Dimensions of a vector that are kept; more than the model has keeps all. Without it, the model's own.
    pub truncate_dim: Option<usize>,
    /// Tokens of one forward pass. Without it, as many as suit the device and its memory.
    pub max_batch_tokens: Option<usize>,
}

impl EmbedOptions {
    /// Puts `prompt` before each text.
    #[must_use]
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Puts the model's prompt of this name before each text.
    #[must_use]
    pub fn prompt_name(mut self, prompt_name: impl Into<String>) -> Self {
        self.prompt_name = Some(prompt_name.into());
        self
    }

    /// Scales vectors to unit length.
    #[must_use]
    pub fn normalize_embeddings(mut self, normalize_embeddings: bool) -> Self {
        self.normalize_embeddings = normalize_embeddings;
        self
    }

    /// Keeps so many dimensions.
    #[must_use]
    pub fn truncate_dim(mut self, truncate_dim: usize) -> Self {
        self.truncate_dim = Some(truncate_dim);
        self
    }

    /// Limits the tokens of one forward pass; a longer text has one of its own.
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

    /// The same with options.
    pub fn builder(id: impl Into<String>) -> SentenceTransformerBuilder {
        SentenceTransformerBuilder {
            options: LoadOptions::new(id),
            pooling: Vec::new(),
            max_seq_length: None,
            truncate_dim: None,
        }
    }

    /// One vector for each text, in their order, with the model's default prompt.
    ///
    /// # Shapes
    /// [`embedding_dimension`](Self::embedding_dimension) numbers each.
    ///
    /// # Errors
    /// As [`encode_with`](Self::encode_with).
    pub fn encode<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.encode_with(texts, &EmbedOptions::default())
    }

    /// The same with options. Texts longer than the model takes are cut.
    ///
    /// # Shapes
    /// `truncate_dim` numbers each, or as many as the model has where they are fewer.
    ///
    /// # Errors
    /// `Config` for a prompt that the model does not have or a `truncate_dim` of 0; `Data` for a text whose tokens the
    /// model has no embeddings for; `Model` when the model computes what is not a number; `Internal` when a tensor
    /// operation fails.
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

    /// The description of the directory.
    pub fn config(&self) -> &SentenceTransformerConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// The transformer under the modules.
    pub fn model(&self) -> &AutoModel {
        &self.model
    }

    /// Tokens of a text at most, special tokens included; longer texts are cut. `usize::MAX` where neither the
    /// directory nor the model states a maximum.
    pub fn max_seq_length(&self) -> usize {
        self.max_seq_length
    }

    /// The numbers of a vector, where a call has no `truncate_dim` of its own.
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
        // Vectors of unit length that are not cut stay as they are.
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
