//! Rows of the table of families for models of images. Not here: those that they are variants of (`base_families`), and the table
//! (`families`).

use super::base_families::{
    CLIP, CLIP_VISION_MODEL, CONVNEXT, VIT, convnext, text_vision, vision_tower, vit,
};
use super::family::Family;
use super::heads;
use crate::error::{Result, cannot_load};
use crate::models::beit::{BeitConfig, BeitModel};
use crate::models::clip::clip_text_config;
use crate::models::convnext::ConvNextConfig;
use crate::models::deit::deit_config;
use crate::models::dinov2::{Dinov2Config, Dinov2Model};
use crate::models::resnet::{ResNetConfig, ResNetModel};
use crate::models::siglip::{siglip_config, siglip_vision_config};
use crate::models::swin::{SwinConfig, SwinModel};
use crate::models::{Backbone, TextTower};
use crate::nn::VarBuilder;

pub(super) const BEIT: Family = Family {
    model_type: "beit",
    architecture: "Beit",
    base_model_prefix: "beit",
    image_processor_type: Some("BeitImageProcessor"),
    dimensions: |fields| Ok(BeitConfig::beit(fields)?.dimensions()),
    auto_model: |fields, vb| beit(BeitConfig::beit(fields)?, &vb),
    heads: &heads::BEIT,
    // The head of masked image modeling, the pooler in a model without one, and a buffer of old checkpoints.
    keys_to_ignore_on_load_unexpected: &[
        "embeddings.mask_token",
        "layernorm.",
        "lm_head.",
        "pooler.",
        ".relative_position_index",
    ],
    ..VIT
};

pub(super) const CLIP_TEXT_MODEL: Family = Family {
    model_type: "clip_text_model",
    architecture: "CLIPText",
    base_model_prefix: "text_model",
    image_processor_type: None,
    special_token_ids: &[("pad_token_id", 1), ("bos_token_id", 49_406), ("eos_token_id", 49_407)],
    dimensions: |fields| Ok(clip_text_config(fields)?.dimensions()),
    auto_model: |fields, vb| {
        let config = clip_text_config(fields)?;
        Ok(Box::new(TextTower::load(&vb, &config).map_err(cannot_load)?))
    },
    heads: &[],
    keys_to_ignore_on_load_unexpected: &["text_projection."],
    ..CLIP
};

pub(super) const CONVNEXTV2: Family = Family {
    model_type: "convnextv2",
    architecture: "ConvNextV2",
    base_model_prefix: "convnextv2",
    dimensions: |fields| Ok(ConvNextConfig::convnextv2(fields)?.dimensions()),
    auto_model: |fields, vb| convnext(ConvNextConfig::convnextv2(fields)?, &vb),
    ..CONVNEXT
};

pub(super) const DATA2VEC_VISION: Family = Family {
    model_type: "data2vec-vision",
    architecture: "Data2VecVision",
    base_model_prefix: "data2vec_vision",
    dimensions: |fields| Ok(BeitConfig::data2vec_vision(fields)?.dimensions()),
    auto_model: |fields, vb| beit(BeitConfig::data2vec_vision(fields)?, &vb),
    ..BEIT
};

pub(super) const DEIT: Family = Family {
    model_type: "deit",
    architecture: "DeiT",
    base_model_prefix: "deit",
    image_processor_type: Some("DeiTImageProcessor"),
    dimensions: |fields| Ok(deit_config(fields)?.dimensions()),
    auto_model: |fields, vb| vit(&deit_config(fields)?, vb),
    heads: &heads::DEIT,
    ..VIT
};

pub(super) const DINOV2: Family = Family {
    model_type: "dinov2",
    architecture: "Dinov2",
    base_model_prefix: "dinov2",
    image_processor_type: Some("BitImageProcessor"),
    dimensions: |fields| Ok(Dinov2Config::new(fields)?.dimensions()),
    auto_model: |fields, vb| {
        let config = Dinov2Config::new(fields)?;
        Ok(Box::new(Dinov2Model::load(&vb, config).map_err(cannot_load)?))
    },
    heads: &heads::DINOV2,
    keys_to_ignore_on_load_unexpected: &["embeddings.mask_token"],
    ..VIT
};

pub(super) const RESNET: Family = Family {
    model_type: "resnet",
    architecture: "ResNet",
    base_model_prefix: "resnet",
    dimensions: |fields| Ok(ResNetConfig::new(fields)?.dimensions()),
    auto_model: |fields, vb| {
        let config = ResNetConfig::new(fields)?;
        Ok(Box::new(ResNetModel::load(&vb, config).map_err(cannot_load)?))
    },
    heads: &heads::RESNET,
    keys_to_ignore_on_load_unexpected: &[".num_batches_tracked"],
    ..CONVNEXT
};

pub(super) const SIGLIP: Family = Family {
    model_type: "siglip",
    architecture: "Siglip",
    base_model_prefix: "siglip",
    tokenizer_class: Some("SiglipTokenizer"),
    image_processor_type: Some("SiglipImageProcessor"),
    pads_texts: true,
    dimensions: |fields| Ok(siglip_config(fields)?.dimensions()),
    auto_model: |fields, vb| text_vision(&siglip_config(fields)?, &vb),
    heads: &heads::SIGLIP,
    ..CLIP
};

pub(super) const SIGLIP_VISION_MODEL: Family = Family {
    model_type: "siglip_vision_model",
    architecture: "SiglipVision",
    image_processor_type: Some("SiglipImageProcessor"),
    dimensions: |fields| Ok(siglip_vision_config(fields)?.dimensions()),
    auto_model: |fields, vb| vision_tower(&siglip_vision_config(fields)?, &vb),
    ..CLIP_VISION_MODEL
};

pub(super) const SWIN: Family = Family {
    model_type: "swin",
    architecture: "Swin",
    base_model_prefix: "swin",
    attribute_map: &[("num_attention_heads", "num_heads")],
    dimensions: |fields| Ok(SwinConfig::new(fields)?.dimensions()),
    auto_model: |fields, vb| {
        let config = SwinConfig::new(fields)?;
        Ok(Box::new(SwinModel::load(&vb, config).map_err(cannot_load)?))
    },
    heads: &heads::SWIN,
    // The decoder of masked image modeling, and a buffer of old checkpoints.
    keys_to_ignore_on_load_unexpected: &[
        "embeddings.mask_token",
        "decoder.",
        ".relative_position_index",
    ],
    ..VIT
};

fn beit(config: BeitConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BeitModel::load(vb, config).map_err(cannot_load)?))
}
