//! One file per architecture: config → embeddings → layer → encoder → model, with the checkpoint's keys
//! as field names. Not here: the mapping from `model_type` to architecture (`crate::auto`), the
//! postprocessing of heads, Arrow. The entry is [`Backbone`], the interface of every loaded architecture.

mod causal_lm;
mod config;
mod decoder;
mod embeddings;
mod encoder;
mod heads;
mod rotary_encoder;
mod seq2seq;
pub mod bart;
pub mod bert;
pub mod roberta;
pub mod xlm_roberta_xl;
pub mod electra;
pub mod embedding_gemma2;
pub mod albert;
pub mod deberta;
pub mod distilbert;
pub mod mpnet;
pub mod gpt2;
pub mod llama;
pub mod modernbert;
pub mod gte;
pub mod nomic_bert;
pub mod jina_bert;
pub mod jina_embeddings_v3;
pub mod t5;
mod patches;
mod position_grid;
mod text_vision;
pub mod vit;
pub mod deit;
pub mod clip;
pub mod siglip;
pub mod dinov2;
mod relative_grid;
pub mod beit;
mod windows;
pub mod swin;
mod convolution;
mod feature_maps;
pub mod resnet;
pub mod convnext;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

pub use causal_lm::{CausalBackbone, CausalLM};
pub use config::Fields;
pub use decoder::{Decoder, DecoderState};
pub use heads::{Epsilon, Head, HeadLayout, HeadSizes, Layer, Reads};
pub use seq2seq::{
    DecoderCaches, DecoderOutput, Seq2SeqBackbone, Seq2SeqLM, Seq2SeqModelOutput, ShiftedStart,
};
pub use text_vision::{
    PooledToken, TextTower, TextTowerConfig, TextVisionConfig, TextVisionModel, TowerLayers,
    VisionPooling, VisionTower, VisionTowerConfig,
};

use crate::nn::{Embedding, ModelInputs, PositionIds, Ragged};

/// The dimensions of a configuration's inputs and outputs, known without weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of layers; there is one more hidden state.
    pub num_hidden_layers: usize,
    /// The number of attention heads.
    pub num_attention_heads: usize,
    /// The number of key-value heads.
    pub num_key_value_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The number of segment ids; `None` if the model ignores segments.
    pub type_vocab_size: Option<usize>,
    /// The numbering of positions.
    pub position_ids: PositionIds,
    /// The length of the rows that the model is made for: the size of the position table, less padding, or
    /// `max_position_embeddings`; `None` if unlimited.
    pub max_position_embeddings: Option<usize>,
    /// Whether rows may be longer than that (rotary embeddings).
    pub extrapolates: bool,
    /// The images that the model reads, if it does; it reads texts, too, if it has a vocabulary.
    pub image: Option<ImageDimensions>,
}

impl Dimensions {
    /// Whether the model reads texts.
    pub fn reads_text(&self) -> bool {
        self.vocab_size > 0
    }

    /// The maximum length of a row; `None` if unlimited.
    pub fn position_limit(&self) -> Option<usize> {
        self.max_position_embeddings.filter(|_| !self.extrapolates)
    }

    /// The size of a token's keys in a layer, and of its values.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// The images that a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageDimensions {
    /// The number of colour channels.
    pub num_channels: usize,
    /// The number of pixel rows.
    pub height: usize,
    /// The number of pixel columns.
    pub width: usize,
    /// The number of tokens of an image of this size: its patches and the special tokens.
    pub tokens: usize,
    /// The number of tokens before the patches, for example that of the class.
    pub special_tokens: usize,
    /// The size of a hidden state of an image.
    pub hidden_size: usize,
    /// As [`ImageDimensions::hidden_size`], where a layer has the most numbers: in a model whose stages shrink a map, those of all
    /// tokens that become one.
    pub peak_hidden_size: usize,
    /// The size of the pooled vector of an image; in a model that also reads texts, those have vectors of this size, too.
    pub pooled_size: usize,
    /// How images of other sizes become tokens; `None` if the model reads only images of this size.
    pub grid: Option<ImageGrid>,
}

impl ImageDimensions {
    /// The number of tokens of an image of `height` by `width` pixels; `None` if the model does not read such images.
    pub fn tokens_of(&self, height: usize, width: usize) -> Option<usize> {
        match self.grid {
            Some(grid) => {
                let [down, across] = grid.cells(height, width);
                (down.min(across) >= grid.least)
                    .then(|| down.saturating_mul(across).saturating_add(self.special_tokens))
            }
            None => ((height, width) == (self.height, self.width)).then_some(self.tokens),
        }
    }
}

/// The cells of an image that become tokens, for a model that reads images of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageGrid {
    /// The height and width of a cell in pixels.
    pub cell: (usize, usize),
    /// Whether the pixels that remain at the bottom and on the right make cells, too.
    pub partial_cells: bool,
    /// The least number of cells down and across, at least 1.
    pub least: usize,
}

impl ImageGrid {
    /// A grid of whole patches.
    pub fn of_patches(cell: (usize, usize)) -> Self {
        Self { cell, partial_cells: false, least: 1 }
    }

    /// The number of cells down and across.
    pub fn cells(self, height: usize, width: usize) -> [usize; 2] {
        let count = |pixels: usize, cell: usize| {
            if self.partial_cells { pixels.div_ceil(cell) } else { pixels / cell }
        };
        [count(height, self.cell.0), count(width, self.cell.1)]
    }
}

