//! The tokenizers of decoders and of translation models: byte pair encoding from sentencepiece models, and what their classes set themselves,
//! whatever tokenizer.json has.
//!
//! # Source
//! transformers 5.24: `tokenization_llama.py`, `tokenization_gemma.py`, `tokenization_qwen2.py`, `tokenization_gpt2.py`,
//! `tokenization_{nllb,mbart,mbart50,pegasus,clip}.py`, and `SpmConverter.build_tokenizer_from_spm_proto` for the classes without settings of their own.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    Tokenizer,
};

use super::convert::{self, Vocabulary, broken};
use super::overrides::TokenizerOptions;
use super::sentencepiece::{ModelProto, ModelType, PieceKind};
use super::special::SpecialTokens;
use crate::error::{Error, ErrorKind, Result};

const FILE: &str = "tokenizer.model";

/// The length of pieces in characters, so that finding their parts takes bounded time. Trained models have up to 48.
const MAX_PIECE_LENGTH: usize = 1000;

/// Words of Qwen2.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Sets the steps that a class does not read from tokenizer.json: all but its vocabulary, its merges, its added tokens
/// and the special tokens around a text.
pub(super) type SetSteps = fn(&mut Tokenizer, TokenizerOptions, &SpecialTokens) -> Result<()>;

/// `LlamaTokenizer`.
pub(super) fn llama_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    // The class names no token for unknown characters: they are dropped if their bytes have no pieces.
    set_model(tokenizer, Alphabet::Characters, None)?;
    let scheme = options.prepend_scheme(false);
    let mut decoders = pieces_to_text()?;
    if scheme != PrependScheme::Never {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    set_steps(tokenizer, None, Metaspace::new('▁', scheme, false), Decoders::new(decoders))
}

/// `GemmaTokenizer`.
pub(super) fn gemma_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    let unk = special.require("unk_token")?;
    set_model(tokenizer, Alphabet::Characters, Some(unk))?;
    let words =
        split(SplitPattern::String(" ".into()), SplitDelimiterBehavior::MergedWithPrevious)?;
    let normalizer = replace(ReplacePattern::String(" ".into()), "▁")?;
    set_steps(tokenizer, Some(normalizer.into()), words, Decoders::new(pieces_to_text()?))
}

/// `Qwen2Tokenizer`.
pub(super) fn qwen2_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    set_model(tokenizer, Alphabet::Bytes, None)?;
    let words = SplitPattern::Regex(QWEN2_WORDS.into());
    let words = split(words, SplitDelimiterBehavior::Isolated)?;
    let bytes = ByteLevel::new(options.add_prefix_space, true, false);
    let words = PreTokenizers::new(vec![words.into(), bytes.into()]);
    set_steps(tokenizer, Some(NFC.into()), words, ByteLevel::default())
}

/// `GPTNeoXTokenizer`.
pub(super) fn gpt_neox_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    set_model(tokenizer, Alphabet::Bytes, None)?;
    let words = ByteLevel::new(options.add_prefix_space, options.trim_offsets, true);
    set_steps(tokenizer, Some(NFC.into()), words, ByteLevel::default())
}

/// `GPT2Tokenizer`.
pub(super) fn gpt2_steps(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    set_model(tokenizer, Alphabet::Bytes, None)?;
    let words = ByteLevel::new(options.add_prefix_space, true, true);
    set_steps(tokenizer, None, words, ByteLevel::default())
}

/// The words of CLIP: contractions, letters, single digits, other characters.
const CLIP_WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// `CLIPTokenizer`, whose pieces at the end of a word end in `</w>`.
pub(super) fn clip_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    let unk_token = special.require("unk_token")?;
    set_model(tokenizer, Alphabet::Bytes, Some(unk_token))?;
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        return Err(Error::new(ErrorKind::Internal, "the model is not BPE"));
    };
    let mut model = model.clone();
    model.end_of_word_suffix = Some("</w>".to_owned());
    tokenizer.with_model(model);
    let (bos, eos) = (special.require("bos_token")?, special.require("eos_token")?);
    let ids = (convert::require_id(tokenizer, bos)?, convert::require_id(tokenizer, eos)?);
    let space = replace(ReplacePattern::Regex(r"\s+".into()), " ")?;
    let normalizer = Normalizers::new(vec![NFC.into(), space.into(), Lowercase.into()]);
    let words = SplitPattern::Regex(CLIP_WORDS.into());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(broken(FILE))?;
    let words = PreTokenizers::new(vec![words.into(), ByteLevel::new(false, true, true).into()]);
    set_steps(tokenizer, Some(normalizer.into()), words, ByteLevel::default())?;
    let processing = RobertaProcessing::new((eos.into(), ids.1), (bos.into(), ids.0))
        .add_prefix_space(false)
        .trim_offsets(false);
    tokenizer.with_post_processor(Some(processing));
    Ok(())
}

