//! Guards a scan of files: a reader's panic becomes an error of the file, and a file that changed during the scan
//! is reported. The number of rows read must match the rows counted before the run. Not here: reading, which
//! DataFusion does underneath.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    SortOrderPushdownResult,
};
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};

use super::reader::FilesExec;
use super::table_file::TableFile;
use crate::error::{Error, ErrorKind};
use crate::guard::guarded_stream;

/// The most files to check again after a scan has failed.
const LOOKED_AT_AGAIN: usize = 1000;

/// With fewer row groups for each partition than this, partitions of whole row groups may differ too much in size.
const GROUPS_PER_PARTITION: usize = 4;

/// The fewest rows of a partition by rows: a query with a model in it may have few.
const PARTITION_ROWS: u64 = 256;

/// The files of a scan and their expected row count.
#[derive(Clone, Debug)]
struct Known {
    files: Arc<[TableFile]>,
    /// The total number of rows, if nothing filters any.
    rows: Option<u64>,
}

impl Known {
    /// A description of the files.
    fn name(&self) -> String {
        match &*self.files {
            [file] => format!("`{}`", file.file.path.display()),
            files => format!("one of {} input files", files.len()),
        }
    }

    /// Fails when a local file is not the one that was inspected.
    fn check_stamps(&self) -> crate::Result<()> {
        self.files.iter().try_for_each(TableFile::check_stamp)
    }

    /// Fails when there are too few or too many rows.
    fn check_rows(&self, read: u64) -> crate::Result<()> {
        let Some(rows) = self.rows.filter(|rows| *rows != read) else { return Ok(()) };
        let message = format!("{} has {rows} rows, but {read} were read", self.name());
        let error = Error::new(ErrorKind::Data, message);
        let error = match &*self.files {
            [file] => error.at(file.file.path.display()),
            _ => error,
        };
        Err(error.hint("the file may be damaged, or be written to; write or copy it again"))
    }

    /// Runs a check on a blocking thread.
    async fn off_thread(
        self: Arc<Self>,
        check: impl FnOnce(&Self) -> crate::Result<()> + Send + 'static,
    ) -> Result<()> {
        match SpawnedTask::spawn_blocking(move || check(&self)).await {
            Ok(checked) => checked.map_err(external),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A scan, with its files and their expected row count.
#[derive(Clone, Debug)]
pub(super) struct ScanExec {
    input: Arc<dyn ExecutionPlan>,
    known: Arc<Known>,
    /// The rows of the partitions that were read to their end.
    read: Arc<Mutex<BTreeMap<usize, u64>>>,
}

impl ScanExec {
    /// A scan of `files` that should give `rows` rows, if known.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        files: Arc<[TableFile]>,
        rows: Option<u64>,
    ) -> Self {
        let known = Arc::new(Known { files, rows });
        Self { input, known, read: Arc::default() }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, known: Arc::clone(&self.known), read: Arc::default() })
    }

    /// The scan of local Parquet files in partitions with about as many rows each. `None` if there are enough row groups for
    /// partitions of about the same size, or too few rows; and for objects, because each partition may have to fetch the
    /// whole row group.
    fn by_rows(&self, target_partitions: usize) -> Option<Arc<dyn ExecutionPlan>> {
        let files = &self.known.files;
        if files.iter().any(|file| file.part.is_some() || file.file.remote.is_some()) {
            return None;
        }
        let groups: usize = files.iter().map(|file| file.starts.len() + 1).sum();
        let counts: Vec<u64> = files.iter().map(|f| f.rows.exactly()).collect::<Option<_>>()?;
        let rows: u64 = counts.iter().sum();
        let partitions = (rows / PARTITION_ROWS).min(target_partitions as u64);
        if groups >= target_partitions * GROUPS_PER_PARTITION || partitions < 2 {
            return None;
        }
        let scan = self.input.downcast_ref::<DataSourceExec>()?;
        let config = scan.data_source().downcast_ref::<FileScanConfig>()?;
        config.file_source().downcast_ref::<ParquetSource>()?;
        let whole = whole_files(config);
        if whole.len() != files.len() {
            return None;
        }
        let groups = (0..partitions).map(|partition| {
            let wanted = rows * partition / partitions..rows * (partition + 1) / partitions;
            let mut first = 0;
            let mut parts = Vec::new();
            for (file, of) in whole.iter().zip(&counts) {
                let start = wanted.start.clamp(first, first + of) - first;
                let end = wanted.end.clamp(first, first + of) - first;
                first += of;
                if start < end {
                    parts.push(of_rows(file.clone(), &(start..end), *of));
                }
            }
            FileGroup::new(parts)
        });
        let config = FileScanConfigBuilder::from(config.clone()).with_file_groups(groups.collect());
        Some(DataSourceExec::from_data_source(config.build()))
    }

