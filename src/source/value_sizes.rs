//! The sizes of the values in a Parquet file, from which a scan derives its rows per batch. A dictionary has a repeated
//! value once and a batch has it in each row: a file of a megabyte may decode to batches of gigabytes. Not here: checks of
//! footers and pages (`parquet`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::parquet::basic::{CompressionCodec, Type};
use datafusion::parquet::column::page::{Page, PageReader};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use datafusion::parquet::file::reader::ChunkReader;
use datafusion::parquet::file::serialized_reader::SerializedPageReader;
use datafusion::parquet::schema::types::ColumnDescPtr;

use super::inspect::BATCH_BYTES;
use super::parquet::{Encodings, check_pages, largest_page, place};
use super::session::ROWS_PER_BATCH;
use super::thrift;

/// The largest value size at which a batch has [`ROWS_PER_BATCH`] rows.
const SMALL_VALUE: u64 = BATCH_BYTES / ROWS_PER_BATCH as u64;

/// Two levels of 16 bits for each value of a nested column.
const LEVEL_BYTES: u64 = 4;

/// The bytes read first to find the length of a dictionary page.
const PAGE_HEADER_BYTES: u64 = 1 << 12;

/// A column of a row group with values that may be large.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LargeValues {
    column: ColumnDescPtr,
    rows: Range<u64>,
    /// The values per row, on average.
    values: u64,
    /// The bytes of a value, on average.
    value_bytes: u64,
    /// The pages to inspect, because some values may be far longer than the average.
    pages: Option<Pages>,
}

/// The pages of a column in a file.
#[derive(Clone, Debug, PartialEq)]
struct Pages {
    codec: CompressionCodec,
    /// The bytes of the column chunk, which starts with the dictionary, if any.
    chunk: Range<u64>,
    encodings: Encodings,
    /// Whether the footer claims that the values are short in total. The claim is trusted only for a remote file, where
    /// each inspection costs a request.
    is_said_small: bool,
}

/// The columns of a file whose values may be too large for [`ROWS_PER_BATCH`] rows per batch.
pub(super) fn large_values(metadata: &ParquetMetaData) -> Vec<LargeValues> {
    let mut large = Vec::new();
    let mut first_row = 0;
    for group in metadata.row_groups() {
        let group_rows = group.num_rows() as u64;
        let rows = first_row..first_row + group_rows;
        first_row = rows.end;
        let batch_rows = group_rows.clamp(1, ROWS_PER_BATCH as u64);
        for column in group.columns() {
            let values = (column.num_values() as u64).div_ceil(group_rows.max(1));
            let value_bytes = value_bytes(column);
            let pages = pages(column, batch_rows);
            let largest = values.saturating_mul(value_bytes);
            if pages.is_some() || largest.saturating_mul(batch_rows) > BATCH_BYTES {
                let (column, rows) = (column.column_descr_ptr(), rows.clone());
                large.push(LargeValues { column, rows, values, value_bytes, pages });
            }
        }
    }
    large
}

/// The average bytes of a value, with its levels.
fn value_bytes(column: &ColumnChunkMetaData) -> u64 {
    let nested = if column.column_descr().max_rep_level() > 0 { LEVEL_BYTES } else { 0 };
    let bytes = match column.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => u64::from(column.column_descr().type_length().unsigned_abs()),
        Type::BYTE_ARRAY => text_bytes(column) / (column.num_values() as u64).max(1),
    };
    bytes + nested
}

/// The bytes of texts by the footer.
fn text_bytes(column: &ColumnChunkMetaData) -> u64 {
    let said = column.unencoded_byte_array_data_bytes().unwrap_or_default();
    u64::try_from(said.max(column.uncompressed_size())).unwrap_or(u64::MAX)
}

/// The pages of a column that may hold a value more than once.
fn pages(column: &ColumnChunkMetaData, batch_rows: u64) -> Option<Pages> {
    let encodings = Encodings::of(column);
    let is_text = column.column_type() == Type::BYTE_ARRAY;
    if !is_text || !(encodings.has_dictionary || encodings.has_deltas) {
        return None;
    }
    let (start, length) = place(column)?;
    let is_known = column.unencoded_byte_array_data_bytes().is_some();
    // A known total already counts repetitions; otherwise each row may repeat the values.
    let rows = if is_known { 1 } else { batch_rows };
    let is_said_small = text_bytes(column).saturating_mul(rows) <= BATCH_BYTES;
    Some(Pages {
        codec: column.compression_codec(),
        chunk: start..start + length,
        encodings,
        is_said_small,
    })
}

