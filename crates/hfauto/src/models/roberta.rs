//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT's encoder with positions numbered after the padding id.
//!
//! The three differ only in vocabulary and training. The encoder is [`BertModel`](super::bert::BertModel).
//!
//! # Source
//! `src/transformers/models/roberta/modeling_roberta.py`, `xlm_roberta`, `camembert` at v4.57.

use super::Fields;
use super::bert::{BertConfig, BertDefaults};
use crate::error::Result;
use crate::nn::PositionIds;

/// Reads a `config.json` of RoBERTa.
///
/// # Errors
/// As [`BertConfig::new`].
pub fn roberta_config(fields: &Fields<'_>) -> Result<BertConfig> {
    config(fields, 50265)
}

/// Reads a `config.json` of XLM-RoBERTa or CamemBERT.
///
/// # Errors
/// As [`BertConfig::new`].
pub fn xlm_roberta_config(fields: &Fields<'_>) -> Result<BertConfig> {
    config(fields, 30522)
}

fn config(fields: &Fields<'_>, vocab_size: usize) -> Result<BertConfig> {
    let padding_idx = fields.token_id("pad_token_id", 1)?;
    let position_ids = PositionIds::AfterPadding { padding_idx };
    let defaults = BertDefaults { vocab_size, position_ids, ..BertDefaults::BERT };
    BertConfig::with_defaults(fields, &defaults)
}