    /// Whether the scan reads every row of the files: no predicate filters any, and no limit ends the scan.
    fn reads_all(&self) -> bool {
        if let Some(scan) = self.input.downcast_ref::<FilesExec>() {
            return scan.fetch().is_none();
        }
        let scan = self.input.downcast_ref::<DataSourceExec>();
        let config = scan.and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>());
        config
            .is_some_and(|config| config.limit.is_none() && config.file_source().filter().is_none())
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => f.write_str("ScanExec"),
            DisplayFormatType::TreeRender => Ok(()),
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return Err(DataFusionError::Internal("a scan has one input".to_owned()));
        };
        // DataFusion also divides the scan below without asking this plan: by bytes.
        let divided = input.output_partitioning().partition_count();
        let scan = Self { input, known: Arc::clone(&self.known), read: Arc::default() };
        let by_rows = if divided > 1 { scan.by_rows(divided) } else { None };
        Ok(by_rows.map_or_else(|| Arc::new(scan.clone()) as _, |input| scan.over(input)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let schema = self.input.schema();
        let known = if self.reads_all() {
            Arc::clone(&self.known)
        } else {
            Arc::new(Known { rows: None, files: Arc::clone(&self.known.files) })
        };
        let partitions = self.properties().partitioning.partition_count();
        let read = Partition { index: partition, of: partitions, read: Arc::clone(&self.read) };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, checked(rows, known, read))))
    }

    /// Splits the files at their row groups, or by rows if there are few of them. Parts of files stay as they are: their
    /// rows are selected by number.
    fn repartitioned(
        &self,
        target_partitions: usize,
        config: &ConfigOptions,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if self.known.files.iter().any(|file| file.part.is_some()) {
            return Ok(None);
        }
        let input = match self.by_rows(target_partitions) {
            None => self.input.repartitioned(target_partitions, config)?,
            by_rows => by_rows,
        };
        Ok(input.map(|input| self.over(input)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        input: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&input[0]))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let swapped = self.input.try_swapping_with_projection(projection)?;
        Ok(swapped.map(|input| self.over(input)))
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        Ok(match self.input.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => {
                SortOrderPushdownResult::Exact { inner: self.over(inner) }
            }
            SortOrderPushdownResult::Inexact { inner } => {
                SortOrderPushdownResult::Inexact { inner: self.over(inner) }
            }
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }
}

/// The files of a scan, in order, which may be divided already.
fn whole_files(config: &FileScanConfig) -> Vec<PartitionedFile> {
    let mut whole: Vec<PartitionedFile> = Vec::new();
    for file in config.file_groups.iter().flat_map(FileGroup::iter) {
        let location = &file.object_meta.location;
        if whole.last().is_none_or(|last| last.object_meta.location != *location) {
            whole.push(PartitionedFile { range: None, ..file.clone() });
        }
    }
    whole
}

/// The rows of a Parquet file of `of` rows.
pub(super) fn of_rows(file: PartitionedFile, rows: &Range<u64>, of: u64) -> PartitionedFile {
    let selectors = vec![
        RowSelector::skip(rows.start as usize),
        RowSelector::select((rows.end - rows.start) as usize),
        RowSelector::skip((of - rows.end) as usize),
    ];
    file.with_extension(ParquetRowSelection::new(RowSelection::from(selectors)))
}

/// A partition of a scan. The scan knows the sum of the rows of all its partitions only.
struct Partition {
    index: usize,
    of: usize,
    read: Arc<Mutex<BTreeMap<usize, u64>>>,
}

impl Partition {
    /// Records the rows of this partition. Returns those of all partitions once each of them was read. A partition that is
    /// read again has the same rows.
    fn ended(&self, rows: u64) -> Option<u64> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(self.index, rows);
        (read.len() == self.of).then(|| read.values().sum())
    }
}

/// The state of a stream of rows.
struct Reading<S> {
    /// `None` after its end.
    rows: Option<S>,
    read: u64,
    known: Arc<Known>,
    partition: Partition,
}

/// The rows of a scan, or the reason why they do not match its files.
fn checked(
    rows: SendableRecordBatchStream,
    known: Arc<Known>,
    partition: Partition,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let rows = guarded_stream(ErrorKind::Data, known.name(), rows.map_err(Failed::Other));
    let reading = Reading { rows: Some(rows), read: 0, known, partition };
    stream::unfold(reading, |mut reading| async move {
        match reading.rows.as_mut()?.next().await {
            Some(Ok(batch)) => {
                reading.read += batch.num_rows() as u64;
                Some((Ok(batch), reading))
            }
            Some(Err(error)) => {
                reading.rows = None;
                let known = Arc::clone(&reading.known);
                // A reader that fails on a file that changed reports some other error.
                let is_changed = if known.files.len() <= LOOKED_AT_AGAIN {
                    known.off_thread(Known::check_stamps).await.err()
                } else {
                    None
                };
                let error = is_changed.unwrap_or_else(|| error.into());
                Some((Err(error), reading))
            }
            None => {
                reading.rows = None;
                let known = Arc::clone(&reading.known);
                let read = reading.partition.ended(reading.read);
                let check = move |known: &Known| {
                    known.check_stamps()?;
                    read.map_or(Ok(()), |read| known.check_rows(read))
                };
                known.off_thread(check).await.err().map(|error| (Err(error), reading))
            }
        }
    })
}

/// An error from the scan, or one of our own.
enum Failed {
    Other(DataFusionError),
    Ours(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<Failed> for DataFusionError {
    fn from(error: Failed) -> Self {
        match error {
            Failed::Other(error) => error,
            Failed::Ours(error) => external(error),
        }
    }
}
