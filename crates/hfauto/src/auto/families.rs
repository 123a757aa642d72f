//! The table of families: one row per `model_type`, one column per Auto class.
//!
//! A row declares everything about a family except its computation. To add an architecture, write its file in
//! `crate::models`, add a row here, and add a golden of the same name in `tests/golden`. A test in this file
//! fails while the golden is missing.

use super::heads::{self, FamilyHead, LoadBackbone};
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result, cannot_load};
use crate::models::bert::{BertConfig, BertModel};
use crate::models::deit::deit_config;
use crate::models::distilbert::{DistilBertConfig, DistilBertModel};
use crate::models::gpt2::{Gpt2Config, Gpt2Model};
use crate::models::gte::{GteConfig, GteModel};
use crate::models::llama::{LlamaConfig, LlamaModel};
use crate::models::modernbert::{ModernBertConfig, ModernBertModel};
use crate::models::mpnet::{MPNetConfig, MPNetModel};
use crate::models::nomic_bert::nomic_bert_config;
use crate::models::roberta::{roberta_config, xlm_roberta_config};
use crate::models::t5::{T5Config, T5EncoderModel};
use crate::models::vit::{ViTConfig, ViTModel};
use crate::models::{Backbone, Dimensions, Fields};
use crate::nn::VarBuilder;

/// A `model_type` and its implementation of each Auto class.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Other names of the `model_type`, in remote code. They are prefixes of tensor names, too.
    pub other_model_types: &'static [&'static str],
    /// The prefix of the names in `architectures`.
    pub architecture: &'static str,
    /// The prefix of tensor names in a checkpoint that was saved with a head.
    pub base_model_prefix: &'static str,
    /// Common setting names that the family spells differently (`attribute_map` of transformers).
    pub attribute_map: &'static [(&'static str, &'static str)],
    /// Whether dtype `int8` is allowed.
    pub int8: bool,
    /// Whether a head over the vocabulary shares the word embeddings, by config.json and the family's default.
    pub tie_word_embeddings: fn(&Fields<'_>) -> Result<bool>,
    /// The default tokenizer class, if no file names one; `None` for a family that reads images.
    pub tokenizer_class: Option<&'static str>,
    /// Whether that class is used even if a file names another one, as transformers 5 does for families whose
    /// checkpoints often name a wrong one.
    pub tokenizer_class_is_fixed: bool,
    /// The default image processor class, if no file names one.
    pub image_processor_type: Option<&'static str>,
    /// The default special tokens of generation, if neither generation_config.json nor config.json has them.
    pub special_token_ids: &'static [(&'static str, u32)],
    /// Whether `AutoModelForT5` accepts the family.
    pub auto_model_for_t5: bool,
    /// Reads the configuration without weights.
    pub dimensions: fn(&Fields<'_>) -> Result<Dimensions>,
    /// Column `AutoModel`: loads the architecture without a head.
    pub auto_model: LoadBackbone,
    /// The other columns that the family has.
    pub heads: &'static [FamilyHead],
    /// Prefixes of tensor names in checkpoints that no architecture here loads, or that only another
    /// architecture of the family loads. Tensors of `heads` are recognized by their layers.
    pub keys_to_ignore_on_load_unexpected: &'static [&'static str],
}

/// The implemented values of `model_type`, in alphabetical order.
pub static FAMILIES: [Family; 24] = [
    BERT,
    Family {
        model_type: "camembert",
        architecture: "Camembert",
        tokenizer_class: Some("CamembertTokenizer"),
        ..XLM_ROBERTA
    },
    Family {
        model_type: "deit",
        architecture: "DeiT",
        base_model_prefix: "deit",
        image_processor_type: Some("DeiTImageProcessor"),
        dimensions: |fields| Ok(deit_config(fields)?.dimensions()),
        auto_model: |fields, vb| vit(&deit_config(fields)?, vb),
        heads: &heads::DEIT,
        ..VIT
    },
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
    LLAMA,
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
    ROBERTA,
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
    T5,
    VIT,
    XLM_ROBERTA,
];

const BERT: Family = Family {
    model_type: "bert",
    other_model_types: &[],
    architecture: "Bert",
    base_model_prefix: "bert",
    attribute_map: &[],
    int8: true,
    tie_word_embeddings: |fields| fields.flag("tie_word_embeddings", true),
    tokenizer_class: Some("BertTokenizer"),
    tokenizer_class_is_fixed: false,
    image_processor_type: None,
    special_token_ids: &[("pad_token_id", 0)],
    auto_model_for_t5: false,
    dimensions: |fields| Ok(BertConfig::new(fields)?.dimensions()),
    auto_model: |fields, vb| bert(BertConfig::new(fields)?, vb),
    heads: &heads::BERT,
    keys_to_ignore_on_load_unexpected: &[],
};

