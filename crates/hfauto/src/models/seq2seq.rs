//! The interface of encoder-decoder models, the word embeddings that encoder, decoder and head share, and the
//! implementation of [`Decoder`] for these models. Not here: the layers of both. The entry is [`Seq2SeqBackbone`].

use candle_core::{Device, Error, Result, Tensor, bail};

use super::decoder::{check_rows, last_states};
use super::{Backbone, Decoder, DecoderState, Head, ModelOutput, Want};
use crate::nn::{Embedding, InputNorm, KvCache, ModelInputs, Ragged, VarBuilder};

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

/// The first token of a decoder row when the decoder reads the inputs shifted right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShiftedStart {
    /// `decoder_start_token_id`.
    DecoderStart,
    /// The last token of the row that is not padding: the language code (mBART).
    LastToken {
        /// The padding token.
        pad_token_id: u32,
    },
}

/// What a decoder attends to besides the tokens of the pass; empty for an encoder.
#[derive(Debug, Default)]
pub struct DecoderCaches<'a> {
    /// The caches of the tokens so far, one per layer, to which the pass appends.
    pub self_attention: Option<&'a mut [KvCache]>,
    /// The keys and values of the encoder's states, one cache per layer.
    pub cross_attention: &'a [KvCache],
}

/// The outputs of a decoder.
#[derive(Clone, Debug)]
pub struct DecoderOutput {
    /// Its states, and its attention over its own tokens.
    pub model: ModelOutput,
    /// For each layer and row, `(num_attention_heads, target_len, source_len)`, if requested.
    pub cross_attentions: Option<Vec<Vec<Tensor>>>,
}

/// A loaded encoder-decoder model. As a [`Backbone`], its decoder reads the inputs shifted right, as in
/// transformers' classes for classification and question answering. Its dimensions are those of the decoder.
pub trait Seq2SeqBackbone: Backbone {
    /// Runs the encoder over `inputs`.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    fn forward_encoder(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput>;

    /// The keys and values of the encoder's states, for each decoder layer.
    ///
    /// # Errors
    /// If candle cannot allocate.
    fn cross_attention_caches(&self, encoder_states: &Ragged) -> Result<Vec<KvCache>>;

