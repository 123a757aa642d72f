//! The architectures of GGUF files: what their metadata is in `config.json`, and the names that their tensors have in
//! transformers. Not here: the container ([`super::reader`]). The entry is [`ARCHITECTURES`].
//!
//! # Source
//! `gguf_conversion_mapping.py` and `modeling_gguf_pytorch_utils.py` of transformers at v5.24, `tensor_mapping.py` of gguf-py
//! 0.19, `convert_hf_to_gguf.py` of llama.cpp.

use serde_json::{Map, Value as Json, json};

use super::keys::Keys;
use crate::hub::layout::{Fault, RowOrder};

/// A row of the table.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    pub(super) model_type: &'static str,
    /// `architectures` of `config.json`.
    pub(super) class: &'static str,
    /// Tensors outside of layers, without `.weight` and `.bias`: here and in transformers.
    tensors: &'static [(&'static str, &'static str)],
    /// Tensors of layers: what is before the layer's number, here and in transformers, and what is after it.
    layers: &'static [(&'static str, &'static str, &'static [Names])],
    /// What a tensor is in the file, by the last part of its name.
    form: fn(&Keys<'_>, &str) -> Result<Form, Fault>,
    /// The settings of `config.json`.
    config: fn(&Keys<'_>, &mut Map<String, Json>) -> Result<(), Fault>,
}

/// Names of one tensor, here and in transformers.
type Names = (&'static str, &'static str);

/// How a tensor differs from that of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Form {
    pub(super) order: Option<RowOrder>,
    pub(super) is_transposed: bool,
    pub(super) shift: f32,
}

const DECODER: &[Names] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const LLAMA_LAYER: &[Names] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GEMMA2_LAYER: &[Names] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const PHI3_LAYER: &[Names] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const STARCODER2_LAYER: &[Names] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const GPT2_LAYER: &[Names] = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// Falcon and Bloom share the names of attention and feed-forward network.
const BLOOM_LAYER: &[Names] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attention.query_key_value"),
    ("attn_output", "self_attention.dense"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.dense_h_to_4h"),
    ("ffn_down", "mlp.dense_4h_to_h"),
];

const BERT_LAYER: &[Names] = &[
    ("attn_q", "attention.self.query"),
    ("attn_k", "attention.self.key"),
    ("attn_v", "attention.self.value"),
    ("attn_output", "attention.output.dense"),
    ("attn_output_norm", "attention.output.LayerNorm"),
    ("ffn_up", "intermediate.dense"),
    ("ffn_down", "output.dense"),
    ("layer_output_norm", "output.LayerNorm"),
];

const NOMIC_BERT_LAYER: &[Names] = &[
    ("attn_qkv", "attn.Wqkv"),
    ("attn_output", "attn.out_proj"),
    ("attn_output_norm", "norm1"),
    ("ffn_up", "mlp.fc11"),
    ("ffn_gate", "mlp.fc12"),
    ("ffn_down", "mlp.fc2"),
    ("layer_output_norm", "norm2"),
];

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    tensors: DECODER,
    layers: &[("blk.", "model.layers.", LLAMA_LAYER)],
    form: |keys, name| {
        let heads = match name {
            "attn_q" => keys.heads()?,
            "attn_k" => keys.kv_heads()?,
            _ => return Ok(Form::default()),
        };
        Ok(Form { order: Some(RowOrder::Neighbours(heads)), ..Form::default() })
    },
    config: |keys, config| {
        decoder(keys, config)?;
        config.insert("attention_bias".into(), keys.has("blk.0.attn_q.bias").into());
        config.insert("mlp_bias".into(), keys.has("blk.0.ffn_up.bias").into());
        Ok(())
    },
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    form: |_, _| Ok(Form::default()),
    config: decoder,
    ..LLAMA
};

const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    class: "GemmaForCausalLM",
    // The file has 1 + w.
    form: |_, name| {
        Ok(Form { shift: if name.ends_with("norm") { -1.0 } else { 0.0 }, ..Form::default() })
    },
    config: decoder,
    ..LLAMA
};

