//! This program's own file readers, built on arrow's decoders: for CSV and JSONL, for files with texts that are not
//! UTF-8, and for Parquet and Arrow files whose types differ. Each file is read with its own columns, which are then
//! converted to those of the table. Not here: inspection (`inspect`), and Parquet and Arrow files of one schema, which
//! DataFusion's scans read.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{FileReader as ArrowFileReader, StreamReader};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::{csv, json};
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use datafusion::parquet::data_type::ByteArray;
use datafusion::parquet::file::properties::ReaderProperties;
use datafusion::parquet::file::reader::{
    ChunkReader, FileReader, RowGroupReader, SerializedFileReader,
};
use datafusion::parquet::file::serialized_reader::SerializedRowGroupReader;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use regex::Regex;

use super::inspect::{self, BATCH_VALUES, read_error};
use super::invalid::{LossyReader, Marker, RawTexts};
use super::json::repaired;
use super::parquet_reader::CheckedChunks;
use super::remote::RemoteFile;
use super::table_file::TableFile;
use super::text::{Decode, text_of};
use super::unify::conform;
use super::units::Part;
use crate::config::pipeline::{CsvSpec, FileFormat};
use crate::error::{Error, ErrorKind};
use crate::guard::guarded;

/// The files to read and the columns to produce.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) files: Arc<[TableFile]>,
    pub(super) csv: CsvSpec,
    /// The columns of the files.
    pub(super) file_schema: SchemaRef,
    pub(super) markers: Vec<Marker>,
    /// The output columns: those of the files, their hive partitions, markers.
    pub(super) schema: SchemaRef,
    /// The most rows to produce.
    pub(super) limit: Option<usize>,
}

/// A scan of files in order, as a single partition.
#[derive(Debug)]
pub(super) struct FilesExec {
    reading: Arc<Reading>,
    statistics: Arc<Statistics>,
    properties: Arc<PlanProperties>,
}

impl FilesExec {
    pub(super) fn new(reading: Reading, statistics: Statistics) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&reading.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let (reading, statistics) = (Arc::new(reading), Arc::new(statistics));
        Self { reading, statistics, properties: Arc::new(properties) }
    }
}

impl DisplayAs for FilesExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.reading.files.first().map_or("", |file| file.file.form.format.name());
        if kind == DisplayFormatType::TreeRender {
            writeln!(f, "format={format}")?;
            return writeln!(f, "files={}", self.reading.files.len());
        }
        let names = self.reading.schema.fields().iter().map(|field| field.name().as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        write!(f, "FilesExec: {format}, files={}, columns=[{names}]", self.reading.files.len())?;
        match self.reading.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for FilesExec {
    fn name(&self) -> &'static str {
        "FilesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn fetch(&self) -> Option<usize> {
        self.reading.limit
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&self.statistics))
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.reading.schema);
        let mut stream = RecordBatchReceiverStream::builder(schema, 2);
        let (output, reading) = (stream.tx(), Arc::clone(&self.reading));
        stream.spawn_blocking(move || {
            let mut left = reading.limit.unwrap_or(usize::MAX);
            for file in &*reading.files {
                if left == 0 {
                    break;
                }
                let mut is_open = true;
                let mut take = |batch: RecordBatch| {
                    let batch = batch.slice(0, batch.num_rows().min(left));
                    left -= batch.num_rows();
                    is_open = output.blocking_send(Ok(batch)).is_ok();
                    Ok(is_open && left > 0)
                };
                guarded(ErrorKind::Data, "the file", || Ok(reading.each_batch(file, &mut take)))
                    .map_err(external)
                    .flatten()
                    .map_err(|error| placed(error, file))?;
                if !is_open {
                    break;
                }
            }
            Ok(())
        });
        Ok(stream.build())
    }
}

