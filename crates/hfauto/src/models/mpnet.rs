//! MPNet: a post-norm encoder whose layers share one relative position bias.
//!
//! # Source
//! `src/transformers/models/mpnet/modeling_mpnet.py` at v4.57.

use candle_core::{Result, Tensor};

use super::bert::Pooler;
use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, Embedding, LayerNorm, ModelInputs, PositionIds,
    RelativeAttentionBias, RelativePositionBuckets, VarBuilder,
};

/// Fixed in the source, regardless of `pad_token_id`.
const PADDING_IDX: u32 = 1;
/// Fixed in the source, regardless of `relative_attention_num_buckets` (which is the size of the
/// table).
const BUCKETS: RelativePositionBuckets = match RelativePositionBuckets::new(32, 128, true) {
    Some(buckets) => buckets,
    None => panic!("these buckets can be divided"),
};

/// The configuration of MPNet.
#[derive(Clone, Debug, PartialEq)]
pub struct MPNetConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads.
    pub num_attention_heads: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// The activation of the feed-forward network.
    pub hidden_act: Activation,
    /// The size of the position embedding table.
    pub max_position_embeddings: usize,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The number of relative position buckets.
    pub relative_attention_num_buckets: usize,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl MPNetConfig {
    /// Reads a `config.json` of MPNet.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let config = Self {
            vocab_size: fields.size("vocab_size", 30527)?,
            hidden_size: fields.size("hidden_size", 768)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            relative_attention_num_buckets: fields.size("relative_attention_num_buckets", 32)?,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        if config.relative_attention_num_buckets < BUCKETS.num_buckets() as usize {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                format!(
                    "`relative_attention_num_buckets: {}` in config.json is less than \
                     MPNet's {} distance buckets",
                    config.relative_attention_num_buckets,
                    BUCKETS.num_buckets()
                ),
            ));
        }
        Ok(config)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::AfterPadding { padding_idx: PADDING_IDX },
            extrapolates: false,
            max_position_embeddings: Some(
                self.max_position_embeddings.saturating_sub(PADDING_IDX as usize + 1),
            ),
            image: None,
        }
    }
}

struct MPNetEmbeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl MPNetEmbeddings {
    fn load(vb: VarBuilder<'_>, config: &MPNetConfig) -> Result<Self> {
        let table = |name, rows| Embedding::load(vb.pp(name), rows, config.hidden_size);
        Ok(Self {
            word_embeddings: Embedding::load_words(
                &vb.pp("word_embeddings"),
                config.vocab_size,
                config.hidden_size,
                None,
            )?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            layer_norm: LayerNorm::load(
                vb.pp("LayerNorm"),
                config.hidden_size,
                config.layer_norm_eps,
            )?,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let words = self.word_embeddings.forward(&inputs.input_ids)?;
        let positions = self.position_embeddings.forward(&inputs.position_ids)?;
        self.layer_norm.forward_residual(&words, &positions)
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    extra: ExtraNames::NONE,
};

impl MPNetConfig {
    fn layer(&self) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: &LAYER_NAMES,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
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

/// MPNet without a head.
pub struct MPNetModel {
    embeddings: MPNetEmbeddings,
    encoder_layer: EncoderLayers,
    encoder_bias: RelativeAttentionBias,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
}

impl MPNetModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: VarBuilder<'_>, config: &MPNetConfig) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let embeddings = MPNetEmbeddings::load(vb.pp("embeddings"), config)?;
        let encoder_layer = EncoderLayers::load(
            &encoder.pp("layer"),
            config.num_hidden_layers,
            &config.layer(),
            Some(&embeddings.layer_norm),
        )?;
        Ok(Self {
            embeddings,
            encoder_layer,
            encoder_bias: RelativeAttentionBias::load(
                encoder.pp("relative_attention_bias"),
                config.relative_attention_num_buckets,
                config.num_attention_heads,
                BUCKETS,
            )?,
            pooler: Pooler::load(vb.pp("pooler.dense"), config.hidden_size)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for MPNetModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let bias = self.encoder_bias.covering(inputs.lengths.max())?;
        let hidden_states =
            self.encoder_layer.forward(embedded, None, Some(&bias), &mut recorder)?;
        let pooled = Pooler::output(self.pooler.as_ref(), &hidden_states, inputs, want)?;
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embeddings.word_embeddings)
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}