/// Sets the flags of the model. Copies it only if they differ, because it may be large.
fn set_model(tokenizer: &mut Tokenizer, alphabet: Alphabet, unk_token: Option<&str>) -> Result<()> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        let message = "the model is not BPE, which the tokenizer class expects";
        return Err(Error::new(ErrorKind::Unsupported, message).hint(
            "`tokenizer_class: TokenizersBackend` in tokenizer_config.json uses the file as it is",
        ));
    };
    let has_bytes = alphabet == Alphabet::Characters;
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    let is_set = model.unk_token.as_deref() == unk_token
        && (model.fuse_unk, model.byte_fallback) == (has_bytes, has_bytes)
        && affixes.iter().all(|affix| affix.as_deref().is_none_or(str::is_empty))
        && !model.ignore_merges
        && model.dropout.is_none();
    if !is_set {
        let mut model = model.clone();
        model.unk_token = unk_token.map(str::to_owned);
        (model.fuse_unk, model.byte_fallback) = (has_bytes, has_bytes);
        (model.continuing_subword_prefix, model.end_of_word_suffix) = (None, None);
        (model.ignore_merges, model.dropout) = (false, None);
        tokenizer.with_model(model);
    }
    Ok(())
}

/// The units of a text before the first merge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    /// Bytes: there are no unknown ones.
    Bytes,
    /// Characters; unknown ones become pieces of their UTF-8 bytes.
    Characters,
}

pub(super) fn set_steps(
    tokenizer: &mut Tokenizer,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: impl Into<PreTokenizerWrapper>,
    decoder: impl Into<DecoderWrapper>,
) -> Result<()> {
    let set = tokenizer.with_normalizer(normalizer);
    set.map_err(|e| Error::new(ErrorKind::Model, "cannot set the normalizer").source(e))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(decoder));
    Ok(())
}

/// The decoders that join pieces, bytes among them.
fn pieces_to_text() -> Result<Vec<DecoderWrapper>> {
    let spaces = replace(ReplacePattern::String("▁".into()), " ")?;
    Ok(vec![spaces.into(), ByteFallback::default().into(), Fuse::default().into()])
}

fn replace(pattern: ReplacePattern, content: &str) -> Result<Replace> {
    Replace::new(pattern, content).map_err(broken(FILE))
}

fn split(pattern: SplitPattern, behavior: SplitDelimiterBehavior) -> Result<Split> {
    Split::new(pattern, behavior, false).map_err(broken(FILE))
}

/// `NllbTokenizer`.
pub(super) fn nllb_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    set_model(tokenizer, Alphabet::Characters, Some(special.require("unk_token")?))?;
    let normalizer = match precompiled(tokenizer) {
        None => None,
        Some(rules) => Some(Normalizers::new(vec![rules, spaces(" ")?]).into()),
    };
    let words = metaspace();
    set_steps(tokenizer, normalizer, words.clone(), words)
}

/// `MBartTokenizer`.
pub(super) fn mbart_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    let words = PreTokenizers::new(vec![WhitespaceSplit.into(), metaspace().into()]);
    set_steps(tokenizer, None, words, metaspace())
}

/// `MBart50Tokenizer`.
pub(super) fn mbart50_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    let steps = precompiled(tokenizer).into_iter().chain([spaces(" ")?]).collect();
    let words = metaspace();
    set_steps(tokenizer, Some(Normalizers::new(steps).into()), words.clone(), words)
}