/// Adds the file's name to an error.
fn placed(error: DataFusionError, file: &TableFile) -> DataFusionError {
    let path = file.file.path.display();
    let error = match error {
        DataFusionError::External(error) => match error.downcast::<Error>() {
            Ok(ours) if ours.places().contains(&path.to_string()) => *ours,
            Ok(ours) => ours.at(path),
            Err(other) => return DataFusionError::External(other),
        },
        DataFusionError::ArrowError(error, _) => {
            let reason = error.to_string();
            Error::new(ErrorKind::Data, format!("cannot read the rows of `{path}`: {reason}"))
                .source(error)
                .at(path)
        }
        other => return other,
    };
    external(error)
}

/// Takes a batch, and returns whether to send more.
type Take<'t> = dyn FnMut(RecordBatch) -> Result<bool> + 't;

impl Reading {
    /// The columns to read from files: a partition value replaces the file's own column.
    fn wanted(&self) -> HashSet<&str> {
        let mut wanted: HashSet<_> =
            self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        for (key, _) in self.files.iter().flat_map(|file| &file.file.partitions) {
            wanted.remove(key.as_str());
        }
        wanted
    }

    /// The batch size in rows for a text file: the columns of other files take memory too.
    fn batch_rows(&self, file: &TableFile) -> usize {
        let by_values = BATCH_VALUES / self.schema.fields().len().max(1);
        file.layout.batch_rows.min(by_values).max(1)
    }

    fn each_batch(&self, file: &TableFile, take: &mut Take<'_>) -> Result<()> {
        let mut first_row = file.first_row;
        let mut give = |batch: RecordBatch| {
            let rows = batch.num_rows();
            let batch = self.assemble(file, &batch, first_row)?;
            first_row += rows as u64;
            take(batch)
        };
        match file.file.form.format {
            // A file without rows may lack the header too.
            FileFormat::Csv if file.rows.exactly() == Some(0) => Ok(()),
            FileFormat::Csv => self.csv(file, &mut give),
            FileFormat::Jsonl => self.jsonl(file, &mut give),
            FileFormat::Parquet => {
                let open = || inspect::open(&file.file.path).map_err(external);
                match &file.file.remote {
                    Some(remote) => self.parquet(file, || Ok(RemoteFile::clone(remote)), &mut give),
                    None => self.parquet(file, open, &mut give),
                }
            }
            FileFormat::Arrow => {
                let rows = match &file.part {
                    Some(Part::Rows { rows, .. }) => rows.clone(),
                    _ => 0..u64::MAX,
                };
                if let Some(remote) = &file.file.remote {
                    return arrow(remote.reader(), rows, &mut give);
                }
                arrow(inspect::open(&file.file.path).map_err(external)?, rows, &mut give)
            }
        }
    }

    fn csv(&self, file: &TableFile, give: &mut Take<'_>) -> Result<()> {
        let types: HashMap<&str, &DataType> =
            self.file_schema.fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
        let names = &file.layout.names;
        let field = |name: &String| {
            let data_type = types.get(name.as_str()).copied().unwrap_or(&DataType::Utf8);
            Field::new(name, data_type.clone(), true)
        };
        let schema = Schema::new(names.iter().map(field).collect::<Vec<_>>());
        let wanted = self.wanted();
        let projection: Vec<usize> =
            (0..names.len()).filter(|index| wanted.contains(names[*index].as_str())).collect();
        let is_begin = !matches!(&file.part, Some(Part::Bytes(bytes)) if bytes.start > 0);
        let spec = &self.csv;
        let mut builder = csv::ReaderBuilder::new(Arc::new(schema))
            .with_header(spec.has_header && is_begin)
            .with_delimiter(spec.delimiter)
            // 0xff never occurs in UTF-8.
            .with_quote(spec.quote.unwrap_or(0xff))
            .with_projection(projection)
            .with_batch_size(self.batch_rows(file));
        if let Some(escape) = spec.escape {
            builder = builder.with_escape(escape);
        }
        if let Some(comment) = spec.comment {
            builder = builder.with_comment(comment);
        }
        if !spec.null_values.is_empty() {
            builder = builder.with_null_regex(null_regex(&spec.null_values)?);
        }
        let mut decoder = builder.build_decoder();
        let mut text = BufReader::with_capacity(1 << 16, file_text(file)?);
        loop {
            loop {
                let ready = text.fill_buf().map_err(|error| external(read_error(error, 0)))?;
                let decoded = decoder.decode(ready)?;
                text.consume(decoded);
                if decoded == 0 || decoder.capacity() == 0 {
                    break;
                }
            }
            let Some(batch) = decoder.flush()? else { return Ok(()) };
            if !give(batch)? {
                return Ok(());
            }
        }
    }

