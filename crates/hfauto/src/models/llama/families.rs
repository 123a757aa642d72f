//! The configurations of the decoders that differ from Llama in names and arrangement: a constructor for each family. Not here: Llama
//! and its closest relatives (`config`).

use serde_json::json;

use super::config::{
    Defaults, EmbeddingConfig, Keys, LLAMA, LLAMA_KEYS, LlamaConfig, MoeConfig,
    PositionEmbeddingConfig, QWEN, model, with_window,
};
use super::layout::{LayerNorms, LlamaLayout, QkNorms, QkvLayout, Residual};
use crate::error::{Error, ErrorKind, Result};
use crate::models::Fields;
use crate::nn::{Activation, AlibiForm, NormKind, RotaryConfig, RotaryLayout};

/// Defaults of the families with layer normalization.
const LAYER_NORM: Defaults = Defaults {
    keys: Keys { norm_eps: Some("layer_norm_eps"), ..LLAMA_KEYS },
    norm_eps: 1e-5,
    ..LLAMA
};

/// Keys of the families with GPT-2's name of the epsilon, and as many heads of keys as of queries.
const EPSILON_KEYS: Keys =
    Keys { num_key_value_heads: None, norm_eps: Some("layer_norm_epsilon"), ..LLAMA_KEYS };

const fn partial(partial_rotary_factor: f64) -> RotaryLayout {
    RotaryLayout::Partial { rope_theta: 10_000.0, partial_rotary_factor }
}

impl LlamaConfig {
    /// Without rotary embeddings.
    fn without_rotary(mut self) -> Self {
        self.rotary.clear();
        self.layers.iter_mut().for_each(|layer| layer.rotary = None);
        self
    }

