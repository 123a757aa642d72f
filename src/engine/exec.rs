//! The model step as a physical operator.
//!
//! One partition in, the same rows in the same order out, one column more. Three things run at once: the
//! input is read and tokenised, workers compute the window before it, and the window before that is put
//! back in order and handed on. Two windows are in flight at most, so memory is bounded by settings and
//! not by the input. Dropping the stream stops everything: queued batches are cancelled, workers finish
//! the one they are on. Errors travel in the stream; the first one ends it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics, plan_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties, InputDistributionRequirements, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::metrics;
use super::step::{ModelStep, RowErrors};
use super::window::{Computed, Encoded, Finish, Input, Window, WindowBuilder};
use super::workers::{BatchResult, Job, worker_gone};
use crate::error::{Error, ErrorKind};
use crate::tasks::{Batching, EncodedRow, Results, Task, TaskModel};

/// Tokens that a tokenizer adds to a text, in estimates: its first and its last.
const SPECIAL_TOKENS: usize = 2;

/// Bytes of text that make a token, in estimates: about what English has.
const BYTES_PER_TOKEN: usize = 4;

/// Windows in flight: one that is computed and one that is tokenised behind it.
const WINDOWS_IN_FLIGHT: usize = 2;

/// A window closes at this many tokens even when it has few rows: its batches are alike by then, and
/// tokens and results of a window are held in memory.
const MAX_WINDOW_TOKENS: usize = 1 << 20;

/// A window closes when its results reach this size (hidden states of every token can be large).
const MAX_WINDOW_OUTPUT_BYTES: usize = 256 << 20;

/// A window closes when its input rows reach this size.
const MAX_WINDOW_INPUT_BYTES: usize = 256 << 20;

/// Rows of a window whose task makes its own batches: generating takes long, and rows that are done should
/// not wait for tens of thousands of others.
const MAX_SHARED_WINDOW_ROWS: usize = 1024;

/// Appends the column of one model step.
#[derive(Debug)]
pub struct ModelExec {
    input: Arc<dyn ExecutionPlan>,
    step: Arc<ModelStep>,
    /// What the step reads, over the columns of `input`.
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ModelExec {
    /// `inputs` are what the step reads, over the columns of `input`; `output` is the new column.
    ///
    /// # Errors
    /// `Plan` when an input does not have a type that the task reads.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        step: Arc<ModelStep>,
        inputs: Vec<Arc<dyn PhysicalExpr>>,
        output: FieldRef,
    ) -> Result<Self> {
        let input_schema = input.schema();
        let types =
            inputs.iter().map(|expr| expr.data_type(&input_schema)).collect::<Result<Vec<_>>>()?;
        step.task()
            .check_inputs(&types.iter().collect::<Vec<_>>())
            .map_err(|e| external(e.at(step.place())))?;

        let fields = input_schema.fields().iter().cloned().chain([output]);
        let schema = Arc::new(Schema::new_with_metadata(
            fields.collect::<Vec<_>>(),
            input_schema.metadata().clone(),
        ));
        let kept: Vec<usize> = (0..input_schema.fields().len()).collect();
        let mapping = ProjectionMapping::from_indices(&kept, &input_schema)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&mapping, Arc::clone(&schema)),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Ok(Self {
            input,
            step,
            inputs,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The step that is run.
    pub fn step(&self) -> &Arc<ModelStep> {
        &self.step
    }

    fn output(&self) -> &FieldRef {
        &self.schema.fields()[self.schema.fields().len() - 1]
    }

    /// About how many tokens will be computed, when the input's statistics tell.
    fn estimated_tokens(&self) -> Option<usize> {
        let (all, context) = (StatisticsArgs::new(), StatisticsContext::new());
        let statistics = context.compute(self.input.as_ref(), &all).ok()?;
        let rows = *statistics.num_rows.get_value()?;
        let mut bytes = 0;
        for input in &self.inputs {
            let column = input.downcast_ref::<Column>()?;
            bytes += match statistics.column_statistics.get(column.index())?.byte_size {
                Precision::Exact(bytes) | Precision::Inexact(bytes) => bytes,
                Precision::Absent => return None,
            };
        }
        Some(rows * SPECIAL_TOKENS + bytes / BYTES_PER_TOKEN)
    }
}

impl DisplayAs for ModelExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.step.line(&self.inputs, self.output().name());
        write!(f, "ModelExec: {line}, estimated_tokens=")?;
        match self.estimated_tokens() {
            Some(tokens) => write!(f, "{tokens}"),
            None => write!(f, "unknown"),
        }
    }
}

