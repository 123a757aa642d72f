//! CLIP: a causal encoder of texts and an encoder of images. Their models are those of `text_vision` with these configurations.
//!
//! # Source
//! `src/transformers/models/clip/configuration_clip.py` at v5.24.

use super::text_vision::{PooledToken, TowerLayers, VisionPooling};
use super::{Fields, TextTowerConfig, TextVisionConfig, VisionTowerConfig};
use crate::error::Result;
use crate::nn::AttnImplementation;

/// `eos_token_id` of configurations that state a wrong one: their texts are pooled at the largest id.
const WRONG_EOS_TOKEN_ID: u32 = 2;

/// Reads a `config.json` of CLIP.
///
/// # Errors
/// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
pub fn clip_config(fields: &Fields<'_>) -> Result<TextVisionConfig> {
    let attn = fields.attn_implementation();
    TextVisionConfig {
        text: text_config(&section(fields, "text_config", "text_config_dict")?, attn)?,
        vision: vision_config(&section(fields, "vision_config", "vision_config_dict")?, attn)?,
        projection_dim: Some(fields.size("projection_dim", 512)?),
        has_logit_bias: false,
    }
    .checked()
}

/// Reads a `config.json` of CLIP's encoder of texts (`clip_text_model`).
///
/// # Errors
/// As [`clip_config`].
pub fn clip_text_config(fields: &Fields<'_>) -> Result<TextTowerConfig> {
    text_config(fields, fields.attn_implementation())
}

/// Reads a `config.json` of CLIP's encoder of images (`clip_vision_model`).
///
/// # Errors
/// As [`clip_config`].
pub fn clip_vision_config(fields: &Fields<'_>) -> Result<VisionTowerConfig> {
    vision_config(fields, fields.attn_implementation())
}

/// The vision settings of a `config.json` of CLIP.
///
/// # Errors
/// As [`clip_config`].
pub fn clip_vision_section(fields: &Fields<'_>) -> Result<VisionTowerConfig> {
    Ok(clip_config(fields)?.vision)
}

/// The settings of a tower; those under its old key replace all others.
fn section<'a>(fields: &Fields<'a>, key: &'static str, old: &'static str) -> Result<Fields<'a>> {
    let key = if fields.value(old).is_some() { old } else { key };
    fields.section(key)
}

fn text_config(fields: &Fields<'_>, attn: AttnImplementation) -> Result<TextTowerConfig> {
    let eos_token_id = fields.token_id("eos_token_id", 49_407)?;
    Ok(TextTowerConfig {
        layers: TowerLayers::new(fields, [512, 2048, 12, 8], "quick_gelu", 1e-5, attn)?,
        vocab_size: fields.size("vocab_size", 49_408)?,
        max_position_embeddings: fields.size("max_position_embeddings", 77)?,
        causal: true,
        pooled: match eos_token_id {
            WRONG_EOS_TOKEN_ID => PooledToken::LargestId,
            id => PooledToken::First(id),
        },
        projection_size: None,
    })
}

fn vision_config(fields: &Fields<'_>, attn: AttnImplementation) -> Result<VisionTowerConfig> {
    let layers = TowerLayers::new(fields, [768, 3072, 12, 12], "quick_gelu", 1e-5, attn)?;
    VisionTowerConfig::new(fields, layers, 32, VisionPooling::ClassToken)
}
