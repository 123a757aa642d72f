//! `MultiVectorEncoder`: from texts to one vector per token, and MaxSim scores of them (ColBERT).
//!
//! # Source
//! `multi_vector_encoder/model.py` of sentence-transformers at v6.2.

use rayon::prelude::*;

use super::similarity::max_sim;
use super::workers;
use crate::auto::{
    AutoModel, AutoTokenizer, Encoding, Head, LoadOptions, MultiVector, SentenceTransformerConfig,
    Side, TextInput, TextRole,
};
use crate::batch::in_batches;
use crate::error::{Error, ErrorKind, Result, RowErrorKind, forward_failed};
use crate::memory::batch_tokens;
use crate::models::Want;
use crate::nn::{not_finite, to_host};

/// A text as a row of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleRow {
    /// Its tokens, with those that expand a query.
    pub encoding: Encoding,
    /// The number of leading tokens that are attended to.
    pub attended: usize,
}

/// The vectors of a text, one per token that counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenVectors {
    /// `(tokens, dimensions)`, flat.
    pub values: Vec<f32>,
    /// The number of tokens.
    pub tokens: usize,
}

/// How texts of one role become rows, and which of their tokens count.
#[derive(Clone, Debug)]
pub struct RoleEncoder {
    role: TextRole,
    prompt: String,
    max_length: usize,
    /// The token that expands queries, the length that they get, and whether others attend to it.
    expansion: Option<(u32, usize, bool)>,
    /// Tokens without a vector.
    skipped: Vec<u32>,
    /// The only tokens with a vector, unless empty.
    kept: Vec<u32>,
}

