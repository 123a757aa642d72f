//! Logits processors and warpers, in transformers' order and with its formulas. They change scores before a token is
//! chosen.
//!
//! # Source
//! `logits_process.py`, and `_get_logits_processor` in `utils.py`, of `src/transformers/generation` at v4.57.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::config::GenerationConfig;
use crate::nn::{BestOutputs, log_softmax};

/// The logits processors of one row. [`warp`] has the warpers, which only sampling uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processors<'a> {
    config: &'a GenerationConfig,
    /// The encoder's input, or the prompt of a decoder without an encoder.
    input: &'a [u32],
    /// The number of tokens in the decoder's prompt.
    prompt: usize,
    min_length: usize,
    max_length: usize,
}

impl<'a> Processors<'a> {
    /// Creates the processors of a row with a prompt of `prompt` tokens, which ends at `max_length`. `input` is the encoder's
    /// input, or the prompt of a decoder without an encoder.
    pub(super) fn new(
        config: &'a GenerationConfig,
        input: &'a [u32],
        prompt: usize,
        max_length: usize,
    ) -> Self {
        Self { config, input, prompt, min_length: config.min_total_tokens(prompt), max_length }
    }

    /// Changes `scores`, one per token of the vocabulary. `ids` are the decoder's tokens, including the prompt.
    pub(super) fn process(&self, ids: &[u32], scores: &mut [f32]) {
        let config = self.config;
        #[expect(clippy::float_cmp, reason = "exactly 1 is no penalty")]
        if config.encoder_repetition_penalty != 1.0 {
            let penalty = (1.0 / config.encoder_repetition_penalty) as f32;
            repetition_penalty(penalty, self.input, scores);
        }
        #[expect(clippy::float_cmp, reason = "exactly 1 is no penalty")]
        if config.repetition_penalty != 1.0 {
            repetition_penalty(config.repetition_penalty, ids, scores);
        }
        forbid(&self.unwanted(ids), scores);
        if let Some(forced) = self.forced(ids) {
            force(forced, scores);
        }
        if let Some((start, factor)) = config.exponential_decay_length_penalty
            && ids.len() > start.saturating_add(self.prompt)
        {
            let tokens = (ids.len() - start - self.prompt) as f64;
            favour(&config.eos_token_id, (factor.powf(tokens) - 1.0) as f32, scores);
        }
        self.suppressed(ids).for_each(|tokens| forbid(tokens, scores));
    }

    /// The tokens that repetitions, `bad_words_ids` and the minimum length forbid after `ids`.
    fn unwanted(&self, ids: &[u32]) -> Vec<u32> {
        let config = self.config;
        let mut unwanted = Vec::new();
        if config.no_repeat_ngram_size > 0 {
            unwanted.extend(repeating(config.no_repeat_ngram_size, ids, ids));
        }
        if config.encoder_no_repeat_ngram_size > 0 {
            unwanted.extend(repeating(config.encoder_no_repeat_ngram_size, self.input, ids));
        }
        let bad = config.bad_words_ids.iter();
        unwanted.extend(bad.filter_map(|words| bad_word(words, &config.eos_token_id, ids)));
        if ids.len() < self.min_length {
            unwanted.extend(&config.eos_token_id);
        }
        unwanted
    }

