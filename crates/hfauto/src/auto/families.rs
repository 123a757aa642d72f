//! The table: one row a `model_type`, one column an Auto class.
//!
//! To add an architecture, write its file in `crate::models`, add a row here and a golden of the same
//! name in `tests/golden`. A test of this file fails while the golden is missing.

use candle_nn::VarBuilder;

use super::heads;
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result};
use crate::models::bert::{BertConfig, BertModel};
use crate::models::deit::deit_config;
use crate::models::distilbert::{DistilBertConfig, DistilBertModel};
use crate::models::gpt2::{Gpt2Config, Gpt2Model};
use crate::models::mpnet::{MPNetConfig, MPNetModel};
use crate::models::roberta::{roberta_config, xlm_roberta_config};
use crate::models::t5::{T5Config, T5EncoderModel, T5Model};
use crate::models::vit::{ViTConfig, ViTModel};
use crate::models::{Backbone, Dimensions, Fields, HeadLayout};

/// One `model_type` and what each Auto class makes of it.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// How the names in `architectures` begin.
    pub architecture: &'static str,
    /// What tensor names begin with when the checkpoint was saved with a head.
    pub base_model_prefix: &'static str,
    /// Common names of settings that the family calls otherwise (`attribute_map` of transformers).
    pub attribute_map: &'static [(&'static str, &'static str)],
    /// Whether its linear layers may be in 8-bit integers: encoders whose quality was measured.
    pub int8: bool,
    /// Reads the configuration without weights.
    pub dimensions: fn(&Fields<'_>) -> Result<Dimensions>,
    /// Column `AutoModel`: loads the architecture without a head.
    pub auto_model: LoadBackbone,
    /// The other columns that the family has.
    pub heads: &'static [FamilyHead],
}

/// Loads an architecture without a head.
pub type LoadBackbone = fn(&Fields<'_>, VarBuilder<'_>) -> Result<Box<dyn Backbone>>;

/// A head of a family.
#[derive(Clone, Copy, Debug)]
pub struct FamilyHead {
    /// The Auto class that loads it.
    pub class: AutoClass,
    /// The name in `architectures` that chooses this row, where the class has another one too.
    pub architecture: Option<&'static str>,
    /// Its layers.
    pub layout: HeadLayout,
    /// The architecture that it stands on where that is not what `AutoModel` loads (T5's decoder).
    pub backbone: Option<LoadBackbone>,
}

