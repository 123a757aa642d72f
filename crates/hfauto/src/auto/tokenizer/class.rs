//! The tokenizer classes of transformers, one row each: their names, their special tokens, and how a vocabulary
//! becomes a tokenizer.
//!
//! The class of a checkpoint is decided first: by the row of a `model_type` that fixes it, then by `tokenizer_class` of
//! tokenizer_config.json, then of config.json, then by the row of the `model_type`.

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::bpe::{self, SetSteps};
use super::convert::{self, FromVocabulary, PostProcessor, Vocabulary};
use super::languages::{LanguageStyle, MBART, MBART50};
use super::overrides::{Overrides, TokenizerOptions};
use super::pieces::{self, FromPieces};
use super::special::{AdditionalTokens, DefaultTokens, RawAddedToken, SpecialTokens};
use super::unigram;
use crate::auto::{FAMILIES, Family};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;

/// A tokenizer class of transformers; the slow and the fast class share one row.
#[derive(Debug)]
pub(super) struct TokenizerClass {
    /// The name of the fast class.
    pub(super) name: &'static str,
    /// The special tokens, which the files may replace.
    pub(super) default_tokens: DefaultTokens,
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
    /// Sets the steps of a loaded tokenizer.json that the class does not read from it.
    pub(super) set_steps: Option<SetSteps>,
    /// Builds the tokenizer from vocabulary files.
    pub(super) from_vocabulary: FromVocabulary,
    /// Adds special tokens around texts.
    pub(super) post_processor: PostProcessor,
    /// Builds a tokenizer whose ids are not those of its sentencepiece model; tokenizer.json is then ignored.
    pub(super) from_pieces: Option<FromPieces>,
    /// How the language of a text is said.
    pub(super) languages: Option<LanguageStyle>,
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
    default_tokens: DefaultTokens::NONE,
    token_type_ids: false,
    clean_up_when_converted: false,
    prefix_space_from_slow: false,
    overrides: Overrides::None,
    set_steps: None,
    from_vocabulary: bpe::tokenizers_backend,
    post_processor: PostProcessor::Code(convert::bos_and_eos),
    from_pieces: None,
    languages: None,
};

