//! Beam search for one row.
//!
//! # Source
//! `_beam_search` and its helpers in `src/transformers/generation/utils.py` at v4.57, for a batch of one. Scores are f32 and are added in the same order, including the −10⁹ for excluded beams.

use super::config::{EarlyStopping, GenerationConfig};
use super::logits::{Candidate, Processors, RowScores};
use crate::nn::log_softmax;

/// The score offset of a beam that must not win.
const UNWANTED: f32 = -1.0e9;

/// A running or finished sequence.
#[derive(Clone, Debug)]
struct Beam {
    /// The decoder's tokens, including the prompt.
    ids: Vec<u32>,
    score: f32,
    /// Whether the sequence has ended. Unfinished sequences fill the list until enough have finished.
    finished: bool,
}

/// A continuation of a running beam by one token.
#[derive(Clone, Copy, Debug)]
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
    /// Whether the sequence ends with this token.
    ends: bool,
}

/// The beams of one row.
#[derive(Debug)]
pub(super) struct BeamSearch {
    /// The encoder's input, or the prompt of a decoder without an encoder.
    input: Vec<u32>,
    /// Tokens of the decoder's prompt.
    prompt: usize,
    max_length: usize,
    running: Vec<Beam>,
    /// Sorted, best first.
    finished: Vec<Beam>,
}

/// For each running beam after a step: the beam that it continues, and its new token.
pub(super) type Next = Vec<(usize, u32)>;

impl BeamSearch {
    /// Starts a search from the decoder's `prompt`, with sequences of at most `max_length` tokens. `input` is as in
    /// [`Processors::new`].
    pub(super) fn new(
        num_beams: usize,
        input: Vec<u32>,
        prompt: Vec<u32>,
        max_length: usize,
    ) -> Self {
        let beam = |ids: Vec<u32>, score| Beam { ids, score, finished: false };
        // All beams start identical. Only the first one has a usable score, so that they diverge.
        let running = (0..num_beams)
            .map(|i| beam(prompt.clone(), if i == 0 { 0.0 } else { UNWANTED }))
            .collect();
        let finished = vec![beam(prompt.clone(), UNWANTED); num_beams];
        Self { input, prompt: prompt.len(), max_length, running, finished }
    }

    /// The number of continuations to choose from: enough to continue all beams, even if every end token is among the
    /// best.
    fn keep(&self, config: &GenerationConfig) -> usize {
        self.running.len() * (1 + config.eos_token_id.len()).max(2)
    }

    fn processors<'a>(&'a self, config: &'a GenerationConfig) -> Processors<'a> {
        Processors::new(config, &self.input, self.prompt, self.max_length)
    }

