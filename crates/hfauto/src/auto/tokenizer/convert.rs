//! Tokenizers from vocabulary files, for checkpoints without a tokenizer.json.
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
use super::class::TokenizerClass;
use super::files::TokenizerFiles;
use super::overrides::{TokenizerOptions, extra_ids};
use super::sentencepiece::{ModelProto, ModelType, PieceKind};
use super::special::{self, SpecialTokens};
use crate::error::{Error, ErrorKind, Result};

/// Sentencepiece models by name, in the order in which they are looked for.
const SENTENCEPIECE_FILES: [&str; 3] =
    ["sentencepiece.bpe.model", "tokenizer.model", "spiece.model"];

/// The only name that T5's classes look for.
const T5_FILE: &str = "spiece.model";

/// Where fairseq's `<unk>` stands, in both families that come from there.
const FAIRSEQ_UNK_ID: usize = 3;

/// Builds the tokenizer of `class` from its vocabulary files, special tokens added.
///
/// # Errors
/// `Hub` when the files are missing, `Model` when they are damaged, `Unsupported` for a kind of
/// sentencepiece model that is not implemented.
pub(super) fn from_vocabulary(
    files: &mut TokenizerFiles<'_>,
    config: &Map<String, Value>,
    class: TokenizerClass,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<Tokenizer> {
    let mut tokenizer = match class {
        TokenizerClass::Bert | TokenizerClass::DistilBert | TokenizerClass::MpNet => {
            word_piece(files, class, options, special)?
        }
        TokenizerClass::Roberta | TokenizerClass::Gpt2 => byte_level_bpe(files, class, options)?,
        TokenizerClass::XlmRoberta | TokenizerClass::Camembert => {
            let vocab = |proto: &ModelProto| fairseq_vocab(class, proto);
            let found = read_model_proto(files, class, "`tokenizer.json`, ", &SENTENCEPIECE_FILES)?;
            sentence_piece(found, vocab, Some(FAIRSEQ_UNK_ID), PrependScheme::Always)?
        }
        TokenizerClass::T5 | TokenizerClass::Mt5 => {
            let extra_ids = extra_ids(config)?;
            // With a prefix space in tokenizer_config.json, tokenizer.json is of no use.
            let besides = if options.from_slow { "" } else { "`tokenizer.json`, " };
            let found = read_model_proto(files, class, besides, &[T5_FILE])?;
            let unk_id = found.1.unk_id;
            let vocab = |proto: &ModelProto| t5_vocab(extra_ids, proto);
            sentence_piece(found, vocab, Some(unk_id), options.prepend_scheme)?
        }
        TokenizerClass::PreTrained => {
            return Err(files.missing(class.name(), "`tokenizer.json`"));
        }
    };
    special.add_to(&mut tokenizer)?;
    post_processor(&mut tokenizer, class, options, special)?;
    Ok(tokenizer)
}

fn word_piece(
    files: &mut TokenizerFiles<'_>,
    class: TokenizerClass,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<Tokenizer> {
    let Some(text) = files.read_text("vocab.txt")? else {
        return Err(files.missing(class.name(), "`tokenizer.json`, `vocab.txt`"));
    };
    let mut vocab = bpe::Vocab::default();
    for (id, line) in (0..).zip(text.strip_suffix('\n').unwrap_or(&text).split('\n')) {
        vocab.insert(line.to_string(), id);
    }
    let unk = special.require("unk_token")?;
    if !vocab.contains_key(unk) {
        return Err(Error::new(ErrorKind::Model, format!("`vocab.txt` has no `{unk}`")));
    }
    let model = WordPiece::builder().vocab(vocab).unk_token(unk.to_string()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(broken("vocab.txt"))?);
    // A slow class without a basic tokenizer leaves all of these undone; BERT's fast class then sets them
    // to the options again, MPNet's not all of them.
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

fn byte_level_bpe(
    files: &mut TokenizerFiles<'_>,
    class: TokenizerClass,
    options: TokenizerOptions,
) -> Result<Tokenizer> {
    let (Some(ids), Some(merges)) =
        (files.read_object("vocab.json")?, files.read_text("merges.txt")?)
    else {
        let wanted = "`tokenizer.json`, or `vocab.json` with `merges.txt`";
        return Err(files.missing(class.name(), wanted));
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
        .with_pre_tokenizer(Some(ByteLevel::new(options.add_prefix_space, true, true)))
        .with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// The pairs of merges.txt. Its first line is a header, and what follows the last line end is none.
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
        // Asked here and not left to the library, which would index out of bounds.
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

/// The first of `names` that is there, with its name; `besides` are the files that would have done.
fn read_model_proto(
    files: &mut TokenizerFiles<'_>,
    class: TokenizerClass,
    besides: &str,
    names: &[&'static str],
) -> Result<(&'static str, ModelProto)> {
    let mut found = None;
    for &file in names {
        if let Some(bytes) = files.read(file)? {
            found = Some((file, bytes));
            break;
        }
    }
    let Some((file, bytes)) = found else {
        let wanted: Vec<_> = names.iter().map(|file| format!("`{file}`")).collect();
        let wanted = format!("{besides}{}", wanted.join(", "));
        return Err(files.missing(class.name(), &wanted));
    };
    let proto = ModelProto::parse(&bytes).map_err(|e| e.at(file))?;
    if proto.model_type != ModelType::Unigram {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("sentencepiece model of type {}, only UNIGRAM", proto.model_type.name()),
        )
        .at(file)
        .hint("save a tokenizer.json with transformers: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"));
    }
    Ok((file, proto))
}

fn sentence_piece(
    (file, proto): (&str, ModelProto),
    vocab: impl Fn(&ModelProto) -> Vec<(String, f64)>,
    unk_id: Option<usize>,
    prepend_scheme: PrependScheme,
) -> Result<Tokenizer> {
    let model = Unigram::from(vocab(&proto), unk_id, false);
    let mut tokenizer = Tokenizer::new(model.map_err(broken(file))?);
    let own = proto.pieces.iter().filter(|piece| piece.kind != PieceKind::Ordinary).map(|piece| {
        AddedToken::from(piece.piece.as_str(), piece.kind == PieceKind::Control).normalized(false)
    });
    special::add_tokens(&mut tokenizer, own)?;

    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if !proto.precompiled_charsmap.is_empty() {
        checked::check_precompiled(&proto.precompiled_charsmap)?;
        let precompiled = Precompiled::from(&proto.precompiled_charsmap);
        normalizers.push(precompiled.map_err(|e| broken(file)(e.into()))?.into());
    }
    normalizers.push(Strip::new(false, true).into());
    let spaces = Replace::new(ReplacePattern::Regex(" {2,}".into()), "▁");
    normalizers.push(spaces.map_err(broken(file))?.into());
    set_normalizer(&mut tokenizer, Sequence::new(normalizers))?;
    let metaspace = Metaspace::new('▁', prepend_scheme, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone())).with_decoder(Some(metaspace));
    Ok(tokenizer)
}

/// A sentencepiece vocabulary with T5's extra ids behind it, the last one first.
fn t5_vocab(extra_ids: usize, proto: &ModelProto) -> Vec<(String, f64)> {
    let pieces = proto.pieces.iter().map(|piece| (piece.piece.clone(), f64::from(piece.score)));
    pieces.chain((0..extra_ids).rev().map(|i| (format!("<extra_id_{i}>"), 0.0))).collect()
}

/// A sentencepiece vocabulary in the order that fairseq gave it.
fn fairseq_vocab(class: TokenizerClass, proto: &ModelProto) -> Vec<(String, f64)> {
    let (first, own): (&[(&str, f64)], usize) = match class {
        // The piece at 0 is <unk>; the score of its stand-in keeps it from ever being chosen.
        TokenizerClass::Camembert => (
            &[
                ("<s>NOTUSED", 0.0),
                ("<pad>", 0.0),
                ("</s>NOTUSED", 0.0),
                ("<unk>", 0.0),
                ("<unk>NOTUSED", -100.0),
            ],
            1,
        ),
        // The pieces at 0, 1 and 2 are <unk>, <s> and </s>.
        _ => (&[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], 3),
    };
    let pieces = proto.pieces.iter().skip(own);
    first
        .iter()
        .map(|(text, score)| ((*text).to_string(), *score))
        .chain(pieces.map(|piece| (piece.piece.clone(), f64::from(piece.score))))
        .chain([("<mask>".to_string(), 0.0)])
        .collect()
}

fn post_processor(
    tokenizer: &mut Tokenizer,
    class: TokenizerClass,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    if class == TokenizerClass::Gpt2 {
        return gpt2_post_processor(tokenizer, options, special);
    }
    if class.is_t5() {
        // Whatever `eos_token` says.
        let eos = "</s>";
        let eos_id = require_id(tokenizer, eos)?;
        let (single, pair) = (format!("$A {eos}"), format!("$A {eos} $B {eos}"));
        return template(tokenizer, single, pair, vec![(eos, eos_id)]);
    }
    // The families of fairseq's vocabulary name their tokens in the template itself.
    let (cls, sep) = match class {
        TokenizerClass::XlmRoberta | TokenizerClass::Camembert => ("<s>", "</s>"),
        _ => (special.require("cls_token")?, special.require("sep_token")?),
    };
    let (cls_id, sep_id) = (require_id(tokenizer, cls)?, require_id(tokenizer, sep)?);
    let (single, pair) = match class {
        TokenizerClass::Roberta => {
            let processing = RobertaProcessing::new((sep.into(), sep_id), (cls.into(), cls_id))
                .add_prefix_space(options.add_prefix_space)
                .trim_offsets(true);
            tokenizer.with_post_processor(Some(processing));
            return Ok(());
        }
        TokenizerClass::XlmRoberta | TokenizerClass::Camembert => {
            (format!("{cls} $A {sep}"), format!("{cls} $A {sep} {sep} $B {sep}"))
        }
        TokenizerClass::MpNet => {
            (format!("{cls}:0 $A:0 {sep}:0"), format!("{cls}:0 $A:0 {sep}:0 {sep}:0 $B:1 {sep}:1"))
        }
        _ => (format!("{cls}:0 $A:0 {sep}:0"), format!("{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")),
    };
    template(tokenizer, single, pair, vec![(cls, cls_id), (sep, sep_id)])
}

fn require_id(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer
        .token_to_id(token)
        .ok_or_else(|| Error::new(ErrorKind::Model, format!("`{token}` is not in the vocabulary")))
}

fn gpt2_post_processor(
    tokenizer: &mut Tokenizer,
    options: TokenizerOptions,
    special: &SpecialTokens,
) -> Result<()> {
    if !options.add_bos_token {
        let bytes = ByteLevel::default().trim_offsets(false);
        tokenizer.with_post_processor(Some(bytes));
        return Ok(());
    }
    let bos = special.require("bos_token")?;
    let bos_id = require_id(tokenizer, bos)?;
    template(tokenizer, format!("{bos}:0 $A:0"), format!("{bos}:0 $A:0 $B:1"), vec![(bos, bos_id)])
}

fn template(
    tokenizer: &mut Tokenizer,
    single: String,
    pair: String,
    special: Vec<(&str, u32)>,
) -> Result<()> {
    let names: Vec<_> = special.iter().map(|(token, _)| format!("`{token}`")).collect();
    let template = || -> tokenizers::Result<TemplateProcessing> {
        let mut builder = TemplateProcessing::builder();
        builder.try_single(single)?.try_pair(pair)?;
        Ok(builder.special_tokens(special).build()?)
    };
    let template = template().map_err(|e| {
        let message = format!("cannot put {} around a text", names.join(" and "));
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

fn broken(file: &str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| Error::new(ErrorKind::Model, format!("`{file}` is not usable")).source(e)
}
