//! XLM-RoBERTa-XL: RoBERTa's encoder with norms before its sublayers and after the last layer instead of in the embeddings. The
//! encoder is [`BertModel`](super::bert::BertModel).
//!
//! # Source
//! `src/transformers/models/xlm_roberta_xl/modeling_xlm_roberta_xl.py` at v5.24.

use super::Fields;
use super::bert::{BertConfig, BertDefaults};
use crate::error::Result;
use crate::nn::PositionIds;

/// Reads a `config.json` of XLM-RoBERTa-XL.
///
/// # Errors
/// As [`BertConfig::new`].
pub fn xlm_roberta_xl_config(fields: &Fields<'_>) -> Result<BertConfig> {
    let padding_idx = fields.token_id("pad_token_id", 1)?;
    let defaults = BertDefaults {
        vocab_size: 250_880,
        hidden_size: 2560,
        num_hidden_layers: 36,
        num_attention_heads: 32,
        intermediate_size: 10_240,
        max_position_embeddings: 514,
        type_vocab_size: 1,
        layer_norm_eps: 1e-5,
        position_ids: PositionIds::AfterPadding { padding_idx },
    };
    Ok(BertConfig { norm_first: true, ..BertConfig::with_defaults(fields, &defaults)? })
}
