//! Prompts of a step: a text that is the same for all rows, or a template with columns of the row, `{{ title }}: {{ text }}`.
//! Not here: what a task does with the text (its own file), the templates of models ([`crate::auto::ChatTemplate`]).

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringViewArray};
use arrow::compute::can_cast_types;
use arrow::datatypes::DataType;
use rayon::prelude::*;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use super::definition::InputColumn;
use super::text_input::place;
use super::{is_text, not_text, text_column};
use crate::auto::RowTemplate;
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};

/// A prompt as written.
#[derive(Clone, Debug)]
pub struct Prompt {
    text: String,
    /// The template, or why it is none; `None` for a text without columns.
    template: Option<std::result::Result<Arc<RowTemplate>, String>>,
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        let template = RowTemplate::is_template(&text).then(|| {
            RowTemplate::new(&text).map(Arc::new).map_err(|error| error.message().to_owned())
        });
        Self { text, template }
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl JsonSchema for Prompt {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Prompt".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl Prompt {
    /// The text as written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has columns of the row.
    pub(super) fn is_template(&self) -> bool {
        self.template.is_some()
    }

    /// The columns that it reads.
    fn columns(&self) -> &[String] {
        match &self.template {
            Some(Ok(template)) => template.columns(),
            Some(Err(_)) | None => &[],
        }
    }

    /// Whether it reads a column.
    pub(super) fn reads(&self, column: &str) -> bool {
        self.columns().iter().any(|name| name == column)
    }

    /// The columns that it reads besides `inputs`. `key` is its key in the step.
    pub(super) fn inputs<'a>(
        &'a self,
        key: &'static str,
        inputs: &[InputColumn<'_>],
    ) -> impl Iterator<Item = InputColumn<'a>> {
        let names = self.columns().iter().map(String::as_str);
        let own = names.filter(|name| inputs.iter().all(|input| input.name != *name));
        own.map(move |name| InputColumn::of_key(key, name)).collect::<Vec<_>>().into_iter()
    }

    /// Reports a template that is not valid, or does not read `input`, which it must if it is the whole text.
    pub(super) fn check(&self, input: Option<&str>, at: Cursor<'_>, report: &mut Diagnostics) {
        match (&self.template, input) {
            (Some(Err(problem)), _) => {
                report.push(
                    Diagnostic::new(at.value, format!("not a template: {problem}"))
                        .hint("columns are written as `{{ column }}`, in Jinja's syntax"),
                );
            }
            (Some(Ok(_)), Some(input)) if !self.reads(input) => {
                let message = format!("the template does not read the input `{input}`");
                report.push(Diagnostic::new(at.value, message).hint(format!(
                    "it is the whole text that the model reads: add `{{{{ {input} }}}}`"
                )));
            }
            _ => {}
        }
    }

    /// The template over `columns`, those of the task; `None` for a text without columns.
    ///
    /// # Errors
    /// `Config` if it is not valid; `Internal` if a column is missing.
    pub(super) fn over(&self, columns: &[String]) -> Result<Option<RowPrompts>> {
        let template = match &self.template {
            None => return Ok(None),
            Some(Ok(template)) => Arc::clone(template),
            Some(Err(problem)) => return Err(Error::new(ErrorKind::Config, problem.clone())),
        };
        let place = |name: &String| {
            columns.iter().position(|column| column == name).ok_or_else(|| {
                Error::new(ErrorKind::Internal, format!("the step does not read `{name}`"))
            })
        };
        let places = template.columns().iter().map(place).collect::<Result<_>>()?;
        Ok(Some(RowPrompts { template, places }))
    }
}

/// Reports `options` that are templates in a task that does not fill them.
pub(super) fn no_columns(
    options: &[(&str, Option<&String>)],
    at: Cursor<'_>,
    report: &mut Diagnostics,
) {
    for (key, text) in options {
        if text.is_some_and(|text| RowTemplate::is_template(text)) {
            let message = format!("`{key}` of this step is the same for all rows");
            report.push(
                Diagnostic::new(at.key(key).value, message).hint(
                    "put the columns together in a `sql` step: title || ': ' || text AS text",
                ),
            );
        }
    }
}

/// A template and the columns that it reads.
#[derive(Clone, Debug)]
pub(super) struct RowPrompts {
    template: Arc<RowTemplate>,
    /// For each of its names, the index of the task's column.
    places: Vec<usize>,
}

impl RowPrompts {
    /// The text of each row. Null in one of the first `inputs` columns, those of the step's input, gives null; in another
    /// column it is an empty text. `names` and `first_row` are as in [`super::text_input::encode_rows`].
    ///
    /// # Errors
    /// `Data` for a row whose values the template cannot be filled with.
    pub(super) fn texts(
        &self,
        columns: &[ArrayRef],
        names: &[String],
        inputs: usize,
        first_row: u64,
    ) -> Result<StringViewArray> {
        let read = self.places.iter().map(|place| text_column(&columns[*place]));
        let read = read.collect::<Result<Vec<_>>>()?;
        let rows = columns.first().map_or(0, Array::len);
        let text = |row: usize| {
            if columns[..inputs].iter().any(|column| column.is_null(row)) {
                return Ok(None);
            }
            let values = self.template.columns().iter().zip(&read).map(|(name, column)| {
                (name.as_str(), if column.is_null(row) { "" } else { column.value(row) })
            });
            let text = self.template.render(values).map_err(Error::from);
            text.map(Some).map_err(|e| e.at(place(names, first_row + row as u64)))
        };
        let texts: Vec<Result<Option<String>>> = (0..rows).into_par_iter().map(text).collect();
        texts.into_iter().collect()
    }
}

/// Checks the types of a step's columns: the first `inputs` must be text, and those of prompts can be shown as text.
///
/// # Errors
/// `Config` for the first column that is not.
pub(super) fn check_types(columns: &[String], types: &[&DataType], inputs: usize) -> Result<()> {
    for (index, (column, found)) in columns.iter().zip(types).enumerate() {
        if index < inputs {
            if !is_text(found) {
                return Err(not_text(column, found));
            }
        } else if found.is_nested() || !can_cast_types(found, &DataType::Utf8View) {
            let message = format!("column `{column}` is {found}, which a prompt cannot show");
            return Err(
                Error::new(ErrorKind::Config, message).hint("make a text of it in a `sql` step")
            );
        }
    }
    Ok(())
}