impl ExecutionPlan for ModelExec {
    fn name(&self) -> &'static str {
        "ModelExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        // One stream: a sort window then sees neighbouring rows, and their order is the input's.
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for input in &self.inputs {
            next = next.visit_sibling(|| f(input))?;
        }
        Ok(next)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                let (step, output) = (Arc::clone(&self.step), Arc::clone(self.output()));
                Ok(Arc::new(Self::try_new(input, step, self.inputs.clone(), output)?))
            }
            _ => plan_err!("ModelExec has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = inputs[0].as_ref().clone();
        statistics.total_byte_size = Precision::Absent;
        statistics.column_statistics.push(ColumnStatistics::new_unknown());
        Ok(Arc::new(statistics))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        metrics::describe(self.step.metrics().counts(), &mut metrics);
        Some(metrics)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let reservation =
            MemoryConsumer::new(format!("ModelExec[{partition}]")).register(context.memory_pool());
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let (windows, pending) = mpsc::channel(WINDOWS_IN_FLIGHT);

        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), 1);
        let gather = Gather {
            input,
            step: Arc::clone(&self.step),
            inputs: self.inputs.clone(),
            reservation,
            permits: Arc::new(Semaphore::new(WINDOWS_IN_FLIGHT)),
            windows,
            model: None,
            rows: 0,
            rest: None,
        };
        stream.spawn(gather.run());
        let emit = Emit {
            pending,
            step: Arc::clone(&self.step),
            schema: Arc::clone(&self.schema),
            output: stream.tx(),
            baseline,
        };
        stream.spawn(async move { emit.run().await.map_err(external) });
        Ok(stream.build())
    }
}

/// Our error inside DataFusion's; what is already DataFusion's keeps its kind.
fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A window whose batches are queued.
struct Pending {
    window: Window,
    results: Vec<oneshot::Receiver<crate::Result<BatchResult>>>,
    model: Arc<dyn TaskModel>,
    /// Released when the window has been handed on.
    _permit: tokio::sync::OwnedSemaphorePermit,
    _memory: MemoryReservation,
}

/// Reads and tokenises the input, fills windows, queues their batches.
struct Gather {
    input: SendableRecordBatchStream,
    step: Arc<ModelStep>,
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    reservation: MemoryReservation,
    permits: Arc<Semaphore>,
    windows: mpsc::Sender<Pending>,
    /// Loaded with the first row: without rows, no weights are read.
    model: Option<Arc<dyn TaskModel>>,
    /// Rows read so far.
    rows: u64,
    /// Rows of a batch that did not fit in a window.
    rest: Option<RecordBatch>,
}

