//! Reads Parquet footers: columns, rows and unit boundaries, after it validates the footer and its sizes. The `parquet`
//! crate allocates memory for the counts in a footer and panics at negative ones. Not here: rows, and the footers that a
//! scan reads again ([`super::parquet_reader`]).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::basic::{Encoding, LogicalType, Type};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use datafusion::parquet::file::reader::ChunkReader;

use super::inspect::{Columns, Inspected, Layout, Rows, without_metadata};
use super::invalid::{self, InvalidText};
use super::thrift;
use super::units::Start;
use super::value_sizes::large_values;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    DECOMPRESSION_RATIO, DECOMPRESSION_SLACK, PARQUET_CHECKED_WHOLE, PARQUET_FILE_ROWS_PER_BYTE,
    PARQUET_ROWS, PARQUET_ROWS_PER_BYTE,
};

const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED_MAGIC: &[u8] = b"PARE";

/// Reads the footer of a Parquet file, and its texts up to a given row when looking for invalid UTF-8.
pub(super) fn inspect<R: ChunkReader + 'static>(
    path: &Path,
    open: impl Fn() -> Result<R>,
    marked_rows: Option<u64>,
) -> Result<Inspected> {
    let broken = || {
        Error::new(ErrorKind::Data, format!("`{}` is not a whole Parquet file", path.display()))
            .hint("it may be cut off or of another format; write or copy it again")
    };
    let failed = |error: ParquetError| broken().source(error);
    let damaged = |problem: String| broken().source(problem);
    let opened = open()?;
    let (metadata, rows) = metadata(&opened).map_err(|problem| match problem {
        Problem::Damage(what) => damaged(what),
        Problem::Library(error) => failed(error),
    })?;
    check_suspicious(&metadata, &opened).map_err(damaged)?;
    let file = metadata.file_metadata();
    if u64::try_from(file.num_rows()) != Ok(rows) {
        tracing::warn!(
            file = %path.display(),
            "the footer counts {} rows, its row groups {rows}: those of the row groups are read",
            file.num_rows()
        );
    }
    let schema =
        parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()).map_err(failed)?;
    let mut text_bytes: BTreeMap<String, u64> = BTreeMap::new();
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let [name] = column.column_path().parts() else { continue };
        // For dictionary-encoded columns, only newer writers provide this size.
        let bytes = column.unencoded_byte_array_data_bytes();
        let bytes = bytes.unwrap_or_else(|| column.uncompressed_size());
        let sum = text_bytes.entry(name.clone()).or_default();
        *sum = sum.saturating_add(u64::try_from(bytes).unwrap_or_default());
    }
    let starts = starts(metadata.row_groups().iter().map(|group| group.num_rows() as u64));
    let invalid = match marked_rows {
        Some(max_rows) => invalid::of_parquet(opened, max_rows).map_err(failed)??,
        None => InvalidText::default(),
    };
    let columns = Columns::Parquet(without_metadata(&schema));
    Ok(Inspected {
        columns,
        rows: Rows::Exactly(rows),
        text_bytes: text_bytes.into_iter().collect(),
        starts,
        invalid: invalid.into(),
        layout: Layout { large_values: large_values(&metadata), ..Layout::default() }.into(),
    })
}