/// `PegasusTokenizer`.
pub(super) fn pegasus_steps(
    tokenizer: &mut Tokenizer,
    _: TokenizerOptions,
    _: &SpecialTokens,
) -> Result<()> {
    let first = match precompiled(tokenizer) {
        Some(rules) => rules,
        None => replace(ReplacePattern::Regex("\\n".into()), " ")?.into(),
    };
    let normalizer = Normalizers::new(vec![first, spaces(" ")?]);
    let words = metaspace();
    set_steps(tokenizer, Some(normalizer.into()), words.clone(), words)
}

/// The steps that put `▁` before each word.
fn metaspace() -> Metaspace {
    Metaspace::new('▁', PrependScheme::Always, true)
}

/// Replaces several spaces.
fn spaces(content: &str) -> Result<NormalizerWrapper> {
    Ok(replace(ReplacePattern::Regex(" {2,}".into()), content)?.into())
}

/// The normalization rules of the sentencepiece model among the normalizers of a tokenizer.
fn precompiled(tokenizer: &Tokenizer) -> Option<NormalizerWrapper> {
    fn find(normalizer: &NormalizerWrapper) -> Option<NormalizerWrapper> {
        match normalizer {
            NormalizerWrapper::Precompiled(_) => Some(normalizer.clone()),
            NormalizerWrapper::Sequence(steps) => steps.as_ref().iter().find_map(find),
            _ => None,
        }
    }
    find(tokenizer.get_normalizer()?)
}

/// The vocabulary of NLLB from a sentencepiece model: fairseq's first tokens, then the pieces.
pub(super) fn nllb(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    const FILE: &str = "sentencepiece.bpe.model";
    let (_, proto) = convert::read_any_model_proto(vocabulary, "`tokenizer.json`, ", &[FILE])?;
    check_proto(&proto).map_err(|error| error.at(FILE))?;
    let mut names = vec!["<s>", "<pad>", "</s>", "<unk>"];
    let mut seen: BTreeSet<&str> = names.iter().copied().collect();
    let pieces = proto.pieces.iter().map(|piece| piece.piece.as_str());
    names.extend(pieces.filter(|piece| seen.insert(piece)));
    let ids = vocab(&names);
    let scores: BTreeMap<&str, Rank> = proto
        .pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.piece.as_str(), Rank { score: piece.score, id }))
        .collect();
    let merges = merges(&names, |piece| scores.get(piece).copied());
    let model = BPE::builder().vocab_and_merges(ids, merges).build().map_err(broken(FILE))?;
    let mut tokenizer = Tokenizer::new(model);
    if let Some(rules) = convert::precompiled(FILE, &proto)? {
        convert::set_normalizer(&mut tokenizer, rules)?;
    }
    Ok(tokenizer)
}

/// The vocabulary of a class with steps of its own, from a sentencepiece model. The ids of the pieces rank the merges.
pub(super) fn from_pieces(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let proto = read_proto(vocabulary)?;
    let names: Vec<&str> = proto.pieces.iter().map(|piece| piece.piece.as_str()).collect();
    let ids = vocab(&names);
    let merges = merges(&names, |piece| ids.get(piece).copied());
    let model = BPE::builder().vocab_and_merges(ids, merges).build().map_err(broken(FILE))?;
    let mut tokenizer = Tokenizer::new(model);
    convert::add_pieces(&mut tokenizer, &proto.pieces)?;
    Ok(tokenizer)
}

fn vocab(names: &[&str]) -> Vocab {
    (0..).zip(names).map(|(id, name)| ((*name).to_owned(), id)).collect()
}

/// The pairs of pieces that make a piece, by the rank of that piece and the length of the left one.
fn merges<K: Ord + Copy>(
    names: &[&str],
    rank: impl Fn(&str) -> Option<K>,
) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let mut merges = Vec::new();
    for name in names {
        let Some(own) = rank(name).filter(|_| seen.insert(*name)) else { continue };
        for (at, _) in name.char_indices().skip(1) {
            let (left, right) = name.split_at(at);
            if rank(left).is_some() && rank(right).is_some() {
                merges.push((own, left, right));
            }
        }
    }
    merges.sort_by_key(|(own, left, _)| (*own, left.len()));
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

fn read_proto(vocabulary: &mut Vocabulary<'_, '_>) -> Result<ModelProto> {
    let (_, proto) = convert::read_any_model_proto(vocabulary, "`tokenizer.json`, ", &[FILE])?;
    check_proto(&proto).map_err(|error| error.at(FILE))?;
    Ok(proto)
}

