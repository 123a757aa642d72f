//! Static embeddings: directories of sentence-transformers' StaticEmbedding and of model2vec. A text's vector is the mean
//! of the rows of its tokens, so that no transformer runs. Not here: the table itself ([`EmbeddingBag`]).
//!
//! The two libraries differ: model2vec drops unknown tokens, and cuts texts by characters before it tokenizes them. A
//! directory whose `config.json` has the `model_type` of model2vec follows model2vec, and any other sentence-transformers.
//!
//! # Source
//! `sentence_transformer/modules/static_embedding.py` of sentence-transformers at v6.2; `model.py` and
//! `persistence/persistence.py` of model2vec at v0.10.

use candle_core::{DType, Device};
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::auto::config::AutoConfig;
use crate::auto::family::Family;
use crate::auto::tokenizer::{AutoTokenizer, EncodeOptions};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::hub::{Snapshot, Weights, read_file};
use crate::limits;
use crate::models::Dimensions;
use crate::nn::{EmbeddingBag, PositionIds, TableNumbers};

/// `model_type` of model2vec's `config.json`.
const MODEL2VEC: &str = "model2vec";

/// The tensor of sentence-transformers, and that of model2vec with its two companions.
const WEIGHT: &str = "embedding.weight";
const EMBEDDINGS: &str = "embeddings";
const MAPPING: &str = "mapping";
const TOKEN_WEIGHTS: &str = "weights";

/// `DEFAULT_MAX_LENGTH` of model2vec.
const MAX_LENGTH: usize = 512;

/// Rows that are read at once, so that no second copy of a table is in memory.
const ROWS_AT_ONCE: usize = 4096;

/// The family of a table of embeddings. It is not in the table of families: transformers has no such model.
static FAMILY: Family = Family {
    model_type: "static-embedding",
    other_model_types: &[],
    remote_config: None,
    text_config: None,
    remote_module: None,
    architecture: "StaticEmbedding",
    base_model_prefix: "",
    attribute_map: &[],
    int8: false,
    tie_word_embeddings: |_| Ok(false),
    tokenizer_class: None,
    tokenizer_class_is_fixed: false,
    pads_texts: false,
    image_processor_type: None,
    special_token_ids: &[],
    auto_model_for_t5: false,
    dimensions: |_| Err(no_transformer()),
    auto_model: |_, _| Err(no_transformer()),
    heads: &[],
    keys_to_ignore_on_load_unexpected: &[],
};

fn no_transformer() -> Error {
    Error::new(ErrorKind::Unsupported, "a static embedding has no transformer")
        .hint("it computes one vector per text: use `feature-extraction`")
}

/// A table of embeddings, described by the header of its file.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticEmbedding {
    /// The number of tokens with a row.
    pub tokens: usize,
    /// The width of a row.
    pub dimensions: usize,
    /// The rules of model2vec, if the directory follows them.
    pub(super) model2vec: Option<Model2Vec>,
    /// The size of the table in memory, in bytes.
    pub bytes: usize,
    tensor: &'static str,
    has_mapping: bool,
    has_weights: bool,
}

/// The settings of model2vec's `config.json` that its `encode` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model2Vec {
    pub(super) normalize: bool,
    max_length: Option<usize>,
}

impl Model2Vec {
    /// The settings in `config.json`, if it is model2vec's.
    fn read(snapshot: &Snapshot) -> Result<Option<Self>> {
        let Some(Value::Object(json)) = snapshot.json("config.json")? else { return Ok(None) };
        if json.get("model_type").is_none_or(|model_type| model_type != MODEL2VEC) {
            return Ok(None);
        }
        let wrong = |key: &str, value: &Value| {
            let message = format!("`{key}` in config.json of model2vec is `{value}`");
            Error::new(ErrorKind::Model, message)
        };
        let normalize = match json.get("normalize") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(normalize)) => *normalize,
            Some(value) => return Err(wrong("normalize", value)),
        };
        let max_length = match json.get("max_length") {
            None => Some(MAX_LENGTH),
            Some(Value::Null) => None,
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(tokens) if tokens > 0 => Some(tokens),
                _ => return Err(wrong("max_length", value)),
            },
        };
        Ok(Some(Self { normalize, max_length }))
    }
}

