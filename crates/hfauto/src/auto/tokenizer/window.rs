//! Splits long texts into overlapping windows of at most `max_length` tokens that cover the whole text.
//!
//! The entry point is [`AutoTokenizer::encode_windows`]. Not here: the model's results for the windows, and how a task
//! merges them.

use tokenizers::OffsetType;

use super::AutoTokenizer;
use super::bounded::failed;
use super::truncate::{Cut, Side, TruncationStrategy, no_room};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::guard::guarded;

/// How a text is split into windows, with the names of transformers' `tokenizer(…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOptions {
    /// The maximum number of tokens per window, including special tokens; `None` for one window of any length.
    pub max_length: Option<usize>,
    /// The number of tokens that a window shares with the previous one.
    pub stride: usize,
    /// Which text of a pair is split; the other one is in every window.
    pub truncation: TruncationStrategy,
    /// The side from which windows are counted; `None` for the tokenizer's own. With [`Side::Left`], the first window
    /// is the end of the text.
    pub truncation_side: Option<Side>,
    /// Whether to add the model's special tokens (`[CLS]`, `</s>`, …).
    pub add_special_tokens: bool,
}

impl Default for WindowOptions {
    /// One window with special tokens.
    fn default() -> Self {
        Self {
            max_length: None,
            stride: 0,
            truncation: TruncationStrategy::LongestFirst,
            truncation_side: None,
            add_special_tokens: true,
        }
    }
}

/// One window over a text or a pair. Each list has one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The segment of each token: 0 for a single text. Models without segments ignore it.
    pub token_type_ids: Vec<u32>,
    /// The span of each token in its whole text, not in the window.
    ///
    /// # Units
    /// Characters, 0-based, half-open; (0, 0) for special tokens.
    pub offset_mapping: Vec<(usize, usize)>,
    /// Which tokens the tokenizer added.
    pub special_tokens_mask: Vec<bool>,
    /// The text that each token belongs to, 0 or 1; `None` for special tokens.
    pub sequence_ids: Vec<Option<usize>>,
    /// The index of each token's word in its text; `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
}

impl Window {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// The span of a word of text `sequence_id`, in characters, as far as it is within this window; `None` when it is
    /// not.
    pub fn word_to_chars(&self, word_id: u32, sequence_id: usize) -> Option<(usize, usize)> {
        let mut tokens = (0..self.len()).filter(|at| {
            self.sequence_ids[*at] == Some(sequence_id) && self.word_ids[*at] == Some(word_id)
        });
        let first = tokens.next()?;
        let last = tokens.next_back().unwrap_or(first);
        Some((self.offset_mapping[first].0, self.offset_mapping[last].1))
    }

    fn new(encoding: &tokenizers::Encoding) -> Self {
        let special = encoding.get_special_tokens_mask().iter().map(|mask| *mask == 1);
        Self {
            input_ids: encoding.get_ids().to_vec(),
            token_type_ids: encoding.get_type_ids().to_vec(),
            offset_mapping: encoding.get_offsets().to_vec(),
            special_tokens_mask: special.collect(),
            sequence_ids: encoding.get_sequence_ids(),
            word_ids: encoding.get_word_ids().to_vec(),
        }
    }
}

impl AutoTokenizer {
    /// The windows over a text or a pair, as `tokenizer(…, return_overflowing_tokens=True, return_offsets_mapping=True,
    /// return_special_tokens_mask=True)` returns them, in its order. There is at least one; the last may be shorter
    /// than the others.
    ///
    /// As in [`encode_pair`](Self::encode_pair), an empty second text counts as a second text.
    ///
    /// # Errors
    /// `Config` when `max_length` leaves no room beside the special tokens and the stride, `Data` when the text that is
    /// in every window leaves none, `Model` when the tokenizer fails.
    pub fn encode_windows(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &WindowOptions,
    ) -> Result<Vec<Window>> {
        let room = self.room(options.max_length, options.add_special_tokens, pair.is_some())?;
        let alone = self.room(options.max_length, options.add_special_tokens, false)?;
        if let Some(alone) = alone.filter(|alone| *alone < options.stride) {
            return Err(no_room(ErrorKind::Config, alone, options.stride));
        }
        let mut first = self.tokenize(text, None, 0, OffsetType::Char)?;
        let mut second =
            pair.map(|pair| self.tokenize(pair, None, 1, OffsetType::Char)).transpose()?;
        if let Some(room) = room {
            let side = options.truncation_side.unwrap_or(self.truncation_side);
            let cut = Cut { room, strategy: options.truncation, stride: options.stride, side };
            let before = (first.len(), second.as_ref().map(tokenizers::Encoding::len));
            cut.apply(&mut first, second.as_mut())?;
            let lost = (before.0 > 0 && first.is_empty())
                || (before.1 > Some(0)
                    && second.as_ref().is_some_and(tokenizers::Encoding::is_empty));
            if lost {
                return Err(Error::of_row(
                    RowErrorKind::NoRoom,
                    format!("a window has room for {room} tokens, too few for two texts"),
                )
                .hint("raise `max_length`, or truncate only one of the texts"));
            }
        }
        let mut encoding = guarded(ErrorKind::Data, "the text", || {
            let tokenizer = &self.tokenizer;
            let whole = tokenizer.post_process(first, second, options.add_special_tokens);
            whole.map_err(failed("add special tokens"))
        })?;
        let more = encoding.take_overflowing();
        Ok(std::iter::once(&encoding).chain(&more).map(Window::new).collect())
    }
}