impl Gather {
    /// Errors of the input pass unchanged: whoever knows the files explains them.
    async fn run(mut self) -> Result<()> {
        let tokenizers = rayon::ThreadPoolBuilder::new()
            .thread_name(|number| format!("tokenizer-{number}"))
            .build()
            .map(Arc::new)
            .map_err(|e| {
                external(
                    Error::new(ErrorKind::Resources, "cannot start tokenizer threads").source(e),
                )
            })?;

        let mut ended = false;
        while !ended {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { break };
            let mut builder = WindowBuilder::default();
            while !self.is_full(&builder) {
                let Some(batch) = self.next_batch(&builder).await? else {
                    ended = true;
                    break;
                };
                if batch.num_rows() == 0 {
                    continue;
                }
                let bytes = batch.get_array_memory_size();
                let input = self.read(batch)?;
                let encoded = self.encode(&input.columns, &tokenizers).await.map_err(external)?;
                let before = builder.output_bytes();
                let task = self.step.task();
                builder.push(input, encoded, |tokens| task.output_bytes(tokens));
                self.reserve(bytes + builder.output_bytes() - before).map_err(external)?;
            }
            if builder.num_rows() == 0 {
                break;
            }
            let model = self.model().await.map_err(external)?;
            let window = builder.build(self.step.task().batching(), self.step.settings());
            let mut results = Vec::with_capacity(window.model_batches.len());
            for batch in &window.model_batches {
                let job = Job {
                    step: Arc::clone(&self.step),
                    model: Arc::clone(&model),
                    sequences: Arc::clone(&window.sequences),
                    batch: batch.clone(),
                };
                results.push(self.step.workers().submit(job).map_err(external)?);
            }
            let pending = Pending {
                window,
                results,
                model,
                _permit: permit,
                _memory: self.reservation.take(),
            };
            if self.windows.send(pending).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn model(&mut self) -> crate::Result<Arc<dyn TaskModel>> {
        if let Some(model) = &self.model {
            return Ok(Arc::clone(model));
        }
        let step = Arc::clone(&self.step);
        let model = blocking(move || step.model()).await?;
        Ok(Arc::clone(self.model.insert(model)))
    }

    /// The columns that the task reads of a batch.
    fn read(&self, batch: RecordBatch) -> Result<Input> {
        let read = |input: &Arc<dyn PhysicalExpr>| {
            input.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows()))
        };
        let columns = self.inputs.iter().map(read).collect::<Result<_>>()?;
        Ok(Input { batch, columns })
    }

    /// Rows that a window takes at most.
    fn window_rows(&self) -> usize {
        let rows = self.step.settings().sort_window_rows;
        match self.step.task().batching() {
            Batching::TokenBudget => rows,
            Batching::Share => rows.min(MAX_SHARED_WINDOW_ROWS),
        }
    }

    /// The next rows of the input: a batch, or as much of it as the window has room for where that is
    /// bounded closely.
    async fn next_batch(&mut self, window: &WindowBuilder) -> Result<Option<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.input.next().await {
                Some(batch) => batch?,
                None => return Ok(None),
            },
        };
        let room = self.window_rows().saturating_sub(window.num_rows());
        if self.step.task().batching() == Batching::Share && batch.num_rows() > room {
            self.rest = Some(batch.slice(room, batch.num_rows() - room));
            return Ok(Some(batch.slice(0, room)));
        }
        Ok(Some(batch))
    }

    fn is_full(&self, window: &WindowBuilder) -> bool {
        window.num_rows() >= self.window_rows()
            || window.tokens() >= MAX_WINDOW_TOKENS
            || window.output_bytes() >= MAX_WINDOW_OUTPUT_BYTES
            || self.reservation.size() - window.output_bytes() >= MAX_WINDOW_INPUT_BYTES
    }

    async fn encode(
        &mut self,
        columns: &[ArrayRef],
        tokenizers: &Arc<rayon::ThreadPool>,
    ) -> crate::Result<Vec<Encoded>> {
        let columns = columns.to_vec();
        let (step, tokenizers) = (Arc::clone(&self.step), Arc::clone(tokenizers));
        let (start, first_row) = (Instant::now(), self.rows);
        self.rows += columns.first().map_or(0, Array::len) as u64;
        let rows = blocking(move || {
            tokenizers.install(|| encode(&**step.task(), &columns, first_row, step.row_errors()))
        })
        .await
        .map_err(|e| e.at(self.step.place()))?;
        let encoded = || rows.iter().flatten().flatten();
        let tokens: usize = encoded().map(EncodedRow::tokens).sum();
        let truncated = encoded().filter(|row| row.truncated).count();
        let (count, tokens) = (rows.len() as u64, tokens as u64);
        self.step.metrics().tokenized(count, tokens, truncated as u64, start.elapsed());
        Ok(rows)
    }

    fn reserve(&mut self, bytes: usize) -> crate::Result<()> {
        self.reservation.try_grow(bytes).map_err(|e| {
            Error::new(ErrorKind::Resources, "a sort window does not fit in memory")
                .source(e)
                .hint("lower `run.sort_window_rows`")
        })
    }
}

