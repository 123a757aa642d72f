//! The configurations of Llama and of the families that differ from it by settings. Not here: the layers (`super`). The
//! entry is [`LlamaConfig`].

use serde_json::{Value, json};

use super::layout::LlamaLayout;
use crate::error::{Error, ErrorKind, Result};
use crate::models::{Dimensions, Fields};
use crate::nn::{
    Activation, AlibiForm, AttentionMask, AttnImplementation, Norm, PositionIds, RotaryConfig,
    RotaryLayout, VarBuilder,
};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The configuration of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key-value heads.
    pub num_key_value_heads: usize,
    /// The size of a head; `num_attention_heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// The activation function of the gate.
    pub hidden_act: Activation,
    /// The epsilon of every norm.
    pub norm_eps: f64,
    /// Names and arrangement of the parts.
    pub layout: LlamaLayout,
    /// Whether the projections of queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the projection after attention has a bias.
    pub o_bias: bool,
    /// Whether the feed-forward network has biases.
    pub mlp_bias: bool,
    /// Word embeddings of another size (OPT).
    pub embedding: Option<EmbeddingConfig>,
    /// Learned positions, if the family has them.
    pub positions: Option<PositionEmbeddingConfig>,
    /// The factor on the word embeddings (Gemma, Granite).
    pub embedding_multiplier: Option<f64>,
    /// The factor on what residual connections add to (Granite).
    pub residual_multiplier: Option<f64>,
    /// Linear biases on the attention scores (Bloom, Falcon).
    pub alibi: Option<AlibiForm>,
    /// The experts of sparse layers.
    pub moe: Option<MoeConfig>,
    /// The factor on the attention scores.
    pub attention_scale: f64,
    /// The bound of the attention scores (Gemma 2).
    pub attn_logit_softcapping: Option<f64>,
    /// The length of the rows that the model is made for.
    pub max_position_embeddings: usize,
    /// The rotary embeddings, one per layer type that has its own.
    pub rotary: Vec<RotaryConfig>,
    /// Whether generation recomputes a row that outgrows the short factors of `longrope` (Phi-3).
    pub rereads: bool,
    /// The layers.
    pub layers: Vec<LlamaLayerConfig>,
    /// The attention kernels.
    pub attn_implementation: AttnImplementation,
}

/// The configuration of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlamaLayerConfig {
    /// The keys that a query attends to.
    pub mask: AttentionMask,
    /// The index of its rotary embedding in [`LlamaConfig::rotary`]; `None` for a layer without positions.
    pub rotary: Option<usize>,
    /// Whether its feed-forward network is a mixture of experts.
    pub sparse: bool,
}

/// Word embeddings of another size than hidden states, which are also projected to that size after the last layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingConfig {
    /// The size.
    pub size: usize,
    /// The projection of embeddings.
    pub project_in: &'static str,
    /// The projection of the last hidden states.
    pub project_out: &'static str,
}

/// Learned position embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionEmbeddingConfig {
    /// The table.
    pub name: &'static str,
    /// The number of rows before position 0.
    pub offset: usize,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeConfig {
    /// The path of router and experts in a layer.
    pub name: &'static str,
    /// Gate, up- and down-projection of an expert.
    pub projections: [&'static str; 3],
    /// The number of experts.
    pub num_experts: usize,
    /// The number of experts that a token uses.
    pub num_experts_per_tok: usize,
    /// The inner size of an expert.
    pub intermediate_size: usize,
    /// Whether the probabilities of these experts add up to 1.
    pub norm_topk_prob: bool,
}

/// The keys of sizes in `config.json`; `None` for what a family does not have.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub(super) hidden_size: &'static str,
    pub(super) intermediate_size: Option<&'static str>,
    pub(super) num_hidden_layers: &'static str,
    pub(super) num_attention_heads: &'static str,
    pub(super) num_key_value_heads: Option<&'static str>,
    pub(super) max_position_embeddings: &'static str,
    pub(super) norm_eps: Option<&'static str>,
}

/// The defaults of a family.
pub(super) struct Defaults {
    pub(super) keys: Keys,
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    /// `None`: as many as `num_attention_heads`.
    pub(super) num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) activation_key: &'static str,
    pub(super) activation: &'static str,
    pub(super) max_position_embeddings: usize,
    pub(super) norm_eps: f64,
    pub(super) rotary: RotaryLayout,
    /// The family's own names of top-level rotary settings, each after the common one.
    pub(super) rotary_keys: &'static [(&'static str, &'static str)],
}

