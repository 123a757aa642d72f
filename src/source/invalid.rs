//! Text that is not UTF-8: which values it is, and the rows of such files with U+FFFD in the place of what is no
//! text. DataFusion's readers end at such a value, so these files are read here, with the same decoders behind.
//! Not here: how the values are found (`csv`, `jsonl`, `inspect`), what becomes of the rows (`crate::engine`).

use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, StringArray, StringBuilder, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::{csv, json};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use datafusion::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use datafusion::parquet::data_type::{ByteArray, ByteArrayType};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use datafusion::parquet::schema::types::ColumnDescriptor;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::PartitionStream;

use super::inspect;
use super::session::ROWS_PER_BATCH;
use super::table::TableFile;
use super::units::Part;
use crate::config::pipeline::{CsvSpec, FileFormat};
use crate::error::{Error, ErrorKind};

/// Values of a file that are remembered: a file with more is of another encoding, not damaged.
const MAX_VALUES: usize = 1 << 20;

/// The values of a file that are not UTF-8, in the order of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InvalidText {
    /// The columns that have any.
    pub(super) columns: Vec<String>,
    values: Vec<Value>,
}

/// A value that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    /// From 0.
    row: u64,
    /// What a reader of the file counts: lines, of Parquet rows, from 1.
    place: u64,
    /// Of [`InvalidText::columns`].
    column: u32,
}

impl InvalidText {
    /// Remembers a value.
    ///
    /// # Errors
    /// `Data` when there are too many.
    pub(super) fn add(&mut self, column: &str, row: u64, place: u64) -> crate::Result<()> {
        if self.values.len() >= MAX_VALUES {
            let message = format!("more than {MAX_VALUES} texts of the file are not UTF-8");
            return Err(Error::new(ErrorKind::Data, message).hint(CONVERT));
        }
        let known = self.columns.iter().position(|known| known == column);
        let index = known.unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        });
        self.values.push(Value { row, place, column: index as u32 });
        Ok(())
    }

    /// What is wrong with the values of `column` in `rows` from `first` on; null where nothing is.
    fn messages(&self, column: &str, first: u64, rows: usize, file: &TableFile) -> StringArray {
        let index = self.columns.iter().position(|known| known == column);
        let word = match file.file.form.format {
            FileFormat::Csv | FileFormat::Jsonl => "line",
            FileFormat::Parquet | FileFormat::Arrow => "row",
        };
        let begin = self.values.partition_point(|value| value.row < first);
        let mut values = self.values[begin..]
            .iter()
            .filter(|value| index.is_some_and(|index| value.column as usize == index))
            .peekable();
        let mut messages = StringBuilder::new();
        for row in first..first + rows as u64 {
            match values.next_if(|value| value.row == row) {
                Some(value) => messages.append_value(format!(
                    "the text of `{column}` is not UTF-8: {word} {} of `{}`",
                    value.place,
                    file.file.path.display()
                )),
                None => messages.append_null(),
            }
        }
        messages.finish()
    }
}

/// What to do about a file of another encoding.
pub(super) const CONVERT: &str = "convert the file, for example with `iconv -f latin1 -t utf-8`, or keep such rows with `on_error`";

/// Bytes as UTF-8: what is none becomes U+FFFD, as `String::from_utf8_lossy` does it.
struct LossyReader<R> {
    inner: R,
    raw: Vec<u8>,
    text: Vec<u8>,
    /// How much of `text` was handed on.
    taken: usize,
    ended: bool,
}

impl<R> LossyReader<R> {
    fn new(inner: R) -> Self {
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
                // A sequence at the end may go on with the next bytes.
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

/// A line of JSONL whose strings are not all UTF-8: the object with U+FFFD in them, and the fields that have any.
/// `None` where it is no object even so, or the name of a field is not UTF-8.
pub(super) fn lossy_object(line: &[u8]) -> Option<(serde_json::Value, Vec<String>)> {
    let read = |replacement: &str| {
        let mut text = String::new();
        for chunk in line.utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                text.push_str(replacement);
            }
        }
        serde_json::from_str::<serde_json::Value>(&text).ok()
    };
    // What depends on the replacement has been replaced.
    let (value, other) = (read("\u{fffd}")?, read("?")?);
    let (fields, others) = (value.as_object()?, other.as_object()?);
    if !fields.keys().eq(others.keys()) {
        return None;
    }
    let replaced = fields.iter().filter(|(name, value)| others.get(*name) != Some(value));
    let replaced = replaced.map(|(name, _)| name.clone()).collect();
    Some((value, replaced))
}

