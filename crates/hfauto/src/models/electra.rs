//! ELECTRA: BERT's encoder over embeddings that may have another size, without a pooler. Generator and discriminator differ in
//! their heads. The encoder is [`BertModel`](super::bert::BertModel).
//!
//! # Source
//! `src/transformers/models/electra/modeling_electra.py` at v5.24.

use serde_json::json;

use super::Fields;
use super::bert::{BertConfig, BertDefaults};
use crate::error::Result;

/// Reads a `config.json` of ELECTRA.
///
/// # Errors
/// As [`BertConfig::new`].
pub fn electra_config(fields: &Fields<'_>) -> Result<BertConfig> {
    // The summary of the head for multiple choice.
    fields.only("summary_type", &json!("first"))?;
    fields.only("summary_use_proj", &json!(true))?;
    fields.only("summary_proj_to_labels", &json!(false))?;
    let defaults = BertDefaults {
        hidden_size: 256,
        num_attention_heads: 4,
        intermediate_size: 1024,
        ..BertDefaults::BERT
    };
    let config = BertConfig::with_defaults(fields, &defaults)?;
    Ok(BertConfig { embedding_size: fields.size("embedding_size", 128)?, ..config })
}
