//! The analyzer rule that turns calls into model nodes.
//!
//! Every distinct call becomes a [`ModelNode`] below the plan node that contains it, and a column replaces the call.
//! The parent module says where a call may run, and why this is an analyzer rule. Not here: how later rules treat
//! model nodes (`optimize`).

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, Result, plan_err};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Distinct, DistinctOn, EmptyRelation, Expr, ExprSchemable, Filter, Join, LogicalPlan,
    Projection, Subquery, SubqueryAlias, Union, Values, cast,
};
use datafusion::optimizer::AnalyzerRule;

use super::calls::{Call, calls, has_call, is_null_literal, model_function, null_unless, replace};
use super::marker::ModelFunction;
use crate::exec::{ModelNode, ModelStep};

/// The columns that calls become.
const PREFIX: &str = "__model_";

/// The rule.
#[derive(Debug)]
pub(super) struct LiftModelCalls;

impl AnalyzerRule for LiftModelCalls {
    fn name(&self) -> &'static str {
        "lift_model_calls"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let mut lifter = CallLifter {
            columns: 0,
            repeated: Vec::new(),
            constants: Vec::new(),
            steps: Vec::new(),
        };
        if !lifter.find_calls(&plan)? {
            return Ok(plan);
        }
        lifter.lift_keeping_schema(plan)
    }
}

/// Lifts the calls out of one plan.
struct CallLifter {
    /// The highest column number used so far.
    columns: usize,
    /// Function, model and options of calls that occur more than once in the plan. Their columns stay available to
    /// the nodes above.
    repeated: Vec<Vec<Expr>>,
    /// Calls without column arguments, and the subqueries that compute them.
    constants: Vec<(Expr, Expr)>,
    /// The steps created so far.
    steps: Vec<Arc<ModelStep>>,
}

/// A plan without calls. The columns of models follow its original columns.
struct LiftedPlan {
    plan: LogicalPlan,
    /// Calls that already have a column, for the nodes above.
    known: Vec<KnownCall>,
}

/// The columns of a plan node's schema.
#[derive(Clone, Copy)]
struct NodeColumns {
    /// The columns of its expressions, by name.
    of_exprs: bool,
    /// The columns of its input.
    of_input: bool,
}

/// A call over the columns of a plan, computed for all rows.
struct KnownCall {
    call: Expr,
    column: Expr,
}