/// The checked footer of a file, and its rows.
///
/// # Errors
/// The problem found.
pub(super) fn metadata(file: &impl ChunkReader) -> Result<(ParquetMetaData, u64), Problem> {
    let footer = footer(file)?;
    thrift::check_footer(&footer).map_err(Problem::Damage)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
    let rows = check(&metadata, file.len()).map_err(Problem::Damage)?;
    Ok((metadata, rows))
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Problem {
    Damage(String),
    Library(ParquetError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damage(what) => f.write_str(what),
            Self::Library(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Problem {}

impl From<ParquetError> for Problem {
    fn from(error: ParquetError) -> Self {
        Self::Library(error)
    }
}

/// The metadata at the end of a file, as bytes.
fn footer(file: &impl ChunkReader) -> Result<Bytes, Problem> {
    let damage = |what: &str| Problem::Damage(what.to_owned());
    let bytes = file.len();
    let Some(end) = bytes.checked_sub(8).filter(|end| *end >= 4) else {
        return Err(Problem::Damage(format!("it has {bytes} bytes")));
    };
    let tail = file.get_bytes(end, 8)?;
    match &tail[4..] {
        MAGIC => {}
        ENCRYPTED_MAGIC => return Err(damage("it is encrypted, which is not supported")),
        _ => return Err(damage("it does not end with `PAR1`")),
    }
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let start = end.checked_sub(u64::from(length)).filter(|start| *start >= 4);
    let start = start.ok_or_else(|| damage("its footer is longer than the file"))?;
    Ok(file.get_bytes(start, length as usize)?)
}

/// Checks the counts and sizes of a footer against each other and the file size, and returns the total number of rows.
///
/// # Errors
/// The problem found.
pub(super) fn check(metadata: &ParquetMetaData, file_bytes: u64) -> Result<u64, String> {
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    if metadata.file_metadata().num_rows() < 0 {
        return Err(format!("its footer counts {} rows", metadata.file_metadata().num_rows()));
    }
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let Ok(group_rows) = u64::try_from(group.num_rows()) else {
            return Err(format!("row group {number} has {} rows", group.num_rows()));
        };
        for column in group.columns() {
            let wrong = |what: String| {
                format!("column `{}` of row group {number} {what}", column.column_path().string())
            };
            if let Some(other) = column.file_path() {
                return Err(wrong(format!("is in another file, `{other}`")));
            }
            let values = u64::try_from(column.num_values()).ok();
            let agrees = match column.column_descr().max_rep_level() {
                0 => values == Some(group_rows),
                _ => values.is_some_and(|values| values >= group_rows),
            };
            if !agrees {
                let values = column.num_values();
                return Err(wrong(format!("has {values} values, the row group {group_rows} rows")));
            }
            let Some((_, length)) = place(column).filter(|(start, length)| {
                start.checked_add(*length).is_some_and(|end| end <= file_bytes)
            }) else {
                return Err(wrong("lies outside the file".to_owned()));
            };
            bytes = bytes.saturating_add(length);
        }
        rows = rows
            .checked_add(group_rows)
            .filter(|rows| i64::try_from(*rows).is_ok())
            .ok_or_else(|| "its row groups have more rows than can be counted".to_owned())?;
    }
    if bytes > file_bytes {
        return Err("its columns overlap".to_owned());
    }
    let most = PARQUET_ROWS.saturating_add(file_bytes.saturating_mul(PARQUET_FILE_ROWS_PER_BYTE));
    if rows > most {
        return Err(format!("a file of {file_bytes} bytes claims {rows} rows"));
    }
    Ok(rows)
}

/// The byte range of a column's pages: start and length.
pub(super) fn place(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    Some((u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?))
}

/// Checks the page headers of a small file, and of each row group whose smallest column is small for its rows: if that
/// column has fewer values, the row group's count is false.
fn check_suspicious(metadata: &ParquetMetaData, file: &impl ChunkReader) -> Result<(), String> {
    let is_small = file.len() <= PARQUET_CHECKED_WHOLE;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let smallest = group.columns().iter().min_by_key(|column| column.compressed_size());
        let is_suspicious = smallest.is_some_and(|column| {
            let bytes = u64::try_from(column.compressed_size()).unwrap_or_default();
            group.num_rows() as u64 / PARQUET_ROWS_PER_BYTE > bytes
        });
        let columns: Vec<_> = match smallest {
            _ if is_small => group.columns().iter().collect(),
            Some(smallest) if is_suspicious => vec![smallest],
            _ => continue,
        };
        for column in columns {
            let Some((start, length)) = place(column) else { continue };
            let pages =
                file.get_bytes(start, length as usize).map_err(|error| error.to_string())?;
            let values = Some(column.num_values() as u64);
            check_pages(&pages, values, Encodings::of(column)).map_err(|what| {
                let column = column.column_path().string();
                format!("column `{column}` of row group {number}: {what}")
            })?;
        }
    }
    Ok(())
}

/// The encodings of a column by which values may take more memory than their pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encodings {
    pub(super) has_dictionary: bool,
    pub(super) has_deltas: bool,
}

impl Encodings {
    /// The encodings that the footer declares.
    pub(super) fn of(column: &ColumnChunkMetaData) -> Self {
        let mut found =
            Self { has_dictionary: column.dictionary_page_offset().is_some(), has_deltas: false };
        for encoding in column.encodings() {
            found.has_dictionary |=
                matches!(encoding, Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY);
            found.has_deltas |= encoding == Encoding::DELTA_BYTE_ARRAY;
        }
        found
    }
}

/// Checks the page headers in `bytes`: with `values`, the data pages must hold as many, and none has an encoding that
/// the footer does not declare.
///
/// # Errors
/// The problem found.
pub(super) fn check_pages(
    bytes: &[u8],
    values: Option<u64>,
    encodings: Encodings,
) -> Result<(), String> {
    walk_pages(bytes, values, encodings, |_| {})
}

/// The uncompressed bytes of the largest page.
///
/// # Errors
/// The problem found.
pub(super) fn largest_page(bytes: &[u8], encodings: Encodings) -> Result<u64, String> {
    let mut largest = 0;
    walk_pages(bytes, None, encodings, |bytes| largest = largest.max(bytes))?;
    Ok(largest)
}

/// Checks page headers, and visits the uncompressed size of each page.
fn walk_pages(
    bytes: &[u8],
    values: Option<u64>,
    encodings: Encodings,
    mut visit: impl FnMut(u64),
) -> Result<(), String> {
    let (mut at, mut seen) = (0, 0_u64);
    while at < bytes.len() {
        // Bytes after the last page are not read.
        if values.is_some_and(|values| seen >= values) {
            break;
        }
        let damaged = || "a page header is damaged".to_owned();
        let header = thrift::page_header(&bytes[at..]).ok_or_else(damaged)?;
        let rest = (bytes.len() - at - header.header_bytes) as u64;
        let compressed = u64::try_from(header.compressed_bytes).map_err(|_| damaged())?;
        let uncompressed = u64::try_from(header.uncompressed_bytes).map_err(|_| damaged())?;
        if compressed > rest {
            return Err(format!("a page has {compressed} bytes, {rest} are left"));
        }
        if uncompressed > DECOMPRESSION_SLACK + compressed.saturating_mul(DECOMPRESSION_RATIO) {
            return Err(format!("a page of {compressed} bytes claims to be {uncompressed}"));
        }
        if header.is_dictionary && !encodings.has_dictionary {
            return Err("it has a dictionary that the footer does not declare".to_owned());
        }
        if header.is_delta && !encodings.has_deltas {
            return Err("a page has an encoding that the footer does not declare".to_owned());
        }
        visit(uncompressed);
        seen = seen.saturating_add(u64::try_from(header.values).map_err(|_| damaged())?);
        at += header.header_bytes + compressed as usize;
    }
    match values {
        Some(values) if seen != values => {
            Err(format!("its pages hold {seen} values, the footer says {values}"))
        }
        _ => Ok(()),
    }
}

/// The footer without anything that must not decide which rows are read: the statistics of floating-point columns,
/// because NaN compares above every number but is in no minimum or maximum; statistics of old writers that sorted bytes
/// as signed; indexes outside the file; and a row count other than `rows`, the sum of the row groups.
pub(super) fn without_unsafe_statistics(
    metadata: ParquetMetaData,
    file_bytes: u64,
    rows: u64,
) -> Result<ParquetMetaData, ParquetError> {
    let is_unsafe = |column: &ColumnChunkMetaData| {
        has_unsafe_statistics(column) || indexes(column).any(|index| !is_within(&index, file_bytes))
    };
    let file = metadata.file_metadata().clone();
    let groups = metadata.into_builder().take_row_groups().into_iter().map(|group| {
        if !group.columns().iter().any(is_unsafe) {
            return Ok(group);
        }
        let mut group = group.into_builder();
        let columns = group.take_columns().into_iter().map(|column| {
            if !is_unsafe(&column) {
                return Ok(column);
            }
            let is_lost = indexes(&column).any(|index| !is_within(&index, file_bytes));
            let mut column = column
                .into_builder()
                .clear_statistics()
                .set_column_index_offset(None)
                .set_column_index_length(None)
                .set_bloom_filter_offset(None)
                .set_bloom_filter_length(None);
            if is_lost {
                column = column.set_offset_index_offset(None).set_offset_index_length(None);
            }
            column.build()
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        group.set_column_metadata(columns).build()
    });
    let groups = groups.collect::<Result<Vec<_>, _>>()?;
    let file = FileMetaData::new(
        file.version(),
        rows as i64,
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    // Without indexes, which are read later from the remaining offsets.
    Ok(ParquetMetaData::new(file, groups))
}

/// The byte range of a column's page indexes; empty if it is invalid.
pub(super) fn indexes(column: &ColumnChunkMetaData) -> impl Iterator<Item = Range<u64>> {
    let places = [
        column.column_index_offset().zip(column.column_index_length()),
        column.offset_index_offset().zip(column.offset_index_length()),
    ];
    places.into_iter().flatten().map(|(start, length)| {
        let (start, length) = (u64::try_from(start).ok(), u64::try_from(length).ok());
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        start.zip(end).map_or(0..0, |(start, end)| start..end)
    })
}

fn is_within(index: &Range<u64>, file_bytes: u64) -> bool {
    !index.is_empty() && index.end <= file_bytes
}

fn has_unsafe_statistics(column: &ColumnChunkMetaData) -> bool {
    let is_float = matches!(column.column_type(), Type::FLOAT | Type::DOUBLE)
        || matches!(column.column_descr().logical_type_ref(), Some(LogicalType::Float16));
    is_float
        || column.statistics().is_some_and(|statistics| {
            statistics.is_min_max_deprecated() && !statistics.is_min_max_backwards_compatible()
        })
}

/// The starts of row groups after the first. Empty ones have none of their own.
fn starts(row_groups: impl Iterator<Item = u64>) -> Vec<Start> {
    let mut starts = Vec::new();
    let mut row = 0;
    for rows in row_groups.filter(|rows| *rows > 0) {
        if row > 0 {
            starts.push(Start { row, byte: 0 });
        }
        row += rows;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_cannot_be_are_refused() {
        // As in `thrift`: a data page of 7 values, 50 bytes that become 100.
        let mut page = vec![0x15, 0, 0x15, 0xc8, 0x01, 0x15, 100, 0x2c, 0x15, 14, 0x15, 0, 0, 0];
        page.extend([0; 50]);
        let plain = Encodings::default();
        let check_pages = |bytes: &[u8], values| check_pages(bytes, values, plain);
        check_pages(&page, None).unwrap();
        check_pages(&page, Some(7)).unwrap();
        check_pages(&[page.clone(), page.clone()].concat(), Some(14)).unwrap();
        // Bytes after the last page are ignored.
        check_pages(&[page.clone(), vec![0xff; 9]].concat(), Some(7)).unwrap();
        let problem = check_pages(&page, Some(1_000_000_000_000)).unwrap_err();
        assert_eq!(problem, "its pages hold 7 values, the footer says 1000000000000");
        let problem = check_pages(&page[..40], Some(7)).unwrap_err();
        assert_eq!(problem, "a page has 50 bytes, 26 are left");
        // 50 bytes that claim 2^31 - 1.
        let mut bomb = vec![0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 100, 0];
        bomb.extend([0; 50]);
        let problem = check_pages(&bomb, None).unwrap_err();
        assert_eq!(problem, "a page of 50 bytes claims to be 2147483647");
    }

    #[test]
    fn encodings_are_those_of_the_footer() {
        // A dictionary page, and a data page of DELTA_BYTE_ARRAY.
        let dictionary = [0x15, 4, 0x15, 2, 0x15, 2, 0, b'x'];
        let deltas = [0x15, 0, 0x15, 2, 0x15, 2, 0x2c, 0x15, 14, 0x15, 14, 0, 0, b'x'];
        let plain = Encodings::default();
        let problem = check_pages(&dictionary, None, plain).unwrap_err();
        assert_eq!(problem, "it has a dictionary that the footer does not declare");
        let problem = check_pages(&deltas, None, plain).unwrap_err();
        assert_eq!(problem, "a page has an encoding that the footer does not declare");
        let all = Encodings { has_dictionary: true, has_deltas: true };
        check_pages(&[&dictionary[..], &deltas].concat(), Some(7), all).unwrap();
    }
}
