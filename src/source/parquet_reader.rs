//! Reads Parquet files for a scan: DataFusion's reader behind checks. Footers lose the statistics that must not decide
//! which rows are read, and page headers and indexes are checked before the library allocates memory for them. Not
//! here: the checks (`parquet`, `thrift`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    DefaultParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::error::Result;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;

use super::parquet;
use super::thrift;

/// The number of footers cached for the next unit of their file.
const FOOTERS: usize = 8;

/// The footers of the most recent files, by [`CheckedReader::key`].
static LAST: Mutex<VecDeque<(String, Arc<Footer>)>> = Mutex::new(VecDeque::new());

/// A footer without the statistics that must not be used.
struct Footer {
    metadata: Arc<ParquetMetaData>,
    /// The length and the value count of each column chunk, by its offset.
    columns: BTreeMap<u64, (u64, u64)>,
    /// The byte ranges of page indexes.
    indexes: Vec<Range<u64>>,
}

impl Footer {
    fn new(metadata: ParquetMetaData, file_bytes: u64) -> ParquetResult<Self> {
        let rows = parquet::check(&metadata, file_bytes).map_err(ParquetError::General)?;
        let metadata = parquet::without_unsafe_statistics(metadata, file_bytes, rows)?;
        let columns = || metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let places = columns().filter_map(|column| {
            let (start, length) = parquet::place(column)?;
            Some((start, (length, u64::try_from(column.num_values()).ok()?)))
        });
        let (columns, indexes) = (places.collect(), columns().flat_map(parquet::indexes).collect());
        Ok(Self { columns, indexes, metadata: Arc::new(metadata) })
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
                // A whole column chunk, or some of its pages.
                let column = footer.as_ref().and_then(|footer| footer.columns.get(&range.start));
                let values = column
                    .filter(|(length, _)| *length == range.end - range.start)
                    .map(|(_, values)| *values);
                parquet::check_pages(bytes, values).map_err(ParquetError::General)?;
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
