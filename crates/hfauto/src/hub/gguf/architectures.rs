//! The architectures of GGUF files: what their metadata is in `config.json`, and the names that their tensors have in
//! transformers. Not here: the container ([`super::reader`]). The entry is [`ARCHITECTURES`].
//!
//! # Source
//! `gguf_conversion_mapping.py` and `modeling_gguf_pytorch_utils.py` of transformers at v5.24, `tensor_mapping.py` of gguf-py
//! 0.19, `convert_hf_to_gguf.py` of llama.cpp.

use serde_json::{Map, Value as Json, json};

use super::keys::Keys;
use super::names::{self, Names};
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

/// How a tensor differs from that of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Form {
    pub(super) order: Option<RowOrder>,
    pub(super) is_transposed: bool,
    pub(super) shift: f32,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    tensors: names::DECODER,
    layers: &[("blk.", "model.layers.", names::LLAMA_LAYER)],
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
        if keys.experts()?.is_some() {
            config.insert("model_type".into(), "mixtral".into());
            config.insert("architectures".into(), json!(["MixtralForCausalLM"]));
            return experts(keys, config);
        }
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

const T5: Architecture = Architecture {
    name: "t5",
    model_type: "t5",
    class: "T5ForConditionalGeneration",
    tensors: names::T5,
    layers: &[
        ("enc.blk.", "encoder.block.", names::T5_ENCODER_LAYER),
        ("dec.blk.", "decoder.block.", names::T5_DECODER_LAYER),
    ],
    form: |_, _| Ok(Form::default()),
    config: t5,
};

