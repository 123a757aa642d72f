//! The model step in a logical plan, and its planner.
//!
//! The node tells DataFusion's optimizer what it may do: push predicates on other columns and limits
//! below the model, and drop input columns that nobody reads. What runs is [`super::exec::ModelExec`].

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::exec::ModelExec;
use super::step::ModelStep;

/// Appends the column of one model step to its input.
#[derive(Clone, Debug)]
pub struct ModelNode {
    input: LogicalPlan,
    step: Arc<ModelStep>,
    /// The step's input columns, as expressions so that the optimizer keeps them.
    columns: Vec<Expr>,
    schema: DFSchemaRef,
}

impl ModelNode {
    /// Puts `step` on top of `input`; its input columns are looked up by name, case-sensitive.
    ///
    /// # Errors
    /// `Plan` when a column is missing, or the output column exists already.
    pub fn try_new(input: LogicalPlan, step: Arc<ModelStep>) -> Result<Self> {
        let columns = step
            .task()
            .inputs()
            .into_iter()
            .map(|name| {
                let field = input.schema().qualified_field_with_unqualified_name(name)?;
                Ok(Expr::Column(Column::from(field)))
            })
            .collect::<Result<_>>()?;
        Self::with_columns(input, step, columns)
    }

    fn with_columns(input: LogicalPlan, step: Arc<ModelStep>, columns: Vec<Expr>) -> Result<Self> {
        let output = Arc::new(DFSchema::from_unqualified_fields(
            vec![Arc::clone(step.task().field())].into(),
            HashMap::default(),
        )?);
        let schema = Arc::new(input.schema().join(&output)?);
        Ok(Self { input, step, columns, schema })
    }

    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialEq for ModelNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.step, &other.step)
            && self.columns == other.columns
            && self.input == other.input
    }
}

impl Eq for ModelNode {}

impl Hash for ModelNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.step).hash(state);
        self.columns.hash(state);
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
        self.columns.clone()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([self.step.task().field().name().clone()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model: {}", self.step)
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        match inputs.pop() {
            Some(input) if inputs.is_empty() => {
                Self::with_columns(input, Arc::clone(&self.step), exprs)
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

/// Plans [`ModelNode`]s.
#[derive(Debug)]
pub struct ModelPlanner;

#[async_trait]
impl ExtensionPlanner for ModelPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<ModelNode>() else { return Ok(None) };
        let [input] = physical_inputs else { return plan_err!("a model step has one input") };
        let columns = node
            .columns
            .iter()
            .map(|column| match column {
                Expr::Column(column) => node.input.schema().index_of_column(column),
                other => plan_err!("a model step reads columns, not `{other}`"),
            })
            .collect::<Result<_>>()?;
        Ok(Some(Arc::new(ModelExec::try_new(Arc::clone(input), Arc::clone(&node.step), columns)?)))
    }
}
