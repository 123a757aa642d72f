//! `AutoTokenizer`: from texts to token ids, exactly as transformers: the classes of decoders as in 5.24, the older ones as
//! the fast tokenizers of 4.57.
//!
//! It reads a tokenizer.json, or builds the same tokenizer from a checkpoint's vocabulary files (`vocab.txt`,
//! `vocab.json` with `merges.txt`, a sentencepiece model). The settings in the other files override it. Not here:
//! batches for a model. The entry points are [`AutoTokenizer::from_pretrained`], [`AutoTokenizer::encode`] and
//! [`AutoTokenizer::encode_windows`].

mod bounded;
mod bpe;
mod chat;
mod checked;
mod class;
mod convert;
mod decode;
mod encode;
mod files;
mod jinja;
mod languages;
mod overrides;
mod pieces;
mod prefix;
mod row_template;
mod sentencepiece;
mod special;
#[cfg(test)]
mod tests;
mod truncate;
mod unigram;
mod window;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{NormalizerWrapper, PaddingDirection, Tokenizer, TruncationDirection};

use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Need, Snapshot};
use bounded::Bounded;
use chat::ChatTemplates;
pub use chat::{ChatOptions, ChatTemplate};
use class::TokenizerClass;
use convert::Vocabulary;
pub use decode::DecodeOptions;
use encode::Frame;
pub use encode::{EncodeOptions, Encoding};
use files::TokenizerFiles;
use languages::Languages;
pub use languages::TranslationTokens;
use overrides::TokenizerOptions;
use pieces::PieceIds;
pub use row_template::RowTemplate;
use special::SpecialTokens;
pub use truncate::{Side, TruncationStrategy};
pub use window::{Window, WindowOptions};
use words::Words;

const CLEAN_UP_OF_BPE: &str =
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";

/// From this value on, `model_max_length` means "no limit" (transformers writes 1e30).
const LARGE_INTEGER: f64 = 1e20;

/// The tokenizer of a checkpoint.
///
/// Encoding takes `&self` and changes nothing, so threads can share a tokenizer.
///
/// # Example
/// ```
/// use hfauto::auto::{AutoTokenizer, EncodeOptions};
///
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/mini-embedder");
/// let tokenizer = AutoTokenizer::from_pretrained(id)?;
/// let options = EncodeOptions { max_length: Some(16), ..EncodeOptions::default() };
/// let encoding = tokenizer.encode("Hello, world!", &options)?;
/// assert_eq!(encoding.input_ids.first().copied(), tokenizer.cls_token_id());
/// # Ok::<(), hfauto::Error>(())
/// ```
pub struct AutoTokenizer {
    tokenizer: Tokenizer,
    bounded: Bounded,
    class: &'static TokenizerClass,
    /// The special tokens around a single text; `None` when only the library can compute them.
    frame: Option<Frame>,
    /// Whether a prefix of a long text determines its first tokens.
    word_by_word: bool,
    /// The rules for plain words, if the tokenizer has them.
    words: Option<Words>,
    special: SpecialTokens,
    /// The ids of pieces that are not those of `tokenizer`.
    pieces: Option<PieceIds>,
    languages: Option<Languages>,
    model_max_length: Option<usize>,
    truncation_side: Side,
    padding_side: Side,
    clean_up_tokenization_spaces: bool,
    /// `clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output`.
    clean_up_of_bpe: bool,
    gives_token_type_ids: bool,
    gives_attention_mask: bool,
    chat_templates: ChatTemplates,
    digest: blake3::Hash,
}

/// Options of [`AutoTokenizer::builder`].
#[derive(Clone, Debug)]
pub struct AutoTokenizerBuilder {
    id: String,
    revision: Option<String>,
    config: Map<String, Value>,
}