/// The number of rows per batch with which the requested columns take about [`BATCH_BYTES`].
///
/// # Errors
/// When a page cannot be read.
pub(super) fn batch_rows(
    large: &[LargeValues],
    rows: &Range<u64>,
    is_remote: bool,
    file: &impl ChunkReader,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<usize, ParquetError> {
    let mut most = ROWS_PER_BATCH as u64;
    let mut group = 0..0;
    let mut row_bytes = 0;
    for large in large {
        let root = large.column.path().parts().first();
        if large.rows.end <= rows.start
            || large.rows.start >= rows.end
            || !root.is_some_and(|root| is_wanted(root))
        {
            continue;
        }
        if large.rows != group {
            (group, row_bytes) = (large.rows.clone(), 0);
        }
        let mut bytes = large.value_bytes;
        if let Some(pages) = &large.pages
            && !(is_remote && pages.is_said_small)
        {
            bytes = bytes.max(pages.longest(&large.column, file)?);
        }
        row_bytes = large.values.saturating_mul(bytes).saturating_add(row_bytes);
        most = most.min(BATCH_BYTES / row_bytes.max(1));
    }
    Ok(most.max(1) as usize)
}

impl Pages {
    /// The bytes of the longest value, or an upper bound. Ignores damage: the scan reports it with its unit.
    fn longest(
        &self,
        column: &ColumnDescPtr,
        file: &impl ChunkReader,
    ) -> Result<u64, ParquetError> {
        let mut longest = 0;
        if self.encodings.has_deltas {
            // A value may share a prefix with the one before, but none is longer than its page.
            let length = self.chunk.end - self.chunk.start;
            let chunk = file.get_bytes(self.chunk.start, length as usize)?;
            longest = largest_page(&chunk, self.encodings).unwrap_or_default();
        }
        if self.encodings.has_dictionary {
            longest = longest.max(self.longest_in_dictionary(column, file)?);
        }
        Ok(longest)
    }

    fn longest_in_dictionary(
        &self,
        column: &ColumnDescPtr,
        file: &impl ChunkReader,
    ) -> Result<u64, ParquetError> {
        let chunk_bytes = self.chunk.end - self.chunk.start;
        let read = |bytes: u64| file.get_bytes(self.chunk.start, bytes.min(chunk_bytes) as usize);
        let mut start = read(PAGE_HEADER_BYTES)?;
        let header = thrift::page_header(&start).filter(|header| header.is_dictionary);
        let sizes = header.and_then(|header| {
            let compressed = u64::try_from(header.compressed_bytes).ok()?;
            let uncompressed = u64::try_from(header.uncompressed_bytes).ok()?;
            Some((compressed.checked_add(header.header_bytes as u64)?, uncompressed))
        });
        let Some((page_bytes, uncompressed)) = sizes else { return Ok(0) };
        if uncompressed <= SMALL_VALUE {
            return Ok(uncompressed);
        }
        if page_bytes > start.len() as u64 {
            start = read(page_bytes)?;
        }
        let page = start.slice(..(page_bytes as usize).min(start.len()));
        // The library allocates as many bytes as the header claims.
        if check_pages(&page, None, self.encodings).is_err() {
            return Ok(0);
        }
        let values = decompressed(page, self.codec, column).unwrap_or_default();
        Ok(longest_value(&values).unwrap_or_default())
    }
}

/// The contents of a dictionary page.
fn decompressed(
    page: Bytes,
    codec: CompressionCodec,
    column: &ColumnDescPtr,
) -> Result<Bytes, ParquetError> {
    let chunk = ColumnChunkMetaData::builder(Arc::clone(column))
        .set_compression_codec(codec)
        .set_data_page_offset(0)
        .set_total_compressed_size(page.len() as i64)
        .build()?;
    match SerializedPageReader::new(Arc::new(page), &chunk, 0, None)?.get_next_page()? {
        Some(Page::DictionaryPage { buf, .. }) => Ok(buf),
        _ => Ok(Bytes::new()),
    }
}

/// The length of the longest value in a sequence of length-prefixed values; `None` if it is truncated.
fn longest_value(mut values: &[u8]) -> Option<u64> {
    let mut longest = 0;
    while let Some((length, rest)) = values.split_first_chunk() {
        let length = u32::from_le_bytes(*length);
        values = rest.get(length as usize..)?;
        longest = longest.max(length);
    }
    Some(longest.into())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::basic::Encoding;
    use datafusion::parquet::file::metadata::ParquetMetaDataReader;
    use datafusion::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

    use super::*;

    const MIB: usize = 1 << 20;

    fn file(columns: &[(&str, ArrayRef)], properties: WriterPropertiesBuilder) -> Bytes {
        let batch = RecordBatch::try_from_iter(columns.iter().cloned()).unwrap();
        let mut bytes = Vec::new();
        let properties = Some(properties.build());
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), properties).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn rows_of(file: &Bytes, rows: Range<u64>, wanted: &[&str]) -> usize {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file).unwrap();
        let large = large_values(&metadata);
        batch_rows(&large, &rows, false, file, |name| wanted.contains(&name)).unwrap()
    }

    /// A value of so many bytes in each of so many rows, and many short ones.
    fn texts(bytes: usize, rows: usize) -> ArrayRef {
        let long = "x".repeat(bytes);
        let values = (0..rows).map(|row| if row == 0 { "short" } else { long.as_str() });
        Arc::new(StringArray::from_iter_values(values))
    }

    #[test]
    fn a_repeated_value_counts_in_each_row() {
        let columns = [
            ("long", texts(MIB, 1000)),
            ("also_long", texts(MIB, 1000)),
            ("short", texts(20, 1000)),
            ("number", Arc::new(Int64Array::from_iter_values(0..1000)) as ArrayRef),
        ];
        let properties = || WriterProperties::builder().set_dictionary_page_size_limit(4 * MIB);
        let file = file(&columns, properties());
        assert_eq!(rows_of(&file, 0..1000, &["short", "number"]), ROWS_PER_BATCH);
        assert_eq!(rows_of(&file, 0..1000, &["long", "short"]), 255);
        assert_eq!(rows_of(&file, 0..1000, &["long", "also_long"]), 128);

        // The first row group has a short value only.
        let groups = properties().set_max_row_group_row_count(Some(1));
        let file = self::file(&[("long", texts(MIB, 3))], groups);
        assert_eq!(rows_of(&file, 0..1, &["long"]), ROWS_PER_BATCH);
        assert_eq!(rows_of(&file, 0..2, &["long"]), 255);
    }

    #[test]
    fn other_encodings_are_bounded_too() {
        let deltas = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_data_page_size_limit(1 << 30)
            .set_encoding(Encoding::DELTA_BYTE_ARRAY);
        let file = file(&[("text", texts(MIB, 500))], deltas);
        assert!(file.len() < 4 * MIB, "{}", file.len());
        assert!(rows_of(&file, 0..500, &["text"]) <= 256);

        let plain = WriterProperties::builder().set_dictionary_enabled(false);
        let file = self::file(&[("text", texts(MIB / 4, 500))], plain);
        // All of it is less than a batch may have.
        assert_eq!(rows_of(&file, 0..500, &["text"]), ROWS_PER_BATCH);

        // 100 rows of 2^20 numbers, all the same.
        let numbers = (0..100).map(|_| Some(vec![Some(7); MIB]));
        let numbers = ListArray::from_iter_primitive::<Int64Type, _, _>(numbers);
        let file = self::file(&[("numbers", Arc::new(numbers))], WriterProperties::builder());
        assert!(file.len() < MIB, "{}", file.len());
        assert!(rows_of(&file, 0..100, &["numbers"]) <= 25);
    }

    #[test]
    fn lengths_beyond_a_dictionary_are_damage() {
        let value =
            |length: u32, bytes: usize| [&length.to_le_bytes()[..], &vec![0; bytes]].concat();
        assert_eq!(longest_value(&[value(3, 3), value(0, 0), value(9, 9)].concat()), Some(9));
        assert_eq!(longest_value(&value(u32::MAX, 9)), None);
        assert_eq!(longest_value(&[]), Some(0));
    }
}
