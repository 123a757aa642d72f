//! The first half of the operator: reads and tokenizes the input, fills sort windows, and queues the batches of full
//! windows. Not here: their results (`emit`).

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::PhysicalExpr;
use futures::StreamExt;
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use tokio::sync::{Semaphore, mpsc};

use super::blocking::{blocking, external};
use super::emit::Pending;
use super::reuse::{KeyedRows, StepResults};
use super::row_error::{RowError, RowErrors};
use super::step::ModelStep;
use super::window::{Encoded, Input, WindowBuilder, batches};
use super::workers::Replicas;
use crate::error::{Error, ErrorKind};
use crate::tasks::{Batching, EncodedRow, Task};

/// A window closes at this many tokens even if it has few rows: its batches already have similar lengths, and its
/// tokens and results are held in memory.
const MAX_WINDOW_TOKENS: usize = 1 << 20;

/// A window closes when its results reach this size. Hidden states of every token can be large.
const MAX_WINDOW_OUTPUT_BYTES: usize = 256 << 20;

/// A window closes when its input rows reach this size.
const MAX_WINDOW_INPUT_BYTES: usize = 256 << 20;

/// Rows of a window whose task makes its own batches. Generation takes long, and finished rows should not wait for tens
/// of thousands of others.
const MAX_SHARED_WINDOW_ROWS: usize = 1024;

/// Rows of the first window of a plan that may stop early; each further window has twice as many. A batch of this size
/// keeps the workers busy.
pub(super) const MIN_WINDOW_ROWS: usize = 64;

/// Reads and tokenizes the input, fills windows, and queues their batches.
pub(super) struct Gather {
    pub(super) input: SendableRecordBatchStream,
    pub(super) step: Arc<ModelStep>,
    pub(super) results: Option<Arc<StepResults>>,
    pub(super) inputs: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) reservation: MemoryReservation,
    pub(super) permits: Arc<Semaphore>,
    pub(super) windows: mpsc::Sender<Pending>,
    /// Rows of the next window, if the plan above may stop early.
    pub(super) few: Option<usize>,
    /// Loaded with the first row; without rows, no weights are read.
    pub(super) models: Option<Replicas>,
    /// Rows read so far.
    pub(super) rows: u64,
    /// The rows of a batch that did not fit in a window, and their size in bytes.
    pub(super) rest: Option<(RecordBatch, usize)>,
}

/// Full batches per window, for each GPU or each CPU worker. While they are computed, the next window is read and
/// tokenized and the previous one is written. A job with a single window would do these in sequence.
const BATCHES_PER_WINDOW: usize = 12;

/// Rows to tokenize before counting the tokens of a window again: long rows would overfill it several times. Fast
/// models need more.
const ROWS_AT_ONCE: usize = 256;
const ROWS_AT_ONCE_FOR_A_CARD: usize = 2048;

impl Gather {
    /// Errors of the input pass through unchanged, because the caller that knows the files explains them.
    pub(super) async fn run(mut self) -> Result<()> {
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
                let Some((batch, bytes)) = self.next_batch(&builder).await? else {
                    ended = true;
                    break;
                };
                if batch.num_rows() == 0 {
                    continue;
                }
                let mut input = self.read(batch)?;
                input.known = self.look_up(&input.columns).await.map_err(external)?;
                let encoded = self.encode(&input, &tokenizers).await.map_err(external)?;
                let before = builder.output_bytes();
                let task = self.step.task();
                builder.push(input, encoded, |tokens| task.output_bytes(tokens));
                self.reserve(bytes + builder.output_bytes() - before).map_err(external)?;
            }
            if builder.num_rows() == 0 {
                break;
            }
            let models = self.models().await.map_err(external)?;
            let (window, sequences) = builder.build();
            let step = &self.step;
            let claim = step.results().claim(sequences, |sequences| {
                let shares = (step.max_batch_tokens(), step.num_sharing());
                let numbers = batches(sequences, step.task().batching(), shares);
                let submit = |batch: &Vec<usize>| step.submit(&models, sequences, batch.clone());
                let submitted = numbers.iter().map(submit);
                let submitted = submitted.collect::<crate::Result<_>>()?;
                Ok((numbers, submitted))
            });
            let pending = Pending {
                window,
                claim: claim.map_err(external)?,
                models,
                _permit: permit,
                memory: self.reservation.take(),
            };
            self.few = self.few.map(|rows| rows.saturating_mul(2));
            if self.windows.send(pending).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn models(&mut self) -> crate::Result<Replicas> {
        if let Some(models) = &self.models {
            return Ok(Arc::clone(models));
        }
        let step = Arc::clone(&self.step);
        let models = blocking(move || step.models()).await?;
        Ok(Arc::clone(self.models.insert(models)))
    }

