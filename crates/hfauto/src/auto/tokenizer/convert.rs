//! Builds tokenizers from vocabulary files, for checkpoints without a tokenizer.json.
//!
//! # Source
//! transformers 4.57: `convert_slow_tokenizer.py` and the slow class of each family.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::{self, BPE};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{BertNormalizer, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::checked;
use super::files::{TokenizerFiles, is_tiktoken, tiktoken_vocabulary};
use super::languages::{MBART, MBART50};
use super::overrides::{TokenizerOptions, extra_ids};
use super::sentencepiece::{ModelProto, ModelType, Piece, PieceKind};
use super::special::{self, SpecialTokens};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// The file names of sentencepiece models, in lookup order.
const SENTENCEPIECE_FILES: [&str; 3] =
    ["sentencepiece.bpe.model", "tokenizer.model", "spiece.model"];

/// The only name that T5's classes accept.
const T5_FILE: &str = "spiece.model";

/// The id of fairseq's `<unk>` in both families.
const FAIRSEQ_UNK_ID: usize = 3;

/// The inputs for building a tokenizer.
pub(super) struct Vocabulary<'a, 'b> {
    pub(super) files: &'a mut TokenizerFiles<'b>,
    pub(super) config: &'a Map<String, Value>,
    /// The name of the tokenizer class, for messages.
    pub(super) class: &'static str,
    pub(super) options: TokenizerOptions,
    pub(super) special: &'a mut SpecialTokens,
}

/// Builds the tokenizer of a class from its vocabulary files, without special tokens.
pub(super) type FromVocabulary = fn(&mut Vocabulary<'_, '_>) -> Result<Tokenizer>;

/// How to add special tokens around texts.
#[derive(Debug)]
pub(super) enum PostProcessor {
    /// Templates for one text and for a pair. Attributes such as `cls_token` stand for the tokens in the files.
    Template {
        single: &'static str,
        pair: &'static str,
    },
    Code(fn(&mut Tokenizer, TokenizerOptions, &SpecialTokens) -> Result<()>),
    /// Set by the tokenizer's languages or pieces.
    Own,
}

impl PostProcessor {
    /// Sets the special tokens around texts.
    pub(super) fn set(
        &self,
        tokenizer: &mut Tokenizer,
        options: TokenizerOptions,
        special: &SpecialTokens,
    ) -> Result<()> {
        match self {
            Self::Template { single, pair } => template(tokenizer, special, single, pair),
            Self::Code(set) => set(tokenizer, options, special),
            Self::Own => Ok(()),
        }
    }
}

impl Vocabulary<'_, '_> {
    pub(super) fn missing(&self, wanted: &str) -> Error {
        self.files.missing(self.class, wanted)
    }
}

pub(super) fn xlm_roberta(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    // Pieces 0, 1 and 2 of the model are <unk>, <s> and </s>.
    let first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)];
    fairseq(vocabulary, &first, 3)
}

pub(super) fn camembert(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    // Piece 0 of the model is <unk>; its replacement has a score that prevents it from being chosen.
    let first = [
        ("<s>NOTUSED", 0.0),
        ("<pad>", 0.0),
        ("</s>NOTUSED", 0.0),
        ("<unk>", 0.0),
        ("<unk>NOTUSED", -100.0),
    ];
    fairseq(vocabulary, &first, 1)
}

/// A sentencepiece vocabulary in fairseq's order: `first` replaces the first `own` pieces of the model.
fn fairseq(
    vocabulary: &mut Vocabulary<'_, '_>,
    first: &[(&str, f64)],
    own: usize,
) -> Result<Tokenizer> {
    let (file, proto) = read_model_proto(vocabulary, "`tokenizer.json`, ", &SENTENCEPIECE_FILES)?;
    let first = first.iter().map(|(text, score)| ((*text).to_string(), *score));
    let mask = [("<mask>".to_string(), 0.0)];
    let vocab = first.chain(pieces(&proto).skip(own)).chain(mask).collect();
    sentence_piece(file, &proto, vocab, FAIRSEQ_UNK_ID, PrependScheme::Always)
}

pub(super) fn mbart(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    with_languages(vocabulary, &MBART50[..MBART])
}

