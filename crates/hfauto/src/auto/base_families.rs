//! Rows of the table of families that other rows are variants of, and how their models are loaded. Not here: the table
//! (`families`).

use super::family::Family;
use super::heads;
use crate::error::{Result, cannot_load};
use crate::models::bart::BartConfig;
use crate::models::bert::{BertConfig, BertModel};
use crate::models::clip::{clip_config, clip_vision_config};
use crate::models::convnext::{ConvNextConfig, ConvNextModel};
use crate::models::deberta::{DebertaConfig, DebertaModel};
use crate::models::embedding_gemma2::{EmbeddingGemma2Config, EmbeddingGemma2Model};
use crate::models::gte::{GteConfig, GteModel};
use crate::models::llama::{LlamaConfig, LlamaModel};
use crate::models::roberta::{roberta_config, xlm_roberta_config};
use crate::models::t5::{T5Config, T5EncoderModel};
use crate::models::vit::{ViTConfig, ViTModel};
use crate::models::{Backbone, TextVisionConfig, TextVisionModel, VisionTower, VisionTowerConfig};
use crate::nn::VarBuilder;

pub(super) const BART: Family = Family {
    model_type: "bart",
    architecture: "Bart",
    base_model_prefix: "model",
    attribute_map: &[
        ("hidden_size", "d_model"),
        ("num_attention_heads", "encoder_attention_heads"),
        ("num_hidden_layers", "encoder_layers"),
    ],
    tokenizer_class: Some("BartTokenizer"),
    special_token_ids: &[
        ("bos_token_id", 0),
        ("pad_token_id", 1),
        ("eos_token_id", 2),
        ("decoder_start_token_id", 2),
        ("forced_eos_token_id", 2),
    ],
    dimensions: |fields| Ok(BartConfig::bart(fields)?.dimensions()),
    auto_model: |fields, vb| heads::bart_model(&BartConfig::bart(fields)?, &vb),
    heads: &heads::BART,
    // Tensors that a decoder without its encoder does not load, copies of the embeddings, and buffers of old checkpoints.
    keys_to_ignore_on_load_unexpected: &[
        "encoder.",
        "shared.",
        "decoder.embed_tokens.",
        "decoder.embed_positions.",
        "decoder.version",
        ".encoder_attn.",
        ".encoder_attn_layer_norm.",
    ],
    ..BERT
};

pub(super) const BERT: Family = Family {
    model_type: "bert",
    other_model_types: &[],
    remote_config: None,
    text_config: None,
    remote_module: None,
    architecture: "Bert",
    base_model_prefix: "bert",
    attribute_map: &[],
    int8: true,
    tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
    tokenizer_class: Some("BertTokenizer"),
    tokenizer_class_is_fixed: false,
    pads_texts: false,
    image_processor_type: None,
    special_token_ids: &[("pad_token_id", 0)],
    auto_model_for_t5: false,
    dimensions: |fields| Ok(BertConfig::new(fields)?.dimensions()),
    auto_model: |fields, vb| bert(BertConfig::new(fields)?, &vb),
    heads: &heads::BERT,
    keys_to_ignore_on_load_unexpected: &[],
};

pub(super) const DEBERTA_V2: Family = Family {
    model_type: "deberta-v2",
    architecture: "DebertaV2",
    base_model_prefix: "deberta",
    // Without `legacy`, the head has no weight of its own.
    tie_word_embeddings: |fields| {
        Ok(fields.flag("tie_word_embeddings", true)? || !fields.flag("legacy", true)?)
    },
    tokenizer_class: Some("DebertaV2Tokenizer"),
    dimensions: |fields| Ok(DebertaConfig::deberta_v2(fields)?.dimensions()),
    auto_model: |fields, vb| deberta(&DebertaConfig::deberta_v2(fields)?, &vb),
    heads: &heads::DEBERTA_V2,
    keys_to_ignore_on_load_unexpected: &["embeddings.position_embeddings.", "mask_predictions."],
    ..BERT
};

pub(super) const EMBEDDING_GEMMA2: Family = Family {
    model_type: "embedding_gemma2",
    text_config: Some("text_config"),
    architecture: "EmbeddingGemma2",
    base_model_prefix: "language_model",
    tokenizer_class: Some("PreTrainedTokenizerFast"),
    special_token_ids: &[("pad_token_id", 0), ("eos_token_id", 1), ("bos_token_id", 2)],
    dimensions: |fields| Ok(EmbeddingGemma2Config::new(fields)?.dimensions()),
    auto_model: |fields, vb| embedding_gemma2(&EmbeddingGemma2Config::new(fields)?, &vb),
    heads: &[],
    keys_to_ignore_on_load_unexpected: &[
        "vision_tower.",
        "embed_vision.",
        "audio_tower.",
        "embed_audio.",
    ],
    ..BERT
};

pub(super) const ROBERTA: Family = Family {
    model_type: "roberta",
    architecture: "Roberta",
    base_model_prefix: "roberta",
    tokenizer_class: Some("RobertaTokenizer"),
    special_token_ids: &[("bos_token_id", 0), ("pad_token_id", 1), ("eos_token_id", 2)],
    dimensions: |fields| Ok(roberta_config(fields)?.dimensions()),
    auto_model: |fields, vb| bert(roberta_config(fields)?, &vb),
    heads: &heads::ROBERTA,
    ..BERT
};

