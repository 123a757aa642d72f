//! Language codes of translation models: which ones a tokenizer knows, and the tokens that say the languages of a text and
//! of its translation. Not here: the prefixes of T5, and `>>fra<<` of Marian, which are part of the text.
//!
//! # Source
//! transformers 5.24: `tokenization_{mbart,mbart50,nllb,m2m_100}.py`.

use serde_json::{Map, Value};
use tokenizers::Tokenizer;
use tokenizers::processors::template::TemplateProcessing;

use super::AutoTokenizer;
use crate::error::{Error, ErrorKind, Result};

/// The languages of mBART-50, in the order of their ids; the first [`MBART`] of them are those of mBART-25.
pub(super) const MBART50: &[&str] = &[
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN",
    "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO",
    "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL",
    "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF",
    "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA",
    "gl_ES", "sl_SI",
];

/// The languages of M2M-100, in the order of their ids.
pub(super) const M2M_100: &[&str] = &[
    "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy",
    "da", "de", "el", "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha",
    "he", "hi", "hr", "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv", "ka", "kk",
    "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my",
    "ne", "nl", "no", "ns", "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru", "sd", "si", "sk", "sl",
    "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl", "tn", "tr", "uk", "ur", "uz", "vi",
    "wo", "xh", "yi", "yo", "zh", "zu",
];

/// The languages of the models of WMT21, in the order of their ids.
pub(super) const WMT21: &[&str] = &["en", "ha", "is", "ja", "cs", "ru", "zh", "de"];

/// The number of languages of mBART-25 in [`MBART50`].
pub(super) const MBART: usize = 25;

/// How the tokens of a class say the language of a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct LanguageStyle {
    /// The source language if no file names one.
    pub(super) default: &'static str,
    /// Whether the code follows the end token; otherwise, it begins the text. `legacy_behaviour: true` makes it follow.
    pub(super) follows: bool,
    /// Whether the token of a code is `__code__`.
    pub(super) underscores: bool,
}

/// The languages of a tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Languages {
    style: LanguageStyle,
    /// The codes that the vocabulary has.
    codes: Vec<String>,
    src_lang: String,
    tgt_lang: Option<String>,
}

/// The special tokens of a text to translate, and those that its translation begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslationTokens {
    /// The ids before the text.
    pub before: Vec<u32>,
    /// The ids after the text.
    pub after: Vec<u32>,
    /// The id that the translation begins with; `None` without a target language.
    pub forced_bos_token_id: Option<u32>,
}

impl Languages {
    /// The languages among `tokens`, which are special tokens, with the settings of tokenizer_config.json.
    ///
    /// # Errors
    /// `Model` if `src_lang` or `tgt_lang` is no text.
    pub(super) fn new(
        mut style: LanguageStyle,
        tokens: impl IntoIterator<Item = String>,
        config: &Map<String, Value>,
    ) -> Result<Self> {
        let text = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(code)) => Ok(Some(code.clone())),
            Some(other) => Err(Error::new(
                ErrorKind::Model,
                format!("`{key}` in tokenizer_config.json is `{other}`, not a language code"),
            )),
        };
        style.follows |= config.get("legacy_behaviour").and_then(Value::as_bool).unwrap_or(false);
        let mut codes: Vec<String> = tokens.into_iter().filter_map(|t| style.code(&t)).collect();
        codes.sort_unstable();
        codes.dedup();
        let src_lang = text("src_lang")?.unwrap_or_else(|| style.default.to_owned());
        Ok(Self { style, codes, src_lang, tgt_lang: text("tgt_lang")? })
    }

    /// Checks that the vocabulary has the language.
    fn check(&self, key: &str, code: &str) -> Result<()> {
        if self.codes.iter().any(|known| known == code) {
            return Ok(());
        }
        let similarity = |known: &String| strsim::jaro_winkler(known, &code.to_lowercase());
        let nearest = self.codes.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        let error = Error::new(
            ErrorKind::Config,
            format!("`{key}: {code}` is not a language of the tokenizer"),
        );
        Err(match nearest {
            Some(nearest) => error.hint(format!(
                "did you mean `{nearest}`? The tokenizer has {} languages, such as {}",
                self.codes.len(),
                self.codes.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
            )),
            None => error.hint("the tokenizer has no language codes"),
        })
    }

    /// The special tokens around a text in the language `code`: its language token and the end token.
    fn frame(&self, code: &str, eos: &str) -> (Vec<String>, Vec<String>) {
        let (language, end) = (self.style.token(code), eos.to_owned());
        if self.style.follows {
            (Vec::new(), vec![end, language])
        } else {
            (vec![language], vec![end])
        }
    }

    /// The tokens that are put around a text by default.
    pub(super) fn framing_tokens(&self, eos: &str) -> impl Iterator<Item = String> {
        let (before, after) = self.frame(&self.src_lang, eos);
        before.into_iter().chain(after)
    }

    /// Has the tokenizer put the tokens of the source language around a text. `id` is that of a token.
    ///
    /// # Errors
    /// `Model` if the vocabulary lacks the language or the end token.
    pub(super) fn set_frame(
        &self,
        tokenizer: &mut Tokenizer,
        eos: &str,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Result<()> {
        let (before, after) = self.frame(&self.src_lang, eos);
        set_frame(tokenizer, &before, &after, id).map_err(|error| {
            error.hint("set `src_lang` in tokenizer_config.json to a language of the tokenizer")
        })
    }
}