const BERT: TokenizerClass = TokenizerClass {
    name: "BertTokenizerFast",
    default_tokens: DefaultTokens { named: &BERT_TOKENS, ..DefaultTokens::NONE },
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
    default_tokens: DefaultTokens {
        named: &ROBERTA_TOKENS,
        token_flags: |attribute, converted| {
            let flags = RawAddedToken { lstrip: true, special: converted, ..PLAIN };
            (attribute == "mask_token").then_some(flags)
        },
        ..DefaultTokens::NONE
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
    default_tokens: DefaultTokens {
        named: &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
        additional_special_tokens: AdditionalTokens::ExtraIds,
        token_flags: |attribute, converted| {
            let known = matches!(attribute, "eos_token" | "unk_token" | "pad_token");
            (converted && known).then_some(RawAddedToken { special: true, ..PLAIN })
        },
    },
    prefix_space_from_slow: true,
    from_vocabulary: convert::t5,
    post_processor: PostProcessor::Template { single: "$A </s>", pair: "$A </s> $B </s>" },
    ..PRE_TRAINED
};

const ROBERTA: TokenizerClass = TokenizerClass {
    name: "RobertaTokenizerFast",
    default_tokens: DefaultTokens {
        named: &ROBERTA_TOKENS,
        token_flags: |attribute, converted| match attribute {
            "mask_token" => Some(RawAddedToken { lstrip: true, normalized: Some(false), ..PLAIN }),
            _ => converted.then_some(PLAIN),
        },
        ..DefaultTokens::NONE
    },
    overrides: Overrides::PostProcessor,
    from_vocabulary: convert::byte_level_bpe,
    post_processor: PostProcessor::Code(convert::roberta_processing),
    ..PRE_TRAINED
};

const MBART_25: TokenizerClass = TokenizerClass {
    name: "MBartTokenizerFast",
    default_tokens: DefaultTokens {
        named: &ROBERTA_TOKENS,
        additional_special_tokens: AdditionalTokens::Fixed(MBART50.split_at(MBART).0),
        token_flags: |attribute, _| {
            let flags = RawAddedToken { lstrip: true, special: true, ..PLAIN };
            (attribute == "mask_token").then_some(flags)
        },
    },
    set_steps: Some(bpe::mbart_steps),
    from_vocabulary: convert::mbart,
    post_processor: PostProcessor::Own,
    languages: Some(LanguageStyle { default: "en_XX", follows: true, underscores: false }),
    ..PRE_TRAINED
};

const GPT2: TokenizerClass = TokenizerClass {
    name: "GPT2TokenizerFast",
    default_tokens: DefaultTokens {
        named: &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
        token_flags: |attribute, converted| {
            let known = ["bos_token", "eos_token", "unk_token", "pad_token"].contains(&attribute);
            (converted && known).then_some(PLAIN)
        },
        ..DefaultTokens::NONE
    },
    set_steps: Some(bpe::gpt2_steps),
    from_vocabulary: convert::byte_level_bpe,
    post_processor: PostProcessor::Code(convert::gpt2_processing),
    ..PRE_TRAINED
};

/// The special tokens of `DeBERTa` and ALBERT.
const fn cls_and_sep_tokens(
    unk: &'static str,
    pad: &'static str,
) -> [(&'static str, &'static str); 7] {
    [
        ("bos_token", "[CLS]"),
        ("eos_token", "[SEP]"),
        ("unk_token", unk),
        ("sep_token", "[SEP]"),
        ("pad_token", pad),
        ("cls_token", "[CLS]"),
        ("mask_token", "[MASK]"),
    ]
}

const DEBERTA_V2: TokenizerClass = TokenizerClass {
    name: "DebertaV2TokenizerFast",
    default_tokens: DefaultTokens {
        named: &cls_and_sep_tokens("[UNK]", "[PAD]"),
        ..DefaultTokens::NONE
    },
    token_type_ids: true,
    set_steps: Some(unigram::deberta_v2_steps),
    from_vocabulary: unigram::deberta_v2,
    post_processor: PostProcessor::Template {
        single: "cls_token:0 $A:0 sep_token:0",
        pair: "cls_token:0 $A:0 sep_token:0 $B:1 sep_token:1",
    },
    ..PRE_TRAINED
};

static CLASSES: [TokenizerClass; 29] = [
    TokenizerClass {
        name: "AlbertTokenizerFast",
        default_tokens: DefaultTokens {
            named: &cls_and_sep_tokens("<unk>", "<pad>"),
            ..DefaultTokens::NONE
        },
        set_steps: Some(unigram::albert_steps),
        from_vocabulary: unigram::albert,
        ..DEBERTA_V2
    },
    TokenizerClass {
        name: "DebertaTokenizerFast",
        default_tokens: DefaultTokens {
            named: &cls_and_sep_tokens("[UNK]", "[PAD]"),
            token_flags: |attribute, _| {
                (attribute == "mask_token").then_some(RawAddedToken { lstrip: true, ..PLAIN })
            },
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::gpt2_steps),
        from_vocabulary: convert::byte_level_bpe,
        post_processor: PostProcessor::Template {
            single: "cls_token $A sep_token",
            pair: "cls_token $A sep_token sep_token $B sep_token",
        },
        ..DEBERTA_V2
    },
    DEBERTA_V2,
    TokenizerClass { name: "ElectraTokenizerFast", ..BERT },
    BERT,
    TokenizerClass { name: "DistilBertTokenizerFast", token_type_ids: false, ..BERT },
    TokenizerClass {
        name: "MPNetTokenizerFast",
        default_tokens: DefaultTokens {
            named: &roberta_tokens("[UNK]"),
            token_flags: |attribute, converted| {
                Some(RawAddedToken {
                    lstrip: attribute == "mask_token",
                    special: converted,
                    ..PLAIN
                })
            },
            ..DefaultTokens::NONE
        },
        token_type_ids: false,
        overrides: Overrides::BertNormalizer { tokenize_chinese_chars: false },
        post_processor: PostProcessor::Template {
            single: "cls_token:0 $A:0 sep_token:0",
            pair: "cls_token:0 $A:0 sep_token:0 sep_token:0 $B:1 sep_token:1",
        },
        ..BERT
    },
    ROBERTA,
    TokenizerClass { name: "BartTokenizerFast", ..ROBERTA },
    MBART_25,
    TokenizerClass {
        name: "MBart50TokenizerFast",
        default_tokens: DefaultTokens {
            additional_special_tokens: AdditionalTokens::Fixed(MBART50),
            ..MBART_25.default_tokens
        },
        set_steps: Some(bpe::mbart50_steps),
        from_vocabulary: convert::mbart50,
        languages: Some(LanguageStyle { default: "en_XX", follows: false, underscores: false }),
        ..MBART_25
    },
    TokenizerClass {
        name: "NllbTokenizerFast",
        default_tokens: DefaultTokens {
            additional_special_tokens: AdditionalTokens::Fixed(&[]),
            ..MBART_25.default_tokens
        },
        set_steps: Some(bpe::nllb_steps),
        from_vocabulary: bpe::nllb,
        languages: Some(LanguageStyle { default: "eng_Latn", follows: false, underscores: false }),
        ..MBART_25
    },
    TokenizerClass {
        name: "PegasusTokenizerFast",
        default_tokens: DefaultTokens {
            named: &[
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask_2>"),
            ],
            additional_special_tokens: AdditionalTokens::Fixed(&["<mask_1>"]),
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::pegasus_steps),
        from_vocabulary: convert::pegasus,
        post_processor: PostProcessor::Template { single: "$A </s>", pair: "$A $B </s>" },
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "MarianTokenizer",
        default_tokens: DefaultTokens {
            named: &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
            ..DefaultTokens::NONE
        },
        from_pieces: Some(pieces::marian),
        post_processor: PostProcessor::Own,
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "M2M100Tokenizer",
        default_tokens: DefaultTokens {
            named: &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
            ],
            ..DefaultTokens::NONE
        },
        from_pieces: Some(pieces::m2m_100),
        post_processor: PostProcessor::Own,
        languages: Some(LanguageStyle { default: "en", follows: false, underscores: true }),
        ..PRE_TRAINED
    },
    XLM_ROBERTA,
    TokenizerClass {
        name: "CamembertTokenizerFast",
        default_tokens: DefaultTokens {
            additional_special_tokens: AdditionalTokens::Fixed(&[
                "<s>NOTUSED",
                "</s>NOTUSED",
                "<unk>NOTUSED",
            ]),
            // Both the slow and the fast class mark the mask token as special.
            token_flags: |attribute, _| (XLM_ROBERTA.default_tokens.token_flags)(attribute, true),
            ..XLM_ROBERTA.default_tokens
        },
        from_vocabulary: convert::camembert,
        ..XLM_ROBERTA
    },
    GPT2,
    TokenizerClass {
        name: "CLIPTokenizerFast",
        default_tokens: DefaultTokens {
            named: &[
                ("bos_token", "<|startoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::clip_steps),
        from_vocabulary: convert::byte_level_bpe,
        post_processor: PostProcessor::Own,
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "SiglipTokenizer",
        default_tokens: DefaultTokens {
            named: &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "</s>")],
            token_flags: |attribute, _| {
                let known = matches!(attribute, "eos_token" | "unk_token" | "pad_token");
                let flags = RawAddedToken { lstrip: true, rstrip: true, special: true, ..PLAIN };
                known.then_some(flags)
            },
            ..DefaultTokens::NONE
        },
        overrides: Overrides::SpecialTokens,
        set_steps: Some(unigram::siglip_steps),
        from_vocabulary: unigram::siglip,
        post_processor: PostProcessor::Template {
            single: "$A eos_token",
            pair: "$A eos_token $B eos_token",
        },
        ..PRE_TRAINED
    },
    TokenizerClass { name: "CodeGenTokenizerFast", ..GPT2 },
    TokenizerClass {
        name: "GPTNeoXTokenizerFast",
        default_tokens: DefaultTokens {
            named: &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|padding|>"),
            ],
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::gpt_neox_steps),
        ..GPT2
    },
    // transformers 5 has no class of this name, and uses the file as it is.
    TokenizerClass { name: "BloomTokenizerFast", ..PRE_TRAINED },
    T5,
    TokenizerClass { name: "MT5TokenizerFast", ..T5 },
    // The template in tokenizer.json decides about `bos_token` and `eos_token`: transformers 5 ignores `add_bos_token` and
    // `add_eos_token` next to it.
    TokenizerClass {
        name: LLAMA,
        default_tokens: DefaultTokens {
            named: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::llama_steps),
        from_vocabulary: bpe::from_pieces,
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "GemmaTokenizerFast",
        default_tokens: DefaultTokens {
            named: &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::gemma_steps),
        from_vocabulary: bpe::from_pieces,
        ..PRE_TRAINED
    },
    TokenizerClass {
        name: "Qwen2TokenizerFast",
        default_tokens: DefaultTokens {
            named: &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            ..DefaultTokens::NONE
        },
        set_steps: Some(bpe::qwen2_steps),
        from_vocabulary: convert::byte_level_bpe,
        ..PRE_TRAINED
    },
    // Has no defaults; tokenizer.json decides everything.
    TokenizerClass { token_type_ids: true, ..PRE_TRAINED },
];

