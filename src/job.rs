//! Prepares a pipeline and runs it. Preparation resolves the models, plans the steps and determines the types; the
//! run then computes unit by unit. Not here: the operator of model steps (`crate::exec`), the file formats
//! (`crate::source`, `crate::sink`). The entry is [`Job`].
//!
//! # Units
//! If every output row comes from one input row (`units`), the source is cut into units (`crate::source`). The plan of
//! a unit is the plan of the job over another table; steps, weights and shared results belong to the job. Two units
//! are in flight, to keep the workers busy between them. A unit's id is a hash of the plan, the models (commit, or
//! files of a local directory), the options, the path, size and time of its file, and its rows.

mod cancel;
mod card;
mod compute;
mod coordinator;
mod join;
mod memory;
mod progress;
mod push;
mod query;
mod report;
mod reuse;
mod run;
mod samples;
mod spec;
mod table;
mod units;
mod work;
mod worker;
mod write;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::{Expr, LogicalPlan, ident};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use tokio::sync::RwLock;
use tracing::Instrument;

use crate::config::pipeline::{FileFormat, OnErrorRows, Pipeline, Step, StepKind};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{
    BatchSettings, EarlierResults, ExplodeNode, ModelNode, ModelStep, RowErrors, RowErrorsNode,
    StepMetrics, WorkerPool, encode, invalid_text,
};
use crate::guard::guarded_query;
use crate::hub::Hub;
use crate::secret;
use crate::sink::{self, Shard, Sink};
use crate::source::{self, InvalidUtf8, MarkedRows, Source, UnitSize};
use crate::sql::{self, ModelCatalog};
use crate::tasks::{self, EncodedRow, Models, Task};
pub use cancel::Cancel;
pub use coordinator::Coordinator;
pub use memory::PeakMemory;
use progress::Input;
pub use progress::{Progress, Stage};
pub use query::Query;
pub use spec::{JobSpec, UnitSpec, build};
use units::{UnitJob, unit_jobs, why_whole};
pub use worker::{UnitRecord, Worker, WorkerOptions};
pub(crate) use write::write_stream;

pub use crate::report::{OutputFile, RunReport, StepReport, UnitCounts};
pub(crate) use crate::report::{bytes, count, counted, duration, rate};

/// The options of one run of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct JobOptions {
    /// Read at most this many rows of the source. The job is then one unit.
    pub limit: Option<usize>,
    /// Replace the output of an earlier run; not valid beside other processes.
    pub overwrite: bool,
    /// Remove the rows of inputs that no longer exist, in an incremental pipeline.
    pub prune: bool,
    /// Compute only this share of the units; other processes compute the others.
    pub shard: Option<Shard>,
    /// Claim units one by one; any number of other processes may do the same.
    pub join: bool,
    /// Have the units computed by other processes, through a [`Coordinator`].
    pub cluster: bool,
}

impl JobOptions {
    /// Rejects options that conflict with each other or with the pipeline.
    ///
    /// # Errors
    /// `Usage` with an alternative.
    pub fn check(&self, pipeline: &Pipeline) -> Result<()> {
        let is_incremental = pipeline.run.is_incremental;
        let (message, hint) = if self.prune && !is_incremental {
            (
                "`--prune` requires `run.incremental`",
                "`--fresh` computes the output again, without files that no longer exist",
            )
        } else if self.limit.is_some() && is_incremental {
            (
                "`--limit` conflicts with `run.incremental`: it would split units",
                "add `--set run.incremental=null --set sink.path=…` to try a few rows",
            )
        } else if self.shard.is_some() && self.overwrite {
            (
                "`--shard` conflicts with `--fresh`: each shard would remove the units of the others",
                "remove the output first, or choose another `sink.path`",
            )
        } else if self.join && self.overwrite {
            (
                "`--join` conflicts with `--fresh`: each process would remove the units of the others",
                "remove the output first, or choose another `sink.path`",
            )
        } else {
            return self.check_pushed(pipeline);
        };
        Err(Error::new(ErrorKind::Usage, message).hint(hint))
    }
}

