//! Plans queries with model nodes, around the session's own planner. Not here: the planner of the node itself
//! ([`crate::exec::ModelPlanner`]).

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{
    Expr, LogicalPlan, Projection, TableScanBuilder, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::exec::{ModelExec, ModelNode, ModelPlanner};

/// A query planner that supports model nodes.
#[derive(Debug)]
pub struct ModelQueryPlanner {
    /// The planner of everything else; `None` for DataFusion's own.
    inner: Option<Arc<dyn QueryPlanner + Send + Sync>>,
}

impl ModelQueryPlanner {
    /// Creates a planner that delegates everything but model nodes to `inner`.
    pub fn around(inner: Arc<dyn QueryPlanner + Send + Sync>) -> Self {
        // DataFusion's own planner accepts extension planners. Its type is private, so it is recognized by name.
        let is_own = format!("{inner:?}").starts_with("DefaultQueryPlanner");
        Self { inner: (!is_own).then_some(inner) }
    }
}

#[async_trait]
impl QueryPlanner for ModelQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(inner) = &self.inner else {
            return DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(ModelPlanner)])
                .create_physical_plan(plan, session)
                .await;
        };
        let mut plan = plan.clone();
        // Bottom-up: each model is planned with the part below it, and becomes a table for the part above.
        while let Some(model) = lowest_model(&plan)? {
            let planned = planned(&model, inner.as_ref(), session).await?;
            let scan = scan(&model, planned)?;
            let mut is_first = true;
            plan = plan
                .transform_up_with_subqueries(|node| {
                    let same = is_first && ModelNode::of(&node) == Some(&model);
                    is_first &= !same;
                    Ok(if same { Transformed::yes(scan.clone()) } else { Transformed::no(node) })
                })?
                .data;
        }
        inner.create_physical_plan(&plan, session).await
    }
}

/// A model node without model nodes below it.
fn lowest_model(plan: &LogicalPlan) -> Result<Option<ModelNode>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        if let Some(model) = ModelNode::of(node) {
            found = Some(model.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The operator of a model over its input, which `planner` plans and which computes the model's inputs.
async fn planned(
    model: &ModelNode,
    planner: &(dyn QueryPlanner + Send + Sync),
    session: &dyn Session,
) -> Result<Arc<dyn ExecutionPlan>> {
    let width = model.input().schema().fields().len();
    let columns = model.input().schema().iter().map(|field| Expr::Column(Column::from(field)));
    let reads = model.expressions().into_iter().enumerate();
    let exprs = columns
        .chain(reads.map(|(index, expr)| expr.alias(format!("{}_input_{index}", model.output()))))
        .collect();
    let input = Projection::try_new(exprs, Arc::new(model.input().clone()))?;
    let input = planner.create_physical_plan(&LogicalPlan::Projection(input), session).await?;
    let schema = input.schema();
    let inputs = (width..schema.fields().len())
        .map(|index| {
            let column = PhysicalColumn::new(schema.field(index).name(), index);
            Arc::new(column) as Arc<dyn PhysicalExpr>
        })
        .collect();
    let output = Arc::clone(&model.schema().fields()[width]);
    let exec = ModelExec::try_new(input, Arc::clone(model.step()), inputs, output)?;
    let exec = exec.with_few(model.few());
    // Drops the columns that only the model reads.
    let exec: Arc<dyn ExecutionPlan> = Arc::new(exec);
    let kept = (0..width).chain([exec.schema().fields().len() - 1]);
    let exprs: Vec<(Arc<dyn PhysicalExpr>, String)> = kept
        .map(|index| {
            let name = exec.schema().field(index).name().clone();
            (Arc::new(PhysicalColumn::new(&name, index)) as Arc<dyn PhysicalExpr>, name)
        })
        .collect();
    Ok(Arc::new(datafusion::physical_plan::projection::ProjectionExec::try_new(exprs, exec)?))
}

/// A scan of a planned model with the schema of its node.
fn scan(model: &ModelNode, exec: Arc<dyn ExecutionPlan>) -> Result<LogicalPlan> {
    // Columns of a join may have equal names; a scan built from a table's schema could not distinguish them.
    let empty = provider_as_source(Arc::new(EmptyTable::new(Arc::new(Schema::empty()))));
    let mut scan = TableScanBuilder::new(model.output(), empty).build()?;
    scan.source = provider_as_source(Arc::new(PlannedModel { exec }));
    scan.projected_schema = Arc::clone(model.schema());
    Ok(LogicalPlan::TableScan(scan))
}

/// A planned model as a table.
#[derive(Debug)]
struct PlannedModel {
    exec: Arc<dyn ExecutionPlan>,
}

#[async_trait]
impl TableProvider for PlannedModel {
    fn schema(&self) -> SchemaRef {
        self.exec.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.exec))
    }
}