    /// The columns of a batch that the task reads.
    fn read(&self, batch: RecordBatch) -> Result<Input> {
        let read = |input: &Arc<dyn PhysicalExpr>| {
            input.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows()))
        };
        let columns = self.inputs.iter().map(read).collect::<Result<_>>()?;
        Ok(Input { batch, columns, known: None })
    }

    /// The results of rows that earlier runs have kept.
    async fn look_up(&mut self, columns: &[ArrayRef]) -> crate::Result<Option<Arc<KeyedRows>>> {
        let Some(results) = self.results.clone() else { return Ok(None) };
        let columns = columns.to_vec();
        let known = blocking(move || results.look_up(&columns)).await?;
        let reused = known.as_ref().map_or(0, KeyedRows::len_found);
        self.step.metrics().reused(reused as u64);
        Ok(known.map(Arc::new))
    }

    /// The maximum number of rows in a window.
    fn window_rows(&self) -> usize {
        let rows = self.step.settings().sort_window_rows;
        let rows = self.few.map_or(rows, |few| few.max(MIN_WINDOW_ROWS).min(rows));
        match self.step.task().batching() {
            Batching::TokenBudget | Batching::Rows => rows,
            Batching::Share => rows.min(MAX_SHARED_WINDOW_ROWS),
        }
    }

    /// Whether a window ends after a few batches of tokens, even if it could take more rows.
    fn is_bounded_by_tokens(&self) -> bool {
        let task = self.step.task();
        let makes_its_own = task.batching() == Batching::Share && !self.step.on_gpus();
        !makes_its_own && !task.needs_whole_windows()
    }

    /// The maximum number of tokens in a window.
    fn window_tokens(&self) -> usize {
        if !self.is_bounded_by_tokens() {
            return MAX_WINDOW_TOKENS;
        }
        let computing =
            if self.step.on_gpus() { self.step.devices().len() } else { self.step.num_workers() };
        (BATCHES_PER_WINDOW * computing * self.step.max_batch_tokens()).min(MAX_WINDOW_TOKENS)
    }

    /// The next rows of the input and their size in bytes: a batch, or the part of it that fits if the window has a
    /// close bound.
    async fn next_batch(&mut self, window: &WindowBuilder) -> Result<Option<(RecordBatch, usize)>> {
        let (batch, bytes) = if let Some(rest) = self.rest.take() {
            rest
        } else {
            let start = Instant::now();
            let batch = self.input.next().await;
            self.step.metrics().waited_for_input(start.elapsed());
            let Some(batch) = batch.transpose()? else { return Ok(None) };
            let bytes = batch.get_array_memory_size();
            (batch, bytes)
        };
        let room = self.window_rows().saturating_sub(window.num_rows());
        let is_bounded = self.few.is_some() || self.step.task().batching() == Batching::Share;
        let at_once = match (self.is_bounded_by_tokens(), self.step.on_gpus()) {
            (true, false) => ROWS_AT_ONCE,
            (true, true) => ROWS_AT_ONCE_FOR_A_CARD,
            (false, _) => usize::MAX,
        };
        let most = if is_bounded { room.min(at_once) } else { at_once };
        let rows = batch.num_rows();
        if rows > most {
            // A slice holds the memory of its whole batch, but all slices together hold it once.
            let part = bytes / rows * most;
            self.rest = Some((batch.slice(most, rows - most), bytes - part));
            return Ok(Some((batch.slice(0, most), part)));
        }
        Ok(Some((batch, bytes)))
    }

    fn is_full(&self, window: &WindowBuilder) -> bool {
        window.num_rows() >= self.window_rows()
            || window.tokens() >= self.window_tokens()
            || window.output_bytes() >= MAX_WINDOW_OUTPUT_BYTES
            || self.reservation.size() - window.output_bytes() >= MAX_WINDOW_INPUT_BYTES
    }

    async fn encode(
        &mut self,
        Input { columns, known, .. }: &Input,
        tokenizers: &Arc<rayon::ThreadPool>,
    ) -> crate::Result<Vec<Encoded>> {
        let (columns, known) = (columns.clone(), known.clone());
        let (step, tokenizers) = (Arc::clone(&self.step), Arc::clone(tokenizers));
        let (start, first_row) = (Instant::now(), self.rows);
        self.rows += columns.first().map_or(0, Array::len) as u64;
        let rows = blocking(move || {
            let (task, row_errors) = (&**step.task(), step.row_errors());
            tokenizers.install(|| match known {
                Some(known) => encode_missing(task, &columns, &known, first_row, row_errors),
                None => encode(task, &columns, first_row, row_errors),
            })
        })
        .await
        .map_err(|e| e.at(self.step.place()))?;
        let encoded = || rows.iter().flatten().flatten();
        let lengths = encoded().map(EncodedRow::tokens);
        let truncated = encoded().filter(|row| row.truncated).count() as u64;
        let split = encoded().filter(|row| row.split).count() as u64;
        let elapsed = start.elapsed();
        self.step.metrics().tokenized(rows.len() as u64, lengths, truncated, split, elapsed);
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

/// Encodes the rows whose results are not known; the others are like null rows.
fn encode_missing(
    task: &dyn Task,
    columns: &[ArrayRef],
    known: &KeyedRows,
    first_row: u64,
    row_errors: RowErrors,
) -> crate::Result<Vec<Encoded>> {
    let missing = known.missing();
    let encoded = missing.par_iter().map(|rows| {
        let part: Vec<_> = columns.iter().map(|c| c.slice(rows.start, rows.len())).collect();
        encode(task, &part, first_row + rows.start as u64, row_errors)
    });
    let encoded = encoded.collect::<crate::Result<Vec<_>>>()?;
    let mut all: Vec<Encoded> = Vec::with_capacity(columns.first().map_or(0, Array::len));
    for (rows, encoded) in missing.into_iter().zip(encoded) {
        all.resize_with(rows.start, || Ok(None));
        all.extend(encoded);
    }
    all.resize_with(columns.first().map_or(0, Array::len), || Ok(None));
    Ok(all)
}

/// The number of rows that are encoded again together after one of a batch fails.
const ROWS_AGAIN: usize = 64;

/// Encodes rows. If row errors are kept, failed rows are located by splitting the batch. Each row is encoded at most
/// three times, because it may fail for the time that it takes.
pub(crate) fn encode(
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
        return Ok(vec![Err(RowError::from(&error))]);
    }
    let part_rows = if rows > ROWS_AGAIN { ROWS_AGAIN } else { 1 };
    let parts = (0..rows.div_ceil(part_rows)).into_par_iter().map(|part| {
        let start = part * part_rows;
        let length = part_rows.min(rows - start);
        let columns: Vec<_> = columns.iter().map(|column| column.slice(start, length)).collect();
        encode(task, &columns, first_row + start as u64, row_errors)
    });
    Ok(parts.collect::<crate::Result<Vec<_>>>()?.into_iter().flatten().collect())
}
