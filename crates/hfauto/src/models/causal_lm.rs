//! The implementation of [`Decoder`] for decoder-only models: a causal backbone with a head over the vocabulary. Not
//! here: the layers of both.

use candle_core::{Device, Result, Tensor, bail};

use super::{Backbone, Decoder, DecoderState, Head};
use crate::nn::{KvCache, ModelInputs, PositionIds, select_rows};

/// A backbone with causal attention, which can therefore continue from caches.
pub trait CausalBackbone: Backbone {
    /// Computes new tokens of each row after the cached ones and appends them to the caches, one per layer. Empty
    /// caches get the rows. Returns the last hidden states, `(total_tokens, hidden_size)`.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the number of caches is not the number of layers, or their rows do not match.
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor>;
}

/// A decoder-only model: a causal backbone with a head over the vocabulary.
#[derive(Clone, Copy)]
pub struct CausalLM<'a> {
    backbone: &'a dyn CausalBackbone,
    head: &'a Head,
    device: &'a Device,
}

impl<'a> CausalLM<'a> {
    /// Combines a backbone and a head, both on `device`.
    pub fn new(backbone: &'a dyn CausalBackbone, head: &'a Head, device: &'a Device) -> Self {
        Self { backbone, head, device }
    }

    fn run(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        let past: Vec<usize> = (0..rows.len()).map(|row| state.len(row)).collect();
        if let Some(max) = self.max_position_embeddings()
            && let Some((row, past)) =
                rows.iter().zip(past.iter()).find(|(r, p)| r.len() + **p > max)
        {
            bail!("a row of {} tokens is longer than the {max} positions", row.len() + past);
        }
        let rows = rows.iter().map(|row| (*row, &[][..])).zip(past);
        // In transformers, `generate` numbers the positions of every family from 0, even if the family otherwise
        // starts after the padding id (`_prepare_position_ids_for_generation`).
        let inputs = ModelInputs::after(rows, PositionIds::FromZero, self.device)?;
        inputs.check(self.vocab_size(), None)?;
        self.backbone.forward_cached(&inputs, &mut state.self_attention)
    }
}

impl Decoder for CausalLM<'_> {
    fn prefill(&self, prompts: &[&[u32]], _: &[u32]) -> Result<(DecoderState, Tensor)> {
        if let Some(row) = prompts.iter().position(|prompt| prompt.is_empty()) {
            bail!("prompt {row} is empty");
        }
        let layers = self.backbone.num_hidden_layers();
        let mut state = DecoderState {
            self_attention: (0..layers).map(|_| KvCache::default()).collect(),
            cross_attention: Vec::new(),
        };
        let hidden_states = self.run(prompts, &mut state)?;
        let mut end = 0;
        let last: Vec<u32> = prompts
            .iter()
            .map(|prompt| {
                end += prompt.len() as u32;
                end - 1
            })
            .collect();
        let logits = self.head.project(&select_rows(&hidden_states, last)?)?;
        Ok((state, logits))
    }

    fn decode(&self, tokens: &[u32], state: &mut DecoderState) -> Result<Tensor> {
        if tokens.len() != state.num_rows() {
            bail!("a state of {} rows got {} tokens", state.num_rows(), tokens.len());
        }
        let rows: Vec<&[u32]> = tokens.chunks(1).collect();
        let hidden_states = self.run(&rows, state)?;
        self.head.project(&hidden_states)
    }

    fn vocab_size(&self) -> usize {
        self.backbone.dimensions().vocab_size
    }

    fn max_position_embeddings(&self) -> Option<usize> {
        let unused = match self.backbone.position_ids() {
            PositionIds::FromZero => 0,
            PositionIds::AfterPadding { padding_idx } => padding_idx as usize + 1,
        };
        self.backbone.max_position_embeddings().map(|positions| positions + unused)
    }

    fn is_encoder_decoder(&self) -> bool {
        false
    }
}
