//! `StaticModel`: from texts to vectors without a transformer. A row costs its tokens and the sum of their rows, so rows
//! are neither sorted nor batched.

use std::sync::Arc;

use rayon::prelude::*;

use crate::auto::{AutoTokenizer, LoadOptions, Module, SentenceTransformerConfig, StaticTokens};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::nn::{EmbeddingBag, normalize_in_place, not_finite};

/// Options of [`StaticEncoder::load`]; `None` stands for what the directory says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaticOptions {
    /// The most tokens of a text. With the rules of model2vec, it also bounds the characters that are tokenized.
    pub max_length: Option<usize>,
    /// Whether longer texts are an error instead of being cut.
    pub refuse_longer: bool,
    /// Whether vectors are scaled to unit length.
    pub normalize: Option<bool>,
    /// The dimensions to truncate to, at most the table's.
    pub truncate_dim: Option<usize>,
    /// Whether vectors are scaled to unit length after truncation.
    pub normalize_truncated: bool,
}

/// A loaded table, and the steps from the tokens of a text to its vector.
#[derive(Debug)]
pub struct StaticEncoder {
    table: Arc<EmbeddingBag>,
    tokens: StaticTokens,
    normalize: bool,
    dimensions: usize,
    normalize_truncated: bool,
}

/// What a text was, beside its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRow {
    /// The number of tokens that were averaged.
    pub tokens: usize,
    /// Whether the text was cut.
    pub truncated: bool,
}

impl StaticEncoder {
    /// Loads the table of a static embedding, whose files are in `config`.
    ///
    /// # Errors
    /// As [`table`](Self::table) and [`new`](Self::new).
    pub fn load(
        config: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        options: StaticOptions,
    ) -> Result<Self> {
        Self::check(config, tokenizer, options)?;
        Self::new(config, tokenizer, options, Arc::new(Self::table(config)?))
    }

    /// Loads the table alone, which encoders with other options can share.
    ///
    /// # Errors
    /// `Config` for a directory without a static embedding; `Model` when its files are damaged or contradict each other.
    pub fn table(config: &SentenceTransformerConfig) -> Result<EmbeddingBag> {
        match &config.static_embedding {
            Some(table) => table.load(&config.transformer),
            None => Err(not_static(config)),
        }
    }

    /// An encoder over a loaded table.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn new(
        config: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        options: StaticOptions,
        table: Arc<EmbeddingBag>,
    ) -> Result<Self> {
        let tokens = Self::check(config, tokenizer, options)?;
        let own = config.modules.contains(&Module::Normalize);
        let full = table.dimensions();
        Ok(Self {
            tokens,
            normalize: options.normalize.unwrap_or(own),
            dimensions: options.truncate_dim.map_or(full, |dimensions| dimensions.min(full)),
            normalize_truncated: options.normalize_truncated,
            table,
        })
    }

    /// How texts become tokens, without the weights.
    ///
    /// # Errors
    /// `Config` for a directory without a static embedding; `Unsupported` for modules other than Normalize after it;
    /// `Model` for a tokenizer with another number of tokens than the table has.
    pub fn check(
        config: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        options: StaticOptions,
    ) -> Result<StaticTokens> {
        let Some(table) = &config.static_embedding else { return Err(not_static(config)) };
        if config.modules.iter().any(|module| *module != Module::Normalize) {
            let message = "modules.json has other modules than Normalize after a StaticEmbedding";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let max_length = options.max_length.or_else(|| table.max_length(tokenizer));
        table.tokens(&config.transformer, tokenizer, max_length, !options.refuse_longer)
    }

    /// The width of the vectors.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The number of parameters, and their size in bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.table.tokens() * self.table.dimensions(), self.table.bytes())
    }

    /// The tokens of a text; and whether the text was cut.
    ///
    /// # Errors
    /// As [`StaticTokens::encode`].
    pub fn tokens(&self, tokenizer: &AutoTokenizer, text: &str) -> Result<(Vec<u32>, bool)> {
        self.tokens.encode(tokenizer, text)
    }

    /// Writes the vector of a text to `out`. `scratch` is memory that calls share.
    ///
    /// # Shapes
    /// `out`: `(dimensions)`.
    ///
    /// # Errors
    /// `Data` for a text that cannot be tokenized, is too long, or has a token without a row; `Model` when the vector is
    /// not finite.
    pub fn encode_into(
        &self,
        tokenizer: &AutoTokenizer,
        text: &str,
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<StaticRow> {
        let (ids, truncated) = self.tokens(tokenizer, text)?;
        self.mean_into(tokenizer, &ids, scratch, out)?;
        Ok(StaticRow { tokens: ids.len(), truncated })
    }

    /// Writes the vector of tokens to `out`; see [`encode_into`](Self::encode_into).
    ///
    /// # Errors
    /// As [`encode_into`](Self::encode_into).
    pub fn mean_into(
        &self,
        tokenizer: &AutoTokenizer,
        ids: &[u32],
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<()> {
        let full = self.table.dimensions();
        if self.dimensions == full {
            self.average(tokenizer, ids, out)?;
        } else {
            scratch.resize(full, 0.0);
            self.average(tokenizer, ids, scratch)?;
            out.copy_from_slice(&scratch[..self.dimensions]);
        }
        if self.normalize_truncated {
            normalize_in_place(out);
        }
        match out.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(not_finite(*x)),
            None => Ok(()),
        }
    }

    fn average(&self, tokenizer: &AutoTokenizer, ids: &[u32], out: &mut [f32]) -> Result<()> {
        self.table.mean(ids, out).map_err(|id| {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            let rows = self.table.tokens();
            let message =
                format!("the token `{token}` has the id {id}, but the table has {rows} rows");
            Error::of_row(RowErrorKind::Data, message)
                .hint("the tokenizer has tokens that the table was not made for")
        })?;
        if self.normalize {
            normalize_in_place(out);
        }
        Ok(())
    }
}

