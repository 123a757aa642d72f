//! The model step in a logical plan, and its planner.
//!
//! The node declares to DataFusion's optimizer what is allowed: pushing predicates on other columns, and limits, below
//! the model, and dropping unused input columns. The operator is [`super::operator::ModelExec`].

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::explode::ExplodeNode;
use super::operator::ModelExec;
use super::reuse::StepResults;
use super::row_errors::RowErrorsNode;
use super::step::ModelStep;

/// Appends the column of one model step to its input.
#[derive(Clone, Debug)]
pub struct ModelNode {
    input: LogicalPlan,
    step: Arc<ModelStep>,
    /// The inputs of the step, over the columns of `input`.
    inputs: Vec<Expr>,
    /// The new column.
    output: FieldRef,
    schema: DFSchemaRef,
    /// The number of rows after which the plan above may stop.
    few: Option<usize>,
    /// What the step reuses and keeps.
    results: Option<Arc<StepResults>>,
}

impl ModelNode {
    /// Puts `step` on top of `input`. Its input columns are looked up by name, case-sensitively; the task names the new
    /// column.
    ///
    /// # Errors
    /// `Plan` when a column is missing, or the output column already exists.
    pub fn try_new(input: LogicalPlan, step: Arc<ModelStep>) -> Result<Self> {
        let output = step.task().field().name().clone();
        Self::over_columns(input, step, &output)
    }

    /// As [`ModelNode::try_new`], with another name for the new column.
    ///
    /// # Errors
    /// As [`ModelNode::try_new`].
    pub fn over_columns(input: LogicalPlan, step: Arc<ModelStep>, output: &str) -> Result<Self> {
        let inputs = step
            .task()
            .inputs()
            .into_iter()
            .map(|name| {
                let field = input.schema().qualified_field_with_unqualified_name(name)?;
                Ok(Expr::Column(Column::from(field)))
            })
            .collect::<Result<_>>()?;
        Self::with_inputs(input, step, inputs, output)
    }

    /// Puts `step` on top of `input`. `inputs` are the task's inputs, in its order, over the columns of `input`. The
    /// new column is named `output`.
    ///
    /// # Errors
    /// `Plan` when the output column already exists.
    pub fn with_inputs(
        input: LogicalPlan,
        step: Arc<ModelStep>,
        inputs: Vec<Expr>,
        output: &str,
    ) -> Result<Self> {
        let field = step.task().field().as_ref().clone();
        let output: FieldRef =
            Arc::new(field.with_name(output).with_data_type(step.data_type()).with_nullable(true));
        let own = Arc::new(DFSchema::from_unqualified_fields(
            vec![Arc::clone(&output)].into(),
            HashMap::default(),
        )?);
        let schema = Arc::new(input.schema().join(&own)?);
        Ok(Self { input, step, inputs, output, schema, few: None, results: None })
    }

    /// The number of rows after which the plan above may stop.
    pub(crate) fn few(&self) -> Option<usize> {
        self.few
    }

    /// Sets the number of rows after which the plan above may stop.
    #[must_use]
    pub(crate) fn with_few(mut self, few: Option<usize>) -> Self {
        self.few = few;
        self
    }

    /// Sets what the step reuses and keeps.
    #[must_use]
    pub(super) fn with_results(mut self, results: Option<Arc<StepResults>>) -> Self {
        self.results = results;
        self
    }

    /// The step.
    pub fn step(&self) -> &Arc<ModelStep> {
        &self.step
    }

    /// The name of the new column.
    pub fn output(&self) -> &str {
        self.output.name()
    }

    /// The inputs of the step, over the columns of the plan below.
    pub fn inputs(&self) -> &[Expr] {
        &self.inputs
    }

    /// The plan below.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// The same step over the same columns of another plan.
    ///
    /// # Errors
    /// As [`ModelNode::with_inputs`].
    pub fn with_input(&self, input: LogicalPlan) -> Result<Self> {
        let (step, inputs) = (Arc::clone(&self.step), self.inputs.clone());
        let node = Self::with_inputs(input, step, inputs, self.output.name())?;
        Ok(node.with_few(self.few).with_results(self.results.clone()))
    }

    /// The node, if the plan is one.
    pub fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialEq for ModelNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.step, &other.step)
            && self.inputs == other.inputs
            && self.output == other.output
            && self.few == other.few
            && self.input == other.input
    }
}

impl Eq for ModelNode {}

impl Hash for ModelNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.step).hash(state);
        self.inputs.hash(state);
        self.output.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for ModelNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other { Some(Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}

impl UserDefinedLogicalNodeCore for ModelNode {
    fn name(&self) -> &'static str {
        "Model"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.inputs.clone()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([self.output.name().clone()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model: {}", self.step.line(&self.inputs, self.output.name()))
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        match inputs.pop() {
            Some(input) if inputs.is_empty() => {
                let step = Arc::clone(&self.step);
                let node = Self::with_inputs(input, step, exprs, self.output.name())?;
                Ok(node.with_few(self.few).with_results(self.results.clone()))
            }
            _ => plan_err!("a model step has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|&column| column < width).collect()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}

/// Plans [`ModelNode`]s, and the nodes after those that keep row errors or make rows of lists.
#[derive(Debug)]
pub struct ModelPlanner;

#[async_trait]
impl ExtensionPlanner for ModelPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let [input] = physical_inputs else { return Ok(None) };
        if let Some(node) = RowErrorsNode::of_node(node) {
            return Ok(Some(node.exec(input)));
        }
        if let Some(node) = ExplodeNode::of_node(node) {
            return node.exec(input).map(Some);
        }
        let Some(node) = node.as_any().downcast_ref::<ModelNode>() else { return Ok(None) };
        let schema = node.input.schema();
        let inputs = node
            .inputs
            .iter()
            .map(|expr| planner.create_physical_expr(expr, schema, session, context))
            .collect::<Result<_>>()?;
        let (step, output) = (Arc::clone(&node.step), Arc::clone(&node.output));
        let is_partitioned = is_for_cluster(session) && !step.task().needs_whole_windows();
        let exec = ModelExec::try_new(Arc::clone(input), step, inputs, output)?;
        let exec = exec.with_few(node.few).with_partitions(is_partitioned);
        Ok(Some(Arc::new(exec.with_results(node.results.clone()))))
    }
}

/// Whether a session plans queries for a cluster.
#[cfg(feature = "cluster")]
fn is_for_cluster(session: &dyn Session) -> bool {
    session.config().get_extension::<crate::source::ScansOfUnits>().is_some()
}

#[cfg(not(feature = "cluster"))]
fn is_for_cluster(_session: &dyn Session) -> bool {
    false
}