pub(super) fn mbart50(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    with_languages(vocabulary, MBART50)
}

/// As [`xlm_roberta`], with languages between the pieces and `<mask>`.
fn with_languages(vocabulary: &mut Vocabulary<'_, '_>, languages: &[&str]) -> Result<Tokenizer> {
    let (file, proto) = read_model_proto(vocabulary, "`tokenizer.json`, ", &SENTENCEPIECE_FILES)?;
    let own = |text: &&str| ((*text).to_owned(), 0.0);
    let first = ["<s>", "<pad>", "</s>", "<unk>"];
    let last = languages.iter().chain(&["<mask>"]);
    let vocab = first.iter().map(own).chain(pieces(&proto).skip(3)).chain(last.map(own)).collect();
    unigram(file, &proto, vocab, FAIRSEQ_UNK_ID)
}

/// PEGASUS: the tokens of its pretraining come before the pieces.
pub(super) fn pegasus(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let offset = pegasus_offset(vocabulary.config)?;
    let (file, proto) = read_model_proto(vocabulary, "`tokenizer.json`, ", &[T5_FILE])?;
    let first = ["<pad>", "</s>", "<mask_1>", "<mask_2>"].map(|text| (text.to_owned(), 0.0));
    let unknown = (2..offset).map(|i| (format!("<unk_{i}>"), -100.0));
    let vocab: Vec<_> = first.into_iter().chain(unknown).chain(pieces(&proto).skip(2)).collect();
    let unk = vocabulary.special.require("unk_token")?;
    let unk_id = vocab.iter().position(|(piece, _)| piece == unk).ok_or_else(|| {
        Error::new(ErrorKind::Model, format!("there is no piece `{unk}`")).at(file)
    })?;
    let unknown: Vec<String> = (2..offset).map(|i| format!("<unk_{i}>")).collect();
    vocabulary.special.extend_additional(unknown.iter().map(String::as_str));
    unigram(file, &proto, vocab, unk_id)
}

/// `offset` of tokenizer_config.json: the ids before the first piece.
fn pegasus_offset(config: &Map<String, Value>) -> Result<usize> {
    const DEFAULT: usize = 103;
    let Some(value) = config.get("offset") else { return Ok(DEFAULT) };
    let offset = value.as_u64().and_then(|offset| usize::try_from(offset).ok());
    offset.filter(|offset| *offset <= limits::TOKENIZER_SPECIAL_TOKENS).ok_or_else(|| {
        let most = limits::TOKENIZER_SPECIAL_TOKENS;
        let message = format!("`offset` in tokenizer_config.json is `{value}`, not at most {most}");
        Error::new(ErrorKind::Model, message)
    })
}

/// A unigram tokenizer whose class sets its steps. The normalizer has only the model's rules.
fn unigram(
    file: &str,
    proto: &ModelProto,
    vocab: Vec<(String, f64)>,
    unk_id: usize,
) -> Result<Tokenizer> {
    let model = Unigram::from(vocab, Some(unk_id), false).map_err(broken(file))?;
    let mut tokenizer = Tokenizer::new(model);
    if let Some(rules) = precompiled(file, proto)? {
        set_normalizer(&mut tokenizer, rules)?;
    }
    Ok(tokenizer)
}

/// A sentencepiece vocabulary followed by T5's extra ids in descending order.
pub(super) fn t5(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let extra_ids = extra_ids(vocabulary.config)?;
    let options = vocabulary.options;
    // An explicit prefix space in tokenizer_config.json rules out tokenizer.json.
    let besides = if options.from_slow { "" } else { "`tokenizer.json`, " };
    let (file, proto) = read_model_proto(vocabulary, besides, &[T5_FILE])?;
    let extra_ids = (0..extra_ids).rev().map(|i| (format!("<extra_id_{i}>"), 0.0));
    let vocab = pieces(&proto).chain(extra_ids).collect();
    sentence_piece(file, &proto, vocab, proto.unk_id, options.prepend_scheme(true))
}

