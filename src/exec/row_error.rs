//! The error of a row, and the type of a column that keeps row errors beside values. Not here: the handling of refused
//! rows (`row_errors`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use crate::error::{Error, RowErrorKind};

/// Why a row was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowError {
    pub(crate) kind: RowErrorKind,
    pub(crate) message: String,
}

impl From<&Error> for RowError {
    fn from(error: &Error) -> Self {
        let kind = error.row_kind().unwrap_or_default();
        Self { kind, message: error.message().to_owned() }
    }
}

/// The handling of a row that the task or the model refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowErrors {
    /// The run fails.
    #[default]
    Fail,
    /// The error message is kept beside the value: the column is a Struct<value, error>.
    Keep,
    /// The error message and its kind are kept beside the value: Struct<value, error, kind>.
    KeepKind,
}

/// The fields of a column that keeps row errors.
pub(crate) fn error_parts(value: &DataType, row_errors: RowErrors) -> Fields {
    let mut fields =
        vec![Field::new("value", value.clone(), true), Field::new("error", DataType::Utf8, true)];
    if row_errors == RowErrors::KeepKind {
        fields.push(Field::new("kind", DataType::Utf8, true));
    }
    fields.into()
}

/// A column that keeps row errors: `values` beside one error per row. A row is null unless it is `valid`.
///
/// # Errors
/// When the parts differ in length.
pub(super) fn beside_errors(
    values: ArrayRef,
    valid: NullBuffer,
    errors: &[Option<&RowError>],
    row_errors: RowErrors,
) -> Result<ArrayRef, ArrowError> {
    let fields = error_parts(values.data_type(), row_errors);
    let messages = errors.iter().map(|error| Some(error.as_ref()?.message.as_str()));
    let messages = messages.collect::<StringArray>();
    let mut parts = vec![values, Arc::new(messages) as ArrayRef];
    if row_errors == RowErrors::KeepKind {
        let kinds = errors.iter().map(|error| Some(error.as_ref()?.kind.name()));
        parts.push(Arc::new(kinds.collect::<StringArray>()));
    }
    Ok(Arc::new(StructArray::try_new(fields, parts, Some(valid))?))
}

/// The type of the column of a step whose task returns `field`.
pub(crate) fn output_type(field: &Field, row_errors: RowErrors) -> DataType {
    match row_errors {
        RowErrors::Fail => field.data_type().clone(),
        RowErrors::Keep | RowErrors::KeepKind => {
            DataType::Struct(error_parts(field.data_type(), row_errors))
        }
    }
}