/// The implemented architectures, in alphabetical order.
pub(super) static ARCHITECTURES: [Architecture; 14] = [
    Architecture {
        name: "bert",
        model_type: "bert",
        class: "BertModel",
        tensors: &[
            ("token_embd", "embeddings.word_embeddings"),
            ("position_embd", "embeddings.position_embeddings"),
            ("token_types", "embeddings.token_type_embeddings"),
            ("token_embd_norm", "embeddings.LayerNorm"),
        ],
        layers: &[("blk.", "encoder.layer.", BERT_LAYER)],
        form: |_, _| Ok(Form::default()),
        config: bert,
    },
    Architecture {
        name: "bloom",
        model_type: "bloom",
        class: "BloomForCausalLM",
        tensors: &[
            ("token_embd", "word_embeddings"),
            ("token_embd_norm", "word_embeddings_layernorm"),
            ("output_norm", "ln_f"),
            ("output", "lm_head"),
        ],
        layers: &[("blk.", "h.", BLOOM_LAYER)],
        form: grouped,
        config: |keys, config| {
            config.insert("hidden_size".into(), keys.size("embedding_length")?.into());
            config.insert("n_layer".into(), keys.size("block_count")?.into());
            config.insert("n_head".into(), keys.heads()?.into());
            let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
            config.insert("layer_norm_epsilon".into(), epsilon.into());
            Ok(())
        },
    },
    Architecture {
        name: "falcon",
        model_type: "falcon",
        class: "FalconForCausalLM",
        tensors: &[
            ("token_embd", "transformer.word_embeddings"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        layers: &[("blk.", "transformer.h.", BLOOM_LAYER)],
        form: grouped,
        config: |keys, config| {
            if keys.kv_heads()? != 1 {
                return Err(Fault::unsupported(
                    "is a Falcon with several key-value heads, which is not implemented",
                ));
            }
            decoder(keys, config)?;
            let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
            config.insert("layer_norm_epsilon".into(), epsilon.into());
            for (key, value) in [
                ("multi_query", true),
                ("parallel_attn", true),
                ("new_decoder_architecture", false),
                ("alibi", false),
                ("bias", false),
            ] {
                config.insert(key.into(), value.into());
            }
            Ok(())
        },
    },
    GEMMA,
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        layers: &[("blk.", "model.layers.", GEMMA2_LAYER)],
        config: |keys, config| {
            decoder(keys, config)?;
            // 27B is the only size whose scale is not that of its heads.
            query_scale(keys, config, 46)?;
            for (key, name) in [
                ("attn_logit_softcapping", "attn_logit_softcapping"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ] {
                if let Some(number) = keys.number(key)? {
                    config.insert(name.into(), number.into());
                }
            }
            window(keys, config)
        },
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        layers: &[("blk.", "model.layers.", GEMMA2_LAYER)],
        config: |keys, config| {
            decoder(keys, config)?;
            query_scale(keys, config, 62)?;
            // They belong to the architecture: the file does not have them.
            config.insert("rope_local_base_freq".into(), json!(10_000.0));
            config.insert("sliding_window_pattern".into(), json!(6));
            config.insert("final_logit_softcapping".into(), Json::Null);
            window(keys, config)
        },
        ..GEMMA
    },
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        tensors: &[
            ("token_embd", "wte"),
            ("position_embd", "wpe"),
            ("output_norm", "ln_f"),
            ("output", "lm_head"),
        ],
        layers: &[("blk.", "h.", GPT2_LAYER)],
        form: |_, name| {
            let is_transposed = matches!(name, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down");
            Ok(Form { is_transposed, ..Form::default() })
        },
        config: |keys, config| {
            config.insert("n_embd".into(), keys.size("embedding_length")?.into());
            config.insert("n_layer".into(), keys.size("block_count")?.into());
            config.insert("n_head".into(), keys.heads()?.into());
            config.insert("n_inner".into(), keys.size("feed_forward_length")?.into());
            config.insert("n_positions".into(), keys.rows("position_embd.weight")?.into());
            let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
            config.insert("layer_norm_epsilon".into(), epsilon.into());
            Ok(())
        },
    },
    LLAMA,
    Architecture {
        name: "nomic-bert",
        model_type: "nomic_bert",
        class: "NomicBertModel",
        tensors: &[
            ("token_embd", "embeddings.word_embeddings"),
            ("token_types", "embeddings.token_type_embeddings"),
            ("token_embd_norm", "emb_ln"),
        ],
        layers: &[("blk.", "encoder.layers.", NOMIC_BERT_LAYER)],
        form: |_, _| Ok(Form::default()),
        config: nomic_bert,
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        layers: &[("blk.", "model.layers.", PHI3_LAYER)],
        form: |_, _| Ok(Form::default()),
        config: |keys, config| {
            decoder(keys, config)?;
            let original = keys.optional_size("rope.scaling.original_context_length")?;
            if let Some(original) = original.filter(|_| keys.factors("rope_factors_long").is_some())
            {
                config.insert("original_max_position_embeddings".into(), original.into());
            }
            window(keys, config)
        },
        ..LLAMA
    },
    QWEN2,
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        config: |keys, config| {
            decoder(keys, config)?;
            config.insert("attention_bias".into(), keys.has("blk.0.attn_q.bias").into());
            Ok(())
        },
        ..QWEN2
    },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        config: |keys, config| {
            decoder(keys, config)?;
            if keys.has("blk.0.attn_q_norm.weight") {
                return Err(Fault::unsupported("has norms of heads, which are not implemented"));
            }
            let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
            config.insert("layer_norm_eps".into(), epsilon.into());
            config.insert("use_qkv_bias".into(), keys.has("blk.0.attn_q.bias").into());
            let is_parallel = !keys.has("blk.0.ffn_norm.weight");
            config.insert("use_parallel_residual".into(), is_parallel.into());
            let turning = keys.optional_size("rope.dimension_count")?;
            let head_dim = keys.head_dim()?;
            let part = turning.unwrap_or(head_dim) as f64 / head_dim.max(1) as f64;
            config.insert("partial_rotary_factor".into(), part.into());
            Ok(())
        },
        ..QWEN2
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        layers: &[("blk.", "model.layers.", STARCODER2_LAYER)],
        config: |keys, config| {
            decoder(keys, config)?;
            let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
            config.insert("norm_epsilon".into(), epsilon.into());
            config.insert("use_bias".into(), keys.has("blk.0.attn_q.bias").into());
            config.insert("sliding_window".into(), Json::Null);
            Ok(())
        },
        ..QWEN2
    },
];

