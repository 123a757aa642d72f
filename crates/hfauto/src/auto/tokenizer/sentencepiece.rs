//! Reads the parts of a sentencepiece model that a tokenizer needs from its protobuf bytes.
//!
//! This is not a protobuf library: it reads the few fields of `ModelProto` below and skips all others. The entry point
//! is [`ModelProto::parse`].

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};

/// A sentencepiece model file (`sentencepiece.bpe.model`, `spiece.model`, `tokenizer.model`).
#[derive(Debug)]
pub(super) struct ModelProto {
    /// The vocabulary; a piece's index is its id.
    pub(super) pieces: Vec<Piece>,
    /// The training algorithm.
    pub(super) model_type: ModelType,
    /// The index of the piece for unknown words.
    pub(super) unk_id: usize,
    /// The texts of the special pieces.
    pub(super) unk_piece: String,
    /// `None` if the model has no such piece.
    pub(super) bos_piece: Option<String>,
    /// `None` if the model has no such piece.
    pub(super) eos_piece: Option<String>,
    /// Whether unknown characters become pieces of their UTF-8 bytes.
    pub(super) byte_fallback: bool,
    /// The compiled normalization rules; empty if there are none.
    pub(super) precompiled_charsmap: Vec<u8>,
    /// Whether a space is put before a text.
    pub(super) add_dummy_prefix: bool,
    /// Whether leading, trailing and repeated spaces are removed.
    pub(super) remove_extra_whitespaces: bool,
    /// Whether spaces are replaced with `▁`.
    pub(super) escape_whitespaces: bool,
}

/// The defaults of the format.
impl Default for ModelProto {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: ModelType::default(),
            unk_id: 0,
            unk_piece: "<unk>".into(),
            bos_piece: Some("<s>".into()),
            eos_piece: Some("</s>".into()),
            byte_fallback: false,
            precompiled_charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// One entry of the vocabulary.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The text.
    pub(super) piece: String,
    /// Its log-probability.
    pub(super) score: f32,
    /// Its type.
    pub(super) kind: PieceKind,
}

/// `SentencePiece.Type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// `CONTROL`, for example `<s>`: never part of a text.
    Control,
    /// `USER_DEFINED`: always one token.
    UserDefined,
    /// `UNKNOWN`, `UNUSED`, `BYTE`: never merged from other pieces.
    Other,
    /// `NORMAL`.
    #[default]
    Normal,
}

/// `TrainerSpec.ModelType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ModelType {
    /// The format's default.
    #[default]
    Unigram,
    /// Byte pair encoding.
    Bpe,
    /// One token per word.
    Word,
    /// One token per character.
    Char,
}

impl ModelType {
    /// The name in the format's definition.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unigram => "UNIGRAM",
            Self::Bpe => "BPE",
            Self::Word => "WORD",
            Self::Char => "CHAR",
        }
    }
}

impl ModelProto {
    /// Reads a model file.
    ///
    /// # Errors
    /// `Model` when the bytes are not a sentencepiece model, or its normalization rules point outside their tables.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut model = Self::default();
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => model.pieces.push(Piece::parse(bytes)?),
                (2, Value::Bytes(bytes)) => model.trainer_spec(bytes)?,
                (3, Value::Bytes(bytes)) => model.normalizer_spec(bytes)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(damaged("it has no pieces"));
        }
        check_charsmap(&model.precompiled_charsmap)?;
        Ok(model)
    }

    fn trainer_spec(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields::new(bytes);
        let (mut has_bos, mut has_eos) = (true, true);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (3, Value::Number(kind)) => {
                    self.model_type = match kind {
                        1 => ModelType::Unigram,
                        2 => ModelType::Bpe,
                        3 => ModelType::Word,
                        4 => ModelType::Char,
                        other => return Err(damaged(&format!("its model type is {other}"))),
                    };
                }
                (40, Value::Number(id)) => {
                    self.unk_id =
                        usize::try_from(id).map_err(|_| damaged(&format!("its unk_id is {id}")))?;
                }
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                (41, Value::Number(id)) => has_bos = is_id(id),
                (42, Value::Number(id)) => has_eos = is_id(id),
                (45, Value::Bytes(text)) => self.unk_piece = text_of(text)?,
                (46, Value::Bytes(text)) => self.bos_piece = Some(text_of(text)?),
                (47, Value::Bytes(text)) => self.eos_piece = Some(text_of(text)?),
                _ => {}
            }
        }
        self.bos_piece.take_if(|_| !has_bos);
        self.eos_piece.take_if(|_| !has_eos);
        Ok(())
    }

    fn normalizer_spec(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Value::Bytes(charsmap)) => self.precompiled_charsmap = charsmap.to_vec(),
                (3, Value::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Value::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut piece = Self::default();
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => piece.piece = text_of(text)?,
                (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        1 => PieceKind::Normal,
                        _ => PieceKind::Other,
                    };
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// Whether the number, a signed one of 32 bits, is not negative.
fn is_id(number: u64) -> bool {
    i32::try_from(number).is_ok()
}

fn text_of(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|e| damaged("a piece is not UTF-8").source(e))
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Model, format!("not a sentencepiece model: {what}"))
}

