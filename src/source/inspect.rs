//! Inspects one file: its columns, and its row count if that is cheap. Parquet and Arrow IPC have both in
//! their footers ([`super::parquet`], [`super::arrow_ipc`]); CSV and JSONL files are read completely
//! ([`super::csv`], [`super::jsonl`]). Not here: rows as Arrow arrays, which DataFusion reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::columns::Kind;
use super::csv::CsvColumns;
use super::invalid::InvalidText;
use super::jsonl::JsonColumns;
use super::listing::ListedFile;
use super::remote::{CHUNK_BYTES, RemoteFile};
use super::session::ROWS_PER_BATCH;
use super::text::{Decode, text_of};
use super::text_bytes::TextBytes;
use super::units::Start;
use super::value_sizes::LargeValues;
use super::{arrow_ipc, parquet};
use crate::config::pipeline::{ColumnType, CsvSpec, FileFormat, TextEncoding};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::limits::{MAX_LINE_SIZE_BYTES, MAX_TEXT_COLUMNS};

/// The settings for inspecting every file.
#[derive(Clone, Debug)]
pub(super) struct Inspection {
    pub(super) csv: CsvSpec,
    /// The declared types of CSV and JSONL columns.
    pub(super) types: BTreeMap<String, ColumnType>,
    /// The maximum length of a CSV or JSONL row in bytes.
    pub(super) max_line_bytes: u64,
    /// The maximum number of CSV or JSONL columns.
    pub(super) max_columns: usize,
    /// The row at which reading of CSV and JSONL stops.
    pub(super) max_rows: u64,
    /// Whether texts that are not UTF-8 are recorded, in Parquet too; otherwise they are errors.
    pub(super) marks: bool,
}

impl Default for Inspection {
    fn default() -> Self {
        Self {
            csv: CsvSpec::default(),
            types: BTreeMap::new(),
            max_line_bytes: MAX_LINE_SIZE_BYTES,
            max_columns: MAX_TEXT_COLUMNS,
            max_rows: u64::MAX,
            marks: false,
        }
    }
}

/// The columns of one file, in the form in which its format merges them.
#[derive(Clone, Debug)]
pub(super) enum Columns {
    Parquet(SchemaRef),
    /// `stream` if the file has the IPC stream format, which has no footer.
    Arrow {
        schema: SchemaRef,
        stream: bool,
    },
    /// Without what differs between files with the same columns.
    Csv(Arc<CsvColumns>),
    Jsonl(JsonColumns),
}

/// The content of one file.
#[derive(Clone, Debug)]
pub(super) struct Inspected {
    pub(super) columns: Columns,
    pub(super) rows: Rows,
    /// The size of the texts of columns, as far as known.
    pub(super) text_bytes: TextBytes,
    /// The places to cut the file, after its start.
    pub(super) starts: Vec<Start>,
    /// Texts that are not UTF-8, unless they are errors.
    pub(super) invalid: Arc<InvalidText>,
    /// The settings for reading the file.
    pub(super) layout: Arc<Layout>,
}

impl Inspected {
    /// Uses the memory of another file for what is equal: there may be very many files, and most are alike.
    pub(super) fn share(&mut self, other: &Self) {
        share(&mut self.invalid, &other.invalid);
        share(&mut self.layout, &other.layout);
        self.text_bytes.share(&other.text_bytes);
        if let (Columns::Csv(own), Columns::Csv(others)) = (&mut self.columns, &other.columns) {
            share(own, others);
        }
    }
}

fn share<T: PartialEq>(own: &mut Arc<T>, other: &Arc<T>) {
    if **own == **other {
        *own = Arc::clone(other);
    }
}

/// The settings for reading the rows of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layout {
    /// The columns of a Parquet file that decide how many rows a batch has.
    pub(super) large_values: Vec<LargeValues>,
    /// The column names of a CSV file.
    pub(super) names: Vec<String>,
    /// The number of rows per batch of a text file.
    pub(super) batch_rows: usize,
    /// Whether JSONL rows must be rewritten for arrow's reader.
    pub(super) needs_repair: bool,
    /// The encoding of a text file.
    pub(super) encoding: TextEncoding,
}

/// Statistics of the row lengths of a text file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    longest: u64,
    rows: usize,
    /// The bytes of the rows in the current batch.
    batch_bytes: u64,
    longest_batch: u64,
}

/// The approximate bytes of a batch, where rows are long.
pub(super) const BATCH_BYTES: u64 = 256 << 20;

/// The most values per batch, where columns are many.
pub(super) const BATCH_VALUES: usize = 512 * ROWS_PER_BATCH;

impl Extent {
    /// Adds a row.
    pub(super) fn add(&mut self, bytes: u64) {
        if self.rows == ROWS_PER_BATCH {
            (self.rows, self.batch_bytes) = (0, 0);
        }
        self.rows += 1;
        self.batch_bytes += bytes;
        self.longest = self.longest.max(bytes);
        self.longest_batch = self.longest_batch.max(self.batch_bytes);
    }

