//! DeiT: ViT with a distillation token after the class token. Its model is [`ViTModel`] with this
//! configuration.
//!
//! # Source
//! `src/transformers/models/deit/modeling_deit.py` at v4.57.
//!
//! [`ViTModel`]: super::vit::ViTModel

use super::Fields;
use super::vit::ViTConfig;
use crate::error::Result;

/// Reads a `config.json` of DeiT.
///
/// # Errors
/// As [`ViTConfig::new`].
pub fn deit_config(fields: &Fields<'_>) -> Result<ViTConfig> {
    ViTConfig::with_tokens(fields, true)
}
