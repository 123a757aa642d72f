//! The table of families: one row per `model_type`, one column per Auto class.
//!
//! A row declares everything about a family except its computation. To add an architecture, write its file in
//! `crate::models`, add a row here, and add a golden of the same name in `tests/golden`. A test in this file
//! fails while the golden is missing.

use super::base_families::{
    BART, BERT, CLIP, CLIP_VISION_MODEL, CONVNEXT, DEBERTA_V2, EMBEDDING_GEMMA2, GEMMA, LLAMA,
    QWEN2, ROBERTA, T5, VIT, XLM_ROBERTA, bert, deberta, embedding_gemma2, gte, llama, t5_encoder,
};
use super::family::{Family, RemoteConfig};
use super::heads::{self, FamilyHead};
use super::image_families::{
    BEIT, CLIP_TEXT_MODEL, CONVNEXTV2, DATA2VEC_VISION, DEIT, DINOV2, RESNET, SIGLIP,
    SIGLIP_VISION_MODEL, SWIN,
};
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result, cannot_load};
use crate::models::albert::{AlbertConfig, AlbertModel};
use crate::models::bart::BartConfig;
use crate::models::deberta::DebertaConfig;
use crate::models::distilbert::{DistilBertConfig, DistilBertModel};
use crate::models::electra::electra_config;
use crate::models::embedding_gemma2::EmbeddingGemma2Config;
use crate::models::gpt2::{Gpt2Config, Gpt2Model};
use crate::models::gte::GteConfig;
use crate::models::jina_bert::{JinaBertConfig, JinaBertModel};
use crate::models::jina_embeddings_v3::{jina_embeddings_v3_config, with_task};
use crate::models::llama::LlamaConfig;
use crate::models::modernbert::{ModernBertConfig, ModernBertModel};
use crate::models::mpnet::{MPNetConfig, MPNetModel};
use crate::models::nomic_bert::nomic_bert_config;
use crate::models::t5::T5Config;
use crate::models::xlm_roberta_xl::xlm_roberta_xl_config;

