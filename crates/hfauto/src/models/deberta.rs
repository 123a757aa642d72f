//! DeBERTa (v1) and `DeBERTa` v2 and v3: a post-norm encoder with disentangled attention, whose scores have terms of relative
//! positions. v2-xlarge adds a convolution beside the first layer.
//!
//! # Source
//! `src/transformers/models/deberta_v2/modeling_deberta_v2.py` and `deberta/modeling_deberta.py` at v5.24.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use serde_json::{Value, json};

use super::embeddings::{TextEmbeddings, TextEmbeddingsConfig};
use super::encoder::{
    DisentangledAttention, EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv,
};
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error::{self, Error, ErrorKind};
use crate::nn::{
    Activation, AttnImplementation, DisentangledConfig, DistanceBuckets, Embedding, LayerNorm,
    Linear, ModelInputs, PositionIds, RelativePositions, VarBuilder, select_rows,
};

/// The configuration of `DeBERTa`.
#[derive(Clone, Debug, PartialEq)]
pub struct DebertaConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of an embedding.
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
    /// Whether position embeddings are added to those of words.
    pub position_biased_input: bool,
    /// The number of segment ids; 0 for none.
    pub type_vocab_size: usize,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// Whether scores have a term of queries with relative positions (`c2p`), and one of keys (`p2c`).
    pub pos_att_type: [bool; 2],
    /// The number of terms that scores are scaled for.
    pub terms: usize,
    /// The relative positions, if attention has them.
    pub relative_attention: Option<DistanceBuckets>,
    /// Whether the embeddings of relative positions are normalized.
    pub norm_rel_ebd: bool,
    /// The projections of relative positions.
    pub projections: PositionProjections,
    /// The kernel size and the activation of the convolution, if there is one.
    pub conv: Option<(usize, Activation)>,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// The tensors that project relative positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionProjections {
    /// `pos_proj` and `pos_q_proj`, beside `in_proj` (v1).
    InProj,
    /// `pos_key_proj` and `pos_query_proj`.
    Own,
    /// Those of keys and queries (`share_att_key`).
    Shared,
}

impl DebertaConfig {
    /// Reads a `config.json` of `DeBERTa` v1.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for a setting that is not implemented.
    pub fn deberta(fields: &Fields<'_>) -> error::Result<Self> {
        fields.only("talking_head", &json!(false))?;
        let config = Self::with_defaults(fields, (50_265, 768, 12, 12, 3072))?;
        let types = pos_att_type(fields)?;
        let most = relative_positions(fields, config.max_position_embeddings)?;
        let relative = fields.flag("relative_attention", false)?;
        Ok(Self {
            pos_att_type: ["c2p", "p2c"].map(|name| types.iter().any(|t| t == name)),
            terms: 1 + types.len(),
            relative_attention: if relative { buckets(None, most)? } else { None },
            projections: PositionProjections::InProj,
            ..config
        })
    }

    /// Reads a `config.json` of `DeBERTa` v2 or v3.
    ///
    /// # Errors
    /// As [`DebertaConfig::deberta`].
    pub fn deberta_v2(fields: &Fields<'_>) -> error::Result<Self> {
        fields.only("conv_groups", &json!(1))?;
        let config = Self::with_defaults(fields, (128_100, 1536, 24, 24, 6144))?;
        let head_dim = config.hidden_size / config.num_attention_heads;
        fields.only("attention_head_size", &json!(head_dim))?;
        let types = pos_att_type(fields)?;
        let pos_att_type = ["c2p", "p2c"].map(|name| types.iter().any(|t| t == name));
        let most = relative_positions(fields, config.max_position_embeddings)?;
        let position_buckets = fields.value("position_buckets").map_or(Some(-1), Value::as_i64);
        let position_buckets = position_buckets
            .ok_or_else(|| model("`position_buckets` in config.json is not a whole number"))?;
        let position_buckets = u32::try_from(position_buckets).ok().filter(|buckets| *buckets > 0);
        let relative = fields.flag("relative_attention", false)?;
        let norms = fields.text("norm_rel_ebd", "none")?.to_lowercase();
        let share_att_key = fields.flag("share_att_key", false)?;
        let kernel = fields.count("conv_kernel_size", 0)?;
        if kernel > 0 && kernel.is_multiple_of(2) {
            let text = format!("`conv_kernel_size: {kernel}` in config.json is even");
            return Err(Error::new(ErrorKind::Model, text).hint("expected an odd number"));
        }
        let conv_act = fields.activation("conv_act", "tanh")?;
        Ok(Self {
            pos_att_type,
            terms: 1 + pos_att_type.iter().filter(|has| **has).count(),
            relative_attention: if relative { buckets(position_buckets, most)? } else { None },
            norm_rel_ebd: norms.split('|').any(|norm| norm.trim() == "layer_norm"),
            projections: if share_att_key {
                PositionProjections::Shared
            } else {
                PositionProjections::Own
            },
            conv: (kernel > 0).then_some((kernel, conv_act)),
            ..config
        })
    }

