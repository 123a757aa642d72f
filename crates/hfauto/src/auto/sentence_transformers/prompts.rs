//! The prompts of a sentence-transformers directory. Not here: which one a text gets
//! ([`SentenceTransformerConfig::prompt`](super::SentenceTransformerConfig::prompt)).

use serde_json::{Map, Value};

use super::MODEL_FILE;
use crate::error::{Error, ErrorKind, Result};

/// The prompts of `config_sentence_transformers.json` by name.
///
/// # Errors
/// `Model` if they are not texts by name.
pub(super) fn named_prompts(json: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let prompts = match json.get("prompts") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(prompts)) => prompts,
        Some(_) => {
            return Err(Error::new(
                ErrorKind::Model,
                format!("`prompts` in {MODEL_FILE} is not a map"),
            ));
        }
    };
    prompts
        .iter()
        .map(|(name, prompt)| match prompt {
            Value::String(prompt) => Ok((name.clone(), prompt.clone())),
            Value::Null => Ok((name.clone(), String::new())),
            _ => Err(Error::new(
                ErrorKind::Model,
                format!("prompt `{name}` in {MODEL_FILE} is not a string"),
            )),
        })
        .collect()
}