impl AutoTokenizerBuilder {
    /// Sets the branch, tag or commit; `main` by default.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets overrides of `tokenizer_config.json`, like keyword arguments of `from_pretrained`.
    #[must_use]
    pub fn config(mut self, config: Map<String, Value>) -> Self {
        self.config.extend(config);
        self
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// As [`AutoTokenizer::from_snapshot`]; `Hub` when the files are unavailable.
    pub fn load(self) -> Result<AutoTokenizer> {
        let snapshot = super::snapshot(&self.id, self.revision.as_deref(), Need::Tokenizer)?;
        AutoTokenizer::with_config(&snapshot, None, &self.config)
    }
}

impl AutoTokenizer {
    /// The tokenizer of a hub id or of a directory.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot); `Hub` when the files are unavailable.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// Starts a builder with options.
    pub fn builder(id: impl Into<String>) -> AutoTokenizerBuilder {
        AutoTokenizerBuilder { id: id.into(), revision: None, config: Map::new() }
    }

    /// The tokenizer in a snapshot's files.
    ///
    /// # Errors
    /// `Hub` when files are missing, `Model` when they are damaged or contradict each other,
    /// `Unsupported` for a tokenizer class that is not implemented.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self> {
        Self::for_model_type(snapshot, None)
    }

