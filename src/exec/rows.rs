//! The operator for a task without batches: rows are computed while they are tokenized, batch by batch of the input, on
//! every core. The next batch is computed while one is written. Not here: windows (`gather`), workers (`workers`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::{BaselineMetrics, RecordOutput};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::blocking::{blocking, external, joined};
use super::emit::nulls_and_failed;
use super::gather::MIN_WINDOW_ROWS;
use super::metrics::BatchSize;
use super::row_error::{RowError, RowErrors, beside_errors};
use super::step::ModelStep;
use crate::error::{Error, ErrorKind};
use crate::tasks::{ComputedRows, TaskModel};

/// Rows that are computed at once, and emitted as one batch.
const ROWS_AT_ONCE: usize = 8192;

/// Batches in flight: one is computed, and one is computed or waits for the consumer.
const IN_FLIGHT: usize = 2;

/// The number of rows that are computed again together after one of a batch fails.
const ROWS_AGAIN: usize = 64;

/// Reads the input, computes its rows, and emits them in order.
pub(super) struct Rows {
    pub(super) input: SendableRecordBatchStream,
    pub(super) step: Arc<ModelStep>,
    pub(super) inputs: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) schema: SchemaRef,
    pub(super) reservation: MemoryReservation,
    pub(super) output: mpsc::Sender<Result<RecordBatch>>,
    pub(super) baseline: BaselineMetrics,
    /// Rows of the first batch, if the plan above may stop early; each further batch has twice as many.
    pub(super) few: Option<usize>,
}

/// A batch that is being computed, and the memory reserved for it.
struct InFlight {
    batch: SpawnedTask<crate::Result<RecordBatch>>,
    memory: MemoryReservation,
}

impl Rows {
    /// Errors of the input pass through unchanged, because the caller that knows the files explains them.
    pub(super) async fn run(mut self) -> Result<()> {
        let threads = self.step.settings().workers.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("rows-{number}"))
            .build()
            .map(Arc::new)
            .map_err(|e| {
                let message = "cannot start threads for a model";
                external(Error::new(ErrorKind::Resources, message).source(e))
            })?;
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        let mut model: Option<Arc<dyn TaskModel>> = None;
        let (mut rows, mut rest) = (0, None);
        while let Some(batch) = self.next_batch(&mut rest).await? {
            let model = if let Some(model) = &model {
                Arc::clone(model)
            } else {
                let step = Arc::clone(&self.step);
                let models = blocking(move || step.models()).await.map_err(external)?;
                Arc::clone(model.insert(Arc::clone(&models[0])))
            };
            let read = |input: &Arc<dyn PhysicalExpr>| {
                input.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows()))
            };
            let columns = self.inputs.iter().map(read).collect::<Result<Vec<_>>>()?;
            let first_row = rows;
            rows += batch.num_rows() as u64;
            let memory = self.reserve(&batch).map_err(external)?;
            let (step, schema) = (Arc::clone(&self.step), Arc::clone(&self.schema));
            let pool = Arc::clone(&pool);
            let batch = SpawnedTask::spawn_blocking(move || {
                let compute = || compute(&step, &*model, &columns, first_row);
                let column = pool.install(compute).map_err(|e| e.at(step.place()))?;
                append(&batch, column, &schema)
            });
            in_flight.push_back(InFlight { batch, memory });
            if in_flight.len() == IN_FLIGHT && !self.emit(in_flight.pop_front()).await? {
                return Ok(());
            }
        }
        while !in_flight.is_empty() {
            if !self.emit(in_flight.pop_front()).await? {
                break;
            }
        }
        Ok(())
    }

    /// The next rows of the input, at most [`ROWS_AT_ONCE`]; `rest` are those of a larger batch.
    async fn next_batch(&mut self, rest: &mut Option<RecordBatch>) -> Result<Option<RecordBatch>> {
        let batch = loop {
            if let Some(rest) = rest.take() {
                break rest;
            }
            let start = Instant::now();
            let batch = self.input.next().await.transpose()?;
            self.step.metrics().waited_for_input(start.elapsed());
            match batch {
                None => return Ok(None),
                Some(batch) if batch.num_rows() > 0 => break batch,
                Some(_) => {}
            }
        };
        let most = self.few.map_or(ROWS_AT_ONCE, |few| few.clamp(MIN_WINDOW_ROWS, ROWS_AT_ONCE));
        self.few = self.few.map(|rows| rows.saturating_mul(2));
        if batch.num_rows() <= most {
            return Ok(Some(batch));
        }
        *rest = Some(batch.slice(most, batch.num_rows() - most));
        Ok(Some(batch.slice(0, most)))
    }

    /// Reserves the memory of a batch and its results.
    fn reserve(&self, batch: &RecordBatch) -> crate::Result<MemoryReservation> {
        let memory = self.reservation.new_empty();
        let results = batch.num_rows() * self.step.task().output_bytes(1);
        memory.try_grow(batch.get_array_memory_size() + results).map_err(|e| {
            Error::new(ErrorKind::Resources, "a batch of rows does not fit in memory").source(e)
        })?;
        Ok(memory)
    }

    /// Emits a batch when it is computed; returns whether anything still reads.
    async fn emit(&mut self, next: Option<InFlight>) -> Result<bool> {
        let Some(InFlight { batch, memory }) = next else { return Ok(true) };
        let start = Instant::now();
        let batch = joined(batch).await.map_err(external)?;
        self.step.metrics().waited_for_results(start.elapsed());
        let batch = batch.record_output(&self.baseline);
        let (nulls, failed) = nulls_and_failed(&batch, self.step.row_errors());
        self.step.metrics().emitted(batch.num_rows() as u64, nulls, failed);
        let start = Instant::now();
        let is_taken = self.output.send(Ok(batch)).await.is_ok();
        self.step.metrics().waited_for_output(start.elapsed());
        drop(memory);
        Ok(is_taken)
    }
}

