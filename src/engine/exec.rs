//! The model step as a physical operator.
//!
//! One partition in, the same rows in the same order out, one column more. Three things run at once: the
//! input is read and tokenised, workers compute the window before it, and the window before that is put
//! back in order and handed on. Two windows are in flight at most, so memory is bounded by settings and
//! not by the input. Dropping the stream stops everything: queued batches are cancelled, workers finish
//! the one they are on. Errors travel in the stream; the first one ends it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, plan_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties, InputDistributionRequirements, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::step::ModelStep;
use super::window::{Finish, Window, WindowBuilder};
use super::workers::{Workers, worker_gone};
use crate::error::{Error, ErrorKind};
use crate::tasks::{Batching, EncodedRow, Results, TaskModel};

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
    /// Indexes of the step's input columns.
    columns: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ModelExec {
    /// `columns` are the indexes of the step's input columns in the schema of `input`.
    ///
    /// # Errors
    /// `Plan` when a column does not have a type that the task reads.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        step: Arc<ModelStep>,
        columns: Vec<usize>,
    ) -> Result<Self> {
        let input_schema = input.schema();
        let types: Vec<_> =
            columns.iter().map(|&column| input_schema.field(column).data_type()).collect();
        step.task()
            .check_inputs(&types)
            .map_err(|e| external(e.at(format!("step at {}", step.location()))))?;

        let fields = input_schema.fields().iter().cloned().chain([Arc::clone(step.task().field())]);
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
            columns,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

impl DisplayAs for ModelExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelExec: {}", self.step)
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
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                Ok(Arc::new(Self::try_new(input, Arc::clone(&self.step), self.columns.clone())?))
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

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
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
            columns: self.columns.clone(),
            reservation,
            permits: Arc::new(Semaphore::new(WINDOWS_IN_FLIGHT)),
            windows,
            rows: 0,
            rest: None,
        };
        stream.spawn(gather.run());
        let emit = Emit {
            pending,
            step: Arc::clone(&self.step),
            columns: self.columns.clone(),
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
    results: Vec<oneshot::Receiver<crate::Result<ArrayRef>>>,
    model: Arc<dyn TaskModel>,
    /// Released when the window has been handed on.
    _permit: tokio::sync::OwnedSemaphorePermit,
    _memory: MemoryReservation,
}

/// Reads and tokenises the input, fills windows, queues their batches.
struct Gather {
    input: SendableRecordBatchStream,
    step: Arc<ModelStep>,
    columns: Vec<usize>,
    reservation: MemoryReservation,
    permits: Arc<Semaphore>,
    windows: mpsc::Sender<Pending>,
    /// Rows read so far.
    rows: u64,
    /// Rows of a batch that did not fit in a window.
    rest: Option<RecordBatch>,
}

impl Gather {
    /// Errors of the input pass unchanged: whoever knows the files explains them.
    async fn run(mut self) -> Result<()> {
        let step = Arc::clone(&self.step);
        let model = blocking(move || step.model()).await.map_err(external)?;
        let workers = Workers::start(
            Arc::clone(&model),
            self.step.settings(),
            Arc::clone(self.step.metrics()),
        )
        .map_err(external)?;
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
                let encoded = self.encode(&batch, &tokenizers).await.map_err(external)?;
                let before = builder.output_bytes();
                let bytes = batch.get_array_memory_size();
                let task = self.step.task();
                builder.push(batch, encoded, |tokens| task.output_bytes(tokens));
                self.reserve(bytes + builder.output_bytes() - before).map_err(external)?;
            }
            if builder.num_rows() == 0 {
                break;
            }
            let window = builder.build(self.step.task().batching(), self.step.settings());
            let mut results = Vec::with_capacity(window.model_batches.len());
            for batch in &window.model_batches {
                results.push(workers.submit(&window.sequences, batch.clone()));
            }
            let pending = Pending {
                window,
                results,
                model: Arc::clone(&model),
                _permit: permit,
                _memory: self.reservation.take(),
            };
            if self.windows.send(pending).await.is_err() {
                break;
            }
        }
        // Workers end when the queue is dropped; what is queued is still computed.
        Ok(())
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
        batch: &RecordBatch,
        tokenizers: &Arc<rayon::ThreadPool>,
    ) -> crate::Result<Vec<Option<EncodedRow>>> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        let (task, tokenizers) = (Arc::clone(self.step.task()), Arc::clone(tokenizers));
        let (start, first_row) = (Instant::now(), self.rows);
        self.rows += batch.num_rows() as u64;
        let rows = blocking(move || tokenizers.install(|| task.encode(&columns, first_row)))
            .await
            .map_err(|e| e.at(format!("step at {}", self.step.location())))?;
        let tokens: usize = rows.iter().flatten().map(EncodedRow::tokens).sum();
        let truncated = rows.iter().flatten().filter(|row| row.truncated).count();
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

/// Waits for results in window order and hands batches on.
struct Emit {
    pending: mpsc::Receiver<Pending>,
    step: Arc<ModelStep>,
    columns: Vec<usize>,
    schema: SchemaRef,
    output: mpsc::Sender<Result<RecordBatch>>,
    baseline: BaselineMetrics,
}

impl Emit {
    async fn run(mut self) -> crate::Result<()> {
        while let Some(Pending { window, results, model, _permit, _memory }) =
            self.pending.recv().await
        {
            let mut arrays = Vec::with_capacity(results.len());
            for result in results {
                arrays.push(result.await.map_err(|_| worker_gone())??);
            }
            let (step, columns) = (Arc::clone(&self.step), self.columns.clone());
            let schema = Arc::clone(&self.schema);
            let batches = blocking(move || {
                let arrays = model.finish_window(arrays)?;
                let task = step.task();
                let finish = |batch: &RecordBatch, results: &Results<'_>| {
                    let inputs: Vec<ArrayRef> =
                        columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
                    task.finish(&inputs, results)
                        .map_err(|e| e.at(format!("step at {}", step.location())))
                };
                let finish: Option<&Finish<'_>> =
                    if task.is_row_by_row() { None } else { Some(&finish) };
                let sequence_type = task.sequence_type();
                window
                    .assemble(&arrays, &sequence_type, finish, &schema)
                    .collect::<crate::Result<Vec<_>>>()
            });
            for batch in batches.await? {
                let batch = batch.record_output(&self.baseline);
                let nulls = batch.columns().last().map_or(0, |column| column.null_count());
                self.step.metrics().emitted(batch.num_rows() as u64, nulls as u64);
                if self.output.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Runs CPU work off the async threads; cancelled with the stream that waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::Result<T> + Send + 'static,
) -> crate::Result<T> {
    SpawnedTask::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a background task panicked").source(e))?
}