impl CallLifter {
    /// Whether the plan contains calls. Records repeated calls and used column names.
    fn find_calls(&mut self, plan: &LogicalPlan) -> Result<bool> {
        let mut seen: Vec<Vec<Expr>> = Vec::new();
        plan.apply_with_subqueries(|node| {
            for field in node.schema().fields() {
                let number = field.name().strip_prefix(PREFIX).and_then(|text| text.parse().ok());
                self.columns = self.columns.max(number.unwrap_or(0));
            }
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    if model_function(expr).is_some() {
                        let signature = signature(expr);
                        if seen.contains(&signature) {
                            self.repeated.push(signature);
                        } else {
                            seen.push(signature);
                        }
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(!seen.is_empty())
    }

    /// Lifts the calls out of a plan and removes the columns that this adds.
    fn lift_keeping_schema(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let lifted = self.lift_plan(plan)?.plan;
        if lifted.schema().fields().len() == schema.fields().len() {
            return Ok(lifted);
        }
        if let LogicalPlan::Projection(mut projection) = lifted {
            projection.expr.truncate(schema.fields().len());
            return Projection::try_new(projection.expr, projection.input)
                .map(LogicalPlan::Projection);
        }
        let columns = schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
        Projection::try_new(columns, Arc::new(lifted)).map(LogicalPlan::Projection)
    }

    fn lift_plan(&mut self, plan: LogicalPlan) -> Result<LiftedPlan> {
        let plan = plan
            .map_subqueries(|subquery| self.lift_keeping_schema(subquery).map(Transformed::yes))?
            .data;
        match plan {
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => {
                let LiftedPlan { plan: input, known } =
                    self.lift_plan(Arc::unwrap_or_clone(alias.input))?;
                let below = Arc::clone(input.schema());
                let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias)?;
                let renamed = |column: &Column| {
                    let index = below.maybe_index_of_column(column)?;
                    Some(Column::from(alias.schema.qualified_field(index)))
                };
                let known = known.into_iter().filter_map(|known| known.rename(&renamed)).collect();
                Ok(LiftedPlan { plan: LogicalPlan::SubqueryAlias(alias), known })
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Sort(_) | LogicalPlan::Repartition(_) => {
                self.one_input(plan, NodeColumns { of_exprs: false, of_input: true })
            }
            LogicalPlan::Window(_) => {
                self.one_input(plan, NodeColumns { of_exprs: true, of_input: true })
            }
            LogicalPlan::Aggregate(_) => {
                self.one_input(plan, NodeColumns { of_exprs: true, of_input: false })
            }
            LogicalPlan::Distinct(Distinct::On(distinct)) => self.distinct_on(distinct),
            LogicalPlan::Limit(_) => {
                refuse_calls(&plan, "LIMIT or OFFSET")?;
                self.one_input(plan, NodeColumns { of_exprs: false, of_input: true })
            }
            LogicalPlan::Values(values) if values.values.iter().flatten().any(has_call) => {
                self.values(values)
            }
            // These have one input and no columns of their own.
            LogicalPlan::Extension(_)
                if plan.inputs().len() == 1 && expressions_have_call(&plan) =>
            {
                self.one_input(plan, NodeColumns { of_exprs: false, of_input: false })
            }
            plan => {
                refuse_calls(&plan, "this part of a query")?;
                let plan = plan
                    .map_children(|child| self.lift_keeping_schema(child).map(Transformed::yes))?
                    .data;
                let plan = plan.recompute_schema()?;
                Ok(LiftedPlan { plan, known: Vec::new() })
            }
        }
    }

    fn projection(&mut self, projection: Projection) -> Result<LiftedPlan> {
        let mut scope = self.scope(Arc::unwrap_or_clone(projection.input))?;
        let mut exprs = scope.replace_calls(projection.expr, true)?;
        let LiftedPlan { plan, known } = scope.input;
        let own = Projection::try_new(exprs.clone(), Arc::new(plan.clone()))?;
        let renamed = |column: &Column| {
            let passes = |expr: &Expr| match expr {
                Expr::Alias(alias) => {
                    matches!(&*alias.expr, Expr::Column(other) if other == column)
                }
                other => matches!(other, Expr::Column(other) if other == column),
            };
            let index = own.expr.iter().position(passes)?;
            Some(Column::from(own.schema.qualified_field(index)))
        };
        let mut kept = Vec::new();
        for known in known {
            if let Some(call) = rename(&known.call, &renamed) {
                if !exprs.contains(&known.column) {
                    exprs.push(known.column.clone());
                }
                kept.push(KnownCall { call, column: known.column });
            }
        }
        let plan = Projection::try_new(exprs, Arc::new(plan)).map(LogicalPlan::Projection)?;
        Ok(LiftedPlan { plan, known: kept })
    }

    /// Cheap predicates come first, then the predicates with calls one by one: each model sees only the rows that the
    /// earlier predicates keep.
    fn filter(&mut self, filter: Filter) -> Result<LiftedPlan> {
        let scope = self.scope(Arc::unwrap_or_clone(filter.input))?;
        scope.filter_by(split_conjunction_owned(filter.predicate))
    }

    fn join(&mut self, join: Join) -> Result<LiftedPlan> {
        let left = self.lift_plan(Arc::unwrap_or_clone(join.left))?;
        let right = self.lift_plan(Arc::unwrap_or_clone(join.right))?;
        let schemas = [Arc::clone(left.plan.schema()), Arc::clone(right.plan.schema())];
        let (mut left, mut right) = (Scope { lifter: self, input: left }, right);

        let conditions = join.filter.map(split_conjunction_owned).unwrap_or_default();
        let (calling, cheap): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(has_call);
        let one_sided = |expr: &Expr| {
            calls([expr]).is_ok_and(|calls| {
                calls.iter().all(|call| schemas.iter().any(|side| covers(side, &call.expr)))
            })
        };
        // An inner join may run first, unless it is a product whose conditions do the filtering.
        let first = join.join_type == JoinType::Inner && !(join.on.is_empty() && cheap.is_empty());
        let (mut above, mut within) = (Vec::new(), Vec::new());
        for condition in calling {
            if !first && one_sided(&condition) {
                within.push(condition);
            } else if join.join_type == JoinType::Inner {
                above.push(condition);
            } else {
                let name = called_function(&condition);
                return plan_err!(
                    "`{name}` over columns of both sides cannot be a condition of a {} join: call it in \
                     a query over the joined rows",
                    join.join_type
                );
            }
        }
        let (keys_left, keys_right): (Vec<Expr>, Vec<Expr>) = join.on.into_iter().unzip();
        let keys_left = left.replace_calls(keys_left, false)?;
        let mut replacements = Vec::new();
        let all = calls(&within)?;
        let (of_left, of_right): (Vec<Call>, Vec<Call>) =
            all.into_iter().partition(|call| covers(&schemas[0], &call.expr));
        left.lift_calls(of_left, &mut replacements)?;
        let left = left.input;
        let mut scope =
            Scope { lifter: self, input: LiftedPlan { plan: right.plan, known: right.known } };
        let keys_right = scope.replace_calls(keys_right, false)?;
        scope.lift_calls(of_right, &mut replacements)?;
        right = scope.input;

        let within = within.into_iter().map(|expr| replace(expr, &replacements));
        let filter = cheap.into_iter().map(Ok).chain(within).collect::<Result<Vec<_>>>()?;
        let mut known = Vec::new();
        if matches!(
            join.join_type,
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti
        ) {
            known.extend(left.known);
        }
        if matches!(
            join.join_type,
            JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti
        ) {
            known.extend(right.known);
        }
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            keys_left.into_iter().zip(keys_right).collect(),
            conjunction(filter),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        let input = LiftedPlan { plan: LogicalPlan::Join(plan), known };
        Scope { lifter: self, input }.filter_by(above)
    }

    /// A node with one input.
    fn one_input(&mut self, plan: LogicalPlan, columns: NodeColumns) -> Result<LiftedPlan> {
        let input = match &plan.inputs()[..] {
            [input] => (*input).clone(),
            _ => {
                return plan_err!(
                    "a plan node with one input was expected, found {}",
                    plan.display()
                );
            }
        };
        let mut scope = self.scope(input)?;
        let exprs = scope.replace_calls(plan.expressions(), columns.of_exprs)?;
        let LiftedPlan { plan: input, known } = scope.input;
        let plan = plan.with_new_exprs(exprs, vec![input])?;
        Ok(LiftedPlan { plan, known: if columns.of_input { known } else { Vec::new() } })
    }

    fn distinct_on(&mut self, distinct: DistinctOn) -> Result<LiftedPlan> {
        let mut scope = self.scope(Arc::unwrap_or_clone(distinct.input))?;
        let select = scope.replace_calls(distinct.select_expr, true)?;
        let on = scope.replace_calls(distinct.on_expr, false)?;
        let sort = match distinct.sort_expr {
            None => None,
            Some(keys) => {
                let exprs = keys.iter().map(|key| key.expr.clone()).collect();
                let exprs = scope.replace_calls(exprs, false)?;
                Some(keys.iter().zip(exprs).map(|(key, expr)| key.with_expr(expr)).collect())
            }
        };
        let distinct = DistinctOn::try_new(on, select, sort, Arc::new(scope.input.plan))?;
        let plan = LogicalPlan::Distinct(Distinct::On(distinct));
        Ok(LiftedPlan { plan, known: Vec::new() })
    }

    /// The rows of a VALUES list; each becomes a query.
    fn values(&mut self, values: Values) -> Result<LiftedPlan> {
        let mut rows = Vec::new();
        for row in values.values {
            let named = row.into_iter().zip(values.schema.fields());
            let exprs = named.map(|(expr, field)| expr.alias(field.name())).collect();
            let row = Projection::try_new(exprs, Arc::new(one_row()))?;
            rows.push(Arc::new(self.lift_keeping_schema(LogicalPlan::Projection(row))?));
        }
        let plan = match &rows[..] {
            [row] => row.as_ref().clone(),
            _ => LogicalPlan::Union(Union { inputs: rows, schema: values.schema }),
        };
        Ok(LiftedPlan { plan, known: Vec::new() })
    }

    fn scope(&mut self, input: LogicalPlan) -> Result<Scope<'_>> {
        let input = self.lift_plan(input)?;
        Ok(Scope { lifter: self, input })
    }

    /// A scalar subquery for a call without column arguments.
    fn constant_subquery(&mut self, call: &Expr) -> Result<Expr> {
        if let Some((_, subquery)) = self.constants.iter().find(|(known, _)| known == call) {
            return Ok(subquery.clone());
        }
        let projection = Projection::try_new(vec![call.clone()], Arc::new(one_row()))?;
        let plan = self.lift_keeping_schema(LogicalPlan::Projection(projection))?;
        let subquery = Expr::ScalarSubquery(Subquery {
            subquery: Arc::new(plan),
            outer_ref_columns: Vec::new(),
            spans: datafusion::common::Spans::new(),
        });
        self.constants.push((call.clone(), subquery.clone()));
        Ok(subquery)
    }
}

/// The input of a plan node. The node's calls are lifted into it as a chain of model nodes.
struct Scope<'a> {
    lifter: &'a mut CallLifter,
    input: LiftedPlan,
}

impl Scope<'_> {
    /// Replaces the calls in expressions by columns; `names` keeps the expressions' names.
    fn replace_calls(&mut self, exprs: Vec<Expr>, names: bool) -> Result<Vec<Expr>> {
        let mut replacements = Vec::new();
        self.lift_calls(calls(&exprs)?, &mut replacements)?;
        if replacements.is_empty() {
            return Ok(exprs);
        }
        let preserver = NamePreserver::new_for_projection();
        exprs
            .into_iter()
            .map(|expr| match expr {
                Expr::GroupingSet(sets) if has_call(&Expr::GroupingSet(sets.clone())) => {
                    let name = called_function(&Expr::GroupingSet(sets));
                    plan_err!("`{name}` cannot be called in GROUPING SETS, CUBE or ROLLUP: call it in a subquery")
                }
                expr if names => {
                    let name = preserver.save(&expr);
                    Ok(name.restore(replace(expr, &replacements)?))
                }
                expr => replace(expr, &replacements),
            })
            .collect()
    }

