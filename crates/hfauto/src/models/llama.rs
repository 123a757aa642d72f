//! Llama and the decoders that differ from it by settings, from GPT-J and OPT to Gemma 3 and Qwen3's mixture of experts; and `EuroBERT`,
//! an encoder of the same layers. Not here: rotary embeddings and linear biases (`crate::nn`) and heads. The entries are
//! [`LlamaConfig`] and [`LlamaModel`].
//!
//! # Source
//! `src/transformers/models/llama/modeling_llama.py` at v5.24, and that of each family beside it.

mod attention;
mod config;
mod families;
mod layout;

use candle_core::{Result, Tensor, bail};

use self::attention::LlamaAttention;
pub use self::config::{
    EmbeddingConfig, LlamaConfig, LlamaLayerConfig, MoeConfig, PositionEmbeddingConfig,
};
pub use self::layout::{LayerNorms, LlamaLayout, MlpLayout, QkNorms, QkvLayout, Residual};
use super::causal_lm::{CausalBackbone, CausalLM};
use super::encoder::one_a_layer;
use super::{Backbone, Decoder, Dimensions, Head, ModelOutput, Recorder, Want};
use crate::nn::{
    Activation, Alibi, Embedding, GateHalf, GatedMlp, InputNorm, KvCache, Linear, ModelInputs,
    Norm, RotaryConfig, RotaryEmbedding, Rotation, SparseMoe, VarBuilder, add, scale,
};

/// A norm as the argument of a layer that reads its output.
fn input_norm(norm: Option<&Norm>) -> Option<&dyn InputNorm> {
    norm.map(|norm| norm as &dyn InputNorm)
}

/// A feed-forward network.
enum Mlp {
    Gated(GatedMlp),
    Plain { inner: Linear, activation: Activation, outer: Linear },
    Sparse(SparseMoe),
}

impl Mlp {
    /// `before` is the norm that produces the input.
    fn load(
        vb: &VarBuilder<'_>,
        config: &LlamaConfig,
        layer: LlamaLayerConfig,
        before: Option<&Norm>,
    ) -> Result<Self> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let (norm, activation) = (input_norm(before), config.hidden_act);
        if let Some(moe) = config.moe.filter(|_| layer.sparse) {
            return Self::load_sparse(vb, config, moe, before);
        }
        let down = |name| Linear::load(vb.pp(name), inner, hidden, bias);
        let gated = |parts: &[(VarBuilder<'_>, usize)], name| -> Result<_> {
            let gate_up = Linear::load_fused(parts, hidden, bias, norm)?;
            let mlp = GatedMlp::new(gate_up, GateHalf::First, activation, down(name)?);
            Ok(Self::Gated(mlp))
        };
        match config.layout.mlp {
            MlpLayout::Gated([gate, up, name]) => {
                gated(&[(vb.pp(gate), inner), (vb.pp(up), inner)], name)
            }
            MlpLayout::GatedFused([gate_up, name]) => gated(&[(vb.pp(gate_up), 2 * inner)], name),
            MlpLayout::Plain([first, second]) => Ok(Self::Plain {
                inner: Linear::load_fused(&[(vb.pp(first), inner)], hidden, bias, norm)?,
                activation,
                outer: down(second)?,
            }),
        }
    }

    fn load_sparse(
        vb: &VarBuilder<'_>,
        config: &LlamaConfig,
        moe: MoeConfig,
        before: Option<&Norm>,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, moe.intermediate_size);
        let vb = vb.pp(moe.name);
        let gate = Linear::load(vb.pp("gate").unquantized(), hidden, moe.num_experts, false)?;
        let [gate_proj, up_proj, down_proj] = moe.projections;
        let experts = (0..moe.num_experts).map(|expert| {
            let vb = vb.pp("experts").pp(expert);
            let parts = [(vb.pp(gate_proj), inner), (vb.pp(up_proj), inner)];
            let gate_up = Linear::load_fused(&parts, hidden, false, input_norm(before))?;
            let down = Linear::load(vb.pp(down_proj), inner, hidden, false)?;
            Ok(GatedMlp::new(gate_up, GateHalf::First, config.hidden_act, down))
        });
        let experts = experts.collect::<Result<_>>()?;
        Ok(Self::Sparse(SparseMoe::new(gate, experts, moe.num_experts_per_tok, moe.norm_topk_prob)))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated(mlp) => mlp.forward(x),
            Self::Plain { inner, activation, outer } => {
                inner.forward_through(x, *activation, outer)
            }
            Self::Sparse(experts) => experts.forward(x),
        }
    }
}

