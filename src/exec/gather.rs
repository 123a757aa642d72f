//! The first half of the operator: reads and tokenises the input, fills sort windows, and queues the batches of a full
//! window. Not here: what becomes of their results (`emit`).

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::PhysicalExpr;
use futures::StreamExt;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tokio::sync::{Semaphore, mpsc};

use super::emit::Pending;
use super::operator::{blocking, external};
use super::row_errors::RowError;
use super::step::{ModelStep, Replicas, RowErrors};
use super::window::{Encoded, Input, WindowBuilder, batches};
use super::workers::Job;
use crate::error::{Error, ErrorKind};
use crate::tasks::{Batching, EncodedRow, Task};

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

/// Rows of the first window of a plan that may stop early; each one after it has twice as many. A batch of
/// so many keeps the workers busy.
const MIN_WINDOW_ROWS: usize = 64;

/// Reads and tokenises the input, fills windows, queues their batches.
pub(super) struct Gather {
    pub(super) input: SendableRecordBatchStream,
    pub(super) step: Arc<ModelStep>,
    pub(super) inputs: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) reservation: MemoryReservation,
    pub(super) permits: Arc<Semaphore>,
    pub(super) windows: mpsc::Sender<Pending>,
    /// Rows of the next window, where the plan above may stop early.
    pub(super) few: Option<usize>,
    /// Loaded with the first row: without rows, no weights are read.
    pub(super) models: Option<Replicas>,
    /// Rows read so far.
    pub(super) rows: u64,
    /// Rows of a batch that did not fit in a window, and the bytes that they take.
    pub(super) rest: Option<(RecordBatch, usize)>,
}

/// Full batches of a window, for each card or each worker of the CPU. While they are computed, the window behind is read
/// and tokenised and the one before is written, which a job of a single window would wait for.
const BATCHES_A_WINDOW: usize = 12;

/// Rows that are tokenised before the tokens of a window are counted again: long ones would fill it several times over.
/// More where they are soon computed.
const ROWS_AT_ONCE: usize = 256;
const ROWS_AT_ONCE_FOR_A_CARD: usize = 2048;

impl Gather {
    /// Errors of the input pass unchanged: whoever knows the files explains them.
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
            let models = self.models().await.map_err(external)?;
            let (window, sequences) = builder.build();
            let step = &self.step;
            let claim = step.results().claim(sequences, |sequences| {
                let shares = (step.max_batch_tokens(), step.num_sharing());
                let numbers = batches(sequences, step.task().batching(), shares);
                let submitted = numbers.iter().map(|batch| {
                    let (step, models) = (Arc::clone(step), Arc::clone(&models));
                    let (sequences, batch) = (Arc::clone(sequences), batch.clone());
                    self.step.workers().submit(Job { step, models, sequences, batch })
                });
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
        let rows = self.few.map_or(rows, |few| few.max(MIN_WINDOW_ROWS).min(rows));
        match self.step.task().batching() {
            Batching::TokenBudget => rows,
            Batching::Share => rows.min(MAX_SHARED_WINDOW_ROWS),
        }
    }

    /// Whether a window ends with a few batches of tokens, whatever rows it might still take.
    fn is_bounded_by_tokens(&self) -> bool {
        let task = self.step.task();
        let makes_its_own = task.batching() == Batching::Share && !self.step.on_cards();
        !makes_its_own && !task.needs_whole_windows()
    }

    /// Tokens that a window takes at most.
    fn window_tokens(&self) -> usize {
        if !self.is_bounded_by_tokens() {
            return MAX_WINDOW_TOKENS;
        }
        let computing =
            if self.step.on_cards() { self.step.devices().len() } else { self.step.num_workers() };
        (BATCHES_A_WINDOW * computing * self.step.max_batch_tokens()).min(MAX_WINDOW_TOKENS)
    }

    /// The next rows of the input and the bytes that they take: a batch, or as much of it as the window may have room
    /// for where that is bounded closely.
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
        let at_once = match (self.is_bounded_by_tokens(), self.step.on_cards()) {
            (true, false) => ROWS_AT_ONCE,
            (true, true) => ROWS_AT_ONCE_FOR_A_CARD,
            (false, _) => usize::MAX,
        };
        let most = if is_bounded { room.min(at_once) } else { at_once };
        let rows = batch.num_rows();
        if rows > most {
            // A part holds the memory of its batch, but all parts of it together hold it once.
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
        let lengths = encoded().map(EncodedRow::tokens);
        let truncated = encoded().filter(|row| row.truncated).count() as u64;
        self.step.metrics().tokenized(rows.len() as u64, lengths, truncated, start.elapsed());
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

/// The rows that are encoded again together where one of a batch is refused.
const ROWS_AGAIN: usize = 64;

/// Encodes rows; where errors of rows are kept, the rows that are refused are found in ever smaller parts. A row is encoded
/// three times at most: it may be refused for the time that it takes.
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
