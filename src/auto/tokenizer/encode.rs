//! Texts to token ids: truncation, special tokens, batches, pairs; and back.

use rayon::prelude::*;
use tokenizers::{
    Decoder, Model, OffsetType, PostProcessor, PreTokenizer, Token, Tokenizer, TruncationDirection,
    TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::{AutoTokenizer, prefix};
use crate::error::{Error, ErrorKind, Result};

/// How texts are encoded, in the words of transformers' `tokenizer(…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Cut to this many tokens, special tokens included; `None` keeps all.
    pub max_length: Option<usize>,
    /// Whether to put the model's special tokens (`[CLS]`, `</s>`, …) around the text.
    pub add_special_tokens: bool,
    /// Whether to fill [`Encoding::offset_mapping`], which takes longer.
    pub return_offsets_mapping: bool,
}

impl Default for EncodeOptions {
    /// No truncation, special tokens, no offsets.
    fn default() -> Self {
        Self { max_length: None, add_special_tokens: true, return_offsets_mapping: false }
    }
}

/// The tokens of one text, or of one pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The segment of each token: 0 for a single text. Models without segments ignore it.
    pub token_type_ids: Vec<u32>,
    /// Whether tokens were cut to keep to `max_length`.
    pub truncated: bool,
    /// Where each token stands in its text; `None` unless it was asked for.
    ///
    /// # Units
    /// Characters, 0-based, half-open; (0, 0) for special tokens.
    pub offset_mapping: Option<Vec<(usize, usize)>>,
}

/// What the post-processor puts around a single text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    before: Vec<(u32, u32)>,
    text_type: u32,
    after: Vec<(u32, u32)>,
}

impl Frame {
    /// Finds the frame by processing one token that no vocabulary has; `None` when the text does not
    /// come out exactly once.
    pub(super) fn find(tokenizer: &Tokenizer) -> Option<Self> {
        const TEXT: u32 = u32::MAX;
        let text = vec![Token::new(TEXT, String::new(), (0, 0))];
        let text = tokenizers::Encoding::from_tokens(text, 0);
        let framed = tokenizer.post_process(text, None, true).ok()?;
        let ids = framed.get_ids().iter().copied();
        let tokens: Vec<(u32, u32)> = ids.zip(framed.get_type_ids().iter().copied()).collect();
        let mut texts = tokens.iter().enumerate().filter(|(_, (id, _))| *id == TEXT);
        let (Some((at, (_, text_type))), None) = (texts.next(), texts.next()) else { return None };
        Some(Self {
            before: tokens[..at].to_vec(),
            text_type: *text_type,
            after: tokens[at + 1..].to_vec(),
        })
    }
}

impl AutoTokenizer {
    /// Encodes one text, as `tokenizer(text, truncation=True, max_length=…)` does.
    ///
    /// # Errors
    /// `Config` when `max_length` leaves no room for the special tokens, `Model` when the tokenizer fails.
    pub fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Encoding> {
        let room = self.room(options, false)?;
        // One token more than there is room for tells whether the text was cut.
        let enough = room.map(|room| room.saturating_add(1));
        if options.return_offsets_mapping || (options.add_special_tokens && self.frame.is_none()) {
            let offsets = offset_type(options);
            let encoding = self.tokenize(text, enough, 0, offsets)?;
            return self.assemble(encoding, None, room, options);
        }
        let encoding = self.tokenize(text, enough, 0, OffsetType::None)?;
        let ids = encoding.get_ids();
        let kept = match room {
            Some(room) if room < ids.len() => match self.truncation_side {
                TruncationDirection::Right => &ids[..room],
                TruncationDirection::Left => &ids[ids.len() - room..],
            },
            _ => ids,
        };
        let truncated = kept.len() < ids.len();
        let none = Frame { before: Vec::new(), text_type: 0, after: Vec::new() };
        let frame = match &self.frame {
            Some(frame) if options.add_special_tokens => frame,
            _ => &none,
        };
        let length = frame.before.len() + kept.len() + frame.after.len();
        let mut input_ids = Vec::with_capacity(length);
        input_ids.extend(frame.before.iter().map(|(id, _)| id));
        input_ids.extend(kept);
        input_ids.extend(frame.after.iter().map(|(id, _)| id));
        let mut token_type_ids = Vec::with_capacity(length);
        token_type_ids.extend(frame.before.iter().map(|(_, kind)| kind));
        token_type_ids.resize(frame.before.len() + kept.len(), frame.text_type);
        token_type_ids.extend(frame.after.iter().map(|(_, kind)| kind));
        Ok(Encoding { input_ids, token_type_ids, truncated, offset_mapping: None })
    }

