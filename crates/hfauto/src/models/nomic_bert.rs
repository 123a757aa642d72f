//! `NomicBERT`: the layers of GTE under other names and with other defaults. Its settings have the names of GPT-2, as the
//! hub's checkpoints write them; those of transformers are aliases in the table of families.
//!
//! # Source
//! `src/transformers/models/nomic_bert/modeling_nomic_bert.py` at v5.24; tensor names are the checkpoints', which
//! `conversion_mapping.py` changes.

use serde_json::{Value, json};

use super::Fields;
use super::gte::{GteConfig, GteNames, head_dim};
use super::rotary_encoder::{NormPlace, RotaryEncoderConfig, RotaryLayerNames};
use crate::error::Result;
use crate::nn::{AttentionMask, GateHalf, RotaryConfig, RotaryLayout};

const NAMES: GteNames = GteNames { embeddings_norm: "emb_ln", layers: "encoder.layers" };

const LAYER_NAMES: RotaryLayerNames = RotaryLayerNames {
    qkv: "attn.Wqkv",
    attention_output: "attn.out_proj",
    attention_norm: "norm1",
    gate_up: &["mlp.fc11", "mlp.fc12"],
    down: "mlp.fc2",
    mlp_norm: "norm2",
};

/// Reads a `config.json` of `NomicBERT`.
///
/// # Errors
/// As [`GteConfig::new`].
pub fn nomic_bert_config(fields: &Fields<'_>) -> Result<GteConfig> {
    for key in [
        "prenorm",
        "parallel_block",
        "causal",
        "use_rms_norm",
        "rotary_emb_interleaved",
        "qkv_proj_bias",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
    ] {
        fields.only(key, &json!(false))?;
    }
    fields.only("rotary_emb_fraction", &json!(1.0))?;
    fields.only("rotary_emb_scale_base", &Value::Null)?;
    // Experts, as nomic-embed-text-v2-moe has them.
    fields.only("moe_every_n_layers", &json!(0))?;
    let hidden_size = fields.size("n_embd", 768)?;
    let heads = fields.size("n_head", 12)?;
    let head_dim = head_dim(fields, hidden_size, heads)?;
    let layers = fields.size("n_layer", 12)?;
    Ok(GteConfig {
        vocab_size: fields.size("vocab_size", 30_528)?,
        max_position_embeddings: fields.size("n_positions", 2048)?,
        type_vocab_size: fields.count("type_vocab_size", 2)?,
        names: &NAMES,
        encoder: RotaryEncoderConfig {
            names: &LAYER_NAMES,
            hidden_size,
            intermediate_size: fields.size("n_inner", 3072)?,
            num_attention_heads: heads,
            head_dim,
            hidden_act: fields.gate_activation("activation_function", "silu")?,
            gate: Some(GateHalf::Second),
            norm_eps: fields.epsilon("layer_norm_epsilon", 1e-12)?,
            norm_bias: true,
            norm_place: NormPlace::After,
            attention_bias: false,
            gate_up_bias: false,
            down_bias: false,
            rotary: vec![rotary(fields, head_dim)?],
            layers: vec![(AttentionMask::Full, 0); layers],
            attn_implementation: fields.attn_implementation(),
        },
    })
}

/// With `rotary_scaling_factor`, which transformers ignores, the hub's code scales rows above `max_trained_positions` as
/// rope type `dynamic` does.
fn rotary(fields: &Fields<'_>, head_dim: usize) -> Result<RotaryConfig> {
    let factor = fields.optional_number("rotary_scaling_factor", None)?;
    let factor = factor
        .filter(|_| fields.value("rope_parameters").or(fields.value("rope_scaling")).is_none());
    let dynamic = factor.map(|factor| json!({"rope_type": "dynamic", "factor": factor}));
    let trained = fields.size("max_trained_positions", 2048)?;
    let positions = fields.size("n_positions", 2048)?;
    RotaryConfig::new(
        |key| match key {
            "rope_theta" => fields.value("rotary_emb_base"),
            "rope_scaling" if dynamic.is_some() => dynamic.as_ref(),
            key => fields.value(key),
        },
        RotaryLayout::Flat { rope_theta: 1000.0 },
        head_dim,
        if dynamic.is_some() { trained } else { positions },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Value) -> Result<GteConfig> {
        nomic_bert_config(&Fields::new(config.as_object().unwrap()))
    }

    #[test]
    fn rows_above_the_trained_length_are_scaled_where_the_hub_says_so() {
        let scaled = json!({"rotary_scaling_factor": 2, "max_trained_positions": 100});
        assert_eq!(read(&scaled).unwrap().encoder.rotary[0].changes_above(), Some(100));
        let native =
            json!({"rotary_scaling_factor": 2, "rope_parameters": {"rope_type": "default"}});
        assert_eq!(read(&native).unwrap().encoder.rotary[0].changes_above(), None);
        assert_eq!(read(&json!({})).unwrap().encoder.rotary[0].changes_above(), None);
    }

    #[test]
    fn numbers_are_equal_in_both_spellings() {
        assert!(read(&json!({"rotary_emb_fraction": 1, "moe_every_n_layers": 0.0})).is_ok());
    }
}
