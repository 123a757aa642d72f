//! The second half of the operator: awaits results in window order, restores the order of rows, and emits them. Not
//! here: filling windows (`gather`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::metrics::{BaselineMetrics, RecordOutput};
use tokio::sync::mpsc;

use super::blocking::blocking;
use super::results::Claim;
use super::reuse::StepResults;
use super::row_error::RowErrors;
use super::step::ModelStep;
use super::window::{Computed, Finish, Window};
use super::workers::{Replicas, outcome};
use crate::tasks::Results;

/// A window whose batches are queued.
pub(super) struct Pending {
    pub(super) window: Window,
    pub(super) claim: Claim,
    pub(super) models: Replicas,
    /// Released when all batches of the window have been emitted.
    pub(super) _permit: tokio::sync::OwnedSemaphorePermit,
    pub(super) memory: MemoryReservation,
}

/// Waits for results in window order and emits batches.
pub(super) struct Emit {
    pub(super) pending: mpsc::Receiver<Pending>,
    pub(super) step: Arc<ModelStep>,
    pub(super) results: Option<Arc<StepResults>>,
    pub(super) schema: SchemaRef,
    pub(super) output: mpsc::Sender<Result<RecordBatch>>,
    pub(super) baseline: BaselineMetrics,
}

impl Emit {
    pub(super) async fn run(mut self) -> crate::Result<()> {
        while let Some(Pending { window, claim, models, _permit, memory }) =
            self.pending.recv().await
        {
            let Claim { own, batches, places } = claim;
            let mut values = Vec::with_capacity(batches.len());
            let mut failed = HashMap::new();
            let start = Instant::now();
            for (array, mut batch) in batches.into_iter().enumerate() {
                let result = outcome(&mut batch).await?;
                values.push(Arc::clone(&result.values));
                failed.extend(result.failed.iter().map(|(index, e)| ((array, *index), e.clone())));
            }
            self.step.metrics().waited_for_results(start.elapsed());
            self.step.results().keep(&own, &memory);
            let step = Arc::clone(&self.step);
            let (schema, results) = (Arc::clone(&self.schema), self.results.clone());
            let batches = blocking(move || {
                let values = models[0].finish_window(values)?;
                let task = step.task();
                let finish = |columns: &[ArrayRef], results: &Results<'_>| {
                    task.finish(columns, results).map_err(|e| e.at(step.place()))
                };
                let finish: Option<&Finish<'_>> =
                    if task.is_row_by_row() { None } else { Some(&finish) };
                let (sequence_type, computed) =
                    (task.sequence_type(), Computed { values, places, failed });
                window
                    .assemble(
                        &computed,
                        &sequence_type,
                        finish,
                        step.row_errors(),
                        (&schema, results.as_deref()),
                        |error| {
                            step.metrics().failed(error);
                        },
                    )
                    .collect::<crate::Result<Vec<_>>>()
            });
            for batch in batches.await? {
                let batch = batch.record_output(&self.baseline);
                let (nulls, failed) = nulls_and_failed(&batch, self.step.row_errors());
                self.step.metrics().emitted(batch.num_rows() as u64, nulls, failed);
                let start = Instant::now();
                let is_taken = self.output.send(Ok(batch)).await.is_ok();
                self.step.metrics().waited_for_output(start.elapsed());
                if !is_taken {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The number of null rows in the last column, and of rows that failed.
pub(super) fn nulls_and_failed(batch: &RecordBatch, row_errors: RowErrors) -> (u64, u64) {
    let Some(column) = batch.columns().last() else { return (0, 0) };
    let failed = match row_errors {
        RowErrors::Fail => 0,
        RowErrors::Keep | RowErrors::KeepKind => {
            let errors = column.as_struct().column(1);
            errors.len() - errors.null_count()
        }
    };
    (column.null_count() as u64, failed as u64)
}
