//! BERT: a post-norm encoder with learned absolute positions and segments. With `is_decoder`, the same
//! layers form a decoder.
//!
//! # Source
//! `src/transformers/models/bert/modeling_bert.py` at v4.57.

use candle_core::{Result, Tensor, bail};
use serde_json::json;

use super::causal_lm::{CausalBackbone, CausalLM};
use super::embeddings::{TextEmbeddings, TextEmbeddingsConfig};
use super::encoder::{
    EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv, RelativeKeys,
};
use super::{Backbone, Decoder, Dimensions, Fields, Head, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, Embedding, KvCache, LayerNorm, Linear, ModelInputs,
    PositionIds, VarBuilder,
};

/// The configuration of BERT and of the families that share its encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of an embedding. If it is not that of a hidden state, a layer projects embeddings.
    pub embedding_size: usize,
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
    /// The number of segment ids.
    pub type_vocab_size: usize,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The numbering of positions.
    pub position_ids: PositionIds,
    /// How positions affect attention.
    pub position_embedding_type: PositionEmbeddingType,
    /// Whether attention is causal, as in a language model.
    pub is_decoder: bool,
    /// Whether norms precede the sublayers and end the encoder, instead of following the embeddings and the sublayers.
    pub norm_first: bool,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// How positions affect attention: `position_embedding_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionEmbeddingType {
    /// A vector per position, added to the word embedding.
    Absolute,
    /// A vector per distance, multiplied with the queries.
    RelativeKey,
    /// A vector per distance, multiplied with the queries and the keys.
    RelativeKeyQuery,
}

impl PositionEmbeddingType {
    fn read(fields: &Fields<'_>) -> error::Result<Self> {
        match fields.text("position_embedding_type", "absolute")? {
            "absolute" => Ok(Self::Absolute),
            "relative_key" => Ok(Self::RelativeKey),
            "relative_key_query" => Ok(Self::RelativeKeyQuery),
            other => Err(error::Error::new(
                error::ErrorKind::Unsupported,
                format!("`position_embedding_type: {other}` in config.json is not implemented"),
            )
            .hint("valid values: absolute, relative_key, relative_key_query")),
        }
    }
}

/// The defaults of a family.
pub(super) struct BertDefaults {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f64,
    pub(super) position_ids: PositionIds,
}

impl BertDefaults {
    /// Those of BERT.
    pub(super) const BERT: Self = Self {
        vocab_size: 30_522,
        hidden_size: 768,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        intermediate_size: 3072,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        position_ids: PositionIds::FromZero,
    };
}

impl BertConfig {
    /// Reads a `config.json` of BERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for a setting that is not
    /// implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with_defaults(fields, &BertDefaults::BERT)
    }

    /// As [`BertConfig::new`], with the defaults of a family that shares the encoder.
    pub(super) fn with_defaults(
        fields: &Fields<'_>,
        defaults: &BertDefaults,
    ) -> error::Result<Self> {
        fields.only("add_cross_attention", &json!(false))?;
        let hidden_size = fields.size("hidden_size", defaults.hidden_size)?;
        let heads = fields.size("num_attention_heads", defaults.num_attention_heads)?;
        let positions = fields.size("max_position_embeddings", defaults.max_position_embeddings)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", defaults.vocab_size)?,
            embedding_size: hidden_size,
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", defaults.num_hidden_layers)?,
            num_attention_heads: heads,
            intermediate_size: fields.size("intermediate_size", defaults.intermediate_size)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            max_position_embeddings: positions,
            type_vocab_size: fields.size("type_vocab_size", defaults.type_vocab_size)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", defaults.layer_norm_eps)?,
            position_ids: defaults.position_ids,
            position_embedding_type: PositionEmbeddingType::read(fields)?,
            is_decoder: fields.flag("is_decoder", false)?,
            norm_first: false,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        Ok(config)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let unused_positions = match self.position_ids {
            PositionIds::FromZero => 0,
            PositionIds::AfterPadding { padding_idx } => padding_idx as usize + 1,
        };
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: Some(self.type_vocab_size),
            position_ids: self.position_ids,
            extrapolates: false,
            max_position_embeddings: Some(
                self.max_position_embeddings.saturating_sub(unused_positions),
            ),
            image: None,
        }
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    extra: ExtraNames::NONE,
};

const LAYER_NAMES_OF_NORM_FIRST: EncoderLayerNames = EncoderLayerNames {
    attention_norm: "attention.self_attn_layer_norm",
    output_norm: "LayerNorm",
    ..LAYER_NAMES
};

impl BertConfig {
    fn embeddings(&self) -> TextEmbeddingsConfig {
        TextEmbeddingsConfig {
            vocab_size: self.vocab_size,
            embedding_size: self.embedding_size,
            positions: Some(self.max_position_embeddings),
            adds_positions: self.position_embedding_type == PositionEmbeddingType::Absolute,
            type_vocab_size: Some(self.type_vocab_size),
            projection: None,
            layer_norm_eps: (!self.norm_first).then_some(self.layer_norm_eps),
        }
    }