    /// The only tokens that may follow `ids`, if generation is forced at this position.
    fn forced(&self, ids: &[u32]) -> Option<&'a [u32]> {
        let config = self.config;
        let is_last = ids.len() + 1 == self.max_length;
        if !config.forced_eos_token_id.is_empty() && is_last {
            return Some(&config.forced_eos_token_id);
        }
        let bos = config.forced_bos_token_id.as_slice();
        (!bos.is_empty() && ids.len() == 1).then_some(bos)
    }

    /// The tokens that `suppress_tokens` and `begin_suppress_tokens` forbid after `ids`.
    fn suppressed(&self, ids: &[u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        let config = self.config;
        let begin = if self.prompt > 1 || config.forced_bos_token_id.is_none() {
            self.prompt
        } else {
            self.prompt + 1
        };
        let first = (ids.len() == begin).then_some(&config.begin_suppress_tokens[..]);
        [Some(&config.suppress_tokens[..]), first].into_iter().flatten()
    }

    /// The number of largest scores among which the `keep` largest ones after [`Processors::process`] are; `None` if all
    /// scores are needed.
    pub(super) fn candidates(&self, ids: &[u32], keep: usize) -> Option<usize> {
        let config = self.config;
        #[expect(clippy::float_cmp, reason = "exactly 1 is no penalty")]
        let raises = config.encoder_repetition_penalty != 1.0
            || config.repetition_penalty < 1.0
            || config.exponential_decay_length_penalty.is_some();
        if raises || config.renormalize_logits || self.forced(ids).is_some() {
            return None;
        }
        let penalized = if config.repetition_penalty > 1.0 { ids.len() } else { 0 };
        let suppressed: usize = self.suppressed(ids).map(<[u32]>::len).sum();
        let count = keep.saturating_add(penalized + suppressed);
        // The unwanted tokens are slow to find: only if there are not too many candidates without them.
        let count = (count <= MAX_CANDIDATES).then(|| count + self.unwanted(ids).len())?;
        (count <= MAX_CANDIDATES).then_some(count)
    }

    /// Changes the scores of candidates as [`Processors::process`] does, and sorts them: largest first; of equal ones, the
    /// first token first. There are as many as [`Processors::candidates`] says.
    pub(super) fn process_candidates(&self, ids: &[u32], candidates: &mut [Candidate]) {
        let penalty = self.config.repetition_penalty;
        let unwanted = self.unwanted(ids);
        for (id, score) in &mut *candidates {
            #[expect(clippy::float_cmp, reason = "exactly 1 is no penalty")]
            if penalty != 1.0 && ids.contains(id) {
                *score = penalized(penalty, *score);
            }
            if unwanted.contains(id) || self.suppressed(ids).any(|tokens| tokens.contains(id)) {
                *score = f32::NEG_INFINITY;
            }
        }
        let descending = |a: &Candidate, b: &Candidate| b.1.partial_cmp(&a.1);
        candidates.sort_by(|a, b| descending(a, b).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0)));
    }

    /// Normalizes processed scores again if the settings request it: the logarithms of probabilities that add up to 1.
    pub(super) fn renormalize(&self, scores: &mut [f32]) {
        // Without any allowed token there is nothing to normalize.
        if self.config.renormalize_logits && scores.iter().any(|score| score.is_finite()) {
            log_softmax(scores);
        }
    }
}

/// More candidates than this take longer to sort than all scores to compute.
const MAX_CANDIDATES: usize = 64;

/// Raises the scores of `ids` by `share` of their absolute values.
fn favour(ids: &[u32], share: f32, scores: &mut [f32]) {
    for &id in ids.iter().collect::<BTreeSet<_>>() {
        if let Some(score) = scores.get_mut(id as usize).filter(|score| score.is_finite()) {
            *score += score.abs() * share;
        }
    }
}

fn forbid(ids: &[u32], scores: &mut [f32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn force(ids: &[u32], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}

fn repetition_penalty(penalty: f32, ids: &[u32], scores: &mut [f32]) {
    let mut seen = ids.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = penalized(penalty, *score);
        }
    }
}

fn penalized(penalty: f32, score: f32) -> f32 {
    if score < 0.0 { score * penalty } else { score / penalty }
}

/// Every token that would repeat, after `ids`, an n-gram of `size` tokens of `text`.
fn repeating(size: usize, text: &[u32], ids: &[u32]) -> impl Iterator<Item = u32> {
    let begun = (ids.len() + 1).checked_sub(size).map(|start| &ids[start..]);
    text.windows(size).filter_map(move |group| {
        let (last, start) = group.split_last()?;
        (begun == Some(start)).then_some(*last)
    })
}

/// The token that would end the bad word `words` after `ids`.
fn bad_word(words: &[u32], eos_token_id: &[u32], ids: &[u32]) -> Option<u32> {
    match words {
        [] => None,
        [word] => (!eos_token_id.contains(word)).then_some(*word),
        [start @ .., last] => (words.len() <= ids.len() && ids.ends_with(start)).then_some(*last),
    }
}

