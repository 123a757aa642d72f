//! Rows on stdout: a table, CSV or JSON.

use std::borrow::Cow;
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::writer::{JsonArray, LineDelimited, WriterBuilder as JsonWriterBuilder};
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::super::table::{table, terminal_width};
use super::super::terminal::{print_rows as out, printable};
use super::OutputFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::job::{count, counted};
use crate::{secret, sink, source};

/// The most rows of a table on a terminal. The query stops there.
const MAX_TABLE_ROWS: usize = 1000;

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

/// Prints the first rows as a table that fits the terminal, then how many there are.
fn fitted(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    rows: usize,
    elapsed: Duration,
) -> Result<()> {
    let mut left = MAX_TABLE_ROWS;
    let mut first = Vec::new();
    for batch in batches {
        first.push(batch.slice(0, batch.num_rows().min(left)));
        left -= first.last().map_or(0, RecordBatch::num_rows);
    }
    let table = table(schema, &first, terminal_width())?;
    let count = if rows > MAX_TABLE_ROWS {
        format!(
            "the first {} rows; `-o FILE` writes all, `--format csv` prints all",
            count(MAX_TABLE_ROWS as u64)
        )
    } else {
        counted(rows as u64, "row")
    };
    let seconds = elapsed.as_secs_f64();
    out(format!("{table}{count}, {seconds:.3} s\n").as_bytes()).map(drop)
}

enum Printer {
    Table {
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
        rows: usize,
        on_terminal: bool,
        begun: Instant,
    },
    Csv {
        header: bool,
        schema: SchemaRef,
    },
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
                begun: Instant::now(),
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
            Self::Table { schema, batches, rows, on_terminal, begun } => {
                let mut shown = batches;
                // A plan is text of many lines.
                if on_terminal && schema.fields().first().is_none_or(|f| f.name() != "plan_type") {
                    return fitted(&schema, &shown, rows, begun.elapsed());
                }
                if shown.is_empty() {
                    shown.push(RecordBatch::new_empty(schema));
                }
                let options = FormatOptions::new().with_null("NULL");
                let whole = |batches: &[RecordBatch]| {
                    let table = pretty_format_batches_with_options(batches, &options);
                    table.map(|table| format!("{table}\n")).map_err(broken)
                };
                let mut text = whole(&shown)?;
                if matches!(printable(&text), Cow::Owned(_)) {
                    // Escapes the text before the layout, which keeps the lines aligned.
                    shown = shown
                        .iter()
                        .map(|batch| with_texts(batch, printable))
                        .collect::<Result<_>>()?;
                    text = whole(&shown)?;
                }
                out(printable(&text).as_bytes()).map(drop)
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
