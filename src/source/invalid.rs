//! Text that is not UTF-8: finds the values, and reads the rows of the files with U+FFFD in place of invalid bytes.
//! Not here: finding the values of text files (`csv`, `jsonl`, `inspect`), reading the files (`reader`), handling
//! the rows (`crate::job`).

use std::io::{self, Read};
use std::ops::Range;

use datafusion::arrow::array::{StringArray, StringBuilder};
use datafusion::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use datafusion::parquet::data_type::{ByteArray, ByteArrayType};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use datafusion::parquet::schema::types::ColumnDescriptor;

use serde::{Deserialize, Serialize};

use super::listing::ListedFile;
use super::session::ROWS_PER_BATCH;
use crate::error::{Error, ErrorKind};

/// The maximum number of recorded values. A file with more has another encoding; it is not damaged.
const MAX_VALUES: usize = 1 << 20;

/// The values of a file that are not UTF-8, in row order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InvalidText {
    /// The columns with invalid values.
    pub(super) columns: Vec<InvalidColumn>,
    values: Vec<Value>,
}

/// A column with values that are not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InvalidColumn {
    pub(super) name: String,
    /// Whether the values are unpaired surrogate escapes: they represent no text, so the rows fail for every reader.
    pub(super) is_half: bool,
}

/// A value that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    /// The row, counted from 0.
    row: u64,
    /// The position as an editor shows it: the line, or the row of a Parquet file; counted from 1.
    place: u64,
    /// An index into [`InvalidText::columns`].
    column: u32,
}

impl InvalidText {
    /// Records a value.
    ///
    /// # Errors
    /// `Data` if there are too many.
    pub(super) fn add(&mut self, column: &str, row: u64, place: u64) -> crate::Result<()> {
        self.add_as(column, false, row, place)
    }

    /// Records a value with an unpaired surrogate escape.
    ///
    /// # Errors
    /// As [`InvalidText::add`].
    pub(super) fn add_half(&mut self, column: &str, row: u64, place: u64) -> crate::Result<()> {
        self.add_as(column, true, row, place)
    }

    fn add_as(&mut self, name: &str, is_half: bool, row: u64, place: u64) -> crate::Result<()> {
        if self.values.len() >= MAX_VALUES {
            let message = format!("more than {MAX_VALUES} texts of the file are not UTF-8");
            return Err(Error::new(ErrorKind::Data, message).hint(CONVERT));
        }
        let index = self.place(name, is_half).unwrap_or_else(|| {
            self.columns.push(InvalidColumn { name: name.to_owned(), is_half });
            self.columns.len() - 1
        });
        self.values.push(Value { row, place, column: index as u32 });
        Ok(())
    }

    fn place(&self, name: &str, is_half: bool) -> Option<usize> {
        self.columns.iter().position(|known| known.name == name && known.is_half == is_half)
    }

    /// Whether a column has invalid bytes.
    pub(super) fn has_bytes(&self, column: &str) -> bool {
        self.place(column, false).is_some()
    }

    /// The values in `rows`.
    pub(super) fn within(&self, rows: &Range<u64>) -> Self {
        let values = self.values.iter().filter(|value| rows.contains(&value.row));
        Self { columns: self.columns.clone(), values: values.copied().collect() }
    }

    /// The error messages for the values that `marker` describes, in `rows` rows from `first`; null for valid
    /// values.
    pub(super) fn messages(
        &self,
        marker: &Marker,
        first: u64,
        rows: usize,
        file: &ListedFile,
    ) -> StringArray {
        let Marker { column, is_half, .. } = marker;
        let index = self.place(column, *is_half);
        let word = if file.form.format.is_text() { "line" } else { "row" };
        let wrong = if *is_half { "contains a lone surrogate" } else { "is not UTF-8" };
        let begin = self.values.partition_point(|value| value.row < first);
        let mut values = self.values[begin..]
            .iter()
            .filter(|value| index.is_some_and(|index| value.column as usize == index))
            .peekable();
        let mut messages = StringBuilder::new();
        for row in first..first + rows as u64 {
            match values.next_if(|value| value.row == row) {
                Some(value) => messages.append_value(format!(
                    "the text of `{column}` {wrong}: {word} {} of `{}`",
                    value.place,
                    file.path.display()
                )),
                None => messages.append_null(),
            }
        }
        messages.finish()
    }
}

/// The hint for a file in another encoding.
pub(super) const CONVERT: &str = "name the encoding of a CSV file in `source.csv.encoding`, such as latin1; or convert the file, for example with `iconv -f latin1 -t utf-8`; or keep such rows with `on_error`";

/// Converts bytes to UTF-8; replaces invalid sequences by U+FFFD, as `String::from_utf8_lossy`.
pub(super) struct LossyReader<R> {
    inner: R,
    raw: Vec<u8>,
    text: Vec<u8>,
    /// The number of bytes of `text` that were returned.
    taken: usize,
    ended: bool,
}

impl<R> LossyReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, raw: Vec::new(), text: Vec::new(), taken: 0, ended: false }
    }
}

