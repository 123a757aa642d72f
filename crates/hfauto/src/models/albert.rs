//! ALBERT: a post-norm encoder whose layers share their weights, over embeddings of another size.
//!
//! # Source
//! `src/transformers/models/albert/modeling_albert.py` at v5.24.

use candle_core::Result;

use super::bert::Pooler;
use super::embeddings::{TextEmbeddings, TextEmbeddingsConfig};
use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, Embedding, Linear, ModelInputs, PositionIds, VarBuilder,
};

/// The configuration of ALBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct AlbertConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of an embedding.
    pub embedding_size: usize,
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of times that a group of layers runs.
    pub num_hidden_layers: usize,
    /// The number of groups: each runs for its share of the layers.
    pub num_hidden_groups: usize,
    /// The number of layers of a group.
    pub inner_group_num: usize,
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
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl AlbertConfig {
    /// Reads a `config.json` of ALBERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let config = Self {
            vocab_size: fields.size("vocab_size", 30_000)?,
            embedding_size: fields.size("embedding_size", 128)?,
            hidden_size: fields.size("hidden_size", 4096)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_hidden_groups: fields.size("num_hidden_groups", 1)?,
            inner_group_num: fields.size("inner_group_num", 1)?,
            num_attention_heads: fields.size("num_attention_heads", 64)?,
            intermediate_size: fields.size("intermediate_size", 16_384)?,
            hidden_act: fields.activation("hidden_act", "gelu_new")?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            type_vocab_size: fields.size("type_vocab_size", 2)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        let most = crate::limits::MODEL_LAYERS;
        let groups = config.num_hidden_groups.max(config.num_hidden_layers);
        if config.inner_group_num.saturating_mul(groups) > most {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                format!(
                    "`inner_group_num: {}` in config.json gives more than {most} layers",
                    config.inner_group_num
                ),
            ));
        }
        Ok(config)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers * self.inner_group_num,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: Some(self.type_vocab_size),
            position_ids: PositionIds::FromZero,
            extrapolates: false,
            max_position_embeddings: Some(self.max_position_embeddings),
            image: None,
        }
    }

    fn embeddings(&self) -> TextEmbeddingsConfig {
        TextEmbeddingsConfig {
            vocab_size: self.vocab_size,
            embedding_size: self.embedding_size,
            positions: Some(self.max_position_embeddings),
            adds_positions: true,
            type_vocab_size: Some(self.type_vocab_size),
            projection: None,
            layer_norm_eps: Some(self.layer_norm_eps),
        }
    }

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

    /// The group of a layer.
    ///
    /// # Source
    /// `AlbertTransformer.forward`, which divides in f64.
    fn group(&self, layer: usize) -> usize {
        let share = self.num_hidden_layers as f64 / self.num_hidden_groups as f64;
        ((layer as f64 / share) as usize).min(self.num_hidden_groups - 1)
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["attention.query", "attention.key", "attention.value"]),
    attention_output: "attention.dense",
    attention_norm: "attention.LayerNorm",
    intermediate: "ffn",
    output: "ffn_output",
    output_norm: "full_layer_layer_norm",
    extra: ExtraNames::NONE,
};

/// ALBERT without a head: `AlbertModel`.
pub struct AlbertModel {
    embeddings: TextEmbeddings,
    embedding_hidden_mapping_in: Linear,
    albert_layer_groups: Vec<EncoderLayers>,
    pooler: Option<Pooler>,
    config: AlbertConfig,
    dimensions: Dimensions,
}

impl AlbertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: AlbertConfig) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let (size, hidden) = (config.embedding_size, config.hidden_size);
        let groups = (0..config.num_hidden_groups).map(|group| {
            let vb = encoder.pp("albert_layer_groups").pp(group).pp("albert_layers");
            // Several layers produce the input of the first one.
            EncoderLayers::load(&vb, config.inner_group_num, &config.layer(), None)
        });
        let mapping = encoder.pp("embedding_hidden_mapping_in").unquantized();
        Ok(Self {
            embeddings: TextEmbeddings::load(&vb.pp("embeddings"), &config.embeddings())?,
            embedding_hidden_mapping_in: Linear::load(mapping, size, hidden, true)?,
            albert_layer_groups: groups.collect::<Result<_>>()?,
            pooler: Pooler::load(vb.pp("pooler"), hidden)?,
            dimensions: config.dimensions(),
            config,
        })
    }
}

impl Backbone for AlbertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let mut states = self.embedding_hidden_mapping_in.forward(&embedded)?;
        recorder.hidden_state(&states);
        for layer in 0..self.config.num_hidden_layers {
            let group = &self.albert_layer_groups[self.config.group(layer)];
            for inner in 0..group.len() {
                states = group.forward_layer(inner, &states, None, &mut recorder)?;
                recorder.hidden_state(&states);
            }
        }
        let pooled = Pooler::output(self.pooler.as_ref(), &states, inputs, want)?;
        Ok(recorder.finish(states, pooled))
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
