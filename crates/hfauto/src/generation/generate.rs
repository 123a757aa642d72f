//! The decoding loop: rows enter, advance token by token, and leave when they end.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use candle_core::Tensor;

use super::beams::BeamSearch;
use super::config::GenerationConfig;
use super::logits::{Processors, RowScores, argmax, warp};
use super::prefixes::{PrefixCache, shared_prefixes};
use super::sampling::RowGenerator;
use super::stop::StopStrings;
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::models::{Decoder, DecoderState};
use crate::nn::{BestOutputs, logits_to_host, not_finite};

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// The maximum number of tokens, or of the model's positions.
    Length,
}

impl FinishReason {
    /// The name in columns: `stop`, `length`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A row's generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The tokens after the prompt, including the end token.
    pub token_ids: Vec<u32>,
    /// Why the row ended.
    pub finish_reason: FinishReason,
    /// For beam search: the sum of log-probabilities, divided by the length to the power of `length_penalty`.
    pub sequences_score: Option<f32>,
    /// The other sequences that `num_return_sequences` asks for, best first; their own lists are empty.
    pub others: Vec<Self>,
}

/// Generates a continuation of each prompt; results are in the order of `prompts`.
///
/// Rows are decoded together as long as their maximum lengths, counted per beam, add up to at most `max_batch_tokens`.
/// At least one row is always admitted. An empty prompt of a decoder-only model starts with `bos_token_id`.
///
/// # Errors
/// `Config` when the model has no token to start an empty prompt or an encoder-decoder's sequence with; `Data` for a
/// prompt that leaves no room, or a row that may sample no token; `Model` for NaN logits; `Internal` when a tensor operation
/// fails.
pub fn generate(
    decoder: &dyn Decoder,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    max_batch_tokens: usize,
    stop: Option<&StopStrings<'_>>,
) -> Result<Vec<Generated>> {
    let prefixes = PrefixCache::default();
    generate_with_prefixes(decoder, prompts, config, max_batch_tokens, stop, &prefixes)
}

/// As [`generate`], with the prefixes that earlier calls have computed for this decoder. Their tokens count towards
/// `max_batch_tokens`.
///
/// # Errors
/// As [`generate`].
pub fn generate_with_prefixes(
    decoder: &dyn Decoder,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    max_batch_tokens: usize,
    stop: Option<&StopStrings<'_>>,
    prefixes: &PrefixCache,
) -> Result<Vec<Generated>> {
    for id in config.forced_bos_token_id.iter().chain(&config.forced_eos_token_id) {
        check_token(decoder, "forced_bos_token_id or forced_eos_token_id", *id)?;
    }
    let mut batch = Batch {
        decoder,
        config,
        stop,
        max_batch_tokens,
        prefixes,
        decoder_start: decoder_start(decoder, config)?,
        state: DecoderState::default(),
        slots: Vec::new(),
        tokens: Vec::new(),
        texts: HashMap::new(),
        results: Vec::new(),
    };
    // Samples are rows of their own.
    let copies = if config.do_sample { config.num_return_sequences } else { 1 };
    batch.results = (0..prompts.len() * copies).map(|_| None).collect();
    let rows = prompts.iter().enumerate().flat_map(|(place, prompt)| {
        let batch = &batch;
        (0..copies).map(move |copy| batch.row(place * copies + copy, copy as u64, prompt))
    });
    let mut waiting = batch.queue(rows.collect::<Result<_>>()?);
    loop {
        batch.admit(&mut waiting)?;
        if !batch.slots.is_empty() {
            batch.decode()?;
        } else if waiting.is_empty() {
            break;
        }
    }
    let missing = || Error::new(ErrorKind::Internal, "a row was not generated");
    let results = batch.results.into_iter().map(|result| result.ok_or_else(missing));
    let mut results = results.collect::<Result<Vec<_>>>()?.into_iter();
    let mut all = Vec::with_capacity(prompts.len());
    while let Some(first) = results.next() {
        let others = results.by_ref().take(copies - 1).chain(first.others);
        all.push(Generated { others: others.collect(), ..first });
    }
    Ok(all)
}

