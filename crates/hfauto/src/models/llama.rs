//! Llama and the decoders that differ from it by settings: Mistral, Qwen2, Qwen3, SmolLM3, Phi-3, Gemma, Gemma 2 and the text
//! model of Gemma 3; and `EuroBERT`, an encoder of the same layers. Pre-norm layers with rotary embeddings, grouped-query attention
//! and a gated feed-forward network. Not here: rotary embeddings (`crate::nn`) and heads. The entries are [`LlamaConfig`] and
//! [`LlamaModel`].
//!
//! # Source
//! `src/transformers/models/llama/modeling_llama.py` at v5.24, and that of each family beside it.

mod config;

use candle_core::{Result, Tensor, bail};

pub use self::config::{LlamaConfig, LlamaLayerConfig};
use super::causal_lm::{CausalBackbone, CausalLM};
use super::encoder::one_a_layer;
use super::{Backbone, Decoder, Dimensions, Head, ModelOutput, Recorder, Want};
use crate::nn::{
    AttentionOptions, Embedding, GateHalf, GatedMlp, KvCache, Linear, ModelInputs, RmsNorm,
    RotaryConfig, RotaryEmbedding, Rotation, VarBuilder, add, attention_cached,
};

fn load_norm(vb: VarBuilder<'_>, size: usize, config: &LlamaConfig) -> Result<RmsNorm> {
    let load = if config.norms_less_one { RmsNorm::load_less_one } else { RmsNorm::load };
    load(vb, size, config.rms_norm_eps)
}

/// Loads layers with the same input as one product; `fused` is the name of the product if the checkpoint stores it.
fn load_fused(
    vb: &VarBuilder<'_>,
    hidden_size: usize,
    parts: &[(&str, usize)],
    bias: bool,
    fused: Option<&str>,
    norm: &RmsNorm,
) -> Result<Linear> {
    let parts: Vec<_> = match fused {
        Some(name) => vec![(vb.pp(name), parts.iter().map(|(_, outputs)| outputs).sum())],
        None => parts.iter().map(|(name, outputs)| (vb.pp(name), *outputs)).collect(),
    };
    Linear::load_fused(&parts, hidden_size, bias, Some(norm))
}

struct LlamaAttention {
    /// `q_proj`, `k_proj` and `v_proj` as one product.
    qkv_proj: Linear,
    o_proj: Linear,
    /// `q_norm` and `k_norm`.
    norms: Option<[RmsNorm; 2]>,
    q_width: usize,
    kv_width: usize,
    /// The index of its rotary embedding in the model.
    rotary: Option<usize>,
    options: AttentionOptions<'static>,
}

