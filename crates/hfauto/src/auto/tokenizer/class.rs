//! The tokenizer classes of transformers, one row each: their names, their special tokens, and how a vocabulary
//! becomes a tokenizer.
//!
//! The class of a checkpoint is decided first: by `tokenizer_class` of tokenizer_config.json, then of config.json,
//! then by the row of the `model_type`.

use serde_json::{Map, Value};

use super::convert::{self, FromVocabulary, PostProcessor};
use super::special::RawAddedToken;
use crate::auto::families::{FAMILIES, Family};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;

/// A tokenizer class of transformers; the slow and the fast class share one row.
#[derive(Debug)]
pub(super) struct TokenizerClass {
    /// The name of the fast class.
    pub(super) name: &'static str,
    /// The default special tokens by attribute, which the files may replace.
    pub(super) default_tokens: &'static [(&'static str, &'static str)],
    /// The default `additional_special_tokens`.
    pub(super) additional_special_tokens: AdditionalTokens,
    /// The flags for an attribute's special token that the files give as plain text. `converted` tells whether the
    /// tokenizer was converted from a slow class. `None` keeps the plain text.
    pub(super) token_flags: fn(attribute: &str, converted: bool) -> Option<RawAddedToken>,
    /// Whether `model_input_names` has `token_type_ids` by default.
    pub(super) token_type_ids: bool,
    /// Whether `decode` of a converted tokenizer cleans up spaces before punctuation by default: the slow class
    /// passes its own default on.
    pub(super) clean_up_when_converted: bool,
    /// Whether an explicit `add_prefix_space` forces conversion from the slow class, so that tokenizer.json is
    /// ignored.
    pub(super) prefix_space_from_slow: bool,
    /// The parts of a loaded tokenizer that tokenizer_config.json overrides.
    pub(super) overrides: Overrides,
    /// Builds the tokenizer from vocabulary files.
    pub(super) from_vocabulary: FromVocabulary,
    /// Adds special tokens around texts.
    pub(super) post_processor: PostProcessor,
}

/// Special tokens without an attribute of their own.
#[derive(Debug)]
pub(super) enum AdditionalTokens {
    Fixed(&'static [&'static str]),
    /// `<extra_id_…>`; `extra_ids` in tokenizer_config.json gives their number.
    ExtraIds,
}

/// The part of a loaded tokenizer that is reset to the options.
#[derive(Clone, Copy, Debug)]
pub(super) enum Overrides {
    None,
    BertNormalizer {
        /// Whether `tokenize_chinese_chars` is also reset.
        tokenize_chinese_chars: bool,
    },
    PostProcessor,
}

const BERT_TOKENS: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// The special tokens of RoBERTa and of fairseq's sentencepiece vocabularies.
const ROBERTA_TOKENS: [(&str, &str); 7] = roberta_tokens("<unk>");

const fn roberta_tokens(unk: &'static str) -> [(&'static str, &'static str); 7] {
    [
        ("bos_token", "<s>"),
        ("cls_token", "<s>"),
        ("eos_token", "</s>"),
        ("sep_token", "</s>"),
        ("unk_token", unk),
        ("pad_token", "<pad>"),
        ("mask_token", "<mask>"),
    ]
}

const PLAIN: RawAddedToken = RawAddedToken {
    content: String::new(),
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: None,
    special: false,
};

/// The defaults of most classes.
const PRE_TRAINED: TokenizerClass = TokenizerClass {
    name: "PreTrainedTokenizerFast",
    default_tokens: &[],
    additional_special_tokens: AdditionalTokens::Fixed(&[]),
    token_flags: |_, _| None,
    token_type_ids: false,
    clean_up_when_converted: false,
    prefix_space_from_slow: false,
    overrides: Overrides::None,
    from_vocabulary: convert::none,
    post_processor: PostProcessor::Template { single: "$A", pair: "$A $B" },
};