/// The initial decoder tokens of an encoder-decoder model.
fn decoder_start(decoder: &dyn Decoder, config: &GenerationConfig) -> Result<Vec<u32>> {
    if !decoder.is_encoder_decoder() {
        return Ok(Vec::new());
    }
    let start = config.decoder_start_token_id.or(config.bos_token_id);
    let start = start.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            "the model has neither `decoder_start_token_id` nor `bos_token_id` to begin with",
        )
    })?;
    check_token(decoder, "decoder_start_token_id", start)?;
    Ok(vec![start])
}

/// Checks that a token id of the model's settings is in the vocabulary.
fn check_token(decoder: &dyn Decoder, key: &str, id: u32) -> Result<()> {
    let vocab_size = decoder.vocab_size();
    if (id as usize) < vocab_size {
        return Ok(());
    }
    let message = format!(
        "`{key}` in the model's generation settings is {id}, but there are {vocab_size} tokens"
    );
    Err(Error::new(ErrorKind::Model, message))
}

/// A waiting row.
struct Row {
    /// Its index among the results.
    place: usize,
    /// The tokens to prefill: the decoder's prompt, or the encoder's input.
    prompt: Vec<u32>,
    /// The number of first tokens of the prompt that it shares with other rows.
    prefix: usize,
    /// The maximum number of its tokens in the caches.
    tokens: usize,
    search: Search,
}

/// A row in decoding, which has one decoder row, or one per beam.
struct Slot {
    place: usize,
    /// The number of decoder rows.
    rows: usize,
    tokens: usize,
    search: Search,
}

/// How the next tokens are chosen.
enum Search {
    Single(Single),
    Beams(BeamSearch),
}

/// Greedy decoding or sampling of one sequence.
struct Single {
    /// The encoder's input; empty for a decoder without an encoder, whose prompt begins `ids`.
    encoder_input: Vec<u32>,
    /// The decoder's tokens, including the prompt.
    ids: Vec<u32>,
    prompt: usize,
    max_length: usize,
    generator: Option<RowGenerator>,
}

/// The logits of all decoder rows.
enum Scores {
    All(Vec<f32>),
    Best(Vec<BestOutputs>),
}

impl Scores {
    fn of(&mut self, rows: Range<usize>, vocab_size: usize) -> RowScores<'_> {
        match self {
            Self::All(logits) => {
                RowScores::All(&mut logits[rows.start * vocab_size..rows.end * vocab_size])
            }
            Self::Best(best) => RowScores::Best(&best[rows]),
        }
    }
}

struct Batch<'a> {
    decoder: &'a dyn Decoder,
    config: &'a GenerationConfig,
    stop: Option<&'a StopStrings<'a>>,
    max_batch_tokens: usize,
    prefixes: &'a PrefixCache,
    decoder_start: Vec<u32>,
    state: DecoderState,
    slots: Vec<Slot>,
    /// The next input token of each decoder row.
    tokens: Vec<u32>,
    /// The texts of tokens, for stop strings.
    texts: HashMap<u32, String>,
    results: Vec<Option<Generated>>,
}

