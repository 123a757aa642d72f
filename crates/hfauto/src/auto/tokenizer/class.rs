//! The tokenizer classes of transformers that are known here: their names, their special tokens.
//!
//! Which class reads a checkpoint is the first key of its tokenization: `tokenizer_class` of
//! tokenizer_config.json, then of config.json, then the class of the `model_type`.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;

/// A tokenizer class of transformers; the slow and the fast class of one name are one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenizerClass {
    /// `BertTokenizer`.
    Bert,
    /// `DistilBertTokenizer`.
    DistilBert,
    /// `MPNetTokenizer`.
    MpNet,
    /// `RobertaTokenizer`.
    Roberta,
    /// `XLMRobertaTokenizer`.
    XlmRoberta,
    /// `CamembertTokenizer`.
    Camembert,
    /// `GPT2Tokenizer`.
    Gpt2,
    /// `T5Tokenizer`.
    T5,
    /// `MT5Tokenizer`, which is the same.
    Mt5,
    /// `PreTrainedTokenizerFast`: whatever tokenizer.json says, no defaults.
    PreTrained,
}

/// Class, its name without `Fast`, and the model types that use it when no class is named.
const CLASSES: &[(TokenizerClass, &str, &[&str])] = &[
    (TokenizerClass::Bert, "BertTokenizer", &["bert"]),
    (TokenizerClass::DistilBert, "DistilBertTokenizer", &["distilbert"]),
    (TokenizerClass::MpNet, "MPNetTokenizer", &["mpnet"]),
    (TokenizerClass::Roberta, "RobertaTokenizer", &["roberta"]),
    (TokenizerClass::XlmRoberta, "XLMRobertaTokenizer", &["xlm-roberta"]),
    (TokenizerClass::Camembert, "CamembertTokenizer", &["camembert"]),
    (TokenizerClass::Gpt2, "GPT2Tokenizer", &["gpt2"]),
    // The configuration of mT5 names T5's class by default.
    (TokenizerClass::T5, "T5Tokenizer", &["t5", "mt5"]),
    (TokenizerClass::Mt5, "MT5Tokenizer", &[]),
    (TokenizerClass::PreTrained, "PreTrainedTokenizer", &[]),
];

/// The name that transformers 5 writes for a tokenizer that is all in its tokenizer.json.
const TOKENIZERS_BACKEND: &str = "TokenizersBackend";