    /// The number of largest logits of each beam that the next step needs; `None` for all.
    pub(super) fn candidates(&self, config: &GenerationConfig) -> Option<usize> {
        let (processors, keep) = (self.processors(config), self.keep(config));
        let counts = self.running.iter().map(|beam| processors.candidates(&beam.ids, keep));
        counts.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The best continuations of all beams.
    fn continuations(
        &self,
        scores: RowScores<'_>,
        vocab_size: usize,
        config: &GenerationConfig,
    ) -> Vec<Continuation> {
        let processors = self.processors(config);
        let keep = self.keep(config).min(self.running.len().saturating_mul(vocab_size));
        let beams = self.running.iter().enumerate();
        match scores {
            RowScores::All(logits) => {
                let given = logits.len() / vocab_size;
                for (row, beam) in logits.chunks_exact_mut(vocab_size).zip(&self.running) {
                    log_softmax(row);
                    processors.process(&beam.ids, row);
                    processors.renormalize(row);
                }
                let rows = beams.map(|(i, beam)| {
                    let row = &logits[i.min(given - 1) * vocab_size..][..vocab_size];
                    (beam.score, (0..).zip(row.iter().copied()))
                });
                best_continuations(rows, keep)
            }
            RowScores::Best(outputs) => {
                let rows = beams.map(|(i, beam)| {
                    let mut row = outputs[i.min(outputs.len() - 1)].clone().log_softmax();
                    processors.process_candidates(&beam.ids, &mut row);
                    // By token id, so that ties are broken as among all scores.
                    row.sort_unstable_by_key(|(token, _)| *token);
                    (beam.score, row.into_iter())
                });
                best_continuations(rows, keep)
            }
        }
    }

    /// Advances all beams by one token. `scores` are the logits of each running beam or, in the first step, one row for all
    /// beams. `stops` returns whether a sequence ends with a stop string. Returns `None` when the search has ended.
    pub(super) fn step(
        &mut self,
        scores: RowScores<'_>,
        vocab_size: usize,
        config: &GenerationConfig,
        stops: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Option<Next> {
        let num_beams = self.running.len();
        let mut best = self.continuations(scores, vocab_size, config);

        let length = self.running[0].ids.len() + 1;
        for continuation in &mut best {
            let mut ids = self.running[continuation.beam].ids.clone();
            ids.push(continuation.token);
            continuation.ends = length >= self.max_length
                || config.eos_token_id.contains(&continuation.token)
                || stops(&ids);
        }
        self.finish(&best, length, config);

        let mut order: Vec<(f32, &Continuation)> =
            best.iter().map(|c| (if c.ends { c.score + UNWANTED } else { c.score }, c)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: ties keep the order of the beams
        let next: Vec<(f32, Continuation)> =
            order.into_iter().take(num_beams).map(|(score, c)| (score, *c)).collect();
        self.running = next
            .iter()
            .map(|(score, c)| {
                let mut ids = self.running[c.beam].ids.clone();
                ids.push(c.token);
                Beam { ids, score: *score, finished: false }
            })
            .collect();

        let goes_on = self.may_improve(length, config)
            && !(config.early_stopping == EarlyStopping::Full && self.is_full())
            && !best.iter().all(|c| c.ends);
        goes_on.then(|| next.iter().map(|(_, c)| (c.beam, c.token)).collect())
    }

    /// Adds ended continuations to the finished sequences if they are among the best.
    fn finish(&mut self, best: &[Continuation], length: usize, config: &GenerationConfig) {
        let num_beams = self.finished.len();
        let generated = (length - self.prompt) as f64;
        let divisor = generated.powf(config.length_penalty) as f32;
        let closed = config.early_stopping == EarlyStopping::Full && self.is_full();
        for (place, continuation) in best.iter().enumerate() {
            let just_finished = continuation.ends && place < num_beams;
            let mut score = continuation.score / divisor;
            if closed {
                score += UNWANTED;
            }
            if !just_finished {
                score += UNWANTED;
            }
            let mut ids = self.running[continuation.beam].ids.clone();
            ids.push(continuation.token);
            self.finished.push(Beam { ids, score, finished: just_finished });
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(num_beams);
    }

    fn is_full(&self) -> bool {
        self.finished.iter().all(|beam| beam.finished)
    }

    /// Whether the best running beam may still score better than the worst finished one.
    fn may_improve(&self, length: usize, config: &GenerationConfig) -> bool {
        let to_the_end =
            config.early_stopping == EarlyStopping::Never && config.length_penalty > 0.0;
        let generated = if to_the_end { self.max_length } else { length } - self.prompt;
        let divisor = (generated as f64).powf(config.length_penalty) as f32;
        let possible = self.running[0].score / divisor;
        let worst = self.finished.last().map_or(UNWANTED, |beam| beam.score);
        self.finished.iter().any(|beam| possible > if beam.finished { worst } else { UNWANTED })
    }

    /// The number of tokens in the decoder's prompt.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt
    }

    /// The `count` best sequences, best first: the tokens, those of the prompt included, and the score.
    pub(super) fn best(self, count: usize) -> impl Iterator<Item = (Vec<u32>, f32)> {
        self.finished.into_iter().take(count).map(|beam| (beam.ids, beam.score))
    }
}

/// The `keep` best continuations over all beams and tokens, best first; ties go to the first.
fn best_continuations(
    beams: impl Iterator<Item = (f32, impl Iterator<Item = Candidate>)>,
    keep: usize,
) -> Vec<Continuation> {
    let mut best: Vec<Continuation> = Vec::with_capacity(keep.min(1 << 16) + 1);
    for (beam, (so_far, scores)) in beams.enumerate() {
        for (token, score) in scores {
            let score = score + so_far;
            if best.len() == keep && best.last().is_some_and(|last| score <= last.score) {
                continue;
            }
            let place = best.partition_point(|c| c.score >= score);
            best.insert(place, Continuation { beam, token, score, ends: false });
            best.truncate(keep);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_continuations_are_sorted_and_the_first_of_equal_ones() {
        let (a, b) = ([1.0, 5.0, 3.0], [4.0, 2.0, 5.0]);
        let row = |scores: [f32; 3]| (0..).zip(scores);
        let best = best_continuations([(0.0, row(a)), (1.0, row(b))].into_iter(), 4);
        let found: Vec<(usize, u32)> = best.iter().map(|c| (c.beam, c.token)).collect();
        assert_eq!(found, [(1, 2), (0, 1), (1, 0), (0, 2)]);
        let few = best_continuations([(0.0, row(a))].into_iter(), 9);
        assert_eq!(few.len(), 3);
    }

    #[test]
    fn a_beam_that_is_second_at_first_may_win() {
        // Token 1 is likelier first, but what follows token 2 is certain.
        let config =
            GenerationConfig { num_beams: 2, eos_token_id: vec![0], ..GenerationConfig::default() };
        let ln = |p: f32| p.ln();
        let mut search = BeamSearch::new(2, vec![3], vec![3], 4);
        let mut stops = |_: &[u32]| false;
        let mut first = [ln(0.01), ln(0.5), ln(0.45), ln(0.04)];
        let next = search.step(RowScores::All(&mut first), 4, &config, &mut stops).unwrap();
        assert_eq!(next, [(0, 1), (0, 2)]);
        let mut second =
            [ln(0.1), ln(0.4), ln(0.3), ln(0.2), ln(0.97), ln(0.01), ln(0.01), ln(0.01)];
        let next = search.step(RowScores::All(&mut second), 4, &config, &mut stops);
        assert!(next.is_some(), "a second finished beam may come");
        let mut third = [ln(0.25); 8];
        let next = search.step(RowScores::All(&mut third), 4, &config, &mut stops);
        assert_eq!(next, None, "max_length");
        let best: Vec<(Vec<u32>, f32)> = search.best(2).collect();
        assert_eq!(best.len(), 2);
        assert!(best[0].1 >= best[1].1, "{best:?}");
        let (ids, score) = &best[0];
        assert_eq!(ids, &[3, 2, 0]);
        assert!((score - f32::midpoint(ln(0.45), ln(0.97))).abs() < 1e-6, "{score}");
    }
}