    fn with_defaults(
        fields: &Fields<'_>,
        (vocab, hidden, layers, heads, intermediate): (usize, usize, usize, usize, usize),
    ) -> error::Result<Self> {
        let hidden_size = fields.size("hidden_size", hidden)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", vocab)?,
            embedding_size: fields.size("embedding_size", hidden_size)?,
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", layers)?,
            num_attention_heads: fields.size("num_attention_heads", heads)?,
            intermediate_size: fields.size("intermediate_size", intermediate)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            position_biased_input: fields.flag("position_biased_input", true)?,
            type_vocab_size: fields.count("type_vocab_size", 0)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-7)?,
            pos_att_type: [false; 2],
            terms: 1,
            relative_attention: None,
            norm_rel_ebd: false,
            projections: PositionProjections::Own,
            conv: None,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
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
            type_vocab_size: Some(self.type_vocab_size).filter(|types| *types > 0),
            position_ids: PositionIds::FromZero,
            extrapolates: !self.position_biased_input,
            max_position_embeddings: Some(self.max_position_embeddings),
            image: None,
        }
    }

    fn embeddings(&self) -> TextEmbeddingsConfig {
        let projects = self.embedding_size != self.hidden_size;
        TextEmbeddingsConfig {
            vocab_size: self.vocab_size,
            embedding_size: self.embedding_size,
            positions: self.position_biased_input.then_some(self.max_position_embeddings),
            adds_positions: true,
            type_vocab_size: Some(self.type_vocab_size).filter(|types| *types > 0),
            projection: projects.then_some(("embed_proj", self.hidden_size)),
            layer_norm_eps: Some(self.layer_norm_eps),
        }
    }

    /// The settings of the layers of an encoder.
    fn layer(&self, encoder: &VarBuilder<'_>) -> Result<EncoderLayerConfig> {
        let positions = self.relative_attention.map(|buckets| -> Result<_> {
            let (span, hidden) = (buckets.span() as usize, self.hidden_size);
            let mut embeddings = encoder.pp("rel_embeddings").get((2 * span, hidden), "weight")?;
            if self.norm_rel_ebd {
                let norm = LayerNorm::load(encoder.pp("LayerNorm"), hidden, self.layer_norm_eps)?;
                // See `TensorSource::get` for tensors that the checkpoint lacks.
                if embeddings.is_contiguous() && norm.is_loaded() {
                    embeddings = norm.forward(&embeddings)?;
                }
            }
            let (keys, queries) = match self.projections {
                PositionProjections::InProj => (("pos_proj", false), ("pos_q_proj", true)),
                PositionProjections::Own => (("pos_key_proj", true), ("pos_query_proj", true)),
                PositionProjections::Shared => (("key_proj", true), ("query_proj", true)),
            };
            let [c2p, p2c] = self.pos_att_type;
            Ok(DisentangledConfig {
                embeddings,
                positions: Arc::new(RelativePositions::new(buckets)),
                keys: c2p.then_some(keys),
                queries: p2c.then_some(queries),
            })
        });
        let in_proj = self.projections == PositionProjections::InProj;
        Ok(EncoderLayerConfig {
            names: if in_proj { &LAYER_NAMES_OF_V1 } else { &LAYER_NAMES },
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: true,
            norm_first: false,
            causal: false,
            relative_keys: None,
            disentangled: Some(DisentangledAttention {
                name: "attention.self",
                terms: self.terms,
                positions: positions.transpose()?,
            }),
            alibi: None,
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        })
    }
}