impl Architecture {
    /// The row of `general.architecture`.
    pub(super) fn find(keys: &Keys<'_>) -> Result<&'static Self, Fault> {
        ARCHITECTURES.iter().find(|row| row.name == keys.architecture()).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
            Fault::unsupported(format!(
                "has the architecture `{}`, which is not implemented: {} are",
                keys.architecture(),
                known.join(", ")
            ))
        })
    }

    /// `config.json`.
    pub(super) fn config_json(&self, keys: &Keys<'_>) -> Result<Map<String, Json>, Fault> {
        for (key, what) in
            [("expert_count", "a mixture of experts"), ("attention.clamp_kqv", "clamped heads")]
        {
            if keys.number(key)?.is_some_and(|number| number != 0.0) {
                return Err(Fault::unsupported(format!("has {what}, which is not implemented")));
            }
        }
        let encodes = matches!(self.name, "bert" | "nomic-bert");
        if keys.flag("attention.causal") == Some(false) && !encodes {
            return Err(Fault::unsupported(format!(
                "is a {} whose attention is not causal, which is not implemented",
                self.name
            )));
        }
        let mut config = Map::new();
        config.insert("model_type".into(), self.model_type.into());
        config.insert("architectures".into(), json!([self.class]));
        config.insert("vocab_size".into(), keys.rows("token_embd.weight")?.into());
        if !encodes {
            config.insert("tie_word_embeddings".into(), (!keys.has("output.weight")).into());
        }
        for (key, name) in super::tokenizer::SPECIAL_IDS {
            if let Some(id) = keys.id(key) {
                config.insert(format!("{name}_id"), id.into());
            }
        }
        (self.config)(keys, &mut config)?;
        Ok(config)
    }

    /// The name of a tensor in transformers, and its form; `None` for one that is not among those of the architecture.
    pub(super) fn tensor(
        &self,
        keys: &Keys<'_>,
        name: &str,
    ) -> Result<Option<(String, Form)>, Fault> {
        let Some((path, kind)) =
            name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
        else {
            return Ok(None);
        };
        let known = |names: &[Names], path: &str| {
            names.iter().find(|(own, _)| *own == path).map(|(_, theirs)| *theirs)
        };
        let (last, found) = if let Some(theirs) = known(self.tensors, path) {
            (path, theirs.to_owned())
        } else {
            let layer = self.layers.iter().find_map(|(before, theirs, names)| {
                let (number, last) = path.strip_prefix(*before)?.split_once('.')?;
                let number: u32 = number.parse().ok()?;
                Some((last, format!("{theirs}{number}.{}", known(names, last)?)))
            });
            let Some(layer) = layer else { return Ok(None) };
            layer
        };
        let mut form = (self.form)(keys, last)?;
        form.is_transposed &= kind == "weight";
        Ok(Some((format!("{found}.{kind}"), form)))
    }
}