    /// Reads a `config.json` of Phi.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn phi(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 51_200,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 24,
            activation: "gelu_new",
            rotary: partial(0.5),
            ..LAYER_NORM
        };
        let qk_norms = QkNorms::Heads(["self_attn.q_layernorm", "self_attn.k_layernorm"]);
        let qk_norms = fields.flag("qk_layernorm", false)?.then_some(qk_norms);
        Ok(Self {
            layout: LlamaLayout { qk_norms, ..LlamaLayout::PHI },
            qkv_bias: true,
            o_bias: true,
            mlp_bias: true,
            ..Self::new(fields, &defaults)?
        })
    }

    /// Reads a `config.json` of OLMo 2.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn olmo2(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults { vocab_size: 50_304, norm_eps: 1e-5, ..LLAMA };
        let bias = fields.flag("attention_bias", false)?;
        let config = Self::new(fields, &defaults)?;
        Ok(Self { layout: LlamaLayout::OLMO2, qkv_bias: bias, o_bias: bias, ..config })
    }

    /// Reads a `config.json` of Granite.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn granite(fields: &Fields<'_>) -> Result<Self> {
        let config = Self::with_biases(fields, &LLAMA)?;
        Ok(Self {
            embedding_multiplier: Some(fields.epsilon("embedding_multiplier", 1.0)?),
            residual_multiplier: Some(fields.epsilon("residual_multiplier", 1.0)?),
            attention_scale: fields.epsilon("attention_multiplier", 1.0)?,
            ..config
        })
    }

    /// Reads a `config.json` of `StableLM`.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn stablelm(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 50_304,
            hidden_size: 2560,
            intermediate_size: 6912,
            num_key_value_heads: Some(32),
            max_position_embeddings: 4096,
            rotary: partial(0.25),
            ..LAYER_NORM
        };
        let qk_norms = QkNorms::EachHead(["self_attn.q_layernorm", "self_attn.k_layernorm"]);
        let mut layout = LlamaLayout {
            qk_norms: fields.flag("qk_layernorm", false)?.then_some(qk_norms),
            ..LlamaLayout::STABLELM
        };
        if fields.flag("use_parallel_residual", false)? {
            layout.residual = Residual::Parallel;
            layout.norms.mlp = None;
        }
        let qkv_bias = fields.flag("use_qkv_bias", false)?;
        Ok(Self { layout, qkv_bias, ..Self::new(fields, &defaults)? })
    }

    /// Reads a `config.json` of `StarCoder` 2.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn starcoder2(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 49_152,
            hidden_size: 3072,
            intermediate_size: 12_288,
            num_hidden_layers: 30,
            num_attention_heads: 24,
            num_key_value_heads: Some(2),
            activation: "gelu_pytorch_tanh",
            max_position_embeddings: 4096,
            keys: Keys { norm_eps: Some("norm_epsilon"), ..LLAMA_KEYS },
            ..LAYER_NORM
        };
        let bias = fields.flag("use_bias", true)?;
        let mut config = Self {
            layout: LlamaLayout::STARCODER2,
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: bias,
            ..Self::new(fields, &defaults)?
        };
        config.slide(fields.optional_size("sliding_window", None)?);
        Ok(config)
    }

    /// Reads a `config.json` of GPT-NeoX.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gpt_neox(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 50_432,
            hidden_size: 6144,
            intermediate_size: 24_576,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            activation: "gelu",
            rotary: partial(0.25),
            rotary_keys: &[
                ("rope_theta", "rotary_emb_base"),
                ("partial_rotary_factor", "rotary_pct"),
            ],
            keys: Keys { num_key_value_heads: None, ..LAYER_NORM.keys },
            ..LAYER_NORM
        };
        let config = Self::new(fields, &defaults)?;
        let bias = fields.flag("attention_bias", true)?;
        let parallel = fields.flag("use_parallel_residual", true)?;
        let residual = if parallel { Residual::Parallel } else { Residual::Sequential };
        Ok(Self {
            layout: LlamaLayout { residual, ..LlamaLayout::GPT_NEOX },
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: true,
            ..config
        })
    }

    /// Reads a `config.json` of GPT-J.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gptj(fields: &Fields<'_>) -> Result<Self> {
        let keys = Keys {
            hidden_size: "n_embd",
            intermediate_size: Some("n_inner"),
            num_hidden_layers: "n_layer",
            num_attention_heads: "n_head",
            max_position_embeddings: "n_positions",
            ..EPSILON_KEYS
        };
        let defaults = Defaults {
            keys,
            vocab_size: 50_400,
            hidden_size: 4096,
            intermediate_size: 4 * fields.size("n_embd", 4096)?,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            activation_key: "activation_function",
            activation: "gelu_new",
            ..LAYER_NORM
        };
        let config = Self::new(fields, &defaults)?;
        let turning = fields.size("rotary_dim", 64)?;
        if fields.contains("rotary_dim") && fields.value("rotary_dim").is_none() {
            let text = "`rotary_dim: null` in config.json is not implemented";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let head_dim = config.head_dim;
        if turning > head_dim {
            let text = format!(
                "`rotary_dim: {turning}` in config.json, but heads have {head_dim} features"
            );
            return Err(Error::new(ErrorKind::Model, text));
        }
        // Half a feature more, which is cut off again, against rounding down.
        let factor = json!(((turning as f64 + 0.5) / head_dim as f64).min(1.0));
        let value = |key| (key == "partial_rotary_factor").then_some(&factor);
        let most = config.max_position_embeddings;
        Ok(Self {
            layout: LlamaLayout::GPTJ,
            rotary: vec![RotaryConfig::new(value, partial(1.0), head_dim, most)?],
            mlp_bias: true,
            ..config
        })
    }

    /// Reads a `config.json` of GPT-Neo.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn gpt_neo(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            keys: Keys {
                num_hidden_layers: "num_layers",
                num_attention_heads: "num_heads",
                ..EPSILON_KEYS
            },
            vocab_size: 50_257,
            hidden_size: 2048,
            intermediate_size: 4 * fields.size("hidden_size", 2048)?,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            activation_key: "activation_function",
            activation: "gelu_new",
            ..LAYER_NORM
        };
        let config = Self::new(fields, &defaults)?;
        let window = fields.size("window_size", 256)?;
        let local = local_layers(fields, config.layers.len())?;
        let mut config = Self {
            layout: LlamaLayout::GPT_NEO,
            positions: Some(PositionEmbeddingConfig { name: "wpe", offset: 0 }),
            attention_scale: 1.0,
            o_bias: true,
            mlp_bias: true,
            ..config.without_rotary()
        };
        for (layer, _) in config.layers.iter_mut().zip(local).filter(|(_, local)| *local) {
            layer.mask = with_window(layer.mask, Some(window));
        }
        Ok(config)
    }

    /// Reads a `config.json` of Falcon.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn falcon(fields: &Fields<'_>) -> Result<Self> {
        let hidden_size = hidden_size_key(fields);
        let heads = fields.size("num_attention_heads", 71)?;
        let new = fields.flag("new_decoder_architecture", false)?;
        let multi_query = fields.flag("multi_query", true)?;
        let kv_heads = match (new, multi_query) {
            (true, _) => fields.optional_size("num_kv_heads", None)?.unwrap_or(heads),
            (false, true) => 1,
            (false, false) => heads,
        };
        let defaults = Defaults {
            keys: Keys { hidden_size, intermediate_size: Some("ffn_hidden_size"), ..EPSILON_KEYS },
            vocab_size: 65_024,
            hidden_size: 4544,
            intermediate_size: 4 * fields.size(hidden_size, 4544)?,
            num_attention_heads: 71,
            num_key_value_heads: Some(kv_heads),
            activation_key: "activation",
            activation: "gelu",
            ..LAYER_NORM
        };
        let config = Self::new(fields, &defaults)?;
        let bias = fields.flag("bias", false)?;
        let config = Self {
            layout: falcon_layout(fields, new, multi_query)?,
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: bias,
            ..config
        };
        if !fields.flag("alibi", false)? {
            return Ok(config);
        }
        let scale = config.attention_scale as f32;
        Ok(Self { alibi: Some(AlibiForm::Bf16Key { scale }), ..config.without_rotary() })
    }

    /// Reads a `config.json` of Bloom.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn bloom(fields: &Fields<'_>) -> Result<Self> {
        let hidden_size = hidden_size_key(fields);
        let defaults = Defaults {
            keys: Keys {
                hidden_size,
                intermediate_size: None,
                num_hidden_layers: "n_layer",
                num_attention_heads: "n_head",
                ..EPSILON_KEYS
            },
            vocab_size: 250_880,
            hidden_size: 64,
            intermediate_size: 4 * fields.size(hidden_size, 64)?,
            num_hidden_layers: 2,
            num_attention_heads: 8,
            ..LAYER_NORM
        };
        // Sums over the slices of tensor parallelism leave out the biases.
        if fields.size("pretraining_tp", 1)? > 1 {
            fields.only("slow_but_exact", &json!(false))?;
        }
        let config = Self::new(fields, &defaults)?;
        let after = fields.flag("apply_residual_connection_post_layernorm", false)?;
        let residual = if after { Residual::AfterNorms } else { Residual::Sequential };
        Ok(Self {
            layout: LlamaLayout { residual, ..LlamaLayout::BLOOM },
            // `BloomGelu` is the approximation.
            hidden_act: Activation::GeluTanh,
            alibi: Some(AlibiForm::Distance),
            qkv_bias: true,
            o_bias: true,
            mlp_bias: true,
            ..config.without_rotary()
        })
    }

    /// Reads a `config.json` of OPT.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn opt(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            vocab_size: 50_272,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            activation_key: "activation_function",
            activation: "relu",
            keys: Keys {
                intermediate_size: Some("ffn_dim"),
                num_key_value_heads: None,
                norm_eps: None,
                ..LLAMA_KEYS
            },
            ..LAYER_NORM
        };
        let config = Self::new(fields, &defaults)?;
        let norms_first = fields.flag("do_layer_norm_before", true)?;
        let no_last_norm = fields.flag("_remove_final_layer_norm", false)?;
        let has_weights = fields.flag("layer_norm_elementwise_affine", true)?;
        let size = fields.size("word_embed_proj_dim", 768)?;
        let bias = fields.flag("enable_bias", true)?;
        Ok(Self {
            layout: LlamaLayout {
                norm: LlamaLayout::OPT.norm.filter(|_| norms_first && !no_last_norm),
                norm_kind: if has_weights { NormKind::Layer } else { NormKind::LayerPlain },
                residual: if norms_first { Residual::Sequential } else { Residual::NormsLast },
                ..LlamaLayout::OPT
            },
            embedding: (size != config.hidden_size).then_some(EmbeddingConfig {
                size,
                project_in: "decoder.project_in",
                project_out: "decoder.project_out",
            }),
            positions: Some(PositionEmbeddingConfig { name: "decoder.embed_positions", offset: 2 }),
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: bias,
            ..config.without_rotary()
        })
    }

    /// Reads a `config.json` of Mixtral.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn mixtral(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            intermediate_size: 14_336,
            num_key_value_heads: Some(8),
            max_position_embeddings: 4096 * 32,
            norm_eps: 1e-5,
            rotary: RotaryLayout::Flat { rope_theta: 1_000_000.0 },
            ..LLAMA
        };
        let mut config = Self::new(fields, &defaults)?;
        config.slide(fields.optional_size("sliding_window", None)?);
        let moe = MoeConfig {
            name: "block_sparse_moe",
            projections: ["w1", "w3", "w2"],
            num_experts: fields.size("num_local_experts", 8)?,
            num_experts_per_tok: fields.size("num_experts_per_tok", 2)?,
            intermediate_size: config.intermediate_size,
            norm_topk_prob: true,
        };
        config.with_experts(moe, |_| true)
    }

    /// Reads a `config.json` of Qwen3's mixture of experts.
    ///
    /// # Errors
    /// As [`LlamaConfig::llama`].
    pub fn qwen3_moe(fields: &Fields<'_>) -> Result<Self> {
        let defaults = Defaults {
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 24,
            num_key_value_heads: Some(4),
            ..QWEN
        };
        let bias = fields.flag("attention_bias", false)?;
        let config = Self::new(fields, &defaults)?;
        let layout = LlamaLayout::QWEN3;
        let mut config = Self { layout, qkv_bias: bias, o_bias: bias, ..config };
        let window = fields.optional_size("sliding_window", Some(4096))?;
        let slides = fields.flag("use_sliding_window", false)?;
        config.slide(window.filter(|_| slides));
        let step = fields.size("decoder_sparse_step", 1)?;
        let dense = fields.list("mlp_only_layers")?.unwrap_or_default();
        let moe = MoeConfig {
            name: "mlp",
            projections: ["gate_proj", "up_proj", "down_proj"],
            num_experts: fields.size("num_local_experts", 128)?,
            num_experts_per_tok: fields.size("num_experts_per_tok", 8)?,
            intermediate_size: fields.size("moe_intermediate_size", 768)?,
            norm_topk_prob: fields.flag("norm_topk_prob", false)?,
        };
        let is_dense = |layer: usize| dense.iter().any(|value| *value == json!(layer));
        config.with_experts(moe, |layer| !is_dense(layer) && (layer + 1).is_multiple_of(step))
    }

    fn with_experts(mut self, moe: MoeConfig, is_sparse: impl Fn(usize) -> bool) -> Result<Self> {
        let (experts, used) = (moe.num_experts, moe.num_experts_per_tok);
        if used > experts {
            let text = format!("`num_experts_per_tok: {used}` in config.json of {experts} experts");
            return Err(Error::new(ErrorKind::Model, text));
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.sparse = is_sparse(i);
        }
        Ok(Self { moe: Some(moe), ..self })
    }
}