/// The pieces of the first of `files` under their own ids; the class sets the steps.
pub(super) fn pieces_in_order(
    vocabulary: &mut Vocabulary<'_, '_>,
    files: &[&'static str],
) -> Result<Tokenizer> {
    let (mut tokenizer, proto) = plain_pieces(vocabulary, files)?;
    add_pieces(&mut tokenizer, &proto.pieces)?;
    Ok(tokenizer)
}

/// As [`pieces_in_order`], but control pieces are not found in texts, unless the class has them as special tokens.
pub(super) fn plain_pieces(
    vocabulary: &mut Vocabulary<'_, '_>,
    files: &[&'static str],
) -> Result<(Tokenizer, ModelProto)> {
    let (file, proto) = read_model_proto(vocabulary, "`tokenizer.json`, ", files)?;
    let model = Unigram::from(pieces(&proto).collect(), Some(proto.unk_id), false);
    let mut tokenizer = Tokenizer::new(model.map_err(broken(file))?);
    if let Some(rules) = precompiled(file, &proto)? {
        set_normalizer(&mut tokenizer, rules)?;
    }
    Ok((tokenizer, proto))
}

fn pieces(proto: &ModelProto) -> impl Iterator<Item = (String, f64)> + '_ {
    proto.pieces.iter().map(|piece| (piece.piece.clone(), f64::from(piece.score)))
}

pub(super) fn word_piece(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let Some(text) = vocabulary.files.read_text("vocab.txt")? else {
        return Err(vocabulary.missing("`tokenizer.json`, `vocab.txt`"));
    };
    let options = vocabulary.options;
    let mut vocab = bpe::Vocab::default();
    for (id, line) in (0..).zip(text.strip_suffix('\n').unwrap_or(&text).split('\n')) {
        vocab.insert(line.to_string(), id);
    }
    let unk = vocabulary.special.require("unk_token")?;
    if !vocab.contains_key(unk) {
        return Err(Error::new(ErrorKind::Model, format!("`vocab.txt` has no `{unk}`")));
    }
    let model = WordPiece::builder().vocab(vocab).unk_token(unk.to_string()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(broken("vocab.txt"))?);
    // A slow class without a basic tokenizer turns all of these off. BERT's fast class then resets them to the
    // options; MPNet's resets only some.
    let basic = options.do_basic_tokenize;
    let normalizer = BertNormalizer::new(
        true,
        basic && options.tokenize_chinese_chars,
        if basic { options.strip_accents } else { Some(false) },
        basic && options.do_lower_case,
    );
    set_normalizer(&mut tokenizer, normalizer)?;
    tokenizer
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(WordPieceDecoder::new("##".into(), true)));
    Ok(tokenizer)
}

pub(super) fn byte_level_bpe(vocabulary: &mut Vocabulary<'_, '_>) -> Result<Tokenizer> {
    let files = &mut *vocabulary.files;
    let (Some(ids), Some(merges)) =
        (files.read_object("vocab.json")?, files.read_text("merges.txt")?)
    else {
        let wanted = "`tokenizer.json`, or `vocab.json` with `merges.txt`";
        return Err(vocabulary.missing(wanted));
    };
    let mut vocab = bpe::Vocab::default();
    for (token, id) in ids {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("`vocab.json` has the id `{id}` for `{token}`"))
        })?;
        vocab.insert(token, id);
    }
    let merges = read_merges(&merges, &vocab)?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(String::new())
        .build();
    let mut tokenizer = Tokenizer::new(model.map_err(broken("merges.txt"))?);
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(vocabulary.options.add_prefix_space, true, true)))
        .with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// The merges of merges.txt. Ignores the header line and anything after the last line end.
fn read_merges(text: &str, vocab: &bpe::Vocab) -> Result<Vec<(String, String)>> {
    let mut ranks: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut merges = Vec::new();
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for (index, line) in lines.split('\n').enumerate().skip(1) {
        let at = || format!("merges.txt: line {}", index + 1);
        let mut parts = line.split_whitespace();
        let (Some(left), Some(right), None) = (parts.next(), parts.next(), parts.next()) else {
            let message = format!("expected two tokens to merge, found `{line}`");
            return Err(Error::new(ErrorKind::Model, message).at(at()));
        };
        // Checked here, because the library would index out of bounds.
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                let message = format!("`{token}` is not in `vocab.json`");
                return Err(Error::new(ErrorKind::Model, message).at(at()));
            }
        }
        if ranks.insert((left, right), index).is_none() {
            merges.push((left.to_string(), right.to_string()));
        }
    }
    Ok(merges)
}

