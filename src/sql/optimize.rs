//! Optimizer rules for model nodes in addition to DataFusion's own: sort before a model runs, remove models with unused
//! columns, and start with few rows under a limit. DataFusion's rules move predicates and limits below a model, as
//! [`ModelNode`] allows. Not here: the origin of model nodes (`lift`).

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, FetchType, LogicalPlan, Projection, SkipType, Sort, SortExpr, SubqueryAlias,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::calls::replace;
use crate::exec::{ModelNode, ModelStep};

/// Moves a sort below the models that it does not need. With a limit, the models then run on fewer rows; without one,
/// the sort moves less data.
#[derive(Debug)]
pub(super) struct SortBelowModels;

impl OptimizerRule for SortBelowModels {
    fn name(&self) -> &'static str {
        "sort_below_models"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = plan else { return Ok(Transformed::no(plan)) };
        if sort.expr.iter().any(|key| key.expr.is_volatile()) {
            return Ok(Transformed::no(LogicalPlan::Sort(sort)));
        }
        let descent = Descent { keys: sort.expr.clone(), fetch: sort.fetch, needed: Vec::new() };
        match descent.below(&sort.input)? {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(LogicalPlan::Sort(sort))),
        }
    }
}

/// A sort on its way down, with the models that it needs.
struct Descent {
    /// Over the columns at the current position.
    keys: Vec<SortExpr>,
    fetch: Option<usize>,
    /// The models whose columns it reads, the highest first.
    needed: Vec<Needed>,
}

#[derive(Clone)]
struct Needed {
    step: Arc<ModelStep>,
    inputs: Vec<Expr>,
    output: String,
}

impl Descent {
    /// Moves the sort below the models of `input` that it does not need; `None` when the sort stays in place.
    fn below(mut self, input: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        if let Some(model) = ModelNode::of(input) {
            if self.reads(model.output()) {
                self.needed.push(Needed {
                    step: Arc::clone(model.step()),
                    inputs: model.inputs().to_vec(),
                    output: model.output().to_owned(),
                });
                return self.below(model.input());
            }
            let here = self.here(model.input())?;
            let sorted = self.below(model.input())?.unwrap_or(here);
            return Ok(Some(model.with_input(sorted)?.into_plan()));
        }
        match input {
            LogicalPlan::Projection(projection) => {
                let replacements: Vec<(Expr, Expr)> = columns_of(input)
                    .zip(projection.expr.iter().map(|expr| expr.clone().unalias()))
                    .collect();
                self.rewrite(&replacements)?;
                let volatile = self.keys.iter().any(|key| key.expr.is_volatile());
                if volatile
                    || self.needed.iter().any(|model| model.inputs.iter().any(Expr::is_volatile))
                {
                    return Ok(None);
                }
                // The new columns of the models pass through.
                let made = self.needed.iter().rev().map(|model| model.output.clone());
                let made: Vec<Expr> =
                    made.map(|output| Expr::Column(Column::new_unqualified(output))).collect();
                let Some(below) = self.below(&projection.input)? else { return Ok(None) };
                let exprs = projection.expr.iter().cloned().chain(made).collect();
                let projection = Projection::try_new(exprs, Arc::new(below))?;
                Ok(Some(LogicalPlan::Projection(projection)))
            }
            // The columns of the models above would have to be renamed.
            LogicalPlan::SubqueryAlias(alias) if self.needed.is_empty() => {
                let replacements: Vec<(Expr, Expr)> =
                    columns_of(input).zip(columns_of(&alias.input)).collect();
                self.rewrite(&replacements)?;
                let Some(below) = self.below(&alias.input)? else { return Ok(None) };
                let alias = SubqueryAlias::try_new(Arc::new(below), alias.alias.clone())?;
                Ok(Some(LogicalPlan::SubqueryAlias(alias)))
            }
            _ => Ok(None),
        }
    }

    fn rewrite(&mut self, replacements: &[(Expr, Expr)]) -> Result<()> {
        for key in &mut self.keys {
            key.expr = replace(key.expr.clone(), replacements)?;
        }
        for input in self.needed.iter_mut().flat_map(|model| &mut model.inputs) {
            *input = replace(input.clone(), replacements)?;
        }
        Ok(())
    }

    /// Whether the sort, or a model that it needs, reads a column.
    fn reads(&self, name: &str) -> bool {
        let keys = self.keys.iter().map(|key| &key.expr);
        let inputs = self.needed.iter().flat_map(|model| &model.inputs);
        keys.chain(inputs).any(|expr| expr.column_refs().iter().any(|column| column.name == name))
    }

    /// Puts the sort, and the models that it needs, on `input`.
    fn here(&self, input: &LogicalPlan) -> Result<LogicalPlan> {
        let mut plan = input.clone();
        for Needed { step, inputs, output } in self.needed.iter().rev() {
            let inputs = inputs.clone();
            plan = ModelNode::with_inputs(plan, Arc::clone(step), inputs, output)?.into_plan();
        }
        Ok(LogicalPlan::Sort(Sort {
            expr: self.keys.clone(),
            input: Arc::new(plan),
            fetch: self.fetch,
        }))
    }
}