/// The implemented values of `model_type`, in alphabetical order.
pub static FAMILIES: [Family; 64] = [
    Family {
        model_type: "albert",
        architecture: "Albert",
        base_model_prefix: "albert",
        tokenizer_class: Some("AlbertTokenizer"),
        special_token_ids: &[("pad_token_id", 0), ("bos_token_id", 2), ("eos_token_id", 3)],
        dimensions: |fields| Ok(AlbertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = AlbertConfig::new(fields)?;
            Ok(Box::new(AlbertModel::load(&vb, config).map_err(cannot_load)?))
        },
        heads: &heads::ALBERT,
        keys_to_ignore_on_load_unexpected: &["sop_classifier."],
        ..BERT
    },
    BART,
    BEIT,
    BERT,
    Family {
        model_type: "bloom",
        architecture: "Bloom",
        base_model_prefix: "transformer",
        attribute_map: &[("num_attention_heads", "n_head"), ("num_hidden_layers", "n_layer")],
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        special_token_ids: &[("bos_token_id", 1), ("eos_token_id", 2)],
        dimensions: |fields| Ok(LlamaConfig::bloom(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::bloom(fields)?, &vb),
        heads: &heads::GPT2,
        ..LLAMA
    },
    Family {
        model_type: "camembert",
        architecture: "Camembert",
        tokenizer_class: Some("CamembertTokenizer"),
        ..XLM_ROBERTA
    },
    CLIP,
    CLIP_TEXT_MODEL,
    CLIP_VISION_MODEL,
    CONVNEXT,
    CONVNEXTV2,
    DATA2VEC_VISION,
    Family {
        model_type: "deberta",
        architecture: "Deberta",
        tokenizer_class: Some("DebertaTokenizer"),
        dimensions: |fields| Ok(DebertaConfig::deberta(fields)?.dimensions()),
        auto_model: |fields, vb| deberta(&DebertaConfig::deberta(fields)?, &vb),
        heads: &heads::DEBERTA,
        ..DEBERTA_V2
    },
    DEBERTA_V2,
    DEIT,
    DINOV2,
    Family {
        model_type: "distilbert",
        architecture: "DistilBert",
        base_model_prefix: "distilbert",
        attribute_map: &[
            ("hidden_size", "dim"),
            ("num_attention_heads", "n_heads"),
            ("num_hidden_layers", "n_layers"),
        ],
        tokenizer_class: Some("DistilBertTokenizer"),
        special_token_ids: &[],
        dimensions: |fields| Ok(DistilBertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = DistilBertConfig::new(fields)?;
            Ok(Box::new(DistilBertModel::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::DISTILBERT,
        ..BERT
    },
    Family {
        model_type: "electra",
        architecture: "Electra",
        base_model_prefix: "electra",
        tokenizer_class: Some("ElectraTokenizer"),
        dimensions: |fields| Ok(electra_config(fields)?.dimensions()),
        auto_model: |fields, vb| bert(electra_config(fields)?, &vb),
        heads: &heads::ELECTRA,
        keys_to_ignore_on_load_unexpected: &["discriminator_predictions."],
        ..BERT
    },
    EMBEDDING_GEMMA2,
    Family {
        model_type: "embedding_gemma2_text",
        text_config: None,
        architecture: "EmbeddingGemma2Text",
        dimensions: |fields| Ok(EmbeddingGemma2Config::text(fields)?.dimensions()),
        auto_model: |fields, vb| embedding_gemma2(&EmbeddingGemma2Config::text(fields)?, &vb),
        ..EMBEDDING_GEMMA2
    },
    Family {
        model_type: "eurobert",
        architecture: "EuroBert",
        special_token_ids: &[
            ("bos_token_id", 128_000),
            ("eos_token_id", 128_001),
            ("pad_token_id", 128_001),
        ],
        dimensions: |fields| Ok(LlamaConfig::eurobert(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::eurobert(fields)?, &vb),
        heads: &heads::EUROBERT,
        ..LLAMA
    },
    Family {
        model_type: "falcon",
        architecture: "Falcon",
        base_model_prefix: "transformer",
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        special_token_ids: &[("bos_token_id", 11), ("eos_token_id", 11)],
        dimensions: |fields| Ok(LlamaConfig::falcon(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::falcon(fields)?, &vb),
        heads: &heads::GPT2,
        ..LLAMA
    },
    GEMMA,
    Family {
        model_type: "gemma2",
        architecture: "Gemma2",
        dimensions: |fields| Ok(LlamaConfig::gemma2(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::gemma2(fields)?, &vb),
        heads: &heads::GEMMA2,
        ..GEMMA
    },
    Family {
        model_type: "gemma3_text",
        architecture: "Gemma3Text",
        dimensions: |fields| Ok(LlamaConfig::gemma3_text(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::gemma3_text(fields)?, &vb),
        heads: &heads::GEMMA3_TEXT,
        // Modules of EmbeddingGemma, which a GGUF file has beside the model.
        keys_to_ignore_on_load_unexpected: &["2_Dense.", "3_Dense."],
        ..GEMMA
    },
    Family {
        model_type: "gpt2",
        architecture: "GPT2",
        base_model_prefix: "transformer",
        attribute_map: &[
            ("hidden_size", "n_embd"),
            ("max_position_embeddings", "n_positions"),
            ("num_attention_heads", "n_head"),
            ("num_hidden_layers", "n_layer"),
        ],
        tokenizer_class: Some("GPT2Tokenizer"),
        special_token_ids: &[("bos_token_id", 50256), ("eos_token_id", 50256)],
        dimensions: |fields| Ok(Gpt2Config::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = Gpt2Config::new(fields)?;
            Ok(Box::new(Gpt2Model::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::GPT2,
        keys_to_ignore_on_load_unexpected: &["multiple_choice_head."],
        ..BERT
    },
    Family {
        model_type: "gpt_neo",
        architecture: "GPTNeo",
        base_model_prefix: "transformer",
        attribute_map: &[("num_attention_heads", "num_heads"), ("num_hidden_layers", "num_layers")],
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        tokenizer_class: Some("GPT2Tokenizer"),
        special_token_ids: &[("bos_token_id", 50256), ("eos_token_id", 50256)],
        dimensions: |fields| Ok(LlamaConfig::gpt_neo(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::gpt_neo(fields)?, &vb),
        heads: &heads::GPT2,
        ..LLAMA
    },
    Family {
        model_type: "gpt_neox",
        architecture: "GPTNeoX",
        base_model_prefix: "gpt_neox",
        special_token_ids: &[("bos_token_id", 0), ("eos_token_id", 2)],
        tokenizer_class: Some("GPTNeoXTokenizer"),
        dimensions: |fields| Ok(LlamaConfig::gpt_neox(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::gpt_neox(fields)?, &vb),
        heads: &heads::GPT_NEOX,
        ..LLAMA
    },
    Family {
        model_type: "gptj",
        architecture: "GPTJ",
        base_model_prefix: "transformer",
        attribute_map: &[
            ("hidden_size", "n_embd"),
            ("max_position_embeddings", "n_positions"),
            ("num_attention_heads", "n_head"),
            ("num_hidden_layers", "n_layer"),
        ],
        tokenizer_class: Some("GPT2Tokenizer"),
        special_token_ids: &[("bos_token_id", 50256), ("eos_token_id", 50256)],
        dimensions: |fields| Ok(LlamaConfig::gptj(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::gptj(fields)?, &vb),
        heads: &heads::GPTJ,
        ..LLAMA
    },
    Family {
        model_type: "granite",
        architecture: "Granite",
        dimensions: |fields| Ok(LlamaConfig::granite(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::granite(fields)?, &vb),
        heads: &heads::GRANITE,
        ..LLAMA
    },
    Family {
        model_type: "gte",
        other_model_types: &["new"],
        architecture: "Gte",
        base_model_prefix: "gte",
        tokenizer_class: Some("XLMRobertaTokenizer"),
        special_token_ids: &[("pad_token_id", 1)],
        dimensions: |fields| Ok(GteConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| gte(&GteConfig::new(fields)?, vb),
        heads: &heads::GTE,
        ..BERT
    },
    Family {
        model_type: "jina_bert_v2",
        remote_config: Some(RemoteConfig {
            model_type: "bert",
            setting: ("position_embedding_type", "alibi"),
        }),
        architecture: "JinaBert",
        dimensions: |fields| Ok(JinaBertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = JinaBertConfig::new(fields)?;
            Ok(Box::new(JinaBertModel::load(&vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::JINA_BERT,
        ..BERT
    },
    Family {
        model_type: "jina_embeddings_v3",
        remote_config: Some(RemoteConfig {
            model_type: "xlm-roberta",
            setting: ("position_embedding_type", "rotary"),
        }),
        remote_module: Some("custom_st.Transformer"),
        architecture: "JinaEmbeddingsV3",
        dimensions: |fields| Ok(jina_embeddings_v3_config(fields)?.dimensions()),
        auto_model: |fields, vb| gte(&jina_embeddings_v3_config(fields)?, with_task(fields, &vb)?),
        heads: &heads::JINA_EMBEDDINGS_V3,
        // The adapters of other tasks, or of all tasks.
        keys_to_ignore_on_load_unexpected: &[".parametrizations.weight.0.lora_"],
        ..XLM_ROBERTA
    },
    LLAMA,
    Family {
        model_type: "m2m_100",
        architecture: "M2M100",
        tokenizer_class: Some("M2M100Tokenizer"),
        special_token_ids: &[
            ("bos_token_id", 0),
            ("pad_token_id", 1),
            ("eos_token_id", 2),
            ("decoder_start_token_id", 2),
        ],
        dimensions: |fields| Ok(BartConfig::m2m_100(fields)?.dimensions()),
        auto_model: |fields, vb| heads::bart_model(&BartConfig::m2m_100(fields)?, &vb),
        heads: &heads::M2M_100,
        ..BART
    },
    Family {
        model_type: "marian",
        architecture: "Marian",
        tokenizer_class: Some("MarianTokenizer"),
        special_token_ids: &[
            ("pad_token_id", 58100),
            ("eos_token_id", 0),
            ("decoder_start_token_id", 58100),
            ("forced_eos_token_id", 0),
        ],
        dimensions: |fields| Ok(BartConfig::marian(fields)?.dimensions()),
        auto_model: |fields, vb| heads::bart_model(&BartConfig::marian(fields)?, &vb),
        heads: &heads::MARIAN,
        ..BART
    },
    Family {
        model_type: "mbart",
        architecture: "MBart",
        tokenizer_class: Some("MBartTokenizer"),
        special_token_ids: &[
            ("bos_token_id", 0),
            ("pad_token_id", 1),
            ("eos_token_id", 2),
            ("forced_eos_token_id", 2),
        ],
        dimensions: |fields| Ok(BartConfig::mbart(fields)?.dimensions()),
        auto_model: |fields, vb| heads::bart_model(&BartConfig::mbart(fields)?, &vb),
        heads: &heads::MBART,
        ..BART
    },
    Family {
        model_type: "mistral",
        architecture: "Mistral",
        tokenizer_class_is_fixed: true,
        dimensions: |fields| Ok(LlamaConfig::mistral(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::mistral(fields)?, &vb),
        heads: &heads::MISTRAL,
        ..LLAMA
    },
    Family {
        model_type: "mixtral",
        architecture: "Mixtral",
        attribute_map: &[("num_experts", "num_local_experts")],
        dimensions: |fields| Ok(LlamaConfig::mixtral(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::mixtral(fields)?, &vb),
        heads: &heads::MISTRAL,
        ..LLAMA
    },
    Family {
        model_type: "modernbert",
        architecture: "ModernBert",
        base_model_prefix: "model",
        tokenizer_class: Some("PreTrainedTokenizerFast"),
        tokenizer_class_is_fixed: true,
        special_token_ids: &[
            ("bos_token_id", 50_281),
            ("eos_token_id", 50_282),
            ("pad_token_id", 50_283),
        ],
        dimensions: |fields| Ok(ModernBertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = ModernBertConfig::new(fields)?;
            Ok(Box::new(ModernBertModel::load(&vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::MODERNBERT,
        ..BERT
    },
    Family {
        model_type: "mpnet",
        architecture: "MPNet",
        base_model_prefix: "mpnet",
        tokenizer_class: Some("MPNetTokenizer"),
        special_token_ids: &[],
        dimensions: |fields| Ok(MPNetConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = MPNetConfig::new(fields)?;
            Ok(Box::new(MPNetModel::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::MPNET,
        ..BERT
    },
    // Its configuration names T5's tokenizer class.
    Family {
        model_type: "mt5",
        architecture: "MT5",
        dimensions: |fields| Ok(T5Config::mt5(fields)?.dimensions()),
        auto_model: |fields, vb| t5_encoder(&T5Config::mt5(fields)?, &vb),
        heads: &heads::MT5,
        ..T5
    },
    Family {
        model_type: "nomic_bert",
        architecture: "NomicBert",
        base_model_prefix: "nomic_bert",
        attribute_map: &[
            ("hidden_act", "activation_function"),
            ("hidden_size", "n_embd"),
            ("intermediate_size", "n_inner"),
            ("layer_norm_eps", "layer_norm_epsilon"),
            ("max_position_embeddings", "n_positions"),
            ("num_attention_heads", "n_head"),
            ("num_hidden_layers", "n_layer"),
            ("rope_theta", "rotary_emb_base"),
        ],
        dimensions: |fields| Ok(nomic_bert_config(fields)?.dimensions()),
        auto_model: |fields, vb| gte(&nomic_bert_config(fields)?, vb),
        heads: &heads::NOMIC_BERT,
        ..BERT
    },
    Family {
        model_type: "olmo2",
        architecture: "Olmo2",
        special_token_ids: &[("pad_token_id", 1), ("eos_token_id", 50279)],
        dimensions: |fields| Ok(LlamaConfig::olmo2(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::olmo2(fields)?, &vb),
        heads: &heads::OLMO2,
        ..LLAMA
    },
    Family {
        model_type: "opt",
        architecture: "OPT",
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        tokenizer_class: Some("GPT2Tokenizer"),
        special_token_ids: &[("pad_token_id", 1), ("bos_token_id", 2), ("eos_token_id", 2)],
        dimensions: |fields| Ok(LlamaConfig::opt(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::opt(fields)?, &vb),
        heads: &heads::OPT,
        ..LLAMA
    },
    Family {
        model_type: "pegasus",
        architecture: "Pegasus",
        tokenizer_class: Some("PegasusTokenizer"),
        special_token_ids: &[
            ("pad_token_id", 0),
            ("eos_token_id", 1),
            ("decoder_start_token_id", 0),
            ("forced_eos_token_id", 1),
        ],
        dimensions: |fields| Ok(BartConfig::pegasus(fields)?.dimensions()),
        auto_model: |fields, vb| heads::bart_model(&BartConfig::pegasus(fields)?, &vb),
        heads: &heads::PEGASUS,
        ..BART
    },
    Family {
        model_type: "phi",
        architecture: "Phi",
        tokenizer_class: Some("GPT2Tokenizer"),
        dimensions: |fields| Ok(LlamaConfig::phi(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::phi(fields)?, &vb),
        heads: &heads::PHI,
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        architecture: "Phi3",
        tokenizer_class_is_fixed: true,
        special_token_ids: &[
            ("bos_token_id", 1),
            ("eos_token_id", 32_000),
            ("pad_token_id", 32_000),
        ],
        dimensions: |fields| Ok(LlamaConfig::phi3(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::phi3(fields)?, &vb),
        heads: &heads::GEMMA,
        ..LLAMA
    },
    QWEN2,
    Family {
        model_type: "qwen3",
        architecture: "Qwen3",
        tokenizer_class_is_fixed: false,
        dimensions: |fields| Ok(LlamaConfig::qwen3(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::qwen3(fields)?, &vb),
        ..QWEN2
    },
    Family {
        model_type: "qwen3_moe",
        architecture: "Qwen3Moe",
        attribute_map: &[("num_experts", "num_local_experts")],
        dimensions: |fields| Ok(LlamaConfig::qwen3_moe(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::qwen3_moe(fields)?, &vb),
        heads: &heads::LLAMA,
        ..QWEN2
    },
    RESNET,
    ROBERTA,
    SIGLIP,
    SIGLIP_VISION_MODEL,
    Family {
        model_type: "smollm3",
        architecture: "SmolLM3",
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        special_token_ids: &[
            ("bos_token_id", 128_000),
            ("eos_token_id", 128_001),
            ("pad_token_id", 128_004),
        ],
        dimensions: |fields| Ok(LlamaConfig::smollm3(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::smollm3(fields)?, &vb),
        ..LLAMA
    },
    Family {
        model_type: "stablelm",
        architecture: "StableLm",
        special_token_ids: &[("bos_token_id", 0), ("eos_token_id", 0)],
        dimensions: |fields| Ok(LlamaConfig::stablelm(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::stablelm(fields)?, &vb),
        heads: &heads::GEMMA,
        ..LLAMA
    },
    Family {
        model_type: "starcoder2",
        architecture: "Starcoder2",
        tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
        special_token_ids: &[("bos_token_id", 50256), ("eos_token_id", 50256)],
        tokenizer_class: Some("GPT2Tokenizer"),
        dimensions: |fields| Ok(LlamaConfig::starcoder2(fields)?.dimensions()),
        auto_model: |fields, vb| llama(LlamaConfig::starcoder2(fields)?, &vb),
        heads: &heads::GEMMA,
        ..LLAMA
    },
    SWIN,
    T5,
    Family {
        model_type: "umt5",
        architecture: "UMT5",
        special_token_ids: &[
            ("pad_token_id", 0),
            ("eos_token_id", 1),
            ("decoder_start_token_id", 0),
        ],
        auto_model_for_t5: false,
        dimensions: |fields| Ok(T5Config::umt5(fields)?.dimensions()),
        auto_model: |fields, vb| t5_encoder(&T5Config::umt5(fields)?, &vb),
        heads: &heads::UMT5,
        ..T5
    },
    VIT,
    XLM_ROBERTA,
    Family {
        model_type: "xlm-roberta-xl",
        architecture: "XLMRobertaXL",
        dimensions: |fields| Ok(xlm_roberta_xl_config(fields)?.dimensions()),
        auto_model: |fields, vb| bert(xlm_roberta_xl_config(fields)?, &vb),
        heads: &heads::XLM_ROBERTA_XL,
        ..XLM_ROBERTA
    },
];

impl Family {
    /// The row of `model_type`.
    pub fn find(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            family.model_type == model_type || family.other_model_types.contains(&model_type)
        })
    }

    /// The row whose checkpoints of remote code have `model_type` and the value of a setting that `setting` gives by its key.
    pub(super) fn find_remote<'a>(
        model_type: &str,
        setting: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            family.remote_config.is_some_and(|config| {
                let (key, value) = config.setting;
                config.model_type == model_type && setting(key) == Some(value)
            })
        })
    }

    /// The row with the prefix of `architecture`, for example `BertForMaskedLM`.
    pub(super) fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            architecture.strip_prefix(family.architecture).is_some_and(|class| {
                ["Model", "For", "LM", "EncoderModel", "MTModel"]
                    .iter()
                    .any(|kind| class.starts_with(kind))
            })
        })
    }

    /// The head for `class`. If there are several, `architectures` of `config.json` selects one.
    ///
    /// # Errors
    /// `Unsupported` if the family has no such head, with the classes that it has and the model types that
    /// have this class.
    pub fn head(&self, class: AutoClass, architectures: &[&str]) -> Result<&'static FamilyHead> {
        let of_class = || self.heads.iter().filter(|head| head.class == class);
        let named =
            |head: &&FamilyHead| head.architecture.is_some_and(|a| architectures.contains(&a));
        of_class().find(named).or_else(|| of_class().next()).ok_or_else(|| {
            let with_class: Vec<&str> = FAMILIES
                .iter()
                .filter(|family| family.has(class))
                .map(|family| family.model_type)
                .collect();
            Error::new(
                ErrorKind::Unsupported,
                format!("model_type `{}` has no `{class}`", self.model_type),
            )
            .hint(format!(
                "`{}` works with {}; `{class}` works with {}",
                self.model_type,
                self.class_names(),
                with_class.join(", ")
            ))
        })
    }

    /// All model types, for messages.
    pub(super) fn model_types() -> String {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Map;

    use super::*;
    use crate::models::Fields;

    #[test]
    fn model_types_are_unique_sorted_and_have_a_golden() {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        for name in names {
            let of = |folder: &str| golden.join(folder).join(name).join("model");
            let places = [golden.join(name), of("heads"), of("modern"), of("vision")];
            assert!(
                places.iter().any(|dir| dir.join("golden.safetensors").is_file()),
                "no golden for `{name}`"
            );
        }
    }

    #[test]
    fn every_family_has_defaults_for_all_its_settings() {
        for family in &FAMILIES {
            let empty = Map::new();
            let fields = Fields::new(&empty);
            let dimensions = (family.dimensions)(&fields).unwrap();
            let expected = match family.model_type {
                "bloom" => 64,
                "electra" => 256,
                "clip" | "clip_text_model" => 512,
                "t5" | "mt5" | "umt5" => 512,
                "bart" | "mbart" | "pegasus" | "marian" | "m2m_100" => 1024,
                "jina_embeddings_v3" => 1024,
                "deberta-v2" => 1536,
                "resnet" => 2048,
                "gpt_neo" | "phi" | "qwen3_moe" | "smollm3" => 2048,
                "gemma2" | "gemma3_text" => 2304,
                "stablelm" | "xlm-roberta-xl" => 2560,
                "gemma" | "phi3" | "starcoder2" => 3072,
                "falcon" => 4544,
                "gpt_neox" => 6144,
                "albert" | "llama" | "mistral" | "qwen2" | "qwen3" => 4096,
                "gptj" | "granite" | "mixtral" | "olmo2" => 4096,
                _ => 768,
            };
            assert_eq!(dimensions.hidden_size, expected, "{}", family.model_type);
            let asked = fields.asked();
            for (alias, name) in family.attribute_map {
                assert!(!asked.contains(alias) && asked.contains(name), "{alias} → {name}");
            }
        }
    }

    #[test]
    fn architectures_find_their_family() {
        for (architecture, model_type) in [
            ("BertForMaskedLM", Some("bert")),
            ("BertLMHeadModel", Some("bert")),
            ("XLMRobertaModel", Some("xlm-roberta")),
            ("RobertaForSequenceClassification", Some("roberta")),
            ("DeiTForImageClassificationWithTeacher", Some("deit")),
            ("ViTModel", Some("vit")),
            ("CLIPModel", Some("clip")),
            ("CLIPVisionModelWithProjection", Some("clip_vision_model")),
            ("CLIPSegModel", None),
            ("SiglipForImageClassification", Some("siglip")),
            ("Dinov2WithRegistersModel", None),
            ("BeitForMaskedImageModeling", Some("beit")),
            ("Data2VecVisionForImageClassification", Some("data2vec-vision")),
            ("Data2VecTextModel", None),
            ("SwinForImageClassification", Some("swin")),
            ("Swinv2Model", None),
            ("Swin2SRModel", None),
            ("ViTMAEModel", None),
            ("BertweetModel", None),
            ("GPT2LMHeadModel", Some("gpt2")),
            ("T5ForConditionalGeneration", Some("t5")),
            ("MT5EncoderModel", Some("mt5")),
            ("T5GemmaForConditionalGeneration", None),
            ("LlamaModel", Some("llama")),
            ("Llama4ForCausalLM", None),
            ("Gemma2ForCausalLM", Some("gemma2")),
            ("ModernBertForMaskedLM", Some("modernbert")),
            ("ModernBertDecoderForCausalLM", None),
            ("Gemma3TextForSequenceClassification", Some("gemma3_text")),
            ("BartForConditionalGeneration", Some("bart")),
            ("MBartModel", Some("mbart")),
            ("MarianMTModel", Some("marian")),
            ("M2M100ForConditionalGeneration", Some("m2m_100")),
            ("PegasusXModel", None),
            ("UMT5EncoderModel", Some("umt5")),
            ("JinaBertForMaskedLM", Some("jina_bert_v2")),
            ("EmbeddingGemma2TextModel", Some("embedding_gemma2_text")),
            ("EmbeddingGemma2Model", Some("embedding_gemma2")),
        ] {
            let family = Family::by_architecture(architecture);
            assert_eq!(family.map(|f| f.model_type), model_type, "{architecture}");
        }
    }
}
