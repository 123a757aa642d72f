//! The tokens of a window: their offsets, and which of them may be in an answer.

use std::ops::Range;

use crate::auto::Window;

/// The tokens of one window over a question and its context.
#[derive(Debug)]
pub struct WindowTokens(Vec<Token>);

/// One token.
#[derive(Clone, Copy, Debug)]
struct Token {
    /// The start in its text, in characters.
    start: u32,
    end: u32,
    /// The index of its word in its text.
    word: Option<u32>,
    in_context: bool,
    /// Whether the token may be in an answer.
    allowed: bool,
}

impl WindowTokens {
    /// The memory per token, in bytes.
    pub const TOKEN_BYTES: usize = size_of::<Token>();

    /// The tokens of a window. `context` is the index of the context in the pair. Besides the context, the
    /// `cls_token_id` may be in an answer, at any position. If the context comes first, every token may, as in
    /// transformers.
    pub fn new(window: &Window, context: usize, cls_token_id: Option<u32>) -> Self {
        let token = |at: usize| {
            let (start, end) = window.offset_mapping[at];
            let in_context = window.sequence_ids[at] == Some(context);
            let is_cls = Some(window.input_ids[at]) == cls_token_id;
            Token {
                start: start as u32,
                end: end as u32,
                word: window.word_ids[at],
                in_context,
                allowed: in_context || is_cls || context == 0,
            }
        };
        Self((0..window.len()).map(token).collect())
    }

    /// Which tokens may be in an answer.
    pub fn allowed(&self) -> Vec<bool> {
        self.0.iter().map(|token| token.allowed).collect()
    }

    /// The span in the context, in characters, of the tokens from `first` to `last`, extended to whole words if the
    /// tokens belong to words of the context.
    pub fn characters(&self, first: usize, last: usize) -> Range<usize> {
        let (first, last) = (&self.0[first], &self.0[last]);
        let words = first.word.and_then(|word| self.word(word)).zip(
            // As in transformers, the word index refers to the context even for tokens of the question.
            last.word.and_then(|word| self.word(word)),
        );
        match words {
            Some((first, last)) => first.start..last.end,
            None => first.start as usize..last.end as usize,
        }
    }

    /// A word of the context, within the window.
    fn word(&self, word: u32) -> Option<Range<usize>> {
        let mut tokens = self.0.iter().filter(|token| token.in_context && token.word == Some(word));
        let first = tokens.next()?;
        let last = tokens.next_back().unwrap_or(first);
        Some(first.start as usize..last.end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[CLS] who [SEP] an ##na sat [SEP]`, with the context `Anna sat`.
    fn window() -> Window {
        Window {
            input_ids: vec![2, 10, 3, 20, 21, 22, 3],
            token_type_ids: vec![0, 0, 0, 1, 1, 1, 1],
            offset_mapping: vec![(0, 0), (0, 3), (0, 0), (0, 2), (2, 4), (5, 8), (0, 0)],
            special_tokens_mask: vec![true, false, true, false, false, false, true],
            sequence_ids: vec![None, Some(0), None, Some(1), Some(1), Some(1), None],
            word_ids: vec![None, Some(0), None, Some(0), Some(0), Some(1), None],
        }
    }

    #[test]
    fn only_the_context_and_the_first_token_may_answer() {
        let allowed = |context, cls| WindowTokens::new(&window(), context, cls).allowed();
        assert_eq!(allowed(1, Some(2)), [true, false, false, true, true, true, false]);
        assert_eq!(allowed(1, None), [false, false, false, true, true, true, false]);
        assert_eq!(allowed(0, None), [true; 7]);
    }

    #[test]
    fn answers_are_whole_words() {
        let tokens = WindowTokens::new(&window(), 1, Some(2));
        assert_eq!(tokens.characters(4, 4), 0..4);
        assert_eq!(tokens.characters(4, 5), 0..8);
        // The first token belongs to no word, so the tokens' own offsets are used.
        assert_eq!(tokens.characters(0, 3), 0..2);
        assert_eq!(tokens.characters(0, 0), 0..0);
    }
}
