//! Encodes texts and pairs of texts as rows of one model: truncated to its maximum length, and checked against its
//! embedding tables.
//!
//! Not here: tokens without a model ([`AutoTokenizer`]), tensors ([`crate::nn::ModelInputs`]).

use super::config::AutoConfig;
use super::tokenizer::{AutoTokenizer, EncodeOptions, Encoding};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// How texts are encoded for a model.
#[derive(Clone, Copy, Debug)]
pub struct TextInput<'a> {
    /// The model's name, for errors.
    pub name: &'a str,
    /// The model's configuration.
    pub config: &'a AutoConfig,
    /// Its tokenizer.
    pub tokenizer: &'a AutoTokenizer,
    /// The maximum number of tokens per row, including special tokens; see [`TextInput::max_tokens`].
    pub max_length: usize,
    /// Whether longer texts are truncated; otherwise they are an error.
    pub truncation: bool,
}

impl TextInput<'_> {
    /// The maximum number of tokens per row: `max_length`, else `stated`, but at most the number of the model's
    /// positions. A `max_length` may exceed it where the model extrapolates. `usize::MAX` when none of them limits it. `pair` is for rows of two texts.
    ///
    /// # Errors
    /// `Config` when `max_length` leaves no room for special tokens, or exceeds the number of positions.
    pub fn max_tokens(
        config: &AutoConfig,
        tokenizer: &AutoTokenizer,
        max_length: Option<usize>,
        stated: Option<usize>,
        pair: bool,
    ) -> Result<usize> {
        let special = tokenizer.num_special_tokens_to_add(pair);
        Self::max_tokens_with(config, special, max_length, stated)
    }

    /// As [`TextInput::max_tokens`], for rows with `special` special tokens.
    ///
    /// # Errors
    /// As [`TextInput::max_tokens`].
    pub fn max_tokens_with(
        config: &AutoConfig,
        special: usize,
        max_length: Option<usize>,
        stated: Option<usize>,
    ) -> Result<usize> {
        let dimensions = config.dimensions();
        let Some(max_length) = max_length else {
            let positions = dimensions.max_position_embeddings.unwrap_or(usize::MAX);
            return Ok(stated.unwrap_or(usize::MAX).min(positions));
        };
        let positions = dimensions.position_limit().unwrap_or(usize::MAX);
        if max_length <= special {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`max_length: {max_length}` leaves no room beside {special} special tokens"
                ),
            ));
        }
        if max_length > positions {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`max_length: {max_length}` is more than the model's {positions} positions"
                ),
            ));
        }
        Ok(max_length)
    }

    /// How texts are truncated, and padded if the model attends to padding.
    pub fn options(&self) -> EncodeOptions {
        EncodeOptions {
            max_length: self.truncation.then_some(self.max_length),
            pad_to: self.config.family().pads_texts.then_some(self.max_length),
            ..EncodeOptions::default()
        }
    }

    /// The tokens of one text or one pair.
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode_pair`]; `Data` for a text that is too long or has no token.
    pub fn encode(&self, texts: &[&str]) -> Result<Encoding> {
        let options = self.options();
        let encoding = match texts {
            [text] => self.tokenizer.encode(text, &options)?,
            [text, pair] => self.tokenizer.encode_pair(text, pair, &options)?,
            _ => return Err(Error::new(ErrorKind::Internal, "a row is one text or two")),
        };
        self.checked(encoding)
    }

    /// As [`TextInput::encode`], but an empty second text counts as absent, as in transformers'
    /// `tokenizer(text, text_pair="")`.
    ///
    /// # Errors
    /// As [`TextInput::encode`].
    pub fn encode_optional_pair(&self, texts: &[&str]) -> Result<Encoding> {
        match texts {
            [text, ""] => self.encode(&[text]),
            texts => self.encode(texts),
        }
    }

    /// The tokens of a text that has its special tokens already, as a chat template renders it.
    ///
    /// # Errors
    /// As [`TextInput::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Encoding> {
        let options = EncodeOptions { add_special_tokens: false, ..self.options() };
        self.checked(self.tokenizer.encode(text, &options)?)
    }

    /// Rejects a row that is too long or has no token.
    fn checked(&self, encoding: Encoding) -> Result<Encoding> {
        self.fits(encoding.input_ids.len())?;
        if encoding.input_ids.is_empty() {
            return Err(Error::of_row(RowErrorKind::Empty, "a text without a token"));
        }
        Ok(encoding)
    }

    /// Like [`TextInput::encode`], with the checks of [`TextInput::check_tokens`].
    ///
    /// # Errors
    /// As [`TextInput::encode`] and [`TextInput::check_tokens`].
    pub fn row(&self, texts: &[&str]) -> Result<Encoding> {
        let encoding = self.encode(texts)?;
        self.check_tokens(&encoding.input_ids, &encoding.token_type_ids)?;
        Ok(encoding)
    }

    /// The ids of a row for the model, with `token_type_ids` only if its tokenizer gives them.
    pub fn inputs<'e>(&self, encoding: &'e Encoding) -> (&'e [u32], &'e [u32]) {
        let gives_token_type_ids = self.tokenizer.gives_token_type_ids();
        let types: &[u32] = if gives_token_type_ids { &encoding.token_type_ids } else { &[] };
        (&encoding.input_ids, types)
    }

    /// Rejects a row with more tokens than the maximum.
    ///
    /// # Errors
    /// `Data`, with both numbers.
    pub fn fits(&self, tokens: usize) -> Result<()> {
        let max_length = self.max_length;
        if tokens <= max_length {
            return Ok(());
        }
        let message = format!("text of {tokens} tokens, expected at most {max_length}");
        Err(Error::of_row(RowErrorKind::TooLong, message)
            .hint("set `truncation: true` to truncate longer texts, or raise `max_length`"))
    }

    /// Checks that each window advances: windows of `max_length` tokens share `stride` of them. `option` is the
    /// stride's name.
    ///
    /// # Errors
    /// `Config` when they do not.
    pub fn check_stride(&self, option: &str, stride: usize) -> Result<()> {
        let special = self.tokenizer.num_special_tokens_to_add(false);
        let room = self.max_length.saturating_sub(special);
        if stride < room {
            return Ok(());
        }
        let max_length = self.max_length;
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "`{option}: {stride}` is not less than the {room} tokens that a window of {max_length} \
                 has beside special tokens"
            ),
        ))
    }

    /// Checks that the model's embedding tables cover every token and segment of a row. Many checkpoints have added
    /// tokens without resized embeddings, so only the rows with such a token fail.
    ///
    /// # Errors
    /// `Data`, with the token and both numbers.
    pub fn check_tokens(&self, input_ids: &[u32], token_type_ids: &[u32]) -> Result<()> {
        let dimensions = self.config.dimensions();
        let within = |id: &u32, rows: usize| (*id as usize) < rows;
        let rows = dimensions.vocab_size;
        if let Some(id) = input_ids.iter().find(|id| !within(id, rows)) {
            let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
            let message = format!(
                "the token `{token}` has the id {id}, but the embedding table of model `{}` has {rows} rows",
                self.name
            );
            return Err(Error::of_row(RowErrorKind::Data, message).hint(
                "the tokenizer has tokens that the model was not resized for (`resize_token_embeddings`)",
            ));
        }
        let segments = dimensions.type_vocab_size.filter(|_| self.tokenizer.gives_token_type_ids());
        if let Some(rows) = segments
            && let Some(id) = token_type_ids.iter().find(|id| !within(id, rows))
        {
            let message = format!(
                "a token of segment {id}, but the table of segments of model `{}` has {rows} rows",
                self.name
            );
            return Err(Error::of_row(RowErrorKind::Data, message).hint(
                "the tokenizer gives token_type_ids that the model does not know: leave them out of \
                 `model_input_names` in tokenizer_config.json",
            ));
        }
        Ok(())
    }
}
