//! SigLIP, and SigLIP 2 at a fixed resolution: an encoder of texts and one of images, each with its own head. Their models are those
//! of `text_vision` with these configurations.
//!
//! A text comes with its padding, to which its tokens attend.
//!
//! # Source
//! `src/transformers/models/siglip/configuration_siglip.py` at v5.24.

use super::text_vision::{PooledToken, TowerLayers, VisionPooling};
use super::{Fields, TextTowerConfig, TextVisionConfig, VisionTowerConfig};
use crate::error::Result;
use crate::nn::AttnImplementation;

/// The defaults of both towers' sizes.
const SIZES: [usize; 4] = [768, 3072, 12, 12];

/// Reads a `config.json` of SigLIP.
///
/// # Errors
/// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
pub fn siglip_config(fields: &Fields<'_>) -> Result<TextVisionConfig> {
    let attn = fields.attn_implementation();
    TextVisionConfig {
        text: text_config(&fields.section("text_config")?, attn)?,
        vision: vision_config(&fields.section("vision_config")?, attn)?,
        projection_dim: None,
        has_logit_bias: true,
    }
    .checked()
}

/// Reads a `config.json` of SigLIP's encoder of images (`siglip_vision_model`).
///
/// # Errors
/// As [`siglip_config`].
pub fn siglip_vision_config(fields: &Fields<'_>) -> Result<VisionTowerConfig> {
    vision_config(fields, fields.attn_implementation())
}

/// The vision settings of a `config.json` of SigLIP, for a classifier of images.
///
/// # Errors
/// As [`siglip_config`].
pub fn siglip_vision_section(fields: &Fields<'_>) -> Result<VisionTowerConfig> {
    vision_config(&fields.section("vision_config")?, fields.attn_implementation())
}

fn text_config(fields: &Fields<'_>, attn: AttnImplementation) -> Result<TextTowerConfig> {
    let layers = TowerLayers::new(fields, SIZES, "gelu_pytorch_tanh", 1e-6, attn)?;
    Ok(TextTowerConfig {
        vocab_size: fields.size("vocab_size", 32_000)?,
        max_position_embeddings: fields.size("max_position_embeddings", 64)?,
        causal: false,
        pooled: PooledToken::Last,
        projection_size: Some(fields.size("projection_size", layers.hidden_size)?),
        layers,
    })
}

fn vision_config(fields: &Fields<'_>, attn: AttnImplementation) -> Result<VisionTowerConfig> {
    let layers = TowerLayers::new(fields, SIZES, "gelu_pytorch_tanh", 1e-6, attn)?;
    let has_head = fields.flag("vision_use_head", true)?;
    let pooling = if has_head { VisionPooling::Attention } else { VisionPooling::None };
    VisionTowerConfig::new(fields, layers, 16, pooling)
}
