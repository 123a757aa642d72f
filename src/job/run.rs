//! A job on its way: unit by unit or as a whole, from source to sink, counted and reported. Not here: what is
//! known before (`job`), what a unit is (`units`).

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use tracing::Instrument;

use super::progress::{Clock, Stage};
use super::units::{UnitJob, counting, plan_hash, plan_of_unit, unit_jobs};
use super::write::write_stream;
use super::{Job, lineage};
use crate::config::pipeline::OnErrorRows;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{FailedRows, Letters};
use crate::own_file;
use crate::report::{OutputFile, RowErrorTotals, RunReport, UnitTime};
use crate::sink::{
    self, Committed, Finished, RowErrorCounts, Sink, SinkOptions, UnitKey, UnitMode, UnitOutput,
    UnitStatus, Written,
};
use crate::source;

/// Units that are computed at the same time.
const UNITS_IN_FLIGHT: usize = 2;

impl Job {
    /// Runs the job: rows from source to sink. `cancel` ends it early with an error of the kind that it
    /// gives ([`ErrorKind::Interrupted`], [`ErrorKind::Terminated`]); nothing is then published.
    ///
    /// # Errors
    /// The first error of any stage. Units that are done are kept for the next run; of a job that is one
    /// unit, what was written so far is removed.
    pub async fn run(&self, cancel: impl Future<Output = ErrorKind>) -> Result<RunReport> {
        let clock = Clock::start(&self.progress);
        // Of the highest level: lines of any level then say whose they are.
        let span = tracing::error_span!("run", pipeline = self.pipeline.name.as_str());
        let result = async {
            tracing::info!(files = self.source.files.len(), "run begun");
            let ran = match self.whole {
                Some(_) => self.run_whole(cancel).await,
                None => self.run_units(cancel).await,
            };
            ran.map_err(|error| source::name_cast(error, &self.plan))
        };
        let result = result.instrument(span.clone()).await;
        drop(clock);
        let report = self.progress.report();
        let _entered = span.enter();
        let (rows, seconds) = (report.rows_written, report.wall_seconds);
        match &result {
            Ok(()) => tracing::info!(rows, seconds, "run done"),
            Err(error) => tracing::info!(rows, seconds, kind = error.kind().name(), "run ended"),
        }
        result.map(|()| report)
    }

    async fn run_whole(&self, cancel: impl Future<Output = ErrorKind>) -> Result<()> {
        let cancel = std::pin::pin!(cancel);
        tokio::task::block_in_place(|| self.load_models())?;

        let failed = Arc::new(FailedRows::default());
        let plan = counting(self.plan.clone(), &failed).map_err(|e| self.explain_error(e))?;
        let plan = self.physical(&plan).await?;
        let sink = Sink::create(&self.pipeline.sink, plan.schema(), self.sink_options())?;
        self.progress.enter(Stage::Running);
        let stream =
            execute_stream(plan, self.context.task_ctx()).map_err(|e| self.explain_error(e))?;
        let sink = write_stream(stream, sink, &self.source.files, self.on_rows(), cancel).await?;
        self.progress.enter(Stage::Committing);
        let errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
        self.count_errors(errors);
        self.check_budget(errors)?;
        let unit = self.whole_unit();
        let written = tokio::task::block_in_place(|| {
            self.write_letters(&format!("00000-{unit}"), &failed)?;
            let written = sink.finish()?;
            self.publish_letters(&BTreeSet::from([unit]))?;
            Ok::<_, Error>(written)
        })?;
        self.progress.set_output(output_files(written));
        Ok(())
    }

    /// What dead letters of a job that is one unit are called: others than those of the same job over another input.
    fn whole_unit(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(plan_hash(&self.pipeline, &self.written, self.steps()).as_bytes());
        for file in &self.source.files {
            hasher.update(format!("{}\n{}\n", file.path.display(), file.stamp).as_bytes());
        }
        hasher.finalize().to_hex()[..8].to_owned()
    }

    /// The counts for the report, where errors of rows do not end the run.
    fn count_errors(&self, RowErrorCounts { rows, failed }: RowErrorCounts) {
        if self.pipeline.on_error.rows != OnErrorRows::Fail {
            self.progress.set_row_errors(RowErrorTotals { rows, failed });
        }
    }

    /// Fails when more rows failed than `on_error.max_fraction` allows.
    fn check_budget(&self, errors: RowErrorCounts) -> Result<()> {
        let on_error = &self.pipeline.on_error;
        let share = errors.failed as f64 / errors.rows.max(1) as f64;
        if on_error.rows == OnErrorRows::Fail || share <= on_error.max_fraction {
            return Ok(());
        }
        let message = format!(
            "{} of {} rows failed, a share of {share:.4}: `on_error.max_fraction` is {}",
            errors.failed, errors.rows, on_error.max_fraction
        );
        Err(Error::new(ErrorKind::Data, message)
            .at(&on_error.location)
            .hint("look at the errors, or allow more; nothing was published"))
    }