    /// The tokenizer of a snapshot whose `config.json` may lack its `model_type`.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn for_model_type(snapshot: &Snapshot, model_type: Option<&str>) -> Result<Self> {
        Self::with_config(snapshot, model_type, &Map::new())
    }

    /// Like [`from_snapshot`](Self::from_snapshot), with `overrides` of `tokenizer_config.json`, like keyword arguments
    /// of `from_pretrained`.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn with_config(
        snapshot: &Snapshot,
        model_type: Option<&str>,
        overrides: &Map<String, Value>,
    ) -> Result<Self> {
        checked::with_stack(|| Self::load(snapshot, model_type, overrides))
            .map_err(|e| e.at(format!("tokenizer of `{}`", snapshot.name())))
    }

    /// The tokenizer of tokenizer.json alone, as `tokenizers.Tokenizer.from_file` reads it: other files do not change
    /// it. Its truncation is [`model_max_length`](Self::model_max_length).
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn from_tokenizer_json(snapshot: &Snapshot) -> Result<Self> {
        let read = || {
            let mut files = TokenizerFiles::new(snapshot);
            let class = TokenizerClass::backend()?;
            let saved = files.read("tokenizer.json")?;
            let saved = saved.ok_or_else(|| files.missing(class.name, "`tokenizer.json`"))?;
            let mut tokenizer = checked::tokenizer_from(saved)?;
            let truncation = tokenizer.get_truncation().cloned();
            tokenizer.with_padding(None).with_truncation(None).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot drop the truncation").source(e)
            })?;
            let side = match truncation.as_ref().map(|truncation| truncation.direction) {
                Some(TruncationDirection::Left) => Side::Left,
                _ => Side::Right,
            };
            Ok(Self {
                frame: Frame::find(&tokenizer),
                word_by_word: prefix::is_word_by_word(&tokenizer),
                words: Words::of(&tokenizer),
                bounded: Bounded::new(&tokenizer)?,
                tokenizer,
                class,
                special: SpecialTokens::default(),
                pieces: None,
                languages: None,
                model_max_length: truncation.map(|truncation| truncation.max_length),
                truncation_side: side,
                padding_side: Side::Right,
                clean_up_tokenization_spaces: false,
                clean_up_of_bpe: false,
                gives_token_type_ids: false,
                gives_attention_mask: true,
                chat_templates: ChatTemplates::default(),
                digest: files.digest(),
            })
        };
        checked::with_stack(read).map_err(|e| e.at(format!("tokenizer of `{}`", snapshot.name())))
    }

    /// The token lengths in characters, of the whole vocabulary.
    pub(crate) fn token_lengths(&self) -> Vec<usize> {
        let vocabulary = self.tokenizer.get_vocab(true);
        vocabulary.keys().map(|token| token.chars().count()).collect()
    }

    /// The tokenizer that reads each of these texts, or its first word, as one token, if its vocabulary has that token: the
    /// markers of queries and documents.
    ///
    /// # Errors
    /// `Internal` when the library rejects a token.
    ///
    /// # Source
    /// `_register_prefix_tokens` of sentence-transformers' `MultiVectorEncoder`.
    pub(crate) fn with_markers(mut self, markers: &[String]) -> Result<Self> {
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let mut added = Vec::new();
        for marker in markers {
            let first = marker.split_whitespace().next();
            let known = [Some(marker.as_str()), first].into_iter().flatten();
            let Some(token) = known
                .filter(|token| !token.is_empty())
                .find(|token| !marker.trim().is_empty() && self.token_to_id(token).is_some())
            else {
                continue;
            };
            let ids = self.encode(token, &options)?.input_ids;
            if ids != [self.token_to_id(token).unwrap_or_default()] {
                added.push(tokenizers::AddedToken::from(token, true).normalized(false));
            }
        }
        if !added.is_empty() {
            self.tokenizer.add_special_tokens(added).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot add the markers of texts").source(e)
            })?;
            self.word_by_word = prefix::is_word_by_word(&self.tokenizer);
            self.words = self.words.and_then(|_| Words::of(&self.tokenizer));
        }
        Ok(self)
    }

    /// The tokenizer with lower-casing before its normalizer. Special tokens in a text are unchanged.
    ///
    /// # Errors
    /// `Internal` when the library rejects the normalizer.
    ///
    /// # Source
    /// `do_lower_case` of sentence-transformers from 5.4 on, which prepends a normalizer.
    pub fn lower_cased(mut self) -> Result<Self> {
        let before = self.tokenizer.get_normalizer().cloned();
        if before.as_ref().is_some_and(lower_cases) {
            return Ok(self);
        }
        let normalizers = std::iter::once(Lowercase.into()).chain(before).collect();
        convert::set_normalizer(&mut self.tokenizer, Sequence::new(normalizers))?;
        self.word_by_word = prefix::is_word_by_word(&self.tokenizer);
        self.words = self.words.and_then(|_| Words::of(&self.tokenizer));
        self.bounded = checked::with_stack(|| Bounded::new(&self.tokenizer))?;
        Ok(self)
    }

    fn load(
        snapshot: &Snapshot,
        model_type: Option<&str>,
        overrides: &Map<String, Value>,
    ) -> Result<Self> {
        let mut files = TokenizerFiles::new(snapshot);
        let mut config = files.read_object("tokenizer_config.json")?.unwrap_or_default();
        if !overrides.is_empty() {
            files.note("overrides", Value::from(overrides.clone()).to_string().as_bytes());
            config.extend(overrides.clone());
        }
        let saved = files.read("tokenizer.json")?;
        let class = TokenizerClass::detect(snapshot, &config, model_type, saved.as_deref())?;
        files.note("class", class.name.as_bytes());
        let options = TokenizerOptions::read(&config, class.prefix_space_from_slow);

        let saved = saved.filter(|_| class.from_pieces.is_none());
        let saved = saved.map(checked::tokenizer_from).transpose()?;
        let converted = saved.is_none() || options.from_slow;
        let mut special = SpecialTokens::read(
            &mut files,
            &config,
            &class.default_tokens,
            saved.as_ref(),
            converted,
        )?;
        let (mut truncation_side, mut padding_side) = (Side::Right, Side::Right);
        let mut pieces = None;
        let mut tokenizer = if let Some(mut tokenizer) = saved.filter(|_| !converted) {
            // Exports contain the settings of one call. Here, callers set truncation, and there is no padding.
            if let Some(truncation) = tokenizer.get_truncation() {
                truncation_side = match truncation.direction {
                    TruncationDirection::Left => Side::Left,
                    TruncationDirection::Right => Side::Right,
                };
            }
            if let Some(padding) = tokenizer.get_padding() {
                special.set_default("pad_token", &padding.pad_token.clone());
                padding_side = match padding.direction {
                    PaddingDirection::Left => Side::Left,
                    PaddingDirection::Right => Side::Right,
                };
            }
            tokenizer.with_padding(None).with_truncation(None).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot drop the truncation").source(e)
            })?;
            class
                .set_steps(&mut tokenizer, options, &special)
                .map_err(|e| e.at(format!("tokenizer.json of `{}`", class.name)))?;
            special.add_to(&mut tokenizer)?;
            tokenizer
        } else {
            let mut vocabulary = Vocabulary {
                files: &mut files,
                config: &config,
                class: class.name,
                options,
                special: &mut special,
            };
            match class.from_pieces {
                Some(from_pieces) => {
                    let (tokenizer, ids) = from_pieces(&mut vocabulary)?;
                    pieces = Some(ids);
                    tokenizer
                }
                None => class.tokenizer_from_vocabulary(vocabulary)?,
            }
        };
        let languages = set_languages(class, &config, &special, pieces.as_ref(), &mut tokenizer)?;
        options.apply(class.overrides, &mut tokenizer)?;
        checked::check_model(&tokenizer)?;

        if let Some(side) = configured_side(&config, "truncation_side")? {
            truncation_side = side;
        }
        if let Some(side) = configured_side(&config, "padding_side")? {
            padding_side = side;
        }
        let chat_templates = ChatTemplates::read(&mut files, &config)?;
        let clean_up = config.get("clean_up_tokenization_spaces").and_then(Value::as_bool);
        Ok(Self {
            frame: Frame::find(&tokenizer),
            word_by_word: prefix::is_word_by_word(&tokenizer),
            words: Words::of(&tokenizer).filter(|_| pieces.is_none()),
            bounded: Bounded::new(&tokenizer)?,
            tokenizer,
            class,
            special,
            pieces,
            languages,
            model_max_length: model_max_length(&config),
            truncation_side,
            padding_side,
            clean_up_of_bpe: config.get(CLEAN_UP_OF_BPE).and_then(Value::as_bool) == Some(true),
            clean_up_tokenization_spaces: clean_up
                .unwrap_or(converted && class.clean_up_when_converted),
            gives_token_type_ids: gives(&config, "token_type_ids").unwrap_or(class.token_type_ids),
            gives_attention_mask: gives(&config, "attention_mask").unwrap_or(true),
            chat_templates,
            digest: files.digest(),
        })
    }

    /// The name of the tokenizer class in transformers.
    pub fn class_name(&self) -> &'static str {
        self.class.name
    }

    /// The maximum input length of the model, in tokens; `None` when the files do not set it.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The size of the vocabulary without added tokens.
    pub fn vocab_size(&self) -> usize {
        match &self.pieces {
            Some(pieces) => pieces.len(),
            None => self.tokenizer.get_vocab_size(false),
        }
    }

    /// The size of the vocabulary with added tokens (`len(tokenizer)`).
    pub fn total_vocab_size(&self) -> usize {
        match &self.pieces {
            Some(pieces) => pieces.len(),
            None => self.tokenizer.get_vocab_size(true),
        }
    }

    /// The text of a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        if let Some(pieces) = &self.pieces {
            return Some(pieces.piece(id));
        }
        // The library's own lookup returns added tokens in normalized form.
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        match added.get(&id) {
            Some(token) => Some(token.content.clone()),
            None => self.tokenizer.id_to_token(id),
        }
    }

    /// The id of a token, if the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.pieces {
            Some(pieces) => pieces.id(token),
            None => self.tokenizer.token_to_id(token),
        }
    }

    /// The id of the token at the start of a sentence, for models that have one.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special_token_id("bos_token")
    }

    /// The id of the token at the end of a sentence, for models that have one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special_token_id("eos_token")
    }

    /// The id of the token for unknown words.
    pub fn unk_token_id(&self) -> Option<u32> {
        self.special_token_id("unk_token")
    }

    /// The id of the token between two texts and after the last one.
    pub fn sep_token_id(&self) -> Option<u32> {
        self.special_token_id("sep_token")
    }

    /// The id of the padding token.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.special_token_id("pad_token")
    }

    /// The id of the token whose vector represents the whole input.
    pub fn cls_token_id(&self) -> Option<u32> {
        self.special_token_id("cls_token")
    }

    /// The id of the mask token.
    pub fn mask_token_id(&self) -> Option<u32> {
        self.special_token_id("mask_token")
    }

    /// The text of the mask token.
    pub fn mask_token(&self) -> Option<&str> {
        self.special.get("mask_token")
    }

    /// The text of the token at the end of a sentence.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.get("eos_token")
    }

    /// The special tokens that the tokenizer has, by attribute (`bos_token`, …, `additional_special_tokens`, and the
    /// model's own).
    pub fn special_tokens_map(&self) -> Map<String, Value> {
        self.special.map()
    }

    /// The ids of all tokens in [`special_tokens_map`](Self::special_tokens_map), in its order, without duplicates.
    pub fn all_special_ids(&self) -> Vec<u32> {
        let map = self.special.map();
        let texts = map.values().flat_map(|value| match value {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            value => value.as_str().into_iter().collect::<Vec<_>>(),
        });
        let mut seen = BTreeSet::new();
        let ids = texts.filter_map(|text| self.token_to_id(text));
        ids.filter(|id| seen.insert(*id)).collect()
    }

    /// Whether the model gets `token_type_ids` (`model_input_names`). If not, it uses segment 0 for all tokens,
    /// whatever an encoding contains.
    pub fn gives_token_type_ids(&self) -> bool {
        self.gives_token_type_ids
    }

    /// The padding side of shorter rows (`padding_side`). Nothing is padded here; tasks derive conventions for question
    /// answering and generation from it.
    pub fn padding_side(&self) -> Side {
        self.padding_side
    }

    /// The side on which long texts are truncated (`truncation_side`).
    pub fn truncation_side(&self) -> Side {
        self.truncation_side
    }

    /// A digest of the files that this tokenizer was read from, for lineage: equal digests mean equal tokens.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    fn special_token_id(&self, attribute: &str) -> Option<u32> {
        self.special.get(attribute).and_then(|token| self.token_to_id(token))
    }
}

