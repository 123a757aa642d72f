//! DistilBERT: BERT's layers under other names, without segments and pooler.
//!
//! # Source
//! `src/transformers/models/distilbert/modeling_distilbert.py` at v4.57.

use candle_core::{Result, Tensor, bail};

use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, Embedding, LayerNorm, ModelInputs, PositionIds, VarBuilder,
};

/// The epsilon of layer normalization; the configuration has no key for it.
const LAYER_NORM_EPS: f64 = 1e-12;

/// The configuration of DistilBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct DistilBertConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of the position embedding table.
    pub max_position_embeddings: usize,
    /// The number of layers.
    pub n_layers: usize,
    /// The number of attention heads.
    pub n_heads: usize,
    /// The size of a hidden state.
    pub dim: usize,
    /// The inner size of the feed-forward network.
    pub hidden_dim: usize,
    /// The activation of the feed-forward network.
    pub activation: Activation,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl DistilBertConfig {
    /// Reads a `config.json` of DistilBERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let config = Self {
            vocab_size: fields.size("vocab_size", 30522)?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            n_layers: fields.size("n_layers", 6)?,
            n_heads: fields.size("n_heads", 12)?,
            dim: fields.size("dim", 768)?,
            hidden_dim: fields.size("hidden_dim", 3072)?,
            activation: fields.activation("activation", "gelu")?,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(("dim", config.dim), ("n_heads", config.n_heads))?;
        Ok(config)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.dim,
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            num_key_value_heads: self.n_heads,
            head_dim: self.dim / self.n_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            extrapolates: false,
            max_position_embeddings: Some(self.max_position_embeddings),
            image: None,
        }
    }
}

struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl Embeddings {
    fn load(vb: VarBuilder<'_>, config: &DistilBertConfig) -> Result<Self> {
        let table = |name, rows| Embedding::load(vb.pp(name), rows, config.dim);
        Ok(Self {
            word_embeddings: Embedding::load_words(
                &vb.pp("word_embeddings"),
                config.vocab_size,
                config.dim,
                None,
            )?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            layer_norm: LayerNorm::load(vb.pp("LayerNorm"), config.dim, LAYER_NORM_EPS)?,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let words = self.word_embeddings.forward(&inputs.input_ids)?;
        let positions = self.position_embeddings.forward(&inputs.position_ids)?;
        self.layer_norm.forward_residual(&words, &positions)
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
    extra: ExtraNames::NONE,
};

impl DistilBertConfig {
    fn layer(&self) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: &LAYER_NAMES,
            hidden_size: self.dim,
            intermediate_size: self.hidden_dim,
            num_attention_heads: self.n_heads,
            hidden_act: self.activation,
            layer_norm_eps: LAYER_NORM_EPS,
            qkv_bias: true,
            norm_first: false,
            causal: false,
            relative_keys: None,
            disentangled: None,
            alibi: None,
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

/// DistilBERT without a head.
pub struct DistilBertModel {
    embeddings: Embeddings,
    transformer_layer: EncoderLayers,
    dimensions: Dimensions,
}

impl DistilBertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: VarBuilder<'_>, config: &DistilBertConfig) -> Result<Self> {
        let embeddings = Embeddings::load(vb.pp("embeddings"), config)?;
        let transformer_layer = EncoderLayers::load(
            &vb.pp("transformer.layer"),
            config.n_layers,
            &config.layer(),
            Some(&embeddings.layer_norm),
        )?;
        Ok(Self { embeddings, transformer_layer, dimensions: config.dimensions() })
    }
}

impl Backbone for DistilBertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but DistilBERT has no pooler");
        }
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let hidden_states = self.transformer_layer.forward(embedded, None, None, &mut recorder)?;
        Ok(recorder.finish(hidden_states, None))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embeddings.word_embeddings)
    }

    fn has_pooler(&self) -> bool {
        false
    }
}
