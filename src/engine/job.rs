//! A pipeline made ready to run: models resolved, plan made, types known; then run.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::dataframe::DataFrame;
use datafusion::execution::TaskContext;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::{Expr, LogicalPlan, ident};
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use futures::StreamExt;

use super::dead_letter;
use super::node::ModelNode;
use super::report::{OutputFile, RunReport, StepReport, UnitCounts, peak_memory_bytes};
use super::row_errors::{FailedRows, RowErrorsNode};
use super::step::{BatchSettings, ModelStep, RowErrors};
use super::units::{UnitJob, counting, plan_hash, plan_of_unit, unit_jobs, why_whole};
use super::workers::WorkerPool;
use super::write::write_stream;
use crate::config::pipeline::{OnErrorRows, Pipeline, StepKind};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::sink::{
    Committed, RowErrorCounts, Sink, SinkOptions, UnitKey, UnitMode, UnitOutput, Written,
};
use crate::source::{self, Source};
use crate::sql::{self, ModelCatalog};
use crate::tasks::{self, EncodedRow, Models, Task};

/// What files of a job that is one unit are called.
const WHOLE: &str = "00000";

/// Units that are computed at the same time.
const UNITS_IN_FLIGHT: usize = 2;

/// What the command line adds to a pipeline.
#[derive(Clone, Debug, Default)]
pub struct JobOptions {
    /// Read at most this many rows of the source.
    pub limit: Option<usize>,
    /// Replace the output of an earlier run.
    pub overwrite: bool,
    /// Remove the rows of inputs that are no longer there; for incremental pipelines.
    pub prune: bool,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Loading weights.
    Loading,
    /// Rows are on their way.
    Running,
    /// Closing and publishing files.
    Committing,
}

/// A running job's counters, to be read from another thread.
#[derive(Debug)]
pub struct Progress {
    stage: AtomicU8,
    running_since: OnceLock<Instant>,
    rows_written: AtomicU64,
    total_rows: Option<u64>,
    skipped_rows: AtomicU64,
    steps: Vec<Arc<ModelStep>>,
}