    /// Runs the decoder over `inputs`, after the tokens in `caches`.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    fn forward_decoder(
        &self,
        inputs: &ModelInputs,
        caches: DecoderCaches<'_>,
        want: &Want,
    ) -> Result<DecoderOutput>;

    /// The size of the decoder's vocabulary.
    fn decoder_vocab_size(&self) -> usize {
        self.dimensions().vocab_size
    }

    /// Runs the encoder over `inputs` and the decoder over `decoder_inputs`, all tokens at once.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the two have different numbers of rows.
    fn forward_seq2seq(
        &self,
        inputs: &ModelInputs,
        decoder_inputs: &ModelInputs,
        want: &Want,
    ) -> Result<Seq2SeqModelOutput> {
        let encoder = self.forward_encoder(inputs, want)?;
        let keys = self.cross_attention_caches(&encoder.last_hidden_state)?;
        let caches = DecoderCaches { self_attention: None, cross_attention: &keys };
        let decoder = self.forward_decoder(decoder_inputs, caches, want)?;
        Ok(Seq2SeqModelOutput {
            last_hidden_state: decoder.model.last_hidden_state,
            decoder_hidden_states: decoder.model.hidden_states,
            decoder_attentions: decoder.model.attentions,
            cross_attentions: decoder.cross_attentions,
            encoder_last_hidden_state: encoder.last_hidden_state,
            encoder_hidden_states: encoder.hidden_states,
            encoder_attentions: encoder.attentions,
        })
    }

    /// The outputs of the decoder over the inputs shifted right: what such an architecture returns as a [`Backbone`].
    ///
    /// # Errors
    /// As [`Backbone::forward`] and [`Seq2SeqBackbone::shift_right`].
    fn forward_shifted(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let output = self.forward_seq2seq(inputs, &self.shift_right(inputs)?, want)?;
        Ok(ModelOutput {
            last_hidden_state: output.last_hidden_state,
            pooler_output: None,
            hidden_states: output.decoder_hidden_states,
            attentions: output.decoder_attentions,
        })
    }

    /// The cross-attention keys and values for each decoder layer.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    fn encode(&self, inputs: &ModelInputs) -> Result<Vec<KvCache>> {
        let states = self.forward_encoder(inputs, &Want::default())?.last_hidden_state;
        self.cross_attention_caches(&states)
    }

    /// Computes new tokens of each decoder row after those in `state`, and appends them to it. Returns the
    /// last hidden states, `(total_tokens, hidden_size)`.
    ///
    /// # Errors
    /// As [`Backbone::forward`]; if the state belongs to another model.
    fn forward_cached(&self, inputs: &ModelInputs, state: &mut DecoderState) -> Result<Tensor> {
        let layers = self.num_hidden_layers();
        let caches = (state.self_attention.len(), state.cross_attention.len());
        if caches != (layers, layers) {
            bail!("{layers} layers got {} and {} caches", caches.0, caches.1);
        }
        let caches = DecoderCaches {
            self_attention: Some(&mut state.self_attention),
            cross_attention: &state.cross_attention,
        };
        let output = self.forward_decoder(inputs, caches, &Want::default())?;
        Ok(output.model.last_hidden_state.values)
    }

    /// `decoder_start_token_id` of the configuration.
    fn decoder_start_token_id(&self) -> Option<u32>;

    /// The first token of shifted inputs.
    fn shifted_start(&self) -> ShiftedStart {
        ShiftedStart::DecoderStart
    }

    /// The decoder inputs for the given target tokens: each row starts with
    /// [`shifted_start`](Self::shifted_start) and loses its last token.
    ///
    /// # Errors
    /// If the configuration lacks that token, or the device cannot hold the tensors.
    fn shift_right(&self, inputs: &ModelInputs) -> Result<ModelInputs> {
        let start = |ids: &[u32]| {
            let start = match self.shifted_start() {
                ShiftedStart::DecoderStart => self.decoder_start_token_id(),
                ShiftedStart::LastToken { pad_token_id } => {
                    // As in transformers, the number of tokens that are not padding gives the place.
                    let tokens = ids.iter().filter(|id| **id != pad_token_id).count();
                    ids.get(tokens.saturating_sub(1)).copied()
                }
            };
            start.ok_or_else(|| {
                Error::msg("config.json has no `decoder_start_token_id`, which the decoder needs")
            })
        };
        let rows = (0..inputs.lengths.rows()).map(|row| {
            let ids = inputs.row_ids(row);
            Ok(match ids {
                [] => Vec::new(),
                [before @ .., _] => {
                    std::iter::once(start(ids)?).chain(before.iter().copied()).collect()
                }
            })
        });
        let rows = rows.collect::<Result<Vec<Vec<u32>>>>()?;
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

    /// Reads new tokens of each decoder row. Returns the hidden states of the last token of each, `(rows, hidden_size)`.
    fn read(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        let past = (0..rows.len()).map(|row| state.len(row));
        if let Some(max) = self.max_position_embeddings()
            && let Some((row, past)) =
                rows.iter().zip(past.clone()).find(|(r, p)| r.len() + p > max)
        {
            bail!("a row of {} tokens is longer than the {max} positions", row.len() + past);
        }
        let rows = rows.iter().map(|row| (*row, &[][..])).zip(past);
        let inputs = ModelInputs::after(rows, self.backbone.position_ids(), self.device)?;
        inputs.check(self.vocab_size(), None)?;
        let hidden_states = self.backbone.forward_cached(&inputs, state)?;
        last_states(hidden_states, &inputs.lengths)
    }
}

