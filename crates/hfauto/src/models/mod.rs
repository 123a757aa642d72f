//! One architecture a file: config → embeddings → layer → encoder → model, with field names that are
//! the checkpoint's keys. Not here: which `model_type` means which of them (`crate::auto`), heads'
//! post-processing, Arrow. The entry is [`Backbone`]: what every architecture is once it is loaded.

mod causal_lm;
mod config;
mod decoder;
mod heads;
mod seq2seq;
pub mod bert;
pub mod roberta;
pub mod distilbert;
pub mod mpnet;
pub mod gpt2;
pub mod t5;
pub mod vit;
pub mod deit;

use candle_core::{Result, Tensor};

pub use causal_lm::{CausalBackbone, CausalLM};
pub use config::Fields;
pub use decoder::{Decoder, DecoderState};
pub use heads::{Epsilon, Head, HeadLayout, HeadSizes, Layer, Reads};
pub use seq2seq::{Seq2SeqBackbone, Seq2SeqLM, Seq2SeqModelOutput};

use crate::nn::{Linear, ModelInputs, PositionIds, Ragged};

/// What an architecture's configuration says about its inputs and outputs; known without weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Features of a hidden state.
    pub hidden_size: usize,
    /// Layers; there is one hidden state more.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// How many token ids there are.
    pub vocab_size: usize,
    /// The number of segments; `None` where the model ignores segments.
    pub type_vocab_size: Option<usize>,
    /// How positions are counted.
    pub position_ids: PositionIds,
    /// Positions that a row may have: those of the table less the padding's; `None` when unlimited.
    pub max_position_embeddings: Option<usize>,
    /// The images of a model that reads them, instead of text.
    pub image: Option<ImageDimensions>,
}

/// What images a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageDimensions {
    /// Colours.
    pub num_channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Tokens of each image: its patches, and what the model puts before them.
    pub tokens: usize,
}

/// Which outputs of a model are wanted besides the last hidden state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The pooler's vector of each row.
    pub pooler_output: bool,
    /// The embeddings and the output of every layer.
    pub hidden_states: bool,
    /// The attention probabilities of every layer; computed by the eager kernel.
    pub attentions: bool,
}

/// What a backbone computes; names as in transformers.
#[derive(Clone, Debug)]
pub struct ModelOutput {
    /// One vector a token.
    pub last_hidden_state: Ragged,
    /// `(rows, hidden_size)`, if wanted; a row without tokens has zeros.
    pub pooler_output: Option<Tensor>,
    /// The embeddings, then each layer's output, if wanted.
    pub hidden_states: Option<Vec<Ragged>>,
    /// Per layer and row `(num_attention_heads, seq_len, seq_len)`, if wanted.
    pub attentions: Option<Vec<Vec<Tensor>>>,
}

/// A loaded architecture without a head.
pub trait Backbone: Send + Sync {
    /// Runs the model over ragged rows.
    ///
    /// # Errors
    /// When an id or position is outside its table, when the pooler is wanted and the checkpoint has
    /// none, or when candle cannot allocate.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput>;

    /// What the configuration says.
    fn dimensions(&self) -> &Dimensions;

    /// Whether the checkpoint has a pooler.
    fn has_pooler(&self) -> bool;

    /// Every linear layer but the pooler's, for whoever loads the model to pack them for their device.
    fn linear_layers(&mut self) -> Vec<&mut Linear>;

    /// The layer of the pooler.
    fn pooler_layer(&mut self) -> Option<&mut Linear> {
        None
    }

    /// The table of word embeddings, `(vocab_size, hidden_size)`, that a head over the vocabulary is tied
    /// to; `None` where there are no tokens.
    fn word_embeddings(&self) -> Option<&Tensor> {
        None
    }

    /// Whether a head over the vocabulary has the weight of the word embeddings when config.json does not
    /// say it.
    fn tied_by_default(&self) -> bool {
        true
    }

    /// The encoder and the decoder of an architecture that has both.
    fn seq2seq(&self) -> Option<&dyn Seq2SeqBackbone> {
        None
    }

    /// With `head`, what generates token by token; `None` for an architecture that does not.
    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        let _ = head;
        None
    }

    /// Features of a hidden state.
    fn hidden_size(&self) -> usize {
        self.dimensions().hidden_size
    }

    /// Layers; there is one hidden state more.
    fn num_hidden_layers(&self) -> usize {
        self.dimensions().num_hidden_layers
    }

    /// Attention heads of a layer.
    fn num_attention_heads(&self) -> usize {
        self.dimensions().num_attention_heads
    }

    /// How positions are counted.
    fn position_ids(&self) -> PositionIds {
        self.dimensions().position_ids
    }

    /// Positions that a row may have: those of the table less the padding's; `None` when unlimited.
    fn max_position_embeddings(&self) -> Option<usize> {
        self.dimensions().max_position_embeddings
    }
}

/// Gathers hidden states and attentions, if they are wanted, while the layers run.
struct Recorder<'a> {
    inputs: &'a ModelInputs,
    hidden_states: Option<Vec<Ragged>>,
    attentions: Option<Vec<Vec<Tensor>>>,
}

impl<'a> Recorder<'a> {
    fn new(inputs: &'a ModelInputs, want: &Want) -> Self {
        Self {
            inputs,
            hidden_states: want.hidden_states.then(Vec::new),
            attentions: want.attentions.then(Vec::new),
        }
    }

    fn hidden_state(&mut self, values: &Tensor) {
        if let Some(states) = &mut self.hidden_states {
            let lengths = self.inputs.lengths.clone();
            states.push(Ragged { values: values.clone(), lengths });
        }
    }

    fn attentions(&mut self, layer: Option<Vec<Tensor>>) {
        if let (Some(all), Some(layer)) = (&mut self.attentions, layer) {
            all.push(layer);
        }
    }

    fn finish(self, values: Tensor, pooler_output: Option<Tensor>) -> ModelOutput {
        ModelOutput {
            last_hidden_state: Ragged { values, lengths: self.inputs.lengths.clone() },
            pooler_output,
            hidden_states: self.hidden_states,
            attentions: self.attentions,
        }
    }
}