/// The norms of a layer, as in [`LayerNorms`].
struct Norms {
    attention: Option<Norm>,
    attention_output: Option<Norm>,
    mlp: Option<Norm>,
    mlp_output: Option<Norm>,
}

impl Norms {
    fn load(vb: &VarBuilder<'_>, config: &LlamaConfig) -> Result<Self> {
        let names = config.layout.norms;
        let norm = |name: Option<&str>| {
            name.map(|name| config.load_norm(vb.pp(name), config.hidden_size)).transpose()
        };
        Ok(Self {
            attention: norm(names.attention)?,
            attention_output: norm(names.attention_output)?,
            mlp: norm(names.mlp)?,
            mlp_output: norm(names.mlp_output)?,
        })
    }
}

/// Normalizes `x` if there is a norm.
fn normed(norm: Option<&Norm>, x: Tensor) -> Result<Tensor> {
    norm.map_or(Ok(x.clone()), |norm| norm.forward(&x))
}

struct LlamaDecoderLayer {
    norms: Norms,
    self_attn: LlamaAttention,
    mlp: Mlp,
    residual: Residual,
    residual_multiplier: Option<f64>,
}

impl LlamaDecoderLayer {
    fn load(vb: &VarBuilder<'_>, config: &LlamaConfig, layer: LlamaLayerConfig) -> Result<Self> {
        let norms = Norms::load(vb, config)?;
        let (before, before_mlp) = match config.layout.residual {
            Residual::NormsLast => (None, norms.attention.as_ref()),
            Residual::Parallel => {
                (norms.attention.as_ref(), norms.mlp.as_ref().or(norms.attention.as_ref()))
            }
            Residual::Sequential | Residual::AfterNorms => {
                (norms.attention.as_ref(), norms.mlp.as_ref())
            }
        };
        Ok(Self {
            self_attn: LlamaAttention::load(vb, config, layer, before)?,
            mlp: Mlp::load(vb, config, layer, before_mlp)?,
            norms,
            residual: config.layout.residual,
            residual_multiplier: config.residual_multiplier,
        })
    }

    fn scaled(&self, x: Tensor) -> Result<Tensor> {
        self.residual_multiplier.map_or(Ok(x.clone()), |multiplier| x * multiplier)
    }

    fn forward(
        &self,
        x: &Tensor,
        attend: impl FnOnce(&LlamaAttention, &Tensor) -> Result<(Tensor, Option<Vec<Tensor>>)>,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let (norms, residual) = (&self.norms, self.residual);
        let (before, last) = match residual {
            Residual::NormsLast => ((None, None), (norms.attention.as_ref(), norms.mlp.as_ref())),
            _ => ((norms.attention.as_ref(), norms.mlp.as_ref()), (None, None)),
        };
        let input = normed(before.0, x.clone())?;
        let (attended, attentions) = attend(&self.self_attn, &input)?;
        let attended = self.scaled(normed(norms.attention_output.as_ref(), attended)?)?;
        let run_mlp = |input: &Tensor| {
            let output = normed(norms.mlp_output.as_ref(), self.mlp.forward(input)?)?;
            self.scaled(output)
        };
        if residual == Residual::Parallel {
            let mlp_input = before.1.map_or(Ok(input), |norm| norm.forward(x))?;
            let output = add(&add(&run_mlp(&mlp_input)?, &attended)?, x)?;
            return Ok((output, attentions));
        }
        let after_norms = residual == Residual::AfterNorms;
        let attended = add(&attended, if after_norms { &input } else { x })?;
        let attended = normed(last.0, attended)?;
        let input = normed(before.1, attended.clone())?;
        let output = add(&run_mlp(&input)?, if after_norms { &input } else { &attended })?;
        Ok((normed(last.1, output)?, attentions))
    }
}

/// The embeddings before the first layer.
struct LlamaEmbeddings {
    embed_tokens: Embedding,
    multiplier: Option<f64>,
    norm: Option<Norm>,
    positions: Option<Embedding>,
    project_in: Option<Linear>,
}