/// Has the tokenizer put these tokens around a text, or around a pair without anything between the two.
///
/// # Errors
/// `Model` if `id` lacks a token.
pub(super) fn set_frame(
    tokenizer: &mut Tokenizer,
    before: &[String],
    after: &[String],
    id: impl Fn(&str) -> Option<u32>,
) -> Result<()> {
    let tokens = before.iter().chain(after).map(|token| match id(token) {
        Some(id) => Ok((token.clone(), id)),
        None => Err(Error::new(ErrorKind::Model, format!("`{token}` is not in the vocabulary"))),
    });
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let template = |texts: &[&str]| -> Vec<String> {
        let texts = texts.iter().map(|text| (*text).to_owned());
        before.iter().cloned().chain(texts).chain(after.iter().cloned()).collect()
    };
    let build = || -> tokenizers::Result<TemplateProcessing> {
        let mut builder = TemplateProcessing::builder();
        builder.try_single(template(&["$A"]))?.try_pair(template(&["$A", "$B"]))?;
        Ok(builder.special_tokens(tokens).build()?)
    };
    let template = build().map_err(|e| {
        Error::new(ErrorKind::Model, "cannot add special tokens around a text").source(e)
    })?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

impl LanguageStyle {
    fn token(self, code: &str) -> String {
        if self.underscores { format!("__{code}__") } else { code.to_owned() }
    }

    /// The code of a token, if it is one of a language: `__fr__`; `fr_XX`, `fra_Latn`.
    fn code(self, token: &str) -> Option<String> {
        if self.underscores {
            let code = token.strip_prefix("__")?.strip_suffix("__")?;
            return (!code.is_empty()).then(|| code.to_owned());
        }
        let (language, region) = token.split_once('_')?;
        let is_code = (2..=3).contains(&language.len())
            && language.bytes().all(|c| c.is_ascii_lowercase())
            && region.starts_with(|c: char| c.is_ascii_uppercase())
            && region.bytes().all(|c| c.is_ascii_alphabetic());
        is_code.then(|| token.to_owned())
    }
}

impl AutoTokenizer {
    /// The codes of the languages that the tokenizer knows, sorted; empty for a tokenizer without language codes.
    pub fn language_codes(&self) -> &[String] {
        self.languages.as_ref().map_or(&[], |languages| &languages.codes)
    }

    /// The special tokens for translations from `src_lang` to `tgt_lang`; without these, the languages in the tokenizer's
    /// files. `None` for a tokenizer without language codes.
    ///
    /// # Errors
    /// `Config` for a language that the tokenizer does not know, with the nearest one.
    pub fn translation_tokens(
        &self,
        src_lang: Option<&str>,
        tgt_lang: Option<&str>,
    ) -> Result<Option<TranslationTokens>> {
        let Some(languages) = &self.languages else { return Ok(None) };
        let src_lang = src_lang.unwrap_or(&languages.src_lang);
        let tgt_lang = tgt_lang.or(languages.tgt_lang.as_deref());
        languages.check("src_lang", src_lang)?;
        if let Some(tgt_lang) = tgt_lang {
            languages.check("tgt_lang", tgt_lang)?;
        }
        let eos = self.special.require("eos_token")?;
        let (before, after) = languages.frame(src_lang, eos);
        let id = |token: &str| {
            self.token_to_id(token).ok_or_else(|| {
                Error::new(ErrorKind::Model, format!("`{token}` is not in the vocabulary"))
            })
        };
        let ids = |tokens: Vec<String>| tokens.iter().map(|token| id(token)).collect::<Result<_>>();
        Ok(Some(TranslationTokens {
            before: ids(before)?,
            after: ids(after)?,
            forced_bos_token_id: tgt_lang
                .map(|code| id(&languages.style.token(code)))
                .transpose()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_languages_by_their_form() {
        let plain = LanguageStyle { default: "en_XX", follows: true, underscores: false };
        for (token, is_code) in [
            ("en_XX", true),
            ("zho_Hans", true),
            ("fr", false),
            ("_XX", false),
            ("en_xx", false),
            ("<mask>", false),
            ("en_X X", false),
        ] {
            assert_eq!(plain.code(token).is_some(), is_code, "{token}");
        }
        let wrapped = LanguageStyle { underscores: true, ..plain };
        assert_eq!(wrapped.code("__fr__").as_deref(), Some("fr"));
        assert_eq!((wrapped.code("____"), wrapped.code("fr")), (None, None));
    }
}
