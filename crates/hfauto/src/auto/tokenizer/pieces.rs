//! Tokenizers whose sentencepiece model only splits texts: the ids of the pieces are in `vocab.json` (Marian, M2M-100). Not
//! here: the split itself (`bpe`), and the languages of M2M-100 (`languages`).
//!
//! # Source
//! transformers 5.24: `tokenization_marian.py`, `tokenization_m2m_100.py`. The punctuation of Marian is not normalized, as
//! where `sacremoses` is not installed. The rules of the model are applied as the `tokenizers` library applies them: of a
//! letter with several combining marks, sentencepiece composes the first, and this library none.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};
use tokenizers::{Encoding, Token, Tokenizer};

use super::bpe;
use super::convert::{Vocabulary, read_any_model_proto};
use super::languages::{M2M_100, WMT21, set_frame};
use crate::error::{Error, ErrorKind, Result};

/// The ids of pieces, and what surrounds them in texts.
#[derive(Debug)]
pub(super) struct PieceIds {
    ids: HashMap<String, u32>,
    /// By id; those of the target if it has a vocabulary of its own.
    pieces: HashMap<u32, String>,
    unk_id: u32,
    unk_token: String,
    form: Form,
}

/// The differences between the two classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A text may begin with a language code such as `>>fra<<`, and a space follows a special token.
    Marian,
    M2m100,
}

/// A tokenizer of pieces, and their ids.
pub(super) type FromPieces = fn(&mut Vocabulary<'_, '_>) -> Result<(Tokenizer, PieceIds)>;

/// `MarianTokenizer`.
pub(super) fn marian(vocabulary: &mut Vocabulary<'_, '_>) -> Result<(Tokenizer, PieceIds)> {
    let separate = vocabulary.config.get("separate_vocabs").and_then(Value::as_bool);
    let mut ids = PieceIds::read(vocabulary, "source.spm", Form::Marian)?;
    if separate.unwrap_or(false) {
        let Some(target) = vocabulary.files.read_object("target_vocab.json")? else {
            return Err(vocabulary.missing("`target_vocab.json`, for `separate_vocabs: true`"));
        };
        ids.pieces = by_id(&read_ids("target_vocab.json", target)?);
    }
    // The target's model joins pieces as the source's does, but a change of it changes the tokenizer.
    vocabulary.files.read("target.spm")?;
    split_by(vocabulary, "source.spm", ids)
}

/// `M2M100Tokenizer`.
pub(super) fn m2m_100(vocabulary: &mut Vocabulary<'_, '_>) -> Result<(Tokenizer, PieceIds)> {
    const FILE: &str = "sentencepiece.bpe.model";
    let languages: &[&str] = match vocabulary.config.get("language_codes").and_then(Value::as_str) {
        None | Some("m2m100") => M2M_100,
        Some("wmt21") => WMT21,
        Some(other) => {
            let message = format!("`language_codes: {other}` in tokenizer_config.json is unknown");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("implemented values: m2m100, wmt21"));
        }
    };
    let mut ids = PieceIds::read(vocabulary, FILE, Form::M2m100)?;
    let first = u32::try_from(ids.ids.len()).unwrap_or(u32::MAX);
    let tokens: Vec<String> = languages.iter().map(|code| format!("__{code}__")).collect();
    for (id, token) in (first..).zip(&tokens) {
        ids.pieces.insert(id, token.clone());
        ids.ids.insert(token.clone(), id);
    }
    vocabulary.special.extend_additional(tokens.iter().map(String::as_str));
    split_by(vocabulary, FILE, ids)
}

/// The tokenizer that splits texts by the sentencepiece model in `file`.
fn split_by(
    vocabulary: &mut Vocabulary<'_, '_>,
    file: &'static str,
    mut ids: PieceIds,
) -> Result<(Tokenizer, PieceIds)> {
    let (_, proto) = read_any_model_proto(vocabulary, "", &[file])?;
    let mut tokenizer = bpe::sentencepiece(&proto).map_err(|error| error.at(file))?;
    let special = &*vocabulary.special;
    special.add_to(&mut tokenizer)?;
    for (id, token) in special.added() {
        if let Ok(id) = u32::try_from(id) {
            ids.ids.entry(token.to_owned()).or_insert(id);
            ids.pieces.entry(id).or_insert_with(|| token.to_owned());
        }
    }
    let eos = [special.require("eos_token")?.to_owned()];
    set_frame(&mut tokenizer, &[], &eos, |token| ids.id(token))?;
    Ok((tokenizer, ids))
}