impl TokenizerClass {
    /// The class that reads a snapshot, from its configuration files; `model_type` where they do not state
    /// it.
    ///
    /// # Errors
    /// `Unsupported` for a class or model type that is not in the table; `Model` when nothing names one.
    pub(super) fn detect(
        snapshot: &Snapshot,
        tokenizer_config: &Map<String, Value>,
        model_type: Option<&str>,
    ) -> Result<Self> {
        if let Some(name) = tokenizer_config.get("tokenizer_class").and_then(Value::as_str) {
            return Self::named(name).map_err(|e| e.at("tokenizer_config.json: `tokenizer_class`"));
        }
        let config = snapshot.json("config.json")?.unwrap_or_default();
        if let Some(name) = config.get("tokenizer_class").and_then(Value::as_str) {
            return Self::named(name).map_err(|e| e.at("config.json: `tokenizer_class`"));
        }
        let stated = config.get("model_type").and_then(Value::as_str);
        let Some(model_type) = stated.or(model_type) else {
            return Err(Error::new(
                ErrorKind::Model,
                "nothing names the tokenizer's class: neither `tokenizer_class` in \
                 tokenizer_config.json nor `tokenizer_class` or `model_type` in config.json",
            ));
        };
        let row = CLASSES.iter().find(|(_, _, types)| types.contains(&model_type));
        row.map(|(class, ..)| *class).ok_or_else(|| {
            let known: Vec<_> = CLASSES.iter().flat_map(|(_, _, types)| *types).copied().collect();
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "no tokenizer for the model type `{model_type}`, only for {}",
                    known.join(", ")
                ),
            )
        })
    }

    fn named(name: &str) -> Result<Self> {
        if name == TOKENIZERS_BACKEND {
            return Ok(Self::PreTrained);
        }
        let slow = name.strip_suffix("Fast").unwrap_or(name);
        let row = CLASSES.iter().find(|(_, known, _)| *known == slow);
        row.map(|(class, ..)| *class).ok_or_else(|| {
            let known: Vec<_> = CLASSES.iter().map(|(_, name, _)| *name).collect();
            Error::new(
                ErrorKind::Unsupported,
                format!("no tokenizer class `{name}`, only {}", known.join(", ")),
            )
        })
    }

    /// The name in transformers, of the fast class.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bert => "BertTokenizerFast",
            Self::DistilBert => "DistilBertTokenizerFast",
            Self::MpNet => "MPNetTokenizerFast",
            Self::Roberta => "RobertaTokenizerFast",
            Self::XlmRoberta => "XLMRobertaTokenizerFast",
            Self::Camembert => "CamembertTokenizerFast",
            Self::Gpt2 => "GPT2TokenizerFast",
            Self::T5 => "T5TokenizerFast",
            Self::Mt5 => "MT5TokenizerFast",
            Self::PreTrained => "PreTrainedTokenizerFast",
        }
    }

    /// The special token of this class when the files do not give one.
    pub(super) fn default_token(self, attribute: &str) -> Option<&'static str> {
        match self {
            Self::PreTrained => None,
            Self::Bert | Self::DistilBert => match attribute {
                "unk_token" => Some("[UNK]"),
                "sep_token" => Some("[SEP]"),
                "pad_token" => Some("[PAD]"),
                "cls_token" => Some("[CLS]"),
                "mask_token" => Some("[MASK]"),
                _ => None,
            },
            Self::Gpt2 => match attribute {
                "bos_token" | "eos_token" | "unk_token" => Some("<|endoftext|>"),
                _ => None,
            },
            Self::T5 | Self::Mt5 => match attribute {
                "eos_token" => Some("</s>"),
                "unk_token" => Some("<unk>"),
                "pad_token" => Some("<pad>"),
                _ => None,
            },
            Self::MpNet | Self::Roberta | Self::XlmRoberta | Self::Camembert => match attribute {
                "bos_token" | "cls_token" => Some("<s>"),
                "eos_token" | "sep_token" => Some("</s>"),
                "unk_token" if self == Self::MpNet => Some("[UNK]"),
                "unk_token" => Some("<unk>"),
                "pad_token" => Some("<pad>"),
                "mask_token" => Some("<mask>"),
                _ => None,
            },
        }
    }

    /// `additional_special_tokens` of this class when the files do not give any.
    pub(super) fn default_additional_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Camembert => &["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"],
            _ => &[],
        }
    }

    /// Whether `model_input_names` of this class has `token_type_ids` when the files do not say it.
    pub(super) fn default_token_type_ids(self) -> bool {
        matches!(self, Self::Bert | Self::PreTrained)
    }

    /// Whether the class is T5's, whose special tokens have `extra_ids` among them.
    pub(super) fn is_t5(self) -> bool {
        matches!(self, Self::T5 | Self::Mt5)
    }

    /// Whether `decode` tidies spaces before punctuation when the files do not say it. The slow classes
    /// of BERT's kind pass their own default on to the fast tokenizer that is converted from them.
    pub(super) fn default_clean_up(self, converted: bool) -> bool {
        converted && matches!(self, Self::Bert | Self::DistilBert | Self::MpNet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_model_types_are_unique_and_agree() {
        let mut types: Vec<&str> = Vec::new();
        for (class, name, model_types) in CLASSES {
            assert_eq!(class.name(), format!("{name}Fast"));
            assert_eq!(TokenizerClass::named(name).unwrap(), *class);
            assert_eq!(TokenizerClass::named(class.name()).unwrap(), *class);
            types.extend(*model_types);
        }
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count);
        assert_eq!(TokenizerClass::named("TokenizersBackend").unwrap(), TokenizerClass::PreTrained);
    }

    #[test]
    fn an_unknown_class_is_refused_by_name() {
        let error = TokenizerClass::named("BertJapaneseTokenizer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.message().starts_with("no tokenizer class `BertJapaneseTokenizer`, only BertT")
        );
    }
}