impl RoleEncoder {
    /// Resolves a role for a directory; `max_length` replaces the length that its files give.
    ///
    /// # Errors
    /// `Config` for a directory of another kind, and for a `max_length` that does not suit it; `Unsupported` for a
    /// tokenizer that pads on the left where queries are expanded; `Model` without a token to expand with.
    pub fn new(
        directory: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        role: TextRole,
        max_length: Option<usize>,
    ) -> Result<Self> {
        let Some(settings) = &directory.multi_vector else {
            let name = directory.transformer.name();
            return Err(Error::new(
                ErrorKind::Config,
                format!("model `{name}` does not compute several vectors per text"),
            ));
        };
        let expansion = match role {
            TextRole::Query => expansion(settings, tokenizer)?,
            TextRole::Document => None,
        };
        let own = match (role, &settings.query_expansion) {
            (TextRole::Query, Some(expansion)) if expansion.is_fixed => Some(expansion.length),
            (TextRole::Query, Some(expansion)) => {
                settings.query_length.map(|length| length.max(expansion.length))
            }
            (TextRole::Query, None) => settings.query_length,
            (TextRole::Document, _) => settings.document_length,
        };
        if let (Some(asked), Some((_, length, _))) = (max_length, expansion)
            && asked != length
        {
            let message = format!("queries of this model have {length} tokens, not {asked}");
            return Err(Error::new(ErrorKind::Config, message).hint("leave `max_length` out"));
        }
        let stated = own.or_else(|| tokenizer.model_max_length());
        let config = &directory.config;
        let max_length = TextInput::max_tokens(config, tokenizer, max_length, stated, false)?;
        if let Some((_, length, _)) = expansion.filter(|(_, length, _)| *length > max_length) {
            let message =
                format!("queries of {length} tokens, but the model has {max_length} positions");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let mut skipped = Vec::new();
        if settings.skips(role) {
            // A word that is no token of its own must not hide all unknown ones.
            skipped.extend(settings.skiplist_words.iter().filter_map(|w| tokenizer.token_to_id(w)));
        }
        let kept = match role {
            TextRole::Query => Vec::new(),
            TextRole::Document => settings.keep_only_token_ids.clone(),
        };
        let prompt = directory.prompts.iter().find(|(name, _)| name == role.name());
        let prompt = prompt.map(|(_, prompt)| prompt.clone()).unwrap_or_default();
        Ok(Self { role, prompt, max_length, expansion, skipped, kept })
    }

    /// The role.
    pub fn role(&self) -> TextRole {
        self.role
    }

    /// The text before each text.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The maximum number of tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The row of a text; `input` has the maximum of this role.
    ///
    /// # Errors
    /// As [`TextInput::row`]; `Data` for a query without a token to attend to.
    pub fn encode(&self, input: &TextInput<'_>, text: &str) -> Result<RoleRow> {
        let mut encoding = match self.prompt.as_str() {
            "" => input.row(&[text])?,
            prompt => input.row(&[&format!("{prompt}{text}")])?,
        };
        let mut attended = encoding.input_ids.len();
        if attended == 0 {
            return Err(Error::of_row(RowErrorKind::Empty, "a text without a token"));
        }
        if let Some((token, length, attend)) = self.expansion
            && attended < length
        {
            encoding.input_ids.resize(length, token);
            if !encoding.token_type_ids.is_empty() {
                encoding.token_type_ids.resize(length, 0);
            }
            attended = if attend { length } else { attended };
        }
        Ok(RoleRow { encoding, attended })
    }

    /// Whether a token of a row counts.
    pub fn counts(&self, id: u32) -> bool {
        !self.skipped.contains(&id) && (self.kept.is_empty() || self.kept.contains(&id))
    }
}

/// The token that expands queries, the length that they get, and whether others attend to it.
fn expansion(
    settings: &MultiVector,
    tokenizer: &AutoTokenizer,
) -> Result<Option<(u32, usize, bool)>> {
    let Some(expansion) = &settings.query_expansion else { return Ok(None) };
    if tokenizer.padding_side() == Side::Left {
        let message = "queries that are expanded on the left (`padding_side`) are not implemented";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let id = match &expansion.token {
        Some(token) => tokenizer.token_to_id(token),
        None => tokenizer.mask_token_id().or_else(|| tokenizer.eos_token_id()),
    };
    let id = id.ok_or_else(|| {
        let token = expansion.token.as_deref().unwrap_or("mask_token");
        let message = format!("queries are expanded with `{token}`, which the tokenizer lacks");
        Error::new(ErrorKind::Model, message)
    })?;
    Ok(Some((id, expansion.length, expansion.attend)))
}

/// A row for [`token_vectors`]: `(input_ids, token_type_ids)`, how many of its tokens are attended to, and the role that it was
/// encoded for.
pub type RowOfRole<'a> = ((&'a [u32], &'a [u32]), usize, &'a RoleEncoder);

/// Computes the vectors of rows in one forward pass.
///
/// # Errors
/// `Internal` when a tensor operation fails; `Model` when the model computes NaN or infinity.
pub fn token_vectors(
    model: &AutoModel,
    head: &Head,
    rows: &[RowOfRole<'_>],
) -> Result<Vec<TokenVectors>> {
    let attended = rows.iter().map(|(_, attended, _)| *attended).collect();
    let vectors = model
        .inputs(rows.iter().map(|(row, ..)| *row))
        .and_then(|inputs| inputs.with_attended(attended))
        .and_then(|inputs| model.backbone().forward(&inputs, &Want::default()))
        .and_then(|output| head.forward_tokens(&output.last_hidden_state))
        .map_err(forward_failed)?;
    let dimensions = vectors.values.dim(1).map_err(forward_failed)?;
    let values = to_host(&vectors.values).map_err(forward_failed)?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(not_finite(*value));
    }
    let vectors = rows.iter().zip(vectors.lengths.ranges()).map(|(((ids, _), _, role), range)| {
        let mut kept = TokenVectors::default();
        for (token, id) in range.zip(*ids) {
            if role.counts(*id) {
                kept.tokens += 1;
                kept.values.extend(&values[token * dimensions..][..dimensions]);
            }
        }
        kept
    });
    Ok(vectors.collect())
}

/// A loaded multi-vector encoder, as `MultiVectorEncoder` of sentence-transformers; PyLate's and Stanford's checkpoints
/// too.
///
/// All methods take `&self` and may be called from several threads; they block.
///
/// # Example
/// ```
/// use hfauto::sentence_transformers::MultiVectorEncoder;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "lightonai/GTE-ModernColBERT-v1".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/multi-vector/pylate");
/// let model = MultiVectorEncoder::from_pretrained(id)?;
///
/// let queries = model.encode_query(&["Where is the harbour?"])?;
/// let documents = model.encode_document(&["By the sea.", "The film is slow."])?;
/// assert_eq!(queries[0][0].len(), model.embedding_dimension());
/// assert!(model.similarity(&queries[0], &documents[0]).is_finite());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MultiVectorEncoder {
    config: SentenceTransformerConfig,
    tokenizer: AutoTokenizer,
    model: AutoModel,
    head: Head,
    query: RoleEncoder,
    document: RoleEncoder,
}