const LLAMA: &str = "LlamaTokenizerFast";

/// The class name that transformers 5 writes for a tokenizer that is completely in its tokenizer.json.
const TOKENIZERS_BACKEND: &str = "TokenizersBackend";

impl TokenizerClass {
    /// The class of a snapshot by its configuration files; `model_type` is used if they do not give one. `saved` is the
    /// content of tokenizer.json.
    ///
    /// # Errors
    /// `Unsupported` for a class or model type that is not in the table; `Model` if no file names one.
    pub(super) fn detect(
        snapshot: &Snapshot,
        tokenizer_config: &Map<String, Value>,
        model_type: Option<&str>,
        saved: Option<&[u8]>,
    ) -> Result<&'static Self> {
        let config = snapshot.json("config.json")?.unwrap_or_default();
        let stated = config.get("model_type").and_then(Value::as_str);
        let family = stated.or(model_type).and_then(Family::find);
        if let Some(family) = family.filter(|family| family.tokenizer_class_is_fixed)
            && let Some(name) = family.tokenizer_class
        {
            return Self::named(name);
        }
        let named = [
            ("tokenizer_config.json", tokenizer_config.get("tokenizer_class")),
            ("config.json", config.get("tokenizer_class")),
        ];
        for (file, name) in named {
            let Some(name) = name.and_then(Value::as_str) else { continue };
            let class =
                Self::named(name).map_err(|e| e.at(format!("{file}: `tokenizer_class`")))?;
            // `LlamaTokenizer` has no byte-level alphabet: transformers 5 then uses the file as it is.
            if class.name == LLAMA && has_byte_level(saved) {
                return Self::named(TOKENIZERS_BACKEND);
            }
            return Ok(class);
        }
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