impl std::fmt::Debug for AutoTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutoTokenizer")
            .field("class", &self.class.name)
            .field("vocab_size", &self.total_vocab_size())
            .field("model_max_length", &self.model_max_length)
            .finish_non_exhaustive()
    }
}

/// Sets the tokens of the source language around texts, and returns the languages of the tokenizer.
///
/// # Errors
/// As [`Languages::new`] and [`Languages::set_frame`].
fn set_languages(
    class: &TokenizerClass,
    config: &Map<String, Value>,
    special: &SpecialTokens,
    pieces: Option<&PieceIds>,
    tokenizer: &mut Tokenizer,
) -> Result<Option<Languages>> {
    let Some(style) = class.languages else { return Ok(None) };
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let added: Vec<String> = added.values().map(|token| token.content.clone()).collect();
    let languages = Languages::new(style, added, config)?;
    let eos = special.require("eos_token")?;
    let ids: BTreeMap<String, Option<u32>> = languages
        .framing_tokens(eos)
        .map(|token| {
            let id = match pieces {
                Some(pieces) => pieces.id(&token),
                None => tokenizer.token_to_id(&token),
            };
            (token, id)
        })
        .collect();
    languages.set_frame(tokenizer, eos, |token| ids.get(token).copied().flatten())?;
    Ok(Some(languages))
}