/// A prepared pipeline: all files, columns, models and types are known; no weights are loaded.
pub struct Job {
    pipeline: Pipeline,
    options: JobOptions,
    context: SessionContext,
    plan: LogicalPlan,
    /// The plan before optimization, which replaces `now()` by the current time.
    written: String,
    source: Source,
    unit_size: UnitSize,
    progress: Arc<Progress>,
    /// The reason why the job is one unit.
    whole: Option<String>,
    /// Whether that is the small source only.
    is_small: bool,
    /// The results that steps reuse, once a unit needs them.
    earlier: Mutex<Option<Arc<EarlierResults>>>,
    /// Held while a unit is computed: exclusively by one that may have killed its process.
    running: RwLock<()>,
}

impl Job {
    /// Opens the source, resolves the models and plans the steps. Downloads config and tokenizer files that are not
    /// cached.
    ///
    /// # Errors
    /// `NoInput`, `Data` for the source; `Hub`, `Unsupported`, `Model` for models; `Config` for columns,
    /// types and SQL.
    pub async fn prepare(pipeline: Pipeline, options: JobOptions, hub: Arc<Hub>) -> Result<Self> {
        let span = tracing::error_span!("prepare", pipeline = pipeline.name.as_str());
        Box::pin(Self::prepare_job(pipeline, options, hub)).instrument(span).await
    }

    async fn prepare_job(pipeline: Pipeline, options: JobOptions, hub: Arc<Hub>) -> Result<Self> {
        let context = source::session(None)?;
        let keeps_errors = pipeline.on_error.rows != OnErrorRows::Fail;
        let invalid = if keeps_errors { InvalidUtf8::Mark } else { InvalidUtf8::Fail };
        check_outputs(&pipeline)?;
        let source = source::open_with(&context, &pipeline.source, invalid).await?;
        for output in outputs(&pipeline) {
            source::check_plan(source.dataframe.logical_plan(), output)?;
        }
        let models = Arc::new(Models::new(hub));
        let workers = Arc::new(WorkerPool::new(BatchSettings::from(pipeline.run).workers));
        let mut job = Self::plan(context, pipeline, options, (models, workers), source).await?;
        job.unit_size = tokio::task::block_in_place(|| work::unit_size(&job.pipeline, job.steps()));
        let mut whole = job.find_whole().map_err(|e| plan_error(e, "the steps"))?;
        if whole.is_none() && job.is_one_unit() {
            job.is_small = true;
            whole = Some("the input is one unit".to_owned());
        }
        let Self { pipeline, options, .. } = &job;
        check_units(pipeline, options, whole.as_deref())?;
        job.whole = whole;
        tokio::task::block_in_place(|| job.check_reuse())?;
        Ok(job)
    }

    /// Plans a job whose source another process has listed and inspected. It has no units of its own.
    async fn prepare_shipped(pipeline: Pipeline, spec: &JobSpec, hub: Arc<Hub>) -> Result<Self> {
        let context = source::session(None)?;
        let source = source::open_shipped(&context, &pipeline.source, spec.source()).await?;
        let models = Arc::new(Models::pinned(hub, spec.models().to_vec()));
        let workers = WorkerPool::shared(BatchSettings::from(pipeline.run).workers);
        Self::plan(context, pipeline, JobOptions::default(), (models, workers), source).await
    }

