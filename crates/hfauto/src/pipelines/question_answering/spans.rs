//! From start and end logits to answer spans, on plain data.
//!
//! # Source
//! `src/transformers/pipelines/question_answering.py` at v4.57: `select_starts_ends`, `decode_spans` and `postprocess`.
//! Probabilities are f32, as numpy's there; their sums are f64, as Python's.

use std::collections::HashMap;
use std::ops::Range;

use crate::pipelines::scores::softmax;

/// The logit of a token that may not be in an answer.
const MASKED: f32 = -10000.0;

/// A span of tokens with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The first token.
    pub start: usize,
    /// The last token, inclusive.
    pub end: usize,
    /// The probability that the span is the answer.
    pub score: f32,
}

/// The limits on spans.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of answers.
    pub top_k: usize,
    /// The maximum number of tokens in an answer.
    pub max_answer_len: usize,
}

/// The best spans of one window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSpans {
    /// Best first. More than requested, because some may turn out to be the same answer.
    pub spans: Vec<Span>,
    /// The probability that the window has no answer.
    pub null_score: f64,
}

/// The best spans of a window. `allowed` marks the tokens that may be in an answer.
pub fn best_spans(start: &[f32], end: &[f32], allowed: &[bool], limits: Limits) -> WindowSpans {
    let (mut start, mut end) = (probabilities(start, allowed), probabilities(end, allowed));
    let null_score = match (start.first_mut(), end.first_mut()) {
        // The first token stands for "no answer" and is never an answer itself.
        (Some(start), Some(end)) => std::mem::take(start) * std::mem::take(end),
        _ => 0.0,
    };
    // The same number of candidates as transformers uses when it aligns answers to words.
    let wanted = limits.top_k.saturating_mul(2).saturating_add(10);
    let mut spans = decode_spans(&start, &end, wanted, limits.max_answer_len);
    spans.retain(|span| allowed[span.start] && allowed[span.end]);
    WindowSpans { spans, null_score: f64::from(null_score) }
}

fn probabilities(logits: &[f32], allowed: &[bool]) -> Vec<f32> {
    let masked = logits.iter().zip(allowed);
    let masked: Vec<f32> =
        masked.map(|(logit, allowed)| if *allowed { *logit } else { MASKED }).collect();
    softmax(&masked)
}

/// The `wanted` best pairs of start and end. Impossible pairs, with the end first or too many tokens, have a score of
/// zero. Ties go to the first start, then the first end.
fn decode_spans(start: &[f32], end: &[f32], wanted: usize, max_answer_len: usize) -> Vec<Span> {
    let tokens = start.len();
    let wanted = wanted.min(tokens * tokens);
    let ends = |first: usize| first..first.saturating_add(max_answer_len).min(tokens);
    let mut spans = Vec::new();
    for first in (0..tokens).filter(|&first| start[first] > 0.0) {
        let scored = ends(first).map(|last| Span {
            start: first,
            end: last,
            score: start[first] * end[last],
        });
        spans.extend(scored.filter(|span| span.score > 0.0));
    }
    let order = |a: &Span, b: &Span| {
        b.score.total_cmp(&a.score).then((a.start, a.end).cmp(&(b.start, b.end)))
    };
    if wanted < spans.len() {
        spans.select_nth_unstable_by(wanted, order);
        spans.truncate(wanted);
    }
    spans.sort_unstable_by(order);
    let positive =
        |first: usize, last: usize| ends(first).contains(&last) && start[first] * end[last] > 0.0;
    let pairs = (0..tokens).flat_map(|first| (0..tokens).map(move |last| (first, last)));
    let zeros = pairs.filter(|&(first, last)| !positive(first, last));
    let zeros = zeros.map(|(start, end)| Span { start, end, score: 0.0 });
    let missing = wanted - spans.len();
    spans.extend(zeros.take(missing));
    spans
}

/// A span of the context that answers the question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<'a> {
    /// The text.
    pub answer: &'a str,
    /// The probability.
    pub score: f64,
    /// The start in the context, in characters.
    pub start: usize,
    /// The end in the context, exclusive, in characters.
    pub end: usize,
}

/// The merged answers from all windows of a context.
#[derive(Debug, Default)]
pub struct Answers<'a> {
    answers: Vec<Answer<'a>>,
    /// The indices of answers by their lower-case text.
    places: HashMap<String, usize>,
}

