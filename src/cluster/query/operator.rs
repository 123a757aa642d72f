//! The operators of a divided plan: [`ClusterExec`], which submits a stage and fetches its rows, and [`ClientRowsExec`], the
//! rows that the client sends into one. Not here: which part of a plan is a stage (`plan`), and submitting (`client`).

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err, plan_err};
use datafusion::execution::context::SessionContext;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::super::client::Cluster;
use super::client::{Queries, Rows, Submission, external, query_name};
use super::codec::{
    StageCodec, StageHead, StageInput, SubqueryResults, UnitHead, over_input, rows_to_bytes,
    with_children,
};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{ModelExec, ModelStep};
use crate::limits::CLUSTER_MESSAGE_BYTES;
use crate::source::{ShippedScan, UnitScanExec, query_error};
use crate::sql::{ModelCatalog, ShippedCall, for_tasks};

/// The rows and bytes of a unit that the client sends: enough for several batches of a model.
const UNIT_ROWS: usize = 2048;
const UNIT_BYTES: usize = 4 << 20;

/// The units and bytes that the client sends at a time.
const SENT_UNITS: usize = 256;
const SENT_BYTES: usize = 16 << 20;

/// Batches that wait for the plan above.
const READY_BATCHES: usize = 2;

/// A cluster that runs the queries of a session.
pub(crate) struct QueryCluster {
    queries: Arc<Queries>,
    catalog: Arc<ModelCatalog>,
    /// Has the functions that executors have.
    functions: SessionContext,
}

impl fmt::Debug for QueryCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryCluster").finish_non_exhaustive()
    }
}

impl QueryCluster {
    /// A cluster for queries with the models of `catalog`. Contacts nobody.
    ///
    /// # Errors
    /// `Resources` when a session cannot be set up.
    pub(crate) fn new(cluster: Cluster, catalog: Arc<ModelCatalog>) -> Result<Arc<Self>> {
        let (queries, functions) = (Arc::new(Queries::new(cluster)), for_tasks()?);
        Ok(Arc::new(Self { queries, catalog, functions }))
    }

    /// Waits a moment until queries that were dropped are cancelled.
    pub(crate) async fn settle(&self) {
        self.queries.settle().await;
    }

    /// Fails if executors could not run an operator, because its expressions cannot be sent or name a function that they
    /// lack.
    pub(super) fn check(&self, node: &Arc<dyn ExecutionPlan>) -> DataFusionResult<()> {
        let [child] = node.children()[..] else {
            return internal_err!("`{}` has other inputs than one", node.name());
        };
        let input = StageInput::of(child.schema());
        let checked: Arc<dyn ExecutionPlan> = match node.downcast_ref::<ModelExec>() {
            // Only its inputs: the model itself is resolved by executors.
            Some(model) => {
                let named = model.inputs().iter().enumerate();
                let exprs = named.map(|(index, expr)| (Arc::clone(expr), index.to_string()));
                Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), input)?)
            }
            None => with_children(node, vec![input])?,
        };
        let codec = StageCodec { steps: Vec::new() };
        let encoded = codec.encode(checked, SubqueryResults::Pending)?;
        codec.decode(&encoded, &self.functions.task_ctx()).map(drop)
    }
}

/// A part of a plan that runs on executors.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// A chain of operators over a [`UnitScanExec`] or [`ClientRowsExec`].
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// Whether the plan above sees one partition. The rows of the tasks come in the order of the units, so that row by row
    /// operators give the same rows in every task.
    pub(super) is_single: bool,
    /// Whether one task computes all rows, because a model sees all of them.
    pub(super) is_whole: bool,
}

impl Stage {
    pub(super) fn new(plan: Arc<dyn ExecutionPlan>, is_single: bool) -> Self {
        Self { plan, is_single, is_whole: false }
    }