    /// Plans the steps over a source.
    async fn plan(
        context: SessionContext,
        pipeline: Pipeline,
        options: JobOptions,
        (models, workers): (Arc<Models>, Arc<WorkerPool>),
        source: Source,
    ) -> Result<Self> {
        let keeps_errors = pipeline.on_error.rows != OnErrorRows::Fail;
        let settings = BatchSettings::from(pipeline.run);
        let catalog =
            ModelCatalog::with_models(Arc::clone(&models), pipeline.dir.clone(), settings)
                .with_images(pipeline.images.clone())
                .with_workers(Arc::clone(&workers));
        for (alias, model) in &pipeline.models {
            catalog.insert(alias, model.clone());
        }
        sql::register(&context, Arc::new(catalog)).map_err(|e| plan_error(e, "the session"))?;

        let steps = Steps { pipeline: &pipeline, context: &context, models, settings, workers };
        let source_metrics = Arc::new(StepMetrics::default());
        let build = async |read: Option<&BTreeSet<String>>| {
            let (on_error, limit) = (&pipeline.on_error, options.limit);
            let (rows, has_row_errors) = if keeps_errors {
                invalid_text::checked(&source, on_error, read, limit, &source_metrics)
                    .map_err(|e| plan_error(e, &on_error.location))?
            } else {
                let rows = invalid_text::limited(&source.dataframe, limit);
                (rows.map_err(|e| plan_error(e, "--limit"))?, false)
            };
            steps.over(rows, has_row_errors).await
        };
        let mut dataframe = build(None).await?;
        // Unit ids hash this plan, so that invalid text in another file does not change them.
        let written = dataframe.logical_plan().display_indent_schema().to_string();
        let read = invalid_text::read_columns(dataframe.logical_plan(), &source)
            .map_err(|e| plan_error(e, "the steps"))?;
        let fails = |marked: &MarkedRows| marked.columns.iter().any(|column| column.always_fails);
        if !read.is_empty() || source.marked.as_ref().is_some_and(fails) {
            dataframe = build(Some(&read)).await?;
        }
        let changes_rows = |step: &Step| match &step.kind {
            StepKind::Sql(_) => true,
            StepKind::Task(step) => step.options.items().is_some(),
        };
        let mut total_rows = source.rows.filter(|_| !pipeline.steps.iter().any(changes_rows));
        if let Some(limit) = options.limit {
            total_rows = total_rows.map(|rows| rows.min(limit as u64));
        }
        // Optimized only once. Optimization turns the calls of `sql` steps into model steps, and drops unused ones.
        let (state, plan) = dataframe.into_parts();
        let plan = guarded_query(ErrorKind::Config, async {
            let optimized = state.optimize(&plan).map_err(|e| plan_error(e, "the steps"));
            optimized.map_err(|e| source::name_cast(e, &plan))
        })
        .await?;
        check_types(&pipeline, &plan)?;
        let input = Input {
            files: source.files.len(),
            bytes: source.files.iter().map(|file| file.bytes).sum(),
            rows: total_rows,
            notes: source.notes.clone(),
        };
        let progress =
            Arc::new(Progress::new(&pipeline.name, input, model_steps(&plan), source_metrics));
        Ok(Self {
            pipeline,
            options,
            context,
            plan,
            written,
            source,
            unit_size: UnitSize::default(),
            progress,
            whole: None,
            is_small: false,
            earlier: Mutex::default(),
            running: RwLock::new(()),
        })
    }

    /// The units with their keys, in order.
    fn unit_jobs(&self) -> Vec<UnitJob> {
        unit_jobs(&self.source, &self.unit_size, self.plan_hash())
    }

    /// A hash of everything that all units depend on.
    fn plan_hash(&self) -> blake3::Hash {
        units::plan_hash(&self.pipeline, &self.written, self.steps())
    }

    /// The reason why the job is one unit, computed and published as a whole; `None` if it has several, each durable
    /// on its own.
    pub fn why_whole(&self) -> Option<&str> {
        self.whole.as_deref()
    }

    /// The reason why the job must be one unit, if its source has several.
    fn find_whole(&self) -> std::result::Result<Option<String>, DataFusionError> {
        // Its units are staged by one process, and gone once it is complete.
        if self.needs_units() && Sink::is_file(&self.pipeline.sink) {
            return Ok(Some("the output is one file".to_owned()));
        }
        why_whole(&self.plan, &self.source)
    }

    /// Whether the job is for several processes or runs.
    fn needs_units(&self) -> bool {
        let options = &self.options;
        let shares = options.shard.is_some() || options.join || options.cluster;
        self.pipeline.run.is_incremental || shares
    }

