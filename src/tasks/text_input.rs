//! Tokenizes text columns for most tasks: one text or a pair per row, truncated to a maximum. Errors name
//! the row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use rayon::prelude::*;

use super::models::ResolvedModel;
use super::{EncodedRow, text_column};
use crate::auto::{EncodeOptions, Encoding};
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::Result;

/// The text columns of a step and their encoding.
#[derive(Debug)]
pub(super) struct TextInput {
    pub(super) model: Arc<ResolvedModel>,
    pub(super) columns: Vec<String>,
    pub(super) max_length: usize,
    truncation: bool,
}

impl TextInput {
    /// `max_length` is the step's. Its default is the smaller of the tokenizer's and the model's maximum.
    ///
    /// # Errors
    /// `Config` if `max_length` leaves no room for special tokens, or exceeds the model's positions.
    pub(super) fn new<'a>(
        model: Arc<ResolvedModel>,
        columns: impl IntoIterator<Item = &'a str>,
        max_length: Option<usize>,
        truncation: bool,
    ) -> Result<Self> {
        let stated = model.tokenizer().model_max_length();
        Self::with_stated(model, columns, max_length, stated, truncation)
    }

    /// As [`TextInput::new`], with `stated` as the tokenizer's maximum.
    ///
    /// # Errors
    /// As [`TextInput::new`].
    pub(super) fn with_stated<'a>(
        model: Arc<ResolvedModel>,
        columns: impl IntoIterator<Item = &'a str>,
        max_length: Option<usize>,
        stated: Option<usize>,
        truncation: bool,
    ) -> Result<Self> {
        let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
        let max_length = max_tokens(&model, max_length, stated, columns.len() > 1)?;
        Ok(Self { model, columns, max_length, truncation })
    }

    /// For texts of at most `max_length` tokens.
    pub(super) fn of<'a>(
        model: Arc<ResolvedModel>,
        columns: impl IntoIterator<Item = &'a str>,
        max_length: usize,
        truncation: bool,
    ) -> Self {
        let columns = columns.into_iter().map(str::to_owned).collect();
        Self { model, columns, max_length, truncation }
    }

    /// Checks that windows of `max_length` tokens with an overlap of `stride` tokens advance; `option` is
    /// the name of the stride.
    ///
    /// # Errors
    /// `Config` if they do not.
    pub(super) fn check_stride(&self, option: &str, stride: usize) -> Result<()> {
        Ok(self.rows().check_stride(option, stride)?)
    }

    /// The library's input for the model.
    pub(super) fn rows(&self) -> hfauto::auto::TextInput<'_> {
        self.model.text_input(self.max_length, self.truncation)
    }

    /// Encodes rows in parallel. `encode` receives the texts of one row, in column order. A row with a null
    /// is null.
    pub(super) fn encode_rows(
        &self,
        columns: &[ArrayRef],
        first_row: u64,
        encode: impl Fn(&[&str]) -> Result<EncodedRow> + Sync,
    ) -> Result<Vec<Option<EncodedRow>>> {
        encode_rows(Some(&*self.model), &self.columns, columns, first_row, encode)
    }

    /// Encodes one text or one pair.
    pub(super) fn encode(&self, texts: &[&str]) -> Result<EncodedRow> {
        Ok(self.encoding(texts)?.into())
    }

    /// As [`TextInput::encode`], but an empty second text counts as absent.
    pub(super) fn encode_optional_pair(&self, texts: &[&str]) -> Result<EncodedRow> {
        Ok(self.rows().encode_optional_pair(texts)?.into())
    }

    /// The tokens of one text or one pair.
    pub(super) fn encoding(&self, texts: &[&str]) -> Result<Encoding> {
        Ok(self.rows().encode(texts)?)
    }

    /// How to truncate texts.
    pub(super) fn options(&self) -> EncodeOptions {
        self.rows().options()
    }

    /// Rejects a row with more tokens than the model's maximum.
    pub(super) fn fits(&self, tokens: usize) -> Result<()> {
        Ok(self.rows().fits(tokens)?)
    }
}

/// Encodes the rows of text columns in parallel on the current rayon pool. `names` are the column names,
/// for errors. A row with a null is null. `model` is the model that reads the tokens, if there is one.
pub(super) fn encode_rows(
    model: Option<&ResolvedModel>,
    names: &[String],
    columns: &[ArrayRef],
    first_row: u64,
    encode: impl Fn(&[&str]) -> Result<EncodedRow> + Sync,
) -> Result<Vec<Option<EncodedRow>>> {
    let columns = columns.iter().map(text_column).collect::<Result<Vec<_>>>()?;
    let num_rows = columns.first().map_or(0, Array::len);
    (0..num_rows)
        .into_par_iter()
        .map(|row| {
            if columns.iter().any(|column| column.is_null(row)) {
                return Ok(None);
            }
            let texts: Vec<&str> = columns.iter().map(|column| column.value(row)).collect();
            let encoded = encode(&texts).and_then(|row| {
                model.map_or(Ok(()), |model| model.check_tokens(&row))?;
                Ok(Some(row))
            });
            encoded.map_err(|e| e.at(place(names, first_row + row as u64)))
        })
        .collect()
}

/// The position of a row, for errors.
pub(super) fn place(names: &[String], row: u64) -> String {
    let columns = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let noun = if names.len() > 1 { "columns" } else { "column" };
    format!("row {} of the step's input, {noun} {columns}", row + 1)
}

/// The maximum number of tokens per row: the step's `max_length`, else the `stated` one; never more than
/// the model's positions.
pub(super) fn max_tokens(
    model: &ResolvedModel,
    max_length: Option<usize>,
    stated: Option<usize>,
    pair: bool,
) -> Result<usize> {
    let (config, tokenizer) = (model.config(), model.tokenizer());
    Ok(hfauto::auto::TextInput::max_tokens(config, tokenizer, max_length, stated, pair)?)
}

/// Reports a prompt that is set both as text and by name.
pub(super) fn check_prompt(prompt: bool, name: bool, at: Cursor<'_>, report: &mut Diagnostics) {
    if prompt && name {
        let message = "`prompt` and `prompt_name` exclude each other";
        report.push(
            Diagnostic::new(at.key("prompt_name").key, message)
                .related(at.key("prompt").key, "the other")
                .hint("keep one of them"),
        );
    }
}
