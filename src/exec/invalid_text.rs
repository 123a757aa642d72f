//! Handles rows with text that is not UTF-8, before the first step. A row fails if a step reads the text; otherwise it
//! keeps U+FFFD in place of the invalid bytes. Columns are traced through the plan to find which ones a step reads. Not
//! here: detecting and reading invalid text (`crate::source`), and handling failed rows ([`super::row_errors`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::dataframe::DataFrame;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::logical_expr::{Expr, LogicalPlan, ident, lit, when};
use datafusion::scalar::ScalarValue;

use super::metrics::StepMetrics;
use super::row_errors::{RowErrorsNode, check_free, error_type};
use crate::config::pipeline::{OnErrorRows, OnErrorSpec};
use crate::error::RowErrorKind;
use crate::source::{MarkedColumn, Source};

/// The place in errors of these rows, which no step has refused.
const STEP: &str = "source";

/// The rows of a source as the first step sees them, if `on_error` keeps failed rows. A row has failed if a column of
/// `read` contains text that is not UTF-8, or any column an unpaired surrogate. With `read` of `None`, all rows are
/// valid. Also returns whether rows may have failed.
///
/// # Errors
/// `Plan` when the source already has a column of errors.
pub(crate) fn checked(
    source: &Source,
    on_error: &OnErrorSpec,
    read: Option<&BTreeSet<String>>,
    limit: Option<usize>,
    metrics: &Arc<StepMetrics>,
) -> Result<(DataFrame, bool)> {
    check_free(source.dataframe.schema(), &on_error.column)?;
    let names: Vec<String> =
        source.dataframe.schema().fields().iter().map(|field| field.name().clone()).collect();
    let keeps = on_error.rows == OnErrorRows::Null;
    let marked = source.marked.as_ref().zip(read).map(|(marked, read)| {
        let fails = |marked: &&MarkedColumn| marked.always_fails || read.contains(&marked.column);
        (&marked.dataframe, marked.columns.iter().filter(fails).collect::<Vec<_>>())
    });
    let Some((rows, columns)) = marked.filter(|(_, columns)| !columns.is_empty()) else {
        let rows = limited(&source.dataframe, limit)?;
        if !keeps {
            return Ok((rows, false));
        }
        // The columns of an output must not depend on whether a file is valid.
        let none = lit(ScalarValue::try_from(&error_type())?).alias(&on_error.column);
        return Ok((rows.select(names.iter().map(ident).chain([none]))?, false));
    };

    let mut message = lit(ScalarValue::Utf8(None));
    for MarkedColumn { marker, .. } in columns.iter().rev() {
        message = when(ident(marker).is_not_null(), ident(marker)).otherwise(message)?;
    }
    let kind = lit(RowErrorKind::InvalidUtf8.name());
    let kind = when(message.clone().is_not_null(), kind).otherwise(lit(ScalarValue::Utf8(None)))?;
    let mut failed = "__source".to_owned();
    while names.contains(&failed) {
        failed.push('_');
    }
    let parts = named_struct(vec![
        lit("value"),
        lit(ScalarValue::Boolean(None)),
        lit("error"),
        message,
        lit("kind"),
        kind,
    ]);
    let mut shown = Vec::new();
    for name in &names {
        let markers = columns.iter().filter(|marked| marked.column == *name && keeps);
        // Steps see null in place of invalid text, so no replacement passes for a value of the file.
        let sound = markers.map(|marked| ident(&marked.marker).is_null()).reduce(Expr::and);
        shown.push(match sound {
            Some(sound) => when(sound, ident(name)).end()?.alias(name),
            None => ident(name),
        });
    }
    let rows = limited(rows, limit)?;
    let (state, plan) = rows.select(shown.into_iter().chain([parts.alias(&failed)]))?.into_parts();
    let node = RowErrorsNode::of_source(plan, &failed, STEP, on_error, Arc::clone(metrics))?;
    let rows = DataFrame::new(state, node.into_plan());
    let error = keeps.then(|| ident(&on_error.column));
    Ok((rows.select(names.iter().map(ident).chain(error))?, true))
}

/// The first `limit` rows.
pub(crate) fn limited(rows: &DataFrame, limit: Option<usize>) -> Result<DataFrame> {
    match limit {
        Some(limit) => rows.clone().limit(0, Some(limit)),
        None => Ok(rows.clone()),
    }
}