    fn layer(&self) -> EncoderLayerConfig {
        let relative_keys = |with_keys| RelativeKeys {
            name: "attention.self.distance_embedding",
            positions: self.max_position_embeddings,
            with_keys,
        };
        EncoderLayerConfig {
            names: if self.norm_first { &LAYER_NAMES_OF_NORM_FIRST } else { &LAYER_NAMES },
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: true,
            norm_first: self.norm_first,
            causal: self.is_decoder,
            relative_keys: match self.position_embedding_type {
                PositionEmbeddingType::Absolute => None,
                PositionEmbeddingType::RelativeKey => Some(relative_keys(false)),
                PositionEmbeddingType::RelativeKeyQuery => Some(relative_keys(true)),
            },
            disentangled: None,
            alibi: None,
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

/// The pooler: a dense layer and tanh over the first token of each row.
pub(super) struct Pooler {
    dense: Linear,
}

impl Pooler {
    /// Loads the layer if the checkpoint has it; transformers would initialize it with random weights.
    pub(super) fn load(vb: VarBuilder<'_>, hidden_size: usize) -> Result<Option<Self>> {
        let vb = vb.unquantized();
        if !vb.contains_tensor("weight") {
            return Ok(None);
        }
        Ok(Some(Self { dense: Linear::load(vb, hidden_size, hidden_size, true)? }))
    }

    fn forward(&self, hidden_states: &Tensor, inputs: &ModelInputs) -> Result<Tensor> {
        let first = inputs.select(hidden_states, |_, _| Ok(0))?;
        let pooled = self.dense.forward_activated(&first, Activation::Tanh)?;
        if inputs.lengths.ranges().all(|range| !range.is_empty()) {
            return Ok(pooled);
        }
        // A row without tokens stays zero, without the layer's bias.
        let there = inputs.lengths.ranges().map(|range| u8::from(!range.is_empty()));
        let there = Tensor::from_iter(there, pooled.device())?.unsqueeze(1)?;
        there.broadcast_as(pooled.shape())?.where_cond(&pooled, &pooled.zeros_like()?)
    }

    /// The pooler's output, if requested.
    ///
    /// # Errors
    /// If it is requested and the checkpoint has no pooler.
    pub(super) fn output(
        pooler: Option<&Self>,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        want: &Want,
    ) -> Result<Option<Tensor>> {
        match (want.pooler_output, pooler) {
            (false, _) => Ok(None),
            (true, Some(pooler)) => pooler.forward(hidden_states, inputs).map(Some),
            (true, None) => {
                bail!("`pooler_output` was requested, but the checkpoint has no pooler")
            }
        }
    }
}

/// BERT without a head: `BertModel`, and with other settings `RobertaModel`, `ElectraModel` and their relatives.
pub struct BertModel {
    embeddings: TextEmbeddings,
    embeddings_project: Option<Linear>,
    encoder_layer: EncoderLayers,
    /// The norm after the last layer.
    encoder_layer_norm: Option<LayerNorm>,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
    is_decoder: bool,
}

impl BertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &BertConfig) -> Result<Self> {
        let (size, hidden) = (config.embedding_size, config.hidden_size);
        let embeddings = TextEmbeddings::load(&vb.pp("embeddings"), &config.embeddings())?;
        let projection = (size != hidden)
            .then(|| Linear::load(vb.pp("embeddings_project").unquantized(), size, hidden, true));
        let norm = config
            .norm_first
            .then(|| LayerNorm::load(vb.pp("encoder.LayerNorm"), hidden, config.layer_norm_eps));
        let before = embeddings.layer_norm.as_ref().filter(|_| projection.is_none());
        let encoder_layer = EncoderLayers::load(
            &vb.pp("encoder.layer"),
            config.num_hidden_layers,
            &config.layer(),
            before,
        )?;
        Ok(Self {
            embeddings,
            embeddings_project: projection.transpose()?,
            encoder_layer,
            encoder_layer_norm: norm.transpose()?,
            pooler: Pooler::load(vb.pp("pooler.dense"), hidden)?,
            dimensions: config.dimensions(),
            is_decoder: config.is_decoder,
        })
    }

    fn encode(
        &self,
        caches: Option<&mut [KvCache]>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let mut states = self.embeddings.forward(recorder.inputs)?;
        if let Some(projection) = &self.embeddings_project {
            states = projection.forward(&states)?;
        }
        let states = self.encoder_layer.forward(states, caches, None, recorder)?;
        let Some(norm) = &self.encoder_layer_norm else { return Ok(states) };
        let states = norm.forward(&states)?;
        // As in transformers, the last hidden state is the normalized one.
        recorder.replace_hidden_state(&states);
        Ok(states)
    }
}

impl Backbone for BertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let hidden_states = self.encode(None, &mut recorder)?;
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

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        let device = self.embeddings.word_embeddings.device();
        let decoder = CausalLM::new(self, head, device);
        self.is_decoder.then(|| Box::new(decoder) as Box<dyn Decoder>)
    }
}

impl CausalBackbone for BertModel {
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor> {
        self.encode(Some(caches), &mut Recorder::new(inputs, &Want::default()))
    }
}