/// Whether the normalizer, or a step of a sequence, lower-cases texts.
fn lower_cases(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::Lowercase(_) => true,
        NormalizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().any(|step| matches!(step, NormalizerWrapper::Lowercase(_)))
        }
        _ => false,
    }
}

/// `model_max_length`, or `max_len` in older files. The value may exceed 64 bits.
fn model_max_length(config: &Map<String, Value>) -> Option<usize> {
    let length = config.get("model_max_length").or_else(|| config.get("max_len"))?.as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked, and `as` saturates"
    )]
    (1.0..=LARGE_INTEGER).contains(&length).then_some(length as usize)
}

/// Whether `model_input_names` contains `input`; `None` if it is not set.
fn gives(config: &Map<String, Value>, input: &str) -> Option<bool> {
    let names = config.get("model_input_names")?.as_array()?;
    Some(names.iter().any(|name| name == input))
}

/// `left` or `right` in tokenizer_config.json.
fn configured_side(config: &Map<String, Value>, key: &str) -> Result<Option<Side>> {
    let Some(side) = config.get(key) else { return Ok(None) };
    match side.as_str() {
        Some("right") => Ok(Some(Side::Right)),
        Some("left") => Ok(Some(Side::Left)),
        _ => Err(Error::new(
            ErrorKind::Model,
            format!("`{key}` in tokenizer_config.json is `{side}`, expected `left` or `right`"),
        )),
    }
}
