//! What one file holds: its columns, and its rows where that is cheap to know. Parquet and Arrow IPC
//! say it in their footers; CSV and JSONL are read through once ([`super::csv`], [`super::jsonl`]).
//! Not here: rows as Arrow arrays, which DataFusion reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{FileReader, StreamReader};
use datafusion::common::parsers::CompressionTypeVariant as Codec;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use datafusion::parquet::file::reader::ChunkReader;

use super::csv::CsvColumns;
use super::invalid::{self, InvalidText};
use super::jsonl::JsonColumns;
use super::listing::ListedFile;
use super::units::UNIT_ROWS;
use crate::config::pipeline::{CsvSpec, FileFormat};
use crate::error::{Error, ErrorKind, Result};

/// The columns of one file, in the form that its format merges them in.
#[derive(Clone, Debug)]
pub(super) enum Columns {
    Parquet(SchemaRef),
    /// `stream` when it is the IPC stream format, which has no footer.
    Arrow {
        schema: SchemaRef,
        stream: bool,
    },
    Csv(CsvColumns),
    Jsonl(JsonColumns),
}

/// What one file holds.
#[derive(Clone, Debug)]
pub(super) struct Inspected {
    pub(super) columns: Columns,
    pub(super) rows: Rows,
    /// Bytes of the texts of columns, by name, as far as they are known.
    pub(super) text_bytes: BTreeMap<String, u64>,
    /// Where units of the file start after the first: rows, and for text formats the bytes that they
    /// start at.
    pub(super) starts: Vec<Start>,
    /// Texts that are not UTF-8, where they are no errors.
    pub(super) invalid: InvalidText,
}

/// Where a unit of a file starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) row: u64,
    /// 0 for formats that are read by row.
    pub(super) byte: u64,
}

/// How many rows a file has, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Exactly(u64),
    /// The inspection stopped after this many.
    AtLeast(u64),
    Unknown,
}

impl Rows {
    /// The number, where it is known.
    pub(super) fn exactly(self) -> Option<u64> {
        match self {
            Self::Exactly(rows) => Some(rows),
            Self::AtLeast(_) | Self::Unknown => None,
        }
    }
}

/// Inspects a file. CSV and JSONL are read up to `max_rows`. With `marks`, texts that are not UTF-8 are found
/// and remembered, also those of Parquet; without, they are errors.
pub(super) fn inspect(
    file: &ListedFile,
    csv: CsvSpec,
    max_rows: u64,
    marks: bool,
) -> Result<Inspected> {
    let path = file.path.as_path();
    let at_path = |error: Error| error.at(path.display());
    match file.form.format {
        FileFormat::Parquet => match &file.remote {
            Some(remote) => parquet(path, || Ok(remote.clone()), marks.then_some(max_rows)),
            None => parquet(path, || open(path), marks.then_some(max_rows)),
        },
        FileFormat::Arrow => match &file.remote {
            Some(remote) => arrow(path, remote.reader()),
            None => open(path).and_then(|opened| arrow(path, opened)),
        },
        FileFormat::Csv => {
            let text = decompressed(file)?;
            super::csv::inspect(text, csv, max_rows, marks).map(|(mut columns, rows)| {
                let bytes = std::mem::take(&mut columns.bytes);
                let text_bytes = columns.names.iter().cloned().zip(bytes).collect();
                let starts = starts_of(file, std::mem::take(&mut columns.starts));
                let invalid = std::mem::take(&mut columns.invalid);
                Inspected { columns: Columns::Csv(columns), rows, text_bytes, starts, invalid }
            })
        }
        FileFormat::Jsonl => {
            let text = decompressed(file)?;
            super::jsonl::inspect(text, max_rows, marks).map(|(mut columns, rows)| {
                let text_bytes = std::mem::take(&mut columns.text_bytes);
                let starts = starts_of(file, std::mem::take(&mut columns.starts));
                let invalid = std::mem::take(&mut columns.invalid);
                Inspected { columns: Columns::Jsonl(columns), rows, text_bytes, starts, invalid }
            })
        }
    }
    .map_err(at_path)
}

/// Opens a file; what cannot be opened is missing input, not bad data.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Error::new(ErrorKind::NoInput, format!("cannot open `{}`", path.display())).source(error)
    })
}

fn decompressed(file: &ListedFile) -> Result<Box<dyn Read + Send>> {
    let opened: Box<dyn Read + Send> = match &file.remote {
        Some(remote) => Box::new(remote.reader()),
        None => Box::new(open(&file.path)?),
    };
    FileCompressionType::from(file.form.codec)
        .convert_read(BufReader::with_capacity(1 << 18, opened))
        .map_err(|error| Error::new(ErrorKind::Data, "cannot decompress").source(error))
}

