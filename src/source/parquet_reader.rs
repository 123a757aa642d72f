//! Reads Parquet files for a scan with DataFusion's reader and our checks. Footers lose the statistics that must not
//! decide which rows are read. Page headers and indexes are checked before the library allocates memory for them. Not
//! here: the checks (`parquet`, `thrift`), and the rows of files that are converted (`reader`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    DefaultParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::error::Result;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use datafusion::parquet::file::reader::{ChunkReader, Length};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;

use super::parquet::{self, Encodings};
use super::thrift;

/// The number of footers cached for the next unit of their file.
const FOOTERS: usize = 8;

/// The footers of the most recent files, by [`CheckedReader::key`].
static LAST: Mutex<VecDeque<(String, Arc<Footer>)>> = Mutex::new(VecDeque::new());

/// A footer without the statistics that must not be used.
struct Footer {
    metadata: Arc<ParquetMetaData>,
    /// The column chunks by their offsets.
    columns: BTreeMap<u64, Chunk>,
    /// The byte ranges of page indexes.
    indexes: Vec<Range<u64>>,
}

/// The footer's entry for a column chunk.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    bytes: u64,
    values: u64,
    encodings: Encodings,
}

impl Chunk {
    /// Its offset, and itself; `None` if the footer is wrong.
    fn of(column: &ColumnChunkMetaData) -> Option<(u64, Self)> {
        let (start, bytes) = parquet::place(column)?;
        let values = u64::try_from(column.num_values()).ok()?;
        Some((start, Self { bytes, values, encodings: Encodings::of(column) }))
    }
}

impl Footer {
    fn new(metadata: ParquetMetaData, file_bytes: u64) -> ParquetResult<Self> {
        let rows = parquet::check(&metadata, file_bytes).map_err(ParquetError::General)?;
        let metadata = parquet::without_unsafe_statistics(metadata, file_bytes, rows)?;
        let columns = || metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let indexes = columns().flat_map(parquet::indexes).collect();
        let columns = columns().filter_map(Chunk::of).collect();
        Ok(Self { columns, indexes, metadata: Arc::new(metadata) })
    }

    /// Checks the pages of a whole column chunk, or some of them.
    fn check_pages(&self, range: &Range<u64>, bytes: &[u8]) -> ParquetResult<()> {
        let chunk = self.columns.range(..=range.start).next_back();
        let chunk = chunk.filter(|(start, chunk)| range.start < *start + chunk.bytes);
        let Some((start, chunk)) = chunk else { return Ok(()) };
        let is_whole = *range == (*start..*start + chunk.bytes);
        let values = is_whole.then_some(chunk.values);
        parquet::check_pages(bytes, values, chunk.encodings).map_err(ParquetError::General)
    }
}

/// Creates readers for the files of a store.
#[derive(Debug)]
pub(super) struct CheckedReaders {
    store: String,
    inner: DefaultParquetFileReaderFactory,
}

impl CheckedReaders {
    /// Readers for a store; its URL distinguishes it from others.
    pub(super) fn new(url: &str, store: Arc<dyn ObjectStore>) -> Self {
        Self { store: url.to_owned(), inner: DefaultParquetFileReaderFactory::new(store) }
    }
}

impl ParquetFileReaderFactory for CheckedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let meta = &file.object_meta;
        let stamp = meta.e_tag.as_deref().unwrap_or_default();
        let key = format!("{} {} {stamp}", self.store, meta.location);
        let bytes = meta.size;
        let inner = self.inner.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(CheckedReader { inner, key, bytes, footer: None }))
    }
}

struct CheckedReader {
    inner: Box<dyn AsyncFileReader + Send>,
    /// The file and its stamp.
    key: String,
    bytes: u64,
    footer: Option<Arc<Footer>>,
}

impl CheckedReader {
    fn known_footer(&mut self) -> Option<Arc<Footer>> {
        if self.footer.is_none() {
            let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            let known = last.iter().find(|(key, _)| *key == self.key);
            self.footer = known.map(|(_, footer)| Arc::clone(footer));
        }
        self.footer.clone()
    }

    fn keep(&mut self, footer: &Arc<Footer>) {
        self.footer = Some(Arc::clone(footer));
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|(key, _)| *key != self.key);
        if last.len() >= FOOTERS {
            last.pop_front();
        }
        last.push_back((self.key.clone(), Arc::clone(footer)));
    }
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let footer = self.known_footer();
            let bytes = self.inner.get_bytes(range.clone()).await?;
            // Indexes are read in one piece.
            for index in footer.iter().flat_map(|footer| &footer.indexes) {
                if range.start <= index.start && index.end <= range.end {
                    let start = (index.start - range.start) as usize;
                    let end = (index.end - range.start) as usize;
                    let is_sound = bytes.get(start..end).is_some_and(thrift::is_whole_struct);
                    if !is_sound {
                        let what = "a page index is damaged".to_owned();
                        return Err(ParquetError::General(what));
                    }
                }
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let footer = self.known_footer();
            let pieces = self.inner.get_byte_ranges(ranges.clone()).await?;
            for (range, bytes) in ranges.iter().zip(&pieces) {
                if let Some(footer) = &footer {
                    footer.check_pages(range, bytes)?;
                }
            }
            Ok(pieces)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            if let Some(footer) = self.known_footer() {
                return Ok(Arc::clone(&footer.metadata));
            }
            let metadata = self.inner.get_metadata(options).await?;
            let footer = Arc::new(Footer::new(Arc::unwrap_or_clone(metadata), self.bytes)?);
            self.keep(&footer);
            Ok(Arc::clone(&footer.metadata))
        }
        .boxed()
    }
}

/// The column chunks of a row group, checked and in memory.
#[derive(Clone, Debug)]
pub(super) struct CheckedChunks {
    file_bytes: u64,
    chunks: Arc<BTreeMap<u64, Bytes>>,
}

impl CheckedChunks {
    /// Reads the columns of a row group that are wanted.
    ///
    /// # Errors
    /// The columns cannot be read, or a page header is wrong.
    pub(super) fn read(
        file: &impl ChunkReader,
        group: &RowGroupMetaData,
        is_wanted: impl Fn(&str) -> bool,
    ) -> ParquetResult<Self> {
        let mut chunks = BTreeMap::new();
        for column in group.columns() {
            let root = column.column_path().parts().first();
            let Some((start, chunk)) = Chunk::of(column) else { continue };
            if !root.is_some_and(|root| is_wanted(root)) {
                continue;
            }
            let bytes = file.get_bytes(start, chunk.bytes as usize)?;
            parquet::check_pages(&bytes, Some(chunk.values), chunk.encodings)
                .map_err(ParquetError::General)?;
            chunks.insert(start, bytes);
        }
        Ok(Self { file_bytes: file.len(), chunks: Arc::new(chunks) })
    }

    /// The bytes from an offset to the end of its column chunk.
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let chunk = self.chunks.range(..=start).next_back();
        let bytes = chunk.and_then(|(place, bytes)| {
            let skipped = usize::try_from(start - place).ok()?;
            (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
        });
        bytes.ok_or_else(|| ParquetError::EOF(format!("byte {start} is in no column")))
    }
}

impl Length for CheckedChunks {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for CheckedChunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = self.from(start)?;
        if length > bytes.len() {
            let what = format!("a page at byte {start} ends outside its column");
            return Err(ParquetError::EOF(what));
        }
        Ok(bytes.split_to(length))
    }
}