impl Batch<'_> {
    /// `copy` numbers the samples of a prompt.
    fn row(&self, place: usize, copy: u64, prompt: &[u32]) -> Result<Row> {
        let config = self.config;
        let encoder_decoder = self.decoder.is_encoder_decoder();
        let input = match (prompt, config.bos_token_id) {
            ([], Some(bos)) if !encoder_decoder => {
                check_token(self.decoder, "bos_token_id", bos)?;
                vec![bos]
            }
            ([], _) if !encoder_decoder => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "a prompt has no token and the model has no `bos_token_id` to begin with",
                ));
            }
            _ => prompt.to_vec(),
        };
        let ids = if encoder_decoder { self.decoder_start.clone() } else { input.clone() };
        let max_length = config.max_total_tokens(ids.len(), self.decoder.max_position_embeddings());
        if max_length <= ids.len() {
            return Err(Error::of_row(
                RowErrorKind::NoRoom,
                format!("a prompt of {} tokens leaves no room to generate", ids.len()),
            ));
        }
        let own = if encoder_decoder { input.len() + max_length } else { max_length };
        let search = if config.num_beams > 1 {
            Search::Beams(BeamSearch::new(config.num_beams, input.clone(), ids, max_length))
        } else {
            let seed = config.seed.wrapping_add(copy);
            let generator = config.do_sample.then(|| RowGenerator::new(seed, prompt));
            let encoder_input = if encoder_decoder { input.clone() } else { Vec::new() };
            let prompt = ids.len();
            Search::Single(Single { encoder_input, ids, prompt, max_length, generator })
        };
        Ok(Row { place, prompt: input, prefix: 0, tokens: own * config.num_beams, search })
    }

    /// Finds the prefixes that rows share. Rows with the same prefix wait one after the other, otherwise in the given order.
    fn queue(&self, mut rows: Vec<Row>) -> VecDeque<Row> {
        let sharing: Vec<usize> =
            (0..rows.len()).filter(|&i| self.may_share(&rows[i].prompt)).collect();
        let prompts: Vec<&[u32]> = sharing.iter().map(|&i| &rows[i].prompt[..]).collect();
        let lengths = shared_prefixes(&prompts, self.prefixes.min_tokens());
        // The first row of each prefix.
        let mut first = HashMap::new();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        for (&i, length) in sharing.iter().zip(&lengths).filter(|(_, length)| **length > 0) {
            order[i] = *first.entry(&rows[i].prompt[..*length]).or_insert(i);
        }
        for (i, length) in sharing.into_iter().zip(lengths) {
            rows[i].prefix = length;
        }
        let mut rows: Vec<(usize, Row)> = order.into_iter().zip(rows).collect();
        rows.sort_by_key(|(first, _)| *first);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// Whether the keys and values of the first tokens of `prompt` are those of another prompt with the same first tokens.
    fn may_share(&self, prompt: &[u32]) -> bool {
        self.decoder.shares_prefixes_up_to().is_none_or(|length| prompt.len() <= length)
    }

    /// The state after the prefix that `row` shares, and its length. Computes what is not known of it.
    fn prefix(&self, row: &Row) -> Result<Option<(usize, DecoderState)>> {
        if !self.may_share(&row.prompt) {
            return Ok(None);
        }
        let mut found = self.prefixes.find(&row.prompt).map_err(failed)?;
        let known = found.as_ref().map_or(0, |(length, _)| *length);
        let max_tokens = self.max_batch_tokens / 2;
        let missing = row.prefix.saturating_sub(known);
        if missing >= self.prefixes.min_tokens() && row.prefix <= max_tokens {
            let ids = &row.prompt[..row.prefix];
            let state = match found {
                Some((_, mut state)) => {
                    self.decoder.extend(&[&ids[known..]], &mut state).map_err(failed)?;
                    state
                }
                None => self.decoder.prefill(&[ids], &[]).map_err(failed)?.0,
            };
            let own = state.prefix(row.prefix, 1).map_err(failed)?;
            self.prefixes.insert(ids, state, max_tokens);
            self.prefixes.count(0, missing);
            found = Some((row.prefix, own));
        }
        self.prefixes.count(found.as_ref().map_or(0, |(length, _)| *length), 0);
        Ok(found)
    }

    /// Prefills waiting rows that fit into the token budget.
    fn admit(&mut self, waiting: &mut VecDeque<Row>) -> Result<()> {
        let decoding: usize = self.slots.iter().map(|slot| slot.tokens).sum();
        let mut tokens = decoding.saturating_add(self.prefixes.tokens());
        let mut admitted = Vec::new();
        while let Some(row) = waiting.front() {
            let first = self.slots.is_empty() && admitted.is_empty();
            if !first && tokens.saturating_add(row.tokens) > self.max_batch_tokens {
                break;
            }
            tokens = tokens.saturating_add(row.tokens);
            admitted.extend(waiting.pop_front());
        }
        if admitted.is_empty() {
            return Ok(());
        }
        let (mut alone, mut sharing) = (Vec::new(), Vec::new());
        let (mut suffixes, mut shared) = (Vec::new(), DecoderState::default());
        for row in admitted {
            if let Some((length, state)) = self.prefix(&row)? {
                suffixes.push(row.prompt[length..].to_vec());
                shared.extend(state);
                sharing.push(row);
            } else {
                alone.push(row);
            }
        }
        if !alone.is_empty() {
            let prompts: Vec<&[u32]> = alone.iter().map(|row| &row.prompt[..]).collect();
            let (state, states) =
                self.decoder.prefill_states(&prompts, &self.decoder_start).map_err(failed)?;
            self.enter(alone, &states, state)?;
        }
        if !sharing.is_empty() {
            let suffixes: Vec<&[u32]> = suffixes.iter().map(Vec::as_slice).collect();
            let states = self.decoder.extend_states(&suffixes, &mut shared).map_err(failed)?;
            self.enter(sharing, &states, shared)?;
        }
        Ok(())
    }

    /// Begins decoding rows whose prompts are read. `states` are the hidden states of their last tokens.
    fn enter(&mut self, rows: Vec<Row>, states: &Tensor, state: DecoderState) -> Result<()> {
        let slots = rows
            .into_iter()
            .map(|Row { place, tokens, search, .. }| Slot { place, rows: 1, tokens, search })
            .collect();
        let (slots, tokens, state) = self.advance(slots, states, state)?;
        self.slots.extend(slots);
        self.tokens.extend(tokens);
        self.state.extend(state);
        Ok(())
    }

    /// Decodes one step of every row.
    fn decode(&mut self) -> Result<()> {
        let mut state = std::mem::take(&mut self.state);
        let rows: Vec<&[u32]> = self.tokens.chunks(1).collect();
        let states = self.decoder.extend_states(&rows, &mut state).map_err(failed)?;
        let slots = std::mem::take(&mut self.slots);
        (self.slots, self.tokens, self.state) = self.advance(slots, &states, state)?;
        Ok(())
    }

    /// The logits after these hidden states: only the largest ones where all rows can choose from them.
    fn scores(&self, slots: &[Slot], states: &Tensor) -> Result<Scores> {
        let head = self.decoder.head();
        let counts = slots.iter().map(|slot| slot.search.candidates(self.config));
        if let Some(counts) = counts.collect::<Option<Vec<_>>>()
            && let Some(count) = counts.into_iter().max()
        {
            let with_sum = self.config.num_beams > 1;
            if let Some(best) = head.best(states, count, with_sum).map_err(failed)? {
                return match best.iter().find_map(BestOutputs::not_finite) {
                    Some(value) => Err(not_finite(value)),
                    None => Ok(Scores::Best(best)),
                };
            }
        }
        Ok(Scores::All(logits_to_host(&head.project(states).map_err(failed)?)?))
    }

    /// Chooses the next token of each row in `slots`, whose decoder rows are those of `state`, from the hidden states of
    /// their last tokens. Returns the unfinished slots with their next tokens and state.
    fn advance(
        &mut self,
        slots: Vec<Slot>,
        states: &Tensor,
        mut state: DecoderState,
    ) -> Result<(Vec<Slot>, Vec<u32>, DecoderState)> {
        let vocab_size = self.decoder.vocab_size();
        let mut scores = self.scores(&slots, states)?;
        let (mut going, mut tokens, mut order) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_row = 0;
        for mut slot in slots {
            let rows = first_row..first_row + slot.rows;
            let scores = scores.of(rows.clone(), vocab_size);
            let (stop, texts) = (self.stop, &mut self.texts);
            let mut stops = |ids: &[u32]| stop.is_some_and(|stop| stop.end(ids, texts));
            match slot.search.step(scores, vocab_size, self.config, &mut stops)? {
                None => {
                    let result = slot.search.finish(self.config, &mut stops);
                    self.results[slot.place] = Some(result);
                }
                Some(next) => {
                    slot.rows = next.len();
                    order.extend(next.iter().map(|(row, _)| rows.start + row));
                    tokens.extend(next.iter().map(|(_, token)| *token));
                    going.push(slot);
                }
            }
            first_row = rows.end;
        }
        if order.is_empty() {
            state = DecoderState::default();
        } else if order.len() != first_row || order.iter().enumerate().any(|(i, row)| i != *row) {
            state.select(&order).map_err(failed)?;
        }
        Ok((going, tokens, state))
    }
}