/// Encodes rows; where errors of rows are kept, the rows that are refused are found by halving.
fn encode(
    task: &dyn Task,
    columns: &[ArrayRef],
    first_row: u64,
    row_errors: RowErrors,
) -> crate::Result<Vec<Encoded>> {
    let error = match task.encode(columns, first_row) {
        Ok(rows) => return Ok(rows.into_iter().map(Ok).collect()),
        Err(error) => error,
    };
    if row_errors == RowErrors::Fail || error.kind() != ErrorKind::Data {
        return Err(error);
    }
    let rows = columns.first().map_or(0, Array::len);
    if rows == 1 {
        return Ok(vec![Err(error.message().to_owned())]);
    }
    let middle = rows / 2;
    let part = |start: usize, length: usize| -> Vec<ArrayRef> {
        columns.iter().map(|column| column.slice(start, length)).collect()
    };
    let mut encoded = encode(task, &part(0, middle), first_row, row_errors)?;
    let first_row = first_row + middle as u64;
    encoded.extend(encode(task, &part(middle, rows - middle), first_row, row_errors)?);
    Ok(encoded)
}

/// Waits for results in window order and hands batches on.
struct Emit {
    pending: mpsc::Receiver<Pending>,
    step: Arc<ModelStep>,
    schema: SchemaRef,
    output: mpsc::Sender<Result<RecordBatch>>,
    baseline: BaselineMetrics,
}

impl Emit {
    async fn run(mut self) -> crate::Result<()> {
        while let Some(Pending { window, results, model, _permit, _memory }) =
            self.pending.recv().await
        {
            let mut values = Vec::with_capacity(results.len());
            let mut failed = HashMap::new();
            for (batch, result) in window.model_batches.iter().zip(results) {
                let result = result.await.map_err(|_| worker_gone())??;
                values.push(result.values);
                failed.extend(result.failed.into_iter().map(|(index, e)| (batch[index], e)));
            }
            let step = Arc::clone(&self.step);
            let schema = Arc::clone(&self.schema);
            let batches = blocking(move || {
                let values = model.finish_window(values)?;
                let task = step.task();
                let finish = |columns: &[ArrayRef], results: &Results<'_>| {
                    task.finish(columns, results).map_err(|e| e.at(step.place()))
                };
                let finish: Option<&Finish<'_>> =
                    if task.is_row_by_row() { None } else { Some(&finish) };
                let (sequence_type, computed) = (task.sequence_type(), Computed { values, failed });
                window
                    .assemble(&computed, &sequence_type, finish, step.row_errors(), &schema)
                    .collect::<crate::Result<Vec<_>>>()
            });
            for batch in batches.await? {
                let batch = batch.record_output(&self.baseline);
                let (nulls, failed) = nulls_and_failed(&batch, self.step.row_errors());
                self.step.metrics().emitted(batch.num_rows() as u64, nulls, failed);
                if self.output.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Null rows of the last column, and rows that failed.
fn nulls_and_failed(batch: &RecordBatch, row_errors: RowErrors) -> (u64, u64) {
    let Some(column) = batch.columns().last() else { return (0, 0) };
    let failed = match row_errors {
        RowErrors::Fail => 0,
        RowErrors::Keep => {
            let errors = column.as_struct().column(1);
            errors.len() - errors.null_count()
        }
    };
    (column.null_count() as u64, failed as u64)
}

/// Runs CPU work off the async threads; cancelled with the stream that waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::Result<T> + Send + 'static,
) -> crate::Result<T> {
    SpawnedTask::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a background task panicked").source(e))?
}
