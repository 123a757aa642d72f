//! The files of a tokenizer, each read once and hashed.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Snapshot, read_file};
use crate::limits;

/// Every file that a tokenizer may be read from, so that errors can list the files that exist.
const KNOWN: &[&str] = &[
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
];

/// Reads a snapshot's files and updates a digest of them.
pub(super) struct TokenizerFiles<'a> {
    snapshot: &'a Snapshot,
    hasher: blake3::Hasher,
}

impl<'a> TokenizerFiles<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, hasher: blake3::Hasher::new() }
    }

    /// The content of `file`, if the snapshot has it.
    pub(super) fn read(&mut self, file: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.snapshot.path(file) else { return Ok(None) };
        let is_config = matches!(file, "tokenizer_config.json" | "special_tokens_map.json");
        let most = if is_config { limits::MODEL_JSON_BYTES } else { limits::TOKENIZER_FILE_BYTES };
        let bytes = read_file(&path, most)?;
        self.note(file, &bytes);
        Ok(Some(bytes))
    }

    /// The content of `file`, if the snapshot has it, with line ends as in Python's text mode.
    pub(super) fn read_text(&mut self, file: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|e| {
            Error::new(ErrorKind::Model, format!("`{file}` is not UTF-8")).source(e)
        })?;
        Ok(Some(text.replace("\r\n", "\n").replace('\r', "\n")))
    }

    /// `file` as a JSON object, if the snapshot has it.
    pub(super) fn read_object(&mut self, file: &str) -> Result<Option<Map<String, Value>>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::new(ErrorKind::Model, format!("`{file}` is not a JSON object")).source(e)
        })
    }

    /// Adds something that affects the tokenizer to the digest.
    pub(super) fn note(&mut self, name: &str, content: &[u8]) {
        for part in [name.as_bytes(), content] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }

    /// The digest of everything read.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The error for a tokenizer of class `class` without the files that it needs.
    pub(super) fn missing(&self, class: &str, wanted: &str) -> Error {
        let there: Vec<_> = KNOWN
            .iter()
            .filter(|file| self.snapshot.path(file).is_some())
            .map(|file| format!("`{file}`"))
            .collect();
        let there = if there.is_empty() { "none of its files".into() } else { there.join(", ") };
        Error::new(
            ErrorKind::Hub,
            format!("no files for `{class}`: looked for {wanted}, found {there}"),
        )
        .hint(
            "save the tokenizer beside the model (`tokenizer.save_pretrained(…)` in transformers)",
        )
    }
}
