//! What generation asks of an architecture: take rows in, then one token a row at a time.
//!
//! Not here: which token comes next, when a row ends, which row takes its place (`crate::generation`).

use candle_core::{Result, Tensor};

use crate::nn::KvCache;

/// What a decoder keeps of the rows that it generates: one cache a layer, rows in the same order in all.
#[derive(Debug, Default)]
pub struct DecoderState {
    /// Keys and values of the tokens so far.
    pub self_attention: Vec<KvCache>,
    /// Keys and values of the encoder's states; none for a decoder by itself.
    pub cross_attention: Vec<KvCache>,
}

impl DecoderState {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.self_attention.first().map_or(0, KvCache::num_rows)
    }

    /// Tokens of row `row` so far: the position of its next one.
    pub fn len(&self, row: usize) -> usize {
        self.self_attention.first().map_or(0, |cache| cache.len(row))
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    /// Adds the rows of `other` behind these.
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
    }

    /// Keeps the rows named, in this order: finished rows are left out, a beam that goes on twice is
    /// named twice.
    ///
    /// # Errors
    /// When a row is not there, or candle cannot allocate.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        let mut layers = self.self_attention.iter_mut().chain(&mut self.cross_attention);
        layers.try_for_each(|cache| cache.select(rows))
    }
}

/// An architecture that generates token by token.
pub trait Decoder: Send + Sync {
    /// Takes rows in. A decoder by itself reads `prompts` and ignores `decoder_input_ids`; an encoder and
    /// decoder encodes `prompts`, and its decoder reads `decoder_input_ids`, the same for every row.
    ///
    /// Returns the state of these rows, and the logits after the last token that the decoder has read:
    /// `(rows, vocab_size)`.
    ///
    /// # Errors
    /// When a prompt is empty, an id or position is outside its table, or candle cannot allocate.
    fn prefill(
        &self,
        prompts: &[&[u32]],
        decoder_input_ids: &[u32],
    ) -> Result<(DecoderState, Tensor)>;

    /// Reads one more token a row; returns the logits after it, `(rows, vocab_size)`.
    ///
    /// # Errors
    /// As [`Decoder::prefill`].
    fn decode(&self, tokens: &[u32], state: &mut DecoderState) -> Result<Tensor>;

    /// How many tokens there are.
    fn vocab_size(&self) -> usize;

    /// Tokens that a row of the decoder may have; `None` when unlimited.
    fn max_position_embeddings(&self) -> Option<usize>;

    /// Whether prompts go to an encoder, so that rows of the decoder hold generated tokens only.
    fn is_encoder_decoder(&self) -> bool;
}
