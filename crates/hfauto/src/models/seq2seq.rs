//! The interface of encoder-decoder models, and the implementation of [`Decoder`] for them. Not here: the
//! layers of both. The entry is [`Seq2SeqBackbone`].

use candle_core::{Device, Result, Tensor, bail};

use super::decoder::{check_rows, last_logits};
use super::{Backbone, Decoder, DecoderState, Head, Want};
use crate::nn::{KvCache, ModelInputs, Ragged};

/// The outputs of an encoder-decoder model, named as in transformers.
#[derive(Clone, Debug)]
pub struct Seq2SeqModelOutput {
    /// One vector per decoder token.
    pub last_hidden_state: Ragged,
    /// The decoder's embeddings, then the output of each of its layers, if requested.
    pub decoder_hidden_states: Option<Vec<Ragged>>,
    /// For each decoder layer and row, `(num_attention_heads, target_len, target_len)`, if requested.
    pub decoder_attentions: Option<Vec<Vec<Tensor>>>,
    /// For each decoder layer and row, `(num_attention_heads, target_len, source_len)`, if requested.
    pub cross_attentions: Option<Vec<Vec<Tensor>>>,
    /// One vector per encoder token.
    pub encoder_last_hidden_state: Ragged,
    /// The encoder's embeddings, then the output of each of its layers, if requested.
    pub encoder_hidden_states: Option<Vec<Ragged>>,
    /// For each encoder layer and row, `(num_attention_heads, source_len, source_len)`, if requested.
    pub encoder_attentions: Option<Vec<Vec<Tensor>>>,
}

/// A loaded encoder-decoder model. As a [`Backbone`], its decoder reads the inputs shifted right, as in
/// transformers' classes for classification and question answering.
pub trait Seq2SeqBackbone: Backbone {
    /// Runs the encoder over `inputs` and the decoder over `decoder_inputs`, all tokens at once.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the two have different numbers of rows.
    fn forward_seq2seq(
        &self,
        inputs: &ModelInputs,
        decoder_inputs: &ModelInputs,
        want: &Want,
    ) -> Result<Seq2SeqModelOutput>;

    /// The cross-attention keys and values for each decoder layer.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    fn encode(&self, inputs: &ModelInputs) -> Result<Vec<KvCache>>;

    /// Computes new tokens of each decoder row after those in `state`, and appends them to it. Returns the
    /// last hidden states, `(total_tokens, hidden_size)`.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the state belongs to another model.
    fn forward_cached(&self, inputs: &ModelInputs, state: &mut DecoderState) -> Result<Tensor>;

    /// The first token of shifted inputs.
    fn decoder_start_token_id(&self) -> Option<u32>;

    /// The decoder inputs for the given target tokens: each row starts with
    /// [`decoder_start_token_id`](Self::decoder_start_token_id) and loses its last token.
    ///
    /// # Errors
    /// If the configuration has no such token, or the device cannot hold the tensors.
    fn shift_right(&self, inputs: &ModelInputs) -> Result<ModelInputs> {
        let Some(start) = self.decoder_start_token_id() else {
            bail!("config.json has no `decoder_start_token_id`, which the decoder needs")
        };
        let rows: Vec<Vec<u32>> = (0..inputs.lengths.rows())
            .map(|row| match inputs.row_ids(row) {
                [] => Vec::new(),
                [before @ .., _] => std::iter::once(start).chain(before.iter().copied()).collect(),
            })
            .collect();
        let rows = rows.iter().map(|row| (&row[..], &[][..]));
        ModelInputs::new(rows, self.position_ids(), inputs.input_ids.device())
    }
}

/// An encoder-decoder model with a head over the vocabulary.
#[derive(Clone, Copy)]
pub struct Seq2SeqLM<'a> {
    backbone: &'a dyn Seq2SeqBackbone,
    head: &'a Head,
    device: &'a Device,
}

impl<'a> Seq2SeqLM<'a> {
    /// Combines a backbone and a head, both on `device`.
    pub fn new(backbone: &'a dyn Seq2SeqBackbone, head: &'a Head, device: &'a Device) -> Self {
        Self { backbone, head, device }
    }

    fn inputs(&self, rows: &[&[u32]]) -> Result<ModelInputs> {
        let rows = rows.iter().map(|row| (*row, &[][..]));
        let inputs = ModelInputs::new(rows, self.backbone.position_ids(), self.device)?;
        inputs.check(self.vocab_size(), None)?;
        Ok(inputs)
    }

    /// Reads new tokens of each decoder row. Returns the logits after the last token of each, `(rows, vocab_size)`.
    fn read(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        let inputs = self.inputs(rows)?;
        let hidden_states = self.backbone.forward_cached(&inputs, state)?;
        last_logits(self.head, &hidden_states, &inputs.lengths)
    }
}

impl Decoder for Seq2SeqLM<'_> {
    fn prefill(
        &self,
        prompts: &[&[u32]],
        decoder_input_ids: &[u32],
    ) -> Result<(DecoderState, Tensor)> {
        if let Some(row) = prompts.iter().position(|prompt| prompt.is_empty()) {
            bail!("prompt {row} is empty");
        }
        if decoder_input_ids.is_empty() {
            bail!("the decoder has no start token");
        }
        let cross_attention = self.backbone.encode(&self.inputs(prompts)?)?;
        let self_attention = cross_attention.iter().map(|_| KvCache::default()).collect();
        let mut state = DecoderState { self_attention, cross_attention, ..DecoderState::default() };
        let logits = self.read(&vec![decoder_input_ids; prompts.len()], &mut state)?;
        Ok((state, logits))
    }

    fn extend(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        check_rows(rows, state)?;
        self.read(rows, state)
    }

    fn vocab_size(&self) -> usize {
        self.backbone.dimensions().vocab_size
    }

    fn max_position_embeddings(&self) -> Option<usize> {
        self.backbone.max_position_embeddings()
    }

    fn is_encoder_decoder(&self) -> bool {
        true
    }

    /// An encoder's states depend on all tokens of the prompt.
    fn shares_prefixes_up_to(&self) -> Option<usize> {
        Some(0)
    }
}
