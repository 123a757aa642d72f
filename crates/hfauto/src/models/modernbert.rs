//! ModernBERT: a pre-norm encoder with rotary embeddings, whose layers see all tokens or a window of them.
//!
//! # Source
//! `src/transformers/models/modernbert/modeling_modernbert.py` at v5.24.

use candle_core::{Result, Tensor};

use super::bert::Pooler;
use super::rotary_encoder::{NormPlace, RotaryEncoder, RotaryEncoderConfig, RotaryLayerNames};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    AttentionMask, Embedding, GateHalf, LayerNorm, ModelInputs, PositionIds, RotaryConfig,
    RotaryLayout, VarBuilder,
};

/// The settings of ModernBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct ModernBertConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Positions that the model is made for.
    pub max_position_embeddings: usize,
    encoder: RotaryEncoderConfig,
}

const LAYER_NAMES: RotaryLayerNames = RotaryLayerNames {
    qkv: "attn.Wqkv",
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    gate_up: &["mlp.Wi"],
    down: "mlp.Wo",
    mlp_norm: "mlp_norm",
};

impl ModernBertConfig {
    /// Reads a `config.json` of ModernBERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let hidden_size = fields.size("hidden_size", 768)?;
        let heads = fields.size("num_attention_heads", 12)?;
        fields.divides(("hidden_size", hidden_size), ("num_attention_heads", heads))?;
        let head_dim = hidden_size / heads;
        let layers = fields.size("num_hidden_layers", 22)?;
        let every = fields.size("global_attn_every_n_layers", 3)?;
        let sliding = fields.sliding_layers(layers, |i| !i.is_multiple_of(every))?;
        let window = AttentionMask::Window(fields.size("local_attention", 128)? / 2);
        let layers = sliding
            .into_iter()
            .map(|slides| if slides { (window, 1) } else { (AttentionMask::Full, 0) });
        let most = fields.size("max_position_embeddings", 8192)?;
        let rotary = |layer_type, theta_key, rope_theta| {
            let layout = RotaryLayout::Nested { layer_type, theta_key, rope_theta, scaled: true };
            RotaryConfig::new(|key| fields.value(key), layout, head_dim, most)
        };
        let mlp_bias = fields.flag("mlp_bias", false)?;
        Ok(Self {
            vocab_size: fields.size("vocab_size", 50_368)?,
            max_position_embeddings: most,
            encoder: RotaryEncoderConfig {
                names: &LAYER_NAMES,
                hidden_size,
                intermediate_size: fields.size("intermediate_size", 1152)?,
                num_attention_heads: heads,
                head_dim,
                hidden_act: fields.activation("hidden_activation", "gelu")?,
                gate: Some(GateHalf::First),
                norm_eps: fields.epsilon("norm_eps", 1e-5)?,
                norm_bias: fields.flag("norm_bias", false)?,
                norm_place: NormPlace::Before,
                attention_bias: fields.flag("attention_bias", false)?,
                gate_up_bias: mlp_bias,
                down_bias: mlp_bias,
                rotary: vec![
                    rotary("full_attention", "global_rope_theta", 160_000.0)?,
                    rotary("sliding_attention", "local_rope_theta", 10_000.0)?,
                ],
                layers: layers.collect(),
                attn_implementation: fields.attn_implementation(),
            },
        })
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.encoder.hidden_size,
            num_hidden_layers: self.encoder.layers.len(),
            num_attention_heads: self.encoder.num_attention_heads,
            num_key_value_heads: self.encoder.num_attention_heads,
            head_dim: self.encoder.head_dim,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.max_position_embeddings),
            extrapolates: true,
            image: None,
        }
    }
}

struct ModernBertEmbeddings {
    tok_embeddings: Embedding,
    norm: LayerNorm,
}

impl ModernBertEmbeddings {
    fn load(vb: &VarBuilder<'_>, config: &ModernBertConfig) -> Result<Self> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.encoder.hidden_size);
        Ok(Self {
            tok_embeddings: Embedding::load_words(
                &vb.pp("tok_embeddings"),
                vocab_size,
                hidden_size,
                None,
            )?,
            norm: config.encoder.load_norm(vb.pp("norm"))?,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        self.norm.forward(&self.tok_embeddings.forward(&inputs.input_ids)?)
    }
}

/// ModernBERT without a head: `ModernBertModel`.
pub struct ModernBertModel {
    embeddings: ModernBertEmbeddings,
    layers: RotaryEncoder,
    final_norm: LayerNorm,
    dimensions: Dimensions,
}

impl ModernBertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: &VarBuilder<'_>, config: &ModernBertConfig) -> Result<Self> {
        let embeddings = ModernBertEmbeddings::load(&vb.pp("embeddings"), config)?;
        Ok(Self {
            layers: RotaryEncoder::load(&vb.pp("layers"), &config.encoder, &embeddings.norm)?,
            embeddings,
            final_norm: config.encoder.load_norm(vb.pp("final_norm"))?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for ModernBertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let hidden_states = self.layers.forward(embedded, &mut recorder)?;
        // The last of the hidden states is the normalized one, as in transformers.
        let hidden_states = self.final_norm.forward(&hidden_states)?;
        recorder.hidden_state(&hidden_states);
        let pooled = Pooler::output(None, &hidden_states, inputs, want)?;
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embeddings.tok_embeddings)
    }

    fn has_pooler(&self) -> bool {
        false
    }
}