/// The value of a field, by wire type.
enum Value<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// Eight bytes; the fields below do not use them.
    Fixed64,
}

/// The fields of a message, in file order.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(bytes.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte)))
            }
            other => return Err(damaged(&format!("a field has the wire type {other}"))),
        };
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let (taken, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.bytes.split_at_checked(length))
            .ok_or_else(|| damaged("it ends within a field"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number has more than 64 bits"))
    }
}

/// Follows every path of the rules' double array, so that normalization cannot leave its bounds: the crate that walks
/// it does not check indices.
fn check_charsmap(charsmap: &[u8]) -> Result<()> {
    if charsmap.is_empty() {
        return Ok(());
    }
    let broken = || damaged("its normalization rules are invalid");
    let (length, rest) = charsmap.split_first_chunk::<4>().ok_or_else(broken)?;
    // As in the reader, the unit count is rounded down, and the texts follow the units directly.
    let length = usize::try_from(u32::from_le_bytes(*length) / 4).map_err(|_| broken())?;
    let (array, texts) =
        length.checked_mul(4).and_then(|n| rest.split_at_checked(n)).ok_or_else(broken)?;
    let texts = std::str::from_utf8(texts).map_err(|_| broken())?;
    let unit = |at: usize| -> Result<u32> {
        let bytes = array.get(at * 4..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(broken)
    };
    // A unit consists of a label (the low byte; the top bit marks a value), a leaf flag and an offset.
    let children = |at: usize| -> Result<usize> {
        let unit = unit(at)?;
        Ok(at ^ (usize::try_from(unit >> 10).map_err(|_| broken())? << ((unit & (1 << 9)) >> 6)))
    };
    let mut seen = BTreeSet::new();
    let mut open = vec![children(0)?];
    while let Some(base) = open.pop() {
        if !seen.insert(base) {
            continue;
        }
        for byte in 1..=0xff_usize {
            let child = base ^ byte;
            if unit(child)? & 0x8000_00ff != u32::try_from(byte).map_err(|_| broken())? {
                continue;
            }
            let below = children(child)?;
            if unit(child)? >> 8 & 1 == 1 {
                let text = usize::try_from(unit(below)? & 0x7fff_ffff).map_err(|_| broken())?;
                if !texts.is_char_boundary(text) {
                    return Err(broken());
                }
            }
            open.push(below);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One field of wire type 2.
    fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend_from_slice(bytes);
        field
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut message = bytes_field(1, text.as_bytes());
        message.push(2 << 3 | 5);
        message.extend_from_slice(&score.to_le_bytes());
        message.extend_from_slice(&[3 << 3, kind]);
        bytes_field(1, &message)
    }

    #[test]
    fn reads_pieces_and_type_and_skips_unknown_fields() {
        let mut file = piece("<s>", 0.0, 3);
        file.extend(piece("▁de", -3.5, 1));
        file.extend(piece("<ud>", 0.0, 4));
        file.extend(bytes_field(2, &[3 << 3, 2, 40 << 3 & 0x7f | 0x80, 2, 7]));
        file.extend(bytes_field(9, b"unknown"));
        file.extend([10 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        let model = ModelProto::parse(&file).unwrap();
        let pieces: Vec<_> =
            model.pieces.iter().map(|p| (p.piece.as_str(), p.score, p.kind)).collect();
        assert_eq!(
            pieces,
            [
                ("<s>", 0.0, PieceKind::Control),
                ("▁de", -3.5, PieceKind::Normal),
                ("<ud>", 0.0, PieceKind::UserDefined),
            ]
        );
        assert_eq!((model.model_type, model.unk_id), (ModelType::Bpe, 7));
    }

    #[test]
    fn refuses_truncated_models() {
        let file = piece("▁de", -3.5, 1);
        for length in 1..file.len() {
            let error = ModelProto::parse(&file[..length]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{length} bytes: {error}");
        }
        assert!(ModelProto::parse(&[]).unwrap_err().message().contains("no pieces"));
    }

    #[test]
    fn refuses_rules_that_point_outside_their_tables() {
        let mut file = piece("a", 0.0, 1);
        // One unit, with children at 1 to 255.
        file.extend(bytes_field(3, &bytes_field(2, &[4, 0, 0, 0, 0, 0, 0, 0])));
        assert!(ModelProto::parse(&file).unwrap_err().message().contains("rules are invalid"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ModelProto::parse(&bytes);
        }

        #[test]
        fn never_panics_on_rules(bytes in proptest::collection::vec(any::<u8>(), 0..2000), units in 0u8..=255) {
            let mut charsmap = vec![units, 0, 0, 0];
            charsmap.extend(bytes);
            let _ = check_charsmap(&charsmap);
        }
    }
}
