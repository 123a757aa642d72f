//! MPNet: a post-norm encoder whose layers share one relative position bias.
//!
//! # Source
//! `src/transformers/models/mpnet/modeling_mpnet.py` at v4.57.

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::bert::Pooler;
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, ModelInputs, PositionIds, attention,
};

/// Fixed in the source, whatever `pad_token_id` says.
const PADDING_IDX: u32 = 1;
/// Buckets that distances are sorted into; fixed in the source, whatever
/// `relative_attention_num_buckets` says (that is the size of the table).
const NUM_BUCKETS: u32 = 32;
/// Distances from here on share the last bucket.
const MAX_DISTANCE: f32 = 128.0;

/// The settings of MPNet.
#[derive(Clone, Debug, PartialEq)]
pub struct MPNetConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Features of a hidden state.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of a layer.
    pub num_attention_heads: usize,
    /// Features between the two products of the feed-forward part.
    pub intermediate_size: usize,
    /// The activation between them.
    pub hidden_act: Activation,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Of every layer normalisation.
    pub layer_norm_eps: f64,
    /// Rows of the table of relative position biases.
    pub relative_attention_num_buckets: usize,
}

impl MPNetConfig {
    /// Reads a `config.json` of MPNet.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown activation.
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
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        if config.relative_attention_num_buckets < NUM_BUCKETS as usize {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                format!(
                    "`relative_attention_num_buckets: {}` in config.json is less than the \
                     {NUM_BUCKETS} buckets that MPNet sorts distances into",
                    config.relative_attention_num_buckets
                ),
            ));
        }
        Ok(config)
    }

    /// What the configuration says about inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            vocab_size: self.vocab_size,
            position_ids: PositionIds::AfterPadding { padding_idx: PADDING_IDX },
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
            word_embeddings: table("word_embeddings", config.vocab_size)?,
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

/// A learned number for each head and bucket of distances.
struct RelativeAttentionBias {
    relative_attention_bias: Embedding,
    /// For the longest row so far. Only growing lengths build a new one.
    cached: Mutex<Option<Tensor>>,
}

impl RelativeAttentionBias {
    fn load(vb: VarBuilder<'_>, config: &MPNetConfig) -> Result<Self> {
        Ok(Self {
            relative_attention_bias: Embedding::load(
                vb.pp("relative_attention_bias"),
                config.relative_attention_num_buckets,
                config.num_attention_heads,
            )?,
            cached: Mutex::default(),
        })
    }

    /// `(num_attention_heads, n, n)` with `n` at least `seq_len`.
    fn covering(&self, seq_len: usize) -> Result<Tensor> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bias) = &*cached
            && bias.dim(1)? >= seq_len
        {
            return Ok(bias.clone());
        }
        let n = seq_len.next_power_of_two();
        let device = self.relative_attention_bias.weight().device();
        let buckets: Vec<u32> = (0..n as i64)
            .flat_map(|query| (0..n as i64).map(move |key| relative_position_bucket(key - query)))
            .collect();
        let buckets = Tensor::from_vec(buckets, n * n, device)?;
        let bias = self.relative_attention_bias.forward(&buckets)?; // (n * n, heads)
        let bias = bias.t()?.reshape(((), n, n))?.contiguous()?;
        *cached = Some(bias.clone());
        Ok(bias)
    }
}

/// The bucket of the distance from a query to a key: near ones have their own, farther ones share by
/// the logarithm; keys after the query use the upper half.
fn relative_position_bucket(relative_position: i64) -> u32 {
    let half = NUM_BUCKETS / 2;
    let max_exact = half / 2;
    let offset = if relative_position > 0 { half } else { 0 };
    let distance = relative_position.unsigned_abs() as u32;
    if distance < max_exact {
        return offset + distance;
    }
    // In f32, as torch computes it: the result is cut to a whole number.
    let exact = max_exact as f32;
    let log = (distance as f32 / exact).ln() / (MAX_DISTANCE / exact).ln();
    let far = max_exact + (log * (half - max_exact) as f32) as u32;
    offset + far.min(half - 1)
}