/// The implemented architectures, in alphabetical order.
pub(super) static ARCHITECTURES: [Architecture; 19] = [
    Architecture {
        name: "bert",
        model_type: "bert",
        class: "BertModel",
        tensors: &[
            ("token_embd", "embeddings.word_embeddings"),
            ("position_embd", "embeddings.position_embeddings"),
            ("token_types", "embeddings.token_type_embeddings"),
            ("token_embd_norm", "embeddings.LayerNorm"),
            // RoBERTa's head computes what BERT's pooler and classifier do.
            ("cls", "pooler.dense"),
            ("cls.output", "classifier"),
        ],
        layers: &[("blk.", "encoder.layer.", names::BERT_LAYER)],
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
        layers: &[("blk.", "h.", names::BLOOM_LAYER)],
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
        layers: &[("blk.", "transformer.h.", names::BLOOM_LAYER)],
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
        layers: &[("blk.", "model.layers.", names::GEMMA2_LAYER)],
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
        layers: &[("blk.", "model.layers.", names::GEMMA2_LAYER)],
        config: gemma3,
        ..GEMMA
    },
    Architecture {
        name: "gemma-embedding",
        model_type: "gemma3_text",
        class: "Gemma3TextModel",
        tensors: &[
            ("token_embd", "embed_tokens"),
            ("output_norm", "norm"),
            ("dense_2", "2_Dense.linear"),
            ("dense_3", "3_Dense.linear"),
        ],
        layers: &[("blk.", "layers.", names::GEMMA2_LAYER)],
        config: |keys, config| {
            gemma3(keys, config)?;
            config.insert("use_bidirectional_attention".into(), true.into());
            Ok(())
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
        layers: &[("blk.", "h.", names::GPT2_LAYER)],
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
    Architecture {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        config: |keys, config| {
            decoder(keys, config)?;
            config.insert("attention_bias".into(), keys.has("blk.0.attn_q.bias").into());
            config.insert("mlp_bias".into(), keys.has("blk.0.ffn_up.bias").into());
            for (key, name) in [
                ("attention.scale", "attention_multiplier"),
                ("embedding_scale", "embedding_multiplier"),
                ("residual_scale", "residual_multiplier"),
                ("logit_scale", "logits_scaling"),
            ] {
                // The converter leaves out those that are 0; 1 is what the class has.
                if let Some(number) = keys.number(key)? {
                    config.insert(name.into(), number.into());
                }
            }
            Ok(())
        },
        ..LLAMA
    },
    LLAMA,
    Architecture {
        name: "modern-bert",
        model_type: "modernbert",
        class: "ModernBertModel",
        tensors: &[
            ("token_embd", "embeddings.tok_embeddings"),
            ("token_embd_norm", "embeddings.norm"),
            ("output_norm", "final_norm"),
            ("cls", "head.dense"),
            ("cls.norm", "head.norm"),
            ("cls.output", "classifier"),
        ],
        layers: &[("blk.", "layers.", names::MODERN_BERT_LAYER)],
        form: |_, _| Ok(Form::default()),
        config: modern_bert,
    },
    Architecture {
        name: "nomic-bert",
        model_type: "nomic_bert",
        class: "NomicBertModel",
        tensors: &[
            ("token_embd", "embeddings.word_embeddings"),
            ("token_types", "embeddings.token_type_embeddings"),
            ("token_embd_norm", "emb_ln"),
        ],
        layers: &[("blk.", "encoder.layers.", names::NOMIC_BERT_LAYER)],
        form: |_, _| Ok(Form::default()),
        config: nomic_bert,
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        layers: &[("blk.", "model.layers.", names::PHI3_LAYER)],
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
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        layers: &[("blk.", "model.layers.", names::QWEN3_MOE_LAYER)],
        config: |keys, config| {
            decoder(keys, config)?;
            config.insert("attention_bias".into(), keys.has("blk.0.attn_q.bias").into());
            let inner = keys.size("expert_feed_forward_length")?;
            config.insert("moe_intermediate_size".into(), inner.into());
            // As llama.cpp computes them; the file does not say it.
            config.insert("norm_topk_prob".into(), true.into());
            experts(keys, config)
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
        layers: &[("blk.", "model.layers.", names::STARCODER2_LAYER)],
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
    T5,
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
        let mixes = matches!(self.name, "llama" | "qwen3moe");
        for (key, what, is_known) in [
            ("expert_count", "a mixture of experts", mixes),
            ("expert_shared_count", "experts for all tokens", false),
            ("attention.clamp_kqv", "clamped heads", false),
        ] {
            if !is_known && keys.number(key)?.is_some_and(|number| number != 0.0) {
                return Err(Fault::unsupported(format!("has {what}, which is not implemented")));
            }
        }
        let encodes =
            matches!(self.name, "bert" | "nomic-bert" | "modern-bert" | "gemma-embedding");
        if keys.flag("attention.causal") == Some(false) && !encodes {
            return Err(Fault::unsupported(format!(
                "is a {} whose attention is not causal, which is not implemented",
                self.name
            )));
        }
        let mut config = Map::new();
        config.insert("model_type".into(), self.model_type.into());
        config.insert("architectures".into(), json!([self.class]));
        if keys.has("cls.output.weight") {
            classifier(keys, self.class, &mut config)?;
        }
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
                let name = known(names, last)?;
                let name = name.split_once('|').map_or(name, |(gated, plain)| {
                    let gate = format!("{before}{number}.ffn_gate.weight");
                    if keys.has(&gate) { gated } else { plain }
                });
                Some((last, format!("{theirs}{number}.{name}")))
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

fn gemma3(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    decoder(keys, config)?;
    query_scale(keys, config, 62)?;
    // They belong to the architecture: the file does not have them.
    config.insert("rope_local_base_freq".into(), json!(10_000.0));
    config.insert("sliding_window_pattern".into(), json!(6));
    config.insert("final_logit_softcapping".into(), Json::Null);
    window(keys, config)
}

/// The settings of experts, which the file has as one tensor for each projection.
fn experts(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    if !keys.has("blk.0.ffn_gate_exps.weight") {
        return Err(Fault::unsupported("has a tensor for each expert, which is not implemented")
            .hint("the file is too old: convert the model again"));
    }
    let count = keys.experts()?.ok_or_else(|| Fault::new("has no `expert_count`"))?;
    config.insert("num_local_experts".into(), count.into());
    config.insert("num_experts_per_tok".into(), keys.size("expert_used_count")?.into());
    Ok(())
}

/// A head that scores texts: the class, and the names of its labels.
fn classifier(keys: &Keys<'_>, class: &str, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let stem = class.strip_suffix("ForCausalLM").or(class.strip_suffix("Model")).unwrap_or(class);
    config.insert("architectures".into(), json!([format!("{stem}ForSequenceClassification")]));
    let rows = keys.rows("cls.output.weight")?;
    let labels = match keys.texts("classifier.output_labels") {
        Some(labels) if labels.len() != rows => {
            return Err(Fault::new(format!("has {} labels for {rows} scores", labels.len())));
        }
        labels => labels,
    };
    match labels {
        None => config.insert("num_labels".into(), rows.into()),
        Some(labels) => {
            let named = labels.iter().enumerate();
            let named = named.map(|(id, label)| (id.to_string(), Json::from(label)));
            config.insert("id2label".into(), Json::Object(named.collect()))
        }
    };
    Ok(())
}

fn t5(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    let layers = keys.size("block_count")?;
    set("d_model", keys.size("embedding_length")?.into());
    set("d_kv", keys.head_dim()?.into());
    set("d_ff", keys.size("feed_forward_length")?.into());
    set("num_layers", layers.into());
    set("num_decoder_layers", keys.optional_size("decoder_block_count")?.unwrap_or(layers).into());
    set("num_heads", keys.heads()?.into());
    set("relative_attention_num_buckets", keys.size("attention.relative_buckets_count")?.into());
    let is_gated = keys.has("enc.blk.0.ffn_gate.weight");
    // llama.cpp knows no others.
    set("feed_forward_proj", if is_gated { "gated-gelu" } else { "relu" }.into());
    let epsilon = keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6);
    set("layer_norm_epsilon", epsilon.into());
    set(
        "decoder_start_token_id",
        keys.optional_size("decoder_start_token_id")?.unwrap_or(0).into(),
    );
    if keys.has("enc.blk.1.attn_rel_b.weight") {
        // The file of a UMT5 differs by its biases only.
        set("model_type", "umt5".into());
        set("architectures", json!(["UMT5ForConditionalGeneration"]));
    }
    Ok(())
}

fn modern_bert(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("hidden_size", keys.size("embedding_length")?.into());
    set("num_hidden_layers", keys.size("block_count")?.into());
    set("num_attention_heads", keys.heads()?.into());
    set("intermediate_size", keys.size("feed_forward_length")?.into());
    set("max_position_embeddings", keys.size("context_length")?.into());
    set("norm_eps", keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5).into());
    set("global_rope_theta", keys.number("rope.freq_base")?.unwrap_or(160_000.0).into());
    set("local_rope_theta", keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0).into());
    set("local_attention", keys.optional_size("attention.sliding_window")?.unwrap_or(128).into());
    let every = keys.optional_size("attention.sliding_window_pattern")?;
    set("global_attn_every_n_layers", every.unwrap_or(3).into());
    // As llama.cpp pools it; the file does not say it.
    set("classifier_pooling", "mean".into());
    Ok(())
}

fn bert(keys: &Keys<'_>, config: &mut Map<String, Json>) -> Result<(), Fault> {
    if keys.has("cls.weight") != keys.has("cls.output.weight") {
        // The converter takes the head of BERT for one layer: it leaves the pooler out, which is the other.
        return Err(Fault::unsupported(
            "is a bert with one layer of a head that scores texts: its pooler is not in the file",
        )
        .hint("heads of RoBERTa and XLM-RoBERTa are in such files, those of BERT are not"));
    }
    if !keys.has("token_types.weight") {
        return Err(Fault::unsupported(
            "is a bert without `token_types.weight`: a DistilBERT, which is not implemented",
        ));
    }
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