    fn lift_calls(&mut self, calls: Vec<Call>, replacements: &mut Vec<(Expr, Expr)>) -> Result<()> {
        for call in calls {
            let column = self.lift_call(&call, replacements)?;
            replacements.push((call.expr, column));
        }
        Ok(())
    }

    /// Adds a filter with the predicates.
    fn filter_by(mut self, predicates: Vec<Expr>) -> Result<LiftedPlan> {
        let (calling, cheap): (Vec<Expr>, Vec<Expr>) = predicates.into_iter().partition(has_call);
        let (correlated, cheap): (Vec<Expr>, Vec<Expr>) =
            cheap.into_iter().partition(is_correlated);
        let cheap = conjunction(cheap).into_iter().chain(conjunction(correlated));
        for predicate in cheap.chain(calling) {
            let predicate = self.replace_calls(vec![predicate], false)?.remove(0);
            let input = Arc::new(self.input.plan);
            self.input.plan = LogicalPlan::Filter(Filter::try_new(predicate, input)?);
        }
        Ok(self.input)
    }

    /// Creates a node for a call whose inner calls are already lifted, and returns the expression that replaces the
    /// call.
    fn lift_call(&mut self, call: &Call, inner: &[(Expr, Expr)]) -> Result<Expr> {
        if let Some(known) = self.input.known.iter().find(|known| known.call == call.expr) {
            return Ok(known.column.clone());
        }
        let Some((function, args)) = model_function(&call.expr) else {
            return plan_err!("a call was expected, found `{}`", call.expr);
        };
        check_place(function, args)?;
        let is_constant = call.expr.column_refs().is_empty() && !call.expr.is_volatile();
        if is_constant && !is_one_row(&self.input.plan) {
            return self.lifter.constant_subquery(&call.expr);
        }
        // Above a product of rows, a model would see each of its rows many times.
        if let LogicalPlan::Join(join) = &self.input.plan
            && is_product(join)
        {
            let sides = [&join.left, &join.right];
            if let Some(side) = sides.iter().position(|side| covers(side.schema(), &call.expr)) {
                return self.lift_call_below(side, call, inner);
            }
        }
        let condition =
            call.condition.clone().map(|condition| replace(condition, inner)).transpose()?;
        let condition = condition.filter(|condition| covers(self.input.plan.schema(), condition));
        let column = self.add_model_node(function, args, condition.as_ref(), inner, &call.expr)?;
        if condition.is_none() && self.lifter.repeated.contains(&signature(&call.expr)) {
            self.input.known.push(KnownCall { call: call.expr.clone(), column: column.clone() });
        }
        Ok(column)
    }