struct MPNetLayer {
    /// `attention.attn.q`, `k` and `v` as one product.
    attention_attn: Linear,
    attention_attn_o: Linear,
    attention_layer_norm: LayerNorm,
    intermediate_dense: Linear,
    intermediate_act: Activation,
    output_dense: Linear,
    output_layer_norm: LayerNorm,
    num_attention_heads: usize,
}

impl MPNetLayer {
    fn load(vb: VarBuilder<'_>, config: &MPNetConfig) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear = |name, from, to| Linear::load(vb.pp(name), from, to, true);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let qkv = ["attention.attn.q", "attention.attn.k", "attention.attn.v"]
            .map(|name| linear(name, hidden, hidden));
        let qkv = qkv.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            attention_attn: Linear::fuse(&qkv)?,
            attention_attn_o: linear("attention.attn.o", hidden, hidden)?,
            attention_layer_norm: norm("attention.LayerNorm")?,
            intermediate_dense: linear("intermediate.dense", hidden, intermediate)?,
            intermediate_act: config.hidden_act,
            output_dense: linear("output.dense", intermediate, hidden)?,
            output_layer_norm: norm("output.LayerNorm")?,
            num_attention_heads: config.num_attention_heads,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        position_bias: &Tensor,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let hidden_size = hidden_states.dim(1)?;
        let qkv = self.attention_attn.forward(hidden_states)?; // (total_tokens, 3 * hidden_size)
        let head_dim = hidden_size / self.num_attention_heads;
        let context = attention(
            &qkv.narrow(1, 0, hidden_size)?,
            &qkv.narrow(1, hidden_size, hidden_size)?,
            &qkv.narrow(1, 2 * hidden_size, hidden_size)?,
            inputs,
            AttentionOptions {
                num_heads: self.num_attention_heads,
                scale: 1.0 / (head_dim as f64).sqrt(),
                bias: Some(position_bias),
                distance: None,
                causal: false,
                output_attentions,
            },
        )?;
        let attended = self.attention_attn_o.forward(&context.values)?;
        let attended = self.attention_layer_norm.forward_residual(&attended, hidden_states)?;
        let output = self.intermediate_dense.forward_activated(&attended, self.intermediate_act)?;
        let output = self.output_dense.forward(&output)?;
        let output = self.output_layer_norm.forward_residual(&output, &attended)?;
        Ok((output, context.attentions))
    }
}

/// MPNet without a head.
pub struct MPNetModel {
    embeddings: MPNetEmbeddings,
    encoder_layer: Vec<MPNetLayer>,
    encoder_bias: RelativeAttentionBias,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
}

impl MPNetModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: VarBuilder<'_>, config: &MPNetConfig) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let layers = encoder.pp("layer");
        Ok(Self {
            embeddings: MPNetEmbeddings::load(vb.pp("embeddings"), config)?,
            encoder_layer: (0..config.num_hidden_layers)
                .map(|i| MPNetLayer::load(layers.pp(i), config))
                .collect::<Result<_>>()?,
            encoder_bias: RelativeAttentionBias::load(encoder, config)?,
            pooler: Pooler::load(vb, config.hidden_size)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for MPNetModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let mut hidden_states = self.embeddings.forward(inputs)?;
        recorder.hidden_state(&hidden_states);
        let position_bias = self.encoder_bias.covering(inputs.lengths.max())?;
        for layer in &self.encoder_layer {
            let (output, attentions) =
                layer.forward(&hidden_states, inputs, &position_bias, want.attentions)?;
            hidden_states = output;
            recorder.hidden_state(&hidden_states);
            recorder.attentions(attentions);
        }
        let pooled = Pooler::output(self.pooler.as_ref(), &hidden_states, inputs, want)?;
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Tensor> {
        Some(self.embeddings.word_embeddings.weight())
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_the_buckets_of_transformers() {
        let cases = [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-11, 8),
            (-12, 9),
            (-16, 10),
            (-32, 12),
            (-64, 14),
            (-90, 14),
            (-91, 15),
            (-128, 15),
            (-5000, 15),
            (1, 17),
            (8, 24),
            (16, 26),
            (500, 31),
        ];
        for (distance, bucket) in cases {
            assert_eq!(relative_position_bucket(distance), bucket, "distance {distance}");
        }
    }
}