    fn write_letters(&self, stem: &str, failed: &FailedRows) -> Result<()> {
        let (folder, pipeline) = (self.letters_folder()?, &self.pipeline.name);
        failed.take_letters().iter().try_for_each(|Letters { step, batches }| {
            sink::write_letters(folder, pipeline, stem, step, batches)
        })
    }

    /// The letters of the output are those of `units`; without `rows: skip` it has none.
    fn publish_letters(&self, units: &BTreeSet<String>) -> Result<()> {
        let folder = self.letters_folder()?;
        let own = self.options.overwrite && folder.starts_with(&self.pipeline.sink.path);
        let none = BTreeSet::new();
        let skips = self.pipeline.on_error.rows == OnErrorRows::Skip;
        let units = if skips { units } else { &none };
        sink::publish_letters(folder, &self.pipeline.name, units, own)
    }

    /// The folder of dead letters: no folder below the output may be a link.
    fn letters_folder(&self) -> Result<&Path> {
        let (folder, output) = (&self.pipeline.on_error.dead_letter, &self.pipeline.sink.path);
        if let Ok(inside) = folder.strip_prefix(output) {
            own_file::check_folders(output, inside).map_err(|error| {
                let message = format!("cannot write `{}`", folder.display());
                Error::new(ErrorKind::Sink, message)
                    .source(error)
                    .hint("remove it, or choose another `on_error.dead_letter`")
            })?;
        }
        Ok(folder)
    }

    fn sink_options(&self) -> SinkOptions {
        SinkOptions {
            lineage: self.lineage(),
            model_columns: self.output_columns(),
            overwrite: self.options.overwrite,
        }
    }

    /// What a run would do with each unit; none for a job that is one unit.
    ///
    /// # Errors
    /// `NoInput` when a file is gone, `Sink` when the output cannot be read.
    pub fn units(&self) -> Result<Vec<(UnitKey, UnitStatus)>> {
        if self.whole.is_some() {
            return Ok(Vec::new());
        }
        let hash = plan_hash(&self.pipeline, &self.written, self.steps());
        let jobs = unit_jobs(&self.source, hash);
        let keys: Vec<UnitKey> = jobs.into_iter().map(|job| job.key).collect();
        let status = UnitOutput::status(&self.pipeline.sink, &keys)?;
        Ok(keys.into_iter().zip(status).collect())
    }

    /// Unit by unit, two at a time, so that the workers have the next one's batches when those of one end.
    async fn run_units(&self, cancel: impl Future<Output = ErrorKind>) -> Result<()> {
        let jobs = unit_jobs(&self.source, plan_hash(&self.pipeline, &self.written, self.steps()));
        let mode = if self.pipeline.run.is_incremental {
            UnitMode::Incremental { prune: self.options.prune }
        } else {
            UnitMode::Resume
        };
        let (spec, shard) = (&self.pipeline.sink, self.options.shard);
        let schema = self.physical_plan().await?.schema();
        let keys: Vec<UnitKey> = jobs.iter().map(|job| job.key.clone()).collect();
        let mut output = tokio::task::block_in_place(|| {
            UnitOutput::open(spec, schema, self.sink_options(), mode, shard, &keys)
        })?;
        let is_own = |job: &&UnitJob| shard.is_none_or(|shard| shard.has(job.key.sequence));
        let progress = &self.progress;
        let total = jobs.iter().filter(is_own).count();
        progress.with_units(|units| {
            (units.total, units.shard) = (total, shard.map(|shard| shard.to_string()));
        });
        let mut errors = RowErrorCounts::default();
        if let Some(rows) = output.complete() {
            progress.with_units(|units| (units.skipped, units.skipped_rows) = (total, rows));
            progress.skips(rows);
            tracing::info!(units = total, rows, "nothing to do: the output is published");
            // The run before may have been killed between its last two steps.
            let units_of = keys.iter().map(|key| key.short().to_owned()).collect();
            tokio::task::block_in_place(|| self.publish_letters(&units_of))?;
            return Ok(());
        }
        let mut open: Vec<&UnitJob> = Vec::new();
        let mut skipped_rows = 0;
        for job in jobs.iter().filter(is_own) {
            match output.done(&job.key.id) {
                Some(done) => {
                    skipped_rows += done.rows;
                    errors.add(done.errors);
                }
                None => open.push(job),
            }
        }
        let skipped = total - open.len();
        progress.with_units(|units| (units.skipped, units.skipped_rows) = (skipped, skipped_rows));
        progress.skips(skipped_rows);
        self.count_errors(errors);
        tracing::info!(units = total, skipped, "units found");
        if !open.is_empty() {
            tokio::task::block_in_place(|| self.load_models())?;
        }

        self.progress.enter(Stage::Running);
        // One query: results of a unit serve the next ones.
        let context = self.context.task_ctx();
        let mut cancel = std::pin::pin!(cancel);
        let mut failure = None;
        let mut computed = Vec::new();
        {
            let running = futures::stream::iter(open)
                .map(|job| {
                    let unit =
                        tracing::error_span!("unit", unit = job.key.short(), input = job.place());
                    self.run_unit(job, &output, Arc::clone(&context)).instrument(unit)
                })
                .buffered(UNITS_IN_FLIGHT);
            let mut running = std::pin::pin!(running);
            loop {
                let result = tokio::select! {
                    result = running.next() => result,
                    kind = cancel.as_mut() => Some(Err(Error::new(kind, "stopped by a signal"))),
                };
                match result {
                    Some(Ok(committed)) => {
                        errors.add(committed.errors());
                        self.count_errors(errors);
                        computed.push(committed);
                    }
                    Some(Err(error)) => {
                        failure = Some(error);
                        break;
                    }
                    None => break,
                }
            }
        }
        computed.into_iter().for_each(|unit| output.add(unit));
        if let Some(error) = failure {
            let done = progress.with_units(|units| units.computed + units.skipped);
            let place = format!("{done} of {total} units are done and kept");
            let command = match (self.options.overwrite, output.can_go_on()) {
                (false, _) => "the same command",
                (true, true) => "the same command without `--fresh`",
                // The output before is still there, and only `--fresh` may replace it.
                (true, false) => return Err(error.hint("the same command starts again")),
            };
            let hint = match error.kind() {
                ErrorKind::Interrupted | ErrorKind::Terminated => {
                    format!("{command} continues from there")
                }
                _ => format!("once the cause is fixed, {command} continues from there"),
            };
            return Err(error.at(place).hint(hint));
        }
        self.progress.enter(Stage::Committing);
        let files = tokio::task::block_in_place(|| {
            Ok::<_, Error>(match output.finish(&keys, &|errors| self.check_budget(errors))? {
                Finished::Published { written, vanished, units: kept } => {
                    self.publish_letters(&kept)?;
                    progress.with_units(|units| {
                        (units.vanished, units.pruned) = (vanished.inputs, vanished.removed);
                    });
                    output_files(written)
                }
                Finished::Left { missing } => {
                    progress.with_units(|units| units.left_to_shards = missing);
                    Vec::new()
                }
            })
        })?;
        progress.set_output(files);
        Ok(())
    }

