//! Rows on stdout: a table, CSV or JSON.

use std::borrow::Cow;
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, StructArray};
use arrow::compute::cast;
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::json::writer::{JsonArray, LineDelimited, WriterBuilder as JsonWriterBuilder};
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::super::terminal::{print_rows as out, printable};
use super::OutputFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::{secret, sink, source};

/// The most rows of a table on a terminal. The query stops there.
const MAX_TABLE_ROWS: usize = 1000;

/// The most components of a vector that a terminal shows in full.
const MAX_VECTOR: usize = 6;

/// Prints the rows of a query as a stream; `cancel` stops the query and its models.
pub(super) async fn stream(
    schema: SchemaRef,
    mut stream: SendableRecordBatchStream,
    format: OutputFormat,
    mut cancel: Pin<&mut impl Future<Output = ErrorKind>>,
) -> Result<()> {
    let mut printer = Printer::new(schema, format);
    loop {
        let batch = tokio::select! {
            batch = stream.next() => batch,
            kind = cancel.as_mut() => return Err(Error::new(kind, "stopped by a signal")),
        };
        match batch {
            Some(batch) => {
                let batch = batch.map_err(|e| source::query_error(e, &[]))?;
                if !printer.push(batch)? {
                    break;
                }
            }
            None => break,
        }
    }
    drop(stream);
    printer.finish()
}

/// Prints batches.
pub(super) fn print(
    schema: SchemaRef,
    batches: impl IntoIterator<Item = Result<RecordBatch>>,
    format: OutputFormat,
) -> Result<()> {
    let mut printer = Printer::new(schema, format);
    for batch in batches {
        printer.push(batch?)?;
    }
    printer.finish()
}

/// The batch with its texts escaped for display.
pub(super) fn without_secrets(batch: &RecordBatch) -> Result<RecordBatch> {
    with_texts(batch, secret::hide)
}

/// The batch with its texts replaced.
fn with_texts(batch: &RecordBatch, shown: fn(&str) -> Cow<'_, str>) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>().iter();
            let texts = texts.map(|text| text.map(shown));
            Arc::new(texts.collect::<StringArray>()) as ArrayRef
        }
        _ => Arc::clone(column),
    });
    RecordBatch::try_new(batch.schema(), columns.collect())
        .map_err(|e| Error::new(ErrorKind::Internal, "showing texts").source(e))
}

enum Printer {
    Table { schema: SchemaRef, batches: Vec<RecordBatch>, rows: usize, on_terminal: bool },
    Csv { header: bool, schema: SchemaRef },
    Json(arrow::json::writer::Writer<Vec<u8>, JsonArray>),
    Jsonl,
}

impl Printer {
    fn new(schema: SchemaRef, format: OutputFormat) -> Self {
        match format {
            OutputFormat::Table => Self::Table {
                schema,
                batches: Vec::new(),
                rows: 0,
                on_terminal: std::io::stdout().is_terminal(),
            },
            OutputFormat::Csv => Self::Csv { header: true, schema },
            OutputFormat::Json => {
                Self::Json(JsonWriterBuilder::new().with_explicit_nulls(true).build(Vec::new()))
            }
            OutputFormat::Jsonl => Self::Jsonl,
        }
    }

    /// Takes a batch, and returns whether it needs more.
    fn push(&mut self, batch: RecordBatch) -> Result<bool> {
        let broken = |e: arrow::error::ArrowError| {
            Error::new(ErrorKind::Config, "the rows cannot be converted to this format").source(e)
        };
        match self {
            Self::Table { batches, rows, on_terminal, .. } => {
                *rows += batch.num_rows();
                batches.push(batch);
                Ok(!*on_terminal || *rows <= MAX_TABLE_ROWS)
            }
            Self::Csv { header, .. } => {
                let batch = sink::nested_as_text(&batch)?;
                let mut text = Vec::new();
                let mut writer = CsvWriterBuilder::new().with_header(*header).build(&mut text);
                writer.write(&batch).map_err(broken)?;
                drop(writer);
                *header = false;
                out(&text)
            }
            Self::Json(writer) => {
                sink::check_text(&batch)?;
                writer.write(&batch).map_err(broken)?;
                let inner = std::mem::take(writer.get_mut());
                out(&inner)
            }
            Self::Jsonl => {
                sink::check_text(&batch)?;
                let mut writer = JsonWriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, LineDelimited>(Vec::new());
                writer.write(&batch).map_err(broken)?;
                out(&writer.into_inner())
            }
        }
    }

    fn finish(self) -> Result<()> {
        let broken = |e: arrow::error::ArrowError| {
            Error::new(ErrorKind::Config, "the rows cannot be converted to this format").source(e)
        };
        match self {
            Self::Table { schema, batches, rows, on_terminal } => {
                let mut shown = batches;
                let more = on_terminal && rows > MAX_TABLE_ROWS;
                if more {
                    let mut left = MAX_TABLE_ROWS;
                    shown = shown
                        .into_iter()
                        .map(|batch| {
                            let taken = batch.slice(0, batch.num_rows().min(left));
                            left -= taken.num_rows();
                            taken
                        })
                        .collect();
                }
                if on_terminal {
                    shown = shown.iter().map(shortened).collect::<Result<_>>()?;
                }
                if shown.is_empty() {
                    shown.push(RecordBatch::new_empty(schema));
                }
                let options = FormatOptions::new().with_null("NULL");
                let table = |batches: &[RecordBatch]| {
                    let table = pretty_format_batches_with_options(batches, &options);
                    table.map(|table| format!("{table}\n")).map_err(broken)
                };
                let mut text = table(&shown)?;
                if matches!(printable(&text), Cow::Owned(_)) {
                    // Escapes the text before the layout, which keeps the lines aligned.
                    shown = shown
                        .iter()
                        .map(|batch| with_texts(batch, printable))
                        .collect::<Result<_>>()?;
                    text = table(&shown)?;
                }
                out(printable(&text).as_bytes())?;
                if more {
                    super::super::terminal::say(format_args!(
                        "only the first {MAX_TABLE_ROWS} rows; use `-o FILE` or `--format csv` for all"
                    ));
                }
                Ok(())
            }
            Self::Csv { header: true, schema } => {
                let batch = sink::nested_as_text(&RecordBatch::new_empty(schema))?;
                let mut text = Vec::new();
                CsvWriterBuilder::new()
                    .with_header(true)
                    .build(&mut text)
                    .write(&batch)
                    .map_err(broken)?;
                out(&text).map(drop)
            }
            Self::Json(mut writer) => {
                writer.finish().map_err(broken)?;
                let mut rest = writer.into_inner();
                rest.push(b'\n');
                out(&rest).map(drop)
            }
            Self::Csv { .. } | Self::Jsonl => Ok(()),
        }
    }
}

/// The batch with long vectors replaced by texts of their first and last components.
fn shortened(batch: &RecordBatch) -> Result<RecordBatch> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = fields
        .map(|(field, column)| {
            let column = short_column(column);
            (field.as_ref().clone().with_data_type(column.data_type().clone()), column)
        })
        .unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| Error::new(ErrorKind::Internal, "shortening vectors").source(e))
}

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