impl<R: Read> Read for LossyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.text.len() && !self.ended {
            let begun = self.raw.len();
            self.raw.resize(begun + (1 << 16), 0);
            let read = self.inner.read(&mut self.raw[begun..])?;
            self.raw.truncate(begun + read);
            self.ended = read == 0;
            self.text.clear();
            self.taken = 0;
            let mut kept = 0;
            let mut chunks = self.raw.utf8_chunks().peekable();
            while let Some(chunk) = chunks.next() {
                self.text.extend_from_slice(chunk.valid().as_bytes());
                let invalid = chunk.invalid();
                // The next bytes may continue an incomplete sequence at the end.
                let is_open = chunks.peek().is_none()
                    && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
                if is_open && !self.ended {
                    kept = invalid.len();
                } else if !invalid.is_empty() {
                    self.text.extend_from_slice("\u{fffd}".as_bytes());
                }
            }
            self.raw.drain(..self.raw.len() - kept);
        }
        let ready = &self.text[self.taken..];
        let read = ready.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ready[..read]);
        self.taken += read;
        Ok(read)
    }
}

/// The values of a Parquet file's text columns that are not UTF-8, in its first `max_rows` rows.
pub(super) fn of_parquet(
    reader: impl ChunkReader + 'static,
    max_rows: u64,
) -> Result<crate::Result<InvalidText>, ParquetError> {
    let file = SerializedFileReader::new(reader)?;
    let mut invalid = InvalidText::default();
    let mut first_row = 0;
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let rows = group.metadata().num_rows() as u64;
        let rows = rows.min(max_rows.saturating_sub(first_row));
        let mut found = Vec::new();
        for (index, column) in group.metadata().columns().iter().enumerate() {
            if is_flat_text(column.column_descr()) {
                let invalid = invalid_rows(group.get_column_reader(index)?, rows)?;
                let name = column.column_descr().name();
                found.extend(invalid.into_iter().map(|row| (first_row + row, name)));
            }
        }
        found.sort_unstable();
        for (row, column) in found {
            if let Err(error) = invalid.add(column, row, row + 1) {
                return Ok(Err(error));
            }
        }
        first_row += rows;
    }
    Ok(Ok(invalid))
}

/// The rows with invalid text, among the first `rows` of a row group.
fn invalid_rows(column: ColumnReader, rows: u64) -> Result<Vec<u64>, ParquetError> {
    let mut texts = RawTexts::new(column)?;
    let mut invalid = Vec::new();
    let mut row = 0;
    while row < rows {
        let values = texts.next((rows - row).min(ROWS_PER_BATCH as u64) as usize)?;
        if values.is_empty() {
            break;
        }
        let is_invalid = |value: &Option<ByteArray>| {
            value.as_ref().is_some_and(|value| value.as_utf8().is_err())
        };
        let numbered = (row..).zip(&values).filter(|(_, value)| is_invalid(value));
        invalid.extend(numbered.map(|(row, _)| row));
        row += values.len() as u64;
    }
    Ok(invalid)
}

/// Whether a column holds text and is not nested.
fn is_flat_text(column: &ColumnDescriptor) -> bool {
    use datafusion::parquet::basic::{ConvertedType, LogicalType};
    let is_text = matches!(column.logical_type_ref(), Some(LogicalType::String))
        || column.converted_type() == ConvertedType::UTF8;
    is_text && column.path().parts().len() == 1 && column.max_rep_level() == 0
}

/// The raw values of a column of a row group.
pub(super) struct RawTexts {
    pub(super) reader: ColumnReaderImpl<ByteArrayType>,
}

impl RawTexts {
    pub(super) fn new(reader: ColumnReader) -> Result<Self, ParquetError> {
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Self { reader }),
            _ => Err(ParquetError::General("a text column is not of bytes".to_owned())),
        }
    }

    /// The next `rows` values; fewer at the end.
    pub(super) fn next(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, present, _) =
            self.reader.read_records(rows, Some(&mut levels), None, &mut values)?;
        let mut values = values.into_iter();
        if levels.is_empty() && present == read {
            return Ok(values.map(Some).collect());
        }
        Ok(levels.iter().map(|level| if *level > 0 { values.next() } else { None }).collect())
    }
}

/// Columns whose texts may be invalid, each with a column of error messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The column.
    pub(super) column: String,
    /// The column of error messages.
    pub(super) marker: String,
    /// Whether the values have unpaired surrogate escapes.
    pub(super) is_half: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives bytes in pieces of these sizes.
    struct Pieces<'b>(&'b [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.pop().unwrap_or(1).min(buffer.len());
            let read = size.min(self.0.len());
            buffer[..read].copy_from_slice(&self.0[..read]);
            self.0 = &self.0[read..];
            Ok(read)
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..6),
            // Prefixes of longer sequences.
            prop::sample::select(vec![vec![0xf0, 0x9f, 0x98], vec![0xe2, 0x82], vec![0xc3]]),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_replaced_wherever_they_are_cut(
            pieces in prop::collection::vec(piece(), 0..12),
            sizes in prop::collection::vec(1_usize..9, 0..60),
        ) {
            let bytes = pieces.concat();
            let mut text = Vec::new();
            LossyReader::new(Pieces(&bytes, sizes)).read_to_end(&mut text).unwrap();
            prop_assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8_lossy(&bytes));
        }
    }
}