impl Progress {
    /// What the job is doing.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Loading,
            1 => Stage::Running,
            _ => Stage::Committing,
        }
    }

    /// How long rows have been on their way.
    pub fn running(&self) -> Duration {
        self.running_since.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn enter(&self, stage: Stage) {
        if stage == Stage::Running {
            self.running_since.get_or_init(Instant::now);
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Rows handed to the sink.
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }

    /// Rows that this run will write, when files and plan tell.
    pub fn total_rows(&self) -> Option<u64> {
        let skipped = self.skipped_rows.load(Ordering::Relaxed);
        self.total_rows.map(|rows| rows.saturating_sub(skipped))
    }

    /// The model steps in order.
    pub fn steps(&self) -> &[Arc<ModelStep>] {
        &self.steps
    }
}

/// A pipeline made ready: every file, column and model was found, every type is known, no weight is
/// loaded.
pub struct Job {
    pipeline: Pipeline,
    options: JobOptions,
    context: SessionContext,
    plan: LogicalPlan,
    source: Source,
    progress: Arc<Progress>,
    /// Why the job is one unit.
    whole: Option<String>,
}

impl Job {
    /// Opens the source, resolves models (downloading config and tokenizer files when they are not
    /// cached) and makes the plan.
    ///
    /// # Errors
    /// `NoInput`, `Data` for the source; `Hub`, `Unsupported`, `Model` for models; `Config` for columns,
    /// types and SQL.
    pub async fn prepare(pipeline: Pipeline, options: JobOptions, hub: Arc<Hub>) -> Result<Self> {
        let context = source::session(None)?;
        let source = source::open(&context, &pipeline.source).await?;
        let settings = BatchSettings::from(pipeline.run);
        let workers = Arc::new(WorkerPool::new(settings.workers));
        let models = Arc::new(Models::new(hub));
        let catalog =
            ModelCatalog::with_models(Arc::clone(&models), pipeline.dir.clone(), settings)
                .with_workers(Arc::clone(&workers));
        for (alias, model) in &pipeline.models {
            catalog.insert(alias, model.clone());
        }
        sql::register(&context, Arc::new(catalog)).map_err(|e| plan_error(e, "the session"))?;

        let mut dataframe = source.dataframe.clone();
        let mut total_rows = source.rows;
        if let Some(limit) = options.limit {
            dataframe = dataframe.limit(0, Some(limit)).map_err(|e| plan_error(e, "--limit"))?;
            total_rows = total_rows.map(|rows| rows.min(limit as u64));
        }
        let mut has_row_errors = false;
        for step in &pipeline.steps {
            let place = format!("step at {}", step.location);
            dataframe = match &step.kind {
                StepKind::Sql(query) => {
                    total_rows = None;
                    source::check_query(query).map_err(|e| e.at(&place))?;
                    sql_step(&context, dataframe, query).await.map_err(|e| {
                        plan_error(e, &place).hint("the rows so far are the table `input`")
                    })?
                }
                StepKind::Task(config) => {
                    let task = tokio::task::block_in_place(|| tasks::resolve(config, &models))
                        .map_err(|e| e.at(&place))?;
                    check_columns(&*task, &dataframe).map_err(|e| e.at(&place))?;
                    let output = task.field().name().clone();
                    let row_errors = match pipeline.on_error.rows {
                        OnErrorRows::Fail => RowErrors::Fail,
                        OnErrorRows::Null | OnErrorRows::Skip => RowErrors::Keep,
                    };
                    let step = ModelStep::new(task, settings, Arc::clone(&workers), place.clone());
                    let step = Arc::new(step.with_row_errors(row_errors));
                    let (state, plan) = dataframe.into_parts();
                    let node = ModelNode::try_new(plan, step).map_err(|e| plan_error(e, &place))?;
                    let mut plan = node.into_plan();
                    if row_errors == RowErrors::Keep {
                        let on_error = &pipeline.on_error;
                        plan = RowErrorsNode::try_new(plan, &output, on_error, !has_row_errors)
                            .map_err(|e| plan_error(e, &on_error.location))?
                            .into_plan();
                        has_row_errors = true;
                    }
                    DataFrame::new(state, plan)
                }
            };
        }
        // Optimized once: the calls of `sql` steps are steps only then, and those without use are none.
        let (state, plan) = dataframe.into_parts();
        let plan = state.optimize(&plan).map_err(|e| plan_error(e, "the steps"))?;
        let progress = Progress {
            stage: AtomicU8::new(Stage::Loading as u8),
            running_since: OnceLock::new(),
            rows_written: AtomicU64::new(0),
            total_rows,
            skipped_rows: AtomicU64::new(0),
            steps: model_steps(&plan),
        };
        let whole = whole(&pipeline, &plan, &source).map_err(|e| plan_error(e, "the steps"))?;
        if let (true, Some(reason)) = (pipeline.run.is_incremental, &whole) {
            let message = "`run.incremental` needs a pipeline that can be computed in units";
            return Err(Error::new(ErrorKind::Config, format!("{message}: {reason}"))
                .at(pipeline.file.display())
                .hint("remove `incremental`: every run then computes all rows"));
        }
        let progress = Arc::new(progress);
        Ok(Self { pipeline, options, context, plan, source, progress, whole })
    }

    /// Why the job is one unit, which is computed and published as a whole; `None` when it is cut into
    /// several, each durable once it is done.
    pub fn why_whole(&self) -> Option<&str> {
        self.whole.as_deref()
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The source's files and columns.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The columns that will be written.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// The model steps in order.
    pub fn steps(&self) -> &[Arc<ModelStep>] {
        &self.progress.steps
    }

    /// Counters that can be read while the job runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Counts tokens of the first `rows` rows of the source, step by step; `None` for a step whose column
    /// is not the source's.
    ///
    /// # Errors
    /// As reading and tokenising in a run.
    pub async fn sample_tokens(&self, rows: usize) -> Result<Vec<Option<TokenSample>>> {
        let mut samples = Vec::new();
        for step in self.steps() {
            let task = step.task();
            let schema = self.source.dataframe.schema();
            if task.inputs().iter().any(|input| !schema.has_column_with_unqualified_name(input)) {
                samples.push(None);
                continue;
            }
            let columns: Vec<Expr> = task.inputs().into_iter().map(ident).collect();
            let source = self.source.dataframe.clone();
            let batches = async { source.select(columns)?.limit(0, Some(rows))?.collect().await };
            let batches = batches.await.map_err(|e| self.explain_error(e))?;
            let mut encoded = Vec::new();
            for batch in batches {
                encoded.extend(task.encode(batch.columns(), encoded.len() as u64)?);
            }
            samples.push(Some(TokenSample::new(&encoded)));
        }
        Ok(samples)
    }

    /// The physical plan as text, one operator a line.
    ///
    /// # Errors
    /// `Config` when DataFusion cannot plan the steps.
    pub async fn explain(&self) -> Result<String> {
        let plan = self.physical_plan().await?;
        Ok(displayable(plan.as_ref()).indent(false).to_string())
    }

    async fn physical_plan(&self) -> Result<Arc<dyn ExecutionPlan>> {
        self.physical(&self.plan).await
    }

    async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let state = self.context.state();
        let planner = Arc::clone(state.query_planner());
        planner.create_physical_plan(plan, &state).await.map_err(|e| self.explain_error(e))
    }

    fn explain_error(&self, error: DataFusionError) -> Error {
        source::stream_error(error, &self.source.files)
    }

    /// Runs the job: rows from source to sink. `cancel` ends it early with an error of the kind that it
    /// gives ([`ErrorKind::Interrupted`], [`ErrorKind::Terminated`]); nothing is then published.
    ///
    /// # Errors
    /// The first error of any stage. Units that are done are kept for the next run; of a job that is one
    /// unit, what was written so far is removed.
    pub async fn run(&self, cancel: impl Future<Output = ErrorKind>) -> Result<RunReport> {
        let started_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        match self.whole {
            Some(_) => self.run_whole(started_at, cancel).await,
            None => self.run_units(started_at, cancel).await,
        }
    }

    async fn run_whole(
        &self,
        started_at: String,
        cancel: impl Future<Output = ErrorKind>,
    ) -> Result<RunReport> {
        let cancel = std::pin::pin!(cancel);
        let start = Instant::now();
        tokio::task::block_in_place(|| self.load_models())?;
        let loaded = start.elapsed();

        self.progress.enter(Stage::Running);
        let failed = Arc::new(FailedRows::default());
        let plan = counting(self.plan.clone(), &failed).map_err(|e| self.explain_error(e))?;
        let plan = self.physical(&plan).await?;
        let sink = Sink::create(&self.pipeline.sink, plan.schema(), self.sink_options())?;
        let stream =
            execute_stream(plan, self.context.task_ctx()).map_err(|e| self.explain_error(e))?;
        let sink = write_stream(stream, sink, &self.source.files, self.on_rows(), cancel).await?;
        self.progress.enter(Stage::Committing);
        let mut errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
        self.check_budget(errors)?;
        let written = tokio::task::block_in_place(|| {
            self.write_letters(WHOLE, &failed)?;
            let written = sink.finish()?;
            self.sweep_letters(BTreeSet::from([WHOLE.to_owned()]))?;
            Ok::<_, Error>(written)
        })?;
        let mut report = self.report(started_at, start.elapsed(), loaded, output_files(written));
        report.row_errors = self.counted(&mut errors);
        Ok(report)
    }

    /// The counts for the report, where errors of rows do not end the run.
    fn counted(&self, errors: &mut RowErrorCounts) -> Option<RowErrorCounts> {
        (self.pipeline.on_error.rows != OnErrorRows::Fail).then_some(*errors)
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
        dead_letter::write(&self.pipeline.on_error.dead_letter, stem, failed.take_letters())
    }

    fn sweep_letters(&self, stems: BTreeSet<String>) -> Result<()> {
        if self.pipeline.on_error.rows != OnErrorRows::Skip {
            return Ok(());
        }
        dead_letter::sweep(&self.pipeline.on_error.dead_letter, &stems)
    }

    fn sink_options(&self) -> SinkOptions {
        SinkOptions {
            lineage: self.lineage(),
            model_columns: self.output_columns(),
            overwrite: self.options.overwrite,
        }
    }

    /// Unit by unit, two at a time, so that the workers have the next one's batches when those of one end.
    async fn run_units(
        &self,
        started_at: String,
        cancel: impl Future<Output = ErrorKind>,
    ) -> Result<RunReport> {
        let start = Instant::now();
        let jobs = unit_jobs(&self.source, plan_hash(&self.pipeline, &self.plan, self.steps()))?;
        let mode = match self.pipeline.run.is_incremental {
            true => UnitMode::Incremental { prune: self.options.prune },
            false => UnitMode::Resume,
        };
        let spec = &self.pipeline.sink;
        let schema = self.physical_plan().await?.schema();
        let keys: Vec<UnitKey> = jobs.iter().map(|job| job.key.clone()).collect();
        let mut output = tokio::task::block_in_place(|| {
            UnitOutput::open(spec, schema, self.sink_options(), mode, &keys)
        })?;
        let mut units = UnitCounts { total: jobs.len(), ..UnitCounts::default() };
        let mut errors = RowErrorCounts::default();
        if let Some(rows) = output.complete() {
            (units.skipped, units.skipped_rows) = (units.total, rows);
            let mut report = self.report(started_at, start.elapsed(), start.elapsed(), Vec::new());
            report.units = Some(units);
            return Ok(report);
        }
        let mut open: Vec<&UnitJob> = Vec::new();
        for job in &jobs {
            match output.done(&job.key.id) {
                Some(done) => {
                    units.skipped += 1;
                    units.skipped_rows += done.rows;
                    errors.add(done.errors);
                }
                None => open.push(job),
            }
        }
        self.progress.skipped_rows.store(units.skipped_rows, Ordering::Relaxed);
        if !open.is_empty() {
            tokio::task::block_in_place(|| self.load_models())?;
        }
        let loaded = start.elapsed();

        self.progress.enter(Stage::Running);
        // One query: results of a unit serve the next ones.
        let context = self.context.task_ctx();
        let mut cancel = std::pin::pin!(cancel);
        let mut failure = None;
        let mut computed = Vec::new();
        {
            let running = futures::stream::iter(open)
                .map(|job| self.run_unit(job, &output, Arc::clone(&context)))
                .buffered(UNITS_IN_FLIGHT);
            let mut running = std::pin::pin!(running);
            loop {
                let result = tokio::select! {
                    result = running.next() => result,
                    kind = cancel.as_mut() => Some(Err(Error::new(kind, "stopped by a signal"))),
                };
                match result {
                    Some(Ok(committed)) => computed.push(committed),
                    Some(Err(error)) => {
                        failure = Some(error);
                        break;
                    }
                    None => break,
                }
            }
        }
        units.computed = computed.len();
        for unit in computed {
            errors.add(unit.errors());
            output.add(unit);
        }
        if let Some(error) = failure {
            let done = units.computed + units.skipped;
            let place = format!("{done} of {} units are done and kept", units.total);
            return Err(error.at(place).hint("run the same command again to go on from there"));
        }
        self.progress.enter(Stage::Committing);
        self.check_budget(errors)?;
        let (written, vanished) = tokio::task::block_in_place(|| output.finish(&keys))?;
        let stems = keys.iter().map(UnitKey::stem).collect();
        tokio::task::block_in_place(|| self.sweep_letters(stems))?;
        (units.vanished, units.pruned) = (vanished.inputs, vanished.removed);
        let mut report = self.report(started_at, start.elapsed(), loaded, output_files(written));
        report.units = Some(units);
        report.row_errors = self.counted(&mut errors);
        Ok(report)
    }

    async fn run_unit(
        &self,
        job: &UnitJob,
        output: &UnitOutput,
        context: Arc<TaskContext>,
    ) -> Result<Committed> {
        let failed = Arc::new(FailedRows::default());
        let computed = async {
            let plan = plan_of_unit(&self.plan, &self.source, &job.unit)
                .and_then(|plan| counting(plan, &failed))
                .map_err(|e| self.explain_error(e))?;
            let plan = self.physical(&plan).await?;
            let sink = output.sink(&job.key)?;
            let stream = execute_stream(plan, context).map_err(|e| self.explain_error(e))?;
            let never = std::pin::pin!(std::future::pending());
            write_stream(stream, sink, &self.source.files, self.on_rows(), never).await
        };
        let sink = computed.await.map_err(|error| error.at(job.place()))?;
        job.check_unchanged()?;
        let errors = RowErrorCounts { rows: failed.seen(), failed: failed.failed() };
        tokio::task::block_in_place(|| {
            self.write_letters(&job.key.stem(), &failed)?;
            output.commit(&job.key, sink, errors)
        })
    }

    fn on_rows(&self) -> impl Fn(u64) + Send + 'static {
        let progress = Arc::clone(&self.progress);
        move |rows| {
            progress.rows_written.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// Loads every model, so that a broken checkpoint is told before the first row.
    ///
    /// # Errors
    /// As [`ModelStep::model`].
    pub fn load_models(&self) -> Result<()> {
        self.steps().iter().try_for_each(|step| step.model().map(drop))
    }

    fn report(
        &self,
        started_at: String,
        wall: Duration,
        loaded: Duration,
        output: Vec<OutputFile>,
    ) -> RunReport {
        let running = wall.saturating_sub(loaded);
        let steps = self.steps().iter().map(|step| {
            StepReport::new(
                step.name().to_owned(),
                step.task().summary().clone(),
                step.loaded().map_or(0, |model| model.weights().parameters),
                step.metrics().counts(),
                running,
            )
        });
        RunReport {
            version: env!("CARGO_PKG_VERSION"),
            pipeline: self.pipeline.name.clone(),
            started_at,
            wall_seconds: wall.as_secs_f64(),
            load_seconds: loaded.as_secs_f64(),
            input_files: self.source.files.len(),
            input_bytes: self.source.files.iter().map(|file| file.bytes).sum(),
            rows_written: self.progress.rows_written(),
            units: None,
            row_errors: None,
            steps: steps.collect(),
            output,
            peak_memory_bytes: peak_memory_bytes(),
        }
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

    /// The pipeline file.
    pub fn file(&self) -> &Path {
        &self.pipeline.file
    }
}

/// Token counts of a sample of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSample {
    /// Rows in the sample.
    pub rows: usize,
    /// Rows among them that are null; the figures below leave them out.
    pub null_rows: usize,
    /// Rows that are cut to the model's maximum.
    pub truncated: usize,
    /// Mean tokens a row.
    pub mean: f64,
    /// Half of the rows have no more tokens.
    pub median: usize,
    /// 95% of the rows have no more tokens.
    pub p95: usize,
    /// Tokens of the longest row.
    pub max: usize,
}

impl TokenSample {
    fn new(rows: &[Option<EncodedRow>]) -> Self {
        let mut tokens: Vec<usize> = rows.iter().flatten().map(EncodedRow::tokens).collect();
        tokens.sort_unstable();
        let at = |share: f64| {
            let index = (tokens.len() as f64 * share).ceil() as usize;
            tokens.get(index.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            rows: rows.len(),
            null_rows: rows.len() - tokens.len(),
            truncated: rows.iter().flatten().filter(|row| row.truncated).count(),
            mean: tokens.iter().sum::<usize>() as f64 / tokens.len().max(1) as f64,
            median: at(0.5),
            p95: at(0.95),
            max: at(1.0),
        }
    }
}

/// The model steps of a plan, in the order in which rows pass them.
pub(crate) fn model_steps(plan: &LogicalPlan) -> Vec<Arc<ModelStep>> {
    let mut steps: Vec<Arc<ModelStep>> = Vec::new();
    // The visit is infallible, and from the top.
    let _ = plan.apply_with_subqueries(|node| {
        if let Some(model) = ModelNode::of(node)
            && !steps.iter().any(|step| Arc::ptr_eq(step, model.step()))
        {
            steps.push(Arc::clone(model.step()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    steps.reverse();
    steps
}

/// Why a pipeline is one unit; `None` when it is cut into several.
fn whole(
    pipeline: &Pipeline,
    plan: &LogicalPlan,
    source: &Source,
) -> std::result::Result<Option<String>, DataFusionError> {
    if Sink::is_file(&pipeline.sink) {
        return Ok(Some("the output is one file".to_owned()));
    }
    if let Some(reason) = why_whole(plan, source)? {
        return Ok(Some(reason));
    }
    let is_small = source.units().len() < 2 && !pipeline.run.is_incremental;
    Ok(is_small.then(|| "the input is one unit".to_owned()))
}

fn output_files(written: Written) -> Vec<OutputFile> {
    let files = written.files.into_iter();
    files.map(|file| OutputFile { path: file.path, rows: file.rows, bytes: file.bytes }).collect()
}

/// Where columns come from, for the footer of output files: the pipeline or query that `origin` names, and
/// its model steps.
pub(crate) fn lineage(origin: (&str, &str), steps: &[Arc<ModelStep>]) -> Vec<(String, String)> {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            serde_json::json!({
                "output": step.name(),
                "inputs": step.task().inputs(),
                "model": step.task().summary(),
            })
        })
        .collect();
    let (key, name) = origin;
    vec![
        ("hfauto.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (key.to_owned(), name.to_owned()),
        ("hfauto.steps".to_owned(), serde_json::Value::from(steps).to_string()),
    ]
}

/// A `sql` step: a query over the rows so far, which it sees as the table `input`.
async fn sql_step(
    context: &SessionContext,
    input: DataFrame,
    query: &str,
) -> datafusion::common::Result<DataFrame> {
    context.deregister_table("input")?;
    context.register_table("input", input.into_view())?;
    let select_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    context.sql_with_options(query, select_only).await
}

/// Checks the columns that a step reads and the one that it adds.
fn check_columns(task: &dyn Task, dataframe: &DataFrame) -> Result<()> {
    let schema = dataframe.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut types = Vec::new();
    for input in task.inputs() {
        let field = schema
            .fields()
            .iter()
            .find(|field| field.name() == input)
            .ok_or_else(|| source::missing_column("the rows have no column", input, &names))?;
        types.push(field.data_type());
    }
    let output = task.field().name();
    if names.contains(&output.as_str()) {
        return Err(Error::new(ErrorKind::Config, format!("column `{output}` exists already"))
            .hint("choose another `output`"));
    }
    task.check_inputs(&types)
}

/// Errors of planning are the pipeline's.
fn plan_error(error: DataFusionError, place: &str) -> Error {
    source::stream_error(error, &[]).at(place)
}