pub(super) const LLAMA_KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    intermediate_size: Some("intermediate_size"),
    num_hidden_layers: "num_hidden_layers",
    num_attention_heads: "num_attention_heads",
    num_key_value_heads: Some("num_key_value_heads"),
    max_position_embeddings: "max_position_embeddings",
    norm_eps: Some("rms_norm_eps"),
};

pub(super) const LLAMA: Defaults = Defaults {
    keys: LLAMA_KEYS,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    activation_key: "hidden_act",
    activation: "silu",
    max_position_embeddings: 2048,
    norm_eps: 1e-6,
    rotary: RotaryLayout::Flat { rope_theta: 10_000.0 },
    rotary_keys: &[],
};

pub(super) const QWEN: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_key_value_heads: Some(32),
    max_position_embeddings: 32_768,
    ..LLAMA
};

const GEMMA2: Defaults = Defaults {
    vocab_size: 256_000,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    activation_key: "hidden_activation",
    activation: "gelu_pytorch_tanh",
    max_position_embeddings: 8192,
    ..LLAMA
};

impl LlamaConfig {
    /// Reads a `config.json` of Llama.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not implemented.
    pub fn llama(fields: &Fields<'_>) -> Result<Self> {
        Self::with_biases(fields, &LLAMA)
    }