/// The unigram model in the first existing file of `names`, with the file's name; `besides` lists alternative files for
/// the error message.
fn read_model_proto(
    vocabulary: &mut Vocabulary<'_, '_>,
    besides: &str,
    names: &[&'static str],
) -> Result<(&'static str, ModelProto)> {
    let (file, proto) = read_any_model_proto(vocabulary, besides, names)?;
    if proto.model_type != ModelType::Unigram {
        return Err(unsupported_type(&proto, "only UNIGRAM").at(file));
    }
    Ok((file, proto))
}

/// The error for a sentencepiece model whose type is not among those that `expected` names.
pub(super) fn unsupported_type(proto: &ModelProto, expected: &str) -> Error {
    let name = proto.model_type.name();
    Error::new(
        ErrorKind::Unsupported,
        format!("sentencepiece model type {name} is not implemented, {expected}"),
    )
    .hint("save a tokenizer.json with transformers: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`")
}

/// Like [`read_model_proto`], for every type of model.
pub(super) fn read_any_model_proto(
    vocabulary: &mut Vocabulary<'_, '_>,
    besides: &str,
    names: &[&'static str],
) -> Result<(&'static str, ModelProto)> {
    let mut found = None;
    for &file in names {
        if let Some(bytes) = vocabulary.files.read(file)? {
            found = Some((file, bytes));
            break;
        }
    }
    let Some((file, bytes)) = found else {
        let wanted: Vec<_> = names.iter().map(|file| format!("`{file}`")).collect();
        let wanted = format!("{besides}{}", wanted.join(", "));
        return Err(vocabulary.missing(&wanted));
    };
    if is_tiktoken(&bytes) {
        return Err(tiktoken_vocabulary(file));
    }
    let proto = ModelProto::parse(&bytes).map_err(|e| e.at(file))?;
    Ok((file, proto))
}

fn sentence_piece(
    file: &str,
    proto: &ModelProto,
    vocab: Vec<(String, f64)>,
    unk_id: usize,
    prepend_scheme: PrependScheme,
) -> Result<Tokenizer> {
    let model = Unigram::from(vocab, Some(unk_id), false);
    let mut tokenizer = Tokenizer::new(model.map_err(broken(file))?);
    add_pieces(&mut tokenizer, &proto.pieces)?;

    let mut normalizers: Vec<NormalizerWrapper> = precompiled(file, proto)?.into_iter().collect();
    normalizers.push(Strip::new(false, true).into());
    let spaces = Replace::new(ReplacePattern::Regex(" {2,}".into()), "▁");
    normalizers.push(spaces.map_err(broken(file))?.into());
    set_normalizer(&mut tokenizer, Sequence::new(normalizers))?;
    let metaspace = Metaspace::new('▁', prepend_scheme, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone())).with_decoder(Some(metaspace));
    Ok(tokenizer)
}

/// Adds control and user-defined pieces as tokens that are found in the text before it is normalized.
pub(super) fn add_pieces(tokenizer: &mut Tokenizer, pieces: &[Piece]) -> Result<()> {
    let is_own = |piece: &&Piece| matches!(piece.kind, PieceKind::Control | PieceKind::UserDefined);
    let own = pieces.iter().filter(is_own).map(|piece| {
        AddedToken::from(piece.piece.as_str(), piece.kind == PieceKind::Control).normalized(false)
    });
    special::add_tokens(tokenizer, own)
}

/// The normalization rules of a model, if it has some.
pub(super) fn precompiled(file: &str, proto: &ModelProto) -> Result<Option<NormalizerWrapper>> {
    if proto.precompiled_charsmap.is_empty() {
        return Ok(None);
    }
    checked::check_precompiled(&proto.precompiled_charsmap)?;
    let precompiled = Precompiled::from(&proto.precompiled_charsmap);
    Ok(Some(precompiled.map_err(|e| broken(file)(e.into()))?.into()))
}

pub(super) fn roberta_processing(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    let (cls, sep) = (special.require("cls_token")?, special.require("sep_token")?);
    let (cls_id, sep_id) = (require_id(tokenizer, cls)?, require_id(tokenizer, sep)?);
    let processing = RobertaProcessing::new((sep.into(), sep_id), (cls.into(), cls_id))
        .add_prefix_space(options.add_prefix_space)
        .trim_offsets(true);
    tokenizer.with_post_processor(Some(processing));
    Ok(())
}

/// The id of a token that must be in the vocabulary.
pub(super) fn require_id(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer
        .token_to_id(token)
        .ok_or_else(|| Error::new(ErrorKind::Model, format!("`{token}` is not in the vocabulary")))
}

pub(super) fn gpt2_processing(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    if !options.add_bos_token {
        let bytes = ByteLevel::default().trim_offsets(false);
        tokenizer.with_post_processor(Some(bytes));
        return Ok(());
    }
    template(tokenizer, special, "bos_token:0 $A:0", "bos_token:0 $A:0 $B:1")
}

/// `TokenizersBackend.update_post_processor` of transformers 5.24: `add_bos_token` and `add_eos_token`, both off by default.
pub(super) fn bos_and_eos(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    let bos = options.add_bos_token && special.get("bos_token").is_some();
    let eos = options.add_eos_token && special.get("eos_token").is_some();
    let (single, pair) = match (bos, eos) {
        (false, false) => ("$A:0", "$A:0 $B:1"),
        (true, false) => ("bos_token:0 $A:0", "bos_token:0 $A:0 bos_token:1 $B:1"),
        (false, true) => ("$A:0 eos_token:0", "$A:0 eos_token:0 $B:1 eos_token:1"),
        (true, true) => (
            "bos_token:0 $A:0 eos_token:0",
            if options.two_eos_in_pair {
                "bos_token:0 $A:0 eos_token:0 eos_token:0 $B:0 eos_token:0"
            } else {
                "bos_token:0 $A:0 eos_token:0 bos_token:1 $B:1 eos_token:1"
            },
        ),
    };
    template(tokenizer, special, single, pair)
}

fn template(
    tokenizer: &mut Tokenizer,
    special: &SpecialTokens,
    single: &'static str,
    pair: &'static str,
) -> Result<()> {
    let parts = |template: &'static str| {
        template.split(' ').map(|part| {
            let (name, segment) = part.split_at(part.find(':').unwrap_or(part.len()));
            let text = if name.ends_with("_token") { special.require(name)? } else { name };
            Ok((text, segment))
        })
    };
    let tokens = parts(single).filter(|part| !matches!(part, Ok(("$A", _))));
    let tokens = tokens.map(|part| part.map(|(token, _)| token)).collect::<Result<Vec<_>>>()?;
    let ids = tokens.iter().map(|token| Ok((*token, require_id(tokenizer, token)?)));
    let ids = ids.collect::<Result<Vec<_>>>()?;
    let filled = |template| {
        let parts =
            parts(template).map(|part| part.map(|(text, segment)| format!("{text}{segment}")));
        parts.collect::<Result<Vec<_>>>().map(|parts| parts.join(" "))
    };
    let (single, pair) = (filled(single)?, filled(pair)?);
    let template = || -> tokenizers::Result<TemplateProcessing> {
        let mut builder = TemplateProcessing::builder();
        builder.try_single(single)?.try_pair(pair)?;
        Ok(builder.special_tokens(ids).build()?)
    };
    let template = template().map_err(|e| {
        let names: Vec<_> = tokens.iter().map(|token| format!("`{token}`")).collect();
        let message = format!("cannot add {} around a text", names.join(" and "));
        Error::new(ErrorKind::Model, message).source(e)
    })?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

pub(super) fn set_normalizer(
    tokenizer: &mut Tokenizer,
    normalizer: impl Into<NormalizerWrapper>,
) -> Result<()> {
    let set = tokenizer.with_normalizer(Some(normalizer));
    set.map_err(|e| Error::new(ErrorKind::Model, "cannot set the normalizer").source(e))?;
    Ok(())
}

pub(super) fn broken(file: &str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| Error::new(ErrorKind::Model, format!("cannot use `{file}`")).source(e)
}