/// Whether a directory without `modules.json` is one of model2vec.
pub(super) fn is_model2vec(snapshot: &Snapshot) -> Result<bool> {
    Ok(Model2Vec::read(snapshot)?.is_some())
}

impl StaticEmbedding {
    /// Reads the header of the weights in `folder`.
    ///
    /// # Errors
    /// `Model` for missing weights, or tensors that contradict each other.
    pub(super) fn read(folder: &Snapshot) -> Result<Self> {
        let model2vec = Model2Vec::read(folder)?;
        let weights = Weights::open(&folder.weight_files()?)?;
        // Like the libraries: sentence-transformers prefers its own name, model2vec knows only its own.
        let names: &[&'static str] =
            if model2vec.is_some() { &[EMBEDDINGS] } else { &[WEIGHT, EMBEDDINGS] };
        let tensor = names.iter().copied().find(|name| weights.shape(name).is_some());
        let tensor = tensor.ok_or_else(|| {
            let names = names.join("` or `");
            Error::new(ErrorKind::Model, format!("the weights have no tensor `{names}`"))
        })?;
        let (rows, dimensions) = match *weights.shape(tensor).unwrap_or_default() {
            [rows, dimensions] if dimensions > 0 => (rows, dimensions),
            ref shape => {
                let message =
                    format!("`{tensor}` has the shape {shape:?}, expected two dimensions");
                return Err(Error::new(ErrorKind::Model, message));
            }
        };
        if dimensions > limits::MODEL_SIZE {
            let most = limits::MODEL_SIZE;
            let message = format!("`{tensor}` has rows of {dimensions}, expected at most {most}");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let dtype = weights.dtype(tensor);
        if dtype.is_some_and(|dtype| !dtype.is_float() || dtype == DType::F8E4M3) {
            let message = format!("`{tensor}` is {dtype:?}, expected floating point or int8");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if dtype.is_none() && model2vec.is_none() {
            let message = format!("`{tensor}` is not floating point, which `EmbeddingBag` needs");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("int8 tables are model2vec's: they have a config.json"));
        }
        let vector = |name: &str| match weights.shape(name).filter(|_| tensor == EMBEDDINGS) {
            None => Ok(None),
            Some([length]) => Ok(Some(*length)),
            Some(shape) => {
                let message = format!("`{name}` has the shape {shape:?}, expected one dimension");
                Err(Error::new(ErrorKind::Model, message))
            }
        };
        let (mapping, factors) = (vector(MAPPING)?, vector(TOKEN_WEIGHTS)?);
        let tokens = mapping.unwrap_or(rows);
        if let Some(factors) = factors.filter(|factors| *factors != tokens) {
            let message = format!("`{TOKEN_WEIGHTS}` has {factors} numbers for {tokens} tokens");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let number = match dtype {
            None => 1,
            Some(DType::F16 | DType::BF16) => 2,
            Some(_) => 4,
        };
        let bytes = rows * dimensions * number + 4 * (mapping.unwrap_or(0) + factors.unwrap_or(0));
        let (has_mapping, has_weights) = (mapping.is_some(), factors.is_some());
        Ok(Self { tokens, dimensions, model2vec, bytes, tensor, has_mapping, has_weights })
    }

    /// The configuration that stands for the table.
    pub(super) fn config(&self) -> AutoConfig {
        config_of(self.tokens, self.dimensions)
    }

    /// The most tokens of a text, by the directory; the rest is cut.
    pub fn max_length(&self, tokenizer: &AutoTokenizer) -> Option<usize> {
        match &self.model2vec {
            Some(model2vec) => model2vec.max_length,
            None => tokenizer.model_max_length(),
        }
    }

    /// How texts become tokens, at most `max_length` of them; `truncation` cuts longer texts. `folder` has the tokenizer.
    ///
    /// # Errors
    /// `Model` for a tokenizer with another number of tokens than the table has.
    pub fn tokens(
        &self,
        folder: &Snapshot,
        tokenizer: &AutoTokenizer,
        max_length: Option<usize>,
        truncation: bool,
    ) -> Result<StaticTokens> {
        let (mut unknown, mut characters) = (None, None);
        if self.model2vec.is_some() {
            let lengths = tokenizer.token_lengths();
            if lengths.len() != self.tokens && !self.has_mapping {
                let (tokens, rows) = (lengths.len(), self.tokens);
                let message = format!("the tokenizer has {tokens} tokens, but the table {rows}");
                return Err(Error::new(ErrorKind::Model, message));
            }
            unknown = unknown_token(folder, tokenizer)?;
            characters = max_length.map(|tokens| tokens.saturating_mul(median(lengths)));
        }
        Ok(StaticTokens { unknown, characters, max_length, truncation })
    }

    /// Loads the table.
    ///
    /// # Errors
    /// `Model` when the weights cannot be read, or contradict each other.
    pub fn load(&self, folder: &Snapshot) -> Result<EmbeddingBag> {
        let weights = Weights::open(&folder.weight_files()?)?;
        let host = |name: &str, dtype: DType| weights.tensor(name, dtype, &Device::Cpu);
        let broken = |e: candle_core::Error| {
            Error::new(ErrorKind::Model, "cannot read the table of embeddings").source(e)
        };
        let mapping = if self.has_mapping {
            let rows = host(MAPPING, DType::I64)?.to_vec1::<i64>().map_err(broken)?;
            let rows = rows.into_iter().map(|row| {
                u32::try_from(row).map_err(|_| {
                    Error::new(ErrorKind::Model, format!("`{MAPPING}` names row {row}"))
                })
            });
            Some(rows.collect::<Result<Vec<u32>>>()?)
        } else {
            None
        };
        let factors = if self.has_weights {
            Some(host(TOKEN_WEIGHTS, DType::F32)?.to_vec1::<f32>().map_err(broken)?)
        } else {
            None
        };
        let numbers = self.numbers(&weights)?;
        EmbeddingBag::new(numbers, self.dimensions, mapping, factors)
            .map_err(|reason| Error::new(ErrorKind::Model, reason))
    }

    /// The numbers of the table, in its dtype; wider ones become f32.
    fn numbers(&self, weights: &Weights) -> Result<TableNumbers> {
        let name = self.tensor;
        Ok(match weights.dtype(name) {
            Some(DType::F16) => TableNumbers::F16(blocks(weights, name, f16::from_f32)?),
            Some(DType::BF16) => TableNumbers::BF16(blocks(weights, name, bf16::from_f32)?),
            Some(_) => TableNumbers::F32(blocks(weights, name, |x| x)?),
            None => TableNumbers::I8(blocks(weights, name, |x| x as i8)?),
        })
    }
}

/// The configuration that stands for a table of `tokens` rows of `width` numbers.
pub(super) fn config_of(tokens: usize, width: usize) -> AutoConfig {
    let dimensions = Dimensions {
        hidden_size: width,
        num_hidden_layers: 0,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: width,
        vocab_size: tokens,
        type_vocab_size: None,
        position_ids: PositionIds::FromZero,
        max_position_embeddings: None,
        extrapolates: false,
        image: None,
    };
    AutoConfig::of_family(&FAMILY, dimensions)
}

/// The numbers of a matrix, read by blocks of rows.
fn blocks<T>(weights: &Weights, name: &str, narrow: impl Fn(f32) -> T) -> Result<Vec<T>> {
    let strided = || {
        Error::new(ErrorKind::Unsupported, format!("tensor `{name}` is a view with strides"))
            .hint("save the model again")
    };
    let (rows, columns) = weights.rows(name).ok_or_else(strided)?;
    let mut numbers = Vec::with_capacity(rows * columns);
    let mut block = Vec::new();
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        block.clear();
        weights.read_rows(name, start..rows.min(start + ROWS_AT_ONCE), &mut block)?;
        numbers.extend(block.iter().map(|x| narrow(*x)));
    }
    Ok(numbers)
}

/// `int(np.median(lengths))`.
fn median(mut lengths: Vec<usize>) -> usize {
    lengths.sort_unstable();
    let middle = lengths.len() / 2;
    match (lengths.get(middle), lengths.len() % 2) {
        (None, _) => 0,
        (Some(length), 1) => *length,
        (Some(length), _) => lengths[middle - 1].midpoint(*length),
    }
}

/// The token for unknown words, by the model of tokenizer.json.
///
/// # Source
/// `_get_unk_token_id` of model2vec.
fn unknown_token(folder: &Snapshot, tokenizer: &AutoTokenizer) -> Result<Option<u32>> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        unk_token: Option<String>,
        unk_id: Option<u32>,
    }
    let Some(path) = folder.path("tokenizer.json") else { return Ok(None) };
    let bytes = read_file(&path, limits::TOKENIZER_FILE_BYTES)?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(ErrorKind::Model, "`tokenizer.json` has an unexpected token for unknown words")
            .source(e)
    })?;
    Ok(match file.model {
        Model { unk_token: Some(token), .. } => tokenizer.token_to_id(&token),
        Model { unk_id, .. } => unk_id,
    })
}