    /// Reads a `config.json` of `EuroBERT`, an encoder.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn eurobert(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 128_256,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 8192,
            norm_eps: 1e-5,
            ..LLAMA
        };
        let mut config = Self::with_biases(fields, &defaults)?;
        for layer in &mut config.layers {
            layer.mask = AttentionMask::Full;
        }
        Ok(config)
    }

    /// Reads a `config.json` of Mistral.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn mistral(fields: &Fields<'_>) -> Result<Self> {
        let mut config = Self::new(
            fields,
            &Defaults {
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                max_position_embeddings: 4096 * 32,
                ..LLAMA
            },
        )?;
        config.slide(fields.optional_size("sliding_window", Some(4096))?);
        Ok(config)
    }

    /// Reads a `config.json` of Qwen2.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn qwen2(fields: &Fields<'_>) -> Result<Self> {
        let mut config = Self { qkv_bias: true, ..Self::new(fields, &QWEN)? };
        config.slide_last(fields)?;
        Ok(config)
    }

    /// Reads a `config.json` of Qwen3.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn qwen3(fields: &Fields<'_>) -> Result<Self> {
        let bias = fields.flag("attention_bias", false)?;
        let defaults = Defaults { head_dim: Some(128), ..QWEN };
        let config = Self::new(fields, &defaults)?;
        let layout = LlamaLayout::QWEN3;
        let mut config = Self { layout, qkv_bias: bias, o_bias: bias, ..config };
        config.slide_last(fields)?;
        Ok(config)
    }

    /// Reads a `config.json` of SmolLM3.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn smollm3(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 128_256,
            hidden_size: 2048,
            num_hidden_layers: 36,
            num_attention_heads: 16,
            num_key_value_heads: Some(4),
            max_position_embeddings: 32_768,
            rotary: RotaryLayout::Flat { rope_theta: 2_000_000.0 },
            ..LLAMA
        };
        let mut config = Self::with_biases(fields, &defaults)?;
        let interval = fields.size("no_rope_layer_interval", 4)?;
        let list = fields.list("no_rope_layers")?;
        if list.is_some_and(|list| list.len() < config.layers.len()) {
            return Err(model("`no_rope_layers` in config.json has fewer entries than layers"));
        }
        let turns = |i: usize| match list {
            Some(list) => list[i].as_i64() != Some(0) && list[i] != Value::Bool(false),
            None => !(i + 1).is_multiple_of(interval),
        };
        for (i, layer) in config.layers.iter_mut().enumerate() {
            layer.rotary = layer.rotary.filter(|_| turns(i));
        }
        let slides = fields.flag("use_sliding_window", false)?;
        let window = fields.optional_size("sliding_window", None)?;
        config.slide_by_type(fields, window, |i| slides && window.is_some() && !turns(i))?;
        Ok(config)
    }

    /// Reads a `config.json` of Phi-3.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn phi3(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            max_position_embeddings: 4096,
            norm_eps: 1e-5,
            rotary: RotaryLayout::Phi3,
            ..LLAMA
        };
        let config = Self::new(fields, &defaults)?;
        let mut config = Self { layout: LlamaLayout::PHI3, rereads: true, ..config };
        config.slide(fields.optional_size("sliding_window", None)?);
        Ok(config)
    }

    /// Reads a `config.json` of Gemma.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gemma(fields: &Fields<'_>) -> Result<Self> {
        let config = Self::new(
            fields,
            &Defaults {
                hidden_size: 3072,
                intermediate_size: 24_576,
                num_hidden_layers: 28,
                num_attention_heads: 16,
                num_key_value_heads: Some(16),
                activation_key: "hidden_act",
                ..GEMMA2
            },
        )?;
        // `gelu` of the first checkpoints means the approximation, as the source says.
        let hidden_act = match config.hidden_act {
            Activation::Gelu => Activation::GeluTanh,
            other => other,
        };
        Self { hidden_act, ..config }.into_gemma(fields)
    }

    /// Reads a `config.json` of Gemma 2.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gemma2(fields: &Fields<'_>) -> Result<Self> {
        // In transformers, it has an effect only with kernels that are not the default.
        fields.only("use_bidirectional_attention", &json!(false))?;
        let config = Self::new(fields, &GEMMA2)?.into_gemma(fields)?;
        let mut config = Self {
            layout: LlamaLayout::GEMMA2,
            attention_scale: query_scale(fields)?,
            attn_logit_softcapping: fields.optional_number("attn_logit_softcapping", Some(50.0))?,
            ..config
        };
        let window = fields.optional_size("sliding_window", Some(4096))?;
        config.slide_by_type(fields, window, |i| i % 2 == 0)?;
        Ok(config)
    }

    /// Reads a `config.json` of Gemma 3's text model.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gemma3_text(fields: &Fields<'_>) -> Result<Self> {
        let rotary = |layer_type, theta_key, rope_theta, scaled| RotaryLayout::Nested {
            layer_type,
            theta_key,
            rope_theta,
            scaled,
        };
        let defaults = Defaults {
            vocab_size: 262_208,
            max_position_embeddings: 131_072,
            rotary: rotary(FULL, "rope_theta", 1_000_000.0, true),
            ..GEMMA2
        };
        let config = Self::new(fields, &defaults)?.into_gemma(fields)?;
        let mut config = Self {
            layout: LlamaLayout::GEMMA3_TEXT,
            attention_scale: query_scale(fields)?,
            ..config
        };
        let local = rotary(SLIDING, "rope_local_base_freq", 10_000.0, false);
        let (head_dim, most) = (config.head_dim, config.max_position_embeddings);
        config.rotary.push(RotaryConfig::new(|key| fields.value(key), local, head_dim, most)?);
        let window = fields.optional_size("sliding_window", Some(4096))?;
        let pattern = fields.size("sliding_window_pattern", 6)?;
        let sliding = config.slide_by_type(fields, window, |i| !(i + 1).is_multiple_of(pattern))?;
        let bidirectional = fields.flag("use_bidirectional_attention", false)?;
        for (layer, slides) in config.layers.iter_mut().zip(sliding) {
            layer.rotary = Some(usize::from(slides));
            // The class halves the window, which then counts both sides.
            if let (AttentionMask::Window(window), true) = (layer.mask, bidirectional) {
                layer.mask = AttentionMask::Window(window / 2);
            }
        }
        Ok(config)
    }

    /// Reads the settings that most families share.
    pub(super) fn new(fields: &Fields<'_>, defaults: &Defaults) -> Result<Self> {
        let keys = &defaults.keys;
        let hidden_size = fields.size(keys.hidden_size, defaults.hidden_size)?;
        let heads = fields.size(keys.num_attention_heads, defaults.num_attention_heads)?;
        let kv_heads = match keys.num_key_value_heads {
            Some(key) => fields.optional_size(key, defaults.num_key_value_heads)?,
            None => defaults.num_key_value_heads,
        };
        let kv_heads = kv_heads.unwrap_or(heads);
        let kv_key = keys.num_key_value_heads.unwrap_or("num_key_value_heads");
        fields.divides((keys.num_attention_heads, heads), (kv_key, kv_heads))?;
        let head_dim = fields.optional_size("head_dim", defaults.head_dim)?;
        if head_dim.is_none() {
            let heads = (keys.num_attention_heads, heads);
            fields.divides((keys.hidden_size, hidden_size), heads)?;
        }
        let head_dim = head_dim.unwrap_or(hidden_size / heads);
        let causal = fields.flag("is_causal", true)?
            && !fields.flag("use_bidirectional_attention", false)?;
        let mask = if causal { AttentionMask::Causal } else { AttentionMask::Full };
        let most = fields.size(keys.max_position_embeddings, defaults.max_position_embeddings)?;
        let value = |key| {
            let own = defaults.rotary_keys.iter().find(|(common, _)| *common == key);
            fields.value(own.map_or(key, |(_, own)| own))
        };
        let rotary = RotaryConfig::new(value, defaults.rotary, head_dim, most)?;
        let layers = fields.size(keys.num_hidden_layers, defaults.num_hidden_layers)?;
        let intermediate_size = match keys.intermediate_size {
            Some(key) => fields.size(key, defaults.intermediate_size)?,
            None => defaults.intermediate_size,
        };
        let norm_eps = match keys.norm_eps {
            Some(key) => fields.epsilon(key, defaults.norm_eps)?,
            None => defaults.norm_eps,
        };
        Ok(Self {
            vocab_size: fields.size("vocab_size", defaults.vocab_size)?,
            hidden_size,
            intermediate_size,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            hidden_act: fields.activation(defaults.activation_key, defaults.activation)?,
            norm_eps,
            layout: LlamaLayout::LLAMA,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            embedding: None,
            positions: None,
            embedding_multiplier: None,
            residual_multiplier: None,
            alibi: None,
            moe: None,
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            attn_logit_softcapping: None,
            max_position_embeddings: most,
            rotary: vec![rotary],
            rereads: false,
            layers: vec![LlamaLayerConfig { mask, rotary: Some(0), sparse: false }; layers],
            attn_implementation: fields.attn_implementation(),
        })
    }

    /// With the biases that config.json asks for.
    pub(super) fn with_biases(fields: &Fields<'_>, defaults: &Defaults) -> Result<Self> {
        let bias = fields.flag("attention_bias", false)?;
        Ok(Self {
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: fields.flag("mlp_bias", false)?,
            ..Self::new(fields, defaults)?
        })
    }

    /// Applies what all generations of Gemma share.
    fn into_gemma(self, fields: &Fields<'_>) -> Result<Self> {
        let bias = fields.flag("attention_bias", false)?;
        Ok(Self {
            layout: LlamaLayout::GEMMA,
            qkv_bias: bias,
            o_bias: bias,
            embedding_multiplier: Some((self.hidden_size as f64).sqrt()),
            ..self
        })
    }

    /// Applies the window, if there is one, to every layer.
    pub(super) fn slide(&mut self, window: Option<usize>) {
        for layer in &mut self.layers {
            layer.mask = with_window(layer.mask, window);
        }
    }

    /// Applies Qwen's window: with `use_sliding_window`, to the layers from `max_window_layers` on.
    fn slide_last(&mut self, fields: &Fields<'_>) -> Result<()> {
        let window = fields.optional_size("sliding_window", Some(4096))?;
        let slides = fields.flag("use_sliding_window", false)?;
        let window = window.filter(|_| slides);
        let full = fields.count("max_window_layers", 28)?;
        self.slide_by_type(fields, window, |i| window.is_some() && i >= full)?;
        Ok(())
    }

    /// Applies the window to the layers that `layer_types` lists as sliding, by default to those for which `by_default` is
    /// true. Returns which layers have it.
    fn slide_by_type(
        &mut self,
        fields: &Fields<'_>,
        window: Option<usize>,
        by_default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let sliding = fields.sliding_layers(self.layers.len(), by_default)?;
        if window.is_none() && sliding.contains(&true) {
            return Err(model("config.json has layers with a window, but no `sliding_window`"));
        }
        for (layer, _) in self.layers.iter_mut().zip(&sliding).filter(|(_, slides)| **slides) {
            layer.mask = with_window(layer.mask, window);
        }
        Ok(sliding)
    }

    /// Loads a norm of `size` features.
    pub(super) fn load_norm(&self, vb: VarBuilder<'_>, size: usize) -> candle_core::Result<Norm> {
        Norm::load(vb, size, self.norm_eps, self.layout.norm_kind)
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.embedding.map_or(self.hidden_size, |embedding| embedding.size),
            num_hidden_layers: self.layers.len(),
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.max_position_embeddings),
            extrapolates: self.positions.is_none(),
            image: None,
        }
    }
}

/// A mask with a window.
pub(super) fn with_window(mask: AttentionMask, window: Option<usize>) -> AttentionMask {
    match (mask, window) {
        (AttentionMask::Causal, Some(window)) => AttentionMask::CausalWindow(window),
        (AttentionMask::Full, Some(window)) => AttentionMask::Window(window),
        (mask, _) => mask,
    }
}

/// `query_pre_attn_scalar^-½`.
fn query_scale(fields: &Fields<'_>) -> Result<f64> {
    Ok(fields.epsilon("query_pre_attn_scalar", 256.0)?.powf(-0.5))
}

pub(super) fn model(message: &str) -> Error {
    Error::new(ErrorKind::Model, message)
}