impl Decoder for Seq2SeqLM<'_> {
    fn prefill_states(
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
        let rows = prompts.iter().map(|prompt| (*prompt, &[][..]));
        let inputs = ModelInputs::new(rows, self.backbone.position_ids(), self.device)?;
        inputs.check(self.backbone.dimensions().vocab_size, self.max_position_embeddings())?;
        let cross_attention = self.backbone.encode(&inputs)?;
        let self_attention = cross_attention.iter().map(|_| KvCache::default()).collect();
        let mut state = DecoderState { self_attention, cross_attention, ..DecoderState::default() };
        let states = self.read(&vec![decoder_input_ids; prompts.len()], &mut state)?;
        Ok((state, states))
    }

    fn extend_states(&self, rows: &[&[u32]], state: &mut DecoderState) -> Result<Tensor> {
        check_rows(rows, state)?;
        self.read(rows, state)
    }

    fn head(&self) -> &Head {
        self.head
    }

    fn vocab_size(&self) -> usize {
        self.backbone.decoder_vocab_size()
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

/// The word embeddings of an encoder-decoder model: one table for encoder, decoder and head, unless the checkpoint has
/// several that differ.
#[derive(Debug)]
pub(super) struct SharedEmbeddings {
    /// The table that a tied head shares.
    pub(super) shared: Embedding,
    pub(super) encoder: Embedding,
    pub(super) decoder: Embedding,
}

impl SharedEmbeddings {
    /// Loads the tables. `norm` produces the input of the head.
    ///
    /// # Errors
    /// If the checkpoint has no table, or one of another shape than `(vocab_size, hidden_size)`.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        shape: (usize, usize),
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let shared = Self::load_shared(vb, shape, norm)?;
        Ok(Self {
            encoder: Self::load_embed_tokens(vb, shape, "encoder", &shared)?,
            decoder: Self::load_embed_tokens(vb, shape, "decoder", &shared)?,
            shared,
        })
    }

    /// The table of one stack, `encoder` or `decoder`, in a model without the other.
    ///
    /// # Errors
    /// As [`SharedEmbeddings::load`].
    pub(super) fn load_for(
        vb: &VarBuilder<'_>,
        shape: (usize, usize),
        stack: &str,
    ) -> Result<Embedding> {
        let shared = Self::load_shared(vb, shape, None)?;
        Self::load_embed_tokens(vb, shape, stack, &shared)
    }

    /// Loads one table for the encoder and one for decoder and head.
    ///
    /// # Errors
    /// As [`SharedEmbeddings::load`].
    pub(super) fn load_apart(
        vb: &VarBuilder<'_>,
        encoder_vocab_size: usize,
        (decoder_vocab_size, hidden_size): (usize, usize),
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let encoder = vb.pp("encoder.embed_tokens").without_tied_head();
        let encoder = Embedding::load_words(&encoder, encoder_vocab_size, hidden_size, None)?;
        let decoder = vb.pp("decoder.embed_tokens");
        let decoder = Embedding::load_words(&decoder, decoder_vocab_size, hidden_size, norm)?;
        Ok(Self { shared: decoder.clone(), encoder, decoder })
    }

    /// The path of the shared table: the first name that the checkpoint has.
    fn shared_path(vb: &VarBuilder<'_>) -> &'static str {
        let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"];
        let there = names.into_iter().find(|name| vb.contains_tensor(&format!("{name}.weight")));
        there.unwrap_or(names[0])
    }

    fn load_shared(
        vb: &VarBuilder<'_>,
        (vocab_size, hidden_size): (usize, usize),
        norm: Option<&dyn InputNorm>,
    ) -> Result<Embedding> {
        Embedding::load_words(&vb.pp(Self::shared_path(vb)), vocab_size, hidden_size, norm)
    }

    /// The table of a stack: its own if the checkpoint has one that differs from the shared one.
    ///
    /// # Source
    /// `PreTrainedModel.tie_weights` of transformers at v5.24.
    fn load_embed_tokens(
        vb: &VarBuilder<'_>,
        shape: (usize, usize),
        stack: &str,
        shared: &Embedding,
    ) -> Result<Embedding> {
        let (path, own) = (Self::shared_path(vb), format!("{stack}.embed_tokens"));
        let names = [path, &own].map(|path| format!("{path}.weight"));
        if path == own
            || !vb.contains_tensor(&names[1])
            || vb.have_same_rows(shape, &names[0], &names[1])?
        {
            return Ok(shared.clone());
        }
        tracing::debug!(own, "the checkpoint has word embeddings that differ from the shared ones");
        Embedding::load_words(&vb.pp(own).without_tied_head(), shape.0, shape.1, None)
    }
}