/// The columns with invalid text that `plan` reads, in a step or an expression. Columns that only pass through to the
/// output, under any name, do not count. If a plan contains a node that cannot be traced, all its columns count.
pub(crate) fn read_columns(plan: &LogicalPlan, source: &Source) -> Result<BTreeSet<String>> {
    let Some(marked) = &source.marked else { return Ok(BTreeSet::new()) };
    let columns = marked.columns.iter().map(|marked| marked.column.clone()).collect();
    let mut reads = Reads { columns, read: BTreeSet::new() };
    reads.origins(plan)?;
    Ok(reads.read)
}

/// The source column that a column is an unchanged copy of.
type Origin = Option<String>;

struct Reads {
    /// The columns to trace.
    columns: BTreeSet<String>,
    read: BTreeSet<String>,
}

impl Reads {
    /// The origins of a plan's output columns. Records the columns that it reads.
    fn origins(&mut self, plan: &LogicalPlan) -> Result<Vec<Origin>> {
        if let LogicalPlan::TableScan(scan) = plan {
            // Invalid text in other tables is an error of their files.
            let of_scan = |name: &String| self.columns.contains(name).then(|| name.clone());
            let fields = scan.projected_schema.fields().iter();
            return Ok(fields.map(|field| of_scan(field.name())).collect());
        }
        let inputs = plan.inputs();
        let mut origins = Vec::new();
        for input in &inputs {
            origins.push(self.origins(input)?);
        }
        let mut has_subquery = false;
        plan.apply_subqueries(|_| {
            has_subquery = true;
            Ok(TreeNodeRecursion::Stop)
        })?;
        let origin_of = |column: &datafusion::common::Column| -> Origin {
            inputs.iter().zip(&origins).find_map(|(input, origins)| {
                origins.get(input.schema().maybe_index_of_column(column)?)?.clone()
            })
        };
        let fields = plan.schema().fields().len();
        match plan {
            _ if has_subquery => {}
            LogicalPlan::Projection(projection) if projection.expr.len() == fields => {
                let mut given = Vec::new();
                for expr in &projection.expr {
                    if let Expr::Column(column) = expr.clone().unalias_nested().data {
                        given.push(origin_of(&column));
                    } else {
                        self.read.extend(expr.column_refs().into_iter().filter_map(origin_of));
                        given.push(None);
                    }
                }
                return Ok(given);
            }
            LogicalPlan::SubqueryAlias(_) if origins.first().is_some_and(|o| o.len() == fields) => {
                return Ok(origins.swap_remove(0));
            }
            LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Extension(_) => {
                for expr in plan.expressions() {
                    self.read.extend(expr.column_refs().into_iter().filter_map(origin_of));
                }
                return Ok(plan.schema().columns().iter().map(origin_of).collect());
            }
            _ => {}
        }
        let all = origins.into_iter().flatten().flatten();
        self.read.extend(all);
        if has_subquery {
            self.read.clone_from(&self.columns);
        }
        Ok(vec![None; fields])
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::empty::EmptyTable;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// The columns with invalid text, of `a` and `b`, that a query reads.
    async fn reads(query: &str) -> String {
        let context = SessionContext::new();
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let schema = Arc::new(Schema::new(["a", "b", "c"].map(field).to_vec()));
        context.register_table("input", Arc::new(EmptyTable::new(schema))).unwrap();
        let plan = context.sql(query).await.unwrap().into_parts().1;
        let columns = ["a", "b"].map(str::to_owned).into();
        let mut reads = Reads { columns, read: BTreeSet::new() };
        reads.origins(&plan).unwrap();
        reads.read.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn columns_that_only_go_through_are_not_read() {
        for (query, expected) in [
            ("SELECT * FROM input", ""),
            ("SELECT a AS x, c FROM input", ""),
            ("SELECT x FROM (SELECT a AS x, b FROM input) AS t LIMIT 1", ""),
            ("SELECT upper(c), a FROM input WHERE c > 'x' ORDER BY c LIMIT 3", ""),
            ("SELECT upper(a) AS c, b FROM input", "a"),
            ("SELECT y FROM (SELECT a AS x, b AS y FROM input) WHERE x <> ''", "a"),
            ("SELECT c, count(*) FROM input GROUP BY c", ""),
            ("SELECT b, count(*) FROM input GROUP BY b", "b"),
            ("SELECT c FROM input ORDER BY b", "b"),
            ("SELECT l.c FROM input AS l JOIN input AS r ON l.a = r.c", "a"),
            ("SELECT c, row_number() OVER (ORDER BY a) FROM input", "a"),
            ("SELECT a FROM input UNION ALL SELECT c FROM input", "a"),
            ("SELECT DISTINCT b, c FROM input", "b"),
            ("SELECT c FROM input WHERE c IN (SELECT c FROM input)", "a b"),
        ] {
            assert_eq!(reads(query).await, expected, "{query}");
        }
    }
}
