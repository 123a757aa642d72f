//! Jina Embeddings v3: XLM-RoBERTa's encoder with rotary embeddings, in the layers of GTE without a gate. Hub checkpoints hold an
//! adapter for each of five tasks, of which `default_task` is merged into the weights.
//!
//! # Source
//! `src/transformers/models/jina_embeddings_v3/modeling_jina_embeddings_v3.py` at v5.24; tensor names are the checkpoints', which
//! `conversion_mapping.py` changes. Adapters: `modeling_lora.py` of jinaai/xlm-roberta-flash-implementation on the hub.

use serde_json::{Value, json};

use super::Fields;
use super::gte::{GteConfig, GteNames, head_dim};
use super::rotary_encoder::{NormPlace, RotaryEncoderConfig, RotaryLayerNames};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::nn::{AttentionMask, LoraAdapter, RotaryConfig, RotaryLayout, VarBuilder, with_lora};

const NAMES: GteNames = GteNames { embeddings_norm: "emb_ln", layers: "encoder.layers" };

const LAYER_NAMES: RotaryLayerNames = RotaryLayerNames {
    qkv: "mixer.Wqkv",
    attention_output: "mixer.out_proj",
    attention_norm: "norm1",
    gate_up: &["mlp.fc1"],
    down: "mlp.fc2",
    mlp_norm: "norm2",
};

/// The most tasks of a checkpoint: messages list them. Those of the hub have five.
const MAX_TASKS: usize = 64;

/// Reads a `config.json` of Jina Embeddings v3.
///
/// # Errors
/// As [`GteConfig::new`]; `Config` for a `default_task` that the checkpoint does not have.
pub fn jina_embeddings_v3_config(fields: &Fields<'_>) -> Result<GteConfig> {
    fields.only("position_embedding_type", &json!("rotary"))?;
    let hidden_size = fields.size("hidden_size", 1024)?;
    let heads = fields.size("num_attention_heads", 16)?;
    let head_dim = head_dim(fields, hidden_size, heads)?;
    let layers = fields.size("num_hidden_layers", 24)?;
    let most = fields.size("max_position_embeddings", 8194)?;
    let value = |key| match key {
        "rope_theta" => fields.value(key).or(fields.value("rotary_emb_base")),
        key => fields.value(key),
    };
    let layout = RotaryLayout::Flat { rope_theta: 20_000.0 };
    adapter(fields)?;
    Ok(GteConfig {
        vocab_size: fields.size("vocab_size", 250_002)?,
        max_position_embeddings: most,
        type_vocab_size: fields.size("type_vocab_size", 1)?,
        names: &NAMES,
        encoder: RotaryEncoderConfig {
            names: &LAYER_NAMES,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", 4096)?,
            num_attention_heads: heads,
            head_dim,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            gate: None,
            norm_eps: fields.epsilon("layer_norm_eps", 1e-5)?,
            norm_bias: true,
            norm_place: NormPlace::After,
            attention_bias: true,
            gate_up_bias: true,
            down_bias: true,
            rotary: vec![RotaryConfig::new(value, layout, head_dim, most)?],
            layers: vec![(AttentionMask::Full, 0); layers],
            attn_implementation: fields.attn_implementation(),
        },
    })
}

/// The tensors of a checkpoint, into which the adapter of `default_task` is merged.
///
/// # Errors
/// As [`jina_embeddings_v3_config`].
pub fn with_task<'a>(fields: &Fields<'_>, vb: &VarBuilder<'a>) -> Result<VarBuilder<'a>> {
    Ok(with_lora(vb, adapter(fields)?, |name| name.contains("_embeddings.")))
}

/// The adapter of `default_task`; `None` without one, where the weights are used as they are.
fn adapter(fields: &Fields<'_>) -> Result<Option<LoraAdapter>> {
    let tasks = fields.list("lora_adaptations")?.unwrap_or_default();
    let tasks: Vec<&str> = tasks.iter().map(|task| task.as_str().unwrap_or_default()).collect();
    if tasks.len() > MAX_TASKS {
        let found = tasks.len();
        let text = format!(
            "`lora_adaptations` in config.json has {found} tasks, expected at most {MAX_TASKS}"
        );
        return Err(Error::new(ErrorKind::Model, text));
    }
    let rank = fields.size("lora_rank", 4)?;
    let alpha = fields.optional_number("lora_alpha", Some(1.0))?.unwrap_or(1.0);
    let task = match fields.value("default_task") {
        None => return Ok(None),
        Some(Value::String(task)) => task,
        Some(value) => {
            let text = format!("`default_task` is `{value}`, not the name of a task");
            return Err(Error::new(ErrorKind::Config, text));
        }
    };
    let Some(index) = tasks.iter().position(|known| known == task) else {
        let text = format!("the model has no adapter for the task `{task}`");
        let hint = match (nearest(task, tasks.iter().copied()), tasks.is_empty()) {
            (_, true) => {
                "its config.json has no `lora_adaptations`; adapters in folders of their own are not implemented".to_owned()
            }
            (Some(name), _) => {
                format!("the nearest name is `{name}`; its tasks are: {}", tasks.join(", "))
            }
            (None, _) => format!("its tasks are: {}", tasks.join(", ")),
        };
        return Err(Error::new(ErrorKind::Config, text).hint(hint));
    };
    Ok(Some(LoraAdapter { index, count: tasks.len(), rank, scaling: alpha / rank as f64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Value) -> Result<Option<LoraAdapter>> {
        adapter(&Fields::new(config.as_object().unwrap()))
    }

    #[test]
    fn the_task_selects_an_adapter_or_is_refused_with_the_nearest_name() {
        let tasks = json!(["retrieval.query", "retrieval.passage", "separation"]);
        let of =
            |task: Value| json!({"lora_adaptations": tasks, "lora_alpha": 2, "default_task": task});
        let found = read(&of(json!("retrieval.passage"))).unwrap();
        let expected = LoraAdapter { index: 1, count: 3, rank: 4, scaling: 0.5 };
        assert_eq!(found, Some(expected));
        assert_eq!(read(&of(Value::Null)).unwrap(), None);
        let error = read(&of(json!("retrieval.qery"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "the model has no adapter for the task `retrieval.qery`\n\
             hint: the nearest name is `retrieval.query`; its tasks are: retrieval.query, retrieval.passage, separation"
        );
        let error = read(&json!({"default_task": "separation"})).unwrap_err();
        assert!(error.to_string().contains("no `lora_adaptations`"), "{error}");
        assert!(read(&of(json!(3))).is_err());
    }
}
