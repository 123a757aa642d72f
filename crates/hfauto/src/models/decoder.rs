//! The interface between generation and an architecture: read prompts, then one token per row at a time.
//!
//! Not here: choosing the next token, ending rows, and replacing finished rows (`crate::generation`).

use candle_core::{Result, Tensor, bail};

use super::Head;
use crate::nn::{KvCache, Lengths, select_rows};

/// The state of the generated rows: one cache per layer, with rows in the same order in all of them.
#[derive(Debug, Default)]
pub struct DecoderState {
    /// The keys and values of the tokens so far.
    pub self_attention: Vec<KvCache>,
    /// The keys and values of the encoder's states; empty for a decoder-only model.
    pub cross_attention: Vec<KvCache>,
    /// The tokens of each row so far, for an architecture that may have to recompute them; otherwise empty.
    pub input_ids: Vec<Vec<u32>>,
}

impl DecoderState {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.self_attention.first().map_or(0, KvCache::num_rows)
    }

    /// The number of tokens of row `row` so far, which is the position of the next one.
    pub fn len(&self, row: usize) -> usize {
        self.self_attention.first().map_or(0, |cache| cache.len(row))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    /// Appends the rows of `other`.
    pub fn extend(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let add = |ours: &mut Vec<KvCache>, theirs: Vec<KvCache>| {
            ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| ours.extend(theirs));
        };
        add(&mut self.self_attention, other.self_attention);
        add(&mut self.cross_attention, other.cross_attention);
        self.input_ids.extend(other.input_ids);
    }

    /// Whether [`DecoderState::prefix`] can take the first `len` tokens of row 0. Layers with a window may have dropped keys.
    pub fn has_prefix(&self, len: usize) -> bool {
        self.self_attention.iter().all(|cache| cache.has_prefix(len))
    }

    /// The state of `rows` rows that each begin with the first `len` tokens of row 0. They share its tensors until they are
    /// extended.
    ///
    /// # Errors
    /// If the state does not have that prefix, see [`DecoderState::has_prefix`].
    pub fn prefix(&self, len: usize, rows: usize) -> Result<Self> {
        let each = |caches: &[KvCache]| -> Result<Vec<KvCache>> {
            caches.iter().map(|cache| cache.prefix(len, rows)).collect()
        };
        let input_ids = self.input_ids.first().map(|ids| vec![ids[..len].to_vec(); rows]);
        Ok(Self {
            self_attention: each(&self.self_attention)?,
            cross_attention: Vec::new(),
            input_ids: input_ids.unwrap_or_default(),
        })
    }

    /// Keeps the given rows, in this order. Omits finished rows; repeats the index of a beam that
    /// branches.
    ///
    /// # Errors
    /// If a row does not exist, or candle cannot allocate.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        let mut layers = self.self_attention.iter_mut().chain(&mut self.cross_attention);
        layers.try_for_each(|cache| cache.select(rows))?;
        if !self.input_ids.is_empty() {
            self.input_ids = rows.iter().map(|row| self.input_ids[*row].clone()).collect();
        }
        Ok(())
    }
}

/// An architecture that generates token by token.
pub trait Decoder: Send + Sync {
    /// Adds rows. A decoder-only model reads `prompts` and ignores `decoder_input_ids`. An
    /// encoder-decoder model encodes `prompts`, and its decoder reads `decoder_input_ids`, the same for
    /// every row.
    ///
    /// Returns the state of these rows and the hidden state of the decoder's last input token, from which
    /// [`Decoder::head`] computes the logits: `(rows, hidden_size)`.
    ///
    /// # Errors
    /// If a prompt is empty, an id or position is outside its table, or candle cannot allocate.
    fn prefill_states(
        &self,
        prompts: &[&[u32]],
        decoder_input_ids: &[u32],
    ) -> Result<(DecoderState, Tensor)>;

    /// Reads further tokens of each decoder row, at least one, and returns the hidden states of the last of each:
    /// `(rows, hidden_size)`.
    ///
    /// # Errors
    /// As [`Decoder::prefill_states`]; if there is another number of rows.
    fn extend_states(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor>;

    /// The head over the vocabulary.
    fn head(&self) -> &Head;

    /// As [`Decoder::prefill_states`], with the logits, `(rows, vocab_size)`.
    ///
    /// # Errors
    /// As [`Decoder::prefill_states`].
    fn prefill(
        &self,
        prompts: &[&[u32]],
        decoder_input_ids: &[u32],
    ) -> Result<(DecoderState, Tensor)> {
        let (state, states) = self.prefill_states(prompts, decoder_input_ids)?;
        Ok((state, self.head().project(&states)?))
    }

    /// As [`Decoder::extend_states`], with the logits, `(rows, vocab_size)`.
    ///
    /// # Errors
    /// As [`Decoder::extend_states`].
    fn extend(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        self.head().project(&self.extend_states(rows, state)?)
    }

    /// Reads one more token per row and returns the logits after it, `(rows, vocab_size)`.
    ///
    /// # Errors
    /// As [`Decoder::extend_states`].
    fn decode(&self, tokens: &[u32], state: &mut DecoderState) -> Result<Tensor> {
        let rows: Vec<&[u32]> = tokens.chunks(1).collect();
        self.extend(&rows, state)
    }

    /// The vocabulary size.
    fn vocab_size(&self) -> usize;

    /// The maximum length of a decoder row in tokens; `None` if unlimited.
    fn max_position_embeddings(&self) -> Option<usize>;

    /// Whether an encoder reads the prompts, so that decoder rows hold only generated tokens.
    fn is_encoder_decoder(&self) -> bool;

    /// The length up to which the keys and values of a prompt's tokens depend on the tokens before them only, so that
    /// prompts with the same first tokens can share them: `None` for any length, 0 for none.
    fn shares_prefixes_up_to(&self) -> Option<usize>;
}

/// Checks that there are tokens for each row of `state`.
pub(super) fn check_rows(rows: &[&[u32]], state: &DecoderState) -> Result<()> {
    if rows.len() != state.num_rows() {
        bail!("a state of {} rows got tokens of {}", state.num_rows(), rows.len());
    }
    if let Some(row) = rows.iter().position(|tokens| tokens.is_empty()) {
        bail!("row {row} got no tokens");
    }
    Ok(())
}

/// The hidden states of the last token of each row, `(rows, hidden_size)`, from those of all tokens.
pub(super) fn last_states(states: Tensor, lengths: &Lengths) -> Result<Tensor> {
    if lengths.total_tokens() == lengths.rows() {
        return Ok(states);
    }
    let last = lengths.ranges().map(|range| range.end as u32 - 1).collect();
    select_rows(&states, last)
}