/// `pos_att_type`: a list, or names with `|` between them.
fn pos_att_type(fields: &Fields<'_>) -> error::Result<Vec<String>> {
    let wrong = || model("`pos_att_type` in config.json is neither a text nor a list of texts");
    match fields.value("pos_att_type") {
        None => Ok(Vec::new()),
        Some(Value::String(names)) => {
            Ok(names.to_lowercase().split('|').map(|name| name.trim().to_owned()).collect())
        }
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<_>>().ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

/// `max_relative_positions`, below 1 that of positions.
fn relative_positions(fields: &Fields<'_>, max_positions: usize) -> error::Result<u32> {
    let most = match fields.value("max_relative_positions") {
        Some(value) if value.as_f64().is_some_and(|number| number < 1.0) => max_positions,
        _ => fields.size("max_relative_positions", max_positions)?,
    };
    u32::try_from(most).map_err(|_| model("`max_relative_positions` in config.json is too large"))
}

fn buckets(buckets: Option<u32>, most: u32) -> error::Result<Option<DistanceBuckets>> {
    DistanceBuckets::new(buckets, most).map(Some).ok_or_else(|| {
        let buckets = buckets.unwrap_or_default();
        Error::new(
            ErrorKind::Model,
            format!(
                "`position_buckets: {buckets}` in config.json does not go with \
                 `max_relative_positions: {most}`"
            ),
        )
        .hint("expected at least 2 buckets, and more than half as many positions")
    })
}

fn model(message: &str) -> Error {
    Error::new(ErrorKind::Model, message)
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart([
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    extra: ExtraNames::NONE,
};

const LAYER_NAMES_OF_V1: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::ByHead {
        weight: "attention.self.in_proj",
        q_bias: "attention.self.q_bias",
        v_bias: "attention.self.v_bias",
    },
    ..LAYER_NAMES
};

/// A convolution over the embeddings, added to the output of the first layer.
struct ConvLayer {
    conv: Linear,
    kernel: usize,
    conv_act: Activation,
    layer_norm: LayerNorm,
}

impl ConvLayer {
    fn load(
        vb: &VarBuilder<'_>,
        config: &DebertaConfig,
        (kernel, conv_act): (usize, Activation),
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            conv: Linear::load_convolution(vb.pp("conv"), hidden, &[hidden, kernel], true)?,
            kernel,
            conv_act,
            layer_norm: LayerNorm::load(vb.pp("LayerNorm"), hidden, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, x: &Tensor, layer_output: &Tensor, inputs: &ModelInputs) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        if tokens == 0 {
            return Ok(layer_output.clone());
        }
        let zeros = Tensor::zeros((1, hidden), x.dtype(), x.device())?;
        let x = Tensor::cat(&[x, &zeros], 0)?;
        let padding = self.kernel / 2;
        let mut places = Vec::with_capacity(tokens * self.kernel);
        for range in inputs.lengths.ranges() {
            for token in range.clone() {
                places.extend((0..self.kernel).map(|offset| {
                    let place = (token + offset).checked_sub(padding);
                    place.filter(|place| range.contains(place)).unwrap_or(tokens) as u32
                }));
            }
        }
        let side_by_side = select_rows(&x, places)?
            .reshape((tokens, self.kernel, hidden))?
            .transpose(1, 2)? // (tokens, hidden_size, kernel)
            .contiguous()?
            .reshape((tokens, hidden * self.kernel))?;
        let output = self.conv.forward_activated(&side_by_side, self.conv_act)?;
        self.layer_norm.forward_residual(&output, layer_output)
    }
}

/// `DeBERTa` without a head: `DebertaModel` and `DebertaV2Model`.
pub struct DebertaModel {
    embeddings: TextEmbeddings,
    layer: EncoderLayers,
    conv: Option<ConvLayer>,
    dimensions: Dimensions,
}

impl DebertaModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &DebertaConfig) -> Result<Self> {
        let (embeddings, encoder) = (vb.pp("embeddings"), vb.pp("encoder"));
        let embeddings = TextEmbeddings::load(&embeddings, &config.embeddings())?;
        Ok(Self {
            layer: EncoderLayers::load(
                &encoder.pp("layer"),
                config.num_hidden_layers,
                &config.layer(&encoder)?,
                embeddings.layer_norm.as_ref(),
            )?,
            conv: config
                .conv
                .map(|conv| ConvLayer::load(&encoder.pp("conv"), config, conv))
                .transpose()?,
            embeddings,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for DebertaModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but DeBERTa has no pooler");
        }
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        recorder.hidden_state(&embedded);
        let mut states = embedded.clone();
        for layer in 0..self.layer.len() {
            states = self.layer.forward_layer(layer, &states, None, &mut recorder)?;
            if let (0, Some(conv)) = (layer, &self.conv) {
                states = conv.forward(&embedded, &states, inputs)?;
            }
            recorder.hidden_state(&states);
        }
        Ok(recorder.finish(states, None))
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