    pub(super) fn below(self, node: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Self> {
        let plan = with_children(node, vec![self.plan])?;
        Ok(Self { plan, ..self })
    }
}

/// Rows of the client, as the input of a stage.
#[derive(Debug)]
pub(super) struct ClientRowsExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl ClientRowsExec {
    pub(super) fn of(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let input = match input.output_partitioning().partition_count() {
            1 => input,
            _ => Arc::new(CoalescePartitionsExec::new(input)) as Arc<dyn ExecutionPlan>,
        };
        let properties = properties(input.schema());
        Arc::new(Self { input, properties })
    }
}

/// Those of one partition of rows.
fn properties(schema: SchemaRef) -> Arc<PlanProperties> {
    let properties = PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    );
    Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative))
}

impl DisplayAs for ClientRowsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "from=client"),
            _ => f.write_str("ClientRowsExec: the client sends the rows below"),
        }
    }
}

impl ExecutionPlan for ClientRowsExec {
    fn name(&self) -> &'static str {
        "ClientRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if let (Some(input), true) = (children.pop(), children.is_empty()) {
            Ok(Self::of(input))
        } else {
            plan_err!("ClientRowsExec has one input")
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("executors run the plan above the rows of the client")
    }
}

/// Fetches the rows that executors compute, in the order of the units, as one partition.
#[derive(Debug)]
pub(super) struct ClusterExec {
    cluster: Arc<QueryCluster>,
    stage: Stage,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// The input of a stage.
enum Input<'p> {
    Scan(&'p UnitScanExec),
    Rows(&'p Arc<dyn ExecutionPlan>),
}

/// The input at the end of the chain of a stage.
fn input_of(plan: &Arc<dyn ExecutionPlan>) -> Option<Input<'_>> {
    if let Some(scan) = plan.downcast_ref::<UnitScanExec>() {
        return Some(Input::Scan(scan));
    }
    let [child] = plan.children()[..] else { return None };
    if plan.is::<ClientRowsExec>() { Some(Input::Rows(child)) } else { input_of(child) }
}

fn is_input(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<UnitScanExec>() || plan.is::<ClientRowsExec>()
}

/// The distinct steps of a stage.
fn steps_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<ModelStep>> {
    let mut steps: Vec<Arc<ModelStep>> = Vec::new();
    let mut node = Some(plan);
    while let Some(plan) = node {
        if let Some(model) = plan.downcast_ref::<ModelExec>()
            && !steps.iter().any(|step| Arc::ptr_eq(step, model.step()))
        {
            steps.push(Arc::clone(model.step()));
        }
        node = match plan.children()[..] {
            [child] if !is_input(plan.as_ref()) => Some(child),
            _ => None,
        };
    }
    steps
}

impl ClusterExec {
    pub(super) fn try_new(cluster: Arc<QueryCluster>, stage: Stage) -> DataFusionResult<Self> {
        if input_of(&stage.plan).is_none() {
            return internal_err!("a stage has no input");
        }
        let properties = properties(stage.plan.schema());
        Ok(Self { cluster, stage, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The number of tasks, if it is known before the query runs.
    fn tasks(&self) -> Option<usize> {
        match input_of(&self.stage.plan)? {
            Input::Scan(_) if self.stage.is_whole => Some(1),
            Input::Scan(scan) => Some(scan.num_units()),
            Input::Rows(_) => None,
        }
    }

    /// The stage as executors get it. Blocks.
    fn describe(&self, context: &TaskContext) -> Result<(Head, Vec<u8>)> {
        let steps = steps_of(&self.stage.plan);
        let calls = steps.iter().map(|step| self.cluster.catalog.ship(step));
        let calls = calls.collect::<Result<_>>()?;
        let scan = match input_of(&self.stage.plan) {
            Some(Input::Scan(scan)) => Some(ShippedScan::of(scan)?),
            _ => None,
        };
        let failed = |error: datafusion::error::DataFusionError| {
            Error::new(ErrorKind::Internal, "cannot describe the query to the cluster")
                .source(error)
        };
        let input = input_schema(&self.stage.plan).map(StageInput::of);
        let input = input.ok_or_else(|| Error::new(ErrorKind::Internal, "a stage has no input"))?;
        let plan = over_input(&self.stage.plan, &is_input, &input).map_err(failed)?;
        let codec = StageCodec { steps };
        let plan = codec.encode(plan, SubqueryResults::Known).map_err(failed)?;
        let own = self.cluster.functions.copied_config().options().entries();
        let settings = context.session_config().options().entries().into_iter();
        let settings = settings.filter(|entry| {
            !own.iter().any(|own| own.key == entry.key && own.value == entry.value)
        });
        let settings = settings.filter_map(|entry| Some((entry.key, entry.value?)));
        Ok((Head { scan, calls, settings: settings.collect() }, plan.to_vec()))
    }

    /// Runs the stage and sends its rows.
    async fn run(self: Arc<Self>, context: Arc<TaskContext>, rows: &Rows) -> Result<()> {
        let (head, plan) = tokio::task::block_in_place(|| self.describe(&context))?;
        let stage = Description { head, plan };
        match input_of(&self.stage.plan) {
            Some(Input::Scan(scan)) => {
                let units = ShippedScan::units(scan);
                let mut submission = stage.submission()?;
                if self.stage.is_whole {
                    let name = format!("the {} units of the scan", scan.num_units());
                    let unit = UnitHead { number: 0, units: units.collect() };
                    submission.units.push(unit.encode(b"")?);
                    submission.names.push(name);
                } else {
                    for (number, unit) in units.enumerate() {
                        let path = unit.path().display();
                        submission.names.push(match unit.num_rows() {
                            Some(rows) => format!("{rows} rows of `{path}`"),
                            None => format!("`{path}`"),
                        });
                        let unit = UnitHead { number, units: vec![unit] };
                        submission.units.push(unit.encode(b"")?);
                    }
                }
                self.submit(submission, rows).await
            }
            Some(Input::Rows(input)) => {
                let failed = |error| query_error(error, &[]);
                let mut input = input.execute(0, context).map_err(failed)?;
                let mut sent = Sent::new(input.schema(), self.stage.is_whole);
                let mut first_row = 0;
                loop {
                    let mut submission = stage.submission()?;
                    let mut bytes = 0;
                    while submission.units.len() < SENT_UNITS && bytes < SENT_BYTES {
                        let Some((unit, count)) = sent.next(&mut input).await.map_err(failed)?
                        else {
                            break;
                        };
                        let number = submission.units.len();
                        let unit = UnitHead { number, units: Vec::new() }.encode(&unit)?;
                        check_size(&unit)?;
                        bytes += unit.len();
                        submission.units.push(unit);
                        let last_row = first_row + count;
                        let name = format!("rows {} to {last_row} of the client", first_row + 1);
                        submission.names.push(name);
                        first_row = last_row;
                    }
                    if submission.units.is_empty() {
                        return Ok(());
                    }
                    self.submit(submission, rows).await?;
                    if rows.is_closed() {
                        return Ok(());
                    }
                }
            }
            None => Err(Error::new(ErrorKind::Internal, "a stage has no input")),
        }
    }

    async fn submit(&self, submission: Submission, rows: &Rows) -> Result<()> {
        let tasks = MetricBuilder::new(&self.metrics).global_counter("tasks");
        tasks.add(submission.units.len());
        self.cluster.queries.run(submission, self.properties.eq_properties.schema(), rows).await
    }
}

/// Refuses a unit that does not fit in a message.
fn check_size(unit: &[u8]) -> Result<()> {
    if unit.len() <= CLUSTER_MESSAGE_BYTES / 2 {
        return Ok(());
    }
    let message = format!("{} bytes of rows do not fit in a message to a cluster", unit.len());
    Err(Error::new(ErrorKind::Config, message).hint(
        "write the rows to a file first, and run the model over the file: COPY (…) TO 'rows.parquet'",
    ))
}

fn input_schema(plan: &Arc<dyn ExecutionPlan>) -> Option<SchemaRef> {
    match input_of(plan)? {
        Input::Scan(scan) => Some(scan.schema()),
        Input::Rows(input) => Some(input.schema()),
    }
}

/// The parts of a [`StageHead`] that all submissions of a stage share.
struct Head {
    scan: Option<ShippedScan>,
    calls: Vec<ShippedCall>,
    settings: Vec<(String, String)>,
}

struct Description {
    head: Head,
    plan: Vec<u8>,
}

impl Description {
    /// A submission without units, with results of its own.
    fn submission(&self) -> Result<Submission> {
        let query = query_name();
        let Head { scan, calls, settings } = &self.head;
        let head = StageHead::new(query.clone(), scan.clone(), calls.clone(), settings.clone());
        let job = head.encode(&self.plan)?;
        Ok(Submission { query, job, units: Vec::new(), names: Vec::new() })
    }
}

/// Rows of the client on their way into units.
struct Sent {
    schema: SchemaRef,
    /// Whether all rows are one unit.
    is_whole: bool,
    /// The rest of a batch.
    rest: Option<RecordBatch>,
    is_ended: bool,
}

impl Sent {
    fn new(schema: SchemaRef, is_whole: bool) -> Self {
        Self { schema, is_whole, rest: None, is_ended: false }
    }

    /// The rows of the next unit as bytes, and their number; `None` at the end.
    async fn next(
        &mut self,
        input: &mut SendableRecordBatchStream,
    ) -> DataFusionResult<Option<(Vec<u8>, usize)>> {
        let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while self.is_whole || rows < UNIT_ROWS && bytes < UNIT_BYTES {
            let batch = match self.rest.take() {
                Some(rest) => rest,
                None if self.is_ended => break,
                None => {
                    let Some(batch) = input.next().await.transpose()? else {
                        self.is_ended = true;
                        break;
                    };
                    batch
                }
            };
            let room = if self.is_whole { batch.num_rows() } else { UNIT_ROWS - rows };
            if batch.num_rows() > room {
                self.rest = Some(batch.slice(room, batch.num_rows() - room));
            }
            let batch = batch.slice(0, batch.num_rows().min(room));
            rows += batch.num_rows();
            bytes += batch.get_array_memory_size();
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        Ok(Some((rows_to_bytes(&self.schema, &batches)?, rows)))
    }
}

impl DisplayAs for ClusterExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks().map(|tasks| tasks.to_string());
        let tasks = tasks.as_deref().unwrap_or("by rows");
        match format {
            DisplayFormatType::TreeRender => {
                writeln!(f, "below=on executors")?;
                writeln!(f, "tasks={tasks}")
            }
            _ => write!(f, "ClusterExec: executors run the plan below, tasks={tasks}"),
        }
    }
}

impl ExecutionPlan for ClusterExec {
    fn name(&self) -> &'static str {
        "ClusterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.stage.plan]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if let (Some(plan), true) = (children.pop(), children.is_empty()) {
            let stage = Stage { plan, ..self.stage.clone() };
            Ok(Arc::new(Self::try_new(Arc::clone(&self.cluster), stage)?))
        } else {
            plan_err!("ClusterExec has one stage")
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let (rows, fetched) = mpsc::channel(READY_BATCHES);
        let run = Arc::new(Self {
            cluster: Arc::clone(&self.cluster),
            stage: self.stage.clone(),
            properties: Arc::clone(&self.properties),
            metrics: self.metrics.clone(),
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "goes on without the stream, to cancel the job"
        )]
        tokio::spawn(async move {
            if let Err(error) = run.run(context, &rows).await {
                let _ = rows.send(Err(external(error))).await;
            }
        });
        let rows = stream::unfold((fetched, baseline), |(mut fetched, baseline)| async move {
            let batch: DataFusionResult<RecordBatch> = fetched.recv().await?;
            if let Ok(batch) = &batch {
                baseline.record_output(batch.num_rows());
            }
            Some((batch, (fetched, baseline)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
