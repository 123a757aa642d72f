//! What the fast classes of transformers change in a tokenizer after it is loaded, because
//! tokenizer_config.json says otherwise than tokenizer.json.

use serde_json::{Map, Value};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::class::TokenizerClass;
use crate::error::{Error, ErrorKind, Result};

/// Tokens that T5 has for the gaps in a text.
const EXTRA_IDS: usize = 100;

/// More of them than any vocabulary has room for.
const MAX_EXTRA_IDS: usize = 100_000;

/// `extra_ids` of T5: how many `<extra_id_…>` there are.
///
/// # Errors
/// `Model` when it is no such number.
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

/// The options of tokenizer_config.json that change tokens, with transformers' defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenizerOptions {
    pub(super) do_lower_case: bool,
    pub(super) do_basic_tokenize: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) tokenize_chinese_chars: bool,
    pub(super) add_prefix_space: bool,
    pub(super) add_bos_token: bool,
    /// T5: where a space is put when the tokenizer is made of a sentencepiece model.
    pub(super) prepend_scheme: PrependScheme,
    /// T5: whether tokenizer.json is passed over for the sentencepiece model.
    pub(super) from_slow: bool,
    trim_offsets: bool,
    split_special_tokens: bool,
}

impl TokenizerOptions {
    pub(super) fn read(config: &Map<String, Value>, class: TokenizerClass) -> Self {
        let flag = |name| config.get(name).and_then(Value::as_bool);
        let given_prefix_space = flag("add_prefix_space");
        Self {
            do_lower_case: flag("do_lower_case").unwrap_or(true),
            do_basic_tokenize: flag("do_basic_tokenize").unwrap_or(true),
            strip_accents: flag("strip_accents"),
            tokenize_chinese_chars: flag("tokenize_chinese_chars").unwrap_or(true),
            add_prefix_space: given_prefix_space.unwrap_or(false),
            add_bos_token: flag("add_bos_token").unwrap_or(false),
            prepend_scheme: match (given_prefix_space, flag("legacy")) {
                (Some(false), _) => PrependScheme::Never,
                (_, Some(false)) => PrependScheme::First,
                _ => PrependScheme::Always,
            },
            // As its fast class has it: a prefix space, wanted or not, is a matter of the conversion.
            from_slow: class.is_t5() && given_prefix_space.is_some(),
            trim_offsets: flag("trim_offsets").unwrap_or(true),
            split_special_tokens: flag("split_special_tokens").unwrap_or(false),
        }
    }

    /// Makes `tokenizer` what these options ask for.
    pub(super) fn apply(self, class: TokenizerClass, tokenizer: &mut Tokenizer) -> Result<()> {
        tokenizer.set_encode_special_tokens(self.split_special_tokens);
        if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = tokenizer.get_pre_tokenizer()
            && bytes.add_prefix_space != self.add_prefix_space
        {
            let bytes = ByteLevel::new(self.add_prefix_space, true, bytes.use_regex);
            tokenizer.with_pre_tokenizer(Some(bytes));
        }
        match class {
            TokenizerClass::Bert | TokenizerClass::DistilBert | TokenizerClass::MpNet => {
                self.apply_normalizer(class, tokenizer)
            }
            TokenizerClass::Roberta => {
                self.apply_post_processor(tokenizer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn apply_normalizer(self, class: TokenizerClass, tokenizer: &mut Tokenizer) -> Result<()> {
        let Some(NormalizerWrapper::BertNormalizer(has)) = tokenizer.get_normalizer() else {
            return Ok(());
        };
        // MPNet's class neither looks at the ideographs nor sets them.
        let handle_chinese_chars = match class {
            TokenizerClass::MpNet => has.handle_chinese_chars,
            _ => self.tokenize_chinese_chars,
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
        // In transformers the added tokens stay as the first normalizer left them; `with_normalizer`
        // would normalize them anew, hence they are put back.
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