/// Checks that a model is one of the types that are implemented, with pieces of bounded length.
fn check_proto(proto: &ModelProto) -> Result<()> {
    let long = proto.pieces.iter().find(|piece| piece.piece.chars().count() > MAX_PIECE_LENGTH);
    if long.is_some() {
        let message = format!("a piece has more than {MAX_PIECE_LENGTH} characters");
        return Err(Error::new(ErrorKind::Model, message));
    }
    if !matches!(proto.model_type, ModelType::Bpe | ModelType::Unigram) {
        return Err(convert::unsupported_type(proto, "only BPE and UNIGRAM"));
    }
    Ok(())
}

/// `TokenizersBackend` from a sentencepiece model, with the model's own settings. The scores of the pieces rank the merges.
pub(super) fn tokenizers_backend(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let proto = read_proto(vocabulary)?;
    let special = &mut *vocabulary.special;
    let names = match proto.model_type {
        ModelType::Unigram => proto.pieces.iter().map(|piece| piece.piece.clone()).collect(),
        _ => renamed(&proto, special),
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let control = proto.pieces.iter().filter(|piece| piece.kind == PieceKind::Control);
    special.set_additional(control.map(|piece| piece.piece.as_str()));
    special.set_default("unk_token", &proto.unk_piece);
    for (attribute, piece) in [("bos_token", &proto.bos_piece), ("eos_token", &proto.eos_piece)] {
        if let Some(piece) = piece {
            special.set_default(attribute, piece);
        }
    }
    if proto.add_dummy_prefix {
        special.match_added_before_normalization();
    }

    with_own_settings(&proto, &names, vocabulary.options.legacy.unwrap_or(true))
}

/// The tokenizer that splits texts as the sentencepiece library does with a model.
///
/// # Errors
/// `Unsupported` for a model that is neither BPE nor unigram, `Model` for a damaged one.
pub(super) fn sentencepiece(proto: &ModelProto) -> Result<Tokenizer> {
    check_proto(proto)?;
    let names: Vec<&str> = proto.pieces.iter().map(|piece| piece.piece.as_str()).collect();
    let mut tokenizer = with_own_settings(proto, &names, true)?;
    if proto.remove_extra_whitespaces && proto.escape_whitespaces {
        // The library takes a `▁` at the end of a text for a space.
        let mut steps = backend_normalizers(proto, true)?;
        steps.push(replace(ReplacePattern::Regex(r"▁+\z".into()), "")?.into());
        convert::set_normalizer(&mut tokenizer, Normalizers::new(steps))?;
    }
    Ok(tokenizer)
}

/// The tokenizer of a model with pieces of these names and its own settings. With `legacy`, each stretch of text between
/// added tokens begins with a space.
fn with_own_settings(proto: &ModelProto, names: &[&str], legacy: bool) -> Result<Tokenizer> {
    let user_defined = user_defined(proto, names);
    let mut tokenizer = Tokenizer::new(backend_model(proto, names, !user_defined.is_empty())?);
    let normalizer = Normalizers::new(backend_normalizers(proto, legacy)?);
    convert::set_normalizer(&mut tokenizer, normalizer)?;
    let mut words: Vec<PreTokenizerWrapper> = Vec::new();
    if proto.add_dummy_prefix {
        let scheme = if legacy { PrependScheme::Always } else { PrependScheme::First };
        words.push(Metaspace::new('▁', scheme, false).into());
    }
    if !user_defined.is_empty() {
        let pieces: Vec<String> = user_defined.iter().map(|piece| escaped(piece)).collect();
        let pattern = SplitPattern::Regex(pieces.join("|"));
        words.push(split(pattern, SplitDelimiterBehavior::Isolated)?.into());
    }
    if !words.is_empty() {
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(words)));
    }
    tokenizer.with_decoder(Some(Decoders::new(backend_decoders(proto)?)));
    Ok(tokenizer)
}