    async fn run_unit(
        &self,
        job: &UnitJob,
        output: &UnitOutput,
        context: Arc<TaskContext>,
    ) -> Result<Committed> {
        let failed = Arc::new(FailedRows::default());
        let (start, rows) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let on_rows = {
            let (rows, on_rows) = (Arc::clone(&rows), self.on_rows());
            move |written, elapsed| {
                rows.fetch_add(written, Ordering::Relaxed);
                on_rows(written, elapsed);
            }
        };
        let computed = async {
            let plan = plan_of_unit(&self.plan, &self.source, &job.unit)
                .and_then(|plan| counting(plan, &failed))
                .map_err(|e| self.explain_error(e))?;
            let plan = self.physical(&plan).await?;
            let sink = output.sink(&job.key)?;
            let stream = execute_stream(plan, context).map_err(|e| self.explain_error(e))?;
            let never = std::pin::pin!(std::future::pending());
            write_stream(stream, sink, &self.source.files, on_rows, never).await
        };
        let sink = computed.await.map_err(|error| error.at(job.place()))?;
        tokio::task::block_in_place(|| job.check_unchanged())?;
        let errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
        tokio::task::block_in_place(|| {
            self.write_letters(&job.key.stem(), &failed)?;
            let committed = output.commit(&job.key, sink, errors)?;
            let (rows, seconds) = (rows.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
            tracing::info!(rows, failed = errors.failed, seconds, "unit done");
            let unit = job.place();
            self.progress.with_units(|units| units.add(UnitTime { unit, rows, seconds }));
            Ok(committed)
        })
    }

    fn on_rows(&self) -> impl Fn(u64, Duration) + Send + 'static {
        let progress = Arc::clone(&self.progress);
        move |rows, elapsed| progress.wrote(rows, elapsed)
    }

    /// Loads every model, so that a broken checkpoint is told before the first row.
    ///
    /// # Errors
    /// As [`ModelStep::models`].
    pub fn load_models(&self) -> Result<()> {
        self.steps().iter().try_for_each(|step| step.models().map(drop))
    }

    /// Where the columns come from, for the footer of output files.
    fn lineage(&self) -> Vec<(String, String)> {
        lineage(("hfauto.pipeline", &self.pipeline.name), self.steps())
    }

    /// Columns of the output that a model made: those of steps, and what is named in `sql` steps.
    fn output_columns(&self) -> Vec<String> {
        let steps = self.steps().iter().map(|step| step.name().to_owned());
        let schema = self.plan.schema();
        let vectors = schema
            .fields()
            .iter()
            .filter(|field| matches!(field.data_type(), DataType::FixedSizeList(..)));
        steps.chain(vectors.map(|field| field.name().clone())).collect()
    }
}

fn output_files(written: Written) -> Vec<OutputFile> {
    let files = written.files.into_iter();
    files.map(|file| OutputFile { path: file.path, rows: file.rows, bytes: file.bytes }).collect()
}
