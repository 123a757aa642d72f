//! Encodes texts to token ids: truncation, special tokens, batches, pairs.
//!
//! Not here: windows over a long text ([`super::window`]), and decoding ([`super::decode`]).

use rayon::prelude::*;
use tokenizers::{Model, OffsetType, PostProcessor, Token, Tokenizer};

use super::bounded::failed;
use super::truncate::{Cut, Side, TruncationStrategy};
use super::words::Part;
use super::{AutoTokenizer, prefix};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// How texts are encoded, with the names of transformers' `tokenizer(…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The maximum number of tokens, including special tokens; `None` for no truncation.
    pub max_length: Option<usize>,
    /// Which text of a pair is truncated to `max_length`.
    pub truncation: TruncationStrategy,
    /// The side of truncation; `None` for the tokenizer's own ([`AutoTokenizer::truncation_side`]).
    pub truncation_side: Option<Side>,
    /// The number of tokens that [`AutoTokenizer::encode`] pads a text to (`padding="max_length"`); `None` for no padding.
    pub pad_to: Option<usize>,
    /// Whether to add the model's special tokens (`[CLS]`, `</s>`, …).
    pub add_special_tokens: bool,
    /// Whether to return [`Encoding::offset_mapping`], which takes longer.
    pub return_offsets_mapping: bool,
    /// Whether to return [`Encoding::special_tokens_mask`].
    pub return_special_tokens_mask: bool,
    /// Whether to return [`Encoding::word_ids`], which takes longer.
    pub return_word_ids: bool,
}

impl Default for EncodeOptions {
    /// No truncation, with special tokens; returns only ids and types.
    fn default() -> Self {
        Self {
            max_length: None,
            truncation: TruncationStrategy::LongestFirst,
            truncation_side: None,
            pad_to: None,
            add_special_tokens: true,
            return_offsets_mapping: false,
            return_special_tokens_mask: false,
            return_word_ids: false,
        }
    }
}

/// The tokens of a text or a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The segment of each token: 0 for a single text. Models without segments ignore it.
    pub token_type_ids: Vec<u32>,
    /// Whether the text was truncated to `max_length`.
    pub truncated: bool,
    /// The span of each token in its text; `None` unless requested.
    ///
    /// # Units
    /// Characters, 0-based, half-open; (0, 0) for special tokens.
    pub offset_mapping: Option<Vec<(usize, usize)>>,
    /// Which tokens the tokenizer added; `None` unless requested. A special token that occurs in the text itself does
    /// not count.
    pub special_tokens_mask: Option<Vec<bool>>,
    /// The index of each token's word in its text; `None` unless requested, and for special tokens.
    pub word_ids: Option<Vec<Option<u32>>>,
}

/// The special tokens that the post-processor adds around a single text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    before: Vec<(u32, u32)>,
    text_type: u32,
    after: Vec<(u32, u32)>,
}

impl Frame {
    /// Finds the frame by processing a token that is in no vocabulary; `None` when it does not occur exactly once in
    /// the result.
    pub(super) fn find(tokenizer: &Tokenizer) -> Option<Self> {
        const TEXT: u32 = u32::MAX;
        let text = vec![Token::new(TEXT, String::new(), (0, 0))];
        let text = tokenizers::Encoding::from_tokens(text, 0);
        let framed = tokenizer.post_process(text, None, true).ok()?;
        let ids = framed.get_ids().iter().copied();
        let tokens: Vec<(u32, u32)> = ids.zip(framed.get_type_ids().iter().copied()).collect();
        let mut texts = tokens.iter().enumerate().filter(|(_, (id, _))| *id == TEXT);
        let (Some((at, (_, text_type))), None) = (texts.next(), texts.next()) else { return None };
        Some(Self {
            before: tokens[..at].to_vec(),
            text_type: *text_type,
            after: tokens[at + 1..].to_vec(),
        })
    }
}

impl AutoTokenizer {
    /// Encodes one text, as `tokenizer(text, truncation=True, max_length=…)` does.
    ///
    /// # Errors
    /// `Config` when `max_length` leaves no room for the special tokens, `Model` when the tokenizer fails.
    pub fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Encoding> {
        let encoding = self.encode_text(text, options)?;
        match options.pad_to {
            Some(length) => self.padded(encoding, length),
            None => Ok(encoding),
        }
    }

