//! The tokenizers of encoders over unigram models: what their classes set themselves, whatever tokenizer.json has.
//!
//! # Source
//! transformers 5.24: `tokenization_deberta_v2.py`, `tokenization_albert.py`, `tokenization_siglip.py`.

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NFKD, Precompiled, Replace, Sequence as Normalizers, Strip, StripAccents,
};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{
    ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
};

use super::bpe;
use super::convert::{self, Vocabulary, broken};
use super::overrides::TokenizerOptions;
use super::special::SpecialTokens;
use crate::error::{Error, ErrorKind, Result};

const DEBERTA_V2_FILE: &str = "spm.model";
const ALBERT_FILE: &str = "spiece.model";
const SIGLIP_FILE: &str = "spiece.model";

/// The characters of Python's `string.punctuation`.
const PUNCTUATION: &str = r"[!-/:-@\[-`{-~]";

/// `DebertaV2Tokenizer`.
pub(super) fn deberta_v2_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    check_model(tokenizer)?;
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if options.given_lower_case == Some(true) {
        normalizers.push(Lowercase.into());
    }
    let spaces = ReplacePattern::Regex(r"\s{2,}|[\n\r\t]".into());
    normalizers.push(replace(spaces, " ", DEBERTA_V2_FILE)?.into());
    normalizers.push(NFC.into());
    normalizers.push(Strip::new(false, true).into());
    let mut words: Vec<PreTokenizerWrapper> = Vec::new();
    if options.split_by_punct {
        words.push(Punctuation::new(SplitDelimiterBehavior::Isolated).into());
    }
    let scheme = match options.given_prefix_space {
        Some(false) => PrependScheme::First,
        _ => PrependScheme::Always,
    };
    let metaspace = Metaspace::new('▁', scheme, true);
    words.push(metaspace.clone().into());
    let normalizer = Normalizers::new(normalizers).into();
    bpe::set_steps(tokenizer, Some(normalizer), PreTokenizers::new(words), metaspace)
}

/// `AlbertTokenizer`.
pub(super) fn albert_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    check_model(tokenizer)?;
    let quotes = |quote: &str| replace(ReplacePattern::String(quote.into()), "\"", ALBERT_FILE);
    let mut normalizers: Vec<NormalizerWrapper> = vec![quotes("``")?.into(), quotes("''")?.into()];
    if !options.keep_accents {
        normalizers.extend([NFKD.into(), StripAccents.into()]);
    }
    if options.do_lower_case {
        normalizers.push(Lowercase.into());
    }
    normalizers.extend(precompiled(tokenizer.get_normalizer()).map(Into::into));
    let scheme = match options.given_prefix_space {
        Some(false) => PrependScheme::Never,
        _ => PrependScheme::Always,
    };
    let metaspace = Metaspace::new('▁', scheme, true);
    let words = PreTokenizers::new(vec![WhitespaceSplit.into(), metaspace.clone().into()]);
    bpe::set_steps(tokenizer, Some(Normalizers::new(normalizers).into()), words, metaspace)
}

/// `SiglipTokenizer`, which drops ASCII punctuation. Whitespace at the start of a text becomes a piece of its own.
pub(super) fn siglip_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    check_model(tokenizer)?;
    let pattern = |pattern: &str, content| {
        replace(ReplacePattern::Regex(pattern.into()), content, SIGLIP_FILE)
    };
    let mut normalizers: Vec<NormalizerWrapper> = vec![pattern("▁", " ")?.into()];
    if options.given_lower_case != Some(false) {
        normalizers.push(Lowercase.into());
    }
    normalizers.push(pattern(PUNCTUATION, "")?.into());
    normalizers.push(Strip::new(false, true).into());
    normalizers.push(pattern(r"\A\s+", "▁▁")?.into());
    normalizers.push(pattern(r"\s+", " ")?.into());
    normalizers.extend(precompiled(tokenizer.get_normalizer()).map(Into::into));
    normalizers.push(pattern(" {2,}", " ")?.into());
    let words = Metaspace::new('▁', PrependScheme::First, true);
    let normalizer = Normalizers::new(normalizers).into();
    bpe::set_steps(tokenizer, Some(normalizer), words.clone(), words)
}

/// The vocabulary of [`siglip_steps`].
pub(super) fn siglip(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    Ok(convert::plain_pieces(vocabulary, &[SIGLIP_FILE])?.0)
}

/// The vocabulary of [`deberta_v2_steps`].
pub(super) fn deberta_v2(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    convert::pieces_in_order(vocabulary, &[DEBERTA_V2_FILE])
}

/// The vocabulary of [`albert_steps`].
pub(super) fn albert(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    convert::pieces_in_order(vocabulary, &[ALBERT_FILE])
}

/// The first normalization rules of a sentencepiece model.
fn precompiled(normalizer: Option<&NormalizerWrapper>) -> Option<Precompiled> {
    match normalizer? {
        NormalizerWrapper::Precompiled(rules) => Some(rules.clone()),
        NormalizerWrapper::Sequence(normalizers) => {
            normalizers.as_ref().iter().find_map(|normalizer| precompiled(Some(normalizer)))
        }
        _ => None,
    }
}

fn check_model(tokenizer: &Tokenizer) -> Result<()> {
    if matches!(tokenizer.get_model(), ModelWrapper::Unigram(_)) {
        return Ok(());
    }
    let message = "the model is not Unigram, which the tokenizer class expects";
    Err(Error::new(ErrorKind::Unsupported, message).hint(
        "`tokenizer_class: TokenizersBackend` in tokenizer_config.json uses the file as it is",
    ))
}

fn replace(pattern: ReplacePattern, content: &str, file: &str) -> Result<Replace> {
    Replace::new(pattern, content).map_err(broken(file))
}