impl Single {
    fn processors<'a>(&'a self, config: &'a GenerationConfig) -> Processors<'a> {
        let is_prompt = self.encoder_input.is_empty();
        let input = if is_prompt { &self.ids[..self.prompt] } else { &self.encoder_input };
        Processors::new(config, input, self.prompt, self.max_length)
    }

    /// Chooses the next token.
    fn next(&mut self, scores: RowScores<'_>, config: &GenerationConfig) -> Result<u32> {
        let processors = self.processors(config);
        match scores {
            RowScores::All(scores) => {
                processors.process(&self.ids, scores);
                match &mut self.generator {
                    Some(generator) => {
                        generator.draw(&warp(config, scores)).ok_or_else(no_candidate)
                    }
                    None => Ok(argmax(scores)),
                }
            }
            RowScores::Best(best) => {
                let mut candidates = best.first().map_or(&[][..], BestOutputs::outputs).to_vec();
                processors.process_candidates(&self.ids, &mut candidates);
                candidates.first().map(|(id, _)| *id).ok_or_else(no_candidate)
            }
        }
    }
}

impl Search {
    /// The number of largest logits that the next step needs; `None` for all.
    fn candidates(&self, config: &GenerationConfig) -> Option<usize> {
        match self {
            Self::Beams(beams) => beams.candidates(config),
            Self::Single(row) if row.generator.is_some() => None,
            Self::Single(row) => row.processors(config).candidates(&row.ids, 1),
        }
    }