/// Queries, keys and values of each head, which the file has one kind after the other.
fn grouped(keys: &Keys<'_>, name: &str) -> Result<Form, Fault> {
    if name != "attn_qkv" {
        return Ok(Form::default());
    }
    let order = RowOrder::Groups { heads: keys.heads()?, kv_heads: keys.kv_heads()? };
    Ok(Form { order: Some(order), ..Form::default() })
}

/// The settings that decoders share, under the names of Llama.
fn decoder(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("hidden_size", keys.size("embedding_length")?.into());
    set("num_hidden_layers", keys.size("block_count")?.into());
    set("intermediate_size", keys.size("feed_forward_length")?.into());
    set("max_position_embeddings", keys.size("context_length")?.into());
    set("num_attention_heads", keys.heads()?.into());
    set("num_key_value_heads", keys.kv_heads()?.into());
    set("head_dim", keys.head_dim()?.into());
    set("rope_theta", keys.number("rope.freq_base")?.unwrap_or(10_000.0).into());
    if let Some(epsilon) = keys.number("attention.layer_norm_rms_epsilon")? {
        set("rms_norm_eps", epsilon.into());
    }
    if let Some(scaling) = keys.rope_scaling()? {
        set("rope_scaling", scaling);
    }
    if let Some(turning) = keys.optional_size("rope.dimension_count")?
        && turning != keys.head_dim()?
    {
        set("partial_rotary_factor", (turning as f64 / keys.head_dim()? as f64).into());
    }
    Ok(())
}

/// `query_pre_attn_scalar` of Gemma: the size of a head, or, in the largest model, that of a head without its own size.
fn query_scale(
    keys: &Keys<'_>,
    config: &mut Map<String, Json>,
    layers_of_largest: usize,
) -> Result<(), Fault> {
    let scalar = if keys.size("block_count")? == layers_of_largest {
        keys.size("embedding_length")? / keys.heads()?
    } else {
        keys.head_dim()?
    };
    config.insert("query_pre_attn_scalar".into(), scalar.into());
    Ok(())
}

fn window(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let window = keys.optional_size("attention.sliding_window")?.filter(|window| *window > 0);
    config.insert("sliding_window".into(), window.into());
    Ok(())
}

fn bert(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("hidden_size", keys.size("embedding_length")?.into());
    set("num_hidden_layers", keys.size("block_count")?.into());
    set("num_attention_heads", keys.heads()?.into());
    set("intermediate_size", keys.size("feed_forward_length")?.into());
    set("max_position_embeddings", keys.rows("position_embd.weight")?.into());
    set("type_vocab_size", keys.rows("token_types.weight")?.into());
    let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-12);
    set("layer_norm_eps", epsilon.into());
    Ok(())
}

fn nomic_bert(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("n_embd", keys.size("embedding_length")?.into());
    set("n_layer", keys.size("block_count")?.into());
    set("n_head", keys.heads()?.into());
    set("n_inner", keys.size("feed_forward_length")?.into());
    set("n_positions", keys.size("context_length")?.into());
    set("type_vocab_size", keys.rows("token_types.weight")?.into());
    let epsilon = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-12);
    set("layer_norm_epsilon", epsilon.into());
    set("rotary_emb_base", keys.number("rope.freq_base")?.unwrap_or(1000.0).into());
    Ok(())
}