const BERT: TokenizerClass = TokenizerClass {
    name: "BertTokenizerFast",
    default_tokens: &BERT_TOKENS,
    token_type_ids: true,
    clean_up_when_converted: true,
    overrides: Overrides::BertNormalizer { tokenize_chinese_chars: true },
    from_vocabulary: convert::word_piece,
    post_processor: PostProcessor::Template {
        single: "cls_token:0 $A:0 sep_token:0",
        pair: "cls_token:0 $A:0 sep_token:0 $B:1 sep_token:1",
    },
    ..PRE_TRAINED
};

const XLM_ROBERTA: TokenizerClass = TokenizerClass {
    name: "XLMRobertaTokenizerFast",
    default_tokens: &ROBERTA_TOKENS,
    token_flags: |attribute, converted| {
        let flags = RawAddedToken { lstrip: true, special: converted, ..PLAIN };
        (attribute == "mask_token").then_some(flags)
    },
    from_vocabulary: convert::xlm_roberta,
    // Fixed, whatever tokens the files name, as in T5.
    post_processor: PostProcessor::Template {
        single: "<s> $A </s>",
        pair: "<s> $A </s> </s> $B </s>",
    },
    ..PRE_TRAINED
};

const T5: TokenizerClass = TokenizerClass {
    name: "T5TokenizerFast",
    default_tokens: &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
    additional_special_tokens: AdditionalTokens::ExtraIds,
    token_flags: |attribute, converted| {
        let known = matches!(attribute, "eos_token" | "unk_token" | "pad_token");
        (converted && known).then_some(RawAddedToken { special: true, ..PLAIN })
    },
    prefix_space_from_slow: true,
    from_vocabulary: convert::t5,
    post_processor: PostProcessor::Template { single: "$A </s>", pair: "$A </s> $B </s>" },
    ..PRE_TRAINED
};

static CLASSES: [TokenizerClass; 13] = [
    BERT,
    TokenizerClass { name: "DistilBertTokenizerFast", token_type_ids: false, ..BERT },
    TokenizerClass {
        name: "MPNetTokenizerFast",
        default_tokens: &roberta_tokens("[UNK]"),
        token_flags: |attribute, converted| {
            Some(RawAddedToken { lstrip: attribute == "mask_token", special: converted, ..PLAIN })
        },
        token_type_ids: false,
        overrides: Overrides::BertNormalizer { tokenize_chinese_chars: false },
        post_processor: PostProcessor::Template {
            single: "cls_token:0 $A:0 sep_token:0",
            pair: "cls_token:0 $A:0 sep_token:0 sep_token:0 $B:1 sep_token:1",
        },
        ..BERT
    },
    TokenizerClass {
        name: "RobertaTokenizerFast",
        default_tokens: &ROBERTA_TOKENS,
        token_flags: |attribute, converted| match attribute {
            "mask_token" => Some(RawAddedToken { lstrip: true, normalized: Some(false), ..PLAIN }),
            _ => converted.then_some(PLAIN),
        },
        overrides: Overrides::PostProcessor,
        from_vocabulary: convert::byte_level_bpe,
        post_processor: PostProcessor::Code(convert::roberta_processing),
        ..PRE_TRAINED
    },
    XLM_ROBERTA,
    TokenizerClass {
        name: "CamembertTokenizerFast",
        additional_special_tokens: AdditionalTokens::Fixed(&[
            "<s>NOTUSED",
            "</s>NOTUSED",
            "<unk>NOTUSED",
        ]),
        // Both the slow and the fast class mark the mask token as special.
        token_flags: |attribute, _| (XLM_ROBERTA.token_flags)(attribute, true),
        from_vocabulary: convert::camembert,
        ..XLM_ROBERTA
    },
    TokenizerClass {
        name: "GPT2TokenizerFast",
        default_tokens: &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
        token_flags: |attribute, converted| {
            let known = ["bos_token", "eos_token", "unk_token", "pad_token"].contains(&attribute);
            (converted && known).then_some(PLAIN)
        },
        from_vocabulary: convert::byte_level_bpe,
        post_processor: PostProcessor::Code(convert::gpt2_processing),
        ..PRE_TRAINED
    },
    T5,
    TokenizerClass { name: "MT5TokenizerFast", ..T5 },
    // The template in tokenizer.json decides about `bos_token` and `eos_token`: transformers 5 ignores `add_bos_token` and
    // `add_eos_token` next to it.
    TokenizerClass {
        name: "LlamaTokenizerFast",
        default_tokens: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "GemmaTokenizerFast",
        default_tokens: &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "Qwen2TokenizerFast",
        default_tokens: &[
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ],
        ..PRE_TRAINED
    },
    // Has no defaults; tokenizer.json decides everything.
    TokenizerClass { token_type_ids: true, ..PRE_TRAINED },
];

