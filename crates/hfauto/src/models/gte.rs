//! GTE: a post-norm encoder with rotary embeddings and a gated feed-forward network; hub checkpoints name it `new`.
//!
//! # Source
//! `src/transformers/models/gte/modeling_gte.py` at v5.24; tensor names are the checkpoints', which
//! `conversion_mapping.py` changes.

use candle_core::{Result, Tensor};
use serde_json::json;

use super::bert::Pooler;
use super::rotary_encoder::{NormPlace, RotaryEncoder, RotaryEncoderConfig, RotaryLayerNames};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    AttentionMask, Embedding, GateHalf, LayerNorm, ModelInputs, PositionIds, RotaryConfig,
    RotaryLayout, VarBuilder,
};

/// The settings of GTE and of the families that share its layers.
#[derive(Clone, Debug, PartialEq)]
pub struct GteConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Positions that the model is made for.
    pub max_position_embeddings: usize,
    /// Segments; 0 for a model without a table of them.
    pub type_vocab_size: usize,
    pub(super) names: &'static GteNames,
    pub(super) encoder: RotaryEncoderConfig,
}

/// Paths of tensors in a checkpoint.
#[derive(Debug, PartialEq)]
pub(super) struct GteNames {
    pub(super) embeddings_norm: &'static str,
    pub(super) layers: &'static str,
}

const NAMES: GteNames =
    GteNames { embeddings_norm: "embeddings.LayerNorm", layers: "encoder.layer" };

const LAYER_NAMES: RotaryLayerNames = RotaryLayerNames {
    qkv: "attention.qkv_proj",
    attention_output: "attention.o_proj",
    attention_norm: "attn_ln",
    gate_up: &["mlp.up_gate_proj"],
    down: "mlp.down_proj",
    mlp_norm: "mlp_ln",
};

impl GteConfig {
    /// Reads a `config.json` of GTE.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        fields.only("position_embedding_type", &json!("rope"))?;
        fields.only("layer_norm_type", &json!("layer_norm"))?;
        fields.only("pack_qkv", &json!(true))?;
        fields.only("logn_attention_scale", &json!(false))?;
        let hidden_size = fields.size("hidden_size", 768)?;
        let heads = fields.size("num_attention_heads", 12)?;
        let head_dim = head_dim(fields, hidden_size, heads)?;
        let layers = fields.size("num_hidden_layers", 12)?;
        let most = fields.size("max_position_embeddings", 8192)?;
        let rotary = RotaryConfig::new(|key| fields.value(key), RotaryLayout::Gte, head_dim, most)?;
        Ok(Self {
            vocab_size: fields.size("vocab_size", 250_048)?,
            max_position_embeddings: most,
            type_vocab_size: fields.count("type_vocab_size", 1)?,
            names: &NAMES,
            encoder: RotaryEncoderConfig {
                names: &LAYER_NAMES,
                hidden_size,
                intermediate_size: fields.size("intermediate_size", 3072)?,
                num_attention_heads: heads,
                head_dim,
                hidden_act: fields.activation("hidden_act", "gelu")?,
                gate: Some(GateHalf::Second),
                norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
                norm_bias: true,
                norm_place: NormPlace::After,
                attention_bias: true,
                gate_up_bias: false,
                down_bias: true,
                rotary: vec![rotary],
                layers: vec![(AttentionMask::Full, 0); layers],
                attn_implementation: fields.attn_implementation(),
            },
        })
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let encoder = &self.encoder;
        Dimensions {
            hidden_size: encoder.hidden_size,
            num_hidden_layers: encoder.layers.len(),
            num_attention_heads: encoder.num_attention_heads,
            num_key_value_heads: encoder.num_attention_heads,
            head_dim: encoder.head_dim,
            vocab_size: self.vocab_size,
            type_vocab_size: Some(self.type_vocab_size).filter(|size| *size > 0),
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.max_position_embeddings),
            extrapolates: true,
            image: None,
        }
    }
}

/// Features of a head: `head_dim`, without it a share of `hidden_size`.
pub(super) fn head_dim(
    fields: &Fields<'_>,
    hidden_size: usize,
    heads: usize,
) -> error::Result<usize> {
    if let Some(head_dim) = fields.optional_size("head_dim", None)? {
        return Ok(head_dim);
    }
    fields.divides(("hidden_size", hidden_size), ("num_attention_heads", heads))?;
    Ok(hidden_size / heads)
}

struct GteEmbeddings {
    word_embeddings: Embedding,
    token_type_embeddings: Option<Embedding>,
    layer_norm: LayerNorm,
}

impl GteEmbeddings {
    fn load(vb: &VarBuilder<'_>, config: &GteConfig) -> Result<Self> {
        let table = |name, rows| Embedding::load(vb.pp(name), rows, config.encoder.hidden_size);
        let token_types = (config.type_vocab_size > 0)
            .then(|| table("embeddings.token_type_embeddings", config.type_vocab_size));
        Ok(Self {
            word_embeddings: Embedding::load_words(
                &vb.pp("embeddings.word_embeddings"),
                config.vocab_size,
                config.encoder.hidden_size,
                None,
            )?,
            token_type_embeddings: token_types.transpose()?,
            layer_norm: config.encoder.load_norm(vb.pp(config.names.embeddings_norm))?,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let words = self.word_embeddings.forward(&inputs.input_ids)?;
        let sum = match &self.token_type_embeddings {
            Some(token_types) => token_types.add_to(words, &inputs.token_type_ids)?,
            None => words,
        };
        self.layer_norm.forward(&sum)
    }
}

/// GTE without a head: `GteModel`, and with other names `NomicBertModel`.
pub struct GteModel {
    embeddings: GteEmbeddings,
    layers: RotaryEncoder,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
}

impl GteModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: VarBuilder<'_>, config: &GteConfig) -> Result<Self> {
        let embeddings = GteEmbeddings::load(&vb, config)?;
        let (layers, norm) = (vb.pp(config.names.layers), &embeddings.layer_norm);
        Ok(Self {
            layers: RotaryEncoder::load(&layers, &config.encoder, norm)?,
            embeddings,
            pooler: Pooler::load(vb.pp("pooler.dense"), config.encoder.hidden_size)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for GteModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let hidden_states = self.layers.forward(embedded, &mut recorder)?;
        recorder.hidden_state(&hidden_states);
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