/// Every `model_type` that this version implements, in alphabetical order.
pub static FAMILIES: [Family; 11] = [
    Family {
        model_type: "bert",
        architecture: "Bert",
        base_model_prefix: "bert",
        attribute_map: &[],
        int8: true,
        dimensions: |fields| Ok(BertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| bert(BertConfig::new(fields)?, vb),
        heads: &heads::BERT,
    },
    Family {
        model_type: "camembert",
        architecture: "Camembert",
        base_model_prefix: "roberta",
        attribute_map: &[],
        int8: true,
        dimensions: |fields| Ok(xlm_roberta_config(fields)?.dimensions()),
        auto_model: |fields, vb| bert(xlm_roberta_config(fields)?, vb),
        heads: &heads::ROBERTA,
    },
    Family {
        model_type: "deit",
        architecture: "DeiT",
        base_model_prefix: "deit",
        attribute_map: &[],
        int8: false,
        dimensions: |fields| Ok(deit_config(fields)?.dimensions()),
        auto_model: |fields, vb| vit(&deit_config(fields)?, vb),
        heads: &heads::DEIT,
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
        int8: true,
        dimensions: |fields| Ok(DistilBertConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = DistilBertConfig::new(fields)?;
            Ok(Box::new(DistilBertModel::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::DISTILBERT,
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
        int8: false,
        dimensions: |fields| Ok(Gpt2Config::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = Gpt2Config::new(fields)?;
            Ok(Box::new(Gpt2Model::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::GPT2,
    },
    Family {
        model_type: "mpnet",
        architecture: "MPNet",
        base_model_prefix: "mpnet",
        attribute_map: &[],
        int8: true,
        dimensions: |fields| Ok(MPNetConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| {
            let config = MPNetConfig::new(fields)?;
            Ok(Box::new(MPNetModel::load(vb, &config).map_err(cannot_load)?))
        },
        heads: &heads::MPNET,
    },
    Family {
        model_type: "mt5",
        architecture: "MT5",
        base_model_prefix: "transformer",
        attribute_map: &T5_ATTRIBUTE_MAP,
        int8: false,
        dimensions: |fields| Ok(T5Config::mt5(fields)?.dimensions()),
        auto_model: |fields, vb| t5_encoder(&T5Config::mt5(fields)?, &vb),
        heads: &heads::MT5,
    },
    Family {
        model_type: "roberta",
        architecture: "Roberta",
        base_model_prefix: "roberta",
        attribute_map: &[],
        int8: true,
        dimensions: |fields| Ok(roberta_config(fields)?.dimensions()),
        auto_model: |fields, vb| bert(roberta_config(fields)?, vb),
        heads: &heads::ROBERTA,
    },
    Family {
        model_type: "t5",
        architecture: "T5",
        base_model_prefix: "transformer",
        attribute_map: &T5_ATTRIBUTE_MAP,
        int8: false,
        dimensions: |fields| Ok(T5Config::t5(fields)?.dimensions()),
        auto_model: |fields, vb| t5_encoder(&T5Config::t5(fields)?, &vb),
        heads: &heads::T5,
    },
    Family {
        model_type: "vit",
        architecture: "ViT",
        base_model_prefix: "vit",
        attribute_map: &[],
        int8: false,
        dimensions: |fields| Ok(ViTConfig::new(fields)?.dimensions()),
        auto_model: |fields, vb| vit(&ViTConfig::new(fields)?, vb),
        heads: &heads::VIT,
    },
    Family {
        model_type: "xlm-roberta",
        architecture: "XLMRoberta",
        base_model_prefix: "roberta",
        attribute_map: &[],
        int8: true,
        dimensions: |fields| Ok(xlm_roberta_config(fields)?.dimensions()),
        auto_model: |fields, vb| bert(xlm_roberta_config(fields)?, vb),
        heads: &heads::ROBERTA,
    },
];

const T5_ATTRIBUTE_MAP: [(&str, &str); 4] = [
    ("head_dim", "d_kv"),
    ("hidden_size", "d_model"),
    ("num_attention_heads", "num_heads"),
    ("num_hidden_layers", "num_layers"),
];

impl Family {
    /// The row of `model_type`.
    pub fn find(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// The row whose architectures begin like `architecture`, as `BertForMaskedLM`.
    pub(super) fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            architecture.strip_prefix(family.architecture).is_some_and(|class| {
                ["Model", "For", "LM", "EncoderModel"].iter().any(|kind| class.starts_with(kind))
            })
        })
    }

    /// The head that `class` loads, of several the one that `architectures` of `config.json` name.
    ///
    /// # Errors
    /// `Unsupported` when the family has none, with the classes that it has and the model types that have
    /// this one.
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

    /// The names of its Auto classes, for messages.
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

    /// All model types, for messages.
    pub(super) fn model_types() -> String {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        names.join(", ")
    }
}

fn bert(config: BertConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BertModel::load(vb, &config).map_err(cannot_load)?))
}

/// What sentence-transformers loads, too; with the decoder, see the heads.
fn t5_encoder(config: &T5Config, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(T5EncoderModel::load(vb, config).map_err(cannot_load)?))
}

fn t5_model(config: &T5Config, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(T5Model::load(vb, config).map_err(cannot_load)?))
}

/// T5's encoder and decoder, as heads stand on them.
pub(super) const T5_MODEL: LoadBackbone = |fields, vb| t5_model(&T5Config::t5(fields)?, &vb);

/// mT5's encoder and decoder.
pub(super) const MT5_MODEL: LoadBackbone = |fields, vb| t5_model(&T5Config::mt5(fields)?, &vb);

fn vit(config: &ViTConfig, vb: VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(ViTModel::load(vb, config).map_err(cannot_load)?))
}

pub(super) fn cannot_load(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Model, "cannot load weights").source(error)
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
            let places = [golden.join(name), golden.join("heads").join(name).join("model")];
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
            let expected = if family.model_type.ends_with("t5") { 512 } else { 768 };
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
            ("LlamaModel", None),
        ] {
            let family = Family::by_architecture(architecture);
            assert_eq!(family.map(|f| f.model_type), model_type, "{architecture}");
        }
    }
}
