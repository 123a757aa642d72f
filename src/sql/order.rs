//! Whether the result of a query shows in which order its tables are read. If not, the query may use every core.
//! Entry: [`in_partitions`].

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Aggregates whose result does not depend on the order of rows, up to the rounding of sums.
const UNORDERED_AGGREGATES: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "max",
    "mean",
    "median",
    "min",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var",
    "var_pop",
    "var_samp",
    "var_sample",
];

/// The query with as many partitions as its order of rows allows.
pub fn in_partitions(frame: DataFrame) -> DataFrame {
    let (mut state, plan) = frame.into_parts();
    let partitions = target_partitions(&plan);
    state.config_mut().options_mut().execution.target_partitions = partitions;
    DataFrame::new(state, plan)
}

/// The number of partitions in which to run `plan`: one where the order of rows can be seen, otherwise one per core.
fn target_partitions(plan: &LogicalPlan) -> usize {
    if is_order_seen(plan) || has_ordered_parts(plan) {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether the rows of `plan` come in the order in which its tables are read.
fn is_order_seen(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => false,
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Extension(_)
        | LogicalPlan::Analyze(_) => plan.inputs().into_iter().any(is_order_seen),
        LogicalPlan::Explain(explain) => is_order_seen(&explain.plan),
        _ => true,
    }
}

/// Whether a part of `plan` depends on the order of rows: a limit without a sort, a window, an aggregate such as
/// `array_agg`, a query that calls itself.
fn has_ordered_parts(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        found |= match node {
            LogicalPlan::Limit(limit) => is_order_seen(&limit.input),
            LogicalPlan::Window(_) | LogicalPlan::RecursiveQuery(_) => true,
            LogicalPlan::Distinct(distinct) => {
                matches!(distinct, datafusion::logical_expr::Distinct::On(_))
            }
            LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().any(is_ordered),
            LogicalPlan::Explain(explain) => has_ordered_parts(&explain.plan),
            _ => false,
        };
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || walked.is_err()
}

/// Whether an aggregate may depend on the order of its rows.
fn is_ordered(expr: &Expr) -> bool {
    expr.exists(|part| {
        Ok(matches!(part, Expr::AggregateFunction(function)
            if !UNORDERED_AGGREGATES.contains(&function.func.name())))
    })
    .unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn order_is_seen_unless_the_query_hides_it() {
        let context = SessionContext::new();
        context.sql("CREATE TABLE t (a INT, b INT) AS VALUES (1, 2)").await.unwrap();
        for (query, is_seen) in [
            ("SELECT a FROM t", true),
            ("SELECT a FROM t WHERE b > 1 LIMIT 3", true),
            ("SELECT a FROM t ORDER BY b LIMIT 3", false),
            ("SELECT a, count(*) FROM t GROUP BY a", false),
            ("SELECT sum(b) FROM t", false),
            ("SELECT array_agg(b) FROM t", true),
            ("SELECT first_value(b) FROM t", true),
            ("SELECT DISTINCT a FROM t", false),
            ("SELECT count(*) FROM (SELECT a FROM t LIMIT 3)", true),
            ("SELECT count(*) FROM (SELECT a FROM t ORDER BY a LIMIT 3)", false),
            ("SELECT a FROM t WHERE a = (SELECT b FROM t LIMIT 1) ORDER BY a", true),
            ("SELECT a, row_number() OVER () AS n FROM t ORDER BY n", true),
            ("SELECT t.a FROM t JOIN t AS u ON t.a = u.b", true),
            ("SELECT t.a FROM t CROSS JOIN t AS u ORDER BY t.a", false),
            ("SELECT a FROM t UNION ALL SELECT b FROM t", true),
        ] {
            let plan = context.state().create_logical_plan(query).await.unwrap();
            assert_eq!(is_order_seen(&plan) || has_ordered_parts(&plan), is_seen, "{query}");
        }
    }
}