/// The class name that transformers 5 writes for a tokenizer that is completely in its tokenizer.json.
const TOKENIZERS_BACKEND: &str = "TokenizersBackend";

impl TokenizerClass {
    /// The class of a snapshot by its configuration files; `model_type` is used if they do not give one.
    ///
    /// # Errors
    /// `Unsupported` for a class or model type that is not in the table; `Model` if no file names one.
    pub(super) fn detect(
        snapshot: &Snapshot,
        tokenizer_config: &Map<String, Value>,
        model_type: Option<&str>,
    ) -> Result<&'static Self> {
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
                "the tokenizer class is not given: neither `tokenizer_class` in \
                 tokenizer_config.json nor `tokenizer_class` or `model_type` in config.json",
            ));
        };
        let class = Family::find(model_type).and_then(|family| family.tokenizer_class);
        let name = class.ok_or_else(|| {
            let with_class = FAMILIES.iter().filter(|family| family.tokenizer_class.is_some());
            let known: Vec<_> = with_class.map(|family| family.model_type).collect();
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "no tokenizer is implemented for model type `{model_type}`, only for {}",
                    known.join(", ")
                ),
            )
        })?;
        Self::named(name)
    }

    /// The row of a class by its slow or fast name.
    fn named(name: &str) -> Result<&'static Self> {
        let slow = match name {
            TOKENIZERS_BACKEND => PRE_TRAINED.slow_name(),
            name => name.strip_suffix("Fast").unwrap_or(name),
        };
        CLASSES.iter().find(|class| class.slow_name() == slow).ok_or_else(|| {
            let known: Vec<_> = CLASSES.iter().map(Self::slow_name).collect();
            Error::new(
                ErrorKind::Unsupported,
                format!("tokenizer class `{name}` is not implemented, only {}", known.join(", ")),
            )
        })
    }

    fn slow_name(&self) -> &'static str {
        self.name.strip_suffix("Fast").unwrap_or(self.name)
    }

    /// The default special token of this class for an attribute.
    pub(super) fn default_token(&self, attribute: &str) -> Option<&'static str> {
        let token = self.default_tokens.iter().find(|(known, _)| *known == attribute);
        token.map(|(_, text)| *text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_found_by_both_names_and_families_name_them() {
        for class in &CLASSES {
            for name in [class.name, class.slow_name()] {
                assert!(std::ptr::eq(TokenizerClass::named(name).unwrap(), class), "{name}");
            }
        }
        for family in &FAMILIES {
            let reads_text = family.image_processor_type.is_none();
            assert_eq!(family.tokenizer_class.is_some(), reads_text, "{}", family.model_type);
            assert!(family.tokenizer_class.is_none_or(|name| TokenizerClass::named(name).is_ok()));
        }
        let class = TokenizerClass::named("TokenizersBackend").unwrap();
        assert_eq!(class.name, "PreTrainedTokenizerFast");
    }

    #[test]
    fn an_unknown_class_is_refused_by_name() {
        let error = TokenizerClass::named("BertJapaneseTokenizer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.message().starts_with(
                "tokenizer class `BertJapaneseTokenizer` is not implemented, only BertT"
            )
        );
    }
}