    /// Lifts a call into one side of a product of rows.
    fn lift_call_below(
        &mut self,
        side: usize,
        call: &Call,
        inner: &[(Expr, Expr)],
    ) -> Result<Expr> {
        let LogicalPlan::Join(join) = &self.input.plan else {
            return plan_err!("a join was expected");
        };
        let mut sides = [join.left.as_ref().clone(), join.right.as_ref().clone()];
        let below = LiftedPlan { plan: sides[side].clone(), known: Vec::new() };
        let mut scope = Scope { lifter: &mut *self.lifter, input: below };
        // A condition may refer to the other side.
        let column = scope.lift_call(&Call { expr: call.expr.clone(), condition: None }, inner)?;
        sides[side] = scope.input.plan;
        let [left, right] = sides;
        let join = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            Vec::new(),
            None,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        self.input.plan = LogicalPlan::Join(join);
        Ok(column)
    }

    fn add_model_node(
        &mut self,
        function: &ModelFunction,
        args: &[Expr],
        condition: Option<&Expr>,
        inner: &[(Expr, Expr)],
        call: &Expr,
    ) -> Result<Expr> {
        let args =
            args.iter().map(|arg| replace(arg.clone(), inner)).collect::<Result<Vec<_>>>()?;
        let mut plan = std::mem::replace(&mut self.input.plan, one_row());
        // DataFusion pulls correlated predicates up into join conditions, but only through filters.
        let mut correlated = Vec::new();
        while let LogicalPlan::Filter(filter) = &plan
            && is_correlated(&filter.predicate)
        {
            correlated.push(filter.predicate.clone());
            plan = filter.input.as_ref().clone();
        }
        let schema = Arc::clone(plan.schema());
        let types = args.iter().map(|arg| arg.get_type(&schema)).collect::<Result<Vec<_>>>()?;
        let resolved = function.resolve_call(&args, &types)?;
        let read = |name: &str| {
            let value = match &resolved.parts {
                Some(_) => struct_field(&args[0], name),
                None if function.task.function.parameters.len() == 1 => args[0].clone(),
                None => {
                    let names = function.task.function.parameters;
                    let index = names.iter().position(|parameter| *parameter == name);
                    args[index.unwrap_or(0)].clone()
                }
            };
            let value = if is_null_literal(&value) {
                cast(value, arrow::datatypes::DataType::Utf8)
            } else {
                value
            };
            match condition {
                Some(condition) => null_unless(condition.clone(), value),
                None => Ok(value),
            }
        };
        let inputs = resolved.task.inputs().into_iter().map(read).collect::<Result<Vec<_>>>()?;
        self.lifter.columns += 1;
        let output = format!("{PREFIX}{}", self.lifter.columns);
        let catalog = &function.catalog;
        let (task, workers) = (Arc::clone(&resolved.task), Arc::clone(catalog.workers()));
        let call = call.human_display().to_string();
        let mut step = ModelStep::new(task, catalog.settings(), workers, format!("`{call}`"))
            .with_name(call)
            .with_row_errors(function.row_errors);
        for other in &self.lifter.steps {
            step = step.sharing_results(other);
        }
        let step = Arc::new(step);
        self.lifter.steps.push(Arc::clone(&step));
        let node = ModelNode::with_inputs(plan, step, inputs, &output)?;
        self.input.plan = node.into_plan();
        for predicate in correlated.into_iter().rev() {
            let input = Arc::new(std::mem::replace(&mut self.input.plan, one_row()));
            self.input.plan = LogicalPlan::Filter(Filter::try_new(predicate, input)?);
        }
        Ok(Expr::Column(Column::new_unqualified(output)))
    }
}