impl MultiVectorEncoder {
    /// Loads a hub id or a directory, in f32 on the CPU.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; as [`RoleEncoder::new`]; `Unsupported` or `Model` when the files are unusable.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        let described = LoadOptions::new(id).describe()?;
        let role = |role| RoleEncoder::new(&described.config, &described.tokenizer, role, None);
        let (query, document) = (role(TextRole::Query)?, role(TextRole::Document)?);
        let model = described.load()?;
        let head = described.load_modules(&described.config)?;
        let (config, tokenizer) = (described.config, described.tokenizer);
        Ok(Self { config, tokenizer, model, head, query, document })
    }

    /// The vectors of queries, one list per text in input order.
    ///
    /// # Errors
    /// `Data` for a text that the model cannot read; `Model` when the model computes NaN or infinity; `Internal` when a
    /// tensor operation fails.
    pub fn encode_query<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.encode(&self.query, texts)
    }

    /// The vectors of documents, one list per text in input order.
    ///
    /// # Errors
    /// As [`encode_query`](Self::encode_query).
    pub fn encode_document<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.encode(&self.document, texts)
    }

    fn encode<T: AsRef<str> + Sync>(
        &self,
        role: &RoleEncoder,
        texts: &[T],
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let input = TextInput {
            name: self.model.name(),
            config: &self.config.config,
            tokenizer: &self.tokenizer,
            max_length: role.max_length(),
            truncation: true,
        };
        let encode = |(number, text): (usize, &T)| {
            role.encode(&input, text.as_ref()).map_err(|e| e.at(format!("text {number}")))
        };
        let rows: Vec<Result<RoleRow>> = texts.par_iter().enumerate().map(encode).collect();
        let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = rows.iter().map(|row| row.encoding.input_ids.len()).collect();
        let device = self.model.device();
        let dimensions = self.config.config.dimensions();
        let budget = batch_tokens(Some(dimensions), std::slice::from_ref(device), false);
        let width = self.embedding_dimension();
        in_batches(&lengths, budget, workers(device), |batch| {
            let rows = batch.iter().map(|&row| {
                let RoleRow { encoding, attended } = &rows[row];
                (input.inputs(encoding), *attended, role)
            });
            let vectors = token_vectors(&self.model, &self.head, &rows.collect::<Vec<_>>())?;
            let rows = vectors
                .into_iter()
                .map(|row| row.values.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect());
            Ok(rows.collect())
        })
    }

    /// The MaxSim score of a query's vectors and a document's; the mean over the query's tokens, if the directory says so.
    ///
    /// # Panics
    /// When the vectors differ in length.
    pub fn similarity(&self, query: &[Vec<f32>], document: &[Vec<f32>]) -> f32 {
        let is_mean = self.config.multi_vector.as_ref().is_some_and(|settings| settings.is_mean);
        let width = self.embedding_dimension();
        max_sim(&query.concat(), &document.concat(), width, is_mean)
    }

    /// The width of the vectors.
    pub fn embedding_dimension(&self) -> usize {
        self.config.embedding_dimension()
    }
}