impl<'a> Answers<'a> {
    /// Adds an answer. If an equal one exists, ignoring case, adds to its score.
    pub fn push(&mut self, text: &'a str, at: Range<usize>, score: f32) {
        let score = f64::from(score);
        let next = self.answers.len();
        let place = *self.places.entry(text.to_lowercase()).or_insert(next);
        match self.answers.get_mut(place) {
            Some(answer) => answer.score += score,
            None => {
                self.answers.push(Answer { answer: text, score, start: at.start, end: at.end });
            }
        }
    }

    /// The `top_k` best answers; ties go to the earlier one. `null_score` is the score of "no answer", if that counts
    /// as an answer.
    pub fn best(mut self, top_k: usize, null_score: Option<f64>) -> Vec<Answer<'a>> {
        let none = null_score.map(|score| Answer { answer: "", score, start: 0, end: 0 });
        self.answers.extend(none);
        self.answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.answers.truncate(top_k);
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(spans: &[Span]) -> Vec<(usize, usize)> {
        spans.iter().map(|span| (span.start, span.end)).collect()
    }

    #[test]
    fn spans_are_the_best_that_are_short_enough() {
        let start = [0.0, 0.5, 0.3, 0.2];
        let end = [0.0, 0.1, 0.2, 0.7];
        let of = |wanted, len| pairs(&decode_spans(&start, &end, wanted, len));
        assert_eq!(of(3, 15), [(1, 3), (2, 3), (3, 3)]);
        assert_eq!(of(3, 2), [(2, 3), (3, 3), (1, 2)]);
        assert_eq!(of(1, 1), [(3, 3)]);
        // Six spans, then impossible ones, in order.
        assert_eq!(of(9, 15)[6..], [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(of(99, 15).len(), 16);
        assert!(decode_spans(&[], &[], 12, 15).is_empty());
    }

    #[test]
    fn equal_spans_come_in_order() {
        let start = [0.0, 0.5, 0.5];
        let end = [0.0, 0.5, 0.5];
        assert_eq!(pairs(&decode_spans(&start, &end, 2, 15)), [(1, 1), (1, 2)]);
    }

    #[test]
    fn tokens_outside_the_context_are_never_answers() {
        // [CLS] question [SEP] context context [SEP]
        let allowed = [true, false, false, true, true, false];
        let start = [1.0, 9.0, 9.0, 2.0, 0.0, 9.0];
        let end = [1.0, 9.0, 9.0, 0.0, 2.0, 9.0];
        let limits = Limits { top_k: 1, max_answer_len: 15 };
        let WindowSpans { spans, null_score } = best_spans(&start, &end, &allowed, limits);
        assert_eq!(pairs(&spans)[..3], [(3, 4), (3, 3), (4, 4)]);
        assert!(spans.iter().all(|span| allowed[span.start] && allowed[span.end]));
        let total = 1f64.exp() + 2f64.exp() + 1.0;
        assert!((null_score - (1f64.exp() / total).powi(2)).abs() < 1e-7);
        assert!((f64::from(spans[0].score) - (2f64.exp() / total).powi(2)).abs() < 1e-7);
    }

    #[test]
    fn an_empty_context_leaves_the_first_token() {
        let limits = Limits { top_k: 1, max_answer_len: 15 };
        let spans = best_spans(&[3.0; 4], &[3.0; 4], &[true, false, false, false], limits).spans;
        assert_eq!(spans, [Span { start: 0, end: 0, score: 0.0 }]);
    }

    #[test]
    fn equal_answers_are_merged() {
        let mut answers = Answers::default();
        answers.push("Anna", 2..6, 0.25);
        answers.push("Kowalska", 7..15, 0.375);
        answers.push("ANNA", 20..24, 0.25);
        let best = answers.best(3, Some(0.0625));
        assert_eq!(
            best,
            [
                Answer { answer: "Anna", score: 0.5, start: 2, end: 6 },
                Answer { answer: "Kowalska", score: 0.375, start: 7, end: 15 },
                Answer { answer: "", score: 0.0625, start: 0, end: 0 },
            ]
        );
        let mut answers = Answers::default();
        answers.push("first", 0..5, 0.5);
        answers.push("second", 6..12, 0.5);
        assert_eq!(answers.best(1, None)[0].answer, "first");
    }
}