    /// Adds the padding token on the padding side.
    fn padded(&self, mut encoding: Encoding, length: usize) -> Result<Encoding> {
        let missing = length.saturating_sub(encoding.input_ids.len());
        if missing == 0 {
            return Ok(encoding);
        }
        let Some(pad) = self.pad_token_id() else {
            return Err(Error::new(ErrorKind::Model, "the tokenizer has no `pad_token`"));
        };
        if self.gives_attention_mask {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the tokenizer masks the padding of texts, to which the model was trained to attend",
            )
            .hint("set `model_input_names: [input_ids]` in tokenizer_config.json, as the published checkpoints do"));
        }
        if self.padding_side() == Side::Left || encoding.offset_mapping.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "`padding_side: left` in tokenizer_config.json is not implemented for padded texts",
            ));
        }
        let padded = encoding.input_ids.len() + missing;
        encoding.input_ids.resize(padded, pad);
        encoding.token_type_ids.resize(padded, 0);
        Ok(encoding)
    }

    fn encode_text(&self, text: &str, options: &EncodeOptions) -> Result<Encoding> {
        let room = self.room(options.max_length, options.add_special_tokens, false)?;
        let side = options.truncation_side.unwrap_or(self.truncation_side);
        // One token more than fits shows whether the text was truncated. Words are counted from the start of the text,
        // which must then be tokenized.
        let count_words = options.return_word_ids && side == Side::Left;
        let enough = room.filter(|_| !count_words).map(|room| room.saturating_add(1));
        let more = options.return_offsets_mapping
            || options.return_special_tokens_mask
            || options.return_word_ids
            || options.truncation == TruncationStrategy::OnlySecond;
        if more || (options.add_special_tokens && self.frame.is_none()) {
            let encoding =
                self.tokenize(text, enough.map(|n| (n, side)), 0, offset_type(options))?;
            return self.assemble(encoding, None, room, options);
        }
        let ids = &self.ids(text, enough.map(|n| (n, side)))?[..];
        let kept = match room {
            Some(room) if room < ids.len() => match side {
                Side::Right => &ids[..room],
                Side::Left => &ids[ids.len() - room..],
            },
            _ => ids,
        };
        let truncated = kept.len() < ids.len();
        let none = Frame { before: Vec::new(), text_type: 0, after: Vec::new() };
        let frame = match &self.frame {
            Some(frame) if options.add_special_tokens => frame,
            _ => &none,
        };
        let length = frame.before.len() + kept.len() + frame.after.len();
        let mut input_ids = Vec::with_capacity(length);
        input_ids.extend(frame.before.iter().map(|(id, _)| id));
        input_ids.extend(kept);
        input_ids.extend(frame.after.iter().map(|(id, _)| id));
        let mut token_type_ids = Vec::with_capacity(length);
        token_type_ids.extend(frame.before.iter().map(|(_, kind)| kind));
        token_type_ids.resize(frame.before.len() + kept.len(), frame.text_type);
        token_type_ids.extend(frame.after.iter().map(|(_, kind)| kind));
        Ok(Encoding { input_ids, token_type_ids, truncated, ..Encoding::default() })
    }

    /// Encodes two texts as one input, as `tokenizer([text], [text_pair], truncation=…, max_length=…)` does.
    /// [`EncodeOptions::truncation`] selects which text is truncated.
    ///
    /// An empty second text counts as a second text, as in a batch of pairs. Outside a list, `tokenizer(text, "")`
    /// ignores it: use [`encode`](Self::encode) for that.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and `Data` when the only text that may be truncated is too short.
    pub fn encode_pair(&self, text: &str, pair: &str, options: &EncodeOptions) -> Result<Encoding> {
        let room = self.room(options.max_length, options.add_special_tokens, true)?;
        // Tokenizes both texts completely: the longer one loses the odd token.
        let offsets = offset_type(options);
        let first = self.tokenize(text, None, 0, offsets)?;
        let second = self.tokenize(pair, None, 1, offsets)?;
        self.assemble(first, Some(second), room, options)
    }

    /// Encodes texts in parallel on the current rayon pool, in order.
    ///
    /// # Errors
    /// The first error of [`encode`](Self::encode), in text order.
    pub fn encode_batch<T>(&self, texts: &[T], options: &EncodeOptions) -> Result<Vec<Encoding>>
    where
        T: AsRef<str> + Sync,
    {
        let encode = |text: &T| self.encode(text.as_ref(), options);
        let encodings: Vec<Result<Encoding>> = texts.par_iter().map(encode).collect();
        encodings.into_iter().collect()
    }

    /// The number of tokens of the text that fit; `None` for all.
    pub(super) fn room(
        &self,
        max_length: Option<usize>,
        add_special_tokens: bool,
        pair: bool,
    ) -> Result<Option<usize>> {
        let Some(max_length) = max_length else { return Ok(None) };
        let special = if add_special_tokens { self.num_special_tokens_to_add(pair) } else { 0 };
        max_length.checked_sub(special).map(Some).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("`max_length` is {max_length}, but there are {special} special tokens"),
            )
        })
    }

    /// The token ids of a text without special tokens. Stops as [`tokenize`](Self::tokenize) does.
    fn ids(&self, text: &str, enough: Option<(usize, Side)>) -> Result<Vec<u32>> {
        let Some(words) = self.words else {
            return Ok(self.tokenize(text, enough, 0, OffsetType::None)?.get_ids().to_vec());
        };
        let most = match enough {
            Some((count, Side::Right)) => count,
            _ => usize::MAX,
        };
        let (model, mut ids) = (self.tokenizer.get_model(), Vec::new());
        words.parts(text, model, |part| {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Word(word) => {
                    let tokens = model.tokenize(word).map_err(failed("tokenize a text"))?;
                    ids.extend(tokens.iter().map(|token| token.id));
                }
                Part::Text(text) => {
                    let left = (most < usize::MAX).then(|| (most - ids.len(), Side::Right));
                    let encoding = self.tokenize(text, left, 0, OffsetType::None)?;
                    ids.extend(encoding.get_ids());
                }
            }
            Ok::<_, Error>(ids.len() < most)
        })?;
        Ok(ids)
    }

    /// The tokens of a text without special tokens. Stops when there are `enough` of them, counted from the side that
    /// is kept.
    pub(super) fn tokenize(
        &self,
        text: &str,
        enough: Option<(usize, Side)>,
        type_id: u32,
        offsets: OffsetType,
    ) -> Result<tokenizers::Encoding> {
        if let (Some((count, Side::Right)), true) = (enough, self.word_by_word) {
            for beginning in prefix::beginnings(text, count) {
                let encoding = self.tokenize_all(beginning, enough, type_id, offsets)?;
                if encoding.len() >= count || beginning.len() == text.len() {
                    return Ok(encoding);
                }
            }
        }
        self.tokenize_all(text, enough, type_id, offsets)
    }

    fn tokenize_all(
        &self,
        text: &str,
        enough: Option<(usize, Side)>,
        type_id: u32,
        offsets: OffsetType,
    ) -> Result<tokenizers::Encoding> {
        let Some(pieces) = &self.pieces else {
            return self.tokenize_text(text, enough, type_id, offsets);
        };
        // Without offsets, the library leaves out the texts of the pieces.
        let offsets = match offsets {
            OffsetType::None => OffsetType::Byte,
            offsets => offsets,
        };
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let special: Vec<&str> = added.values().map(|token| token.content.as_str()).collect();
        let place = |at: usize| match offsets {
            OffsetType::Char => text[..at].chars().count(),
            OffsetType::Byte | OffsetType::None => at,
        };
        let (mut tokens, mut start) = (Vec::new(), 0);
        for code in pieces.codes(text, &special) {
            let before = self.tokenize_text(&text[start..code.start], enough, type_id, offsets)?;
            tokens.extend(pieces.tokens(&before, place(start)));
            tokens.push(pieces.code(&text[code.clone()], (place(code.start), place(code.end))));
            start = code.end;
        }
        let rest = self.tokenize_text(&text[start..], enough, type_id, offsets)?;
        tokens.extend(pieces.tokens(&rest, place(start)));
        Ok(tokenizers::Encoding::from_tokens(tokens, type_id))
    }

    fn tokenize_text(
        &self,
        text: &str,
        enough: Option<(usize, Side)>,
        type_id: u32,
        offsets: OffsetType,
    ) -> Result<tokenizers::Encoding> {
        let parts = &self.tokenizer;
        let tokenize = || {
            let mut words = self.bounded.words(parts, text)?;
            let enough = enough.map(|(count, side)| (count, side.into()));
            parts.get_model().tokenize_in_pretokenized(&mut words, enough)?;
            words.into_encoding(None, type_id, offsets)
        };
        // A panic of the library fails only this row.
        guarded(ErrorKind::Data, "the text", || tokenize().map_err(failed("tokenize a text")))
    }

    /// Truncates to `room`, adds the special tokens, and returns what the options request.
    fn assemble(
        &self,
        mut first: tokenizers::Encoding,
        mut second: Option<tokenizers::Encoding>,
        room: Option<usize>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        let length = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len);
        let truncated = room.is_some_and(|room| room < length);
        if let Some(room) = room {
            let side = options.truncation_side.unwrap_or(self.truncation_side);
            let cut = Cut { room, strategy: options.truncation, stride: 0, side };
            cut.apply(&mut first, second.as_mut())?;
            for text in std::iter::once(&mut first).chain(&mut second) {
                text.set_overflowing(Vec::new());
            }
        }
        let encoding = guarded(ErrorKind::Data, "the text", || {
            let tokenizer = &self.tokenizer;
            let whole = tokenizer.post_process(first, second, options.add_special_tokens);
            whole.map_err(failed("add special tokens"))
        })?;
        Ok(Encoding {
            input_ids: encoding.get_ids().to_vec(),
            token_type_ids: encoding.get_type_ids().to_vec(),
            truncated,
            offset_mapping: options.return_offsets_mapping.then(|| encoding.get_offsets().to_vec()),
            special_tokens_mask: options.return_special_tokens_mask.then(|| {
                encoding.get_special_tokens_mask().iter().map(|mask| *mask == 1).collect()
            }),
            word_ids: options.return_word_ids.then(|| encoding.get_word_ids().to_vec()),
        })
    }

    /// The number of special tokens added to a text, or to a pair.
    pub fn num_special_tokens_to_add(&self, pair: bool) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }
}

fn offset_type(options: &EncodeOptions) -> OffsetType {
    // `None` would also drop which text a token belongs to.
    if options.return_offsets_mapping { OffsetType::Char } else { OffsetType::Byte }
}