impl KnownCall {
    fn rename(self, renamed: &impl Fn(&Column) -> Option<Column>) -> Option<Self> {
        let call = rename(&self.call, renamed)?;
        let column = rename(&self.column, renamed)?;
        Some(Self { call, column })
    }
}

/// The expression over renamed columns; `None` when one of them has no new name.
fn rename(expr: &Expr, renamed: &impl Fn(&Column) -> Option<Column>) -> Option<Expr> {
    let mut complete = true;
    let expr = expr.clone().transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(column) = renamed(column) else {
            complete = false;
            return Ok(Transformed::no(expr));
        };
        Ok(Transformed::yes(Expr::Column(column)))
    });
    expr.ok().map(|expr| expr.data).filter(|_| complete)
}

/// Function, model and options of a call; equal for calls that differ only in their columns.
fn signature(call: &Expr) -> Vec<Expr> {
    let Some((function, args)) = model_function(call) else { return Vec::new() };
    let mut signature = vec![datafusion::logical_expr::lit(function.task.function.name)];
    signature.extend(args.iter().skip(function.task.function.parameters.len()).cloned());
    signature
}

/// One field of a struct argument.
fn struct_field(arg: &Expr, name: &str) -> Expr {
    if let Expr::ScalarFunction(ScalarFunction { func, args }) = arg
        && func.name() == "named_struct"
    {
        let named = args.chunks_exact(2).find(|pair| {
            super::marker::literal(&pair[0]).and_then(|key| key.try_as_str().flatten())
                == Some(name)
        });
        if let Some(pair) = named {
            return pair[1].clone();
        }
    }
    get_field(arg.clone(), name)
}