    /// Whether the source has no more than one unit, and nothing needs more.
    fn is_one_unit(&self) -> bool {
        !self.needs_units() && self.source.units(&self.unit_size).len() < 2
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The source's files and columns.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The columns of the output.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// The model steps in plan order.
    pub fn steps(&self) -> &[Arc<ModelStep>] {
        self.progress.steps()
    }

    /// Counters for other threads to read while the job runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Counts the tokens of the first `rows` rows of the source for each step; `None` for a step whose column is not
    /// in the source.
    ///
    /// # Errors
    /// As reading and tokenizing in a run.
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
                let first_row = encoded.len() as u64;
                let rows = encode(&**task, batch.columns(), first_row, step.row_errors())?;
                // Rows that may fail, and do, have no tokens to count.
                encoded.extend(rows.into_iter().map(|row| row.ok().flatten()));
            }
            samples.push(Some(TokenSample::new(&encoded)));
        }
        Ok(samples)
    }

    /// The physical plan as text, one operator per line.
    ///
    /// # Errors
    /// `Config` if DataFusion cannot plan the steps.
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
        guarded_query(ErrorKind::Config, async {
            planner.create_physical_plan(plan, &state).await.map_err(|e| self.explain_error(e))
        })
        .await
    }

    fn explain_error(&self, error: DataFusionError) -> Error {
        source::name_cast(source::query_error(error, &self.source.files), &self.plan)
    }

    /// The pipeline file.
    pub fn file(&self) -> &Path {
        &self.pipeline.file
    }
}

/// The context in which the steps of a pipeline are planned.
struct Steps<'p> {
    pipeline: &'p Pipeline,
    context: &'p SessionContext,
    models: Arc<Models>,
    settings: BatchSettings,
    workers: Arc<WorkerPool>,
}

impl Steps<'_> {
    /// Adds the steps to `dataframe`, whose rows may already have errors.
    async fn over(&self, mut dataframe: DataFrame, mut has_row_errors: bool) -> Result<DataFrame> {
        for step in &self.pipeline.steps {
            let place = format!("step at {}", step.location);
            dataframe = match &step.kind {
                StepKind::Sql(query) => {
                    source::check_query(query).map_err(|e| e.at(&place))?;
                    guarded_query(ErrorKind::Config, async {
                        sql_step(self.context, dataframe, query).await.map_err(|e| {
                            plan_error(e, &place).hint("the rows so far are the table `input`")
                        })
                    })
                    .await?
                }
                StepKind::Task(config) => {
                    let task = tokio::task::block_in_place(|| tasks::resolve(config, &self.models))
                        .map_err(|e| e.at(&place))?;
                    let output = task.field().name().clone();
                    check_columns(&*task, &dataframe, &config.columns())
                        .map_err(|e| e.at(&place))?;
                    let inputs: Vec<String> =
                        task.inputs().into_iter().map(str::to_owned).collect();
                    let on_error = &self.pipeline.on_error;
                    let row_errors = match on_error.rows {
                        OnErrorRows::Fail => RowErrors::Fail,
                        OnErrorRows::Null | OnErrorRows::Skip => RowErrors::KeepKind,
                    };
                    let workers = Arc::clone(&self.workers);
                    let step = ModelStep::new(task, self.settings, workers, place.clone());
                    let step = Arc::new(step.with_row_errors(row_errors));
                    let (state, plan) = dataframe.into_parts();
                    let node = ModelNode::try_new(plan, step).map_err(|e| plan_error(e, &place))?;
                    let mut plan = node.into_plan();
                    if row_errors == RowErrors::KeepKind {
                        plan = RowErrorsNode::try_new(plan, &output, on_error, !has_row_errors)
                            .map_err(|e| plan_error(e, &on_error.location))?
                            .into_plan();
                        has_row_errors = true;
                    }
                    if config.options.items().is_some() {
                        plan = ExplodeNode::try_new(plan, &output, inputs, config.columns())
                            .map_err(|e| plan_error(e, &place))?
                            .into_plan();
                    }
                    DataFrame::new(state, plan)
                }
            };
        }
        Ok(dataframe)
    }
}

/// Rejects a pipeline whose source reads its own output, comparing paths only.
///
/// # Errors
/// `Config` with both paths.
pub(crate) fn check_outputs(pipeline: &Pipeline) -> Result<()> {
    outputs(pipeline).try_for_each(|output| source::check_output(&pipeline.source, output))
}