/// The batch with the result column.
fn append(batch: &RecordBatch, column: ArrayRef, schema: &SchemaRef) -> crate::Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns.push(column);
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| {
        let name = schema.fields().last().map_or("", |field| field.name().as_str());
        Error::new(ErrorKind::Internal, format!("result of `{name}`")).source(e)
    })
}

/// The column of a batch, with the errors of its rows beside the values if they are kept.
fn compute(
    step: &ModelStep,
    model: &dyn TaskModel,
    columns: &[ArrayRef],
    first_row: u64,
) -> crate::Result<ArrayRef> {
    let start = Instant::now();
    let rows = columns.first().map_or(0, Array::len);
    let (computed, errors) =
        located(step, model, columns, first_row).map(|found| (found.computed, found.errors))?;
    let ComputedRows { values, tokens, truncated } = computed;
    let total: usize = tokens.iter().sum();
    let size = BatchSize {
        rows: tokens.len() as u64,
        images: 0,
        tokens: total as u64,
        padded_tokens: total as u64,
        cached_tokens: 0,
        generated_tokens: 0,
        image_time: Duration::ZERO,
    };
    step.metrics().tokenized(rows as u64, tokens.into_iter(), truncated, 0, start.elapsed());
    step.metrics().computed(size, Duration::ZERO, Duration::ZERO);
    errors.iter().flatten().for_each(|error| step.metrics().failed(error));
    if step.row_errors() == RowErrors::Fail {
        return Ok(values);
    }
    let errors: Vec<Option<&RowError>> =
        (0..rows).map(|row| errors.get(row).and_then(Option::as_ref)).collect();
    let valid = errors.iter().enumerate().map(|(row, e)| e.is_some() || values.is_valid(row));
    let valid: NullBuffer = valid.collect::<Vec<bool>>().into();
    beside_errors(values, valid, &errors, step.row_errors())
        .map_err(|e| Error::new(ErrorKind::Internal, "errors of rows").source(e))
}

/// Computed rows, and the errors of those that failed: one entry per row, or none if all succeeded.
struct Located {
    computed: ComputedRows,
    errors: Vec<Option<RowError>>,
}

/// Computes rows. If row errors are kept, failed rows are located by splitting the batch: each row is computed at most
/// three times.
fn located(
    step: &ModelStep,
    model: &dyn TaskModel,
    columns: &[ArrayRef],
    first_row: u64,
) -> crate::Result<Located> {
    let error = match model.compute_rows(columns, first_row) {
        Ok(computed) => return Ok(Located { computed, errors: Vec::new() }),
        Err(error) => error,
    };
    if step.row_errors() == RowErrors::Fail || error.kind() != ErrorKind::Data {
        return Err(error);
    }
    let data_type: DataType = step.task().field().data_type().clone();
    let rows = columns.first().map_or(0, Array::len);
    if rows == 1 {
        let values = new_null_array(&data_type, 1);
        let computed = ComputedRows { values, tokens: Vec::new(), truncated: 0 };
        return Ok(Located { computed, errors: vec![Some(RowError::from(&error))] });
    }
    let part_rows = if rows > ROWS_AGAIN { ROWS_AGAIN } else { 1 };
    let (mut values, mut errors) = (Vec::new(), Vec::with_capacity(rows));
    let (mut tokens, mut truncated) = (Vec::with_capacity(rows), 0);
    for start in (0..rows).step_by(part_rows) {
        let length = part_rows.min(rows - start);
        let part: Vec<_> = columns.iter().map(|column| column.slice(start, length)).collect();
        let part = located(step, model, &part, first_row + start as u64)?;
        values.push(part.computed.values);
        tokens.extend(part.computed.tokens);
        truncated += part.computed.truncated;
        errors.extend(part.errors);
        errors.resize_with(start + length, || None);
    }
    let parts: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    let values =
        concat(&parts).map_err(|e| Error::new(ErrorKind::Internal, "results of rows").source(e))?;
    Ok(Located { computed: ComputedRows { values, tokens, truncated }, errors })
}
