//! Computes one unit and commits it: the same for a run, a joined process and a worker of another run. Not here: which
//! units a process computes (`run`, `join`, `worker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use tracing::Instrument;

use super::units::{UnitJob, counting, plan_of_unit};
use super::write::write_stream;
use super::{Job, counted};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{FailedRows, UnitResults};
use crate::failpoint::failpoint_at;
use crate::report::UnitTime;
use crate::sink::{Committed, MAX_ATTEMPTS, RowErrorCounts, Sink, UnitOutput};
use crate::source::{self, SourceUnit};

/// How an attempt at a unit ended.
pub(super) enum Outcome {
    /// The unit is durable.
    Done(Committed),
    /// The unit was not tried: as many attempts as allowed have ended with their process.
    Deadly,
}

impl Job {
    /// Computes a unit of the source and commits it.
    ///
    /// # Errors
    /// The first error of any stage; the unit is then not done.
    pub(super) async fn run_unit(
        &self,
        job: &UnitJob,
        output: &UnitOutput,
        context: Arc<TaskContext>,
    ) -> Result<Outcome> {
        self.run_rows(job, self.source.unit(&job.unit), output, context).await
    }

    /// Like [`Job::run_unit`], for the rows `unit`.
    ///
    /// # Errors
    /// As [`Job::run_unit`].
    pub(super) async fn run_rows(
        &self,
        job: &UnitJob,
        unit: SourceUnit,
        output: &UnitOutput,
        context: Arc<TaskContext>,
    ) -> Result<Outcome> {
        let span = tracing::error_span!("unit", unit = job.key.short(), input = job.place());
        let attempted = async {
            let attempts = tokio::task::block_in_place(|| output.attempts(&job.key))?;
            if attempts.count() >= MAX_ATTEMPTS {
                return Ok(Outcome::Deadly);
            }
            // A unit that may have killed its process runs alone, so that no other unit counts an attempt with it.
            let is_suspect = attempts.count() > 0;
            let _alone = if is_suspect { Some(self.running.write().await) } else { None };
            let _beside = if is_suspect { None } else { Some(self.running.read().await) };
            let attempt = tokio::task::block_in_place(|| attempts.begin())?;
            failpoint_at("unit.begun", &job.key.input);
            let committed = self.compute(job, unit, output, context).await?;
            tokio::task::block_in_place(|| attempt.done());
            Ok(Outcome::Done(committed))
        };
        attempted.instrument(span).await
    }

    async fn compute(
        &self,
        job: &UnitJob,
        unit: SourceUnit,
        output: &UnitOutput,
        context: Arc<TaskContext>,
    ) -> Result<Committed> {
        let failed = Arc::new(FailedRows::default());
        let start = Instant::now();
        let results = tokio::task::block_in_place(|| self.unit_results(&job.key.id))?;
        let sink = self.write_unit(job, unit, output, context, (&failed, results.as_ref())).await;
        let (sink, rows) = sink.map_err(|error| error.at(job.place()))?;
        tokio::task::block_in_place(|| {
            job.check_unchanged()?;
            let errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
            self.write_letters(&job.key.stem(), &failed)?;
            results.map_or(Ok(()), |results| results.keep())?;
            let committed = output.commit(&job.key, sink, errors)?;
            let seconds = start.elapsed().as_secs_f64();
            tracing::info!(rows, failed = errors.failed, seconds, "unit done");
            let unit = job.place();
            self.progress.with_units(|units| units.add(UnitTime { unit, rows, seconds }));
            Ok(committed)
        })
    }

    /// Writes the rows of a unit to a sink of the output; also returns their number.
    async fn write_unit(
        &self,
        job: &UnitJob,
        unit: SourceUnit,
        output: &UnitOutput,
        context: Arc<TaskContext>,
        (failed, results): (&Arc<FailedRows>, Option<&UnitResults>),
    ) -> Result<(Sink, u64)> {
        let files = std::slice::from_ref(&job.file);
        let explain = |error| source::name_cast(source::query_error(error, files), &self.plan);
        let plan = plan_of_unit(&self.plan, &self.source, &unit)
            .and_then(|plan| counting(plan, failed))
            .and_then(|plan| match results {
                Some(results) => results.attach(plan),
                None => Ok(plan),
            })
            .map_err(explain)?;
        let plan = self.physical(&plan).await?;
        let sink = output.sink(&job.key)?;
        let stream = execute_stream(plan, context).map_err(explain)?;
        let never = std::pin::pin!(std::future::pending());
        let rows = Arc::new(AtomicU64::new(0));
        let on_rows = {
            let (rows, on_rows) = (Arc::clone(&rows), self.on_rows());
            move |written, elapsed| {
                rows.fetch_add(written, Ordering::Relaxed);
                on_rows(written, elapsed);
            }
        };
        let sink = write_stream(stream, sink, files, on_rows, never).await?;
        Ok((sink, rows.load(Ordering::Relaxed)))
    }
}

/// Fails if there are units that were not tried, and records that they were reported: the next run tries them again.
///
/// # Errors
/// `Data` with the rows of the first one.
pub(super) fn report_deadly(units: &[&UnitJob], output: &UnitOutput) -> Result<()> {
    let Some(first) = units.first() else { return Ok(()) };
    units.iter().try_for_each(|unit| output.report_attempts(&unit.key))?;
    Err(deadly(first, units.len()))
}

/// The error for units whose attempts have ended with their processes.
pub(super) fn deadly(first: &UnitJob, units: usize) -> Error {
    let more = match units {
        0 | 1 => String::new(),
        units => format!(", and of {} more", counted(units as u64 - 1, "unit")),
    };
    let message = format!(
        "{MAX_ATTEMPTS} attempts at {}{more} ended with their process: it was killed or crashed",
        first.place()
    );
    Error::new(ErrorKind::Data, message).hint(
        "check memory and the logs of the system, or remove the rows; every other unit is kept, and the next run \
         tries these rows again",
    )
}
