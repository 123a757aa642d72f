//! GPT-2: a pre-norm decoder with learned absolute positions.
//!
//! # Source
//! `src/transformers/models/gpt2/modeling_gpt2.py` at v4.57, attention as its eager implementation.

use candle_core::{Result, Tensor, bail};
use serde_json::json;

use super::causal_lm::{CausalBackbone, CausalLM};
use super::encoder::one_a_layer;
use super::{Backbone, Decoder, Dimensions, Fields, Head, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, AttnImplementation, Embedding, InputNorm, KvCache, LayerNorm,
    Linear, ModelInputs, PositionIds, VarBuilder, add, attention_cached,
};

/// The configuration of GPT-2.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of the position embedding table.
    pub n_positions: usize,
    /// The size of a hidden state.
    pub n_embd: usize,
    /// The number of layers.
    pub n_layer: usize,
    /// The number of attention heads.
    pub n_head: usize,
    /// The inner size of the feed-forward network.
    pub n_inner: usize,
    /// The activation of the feed-forward network.
    pub activation_function: Activation,
    /// The epsilon of layer normalization.
    pub layer_norm_epsilon: f64,
    /// Whether scores are divided by `√head_dim`.
    pub scale_attn_weights: bool,
    /// Whether scores are also divided by the number of the layer, counted from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl Gpt2Config {
    /// Reads a `config.json` of GPT-2.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for a setting that is not
    /// implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        fields.only("add_cross_attention", &json!(false))?;
        // Scores are always computed in f32.
        fields.flag("reorder_and_upcast_attn", false)?;
        let n_embd = fields.size("n_embd", 768)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", 50257)?,
            n_positions: fields.size("n_positions", 1024)?,
            n_embd,
            n_layer: fields.size("n_layer", 12)?,
            n_head: fields.size("n_head", 12)?,
            n_inner: fields.size("n_inner", 4 * n_embd)?,
            activation_function: fields.activation("activation_function", "gelu_new")?,
            layer_norm_epsilon: fields.epsilon("layer_norm_epsilon", 1e-5)?,
            scale_attn_weights: fields.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: fields
                .flag("scale_attn_by_inverse_layer_idx", false)?,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(("n_embd", n_embd), ("n_head", config.n_head))?;
        Ok(config)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.n_embd,
            num_hidden_layers: self.n_layer,
            num_attention_heads: self.n_head,
            num_key_value_heads: self.n_head,
            head_dim: self.n_embd / self.n_head,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            extrapolates: false,
            max_position_embeddings: Some(self.n_positions),
            image: None,
        }
    }
}

struct Gpt2Block {
    ln_1: LayerNorm,
    attn_c_attn: Linear,
    attn_c_proj: Linear,
    ln_2: LayerNorm,
    mlp_c_fc: Linear,
    mlp_act: Activation,
    mlp_c_proj: Linear,
    attention: AttentionOptions<'static>,
}

