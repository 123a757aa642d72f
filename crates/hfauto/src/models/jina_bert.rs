//! `JinaBERT` of jina-embeddings-v2: BERT's encoder with symmetric linear biases (`ALiBi`) instead of positions, and a gate in the
//! feed-forward network. Checkpoints have one of two layers: that of the English models, or that with norms of queries and keys.
//! Hub checkpoints have the `model_type` of BERT.
//!
//! # Source
//! `modeling_bert.py` of jinaai/jina-bert-implementation and of jinaai/jina-bert-v2-qk-post-norm on the hub.

use candle_core::{Result, Tensor};
use serde_json::json;

use super::bert::Pooler;
use super::embeddings::{TextEmbeddings, TextEmbeddingsConfig};
use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Gate, Qkv};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error::{self, Error, ErrorKind};
use crate::nn::{
    Activation, AlibiForm, AttnImplementation, Embedding, GateHalf, ModelInputs, PositionIds,
    VarBuilder,
};

/// The configuration of `JinaBERT`.
#[derive(Clone, Debug, PartialEq)]
pub struct JinaBertConfig {
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
    /// The activation of the gate.
    pub feed_forward_type: Activation,
    /// The length of the rows that the model is made for.
    pub max_position_embeddings: usize,
    /// The number of segment ids.
    pub type_vocab_size: usize,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// The layers of jinaai/jina-bert-implementation.
const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "mlp.gated_layers",
    output: "mlp.wo",
    output_norm: "mlp.layernorm",
    extra: ExtraNames {
        gate: Some(Gate { half: GateHalf::First, bias: false }),
        ..ExtraNames::NONE
    },
};

/// Those of jinaai/jina-bert-v2-qk-post-norm.
const LAYER_NAMES_OF_QK_POST_NORM: EncoderLayerNames = EncoderLayerNames {
    intermediate: "mlp.up_gated_layer",
    output: "mlp.down_layer",
    output_norm: "layer_norm_2",
    extra: ExtraNames {
        gate: Some(Gate { half: GateHalf::Second, bias: false }),
        qk_norms: Some(["attention.self.layer_norm_q", "attention.self.layer_norm_k"]),
        second_attention_norm: Some("layer_norm_1"),
    },
    ..LAYER_NAMES
};

impl JinaBertConfig {
    /// Reads a `config.json` of `JinaBERT`.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        fields.only("position_embedding_type", &json!("alibi"))?;
        fields.only("is_decoder", &json!(false))?;
        fields.only("add_cross_attention", &json!(false))?;
        let feed_forward_type = match fields.text("feed_forward_type", "geglu")? {
            "geglu" => Activation::Gelu,
            "reglu" => Activation::Relu,
            other => {
                let text =
                    format!("`feed_forward_type: {other}` in config.json is not implemented");
                return Err(
                    Error::new(ErrorKind::Unsupported, text).hint("implemented: geglu, reglu")
                );
            }
        };
        let hidden_size = fields.size("hidden_size", 768)?;
        let num_attention_heads = fields.size("num_attention_heads", 12)?;
        let heads = ("num_attention_heads", num_attention_heads);
        fields.divides(("hidden_size", hidden_size), heads)?;
        // Read by the head over the vocabulary.
        fields.activation("hidden_act", "gelu")?;
        Ok(Self {
            vocab_size: fields.size("vocab_size", 30_522)?,
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            feed_forward_type,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            type_vocab_size: fields.size("type_vocab_size", 2)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            attn_implementation: fields.attn_implementation(),
        })
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
            type_vocab_size: Some(self.type_vocab_size),
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.max_position_embeddings),
            extrapolates: true,
            image: None,
        }
    }

    fn embeddings(&self) -> TextEmbeddingsConfig {
        TextEmbeddingsConfig {
            vocab_size: self.vocab_size,
            embedding_size: self.hidden_size,
            positions: None,
            adds_positions: false,
            type_vocab_size: Some(self.type_vocab_size),
            projection: None,
            layer_norm_eps: Some(self.layer_norm_eps),
        }
    }

    fn layer(&self, qk_post_norm: bool) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: if qk_post_norm { &LAYER_NAMES_OF_QK_POST_NORM } else { &LAYER_NAMES },
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.feed_forward_type,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: true,
            norm_first: false,
            causal: false,
            relative_keys: None,
            disentangled: None,
            alibi: Some(AlibiForm::Distance),
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

/// `JinaBERT` without a head.
pub struct JinaBertModel {
    embeddings: TextEmbeddings,
    layers: EncoderLayers,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
}

impl JinaBertModel {
    /// Loads the weights. Their names say which of the two layers they are of: config.json does not.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &JinaBertConfig) -> Result<Self> {
        let embeddings = TextEmbeddings::load(&vb.pp("embeddings"), &config.embeddings())?;
        let layers = vb.pp("encoder.layer");
        let up_gated = LAYER_NAMES_OF_QK_POST_NORM.intermediate;
        let layer = config.layer(layers.pp(0).pp(up_gated).contains_tensor("weight"));
        let norm = embeddings.layer_norm.as_ref();
        Ok(Self {
            layers: EncoderLayers::load(&layers, config.num_hidden_layers, &layer, norm)?,
            embeddings,
            pooler: Pooler::load(vb.pp("pooler.dense"), config.hidden_size)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for JinaBertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded: Tensor = self.embeddings.forward(inputs)?;
        let hidden_states = self.layers.forward(embedded, None, None, &mut recorder)?;
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