fn one_row() -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: true,
        schema: DFSchemaRef::new(DFSchema::empty()),
    })
}

/// Whether a plan returns one row, apart from columns of models.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match (ModelNode::of(plan), plan) {
        (Some(model), _) => is_one_row(model.input()),
        (None, LogicalPlan::EmptyRelation(empty)) => empty.produce_one_row,
        _ => false,
    }
}

/// Whether a predicate reads columns of an outer query.
fn is_correlated(expr: &Expr) -> bool {
    expr.contains_outer()
}

/// Whether a join pairs every row of one side with every row of the other.
fn is_product(join: &Join) -> bool {
    join.join_type == JoinType::Inner && join.on.is_empty() && join.filter.is_none()
}

/// Whether a schema has all columns of an expression, at least one.
fn covers(schema: &DFSchema, expr: &Expr) -> bool {
    let columns = expr.column_refs();
    columns.iter().all(|column| schema.has_column(column))
}

fn expressions_have_call(plan: &LogicalPlan) -> bool {
    plan.expressions().iter().any(has_call)
}

/// The name of a function called in an expression.
fn called_function(expr: &Expr) -> String {
    let mut name = String::new();
    let _ = expr.apply(|expr| {
        Ok(match model_function(expr) {
            Some(_) => {
                if let Expr::ScalarFunction(function) = expr {
                    function.name().clone_into(&mut name);
                }
                TreeNodeRecursion::Stop
            }
            None => TreeNodeRecursion::Continue,
        })
    });
    name
}

/// Refuses calls in the expressions of a node.
fn refuse_calls(plan: &LogicalPlan, place: &str) -> Result<()> {
    match plan.expressions().iter().find(|expr| has_call(expr)) {
        Some(expr) => plan_err!("`{}` cannot be called in {place}", called_function(expr)),
        None => Ok(()),
    }
}

/// Refuses arguments that are not available where a model node runs.
fn check_place(function: &ModelFunction, args: &[Expr]) -> Result<()> {
    use datafusion::logical_expr::ScalarUDFImpl;
    let name = ScalarUDFImpl::name(function);
    for arg in args {
        let mut problem = None;
        arg.apply(|expr| {
            problem = match expr {
                Expr::OuterReferenceColumn(_, column) => Some(format!(
                    "`{name}` reads `{column}` of the outer query inside of a subquery: call it in the \
                     outer query"
                )),
                Expr::LambdaVariable(variable) => Some(format!(
                    "`{name}` cannot be called in a lambda, over `{}`: unnest the list, and call it over \
                     the rows",
                    variable.name
                )),
                Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Some(format!(
                    "`{name}` cannot read `{expr}` here: call it in a query over the result"
                )),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        })?;
        if let Some(problem) = problem {
            return plan_err!("{problem}");
        }
    }
    Ok(())
}
