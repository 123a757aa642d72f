//! Sparse encoders without a transformer: the weight of each token of a text, whatever its place. Not here: the sparse
//! vectors of a language model (`modules`).
//!
//! # Source
//! `sparse_encoder/modules/sparse_static_embedding.py` of sentence-transformers at v6.2.

use std::path::{Component, Path};

use candle_core::{DType, Device};
use serde_json::Value;

use super::keys::{self, File};
use super::{object, static_embedding};
use crate::auto::config::AutoConfig;
use crate::auto::tokenizer::{AutoTokenizer, EncodeOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Snapshot, Weights};

/// The tensor of the weights.
const WEIGHT: &str = "weight";

/// A SparseStaticEmbedding module, without its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseStatic {
    /// A JSON file of weights by token, in place of a tensor.
    path: Option<String>,
}

impl SparseStatic {
    /// Reads the module's file in its folder.
    pub(super) fn read(folder: &Snapshot) -> Result<Self> {
        let json = object(folder, "config.json")?.unwrap_or_default();
        let place = "`config.json` of SparseStaticEmbedding";
        keys::check(File::SparseStaticEmbedding, &json, place)?;
        let path = match json.get("path") {
            None | Some(Value::Null) => None,
            Some(Value::String(path)) if path.ends_with(".json") => Some(path.clone()),
            // sentence-transformers ignores a path to any other file.
            Some(Value::String(_)) => None,
            Some(value) => {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("`path` in {place} is `{value}`"),
                ));
            }
        };
        Ok(Self { path })
    }

    /// The configuration that stands for the table, whose size is known with the weights.
    pub(super) fn config() -> AutoConfig {
        static_embedding::config_of(u32::MAX as usize, 1)
    }

    /// The weight of each token.
    ///
    /// # Errors
    /// `Model` for missing or damaged weights.
    pub fn load(&self, folder: &Snapshot, tokenizer: &AutoTokenizer) -> Result<Vec<f32>> {
        let tokens = tokenizer.total_vocab_size();
        let weights = if let Some(path) = &self.path {
            weights_of_words(folder, tokenizer, path)?
        } else {
            let weights = Weights::open(&folder.weight_files()?)?;
            let broken = |e: candle_core::Error| {
                let message = format!("`{WEIGHT}` is not a list of numbers");
                Error::new(ErrorKind::Model, message).source(e)
            };
            weights.tensor(WEIGHT, DType::F32, &Device::Cpu)?.to_vec1().map_err(broken)?
        };
        if weights.len() != tokens {
            let found = weights.len();
            let message = format!("{found} weights for the {tokens} tokens of the tokenizer");
            return Err(Error::new(ErrorKind::Model, message));
        }
        Ok(weights)
    }

    /// The tokens of a text without special ones, each once and sorted; and whether the text was cut to `max_length`.
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode`].
    pub fn encode(
        tokenizer: &AutoTokenizer,
        text: &str,
        max_length: Option<usize>,
    ) -> Result<(Vec<u32>, bool)> {
        let options =
            EncodeOptions { max_length, add_special_tokens: false, ..EncodeOptions::default() };
        let encoding = tokenizer.encode(text, &options)?;
        let mut ids = encoding.input_ids;
        ids.sort_unstable();
        ids.dedup();
        Ok((ids, encoding.truncated))
    }
}

/// The weight of each token, from a JSON file of weights by token; 0 for tokens that it does not have.
fn weights_of_words(folder: &Snapshot, tokenizer: &AutoTokenizer, path: &str) -> Result<Vec<f32>> {
    let is_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let json = if is_inside { folder.json(path)? } else { None };
    let Some(Value::Object(by_token)) = json else {
        let message = format!("`{path}` is missing, or is not a map of tokens to weights");
        return Err(Error::new(ErrorKind::Model, message));
    };
    let mut weights = vec![0.0; tokenizer.total_vocab_size()];
    for (token, weight) in &by_token {
        // Like transformers, an unknown token counts for the token of unknown words.
        let id = tokenizer.token_to_id(token).or_else(|| tokenizer.unk_token_id());
        let place = id.and_then(|id| weights.get_mut(id as usize));
        let Some((place, weight)) = place.zip(weight.as_f64()) else {
            let message = format!("`{path}`: `{token}` has the weight `{weight}`");
            return Err(Error::new(ErrorKind::Model, message));
        };
        *place = weight as f32;
    }
    Ok(weights)
}