    /// Advances by one token. Returns `None` when the row has ended.
    ///
    /// # Errors
    /// `Data` when no token may be sampled, for which transformers raises an error too.
    fn step(
        &mut self,
        scores: RowScores<'_>,
        vocab_size: usize,
        config: &GenerationConfig,
        stops: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Result<Option<Vec<(usize, u32)>>> {
        match self {
            Self::Beams(beams) => {
                let given = scores.rows(vocab_size);
                let next = beams.step(scores, vocab_size, config, stops);
                // After the prefill, one decoder row stands for all beams.
                let decoder_rows = |next: Vec<(usize, u32)>| {
                    next.into_iter().map(|(beam, id)| (beam.min(given - 1), id)).collect()
                };
                Ok(next.map(decoder_rows))
            }
            Self::Single(row) => {
                let id = row.next(scores, config)?;
                row.ids.push(id);
                let ends = row.ids.len() >= row.max_length
                    || config.eos_token_id.contains(&id)
                    || stops(&row.ids);
                Ok((!ends).then(|| vec![(0, id)]))
            }
        }
    }

    fn finish(self, config: &GenerationConfig, stops: &mut dyn FnMut(&[u32]) -> bool) -> Generated {
        let mut generated = |mut ids: Vec<u32>, prompt: usize, sequences_score| {
            let ends = |last| config.eos_token_id.contains(last);
            let stopped = ids.last().is_some_and(ends) || stops(&ids);
            let finish_reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
            let token_ids = ids.split_off(prompt);
            Generated { token_ids, finish_reason, sequences_score, others: Vec::new() }
        };
        match self {
            Self::Single(row) => generated(row.ids, row.prompt, None),
            Self::Beams(beams) => {
                let prompt = beams.prompt_tokens();
                let best = beams.best(config.num_return_sequences);
                let mut all: VecDeque<Generated> =
                    best.map(|(ids, score)| generated(ids, prompt, Some(score))).collect();
                let first = all.pop_front().unwrap_or_else(|| generated(Vec::new(), 0, None));
                Generated { others: all.into(), ..first }
            }
        }
    }
}

/// The error for a row that may sample no token.
fn no_candidate() -> Error {
    Error::of_row(RowErrorKind::Data, "the generation settings forbid every token as the next one")
        .hint("generate fewer tokens, or relax `no_repeat_ngram_size` and the settings that suppress tokens")
}

fn failed(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Internal, "generation failed").source(error)
}
