//! Rows as a table that fits the terminal: one line per row, vectors shortened, numbers to the right.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{CellAlignment, ContentArrangement, Row, Table};

use super::terminal::printable;
use crate::error::{Error, ErrorKind, Result};
use crate::secret;

/// The most components of a vector that are shown in full.
const MAX_VECTOR: usize = 6;

/// The most characters of a value that are laid out: more than a terminal is wide.
const MAX_CHARS: usize = 500;

/// The layout of DataFusion's tables.
const PRESET: &str = "||--+-++|    ++++++";

/// The table of `batches`, at most `width` characters wide where its columns allow that.
///
/// # Errors
/// `Config` if a value cannot be shown as text.
pub(super) fn table(schema: &SchemaRef, batches: &[RecordBatch], width: usize) -> Result<String> {
    let mut table = Table::new();
    table
        .load_preset(PRESET)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX))
        .set_truncation_indicator("…")
        .set_header(schema.fields().iter().map(|field| shown(field.name())));
    for (index, field) in schema.fields().iter().enumerate() {
        if field.data_type().is_numeric()
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in cells(batches)? {
        let mut cells = Row::from(row);
        cells.max_height(1);
        table.add_row(cells);
    }
    Ok(format!("{table}\n"))
}

/// The values of each row as texts of one line.
///
/// # Errors
/// `Config` if a value cannot be shown as text.
pub(super) fn cells(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let broken = |e: ArrowError| {
        Error::new(ErrorKind::Config, "the rows cannot be shown as a table").source(e)
    };
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayRef> = batch.columns().iter().map(short_column).collect();
        let formatters = columns.iter().map(|column| ArrayFormatter::try_new(column, &options));
        let formatters: Vec<_> = formatters.collect::<Result<_, ArrowError>>().map_err(broken)?;
        for row in 0..batch.num_rows() {
            let texts = formatters.iter().map(|formatter| {
                let text = formatter.value(row).try_to_string().map_err(broken)?;
                Ok(shown(&text))
            });
            rows.push(texts.collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}

/// The width of the terminal at stdout; 80 without one.
pub(super) fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0))
}

/// A value on one line, without secrets and control characters.
fn shown(text: &str) -> String {
    let short = match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    };
    printable(&secret::hide(&short)).replace('\n', "\\n").replace('\t', "\\t")
}

/// The column with long vectors replaced by texts of their first and last components.
fn short_column(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::FixedSizeList(item, length)
            if *length as usize > MAX_VECTOR && item.data_type().is_numeric() =>
        {
            let lists = column.as_fixed_size_list();
            let texts = (0..lists.len())
                .map(|row| lists.is_valid(row).then(|| short_vector(&lists.value(row))));
            Arc::new(texts.collect::<StringArray>())
        }
        DataType::List(item) if item.data_type().is_floating() => {
            let lists = column.as_list::<i32>();
            let texts = (0..lists.len())
                .map(|row| lists.is_valid(row).then(|| short_vector(&lists.value(row))));
            Arc::new(texts.collect::<StringArray>())
        }
        DataType::Struct(fields) => {
            let parts = column.as_struct();
            let columns: Vec<ArrayRef> = parts.columns().iter().map(short_column).collect();
            let fields: Vec<Field> = fields
                .iter()
                .zip(&columns)
                .map(|(field, column)| {
                    field.as_ref().clone().with_data_type(column.data_type().clone())
                })
                .collect();
            let same = StructArray::try_new(fields.into(), columns, parts.nulls().cloned());
            same.map_or_else(|_| Arc::clone(column), |parts| Arc::new(parts))
        }
        _ => Arc::clone(column),
    }
}

/// `[0.12, -0.3, 0.05, …, 0.4] (384)`.
fn short_vector(values: &ArrayRef) -> String {
    let numbers = cast(values, &DataType::Float64);
    let numbers: &Float64Array = match &numbers {
        Ok(numbers) => numbers.as_primitive::<Float64Type>(),
        Err(_) => return String::new(),
    };
    let number = |index: usize| {
        if numbers.is_null(index) {
            "NULL".to_owned()
        } else {
            format!("{:.4}", numbers.value(index))
        }
    };
    let length = numbers.len();
    if length <= MAX_VECTOR {
        return format!("[{}]", (0..length).map(number).collect::<Vec<_>>().join(", "));
    }
    let first = (0..3).map(number).collect::<Vec<_>>().join(", ");
    format!("[{first}, …, {}] ({length})", number(length - 1))
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeListArray, Float32Array, Int64Array};
    use arrow::datatypes::Schema;

    use super::*;

    fn rows() -> RecordBatch {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let numbers: Vec<f32> = (0..16u8).map(f32::from).collect();
        let vectors = FixedSizeListArray::new(item, 8, Arc::new(Float32Array::from(numbers)), None);
        let texts = StringArray::from(vec![
            Some("A small hotel by the harbour, quiet and\nclean, with a very long breakfast."),
            None,
        ]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![7, 12345]))),
            ("text", Arc::new(texts)),
            ("embedding", Arc::new(vectors)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn a_table_fits_the_terminal_with_one_line_a_row() {
        let batch = rows();
        for width in [40, 60, 80, 120] {
            let table = table(&batch.schema(), std::slice::from_ref(&batch), width).unwrap();
            assert_eq!(table.lines().count(), 6, "{table}");
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} of {width}\n{table}");
        }
        let wide = table(&batch.schema(), std::slice::from_ref(&batch), 300).unwrap();
        assert!(
            wide.contains("|     7 | A small hotel by the harbour, quiet and\\nclean"),
            "{wide}"
        );
        assert!(wide.contains("| 12345 | NULL "), "{wide}");
        assert!(wide.contains("[0.0000, 1.0000, 2.0000, …, 7.0000] (8)"), "{wide}");
    }

    #[test]
    fn a_table_without_rows_has_its_header() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        assert!(table(&schema, &[], 80).unwrap().contains("| a |"));
    }
}