/// The logits of a row, or of each beam of a row.
#[derive(Debug)]
pub(super) enum RowScores<'a> {
    /// All of them; they are overwritten.
    All(&'a mut [f32]),
    /// As many of the largest as [`Processors::candidates`] asks for.
    Best(&'a [BestOutputs]),
}

impl RowScores<'_> {
    /// The number of rows of logits.
    pub(super) fn rows(&self, vocab_size: usize) -> usize {
        match self {
            Self::All(logits) => logits.len() / vocab_size,
            Self::Best(best) => best.len(),
        }
    }
}

/// A token, and its score.
pub(super) type Candidate = (u32, f32);

/// The tokens that may be sampled, by token id, with their scores: applies temperature, `top_k`, `top_p` and `min_p` in
/// this order. None if every token is forbidden.
pub(super) fn warp(config: &GenerationConfig, scores: &[f32]) -> Vec<Candidate> {
    #[expect(clippy::float_cmp, reason = "exactly 1 changes nothing")]
    let temperature = config.temperature.filter(|t| *t != 1.0);
    let scaled = |score: f32| temperature.map_or(score, |t| score / t);
    let least = match config.top_k {
        // Division by a positive number preserves the order of scores.
        Some(top_k) if top_k < scores.len() => kth_largest(scores, top_k),
        _ => f32::NEG_INFINITY,
    };
    let mut candidates: Vec<Candidate> = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| **score >= least && **score > f32::NEG_INFINITY)
        .map(|(id, score)| (id as u32, scaled(*score)))
        .collect();
    if let Some(top_p) = config.top_p.filter(|p| *p < 1.0) {
        keep_top_p(top_p, &mut candidates);
    }
    if let Some(min_p) = config.min_p {
        keep_min_p(min_p, &mut candidates);
    }
    candidates
}

/// The `k`-th largest of `scores`; `k` is from 1 to their number.
fn kth_largest(scores: &[f32], k: usize) -> f32 {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let mut best: Vec<f32> = Vec::with_capacity(2 * k);
    let mut least = f32::NEG_INFINITY;
    for &score in scores {
        // Ties count. A score not larger than `k` others cannot change the k-th largest.
        if best.len() < k || score > least {
            best.push(score);
            if best.len() == 2 * k {
                least = *best.select_nth_unstable_by(k - 1, descending).1;
                best.truncate(k);
            }
        }
    }
    *best.select_nth_unstable_by(k - 1, descending).1
}

/// The exponentials of the candidates' scores, and their sum.
pub(super) fn exponentials(candidates: &[Candidate]) -> (Vec<f64>, f64) {
    let max = candidates.iter().fold(f32::NEG_INFINITY, |max, (_, score)| max.max(*score));
    let exps: Vec<f64> =
        candidates.iter().map(|(_, score)| f64::from((score - max).exp())).collect();
    let sum = exps.iter().sum();
    (exps, sum)
}

/// Keeps the most likely candidates with a total probability of `top_p`, but at least one.
fn keep_top_p(top_p: f64, candidates: &mut Vec<Candidate>) {
    let (exps, sum) = exponentials(candidates);
    let tail = 1.0 - top_p;
    // Even `n` candidates below this bound would not exceed the tail, so they are removed without sorting. The factor
    // allows for rounding.
    let negligible = tail * sum / candidates.len() as f64 * (1.0 - 1e-6);
    let mut sorted: Vec<usize> = (0..exps.len()).filter(|&i| exps[i] > negligible).collect();
    sorted.sort_by(|&a, &b| exps[a].total_cmp(&exps[b]).then(a.cmp(&b)));
    let mut cumulative: f64 = exps.iter().filter(|exp| **exp <= negligible).sum();
    let mut kept: Vec<usize> = Vec::new();
    for (place, &i) in sorted.iter().enumerate() {
        cumulative += exps[i];
        // As in transformers, the comparison is in f32. The most likely candidate always stays.
        let removed = (cumulative / sum) as f32 <= tail as f32;
        if !removed || place + 1 == sorted.len() {
            kept.extend(&sorted[place..]);
            break;
        }
    }
    kept.sort_unstable();
    *candidates = kept.into_iter().map(|i| candidates[i]).collect();
}