impl Gpt2Block {
    fn load(vb: VarBuilder<'_>, config: &Gpt2Config, layer_idx: usize) -> Result<Self> {
        let (n_embd, n_inner) = (config.n_embd, config.n_inner);
        let norm = |name| LayerNorm::load(vb.pp(name), n_embd, config.layer_norm_epsilon);
        let conv1d = |name, inputs, outputs: &[usize], norm: Option<&LayerNorm>| {
            let norm = norm.map(|norm| norm as &dyn InputNorm);
            Linear::load_conv1d(vb.pp(name), inputs, outputs, norm)
        };
        let mut scale = 1.0;
        if config.scale_attn_weights {
            scale /= ((n_embd / config.n_head) as f64).sqrt();
        }
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (layer_idx + 1) as f64;
        }
        let (ln_1, ln_2) = (norm("ln_1")?, norm("ln_2")?);
        Ok(Self {
            attn_c_attn: conv1d("attn.c_attn", n_embd, &[n_embd; 3], Some(&ln_1))?,
            attn_c_proj: conv1d("attn.c_proj", n_embd, &[n_embd], None)?,
            mlp_c_fc: conv1d("mlp.c_fc", n_embd, &[n_inner], Some(&ln_2))?,
            mlp_act: config.activation_function,
            mlp_c_proj: conv1d("mlp.c_proj", n_inner, &[n_embd], None)?,
            ln_1,
            ln_2,
            attention: AttentionOptions::new(config.n_head, n_embd / config.n_head)
                .with_scale(scale)
                .with_causal(true)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        cache: Option<&mut KvCache>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let n_embd = hidden_states.dim(1)?;
        let qkv = self.attn_c_attn.forward(&self.ln_1.forward(hidden_states)?)?; // (total_tokens, 3 * n_embd)
        let attended = attention_cached(
            &qkv.narrow(1, 0, n_embd)?,
            &qkv.narrow(1, n_embd, n_embd)?,
            &qkv.narrow(1, 2 * n_embd, n_embd)?,
            inputs,
            cache,
            self.attention.with_output_attentions(output_attentions),
        )?;
        let hidden_states = add(&self.attn_c_proj.forward(&attended.values)?, hidden_states)?;
        let inner = self.ln_2.forward(&hidden_states)?;
        let output = self.mlp_c_fc.forward_through(&inner, self.mlp_act, &self.mlp_c_proj)?;
        let output = add(&hidden_states, &output)?;
        Ok((output, attended.attentions))
    }
}

/// GPT-2 without a head: `GPT2Model`.
pub struct Gpt2Model {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Gpt2Block>,
    ln_f: LayerNorm,
    dimensions: Dimensions,
}

impl Gpt2Model {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: VarBuilder<'_>, config: &Gpt2Config) -> Result<Self> {
        let blocks = vb.pp("h");
        let ln_f = LayerNorm::load(vb.pp("ln_f"), config.n_embd, config.layer_norm_epsilon)?;
        let (vocab_size, n_embd) = (config.vocab_size, config.n_embd);
        Ok(Self {
            wte: Embedding::load_words(&vb.pp("wte"), vocab_size, n_embd, Some(&ln_f))?,
            wpe: Embedding::load(vb.pp("wpe"), config.n_positions, config.n_embd)?,
            h: (0..config.n_layer)
                .map(|i| Gpt2Block::load(blocks.pp(i), config, i))
                .collect::<Result<_>>()?,
            ln_f,
            dimensions: config.dimensions(),
        })
    }

    fn run(
        &self,
        inputs: &ModelInputs,
        caches: Option<&mut [KvCache]>,
        want: &Want,
    ) -> Result<ModelOutput> {
        let mut caches = one_a_layer(caches, self.h.len())?;
        let mut recorder = Recorder::new(inputs, want);
        let words = self.wte.forward(&inputs.input_ids)?;
        let mut hidden_states = self.wpe.add_to(words, &inputs.position_ids)?;
        for block in &self.h {
            recorder.hidden_state(&hidden_states);
            let (output, attentions) =
                block.forward(&hidden_states, inputs, caches.next(), want.attentions)?;
            hidden_states = output;
            recorder.attentions(attentions);
        }
        // The last hidden state is the normalized one, as in transformers.
        let hidden_states = self.ln_f.forward(&hidden_states)?;
        recorder.hidden_state(&hidden_states);
        Ok(recorder.finish(hidden_states, None))
    }
}

impl Backbone for Gpt2Model {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but GPT-2 has no pooler");
        }
        self.run(inputs, None, want)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.wte)
    }

    fn has_pooler(&self) -> bool {
        false
    }

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        Some(Box::new(CausalLM::new(self, head, self.wte.device())))
    }
}

impl CausalBackbone for Gpt2Model {
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor> {
        let output = self.run(inputs, Some(caches), &Want::default())?;
        Ok(output.last_hidden_state.values)
    }
}