/// The text of a file, or that of some of its bytes where it is not compressed.
pub(super) fn text_of(
    file: &ListedFile,
    bytes: Option<Range<u64>>,
) -> Result<Box<dyn Read + Send>> {
    let Some(bytes) = bytes else { return decompressed(file) };
    let mut opened: Box<dyn ReadSeek> = match &file.remote {
        Some(remote) => Box::new(remote.reader()),
        None => Box::new(open(&file.path)?),
    };
    opened.seek(SeekFrom::Start(bytes.start)).map_err(|error| read_error(error, 0))?;
    Ok(Box::new(opened.take(bytes.end - bytes.start)))
}

trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// An error while bytes are read or decompressed.
pub(super) fn read_error(error: io::Error, line: u64) -> Error {
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("the file is cut off after line {line}"),
        _ => format!("cannot read the file after line {line}"),
    };
    Error::new(ErrorKind::Data, message).source(error)
}

/// Reads the footer of a Parquet file, and its texts up to a row where those that are not UTF-8 are looked for.
fn parquet<R: ChunkReader + 'static>(
    path: &Path,
    open: impl Fn() -> Result<R>,
    marked_rows: Option<u64>,
) -> Result<Inspected> {
    let broken = |error: ParquetError| {
        Error::new(ErrorKind::Data, format!("`{}` is not a whole Parquet file", path.display()))
            .source(error)
            .hint("it may be cut off or of another format; write or copy it again")
    };
    let opened = open()?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&opened).map_err(broken)?;
    let file = metadata.file_metadata();
    let schema =
        parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()).map_err(broken)?;
    let rows = u64::try_from(file.num_rows()).map_or(Rows::Unknown, Rows::Exactly);
    let mut text_bytes = BTreeMap::new();
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let [name] = column.column_path().parts() else { continue };
        // Of a column that is repeated in a dictionary, only newer writers say it.
        let bytes = column.unencoded_byte_array_data_bytes();
        let bytes = bytes.unwrap_or_else(|| column.uncompressed_size());
        *text_bytes.entry(name.clone()).or_default() += u64::try_from(bytes).unwrap_or_default();
    }
    let row_groups = metadata.row_groups().iter();
    let starts = row_starts(row_groups.map(|group| u64::try_from(group.num_rows()).unwrap_or(0)));
    let columns = Columns::Parquet(without_metadata(&schema));
    let invalid = match marked_rows {
        Some(max_rows) => invalid::of_parquet(opened, max_rows).map_err(broken)??,
        None => InvalidText::default(),
    };
    Ok(Inspected { columns, rows, text_bytes, starts, invalid })
}

/// Places in a compressed file cannot be gone to.
fn starts_of(file: &ListedFile, starts: Vec<Start>) -> Vec<Start> {
    if file.form.codec == Codec::UNCOMPRESSED { starts } else { Vec::new() }
}

/// Units of whole row groups, as many as fit in [`UNIT_ROWS`]; larger row groups are cut.
fn row_starts(row_groups: impl Iterator<Item = u64>) -> Vec<Start> {
    let mut starts = Vec::new();
    let (mut row, mut unit_rows) = (0, 0);
    for rows in row_groups {
        if unit_rows > 0 && unit_rows + rows > UNIT_ROWS {
            starts.push(Start { row, byte: 0 });
            unit_rows = 0;
        }
        let mut begin = 0;
        while rows - begin > UNIT_ROWS {
            begin += UNIT_ROWS;
            starts.push(Start { row: row + begin, byte: 0 });
        }
        unit_rows += rows - begin;
        row += rows;
    }
    starts
}

/// Reads the schema of an Arrow IPC file, of either format.
fn arrow(path: &Path, opened: impl Read + Seek) -> Result<Inspected> {
    let broken = |error: ArrowError| {
        Error::new(ErrorKind::Data, format!("`{}` is not a whole Arrow IPC file", path.display()))
            .source(error)
            .hint("it may be cut off or of another format; write or copy it again")
    };
    let mut file = BufReader::new(opened);
    let mut magic = [0; 6];
    let stream = match file.read_exact(&mut magic) {
        Ok(()) => &magic != b"ARROW1",
        Err(_) => true,
    };
    file.seek(SeekFrom::Start(0)).map_err(|error| read_error(error, 0))?;
    let schema = if stream {
        StreamReader::try_new(file, None).map_err(broken)?.schema()
    } else {
        FileReader::try_new(file, None).map_err(broken)?.schema()
    };
    let columns = Columns::Arrow { schema: without_metadata(&schema), stream };
    let (text_bytes, starts, invalid) = (BTreeMap::new(), Vec::new(), InvalidText::default());
    Ok(Inspected { columns, rows: Rows::Unknown, text_bytes, starts, invalid })
}

/// Metadata of a file (pandas' index, a writer's version) does not describe a table of many files.
fn without_metadata(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().clone()))
}