/// Keeps candidates at least `min_p` times as likely as the most likely one.
fn keep_min_p(min_p: f64, candidates: &mut Vec<Candidate>) {
    let (exps, sum) = exponentials(candidates);
    let top = exps.iter().copied().fold(0.0, f64::max);
    let least = (min_p as f32) * (top / sum) as f32;
    let mut exps = exps.into_iter();
    // The most likely candidate has an exponential of 1.
    candidates.retain(|_| exps.next().is_some_and(|exp| (exp / sum) as f32 >= least || exp >= top));
}

/// The token with the highest score; ties go to the first.
pub(super) fn argmax(scores: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (id, score);
        }
    }
    best.0 as u32
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "scores are set, halved or doubled")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NO: f32 = f32::NEG_INFINITY;

    fn processed(config: &GenerationConfig, prompt: usize, ids: &[u32]) -> Vec<f32> {
        let mut scores = vec![1.0, -2.0, 3.0, -4.0, 5.0];
        let processors = Processors::new(config, &ids[..prompt], prompt, 8);
        processors.process(ids, &mut scores);
        processors.renormalize(&mut scores);
        scores
    }

    #[test]
    fn processors_change_the_scores_that_they_should() {
        let default = GenerationConfig::default();
        assert_eq!(processed(&default, 1, &[0, 1]), [1.0, -2.0, 3.0, -4.0, 5.0]);

        let config = GenerationConfig { repetition_penalty: 2.0, ..default.clone() };
        assert_eq!(processed(&config, 1, &[1, 4, 1]), [1.0, -4.0, 3.0, -4.0, 2.5]);

        let config = GenerationConfig { no_repeat_ngram_size: 2, ..default.clone() };
        assert_eq!(processed(&config, 1, &[1, 4, 1, 0, 1]), [NO, -2.0, 3.0, -4.0, NO]);
        let config = GenerationConfig { no_repeat_ngram_size: 1, ..default.clone() };
        assert_eq!(processed(&config, 1, &[1, 4]), [1.0, NO, 3.0, -4.0, NO]);
        let config = GenerationConfig { no_repeat_ngram_size: 4, ..default.clone() };
        assert_eq!(processed(&config, 1, &[1, 1]), [1.0, -2.0, 3.0, -4.0, 5.0]);
        assert_eq!(processed(&config, 1, &[1; 4]), [1.0, NO, 3.0, -4.0, 5.0]);

        let config = GenerationConfig {
            bad_words_ids: vec![vec![2], vec![3], vec![0, 1, 4]],
            eos_token_id: vec![3],
            ..default.clone()
        };
        assert_eq!(processed(&config, 1, &[2, 0, 1]), [1.0, -2.0, NO, -4.0, NO]);
        assert_eq!(processed(&config, 1, &[0, 1]), [1.0, -2.0, NO, -4.0, 5.0]);

        let ends = GenerationConfig { eos_token_id: vec![0, 2], ..default.clone() };
        let config = GenerationConfig { min_length: 3, ..ends.clone() };
        assert_eq!(processed(&config, 2, &[1, 1]), [NO, -2.0, NO, -4.0, 5.0]);
        assert_eq!(processed(&config, 2, &[1; 3]), [1.0, -2.0, 3.0, -4.0, 5.0]);
        let config = GenerationConfig { min_new_tokens: Some(3), ..ends };
        assert_eq!(processed(&config, 2, &[1; 4]), [NO, -2.0, NO, -4.0, 5.0]);
        assert_eq!(processed(&config, 2, &[1; 5]), [1.0, -2.0, 3.0, -4.0, 5.0]);

        let config = GenerationConfig {
            forced_bos_token_id: Some(3),
            forced_eos_token_id: vec![1, 2],
            ..default.clone()
        };
        assert_eq!(processed(&config, 1, &[0]), [NO, NO, NO, 0.0, NO]);
        assert_eq!(processed(&config, 1, &[0; 7]), [NO, 0.0, 0.0, NO, NO]);
        assert_eq!(processed(&config, 1, &[0; 6]), [1.0, -2.0, 3.0, -4.0, 5.0]);

        let config = GenerationConfig {
            suppress_tokens: vec![4],
            begin_suppress_tokens: vec![0],
            ..default
        };
        assert_eq!(processed(&config, 2, &[1, 1]), [NO, -2.0, 3.0, -4.0, NO]);
        assert_eq!(processed(&config, 2, &[1; 3]), [1.0, -2.0, 3.0, -4.0, NO]);
    }

    #[test]
    fn what_a_prompt_or_the_length_asks_for_changes_the_scores() {
        let default = GenerationConfig::default();
        // Tokens of the prompt: positive scores are multiplied, negative ones divided.
        let config = GenerationConfig { encoder_repetition_penalty: 2.0, ..default.clone() };
        assert_eq!(processed(&config, 2, &[2, 3, 4]), [1.0, -2.0, 6.0, -2.0, 5.0]);
        let config = GenerationConfig { encoder_no_repeat_ngram_size: 2, ..default.clone() };
        assert_eq!(processed(&config, 3, &[1, 4, 2, 1]), [1.0, -2.0, 3.0, -4.0, NO]);
        let config = GenerationConfig {
            exponential_decay_length_penalty: Some((1, 2.0)),
            eos_token_id: vec![3, 3, 2],
            ..default.clone()
        };
        assert_eq!(processed(&config, 1, &[0; 2]), [1.0, -2.0, 3.0, -4.0, 5.0]);
        assert_eq!(processed(&config, 1, &[0; 4]), [1.0, -2.0, 12.0, 8.0, 5.0]);
        let config = GenerationConfig { min_length: 9, ..config };
        assert_eq!(processed(&config, 1, &[0; 4]), [1.0, -2.0, NO, NO, 5.0]);
        let config = GenerationConfig {
            renormalize_logits: true,
            suppress_tokens: vec![0, 1, 3],
            ..default
        };
        let scores = processed(&config, 1, &[0]);
        let sum: f32 = scores.iter().map(|score| score.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && scores[0] == NO, "{scores:?}");
        let all = GenerationConfig { suppress_tokens: (0..5).collect(), ..config };
        assert_eq!(processed(&all, 1, &[0]), [NO; 5]);
    }

    /// The largest scores after the processors are found among the candidates, whatever the settings forbid or lower.
    #[test]
    fn candidates_are_enough_for_the_largest_scores() {
        let scores: Vec<f32> = (0..300).map(|i| ((i * 7919) % 61) as f32 * 0.5 - 12.0).collect();
        let mut largest: Vec<Candidate> = (0..).zip(scores.iter().copied()).collect();
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        // Repeats itself, so that n-grams are forbidden, and has some of the largest scores.
        let first: Vec<u32> = largest[..4].iter().map(|(id, _)| *id).collect();
        let ids = [&first[..], &[250, 9], &first[..]].concat();
        let default = GenerationConfig::default();
        let forbidden = GenerationConfig {
            bad_words_ids: vec![vec![largest[0].0], vec![first[3], largest[5].0]],
            suppress_tokens: vec![largest[2].0, 17],
            eos_token_id: vec![largest[1].0],
            min_new_tokens: Some(20),
            ..default.clone()
        };
        let repeats = GenerationConfig {
            no_repeat_ngram_size: 2,
            encoder_no_repeat_ngram_size: 1,
            ..default.clone()
        };
        let penalized = GenerationConfig { repetition_penalty: 1.5, ..forbidden.clone() };
        for (config, more) in [(&default, 0), (&forbidden, 5), (&repeats, 5), (&penalized, 15)] {
            let processors = Processors::new(config, &ids[..4], 3, 100);
            for keep in [1, 3, 8] {
                let count = processors.candidates(&ids, keep).unwrap();
                assert_eq!(count, keep + more, "{config:?}");
                let mut all = scores.clone();
                processors.process(&ids, &mut all);
                let mut sorted: Vec<Candidate> = (0..).zip(all).collect();
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                let mut candidates = largest[..count].to_vec();
                processors.process_candidates(&ids, &mut candidates);
                assert_eq!(candidates[..keep], sorted[..keep], "{keep} {config:?}");
            }
        }
        let needs_all = |config: GenerationConfig| {
            let processors = Processors::new(&config, &[], 1, 5);
            assert_eq!(processors.candidates(&[3, 4, 5, 6], 1), None, "{config:?}");
        };
        needs_all(GenerationConfig { repetition_penalty: 0.9, ..default.clone() });
        needs_all(GenerationConfig { encoder_repetition_penalty: 1.1, ..default.clone() });
        needs_all(GenerationConfig { renormalize_logits: true, ..default.clone() });
        needs_all(GenerationConfig { forced_eos_token_id: vec![2], ..default.clone() });
        needs_all(GenerationConfig { suppress_tokens: (0..100).collect(), ..default });
    }

    #[test]
    fn the_kth_largest_is_that_of_the_sorted_scores() {
        let scores: Vec<f32> = (0..257).map(|i| ((i * 97) % 101) as f32).collect();
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for k in 1..=scores.len() {
            assert_eq!(kth_largest(&scores, k), sorted[k - 1], "{k}");
        }
    }

    #[test]
    fn warpers_keep_the_likeliest_and_at_least_one() {
        let off = GenerationConfig { top_k: None, ..GenerationConfig::default() };
        let ids = |config: &GenerationConfig, scores: &[f32]| -> Vec<u32> {
            warp(config, scores).into_iter().map(|(id, _)| id).collect()
        };
        let scores = [0.0, 3.0, NO, 2.0, 3.0];
        assert_eq!(ids(&off, &scores), [0, 1, 3, 4]);
        // Ties of the k-th are kept, as in transformers.
        assert_eq!(ids(&GenerationConfig { top_k: Some(1), ..off.clone() }, &scores), [1, 4]);
        assert_eq!(ids(&GenerationConfig { top_p: Some(0.5), ..off.clone() }, &scores), [1, 4]);
        assert_eq!(ids(&GenerationConfig { top_p: Some(0.0), ..off.clone() }, &scores).len(), 1);
        assert_eq!(ids(&GenerationConfig { min_p: Some(0.3), ..off.clone() }, &scores), [1, 3, 4]);
        assert_eq!(ids(&GenerationConfig { min_p: Some(1.0), ..off.clone() }, &scores), [1, 4]);
        let hot = GenerationConfig { temperature: Some(2.0), ..off.clone() };
        assert_eq!(warp(&hot, &scores)[1], (1, 1.5));
        let nothing: [u32; 0] = [];
        assert_eq!(ids(&off, &[NO; 3]), nothing);
        let narrow = GenerationConfig { top_p: Some(0.5), min_p: Some(0.5), ..off.clone() };
        assert_eq!(ids(&narrow, &[NO; 3]), nothing);
    }

    #[test]
    fn the_first_of_equal_scores_is_the_largest() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[NO, NO]), 0);
    }

    /// Processed and warped scores against those of the list of processors that `generate()` builds.
    #[test]
    fn probabilities_agree_with_transformers() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/warpers/warpers.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 100, "{}", cases.len());
        for case in cases {
            let model = json!({"do_sample": true, "top_k": 0}).as_object().unwrap().clone();
            let options = case["options"].as_object().unwrap();
            let config = GenerationConfig::new(&model, options).unwrap();
            let mut scores: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
            Processors::new(&config, &ids, ids.len(), 1000).process(&ids, &mut scores);
            let candidates = warp(&config, &scores);
            let (exps, sum) = exponentials(&candidates);
            let mut ours = vec![None; scores.len()];
            for ((id, _), exp) in candidates.iter().zip(exps) {
                ours[*id as usize] = Some((exp / sum).ln());
            }
            let expected: Vec<Option<f64>> =
                serde_json::from_value(case["log_probabilities"].clone()).unwrap();
            let what = format!("{} {} after {ids:?}", case["name"], case["options"]);
            for (id, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                match (ours, expected) {
                    (None, None) => (),
                    (Some(ours), Some(expected)) if (ours - expected).abs() < 1e-5 => (),
                    _ => panic!("{what}: {ours:?} instead of {expected:?} for token {id}"),
                }
            }
        }
    }
}