impl LlamaAttention {
    /// `before` is the norm that produces the input.
    fn load(
        vb: &VarBuilder<'_>,
        config: &LlamaConfig,
        layer: LlamaLayerConfig,
        before: &RmsNorm,
    ) -> Result<Self> {
        let (hidden_size, head_dim) = (config.hidden_size, config.head_dim);
        let q_width = config.num_attention_heads * head_dim;
        let kv_width = config.num_key_value_heads * head_dim;
        let parts = [("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)];
        let fused = config.fused_projections.then_some("qkv_proj");
        let norms = config.qk_norms.then(|| -> Result<_> {
            let norm = |name| load_norm(vb.pp(name), head_dim, config);
            Ok([norm("q_norm")?, norm("k_norm")?])
        });
        Ok(Self {
            qkv_proj: load_fused(vb, hidden_size, &parts, config.qkv_bias, fused, before)?,
            o_proj: Linear::load(vb.pp("o_proj"), q_width, hidden_size, config.o_bias)?,
            norms: norms.transpose()?,
            q_width,
            kv_width,
            rotary: layer.rotary,
            options: AttentionOptions::new(config.num_attention_heads, head_dim)
                .with_num_kv_heads(config.num_key_value_heads)
                .with_scale(config.attention_scale)
                .with_softcap(config.attn_logit_softcapping)
                .with_mask(layer.mask)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        cache: Option<&mut KvCache>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let qkv = self.qkv_proj.forward(x)?; // (total_tokens, q_width + 2 * kv_width)
        let mut q = qkv.narrow(1, 0, self.q_width)?;
        let mut k = qkv.narrow(1, self.q_width, self.kv_width)?;
        let v = qkv.narrow(1, self.q_width + self.kv_width, self.kv_width)?;
        if let Some([q_norm, k_norm]) = &self.norms {
            (q, k) = (q_norm.forward_heads(&q)?, k_norm.forward_heads(&k)?);
        }
        if let Some(rotation) = self.rotary.and_then(|rotary| rotations.get(rotary)) {
            (q, k) = (rotation.apply(&q)?, rotation.apply(&k)?);
        }
        let options = self.options.with_output_attentions(output_attentions);
        let attended = attention_cached(&q, &k, &v, inputs, cache, options)?;
        Ok((self.o_proj.forward(&attended.values)?, attended.attentions))
    }
}

struct LlamaDecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: LlamaAttention,
    post_attention_layernorm: RmsNorm,
    /// `pre_feedforward_layernorm` and `post_feedforward_layernorm`. With them, `post_attention_layernorm` normalizes the
    /// output of attention; otherwise, the input of the feed-forward network.
    feedforward_layernorms: Option<[RmsNorm; 2]>,
    mlp: GatedMlp,
}

impl LlamaDecoderLayer {
    fn load(vb: &VarBuilder<'_>, config: &LlamaConfig, layer: LlamaLayerConfig) -> Result<Self> {
        let (hidden_size, intermediate_size) = (config.hidden_size, config.intermediate_size);
        let norm = |name| load_norm(vb.pp(name), hidden_size, config);
        let parts = [("gate_proj", intermediate_size), ("up_proj", intermediate_size)];
        let fused = config.fused_projections.then_some("gate_up_proj");
        let input_layernorm = norm("input_layernorm")?;
        let post_attention_layernorm = norm("post_attention_layernorm")?;
        let feedforward_layernorms = config.feedforward_layernorms.then(|| -> Result<_> {
            Ok([norm("pre_feedforward_layernorm")?, norm("post_feedforward_layernorm")?])
        });
        let feedforward_layernorms = feedforward_layernorms.transpose()?;
        let before = match &feedforward_layernorms {
            Some([before, _]) => before,
            None => &post_attention_layernorm,
        };
        let mlp = vb.pp("mlp");
        let gate_up = load_fused(&mlp, hidden_size, &parts, config.mlp_bias, fused, before)?;
        let down =
            Linear::load(mlp.pp("down_proj"), intermediate_size, hidden_size, config.mlp_bias)?;
        let self_attn = vb.pp("self_attn");
        Ok(Self {
            self_attn: LlamaAttention::load(&self_attn, config, layer, &input_layernorm)?,
            input_layernorm,
            post_attention_layernorm,
            feedforward_layernorms,
            mlp: GatedMlp::new(gate_up, GateHalf::First, config.hidden_act, down),
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        cache: Option<&mut KvCache>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let normed = self.input_layernorm.forward(hidden_states)?;
        let (attended, attentions) =
            self.self_attn.forward(&normed, inputs, rotations, cache, output_attentions)?;
        let output = match &self.feedforward_layernorms {
            None => {
                let attended = add(&attended, hidden_states)?;
                let normed = self.post_attention_layernorm.forward(&attended)?;
                add(&self.mlp.forward(&normed)?, &attended)?
            }
            Some([before, after]) => {
                let attended = self.post_attention_layernorm.forward(&attended)?;
                let attended = add(&attended, hidden_states)?;
                let output = self.mlp.forward(&before.forward(&attended)?)?;
                add(&after.forward(&output)?, &attended)?
            }
        };
        Ok((output, attentions))
    }
}

/// A decoder without a head: `LlamaModel`, `MistralModel`, `Qwen2Model`, `Qwen3Model`, `SmolLM3Model`, `Phi3Model`,
/// `GemmaModel`, `Gemma2Model`, `Gemma3TextModel`; and `EuroBertModel`.
pub struct LlamaModel {
    embed_tokens: Embedding,
    layers: Vec<LlamaDecoderLayer>,
    norm: RmsNorm,
    /// The rotary embeddings of the layer types.
    rotary: Vec<RotaryEmbedding>,
    config: LlamaConfig,
    dimensions: Dimensions,
}

impl LlamaModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or has it in another shape.
    pub fn load(vb: &VarBuilder<'_>, config: LlamaConfig) -> Result<Self> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let layers = config
            .layers
            .iter()
            .enumerate()
            .map(|(i, layer)| LlamaDecoderLayer::load(&vb.pp("layers").pp(i), &config, *layer));
        let norm = load_norm(vb.pp("norm"), hidden_size, &config)?;
        let embed_tokens = vb.pp("embed_tokens");
        Ok(Self {
            embed_tokens: Embedding::load_words(
                &embed_tokens,
                vocab_size,
                hidden_size,
                Some(&norm),
            )?,
            layers: layers.collect::<Result<_>>()?,
            norm,
            rotary: config.rotary.iter().cloned().map(RotaryEmbedding::new).collect(),
            dimensions: config.dimensions(),
            config,
        })
    }

    fn run(
        &self,
        inputs: &ModelInputs,
        caches: Option<&mut [KvCache]>,
        want: &Want,
    ) -> Result<ModelOutput> {
        let mut caches = one_a_layer(caches, self.layers.len())?;
        let mut recorder = Recorder::new(inputs, want);
        let rotations = self.rotary.iter().map(|rotary| {
            rotary.rotation(inputs.positions(), &inputs.lengths, inputs.input_ids.device())
        });
        let rotations = rotations.collect::<Result<Vec<_>>>()?;
        let mut hidden_states = self.embed_tokens.forward(&inputs.input_ids)?;
        if let Some(multiplier) = self.config.embedding_multiplier {
            hidden_states = (hidden_states * multiplier)?;
        }
        for layer in &self.layers {
            recorder.hidden_state(&hidden_states);
            let (output, attentions) = layer.forward(
                &hidden_states,
                inputs,
                &rotations,
                caches.next(),
                want.attentions,
            )?;
            hidden_states = output;
            recorder.attentions(attentions);
        }
        // As in transformers, the last hidden state is the normalized one.
        let hidden_states = self.norm.forward(&hidden_states)?;
        recorder.hidden_state(&hidden_states);
        Ok(recorder.finish(hidden_states, None))
    }
}

impl Backbone for LlamaModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but the decoder has no pooler");
        }
        self.run(inputs, None, want)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embed_tokens)
    }

    fn has_pooler(&self) -> bool {
        false
    }

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        Some(Box::new(CausalLM::new(self, head, self.embed_tokens.device())))
    }
}

impl CausalBackbone for LlamaModel {
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor> {
        let output = self.run(inputs, Some(caches), &Want::default())?;
        Ok(output.last_hidden_state.values)
    }

    fn shares_prefixes_up_to(&self) -> Option<usize> {
        let is_causal = |layer: &LlamaLayerConfig| layer.mask.is_causal();
        if !self.config.layers.iter().all(is_causal) {
            return Some(0);
        }
        self.config.rotary.iter().filter_map(RotaryConfig::changes_above).min()
    }

    fn reread_above(&self) -> Option<usize> {
        let rotary = self.config.rotary.first().filter(|_| self.config.rereads)?;
        rotary.changes_above()
    }
}