/// How the vectors of a text and an image are compared: `scale · cos + bias`, then a softmax over the texts, or a sigmoid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// The factor of the cosine: `exp(logit_scale)`.
    pub scale: f32,
    /// `logit_bias`, or 0.
    pub bias: f32,
}

impl Similarity {
    /// The logit for two vectors of unit length (`logits_per_image` of transformers).
    pub fn logit(&self, image: &[f32], text: &[f32]) -> f32 {
        let cosine: f32 = image.iter().zip(text).map(|(a, b)| a * b).sum();
        cosine * self.scale + self.bias
    }
}

/// The requested outputs of a model, in addition to the last hidden state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The pooler's output for each row.
    pub pooler_output: bool,
    /// The embeddings and the output of every layer.
    pub hidden_states: bool,
    /// The attention probabilities of every layer; only the eager kernel computes them. A model over maps (a convolutional network,
    /// Swin) gives none.
    pub attentions: bool,
}

/// The outputs of a backbone, named as in transformers.
#[derive(Clone, Debug)]
pub struct ModelOutput {
    /// One vector per token.
    pub last_hidden_state: Ragged,
    /// `(rows, hidden_size)`, if requested; zeros for a row without tokens.
    pub pooler_output: Option<Tensor>,
    /// The embeddings, then the output of each layer, or of each stage in a model over maps, if requested.
    pub hidden_states: Option<Vec<Ragged>>,
    /// For each layer and row, `(num_attention_heads, seq_len, seq_len)`, if requested.
    pub attentions: Option<Vec<Vec<Tensor>>>,
}

/// A loaded architecture without a head.
pub trait Backbone: Send + Sync {
    /// Runs the model over ragged rows.
    ///
    /// # Errors
    /// If an id or position is outside its table, if the pooler is requested and the checkpoint has none,
    /// or if candle cannot allocate.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput>;

    /// The dimensions of the configuration.
    fn dimensions(&self) -> &Dimensions;

    /// Whether the checkpoint has a pooler.
    fn has_pooler(&self) -> bool;

    /// The word embeddings, `(vocab_size, hidden_size)`, for tied heads; `None` if the model reads no
    /// tokens.
    fn word_embeddings(&self) -> Option<&Embedding> {
        None
    }

    /// How vectors of texts and images are compared, in a model that reads both; their `pooler_output` is comparable.
    fn similarity(&self) -> Option<Similarity> {
        None
    }

    /// The encoder and decoder of an encoder-decoder architecture.
    fn seq2seq(&self) -> Option<&dyn Seq2SeqBackbone> {
        None
    }

    /// A decoder with `head` for generation; `None` for an architecture that does not generate.
    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        let _ = head;
        None
    }

    /// The size of a hidden state.
    fn hidden_size(&self) -> usize {
        self.dimensions().hidden_size
    }

    /// The number of layers; there is one more hidden state.
    fn num_hidden_layers(&self) -> usize {
        self.dimensions().num_hidden_layers
    }

    /// The number of attention heads.
    fn num_attention_heads(&self) -> usize {
        self.dimensions().num_attention_heads
    }

    /// The numbering of positions.
    fn position_ids(&self) -> PositionIds {
        self.dimensions().position_ids
    }

    /// The maximum length of a row: the size of the position table, less padding; `None` if unlimited.
    fn max_position_embeddings(&self) -> Option<usize> {
        self.dimensions().position_limit()
    }
}

/// Collects hidden states and attentions, if requested, while the layers run.
struct Recorder<'a> {
    inputs: &'a ModelInputs,
    hidden_states: Option<Vec<Ragged>>,
    attentions: Option<Vec<Vec<Tensor>>>,
    cross_attentions: Option<Vec<Vec<Tensor>>>,
}

impl<'a> Recorder<'a> {
    fn new(inputs: &'a ModelInputs, want: &Want) -> Self {
        Self {
            inputs,
            hidden_states: want.hidden_states.then(Vec::new),
            attentions: want.attentions.then(Vec::new),
            cross_attentions: want.attentions.then(Vec::new),
        }
    }

    fn hidden_state(&mut self, values: &Tensor) {
        if let Some(states) = &mut self.hidden_states {
            let lengths = self.inputs.lengths.clone();
            states.push(Ragged { values: values.clone(), lengths });
        }
    }

    /// Replaces the last one.
    fn replace_hidden_state(&mut self, values: &Tensor) {
        if let Some(states) = &mut self.hidden_states {
            states.pop();
        }
        self.hidden_state(values);
    }

    fn attentions(&mut self, layer: Option<Vec<Tensor>>) {
        if let (Some(all), Some(layer)) = (&mut self.attentions, layer) {
            all.push(layer);
        }
    }

    fn cross_attentions(&mut self, layer: Option<Vec<Tensor>>) {
        if let (Some(all), Some(layer)) = (&mut self.cross_attentions, layer) {
            all.push(layer);
        }
    }

    /// The output of a decoder after an encoder.
    fn finish_decoder(mut self, values: Tensor) -> DecoderOutput {
        let cross_attentions = self.cross_attentions.take();
        DecoderOutput { model: self.finish(values, None), cross_attentions }
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