const ROBERTA: Family = Family {
    model_type: "roberta",
    architecture: "Roberta",
    base_model_prefix: "roberta",
    tokenizer_class: Some("RobertaTokenizer"),
    special_token_ids: &[("bos_token_id", 0), ("pad_token_id", 1), ("eos_token_id", 2)],
    dimensions: |fields| Ok(roberta_config(fields)?.dimensions()),
    auto_model: |fields, vb| bert(roberta_config(fields)?, vb),
    heads: &heads::ROBERTA,
    ..BERT
};

const XLM_ROBERTA: Family = Family {
    model_type: "xlm-roberta",
    architecture: "XLMRoberta",
    tokenizer_class: Some("XLMRobertaTokenizer"),
    dimensions: |fields| Ok(xlm_roberta_config(fields)?.dimensions()),
    auto_model: |fields, vb| bert(xlm_roberta_config(fields)?, vb),
    ..ROBERTA
};

const LLAMA: Family = Family {
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

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2",
    tokenizer_class: Some("Qwen2Tokenizer"),
    tokenizer_class_is_fixed: true,
    special_token_ids: &[],
    dimensions: |fields| Ok(LlamaConfig::qwen2(fields)?.dimensions()),
    auto_model: |fields, vb| llama(LlamaConfig::qwen2(fields)?, &vb),
    ..LLAMA
};

const GEMMA: Family = Family {
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

const T5: Family = Family {
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

const VIT: Family = Family {
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

impl Family {
    /// The row of `model_type`.
    pub fn find(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            family.model_type == model_type || family.other_model_types.contains(&model_type)
        })
    }

    /// The default id of a special token.
    pub(super) fn special_token_id(&self, key: &str) -> Option<u32> {
        self.special_token_ids.iter().find(|(name, _)| *name == key).map(|(_, id)| *id)
    }

    /// The prefixes of tensor names in checkpoints with a head.
    pub(super) fn base_model_prefixes(&self) -> impl Iterator<Item = &'static str> + '_ {
        let of_heads = self.heads.iter().filter_map(|head| head.base_model_prefix);
        let others = self.other_model_types.iter().copied();
        std::iter::once(self.base_model_prefix).chain(others).chain(of_heads)
    }

    /// The row with the prefix of `architecture`, for example `BertForMaskedLM`.
    pub(super) fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            architecture.strip_prefix(family.architecture).is_some_and(|class| {
                ["Model", "For", "LM", "EncoderModel"].iter().any(|kind| class.starts_with(kind))
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

    /// The names of the family's Auto classes, for messages.
    pub(super) fn class_names(&self) -> String {
        self.classes().map(AutoClass::name).collect::<Vec<_>>().join(", ")
    }

    /// Whether the family has `class`.
    pub fn has(&self, class: AutoClass) -> bool {
        self.classes().any(|own| own == class)
    }

    /// The Auto classes that the family has.
    pub fn classes(&self) -> impl Iterator<Item = AutoClass> + '_ {
        let heads = self.heads.iter().filter(|head| head.architecture.is_none());
        std::iter::once(AutoClass::Model).chain(heads.map(|head| head.class))
    }

    /// Whether the tensor `name` belongs to a head of the family: it has the first path component of a head's
    /// layer.
    pub(super) fn is_of_head(&self, name: &str) -> bool {
        let module = first_part(name);
        self.heads
            .iter()
            .flat_map(|head| head.layout.names())
            .any(|layer| first_part(layer) == module)
    }

    /// Whether the tensor `name` may be in a checkpoint without being loaded.
    pub(super) fn leaves_aside(&self, name: &str) -> bool {
        let unexpected = self.keys_to_ignore_on_load_unexpected;
        self.is_of_head(name) || unexpected.iter().any(|start| name.starts_with(start))
    }

    /// All model types, for messages.
    pub(super) fn model_types() -> String {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        names.join(", ")
    }
}

fn first_part(path: &str) -> &str {
    path.split_once('.').map_or(path, |(first, _)| first)
}

fn bert(config: BertConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BertModel::load(vb, &config).map_err(cannot_load)?))
}

fn gte(config: &GteConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(GteModel::load(vb, config).map_err(cannot_load)?))
}

fn llama(config: LlamaConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(LlamaModel::load(vb, config).map_err(cannot_load)?))
}

/// The encoder, as sentence-transformers uses it. The heads use the encoder and decoder.
fn t5_encoder(config: &T5Config, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(T5EncoderModel::load(vb, config).map_err(cannot_load)?))
}

fn vit(config: &ViTConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(ViTModel::load(vb, config).map_err(cannot_load)?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Map;

    use super::*;

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
            let places = [golden.join(name), of("heads"), of("modern")];
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
                "t5" | "mt5" => 512,
                "smollm3" => 2048,
                "gemma2" | "gemma3_text" => 2304,
                "gemma" | "phi3" => 3072,
                "llama" | "mistral" | "qwen2" | "qwen3" => 4096,
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
        ] {
            let family = Family::by_architecture(architecture);
            assert_eq!(family.map(|f| f.model_type), model_type, "{architecture}");
        }
    }
}