/// The key of the hidden size: the first checkpoints of Bloom and Falcon have another one.
fn hidden_size_key(fields: &Fields<'_>) -> &'static str {
    if fields.value("n_embed").is_some() { "n_embed" } else { "hidden_size" }
}

fn falcon_layout(fields: &Fields<'_>, new: bool, multi_query: bool) -> Result<LlamaLayout> {
    let parallel = fields.flag("parallel_attn", true)?;
    let norms = fields.optional_size("num_ln_in_parallel_attn", None)?;
    if new && !parallel {
        return Err(model("`new_decoder_architecture` in config.json without `parallel_attn`"));
    }
    let two = new && norms.unwrap_or(2) == 2;
    Ok(LlamaLayout {
        qkv: match (new, multi_query) {
            (false, true) => QkvLayout::Fused("self_attention.query_key_value"),
            _ => LlamaLayout::FALCON.qkv,
        },
        norms: LayerNorms {
            attention: Some(if two { "ln_attn" } else { "input_layernorm" }),
            mlp: match (two, parallel) {
                (true, _) => Some("ln_mlp"),
                (false, true) => None,
                (false, false) => Some("post_attention_layernorm"),
            },
            ..LlamaLayout::FALCON.norms
        },
        residual: if parallel { Residual::Parallel } else { Residual::Sequential },
        ..LlamaLayout::FALCON
    })
}

/// Which layers of GPT-Neo have local attention: `attention_types` lists types and how often they are repeated.
fn local_layers(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    let wrong = || model("`attention_types` in config.json is not a list of types with a count");
    let Some(types) = fields.list("attention_types")? else {
        return Ok((0..layers).map(|layer| layer % 2 == 1).collect());
    };
    let mut local = Vec::new();
    for item in types {
        let (names, count) = (item[0].as_array(), item[1].as_u64());
        let (names, count) = names.zip(count).ok_or_else(wrong)?;
        if names.is_empty() {
            return Err(wrong());
        }
        for name in (0..count).flat_map(|_| names) {
            local.push(match name.as_str() {
                Some("global") => false,
                Some("local") => true,
                _ => return Err(wrong()),
            });
            if local.len() > layers {
                break;
            }
        }
    }
    if local.len() != layers {
        let text = "`attention_types` in config.json has another number of layers than";
        return Err(model(&format!("{text} `num_layers: {layers}`")));
    }
    Ok(local)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn blooms_sums_over_slices_are_refused() {
        let read = |settings: Value| {
            let object = settings.as_object().cloned().unwrap_or_default();
            LlamaConfig::bloom(&Fields::new(&object))
        };
        let error = read(json!({"pretraining_tp": 2, "slow_but_exact": true})).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`slow_but_exact: true`"), "{error}");
        assert!(read(json!({"pretraining_tp": 1, "slow_but_exact": true})).is_ok());
        assert!(read(json!({"pretraining_tp": 4, "slow_but_exact": false})).is_ok());
    }
}
