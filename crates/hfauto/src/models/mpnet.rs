//! MPNet: a post-norm encoder whose layers share one relative position bias.
//!
//! # Source
//! `src/transformers/models/mpnet/modeling_mpnet.py` at v4.57.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::bert::Pooler;
use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, ModelInputs, PositionIds,
    RelativeAttentionBias, RelativePositionBuckets, attention,
};

/// Fixed in the source, whatever `pad_token_id` says.
const PADDING_IDX: u32 = 1;
/// Fixed in the source, whatever `relative_attention_num_buckets` says (that is the size of the table).
const BUCKETS: RelativePositionBuckets = match RelativePositionBuckets::new(32, 128, true) {
    Some(buckets) => buckets,
    None => panic!("these buckets can be divided"),
};

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
        if config.relative_attention_num_buckets < BUCKETS.num_buckets() as usize {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                format!(
                    "`relative_attention_num_buckets: {}` in config.json is less than the \
                     {} buckets that MPNet sorts distances into",
                    config.relative_attention_num_buckets,
                    BUCKETS.num_buckets()
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
            type_vocab_size: None,
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
    /// `input_norm` is what the states come from: the embeddings, or the layer before.
    fn load(vb: VarBuilder<'_>, config: &MPNetConfig, input_norm: &LayerNorm) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear = |name, from, to| Linear::load(vb.pp(name), from, to, true);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let qkv = ["attention.attn.q", "attention.attn.k", "attention.attn.v"]
            .map(|name| linear(name, hidden, hidden));
        let qkv = qkv.into_iter().collect::<Result<Vec<_>>>()?;
        let attention_layer_norm = norm("attention.LayerNorm")?;
        Ok(Self {
            attention_attn: Linear::fuse(&qkv)?.after(input_norm),
            attention_attn_o: linear("attention.attn.o", hidden, hidden)?,
            intermediate_dense: linear("intermediate.dense", hidden, intermediate)?
                .after(&attention_layer_norm),
            attention_layer_norm,
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
        let output = self.intermediate_dense.forward_through(
            &attended,
            self.intermediate_act,
            &self.output_dense,
        )?;
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
        let embeddings = MPNetEmbeddings::load(vb.pp("embeddings"), config)?;
        let mut encoder_layer: Vec<MPNetLayer> = Vec::new();
        for i in 0..config.num_hidden_layers {
            let before = encoder_layer.last().map(|layer| &layer.output_layer_norm);
            let input_norm = before.unwrap_or(&embeddings.layer_norm);
            encoder_layer.push(MPNetLayer::load(encoder.pp("layer").pp(i), config, input_norm)?);
        }
        Ok(Self {
            embeddings,
            encoder_layer,
            encoder_bias: RelativeAttentionBias::load(
                encoder.pp("relative_attention_bias"),
                config.relative_attention_num_buckets,
                config.num_attention_heads,
                BUCKETS,
            )?,
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

    fn linear_layers(&mut self) -> Vec<&mut Linear> {
        let layers = self.encoder_layer.iter_mut().flat_map(|layer| {
            [
                &mut layer.attention_attn,
                &mut layer.attention_attn_o,
                &mut layer.intermediate_dense,
                &mut layer.output_dense,
            ]
        });
        layers.collect()
    }

    fn pooler_layer(&mut self) -> Option<&mut Linear> {
        self.pooler.as_mut().map(Pooler::linear_layer)
    }

    fn word_embeddings(&self) -> Option<&Tensor> {
        Some(self.embeddings.word_embeddings.weight())
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}
