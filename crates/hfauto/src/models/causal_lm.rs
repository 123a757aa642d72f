//! The implementation of [`Decoder`] for decoder-only models: a causal backbone with a head over the vocabulary. Not
//! here: the layers of both.

use std::borrow::Cow;

use candle_core::{Device, Result, Tensor, bail};

use super::decoder::{check_rows, last_states};
use super::{Backbone, Decoder, DecoderState, Head};
use crate::nn::{KvCache, ModelInputs, PositionIds};

/// A backbone with causal attention, which can therefore continue from caches.
pub trait CausalBackbone: Backbone {
    /// Computes new tokens of each row after the cached ones and appends them to the caches, one per layer. Empty
    /// caches get the rows. Returns the last hidden states, `(total_tokens, hidden_size)`.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the number of caches is not the number of layers, or their rows do not match.
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor>;

    /// The length beyond which cached keys become invalid: a row that outgrows it is recomputed from its start. `None` for
    /// all but Phi-3 with longrope.
    fn reread_above(&self) -> Option<usize> {
        None
    }

    /// See [`Decoder::shares_prefixes_up_to`]. `None` unless keys depend on later tokens, or on the length of the row.
    fn shares_prefixes_up_to(&self) -> Option<usize> {
        None
    }
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

    /// Reads new tokens of each row. Returns the hidden states of the last token of each, `(rows, hidden_size)`.
    fn run(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        let past: Vec<usize> = (0..rows.len()).map(|row| state.len(row)).collect();
        if let Some(max) = self.max_position_embeddings()
            && let Some((row, past)) =
                rows.iter().zip(past.iter()).find(|(r, p)| r.len() + **p > max)
        {
            bail!("a row of {} tokens is longer than the {max} positions", row.len() + past);
        }
        let rows = self.with_reread(rows, &past, state);
        let past = (0..rows.len()).map(|row| state.len(row));
        let inputs = rows.iter().map(|row| (&row[..], &[][..])).zip(past);
        // In transformers, `generate` numbers the positions of every family from 0, even if the family otherwise
        // starts after the padding id (`_prepare_position_ids_for_generation`).
        let inputs = ModelInputs::after(inputs, PositionIds::FromZero, self.device)?;
        inputs.check(self.vocab_size(), None)?;
        let states = self.backbone.forward_cached(&inputs, &mut state.self_attention)?;
        last_states(states, &inputs.lengths)
    }

    /// The tokens to read: those of `rows`, but all tokens of a row that outgrows [`CausalBackbone::reread_above`], whose
    /// cached keys and values are dropped.
    ///
    /// # Source
    /// `Phi3ForCausalLM.prepare_inputs_for_generation` at v5.24.
    fn with_reread<'r>(
        &self,
        rows: &[&'r [u32]],
        past: &[usize],
        state: &mut DecoderState,
    ) -> Vec<Cow<'r, [u32]>> {
        let Some(length) = self.backbone.reread_above() else {
            return rows.iter().map(|row| Cow::Borrowed(*row)).collect();
        };
        state.input_ids.resize(rows.len(), Vec::new());
        let rows = rows.iter().zip(past).enumerate().map(|(row, (new, past))| {
            state.input_ids[row].extend_from_slice(new);
            if *past == 0 || *past > length || past + new.len() <= length {
                return Cow::Borrowed(*new);
            }
            state.self_attention.iter_mut().for_each(|cache| cache.clear(row));
            Cow::Owned(state.input_ids[row].clone())
        });
        rows.collect()
    }
}

impl Decoder for CausalLM<'_> {
    fn prefill_states(&self, prompts: &[&[u32]], _: &[u32]) -> Result<(DecoderState, Tensor)> {
        if let Some(row) = prompts.iter().position(|prompt| prompt.is_empty()) {
            bail!("prompt {row} is empty");
        }
        let layers = self.backbone.num_hidden_layers();
        let mut state = DecoderState {
            self_attention: (0..layers).map(|_| KvCache::default()).collect(),
            ..DecoderState::default()
        };
        let states = self.run(prompts, &mut state)?;
        Ok((state, states))
    }

    fn extend_states(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        check_rows(rows, state)?;
        self.run(rows, state)
    }

    fn head(&self) -> &Head {
        self.head
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

    fn shares_prefixes_up_to(&self) -> Option<usize> {
        self.backbone.shares_prefixes_up_to()
    }
}
