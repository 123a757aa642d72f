//! The files of a tokenizer, each read once and hashed.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;
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
    "spm.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
];

/// The most entries of a directory that are looked at for an error message.
const MOST_ENTRIES: usize = 1000;

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
        let is_config = matches!(file, "tokenizer_config.json" | "special_tokens_map.json");
        let most = if is_config { limits::MODEL_JSON_BYTES } else { limits::TOKENIZER_FILE_BYTES };
        let Some(bytes) = self.snapshot.read(file, most)? else { return Ok(None) };
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

    /// A vocabulary of tiktoken by its name: `tekken.json` of Mistral, or `*.tiktoken`.
    fn tiktoken_file(&self) -> Option<String> {
        let entries = std::fs::read_dir(self.snapshot.dir()).into_iter().flatten().flatten();
        let names =
            entries.take(MOST_ENTRIES).filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|file| file == "tekken.json" || file.ends_with(".tiktoken")).min()
    }

    /// The error for a tokenizer of class `class` without the files that it needs.
    pub(super) fn missing(&self, class: &str, wanted: &str) -> Error {
        let there: Vec<_> = KNOWN
            .iter()
            .filter(|file| self.snapshot.path(file).is_some())
            .map(|file| format!("`{file}`"))
            .collect();
        if let Some(file) = self.tiktoken_file() {
            return tiktoken_vocabulary(&file);
        }
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

/// The error for the vocabulary `file` of tiktoken, which transformers converts only with that package.
pub(super) fn tiktoken_vocabulary(file: &str) -> Error {
    let message = format!("`{file}` is a vocabulary of tiktoken, which is not implemented");
    Error::new(ErrorKind::Unsupported, message).hint(
        "save a tokenizer.json beside it (`AutoTokenizer.from_pretrained(…).save_pretrained(…)` in transformers), \
         or choose the repository of the model in the format of transformers",
    )
}

/// Whether a file is a vocabulary of tiktoken: lines of a token in base64 and its rank.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut parts = line.trim_ascii_end().split(|byte| *byte == b' ');
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(token), Some(rank), None) => {
            !token.is_empty()
                && token.iter().all(is_base64)
                && !rank.is_empty()
                && rank.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}
