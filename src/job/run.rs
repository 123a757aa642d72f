//! Runs a job by units or as a whole, from source to sink, with counters and a report. Not here: the preparation
//! (`job`), the definition of units (`units`).

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use tracing::Instrument;

use super::compute::{Outcome, report_deadly};
use super::progress::{Clock, Stage};
use super::units::{UnitJob, counting};
use super::write::write_stream;
use super::{Job, count, counted, lineage};
use crate::config::pipeline::{OnErrorRows, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{FailedRows, Letters, UnitResults};
use crate::own_file;
use crate::report::{OutputFile, RowErrorTotals, RunReport};
use crate::sink::{
    self, Finished, ResultFolder, RowErrorCounts, Sharing, Sink, SinkOptions, UnitKey, UnitMode,
    UnitOutput, UnitStatus, Written,
};
use crate::source;

/// The number of units computed concurrently.
const UNITS_IN_FLIGHT: usize = 2;

impl Job {
    /// Runs the job from source to sink. `cancel` ends it early with an error of the returned kind
    /// ([`ErrorKind::Interrupted`], [`ErrorKind::Terminated`]); nothing is published then.
    ///
    /// # Errors
    /// The first error of any stage. Completed units are kept for the next run; a job that is one unit removes its
    /// partial output.
    pub async fn run(&self, cancel: impl Future<Output = ErrorKind>) -> Result<RunReport> {
        let clock = Clock::start(&self.progress);
        // The highest level, so that log lines of any level show this span.
        let span = tracing::error_span!("run", pipeline = self.pipeline.name.as_str());
        let result = async {
            tracing::info!(files = self.source.files.len(), "run begun");
            let push = Box::pin(self.begin_push()).await?;
            let is_made = push.as_ref().map_or(Ok(false), |(push, _)| self.is_made(push))?;
            let ran = match self.whole {
                _ if is_made => Ok(()),
                Some(_) => self.run_whole(cancel).await,
                None => self.run_units(cancel).await,
            };
            ran.map_err(|error| source::name_cast(error, &self.plan))?;
            match &push {
                Some((push, _held)) => Box::pin(self.finish_push(push)).await,
                None => Ok(()),
            }
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
        let mut plan = counting(self.plan.clone(), &failed).map_err(|e| self.explain_error(e))?;
        let unit = self.whole_unit();
        let results = tokio::task::block_in_place(|| self.unit_results(&unit))?;
        if let Some(results) = &results {
            plan = results.attach(plan).map_err(|e| self.explain_error(e))?;
        }
        let plan = self.physical(&plan).await?;
        let spec = &self.pipeline.sink;
        // What a dead run left in the folder of an output that is pushed is nobody's output.
        let overwrite = self.options.overwrite || sink::is_staged(spec);
        let options = SinkOptions { overwrite, ..self.sink_options() };
        let sink = Sink::create(spec, plan.schema(), options)?;
        self.progress.enter(Stage::Running);
        let stream =
            execute_stream(plan, self.context.task_ctx()).map_err(|e| self.explain_error(e))?;
        let sink = write_stream(stream, sink, &self.source.files, self.on_rows(), cancel).await?;
        self.progress.enter(Stage::Committing);
        let errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
        self.count_errors(errors);
        self.check_budget(errors)?;
        let written = tokio::task::block_in_place(|| {
            self.write_letters(&format!("00000-{unit}"), &failed)?;
            results.as_ref().map_or(Ok(()), UnitResults::keep)?;
            let written = match self.only_unit() {
                Some(unit) => sink.finish_unit(&unit, errors)?,
                None => sink.finish()?,
            };
            let unit = BTreeSet::from([unit]);
            self.publish_letters(&unit)?;
            if results.is_some() && !Sink::is_file(&self.pipeline.sink) {
                ResultFolder::of(&self.pipeline.sink.path)?.retain(&unit)?;
            }
            Ok::<_, Error>(written)
        })?;
        self.progress.set_output(output_files(written));
        Ok(())
    }

    /// The unit that the whole output is, if the job is one unit only because its source is small.
    fn only_unit(&self) -> Option<UnitKey> {
        if !self.is_small || Sink::is_file(&self.pipeline.sink) {
            return None;
        }
        let mut units = self.unit_jobs();
        if units.len() == 1 { units.pop().map(|unit| unit.key) } else { None }
    }

    /// The name for the dead letters of a job that is one unit. It differs for another input.
    fn whole_unit(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.plan_hash().as_bytes());
        for file in &self.source.files {
            hasher.update(format!("{}\n{}\n", file.path.display(), file.stamp).as_bytes());
        }
        hasher.finalize().to_hex()[..8].to_owned()
    }

    /// Records the counts for the report, unless a row error ends the run.
    pub(super) fn count_errors(&self, RowErrorCounts { rows, failed }: RowErrorCounts) {
        if self.pipeline.on_error.rows != OnErrorRows::Fail {
            self.progress.set_row_errors(RowErrorTotals { rows, failed });
        }
    }

    /// Fails if the share of failed rows exceeds `on_error.max_fraction`.
    pub(super) fn check_budget(&self, errors: RowErrorCounts) -> Result<()> {
        let on_error = &self.pipeline.on_error;
        let share = errors.failed as f64 / errors.rows.max(1) as f64;
        if on_error.rows == OnErrorRows::Fail || share <= on_error.max_fraction {
            return Ok(());
        }
        let message = format!(
            "{} of {} failed, a fraction of {share:.4}: `on_error.max_fraction` is {}",
            count(errors.failed),
            counted(errors.rows, "row"),
            on_error.max_fraction
        );
        Err(Error::new(ErrorKind::Data, message).at(&on_error.location).hint(
            "check the errors, or set a larger `on_error.max_fraction`; nothing was published",
        ))
    }

    pub(super) fn write_letters(&self, stem: &str, failed: &FailedRows) -> Result<()> {
        let (folder, pipeline) = (self.letters_folder()?, &self.pipeline.name);
        failed.take_letters().iter().try_for_each(|Letters { step, batches }| {
            sink::write_letters(folder, pipeline, stem, step, batches)
        })
    }

    /// Publishes the dead letters of `units`, or none without `rows: skip`.
    pub(super) fn publish_letters(&self, units: &BTreeSet<String>) -> Result<()> {
        let folder = self.letters_folder()?;
        let own = self.options.overwrite && folder.starts_with(self.pipeline.sink.shown());
        let none = BTreeSet::new();
        let skips = self.pipeline.on_error.rows == OnErrorRows::Skip;
        let units = if skips { units } else { &none };
        sink::publish_letters(folder, &self.pipeline.name, units, own)
    }

    /// The folder of dead letters. Folders below the output must not be symbolic links.
    fn letters_folder(&self) -> Result<&Path> {
        let folder = &self.pipeline.on_error.dead_letter;
        let output = self.pipeline.sink.shown();
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

    pub(super) fn sink_options(&self) -> SinkOptions {
        SinkOptions {
            lineage: self.lineage(),
            model_columns: self.output_columns(),
            overwrite: self.options.overwrite,
        }
    }

    /// The planned action for each unit; empty for a job that is one unit.
    ///
    /// # Errors
    /// `NoInput` if a file no longer exists, `Sink` if the output cannot be read.
    pub fn units(&self) -> Result<Vec<(UnitKey, UnitStatus)>> {
        if self.whole.is_some() {
            return Ok(Vec::new());
        }
        let jobs = self.unit_jobs();
        let keys: Vec<UnitKey> = jobs.into_iter().map(|job| job.key).collect();
        let status = UnitOutput::status(&self.unit_sink().0, &keys)?;
        Ok(keys.into_iter().zip(status).collect())
    }

    /// The reason why a run would end at once because of an existing output, unless it replaces it.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn refusal(&self) -> Result<Option<Error>> {
        if let Some(error) = self.refused_push() {
            return Ok(Some(error));
        }
        if self.options.overwrite || self.pipeline.run.is_incremental {
            return Ok(None);
        }
        let units = if self.whole.is_some() { Vec::new() } else { self.unit_jobs() };
        let keys: Vec<UnitKey> = units.into_iter().map(|unit| unit.key).collect();
        UnitOutput::refusal(&self.pipeline.sink, &keys)
    }

    async fn run_units(&self, cancel: impl Future<Output = ErrorKind>) -> Result<()> {
        let jobs = self.unit_jobs();
        let keys: Vec<UnitKey> = jobs.iter().map(|job| job.key.clone()).collect();
        if self.options.join {
            return self.run_joined(&jobs, &keys, cancel).await;
        }
        let shard = self.options.shard;
        let is_own = |job: &&UnitJob| shard.is_none_or(|shard| shard.has(job.key.sequence));
        let own: Vec<&UnitJob> = jobs.iter().filter(is_own).collect();
        let total = own.len();
        let sharing = shard.map_or(Sharing::Alone, Sharing::Shard);
        let file = self.start_file().await?;
        let mut output = self.open_output(&keys, sharing).await?;
        self.progress.with_units(|units| {
            (units.total, units.shard) = (total, shard.map(|shard| shard.to_string()));
        });
        if let Some(rows) = output.complete() {
            return self.skip_published(rows, total, &keys);
        }
        let (open, mut errors) = self.open_units(own, &output);
        if !open.is_empty() {
            tokio::task::block_in_place(|| self.load_models())?;
        }
        self.progress.enter(Stage::Running);
        let (mut computed, mut deadly) = (Vec::new(), Vec::new());
        let ran = self.compute_units(open, &output, cancel, |unit, outcome| match outcome {
            Outcome::Done(committed) => {
                errors.add(committed.errors());
                self.count_errors(errors);
                computed.push(committed);
            }
            Outcome::Deadly => deadly.push(unit),
        });
        let ran = ran.await;
        computed.into_iter().for_each(|unit| output.add(unit));
        let ran = ran.and_then(|()| report_deadly(&deadly, &output));
        ran.map_err(|error| self.with_remedy(error, &output))?;
        self.progress.enter(Stage::Committing);
        let files = tokio::task::block_in_place(|| match file {
            Some(file) => self.publish_file(output, file, &keys),
            None => self.publish_units(output, &keys),
        })?;
        self.progress.set_output(files);
        Ok(())
    }

    /// The output, if it is a single file, which stays empty until its units are done.
    async fn start_file(&self) -> Result<Option<Sink>> {
        if !Sink::is_file(&self.pipeline.sink) {
            return Ok(None);
        }
        let schema = self.physical_plan().await?.schema();
        tokio::task::block_in_place(|| {
            Sink::create(&self.pipeline.sink, schema, self.sink_options()).map(Some)
        })
    }

    /// Writes the rows of all units to the single file of the output.
    fn publish_file(
        &self,
        output: UnitOutput,
        mut file: Sink,
        units: &[UnitKey],
    ) -> Result<Vec<OutputFile>> {
        let mut errors = RowErrorCounts::default();
        units
            .iter()
            .filter_map(|unit| output.done(&unit.id))
            .for_each(|done| errors.add(done.errors));
        self.count_errors(errors);
        self.check_budget(errors)?;
        output.each_batch(units, &mut |batch| file.write(batch))?;
        let written = file.finish()?;
        output.remove()?;
        self.publish_letters(&units.iter().map(|unit| unit.short().to_owned()).collect())?;
        Ok(output_files(written))
    }

    /// Where units are made durable: the output, or the folder that stages the units of a single file.
    fn unit_sink(&self) -> (SinkSpec, SinkOptions) {
        let options = self.sink_options();
        match sink::staging_of(&self.pipeline.sink) {
            // Units that an earlier run staged are those of this job, by their ids.
            Some(staging) => (staging, SinkOptions { overwrite: false, ..options }),
            None => (self.pipeline.sink.clone(), options),
        }
    }

    /// Locks the output and loads what earlier runs have completed.
    pub(super) async fn open_output(
        &self,
        units: &[UnitKey],
        sharing: Sharing,
    ) -> Result<UnitOutput> {
        let mode = if self.pipeline.run.is_incremental {
            UnitMode::Incremental { prune: self.options.prune }
        } else {
            UnitMode::Resume
        };
        let (spec, options) = self.unit_sink();
        let schema = self.physical_plan().await?.schema();
        tokio::task::block_in_place(|| {
            UnitOutput::open(&spec, schema, options, mode, sharing, units)
        })
    }

    /// Counts the units of an output that this job has already published.
    pub(super) fn skip_published(&self, rows: u64, total: usize, units: &[UnitKey]) -> Result<()> {
        self.skip_units(total, rows);
        tracing::info!(units = total, rows, "nothing to do: the output is published");
        // The previous run may have been killed between its last two steps.
        let units = units.iter().map(|unit| unit.short().to_owned()).collect();
        tokio::task::block_in_place(|| self.publish_letters(&units))
    }

    /// The units that no run has computed, and the total of failed rows in the others.
    pub(super) fn open_units<'j>(
        &self,
        mut units: Vec<&'j UnitJob>,
        output: &UnitOutput,
    ) -> (Vec<&'j UnitJob>, RowErrorCounts) {
        let (total, mut skipped_rows) = (units.len(), 0);
        let mut errors = RowErrorCounts::default();
        units.retain(|job| {
            let done = output.done(&job.key.id);
            if let Some(done) = done {
                skipped_rows += done.rows;
                errors.add(done.errors);
            }
            done.is_none()
        });
        let skipped = total - units.len();
        self.skip_units(skipped, skipped_rows);
        self.count_errors(errors);
        tracing::info!(units = total, skipped, "units found");
        (units, errors)
    }

    pub(super) fn skip_units(&self, number: usize, rows: u64) {
        self.progress.with_units(|units| (units.skipped, units.skipped_rows) = (number, rows));
        self.progress.skips(rows);
    }

    /// Computes two units at a time, so that workers find batches of the next unit when one ends. Calls `done` for
    /// each unit, in order.
    ///
    /// # Errors
    /// The first error of a unit, or the kind from `cancel`. Units passed to `done` are durable, or are not tried again.
    async fn compute_units<'j>(
        &self,
        units: Vec<&'j UnitJob>,
        output: &UnitOutput,
        cancel: impl Future<Output = ErrorKind>,
        mut done: impl FnMut(&'j UnitJob, Outcome),
    ) -> Result<()> {
        // One task context: later units reuse cached results of earlier ones.
        let context = self.context.task_ctx();
        let mut cancel = std::pin::pin!(cancel);
        let running = futures::stream::iter(units)
            .map(|unit| {
                let run = self.run_unit(unit, output, Arc::clone(&context));
                async move { Ok::<_, Error>((unit, run.await?)) }
            })
            .buffered(UNITS_IN_FLIGHT);
        let mut running = std::pin::pin!(running);
        loop {
            let unit = tokio::select! {
                unit = running.next() => unit,
                kind = cancel.as_mut() => return Err(Error::new(kind, "stopped by a signal")),
            };
            match unit {
                Some(ran) => {
                    let (unit, outcome) = ran?;
                    done(unit, outcome);
                }
                None => return Ok(()),
            }
        }
    }

    /// Adds to an error how many units are done and which command continues.
    pub(super) fn with_remedy(&self, error: Error, output: &UnitOutput) -> Error {
        let (done, total) =
            self.progress.with_units(|units| (units.computed + units.skipped, units.total));
        let overwrites = self.options.overwrite && !Sink::is_file(&self.pipeline.sink);
        let command = match (overwrites, output.can_go_on()) {
            (false, _) => "the same command",
            (true, true) => "the same command without `--fresh`",
            // The previous output still exists, and only `--fresh` may replace it.
            (true, false) => return error.hint("the same command starts again"),
        };
        let hint = match error.kind() {
            ErrorKind::Interrupted | ErrorKind::Terminated => {
                format!("{command} continues from there")
            }
            _ => format!("once the cause is fixed, {command} continues from there"),
        };
        let total = counted(total as u64, "unit");
        error.at(format!("{done} of {total} done and kept")).hint(hint)
    }

    /// Publishes the output, whose units are all done.
    ///
    /// # Errors
    /// `Resources` if units are missing after all, because their files are gone.
    pub(super) fn publish_all(&self, output: UnitOutput, units: &[UnitKey]) -> Result<()> {
        let files = self.publish_units(output, units)?;
        let missing = self.progress.with_units(|units| std::mem::take(&mut units.left_to_shards));
        if missing > 0 {
            let message = format!("{} of the job are missing", counted(missing as u64, "unit"));
            return Err(Error::new(ErrorKind::Resources, message)
                .hint("run the same command again: it computes only these"));
        }
        self.progress.set_output(files);
        Ok(())
    }

    /// Publishes the output and returns its files; none while other shards have units to compute.
    fn publish_units(&self, output: UnitOutput, units: &[UnitKey]) -> Result<Vec<OutputFile>> {
        let check = |errors| {
            self.count_errors(errors);
            self.check_budget(errors)
        };
        match output.finish(units, &check)? {
            Finished::Published { written, vanished, units: kept } => {
                self.publish_letters(&kept)?;
                self.progress.with_units(|units| {
                    (units.vanished, units.pruned) = (vanished.inputs, vanished.removed);
                });
                Ok(output_files(written))
            }
            // The processes that published it also publish its dead letters.
            Finished::Complete => Ok(Vec::new()),
            Finished::Left { missing } => {
                self.progress.with_units(|units| units.left_to_shards = missing);
                Ok(Vec::new())
            }
        }
    }

    pub(super) fn on_rows(&self) -> impl Fn(u64, Duration) + Send + 'static {
        let progress = Arc::clone(&self.progress);
        move |rows, elapsed| progress.wrote(rows, elapsed)
    }

    /// Loads every model, so that a broken checkpoint fails before the first row.
    ///
    /// # Errors
    /// As [`ModelStep::models`].
    pub fn load_models(&self) -> Result<()> {
        self.steps().iter().try_for_each(|step| step.models().map(drop))
    }

    /// The lineage for the footer of output files.
    fn lineage(&self) -> Vec<(String, String)> {
        let mut lineage = lineage(("hfauto.pipeline", &self.pipeline.name), self.steps());
        if sink::is_staged(&self.pipeline.sink) {
            lineage.push((sink::JOB.to_owned(), self.identity()));
        }
        lineage
    }

    /// The output columns computed by a model: those of model steps, and the ones named in `sql` steps.
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