/// The values of the text columns of a Parquet file, in its first `max_rows` rows, that are not UTF-8.
pub(super) fn of_parquet(
    reader: impl ChunkReader + 'static,
    max_rows: u64,
) -> std::result::Result<crate::Result<InvalidText>, ParquetError> {
    let file = SerializedFileReader::new(reader)?;
    let mut invalid = InvalidText::default();
    let mut first_row = 0;
    for group in 0..file.num_row_groups() {
        let rows = file.metadata().row_group(group).num_rows() as u64;
        let rows = rows.min(max_rows.saturating_sub(first_row));
        let group = file.get_row_group(group)?;
        let mut found = Vec::new();
        for (index, column) in group.metadata().columns().iter().enumerate() {
            if !is_flat_text(column.column_descr()) {
                continue;
            }
            let mut texts = RawTexts::new(group.get_column_reader(index)?)?;
            let mut row = 0;
            while row < rows {
                let values = texts.next((rows - row).min(ROWS_PER_BATCH as u64) as usize)?;
                if values.is_empty() {
                    break;
                }
                for (at, value) in values.iter().enumerate() {
                    if value.as_ref().is_some_and(|value| value.as_utf8().is_err()) {
                        found.push((first_row + row + at as u64, column.column_descr().name()));
                    }
                }
                row += values.len() as u64;
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

/// Whether a column is text, and not inside another.
fn is_flat_text(column: &ColumnDescriptor) -> bool {
    use datafusion::parquet::basic::{ConvertedType, LogicalType};
    let is_text = matches!(column.logical_type_ref(), Some(LogicalType::String))
        || column.converted_type() == ConvertedType::UTF8;
    is_text && column.path().parts().len() == 1 && column.max_rep_level() == 0
}

/// The values of a column of a row group as they are.
struct RawTexts {
    reader: ColumnReaderImpl<ByteArrayType>,
}

impl RawTexts {
    fn new(reader: ColumnReader) -> std::result::Result<Self, ParquetError> {
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Self { reader }),
            _ => Err(ParquetError::General("a text column is not of bytes".to_owned())),
        }
    }

    /// The next `rows` values, fewer at the end.
    fn next(&mut self, rows: usize) -> std::result::Result<Vec<Option<ByteArray>>, ParquetError> {
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

/// Columns of rows whose texts may not be UTF-8, and for each what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// The column.
    pub(super) column: String,
    /// The column of messages.
    pub(super) marker: String,
}

/// The rows of files some of whose texts are not UTF-8, in order.
pub(super) struct LossyFiles {
    pub(super) files: Vec<TableFile>,
    pub(super) csv: CsvSpec,
    /// The columns of files.
    pub(super) file_schema: SchemaRef,
    pub(super) markers: Vec<Marker>,
    /// The columns to give: of the files, their hive partitions, markers.
    pub(super) schema: SchemaRef,
}

impl fmt::Debug for LossyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyFiles").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl PartitionStream for LossyFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), 2);
        let (output, reader) = (stream.tx(), self.reader());
        stream.spawn_blocking(move || {
            let mut is_wanted = true;
            for file in &reader.files {
                reader.each_batch(file, &mut |batch| {
                    is_wanted = output.blocking_send(Ok(batch)).is_ok();
                    Ok(is_wanted)
                })?;
                if !is_wanted {
                    break;
                }
            }
            Ok(())
        });
        stream.build()
    }
}

/// Takes a batch; whether more are wanted.
type Take<'t> = dyn FnMut(RecordBatch) -> Result<bool> + 't;

impl LossyFiles {
    fn reader(&self) -> Self {
        Self {
            files: self.files.clone(),
            csv: self.csv,
            file_schema: Arc::clone(&self.file_schema),
            markers: self.markers.clone(),
            schema: Arc::clone(&self.schema),
        }
    }

    fn each_batch(&self, file: &TableFile, take: &mut Take<'_>) -> Result<()> {
        let form = file.file.form;
        let mut first_row = file.first_row;
        let mut give = |batch: RecordBatch| {
            let rows = batch.num_rows();
            let batch = self.assemble(file, &batch, first_row)?;
            first_row += rows as u64;
            take(batch)
        };
        match form.format {
            // Without rows there may be no header either.
            FileFormat::Csv if file.rows.exactly() == Some(0) => Ok(()),
            FileFormat::Csv => {
                let is_begin = !matches!(&file.part, Some(Part::Bytes(bytes)) if bytes.start > 0);
                let text = LossyReader::new(text_of(file)?);
                let batches = csv::ReaderBuilder::new(Arc::clone(&self.file_schema))
                    .with_header(self.csv.has_header && is_begin)
                    .with_delimiter(self.csv.delimiter)
                    .with_batch_size(ROWS_PER_BATCH)
                    .build(text)?;
                give_all(batches, &mut give)
            }
            FileFormat::Jsonl => {
                let text = BufReader::with_capacity(1 << 16, LossyReader::new(text_of(file)?));
                let batches = json::ReaderBuilder::new(Arc::clone(&self.file_schema))
                    .with_batch_size(ROWS_PER_BATCH)
                    .build(text)?;
                give_all(batches, &mut give)
            }
            FileFormat::Parquet => {
                let open = || inspect::open(&file.file.path).map_err(external);
                match &file.file.remote {
                    Some(remote) => self.parquet(file, || Ok(remote.clone()), &mut give),
                    None => self.parquet(file, open, &mut give),
                }
            }
            FileFormat::Arrow => Err(external(Error::new(
                ErrorKind::Internal,
                "Arrow files are not read as text with errors",
            ))),
        }
    }

    /// Row group by row group: the columns with such texts as bytes, the others as ever, side by side.
    fn parquet<R: ChunkReader + 'static>(
        &self,
        file: &TableFile,
        open: impl Fn() -> Result<R>,
        give: &mut Take<'_>,
    ) -> Result<()> {
        let raw = SerializedFileReader::new(open()?)?;
        let metadata = ArrowReaderMetadata::try_new(
            Arc::new(raw.metadata().clone()),
            ArrowReaderOptions::default(),
        )?;
        let wanted: Vec<&str> =
            self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let descriptor = raw.metadata().file_metadata().schema_descr_ptr();
        // Positions of the leaves that are read as bytes, and of the columns that are read as ever.
        let mut texts: Vec<(usize, String)> = Vec::new();
        let mut plain = Vec::new();
        for (index, field) in descriptor.root_schema().get_fields().iter().enumerate() {
            let name = field.name();
            if !wanted.contains(&name) {
                continue;
            }
            if file.invalid.columns.iter().any(|column| column == name) {
                let leaf = (0..descriptor.num_columns())
                    .find(|leaf| descriptor.get_column_root_idx(*leaf) == index);
                texts.extend(leaf.map(|leaf| (leaf, name.to_owned())));
            } else {
                plain.push(index);
            }
        }
        let (begin, end) = match &file.part {
            Some(Part::Rows { rows, .. }) => (rows.start, rows.end),
            _ => (0, u64::MAX),
        };
        let mut group_begin = 0;
        for number in 0..raw.num_row_groups() {
            let rows = raw.metadata().row_group(number).num_rows() as u64;
            let from = begin.clamp(group_begin, group_begin + rows) - group_begin;
            let to = end.clamp(group_begin, group_begin + rows) - group_begin;
            group_begin += rows;
            if from >= to {
                continue;
            }
            let group = raw.get_row_group(number)?;
            let mut columns = Vec::new();
            for (leaf, name) in &texts {
                let mut column = RawTexts::new(group.get_column_reader(*leaf)?)?;
                column.reader.skip_records(from as usize)?;
                columns.push((name.as_str(), column));
            }
            let selection = RowSelection::from(vec![
                RowSelector::skip(from as usize),
                RowSelector::select((to - from) as usize),
            ]);
            let mut batches =
                ParquetRecordBatchReaderBuilder::new_with_metadata(open()?, metadata.clone())
                    .with_row_groups(vec![number])
                    .with_projection(ProjectionMask::roots(&descriptor, plain.iter().copied()))
                    .with_row_selection(selection)
                    .with_batch_size(ROWS_PER_BATCH)
                    .build()?;
            let mut row = from;
            while row < to {
                let rows = (to - row).min(ROWS_PER_BATCH as u64) as usize;
                let batch = if plain.is_empty() {
                    let options = RecordBatchOptions::new().with_row_count(Some(rows));
                    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?
                } else {
                    match batches.next() {
                        Some(batch) => batch?,
                        None => break,
                    }
                };
                let rows = batch.num_rows();
                let mut fields: Vec<_> = batch.schema_ref().fields().iter().cloned().collect();
                let mut arrays = batch.columns().to_vec();
                for (name, column) in &mut columns {
                    let values = column.next(rows)?;
                    let lossy =
                        |value: &ByteArray| String::from_utf8_lossy(value.data()).into_owned();
                    let texts: StringArray =
                        values.iter().map(|value| value.as_ref().map(lossy)).collect();
                    fields.push(Arc::new(Field::new(*name, DataType::Utf8, true)));
                    arrays.push(Arc::new(texts));
                }
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let schema = Arc::new(Schema::new(fields));
                let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
                row += rows as u64;
                if !give(batch)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The columns of the table from those of a file.
    fn assemble(
        &self,
        file: &TableFile,
        batch: &RecordBatch,
        first_row: u64,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let column = |field: &Field| -> Result<ArrayRef> {
            let name = field.name();
            if let Some(Marker { column, .. }) =
                self.markers.iter().find(|marker| marker.marker == *name)
            {
                return Ok(Arc::new(file.invalid.messages(column, first_row, rows, file)));
            }
            if self.file_schema.field_with_name(name).is_ok() {
                return Ok(match batch.column_by_name(name) {
                    Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
                    Some(column) => cast(column, field.data_type())?,
                    None => new_null_array(field.data_type(), rows),
                });
            }
            let value = file.file.partitions.iter().find(|(key, _)| key == name);
            let value = value.and_then(|(_, value)| value.as_deref());
            Ok(Arc::new(std::iter::repeat_n(value, rows).collect::<StringArray>()))
        };
        let columns =
            self.schema.fields().iter().map(|field| column(field)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

fn give_all(
    batches: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>>,
    give: &mut Take<'_>,
) -> Result<()> {
    for batch in batches {
        if !give(batch?)? {
            break;
        }
    }
    Ok(())
}

/// The bytes of the part of a file that is read.
fn text_of(file: &TableFile) -> Result<Box<dyn Read + Send>> {
    let bytes = match &file.part {
        Some(Part::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    inspect::text_of(&file.file, bytes).map_err(external)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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
            // The beginnings of longer sequences.
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

    #[test]
    fn fields_that_were_replaced_are_found() {
        let check = |line: &[u8], expected: Option<&[&str]>| {
            let fields = lossy_object(line).map(|(_, fields)| fields.join(" "));
            assert_eq!(fields, expected.map(|names| names.join(" ")));
        };
        check(b"{\"a\":\"\xe9\",\"b\":\"\xef\xbf\xbd\"}", Some(&["a"]));
        check(b"{\"a\":{\"x\":[1,\"\xff\xff\"]},\"b\":\"\xe9\",\"c\":1}", Some(&["a", "b"]));
        check(b"{\"\xe9\":1}", None);
        check(b"[\"\xe9\"]", None);
        check(b"{\"a\":\xe9}", None);
    }
}