/// The object of a vocabulary file as ids.
fn read_ids(file: &str, object: Map<String, Value>) -> Result<HashMap<String, u32>> {
    let ids = object.into_iter().map(|(piece, id)| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("`{file}` has the id `{id}` for `{piece}`"))
        })?;
        Ok((piece, id))
    });
    ids.collect()
}

fn by_id(ids: &HashMap<String, u32>) -> HashMap<u32, String> {
    let mut pieces: Vec<(&String, &u32)> = ids.iter().collect();
    // If several pieces have the same id, the alphabetically last one wins, so that the order of the map does not matter.
    pieces.sort_unstable();
    pieces.into_iter().map(|(piece, id)| (*id, piece.clone())).collect()
}

impl PieceIds {
    fn read(vocabulary: &mut Vocabulary<'_, '_>, model: &str, form: Form) -> Result<Self> {
        let Some(object) = vocabulary.files.read_object("vocab.json")? else {
            return Err(vocabulary.missing(&format!("`vocab.json` with `{model}`")));
        };
        let ids = read_ids("vocab.json", object)?;
        let unk_token = vocabulary.special.require("unk_token")?.to_owned();
        let unk_id = ids.get(&unk_token).copied().ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("`vocab.json` has no `{unk_token}`"))
        })?;
        Ok(Self { pieces: by_id(&ids), ids, unk_id, unk_token, form })
    }

    /// The id of a piece.
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// The piece with this id.
    pub(super) fn piece(&self, id: u32) -> String {
        self.pieces.get(&id).unwrap_or(&self.unk_token).clone()
    }

    /// The number of pieces.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The places of language codes, each a token of its own: at the start of the text and after a special token. `special`
    /// are the texts of special tokens.
    pub(super) fn codes(&self, text: &str, special: &[&str]) -> Vec<Range<usize>> {
        let mut codes = Vec::new();
        if self.form != Form::Marian || !text.contains(">>") {
            return codes;
        }
        let mut start = 0;
        loop {
            let rest = &text[start..];
            let found = special.iter().filter_map(|token| Some((rest.find(token)?, token.len())));
            let next = found.min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)));
            let part = &rest[..next.map_or(rest.len(), |(at, _)| at)];
            if part.starts_with(">>")
                && let Some(end) = part.find("<<")
            {
                codes.push(start..start + end + 2);
            }
            match next {
                Some((at, length)) => start += at + length,
                None => return codes,
            }
        }
    }

    /// The token of a code of [`PieceIds::codes`].
    pub(super) fn code(&self, code: &str, offsets: (usize, usize)) -> Token {
        Token::new(self.id(code).unwrap_or(self.unk_id), code.to_owned(), offsets)
    }

    /// The tokens of an encoding by the ids of `vocab.json`; its text begins at `place`. An unknown piece is looked up by its
    /// text, as each piece is.
    pub(super) fn tokens(&self, encoding: &Encoding, place: usize) -> impl Iterator<Item = Token> {
        let pieces = encoding.get_tokens().iter().zip(encoding.get_offsets());
        pieces.map(move |(piece, (from, to))| {
            let id = self.id(piece).unwrap_or(self.unk_id);
            Token::new(id, piece.clone(), (from + place, to + place))
        })
    }

    /// Joins pieces to a text. `special` tells which are special tokens: their texts stay as they are.
    pub(super) fn decode(&self, pieces: &[String], special: impl Fn(&str) -> bool) -> String {
        let (mut text, mut part) = (String::new(), String::new());
        let join = |text: &mut String, part: &mut String| {
            // The spaces that were put before and around a text.
            text.push_str(&part.trim_start_matches('▁').replace('▁', " "));
            part.clear();
        };
        for piece in pieces {
            if special(piece) {
                join(&mut text, &mut part);
                text.push_str(piece);
                if self.form == Form::Marian {
                    text.push(' ');
                }
            } else {
                part.push_str(piece);
            }
        }
        join(&mut text, &mut part);
        text.trim().to_owned()
    }
}