/// How texts become the tokens of a static embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticTokens {
    /// A token that is left out.
    unknown: Option<u32>,
    /// The characters that a text is cut to before it is tokenized.
    characters: Option<usize>,
    max_length: Option<usize>,
    truncation: bool,
}

impl StaticTokens {
    /// The tokens of a text, without special ones; and whether the text was cut.
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode`]; `Data` for a text that is too long, if texts are not cut.
    pub fn encode(&self, tokenizer: &AutoTokenizer, text: &str) -> Result<(Vec<u32>, bool)> {
        let max_length = self.max_length.filter(|_| self.truncation);
        let mut kept = text;
        if let Some(characters) = self.characters.filter(|_| self.truncation)
            && text.len() > characters
            && let Some((end, _)) = text.char_indices().nth(characters)
        {
            kept = &text[..end];
        }
        let options =
            EncodeOptions { max_length, add_special_tokens: false, ..EncodeOptions::default() };
        let encoding = tokenizer.encode(kept, &options)?;
        let mut ids = encoding.input_ids;
        if let Some(most) = self.max_length.filter(|most| ids.len() > *most) {
            let message = format!("text of {} tokens, expected at most {most}", ids.len());
            return Err(Error::of_row(RowErrorKind::TooLong, message)
                .hint("set `truncation: true` to truncate longer texts, or raise `max_length`"));
        }
        if let Some(unknown) = self.unknown {
            ids.retain(|id| *id != unknown);
        }
        Ok((ids, encoding.truncated || kept.len() < text.len()))
    }
}

/// Refuses overrides of `config.json`.
pub(super) fn refuse_overrides(overrides: &Map<String, Value>) -> Result<()> {
    let Some(key) = overrides.keys().next() else { return Ok(()) };
    let message = format!("`{key}` in the model's `config`: a static embedding has no settings");
    Err(Error::new(ErrorKind::Config, message)
        .hint("options of the step are `max_length`, `truncation`, `normalize` and `dimensions`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_cut_to_an_integer() {
        for (lengths, expected) in
            [(vec![], 0), (vec![5], 5), (vec![9, 1, 4], 4), (vec![4, 1, 9, 6], 5), (vec![3, 4], 3)]
        {
            assert_eq!(median(lengths), expected);
        }
    }
}
