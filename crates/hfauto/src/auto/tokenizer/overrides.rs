//! The changes that transformers' fast classes make to a loaded tokenizer when tokenizer_config.json
//! differs from tokenizer.json.

use serde_json::{Map, Value};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use crate::error::{Error, ErrorKind, Result};

/// The default number of T5's sentinel tokens.
const EXTRA_IDS: usize = 100;

/// An upper bound beyond any vocabulary.
const MAX_EXTRA_IDS: usize = 100_000;

/// `extra_ids` of T5: the number of `<extra_id_…>` tokens.
///
/// # Errors
/// `Model` if it is not a valid number.
pub(super) fn extra_ids(config: &Map<String, Value>) -> Result<usize> {
    let Some(value) = config.get("extra_ids") else { return Ok(EXTRA_IDS) };
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.filter(|count| *count <= MAX_EXTRA_IDS).ok_or_else(|| {
        Error::new(
            ErrorKind::Model,
            format!(
                "`extra_ids` in tokenizer_config.json is `{value}`, expected a number up to {MAX_EXTRA_IDS}"
            ),
        )
    })
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
    /// Special tokens take the whitespace around them: the class strips each text between them.
    SpecialTokens,
}

/// The options of tokenizer_config.json that affect tokens, with transformers' defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenizerOptions {
    pub(super) do_lower_case: bool,
    /// The same where tokenizer_config.json has it.
    pub(super) given_lower_case: Option<bool>,
    /// `DeBERTa`: whether punctuation is a word of its own.
    pub(super) split_by_punct: bool,
    /// ALBERT: whether accents stay.
    pub(super) keep_accents: bool,
    pub(super) do_basic_tokenize: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) tokenize_chinese_chars: bool,
    pub(super) add_prefix_space: bool,
    pub(super) add_bos_token: bool,
    pub(super) add_eos_token: bool,
    /// Whether the second text of a pair follows a second `eos_token`, not `bos_token`: said by GGUF files only.
    pub(super) two_eos_in_pair: bool,
    /// Whether the space before a text is also added after special tokens.
    pub(super) legacy: Option<bool>,
    pub(super) given_prefix_space: Option<bool>,
    /// T5: whether to use the sentencepiece model instead of tokenizer.json.
    pub(super) from_slow: bool,
    pub(super) trim_offsets: bool,
    split_special_tokens: bool,
}

impl TokenizerOptions {
    /// Reads the options. `prefix_space_from_slow` tells whether an explicit `add_prefix_space` rules out tokenizer.json.
    pub(super) fn read(config: &Map<String, Value>, prefix_space_from_slow: bool) -> Self {
        let flag = |name| config.get(name).and_then(Value::as_bool);
        let given_prefix_space = flag("add_prefix_space");
        Self {
            do_lower_case: flag("do_lower_case").unwrap_or(true),
            given_lower_case: flag("do_lower_case"),
            split_by_punct: flag("split_by_punct").unwrap_or(false),
            keep_accents: flag("keep_accents").unwrap_or(false),
            do_basic_tokenize: flag("do_basic_tokenize").unwrap_or(true),
            strip_accents: flag("strip_accents"),
            tokenize_chinese_chars: flag("tokenize_chinese_chars").unwrap_or(true),
            add_prefix_space: given_prefix_space.unwrap_or(false),
            add_bos_token: flag("add_bos_token").unwrap_or(false),
            add_eos_token: flag("add_eos_token").unwrap_or(false),
            two_eos_in_pair: flag("two_eos_in_pair").unwrap_or(false),
            legacy: flag("legacy"),
            given_prefix_space,
            from_slow: prefix_space_from_slow && given_prefix_space.is_some(),
            trim_offsets: flag("trim_offsets").unwrap_or(true),
            split_special_tokens: flag("split_special_tokens").unwrap_or(false),
        }
    }

    /// Where a tokenizer with the pieces of a sentencepiece model adds a space; `legacy` is the class's default.
    pub(super) fn prepend_scheme(self, legacy: bool) -> PrependScheme {
        match (self.given_prefix_space, self.legacy.unwrap_or(legacy)) {
            (Some(false), _) => PrependScheme::Never,
            (_, false) => PrependScheme::First,
            (_, true) => PrependScheme::Always,
        }
    }

    /// Applies the options to `tokenizer`.
    pub(super) fn apply(self, overrides: Overrides, tokenizer: &mut Tokenizer) -> Result<()> {
        tokenizer.set_encode_special_tokens(self.split_special_tokens);
        if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = tokenizer.get_pre_tokenizer()
            && bytes.add_prefix_space != self.add_prefix_space
        {
            let bytes = ByteLevel::new(self.add_prefix_space, true, bytes.use_regex);
            tokenizer.with_pre_tokenizer(Some(bytes));
        }
        match overrides {
            Overrides::None => {}
            Overrides::BertNormalizer { tokenize_chinese_chars } => {
                self.apply_normalizer(tokenize_chinese_chars, tokenizer)?;
            }
            Overrides::PostProcessor => self.apply_post_processor(tokenizer),
            Overrides::SpecialTokens => {
                let added = tokenizer.get_added_tokens_decoder();
                let special = added.into_values().filter(|token| token.special);
                let tokens: Vec<_> = special.map(|token| token.lstrip(true).rstrip(true)).collect();
                tokenizer.add_tokens(tokens).map_err(|e| {
                    Error::new(ErrorKind::Model, "cannot set the special tokens").source(e)
                })?;
            }
        }
        Ok(())
    }

    fn apply_normalizer(
        self,
        tokenize_chinese_chars: bool,
        tokenizer: &mut Tokenizer,
    ) -> Result<()> {
        let Some(NormalizerWrapper::BertNormalizer(has)) = tokenizer.get_normalizer() else {
            return Ok(());
        };
        let handle_chinese_chars = if tokenize_chinese_chars {
            self.tokenize_chinese_chars
        } else {
            has.handle_chinese_chars
        };
        let wanted = (self.do_lower_case, self.strip_accents, handle_chinese_chars);
        if (has.lowercase, has.strip_accents, has.handle_chinese_chars) == wanted {
            return Ok(());
        }
        let normalizer = BertNormalizer::new(
            has.clean_text,
            handle_chinese_chars,
            self.strip_accents,
            self.do_lower_case,
        );
        // In transformers, the added tokens keep the form that the first normalizer gave them.
        // `with_normalizer` would normalize them again, so they are restored.
        let added = tokenizer.get_added_vocabulary().clone();
        tokenizer
            .with_normalizer(Some(normalizer))
            .map_err(|e| Error::new(ErrorKind::Model, "cannot set the normalizer").source(e))?
            .with_added_vocabulary(added);
        Ok(())
    }

    fn apply_post_processor(self, tokenizer: &mut Tokenizer) {
        let wanted = match tokenizer.get_post_processor() {
            Some(PostProcessorWrapper::Roberta(has)) => PostProcessorWrapper::Roberta(
                has.clone().add_prefix_space(self.add_prefix_space).trim_offsets(self.trim_offsets),
            ),
            Some(PostProcessorWrapper::ByteLevel(has)) => PostProcessorWrapper::ByteLevel(
                has.add_prefix_space(self.add_prefix_space).trim_offsets(self.trim_offsets),
            ),
            _ => return,
        };
        tokenizer.with_post_processor(Some(wanted));
    }
}