    fn jsonl(&self, file: &TableFile, give: &mut Take<'_>) -> Result<()> {
        let wanted = self.wanted();
        let fields = self.file_schema.fields().iter();
        let mut fields: Vec<_> =
            fields.filter(|field| wanted.contains(field.name().as_str())).cloned().collect();
        if fields.is_empty() {
            // The decoder needs at least one column to count rows.
            fields.extend(self.file_schema.fields().first().cloned());
        }
        let mut decoder = json::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_batch_size(self.batch_rows(file))
            // Numbers whose digits no type preserves become text, as written.
            .with_coerce_primitive(true)
            .build_decoder()?;
        let text = file_text(file)?;
        let mut text: Box<dyn BufRead + Send> = if file.layout.needs_repair {
            Box::new(Repairing {
                inner: BufReader::new(text),
                line: Vec::new(),
                ready: Vec::new(),
                taken: 0,
            })
        } else {
            Box::new(BufReader::with_capacity(1 << 16, text))
        };
        loop {
            loop {
                let ready = text.fill_buf().map_err(|error| external(read_error(error, 0)))?;
                if ready.is_empty() {
                    break;
                }
                let length = ready.len();
                let decoded = decoder.decode(ready)?;
                text.consume(decoded);
                if decoded != length {
                    break;
                }
            }
            let Some(batch) = decoder.flush()? else { return Ok(()) };
            if !give(batch)? {
                return Ok(());
            }
        }
    }