    /// The class without settings of its own.
    ///
    /// # Errors
    /// None: the row exists.
    pub(super) fn backend() -> Result<&'static Self> {
        Self::named(TOKENIZERS_BACKEND)
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

    /// Builds the tokenizer of this class from its vocabulary files, with special tokens.
    ///
    /// # Errors
    /// `Hub` if the files are missing, `Model` if they are damaged, `Unsupported` for a sentencepiece model type
    /// that is not implemented.
    pub(super) fn tokenizer_from_vocabulary(
        &self,
        mut vocabulary: Vocabulary<'_, '_>,
    ) -> Result<Tokenizer> {
        let mut tokenizer = (self.from_vocabulary)(&mut vocabulary)?;
        let Vocabulary { options, special, .. } = vocabulary;
        self.set_steps(&mut tokenizer, options, special)?;
        special.add_to(&mut tokenizer)?;
        self.post_processor.set(&mut tokenizer, options, special)?;
        Ok(tokenizer)
    }

    /// Sets the steps that the class does not read from tokenizer.json.
    ///
    /// # Errors
    /// `Unsupported` if the model is not one that the class expects.
    pub(super) fn set_steps(
        &self,
        tokenizer: &mut Tokenizer,
        options: TokenizerOptions,
        special: &SpecialTokens,
    ) -> Result<()> {
        self.set_steps.map_or(Ok(()), |set| set(tokenizer, options, special))
    }
}

/// Whether the text of a tokenizer.json names a byte-level step.
fn has_byte_level(saved: Option<&[u8]>) -> bool {
    const NAME: &[u8] = b"\"ByteLevel\"";
    saved.is_some_and(|saved| saved.windows(NAME.len()).any(|window| window == NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Fields;

    #[test]
    fn classes_are_found_by_both_names_and_families_name_them() {
        for class in &CLASSES {
            for name in [class.name, class.slow_name()] {
                assert!(std::ptr::eq(TokenizerClass::named(name).unwrap(), class), "{name}");
            }
        }
        for family in &FAMILIES {
            let none = Map::new();
            let dimensions = (family.dimensions)(&Fields::new(&none)).unwrap();
            let reads_text = dimensions.reads_text();
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
        assert!(error.message().starts_with(
            "tokenizer class `BertJapaneseTokenizer` is not implemented, only AlbertT"
        ));
    }
}