impl LlamaEmbeddings {
    /// `norm` is the norm that produces the input of a tied head.
    fn load(vb: &VarBuilder<'_>, config: &LlamaConfig, norm: Option<&Norm>) -> Result<Self> {
        let (vocab_size, hidden) = (config.vocab_size, config.hidden_size);
        let size = config.embedding.map_or(hidden, |embedding| embedding.size);
        let words = vb.pp(config.layout.embed_tokens);
        let norm = norm.filter(|_| config.embedding.is_none());
        let project_in = config.embedding.map(|embedding| {
            Linear::load(vb.pp(embedding.project_in).unquantized(), size, hidden, false)
        });
        let positions = config.positions.map(|positions| -> Result<_> {
            let (offset, rows) = (positions.offset, config.max_position_embeddings);
            let table = vb.pp(positions.name).get((offset + rows, hidden), "weight")?;
            Ok(Embedding::from_tensor(table.narrow(0, offset, rows)?))
        });
        let embeddings_norm = config.layout.embeddings_norm;
        let embeddings_norm = embeddings_norm.map(|name| config.load_norm(vb.pp(name), hidden));
        Ok(Self {
            embed_tokens: Embedding::load_words(&words, vocab_size, size, input_norm(norm))?,
            multiplier: config.embedding_multiplier,
            norm: embeddings_norm.transpose()?,
            positions: positions.transpose()?,
            project_in: project_in.transpose()?,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let mut states = self.embed_tokens.forward(&inputs.input_ids)?;
        if let Some(multiplier) = self.multiplier {
            states = scale(&states, multiplier)?;
        }
        if let Some(projection) = &self.project_in {
            states = projection.forward(&states)?;
        }
        if let Some(positions) = &self.positions {
            states = positions.add_to(states, &inputs.position_ids)?;
        }
        normed(self.norm.as_ref(), states)
    }
}

/// A decoder without a head: `LlamaModel` and the models of the other families; and `EuroBertModel`.
pub struct LlamaModel {
    embeddings: LlamaEmbeddings,
    layers: Vec<LlamaDecoderLayer>,
    norm: Option<Norm>,
    project_out: Option<Linear>,
    /// The rotary embeddings of the layer types.
    rotary: Vec<RotaryEmbedding>,
    alibi: Option<Alibi>,
    config: LlamaConfig,
    dimensions: Dimensions,
}

impl LlamaModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or has it in another shape.
    pub fn load(vb: &VarBuilder<'_>, config: LlamaConfig) -> Result<Self> {
        let hidden = config.hidden_size;
        let layers = config.layers.iter().enumerate().map(|(i, layer)| {
            LlamaDecoderLayer::load(&vb.pp(config.layout.layers).pp(i), &config, *layer)
        });
        let norm = config.layout.norm.map(|name| config.load_norm(vb.pp(name), hidden));
        let norm = norm.transpose()?;
        let project_out = config.embedding.map(|embedding| {
            let vb = vb.pp(embedding.project_out).unquantized();
            Linear::load(vb, hidden, embedding.size, false)
        });
        let alibi = |form| Alibi::new(config.num_attention_heads, form, vb.device());
        Ok(Self {
            embeddings: LlamaEmbeddings::load(vb, &config, norm.as_ref())?,
            layers: layers.collect::<Result<_>>()?,
            norm,
            project_out: project_out.transpose()?,
            rotary: config.rotary.iter().cloned().map(RotaryEmbedding::new).collect(),
            alibi: config.alibi.map(alibi).transpose()?,
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
        let rotations: Vec<Rotation> = rotations.collect::<Result<_>>()?;
        let mut hidden_states = self.embeddings.forward(inputs)?;
        for layer in &self.layers {
            recorder.hidden_state(&hidden_states);
            let (output, attentions) = layer.forward(&hidden_states, |attention, x| {
                let options =
                    attention.options(self.alibi.as_ref()).with_output_attentions(want.attentions);
                attention.forward(x, inputs, &rotations, caches.next(), options)
            })?;
            hidden_states = output;
            recorder.attentions(attentions);
        }
        // As in transformers, the last hidden state is the normalized one.
        let mut hidden_states = normed(self.norm.as_ref(), hidden_states)?;
        if let Some(projection) = &self.project_out {
            hidden_states = projection.forward(&hidden_states)?;
        }
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
        Some(&self.embeddings.embed_tokens)
    }

    fn has_pooler(&self) -> bool {
        false
    }

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        Some(Box::new(CausalLM::new(self, head, self.embeddings.embed_tokens.device())))
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