/// The paths that a pipeline writes and a source might read.
fn outputs(pipeline: &Pipeline) -> impl Iterator<Item = source::Output<'_>> {
    let sink = &pipeline.sink;
    let dead_letter = source::Output {
        what: "on_error.dead_letter",
        path: &pipeline.on_error.dead_letter,
        is_file: false,
        format: FileFormat::Parquet,
        partitions: 0,
    };
    let sink = source::Output {
        what: "sink.path",
        path: &sink.path,
        is_file: Sink::is_file(sink),
        format: sink.format,
        partitions: sink.partition_by.len(),
    };
    let keeps_rows = pipeline.on_error.rows == OnErrorRows::Skip;
    [sink].into_iter().chain(keeps_rows.then_some(dead_letter))
}

/// Token counts of a sample of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSample {
    /// Rows in the sample.
    pub rows: usize,
    /// Null rows in the sample, excluded from the figures below.
    pub null_rows: usize,
    /// Rows that are truncated to the model's maximum.
    pub truncated: usize,
    /// The mean number of tokens per row.
    pub mean: f64,
    /// The median number of tokens per row.
    pub median: usize,
    /// The 95th percentile of tokens per row.
    pub p95: usize,
    /// The number of tokens of the longest row.
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

/// Fails if the sink or the dead letters cannot store a column's type.
fn check_types(pipeline: &Pipeline, plan: &LogicalPlan) -> Result<()> {
    Sink::check_columns(&pipeline.sink, Arc::clone(plan.schema().inner()))?;
    let mut checked = Ok(());
    // The visit is infallible.
    let _ = plan.apply_with_subqueries(|node| {
        if let Some(schema) = RowErrorsNode::of(node).and_then(RowErrorsNode::letters)
            && checked.is_ok()
            && !schema.fields().is_empty()
        {
            let on_error = &pipeline.on_error;
            checked = sink::check_letters(&on_error.dead_letter, schema)
                .map_err(|error| error.at(&on_error.location));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    checked
}

/// The model steps of a plan, in data flow order.
pub(crate) fn model_steps(plan: &LogicalPlan) -> Vec<Arc<ModelStep>> {
    let mut steps: Vec<Arc<ModelStep>> = Vec::new();
    // The visit is infallible, and starts at the top.
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

/// Rejects `run.incremental` and `--shard` for a job that is one unit for the reason `whole`.
fn check_units(pipeline: &Pipeline, options: &JobOptions, whole: Option<&str>) -> Result<()> {
    let Some(reason) = whole else { return Ok(()) };
    let (what, hint) = if pipeline.run.is_incremental {
        ("`run.incremental`", "remove `incremental`: every run then computes all rows")
    } else if options.shard.is_some() {
        ("`--shard`", "run it without `--shard`")
    } else if options.join {
        ("`--join`", "run it without `--join`")
    } else if options.cluster {
        ("`--cluster`", "run it without `--cluster`")
    } else {
        return Ok(());
    };
    let message = format!("{what} needs a pipeline that can be computed in units: {reason}");
    Err(Error::new(ErrorKind::Config, message).at(pipeline.file.display()).hint(hint))
}

/// The lineage for the footer of output files: the pipeline or query that `origin` names, and its model steps.
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
    let mut steps = serde_json::Value::from(steps);
    secret::hide_json(&mut steps);
    vec![
        ("hfauto.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (key.to_owned(), secret::hide(name).into_owned()),
        ("hfauto.steps".to_owned(), steps.to_string()),
    ]
}

/// A `sql` step: a query over the current rows as the table `input`.
async fn sql_step(
    context: &SessionContext,
    input: DataFrame,
    query: &str,
) -> datafusion::common::Result<DataFrame> {
    context.deregister_table("input")?;
    context.register_table("input", input.into_view())?;
    let select_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    sql::query(context, query, select_only).await
}

/// Checks the types of the columns that a step reads, and the names of those that it adds.
fn check_columns(task: &dyn Task, dataframe: &DataFrame, outputs: &[String]) -> Result<()> {
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
    if let Some(output) = outputs.iter().find(|output| names.contains(&output.as_str())) {
        return Err(Error::new(ErrorKind::Config, format!("column `{output}` already exists"))
            .hint("choose another `output`"));
    }
    task.check_inputs(&types)
}

/// A planning error is the pipeline's fault.
fn plan_error(error: DataFusionError, place: &str) -> Error {
    source::query_error(error, &[]).at(place)
}