    /// Encodes two texts as one input, as `tokenizer(text, text_pair, truncation=True, max_length=…)`
    /// does: what does not fit is taken from the longer one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_pair(&self, text: &str, pair: &str, options: &EncodeOptions) -> Result<Encoding> {
        let room = self.room(options, true)?;
        // Both texts whole: which of them is the longer one decides who gives the odd token.
        let offsets = offset_type(options);
        let first = self.tokenize(text, None, 0, offsets)?;
        let second = self.tokenize(pair, None, 1, offsets)?;
        self.assemble(first, Some(second), room, options)
    }

    /// Encodes texts on the threads of the current rayon pool, in order.
    ///
    /// # Errors
    /// The first error of [`encode`](Self::encode), in the order of the texts.
    pub fn encode_batch<T>(&self, texts: &[T], options: &EncodeOptions) -> Result<Vec<Encoding>>
    where
        T: AsRef<str> + Sync,
    {
        let encode = |text: &T| self.encode(text.as_ref(), options);
        let encodings: Vec<Result<Encoding>> = texts.par_iter().map(encode).collect();
        encodings.into_iter().collect()
    }

    /// The text of token ids; ids that the tokenizer does not know are left out.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let added = self.tokenizer.get_added_vocabulary();
        let tokens = ids
            .iter()
            .filter_map(|id| self.id_to_token(*id))
            .filter(|token| !(skip_special_tokens && added.is_special_token(token)))
            .collect::<Vec<_>>();
        let text = match self.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed("decode token ids"))?,
            None => tokens.join(" "),
        };
        Ok(if self.clean_up_tokenization_spaces { clean_up(&text) } else { text })
    }

    /// How many tokens of the text fit; `None` for all.
    fn room(&self, options: &EncodeOptions, pair: bool) -> Result<Option<usize>> {
        let Some(max_length) = options.max_length else { return Ok(None) };
        let special =
            if options.add_special_tokens { self.num_special_tokens_to_add(pair) } else { 0 };
        max_length.checked_sub(special).map(Some).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("`max_length` is {max_length}, but the special tokens alone are {special}"),
            )
        })
    }

    /// Tokens of a text without special tokens; stops when there are `enough` of them, counted from the
    /// side that is kept.
    fn tokenize(
        &self,
        text: &str,
        enough: Option<usize>,
        type_id: u32,
        offsets: OffsetType,
    ) -> Result<tokenizers::Encoding> {
        if let (Some(enough), true, TruncationDirection::Right) =
            (enough, self.word_by_word, self.truncation_side)
        {
            for beginning in prefix::beginnings(text, enough) {
                let encoding = self.tokenize_all(beginning, Some(enough), type_id, offsets)?;
                if encoding.len() >= enough || beginning.len() == text.len() {
                    return Ok(encoding);
                }
            }
        }
        self.tokenize_all(text, enough, type_id, offsets)
    }

    fn tokenize_all(
        &self,
        text: &str,
        enough: Option<usize>,
        type_id: u32,
        offsets: OffsetType,
    ) -> Result<tokenizers::Encoding> {
        let parts = &self.tokenizer;
        let tokenize = || {
            let added = parts.get_added_vocabulary();
            let mut words = added.extract_and_normalize(parts.get_normalizer(), text);
            if let Some(pre_tokenizer) = parts.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut words)?;
            }
            let enough = enough.map(|enough| (enough, self.truncation_side));
            parts.get_model().tokenize_in_pretokenized(&mut words, enough)?;
            words.into_encoding(None, type_id, offsets)
        };
        tokenize().map_err(failed("tokenize a text"))
    }

    /// Cuts to `room`, adds the special tokens, takes out what is asked for.
    fn assemble(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        room: Option<usize>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        let length = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len);
        let truncated = room.is_some_and(|room| room < length);
        let assemble = || {
            let (first, second) = match room {
                Some(max_length) => {
                    let params = TruncationParams {
                        max_length,
                        direction: self.truncation_side,
                        strategy: TruncationStrategy::LongestFirst,
                        stride: 0,
                    };
                    truncate_encodings(first, second, &params)?
                }
                None => (first, second),
            };
            self.tokenizer.post_process(first, second, options.add_special_tokens)
        };
        let encoding = assemble().map_err(failed("add special tokens"))?;
        Ok(Encoding {
            input_ids: encoding.get_ids().to_vec(),
            token_type_ids: encoding.get_type_ids().to_vec(),
            truncated,
            offset_mapping: options.return_offsets_mapping.then(|| encoding.get_offsets().to_vec()),
        })
    }

    /// How many special tokens come around a text, or around a pair.
    pub fn num_special_tokens_to_add(&self, pair: bool) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }
}

fn offset_type(options: &EncodeOptions) -> OffsetType {
    // `None` would also leave out which text a token belongs to.
    if options.return_offsets_mapping { OffsetType::Char } else { OffsetType::Byte }
}

fn failed(what: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| Error::new(ErrorKind::Model, format!("cannot {what}")).source(e)
}

/// Tidies the spaces that English tokenization leaves (`clean_up_tokenization` of transformers).
fn clean_up(text: &str) -> String {
    const TIDY: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    TIDY.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}