fn columns_of(plan: &LogicalPlan) -> impl Iterator<Item = Expr> {
    plan.schema().iter().map(|field| Expr::Column(Column::from(field)))
}

/// Tells models below a limit that the plan may stop early. The limit itself cannot move below a predicate on their
/// results, because the dropped rows are not known before.
#[derive(Debug)]
pub(super) struct FewRowsFirst;

impl OptimizerRule for FewRowsFirst {
    fn name(&self) -> &'static str {
        "few_rows_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Limit(limit) = &plan else { return Ok(Transformed::no(plan)) };
        let (FetchType::Literal(Some(fetch)), SkipType::Literal(skip)) =
            (limit.get_fetch_type()?, limit.get_skip_type()?)
        else {
            return Ok(Transformed::no(plan));
        };
        plan.map_children(|input| few_rows(input, fetch.saturating_add(skip)))
    }
}

/// Propagates the hint to the models, through nodes that pass rows one by one.
fn few_rows(plan: LogicalPlan, few: usize) -> Result<Transformed<LogicalPlan>> {
    if let Some(model) = ModelNode::of(&plan) {
        let input = few_rows(model.input().clone(), few)?;
        if !input.transformed && model.few() == Some(few) {
            return Ok(Transformed::no(plan));
        }
        return Ok(Transformed::yes(model.with_input(input.data)?.with_few(Some(few)).into_plan()));
    }
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.map_children(|input| few_rows(input, few))
        }
        plan => Ok(Transformed::no(plan)),
    }
}

/// Removes models whose column is unused.
#[derive(Debug)]
pub(super) struct PruneModels;

impl OptimizerRule for PruneModels {
    fn name(&self) -> &'static str {
        "prune_models"
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        prune(plan, None)
    }
}

/// `needed` are the columns that the nodes above read; `None` for all.
fn prune(plan: LogicalPlan, needed: Option<&HashSet<Column>>) -> Result<Transformed<LogicalPlan>> {
    if let Some(model) = ModelNode::of(&plan) {
        let own = Column::new_unqualified(model.output());
        if needed.is_some_and(|needed| !needed.contains(&own)) {
            let rest = prune(model.input().clone(), needed)?;
            return Ok(Transformed::yes(rest.data));
        }
    }
    let own = || columns(&plan);
    let with_own = || {
        needed.map(|needed| needed.iter().cloned().chain(columns(&plan)).collect::<HashSet<_>>())
    };
    let below = match &plan {
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => Some(own()),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Join(_) => with_own(),
        LogicalPlan::Extension(_) if ModelNode::of(&plan).is_some() => with_own(),
        LogicalPlan::SubqueryAlias(alias) => needed.map(|needed| {
            let inner = alias.input.schema().iter().map(Column::from);
            let outer = alias.schema.iter().map(Column::from);
            outer
                .zip(inner)
                .filter(|(outer, _)| needed.contains(outer))
                .map(|both| both.1)
                .collect()
        }),
        _ => None,
    };
    let pruned = plan.map_children(|child| prune(child, below.as_ref()))?;
    let plan = if pruned.transformed { pruned.data.recompute_schema()? } else { pruned.data };
    let subqueries = plan.map_uncorrelated_subqueries(|subquery| prune(subquery, None))?;
    Ok(Transformed::new_transformed(subqueries.data, pruned.transformed || subqueries.transformed))
}

/// The columns that a node reads.
fn columns(plan: &LogicalPlan) -> HashSet<Column> {
    let mut columns: HashSet<Column> = HashSet::new();
    for expr in plan.expressions() {
        columns.extend(expr.column_refs().into_iter().cloned());
        // The columns of this node that a correlated subquery reads.
        columns.extend(outer_columns(&expr));
    }
    if let LogicalPlan::Join(join) = plan {
        let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
        let filter = conjunction(join.filter.clone());
        for expr in keys.chain(filter.as_ref()) {
            columns.extend(expr.column_refs().into_iter().cloned());
        }
    }
    columns
}

fn outer_columns(expr: &Expr) -> Vec<Column> {
    let mut found = Vec::new();
    let _ = expr.apply(|expr| {
        let subquery = match expr {
            Expr::ScalarSubquery(subquery) => subquery,
            Expr::Exists(exists) => &exists.subquery,
            Expr::InSubquery(within) => &within.subquery,
            Expr::SetComparison(comparison) => &comparison.subquery,
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        found.extend(subquery.outer_ref_columns.iter().filter_map(|outer| match outer {
            Expr::OuterReferenceColumn(_, column) => Some(column.clone()),
            _ => None,
        }));
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