    /// Reads row group by row group: columns with invalid texts as bytes, next to the others, which are read as usual.
    fn parquet<R: ChunkReader + 'static>(
        &self,
        file: &TableFile,
        open: impl Fn() -> Result<R>,
        give: &mut Take<'_>,
    ) -> Result<()> {
        let (raw, file_reader) = (SerializedFileReader::new(open()?)?, open()?);
        let metadata = ArrowReaderMetadata::try_new(
            Arc::new(raw.metadata().clone()),
            ArrowReaderOptions::default(),
        )?;
        let wanted = self.wanted();
        let batch_rows = file.parquet_batch_rows(|name| wanted.contains(name)).map_err(external)?;
        let descriptor = raw.metadata().file_metadata().schema_descr_ptr();
        // The positions of the leaves to read as bytes, and of the columns to read as usual.
        let mut texts: Vec<(usize, String)> = Vec::new();
        let mut plain = Vec::new();
        for (index, field) in descriptor.root_schema().get_fields().iter().enumerate() {
            let name = field.name();
            if !wanted.contains(name) {
                continue;
            }
            if file.invalid.has_bytes(name) {
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
            let group = raw.metadata().row_group(number);
            let chunks = CheckedChunks::read(&file_reader, group, |name| wanted.contains(name))?;
            let properties = Arc::new(ReaderProperties::builder().build());
            let group =
                SerializedRowGroupReader::new(Arc::new(chunks.clone()), group, None, properties)?;
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
                ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata.clone())
                    .with_row_groups(vec![number])
                    .with_projection(ProjectionMask::roots(&descriptor, plain.iter().copied()))
                    .with_row_selection(selection)
                    .with_batch_size(batch_rows)
                    .build()?;
            let mut row = from;
            while row < to {
                let rows = (to - row).min(batch_rows as u64) as usize;
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

    /// Converts the columns of a file to those of the table.
    fn assemble(
        &self,
        file: &TableFile,
        batch: &RecordBatch,
        first_row: u64,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let own = batch.schema_ref().fields().iter().enumerate();
        let own: HashMap<&str, usize> = own.map(|(i, field)| (field.name().as_str(), i)).collect();
        let column = |field: &Field| -> Result<ArrayRef> {
            let name = field.name();
            if let Some(marker) = self.markers.iter().find(|marker| marker.marker == *name) {
                return Ok(Arc::new(file.invalid.messages(marker, first_row, rows, &file.file)));
            }
            if let Some((_, value)) = file.file.partitions.iter().find(|(key, _)| key == name) {
                let values = std::iter::repeat_n(value.as_deref(), rows).collect::<StringArray>();
                return Ok(cast(&values, field.data_type())?);
            }
            if let Some(index) = own.get(name.as_str()) {
                return conform(batch.column(*index), field.data_type()).map_err(|error| {
                    let message = format!("column `{name}`: {error}");
                    external(Error::new(ErrorKind::Data, message).source(error))
                });
            }
            Ok(new_null_array(field.data_type(), rows))
        };
        let columns =
            self.schema.fields().iter().map(|field| column(field)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// Reads the rows of an Arrow IPC file or stream with these numbers.
fn arrow(opened: impl Read + Seek, rows: Range<u64>, give: &mut Take<'_>) -> Result<()> {
    let mut file = BufReader::new(opened);
    let mut magic = [0; 6];
    let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
    file.seek(SeekFrom::Start(0)).map_err(|error| external(read_error(error, 0)))?;
    if is_file {
        give_rows(ArrowFileReader::try_new(file, None)?, rows, give)
    } else {
        give_rows(StreamReader::try_new(file, None)?, rows, give)
    }
}

fn give_rows(
    batches: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>>,
    rows: Range<u64>,
    give: &mut Take<'_>,
) -> Result<()> {
    let mut row = 0;
    for batch in batches {
        let batch = batch?;
        let length = batch.num_rows() as u64;
        let from = rows.start.clamp(row, row + length) - row;
        let to = rows.end.clamp(row, row + length) - row;
        row += length;
        if from < to && !give(batch.slice(from as usize, (to - from) as usize))? {
            break;
        }
        if row >= rows.end {
            break;
        }
    }
    Ok(())
}

/// The text of the part of a file to read; if invalid text is no error, invalid bytes are replaced to make it UTF-8.
fn file_text(file: &TableFile) -> Result<Box<dyn Read + Send>> {
    let bytes = match &file.part {
        Some(Part::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let text =
        text_of(&file.file, bytes, file.layout.encoding, Decode::All).map_err(external)?.reader;
    if file.invalid.columns.is_empty() {
        return Ok(text);
    }
    Ok(Box::new(LossyReader::new(text)))
}

/// A regular expression that matches exactly the empty field and the null values.
fn null_regex(values: &[String]) -> Result<Regex> {
    let values = values.iter().map(|value| regex::escape(value)).collect::<Vec<_>>().join("|");
    Regex::new(&format!("^(?:{values})?$")).map_err(|error| {
        let message = "`source.csv.null_values` has too many values";
        external(Error::new(ErrorKind::Config, message).source(error))
    })
}

/// Reads lines of JSONL, rewritten for arrow's reader.
struct Repairing<R> {
    inner: R,
    line: Vec<u8>,
    ready: Vec<u8>,
    taken: usize,
}

impl<R: BufRead> Read for Repairing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let ready = self.fill_buf()?;
        let read = ready.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ready[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Repairing<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.taken == self.ready.len() {
            self.line.clear();
            self.ready.clear();
            self.taken = 0;
            self.inner.read_until(b'\n', &mut self.line)?;
            repaired(&self.line, &mut self.ready);
        }
        Ok(&self.ready[self.taken..])
    }

    fn consume(&mut self, bytes: usize) {
        self.taken += bytes;
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