fn not_static(config: &SentenceTransformerConfig) -> Error {
    let name = config.transformer.name();
    Error::new(ErrorKind::Config, format!("model `{name}` is no static embedding"))
        .hint("load it as `SentenceTransformer`")
}

/// A loaded static embedding: a model of model2vec, or StaticEmbedding of sentence-transformers.
///
/// All methods take `&self` and may be called from several threads; they block.
///
/// # Example
/// ```
/// use hfauto::sentence_transformers::StaticModel;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "minishlab/potion-base-8M".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/static/model2vec");
/// let model = StaticModel::from_pretrained(id)?;
///
/// let embeddings = model.encode(&["The room was quiet.", ""])?;
/// assert_eq!(embeddings[0].len(), model.dimensions());
/// assert!(embeddings[1].iter().all(|x| *x == 0.0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StaticModel {
    encoder: StaticEncoder,
    tokenizer: AutoTokenizer,
    prompt: String,
}

impl StaticModel {
    /// Loads a hub id or a directory.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::load(id, StaticOptions::default())
    }

    /// Loads a hub id or a directory, with options.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; as [`StaticEncoder::load`].
    pub fn load(id: &str, options: StaticOptions) -> Result<Self> {
        let described = LoadOptions::new(id).describe()?;
        let (config, tokenizer) = (described.config, described.tokenizer);
        let truncate_dim = options.truncate_dim.or(config.truncate_dim);
        let options = StaticOptions { truncate_dim, ..options };
        let encoder = StaticEncoder::load(&config, &tokenizer, options)?;
        Ok(Self { encoder, tokenizer, prompt: config.prompt_text(None, None)? })
    }

    /// One vector per text, in input order, with the model's default prompt. Runs on the current rayon pool.
    ///
    /// # Errors
    /// The first error of [`StaticEncoder::encode_into`].
    pub fn encode<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        let encode = |scratch: &mut Vec<f32>, (number, text): (usize, &T)| {
            let mut vector = vec![0.0; self.encoder.dimensions()];
            let text = format!("{}{}", self.prompt, text.as_ref());
            self.encoder
                .encode_into(&self.tokenizer, &text, scratch, &mut vector)
                .map_err(|e| e.at(format!("text {number}")))?;
            Ok(vector)
        };
        let vectors: Vec<Result<_>> =
            texts.par_iter().enumerate().map_init(Vec::new, encode).collect();
        vectors.into_iter().collect()
    }

    /// The width of the vectors.
    pub fn dimensions(&self) -> usize {
        self.encoder.dimensions()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }
}