    /// The batch size in rows that bounds memory.
    fn batch_rows(self, columns: usize) -> usize {
        let by_values = BATCH_VALUES / columns.max(1);
        let by_bytes = match self.longest_batch {
            ..=BATCH_BYTES => ROWS_PER_BATCH,
            _ => (BATCH_BYTES / self.longest.max(1)) as usize,
        };
        by_values.min(by_bytes).clamp(1, ROWS_PER_BATCH)
    }
}

/// The row count of a file, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rows {
    Exactly(u64),
    /// At least this many; the inspection stopped here.
    AtLeast(u64),
    Unknown,
}

impl Rows {
    /// The exact count, if known.
    pub(super) fn exactly(self) -> Option<u64> {
        match self {
            Self::Exactly(rows) => Some(rows),
            Self::AtLeast(_) | Self::Unknown => None,
        }
    }
}

/// Inspects a file.
pub(super) fn inspect(file: &ListedFile, what: &Inspection) -> Result<Inspected> {
    let path = &*file.path;
    let inspected =
        guarded(ErrorKind::Data, &format!("`{}`", path.display()), || inspect_format(file, what));
    inspected.map_err(|error| error.at(path.display()))
}

fn inspect_format(file: &ListedFile, what: &Inspection) -> Result<Inspected> {
    let path = &*file.path;
    let marked_rows = what.marks.then_some(what.max_rows);
    match file.form.format {
        FileFormat::Parquet => match &file.remote {
            Some(remote) => parquet::inspect(path, || Ok(RemoteFile::clone(remote)), marked_rows),
            None => parquet::inspect(path, || open(path), marked_rows),
        },
        FileFormat::Arrow => {
            if let Some(remote) = &file.remote {
                let bytes = remote.bytes();
                // A small object takes a single request.
                return arrow_ipc::inspect(path, remote.reader(), bytes, bytes <= CHUNK_BYTES);
            }
            let opened = open(path)?;
            let bytes = opened.metadata().map_err(|error| read_error(error, 0))?.len();
            arrow_ipc::inspect(path, opened, bytes, true)
        }
        FileFormat::Csv => {
            let text = text_of(file, None, what.csv.encoding, Decode::KeepSingleBytes);
            let text = text?;
            let encoding = text.encoding;
            super::csv::inspect(text, what).map(|(mut columns, rows)| {
                let names = columns.columns.iter().map(|column| column.name.clone());
                let layout = Layout {
                    names: names.collect(),
                    batch_rows: columns.extent.batch_rows(columns.columns.len()),
                    encoding,
                    ..Layout::default()
                };
                let text_bytes =
                    columns.columns.iter().map(|c| (c.name.clone(), c.bytes)).collect();
                let starts = columns.starts.take();
                let invalid = Arc::new(std::mem::take(&mut columns.invalid));
                columns.extent = Extent::default();
                columns.columns.iter_mut().for_each(|column| column.bytes = 0);
                let (columns, layout) = (Columns::Csv(Arc::new(columns)), Arc::new(layout));
                Inspected { columns, rows, text_bytes, starts, invalid, layout }
            })
        }
        FileFormat::Jsonl => {
            let text = text_of(file, None, TextEncoding::Utf8, Decode::All)?;
            let encoding = text.encoding;
            super::jsonl::inspect(text, what).map(|(mut columns, rows)| {
                let fields = &columns.columns.fields;
                let layout = Layout {
                    batch_rows: columns.extent.batch_rows(columns.columns.count()),
                    needs_repair: columns.needs_repair,
                    encoding,
                    ..Layout::default()
                };
                let has_text = fields.iter().filter(|(_, column)| column.kind == Kind::Text);
                let text_bytes =
                    has_text.map(|(name, column)| (name.clone(), column.text_bytes)).collect();
                let starts = columns.starts.take();
                let invalid = Arc::new(std::mem::take(&mut columns.invalid));
                let (columns, layout) = (Columns::Jsonl(columns), Arc::new(layout));
                Inspected { columns, rows, text_bytes, starts, invalid, layout }
            })
        }
    }
}

/// Opens a file. A failure is missing input, not invalid data.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Error::new(ErrorKind::NoInput, format!("cannot open `{}`", path.display())).source(error)
    })
}

/// An error while bytes are read or decompressed.
pub(super) fn read_error(error: io::Error, line: u64) -> Error {
    // Errors of the text readers need no more context.
    let error = match error.downcast::<Error>() {
        Ok(ours) if line == 0 => return ours,
        Ok(ours) => return ours.at(format!("after line {line}")),
        Err(error) => error,
    };
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("the file is cut off after line {line}"),
        _ => format!("cannot read the file after line {line}"),
    };
    Error::new(ErrorKind::Data, message).source(error)
}

/// The error for a row without an end.
pub(super) fn too_long(max_bytes: u64) -> Error {
    Error::new(ErrorKind::Data, format!("a row is longer than {max_bytes} bytes")).hint(
        "if rows are this long, set `source.max_line_size`; else a line break or a closing quote may be missing",
    )
}

/// Metadata of a file (pandas' index, a writer's version) does not describe a table of many files.
pub(super) fn without_metadata(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().clone()))
}