pub(super) const XLM_ROBERTA: Family = Family {
    model_type: "xlm-roberta",
    architecture: "XLMRoberta",
    tokenizer_class: Some("XLMRobertaTokenizer"),
    dimensions: |fields| Ok(xlm_roberta_config(fields)?.dimensions()),
    auto_model: |fields, vb| bert(xlm_roberta_config(fields)?, &vb),
    ..ROBERTA
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "Llama",
    base_model_prefix: "model",
    tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", false),
    tokenizer_class: Some("PreTrainedTokenizerFast"),
    special_token_ids: &[("bos_token_id", 1), ("eos_token_id", 2)],
    dimensions: |fields| Ok(LlamaConfig::llama(fields)?.dimensions()),
    auto_model: |fields, vb| llama(LlamaConfig::llama(fields)?, &vb),
    heads: &heads::LLAMA,
    ..BERT
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2",
    tokenizer_class: Some("Qwen2Tokenizer"),
    tokenizer_class_is_fixed: true,
    special_token_ids: &[],
    dimensions: |fields| Ok(LlamaConfig::qwen2(fields)?.dimensions()),
    auto_model: |fields, vb| llama(LlamaConfig::qwen2(fields)?, &vb),
    ..LLAMA
};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    architecture: "Gemma",
    tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
    tokenizer_class: Some("GemmaTokenizer"),
    special_token_ids: &[("pad_token_id", 0), ("eos_token_id", 1), ("bos_token_id", 2)],
    dimensions: |fields| Ok(LlamaConfig::gemma(fields)?.dimensions()),
    auto_model: |fields, vb| llama(LlamaConfig::gemma(fields)?, &vb),
    heads: &heads::GEMMA,
    ..LLAMA
};

pub(super) const T5: Family = Family {
    model_type: "t5",
    architecture: "T5",
    base_model_prefix: "transformer",
    attribute_map: &[
        ("head_dim", "d_kv"),
        ("hidden_size", "d_model"),
        ("num_attention_heads", "num_heads"),
        ("num_hidden_layers", "num_layers"),
    ],
    // Whatever config.json says (transformers 5); see `Layer::ScaleUnlessUntied`.
    tie_word_embeddings: |_| Ok(true),
    tokenizer_class: Some("T5Tokenizer"),
    special_token_ids: &[("pad_token_id", 0), ("eos_token_id", 1)],
    auto_model_for_t5: true,
    dimensions: |fields| Ok(T5Config::t5(fields)?.dimensions()),
    auto_model: |fields, vb| t5_encoder(&T5Config::t5(fields)?, &vb),
    heads: &heads::T5,
    // The decoder, and copies of the embeddings under other names.
    keys_to_ignore_on_load_unexpected: &["decoder.", "encoder.embed_tokens.", "shared."],
    ..BERT
};

pub(super) const VIT: Family = Family {
    model_type: "vit",
    architecture: "ViT",
    base_model_prefix: "vit",
    int8: false,
    tokenizer_class: None,
    image_processor_type: Some("ViTImageProcessor"),
    special_token_ids: &[],
    dimensions: |fields| Ok(ViTConfig::new(fields)?.dimensions()),
    auto_model: |fields, vb| vit(&ViTConfig::new(fields)?, vb),
    heads: &heads::VIT,
    ..BERT
};

pub(super) const CLIP: Family = Family {
    model_type: "clip",
    architecture: "CLIP",
    base_model_prefix: "clip",
    tokenizer_class: Some("CLIPTokenizer"),
    image_processor_type: Some("CLIPImageProcessor"),
    dimensions: |fields| Ok(clip_config(fields)?.dimensions()),
    auto_model: |fields, vb| text_vision(&clip_config(fields)?, &vb),
    heads: &heads::CLIP,
    // The image classifier loads only the vision tower.
    keys_to_ignore_on_load_unexpected: &[
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "logit_scale",
        "logit_bias",
        "vision_model.head.",
    ],
    ..VIT
};

/// The encoder of images of CLIP, or of another model of texts and images.
pub(super) const CLIP_VISION_MODEL: Family = Family {
    model_type: "clip_vision_model",
    architecture: "CLIPVision",
    base_model_prefix: "vision_model",
    image_processor_type: Some("CLIPImageProcessor"),
    dimensions: |fields| Ok(clip_vision_config(fields)?.dimensions()),
    auto_model: |fields, vb| vision_tower(&clip_vision_config(fields)?, &vb),
    heads: &[],
    keys_to_ignore_on_load_unexpected: &["visual_projection."],
    ..VIT
};

/// A convolutional network.
pub(super) const CONVNEXT: Family = Family {
    model_type: "convnext",
    architecture: "ConvNext",
    base_model_prefix: "convnext",
    image_processor_type: Some("ConvNextImageProcessor"),
    dimensions: |fields| Ok(ConvNextConfig::convnext(fields)?.dimensions()),
    auto_model: |fields, vb| convnext(ConvNextConfig::convnext(fields)?, &vb),
    heads: &heads::CONVNEXT,
    ..VIT
};

pub(super) fn bert(config: BertConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BertModel::load(vb, &config).map_err(cannot_load)?))
}

pub(super) fn convnext(config: ConvNextConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(ConvNextModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn deberta(config: &DebertaConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(DebertaModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn embedding_gemma2(
    config: &EmbeddingGemma2Config,
    vb: &VarBuilder<'_>,
) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(EmbeddingGemma2Model::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn gte(config: &GteConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(GteModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn llama(config: LlamaConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(LlamaModel::load(vb, config).map_err(cannot_load)?))
}

/// The encoder, as sentence-transformers uses it. The heads use the encoder and decoder.
pub(super) fn t5_encoder(config: &T5Config, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(T5EncoderModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn text_vision(
    config: &TextVisionConfig,
    vb: &VarBuilder<'_>,
) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(TextVisionModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn vision_tower(
    config: &VisionTowerConfig,
    vb: &VarBuilder<'_>,
) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(VisionTower::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn vit(config: &ViTConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(ViTModel::load(vb, config).map_err(cannot_load)?))
}
