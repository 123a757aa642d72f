//! DistilBERT: BERT's layers under other names, without segments and without a pooler.
//!
//! # Source
//! `src/transformers/models/distilbert/modeling_distilbert.py` at v4.57.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, ModelInputs, PositionIds, attention,
};

/// Of every layer normalisation; the configuration has no key for it.
const LAYER_NORM_EPS: f64 = 1e-12;

/// The settings of DistilBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct DistilBertConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Layers.
    pub n_layers: usize,
    /// Heads of a layer.
    pub n_heads: usize,
    /// Features of a hidden state.
    pub dim: usize,
    /// Features between the two products of the feed-forward part.
    pub hidden_dim: usize,
    /// The activation between them.
    pub activation: Activation,
}

impl DistilBertConfig {
    /// Reads a `config.json` of DistilBERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let config = Self {
            vocab_size: fields.size("vocab_size", 30522)?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            n_layers: fields.size("n_layers", 6)?,
            n_heads: fields.size("n_heads", 12)?,
            dim: fields.size("dim", 768)?,
            hidden_dim: fields.size("hidden_dim", 3072)?,
            activation: fields.activation("activation", "gelu")?,
        };
        fields.divides(("dim", config.dim), ("n_heads", config.n_heads))?;
        Ok(config)
    }

    /// What the configuration says about inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.dim,
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
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
            word_embeddings: table("word_embeddings", config.vocab_size)?,
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

struct TransformerBlock {
    /// `attention.q_lin`, `k_lin` and `v_lin` as one product.
    attention_qkv: Linear,
    attention_out_lin: Linear,
    sa_layer_norm: LayerNorm,
    ffn_lin1: Linear,
    ffn_activation: Activation,
    ffn_lin2: Linear,
    output_layer_norm: LayerNorm,
    n_heads: usize,
}

impl TransformerBlock {
    /// `input_norm` is what the states come from: the embeddings, or the block before.
    fn load(vb: VarBuilder<'_>, config: &DistilBertConfig, input_norm: &LayerNorm) -> Result<Self> {
        let (dim, hidden_dim) = (config.dim, config.hidden_dim);
        let linear = |name, from, to| Linear::load(vb.pp(name), from, to, true);
        let qkv = ["attention.q_lin", "attention.k_lin", "attention.v_lin"]
            .map(|name| linear(name, dim, dim));
        let qkv = qkv.into_iter().collect::<Result<Vec<_>>>()?;
        let sa_layer_norm = LayerNorm::load(vb.pp("sa_layer_norm"), dim, LAYER_NORM_EPS)?;
        Ok(Self {
            attention_qkv: Linear::fuse(&qkv)?.after(input_norm),
            attention_out_lin: linear("attention.out_lin", dim, dim)?,
            ffn_lin1: linear("ffn.lin1", dim, hidden_dim)?.after(&sa_layer_norm),
            sa_layer_norm,
            ffn_activation: config.activation,
            ffn_lin2: linear("ffn.lin2", hidden_dim, dim)?,
            output_layer_norm: LayerNorm::load(vb.pp("output_layer_norm"), dim, LAYER_NORM_EPS)?,
            n_heads: config.n_heads,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let dim = hidden_states.dim(1)?;
        let qkv = self.attention_qkv.forward(hidden_states)?; // (total_tokens, 3 * dim)
        let context = attention(
            &qkv.narrow(1, 0, dim)?,
            &qkv.narrow(1, dim, dim)?,
            &qkv.narrow(1, 2 * dim, dim)?,
            inputs,
            AttentionOptions {
                num_heads: self.n_heads,
                scale: 1.0 / ((dim / self.n_heads) as f64).sqrt(),
                bias: None,
                distance: None,
                causal: false,
                output_attentions,
            },
        )?;
        let attended = self.attention_out_lin.forward(&context.values)?;
        let attended = self.sa_layer_norm.forward_residual(&attended, hidden_states)?;
        let output =
            self.ffn_lin1.forward_through(&attended, self.ffn_activation, &self.ffn_lin2)?;
        let output = self.output_layer_norm.forward_residual(&output, &attended)?;
        Ok((output, context.attentions))
    }
}

/// DistilBERT without a head.
pub struct DistilBertModel {
    embeddings: Embeddings,
    transformer_layer: Vec<TransformerBlock>,
    dimensions: Dimensions,
}

impl DistilBertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: VarBuilder<'_>, config: &DistilBertConfig) -> Result<Self> {
        let embeddings = Embeddings::load(vb.pp("embeddings"), config)?;
        let mut transformer_layer: Vec<TransformerBlock> = Vec::new();
        for i in 0..config.n_layers {
            let before = transformer_layer.last().map(|block| &block.output_layer_norm);
            let input_norm = before.unwrap_or(&embeddings.layer_norm);
            let vb = vb.pp("transformer.layer").pp(i);
            transformer_layer.push(TransformerBlock::load(vb, config, input_norm)?);
        }
        Ok(Self { embeddings, transformer_layer, dimensions: config.dimensions() })
    }
}

impl Backbone for DistilBertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` is wanted, but DistilBERT has no pooler");
        }
        let mut recorder = Recorder::new(inputs, want);
        let mut hidden_states = self.embeddings.forward(inputs)?;
        recorder.hidden_state(&hidden_states);
        for layer in &self.transformer_layer {
            let (output, attentions) = layer.forward(&hidden_states, inputs, want.attentions)?;
            hidden_states = output;
            recorder.hidden_state(&hidden_states);
            recorder.attentions(attentions);
        }
        Ok(recorder.finish(hidden_states, None))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn linear_layers(&mut self) -> Vec<&mut Linear> {
        let layers = self.transformer_layer.iter_mut().flat_map(|layer| {
            [
                &mut layer.attention_qkv,
                &mut layer.attention_out_lin,
                &mut layer.ffn_lin1,
                &mut layer.ffn_lin2,
            ]
        });
        layers.collect()
    }

    fn word_embeddings(&self) -> Option<&Tensor> {
        Some(self.embeddings.word_embeddings.weight())
    }

    fn has_pooler(&self) -> bool {
        false
    }
}