/// The names of the pieces of a BPE: those of `added_tokens_decoder` replace placeholders.
fn renamed(proto: &ModelProto, special: &SpecialTokens) -> Vec<String> {
    let given: BTreeMap<usize, &str> = special.added().collect();
    let pieces = proto.pieces.iter().enumerate();
    let kept: BTreeSet<&str> = pieces
        .clone()
        .filter(|(id, _)| !given.contains_key(id))
        .map(|(_, piece)| piece.piece.as_str())
        .collect();
    let name = |(id, piece)| match given.get(&id) {
        Some(name) if !kept.contains(name) => (*name).to_owned(),
        _ => piece,
    };
    pieces.map(|(id, piece)| name((id, piece.piece.clone()))).collect()
}

/// The pieces that a user defined, the longest first: they are always one token.
fn user_defined<'n>(proto: &ModelProto, names: &[&'n str]) -> Vec<&'n str> {
    let pieces = proto.pieces.iter().zip(names);
    let own = pieces.filter(|(piece, _)| piece.kind == PieceKind::UserDefined);
    let mut own: Vec<_> = own.map(|(_, name)| *name).filter(|name| !name.is_empty()).collect();
    own.sort_by_key(|name| std::cmp::Reverse(name.chars().count()));
    own
}

/// A text as a regular expression that matches it.
fn escaped(text: &str) -> String {
    let escape = |c: char| (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some('\\');
    text.chars().flat_map(|c| escape(c).into_iter().chain([c])).collect()
}

fn backend_model(
    proto: &ModelProto,
    names: &[&str],
    has_user_defined: bool,
) -> Result<ModelWrapper> {
    if proto.model_type == ModelType::Unigram {
        let pieces = names.iter().zip(&proto.pieces);
        let pieces = pieces.map(|(name, piece)| ((*name).to_owned(), f64::from(piece.score)));
        let model = Unigram::from(pieces.collect(), Some(proto.unk_id), proto.byte_fallback);
        return Ok(model.map_err(broken(FILE))?.into());
    }
    let ids = vocab(names);
    if !ids.contains_key(&proto.unk_piece) {
        let message = format!("there is no piece `{}` for unknown characters", proto.unk_piece);
        return Err(Error::new(ErrorKind::Model, message).at(FILE));
    }
    let normal = names.iter().zip(&proto.pieces).enumerate();
    let normal = normal.filter(|(_, (_, piece))| piece.kind == PieceKind::Normal);
    let ranks: BTreeMap<&str, Rank> =
        normal.map(|(id, (name, piece))| (*name, Rank { score: piece.score, id })).collect();
    let merges = merges(names, |piece| ranks.get(piece).copied());
    let model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .unk_token(proto.unk_piece.clone())
        .fuse_unk(true)
        .byte_fallback(proto.byte_fallback)
        .ignore_merges(has_user_defined)
        .build();
    Ok(model.map_err(broken(FILE))?.into())
}

/// The order of merges: the best score first, then the first piece.
#[derive(Clone, Copy, Debug)]
struct Rank {
    score: f32,
    id: usize,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

/// The normalization of sentencepiece, in its order.
fn backend_normalizers(proto: &ModelProto, legacy: bool) -> Result<Vec<NormalizerWrapper>> {
    let mut steps: Vec<NormalizerWrapper> =
        convert::precompiled(FILE, proto)?.into_iter().collect();
    let regex = |pattern: &str| ReplacePattern::Regex(pattern.into());
    if proto.remove_extra_whitespaces {
        steps.push(replace(regex(r"\A +| +\z"), "")?.into());
        steps.push(replace(regex(" {2,}"), " ")?.into());
    }
    if proto.escape_whitespaces {
        steps.push(replace(ReplacePattern::String(" ".into()), "▁")?.into());
    }
    if proto.add_dummy_prefix && legacy {
        // `Metaspace` adds no prefix to a text that begins with `▁`, as sentencepiece does.
        steps.push(replace(regex(r"\A▁"), "▁▁")?.into());
    }
    Ok(steps)
}

fn backend_decoders(proto: &ModelProto) -> Result<Vec<DecoderWrapper>> {
    let spaces = replace(ReplacePattern::String("▁".into()), " ")?;
    let mut decoders: Vec<DecoderWrapper> = vec![spaces.into()];
    if proto.byte_fallback {
        decoders.push(ByteFallback::default().into());
    }
    if proto.add_dummy_prefix || proto.byte_fallback {
        decoders.push(Fuse::default().into());
    }
    if proto.add_dummy_prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    Ok(decoders)
}
