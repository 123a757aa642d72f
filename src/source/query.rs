//! Checks the text of a query before its tables exist: its syntax, and whether it can be computed on parts of the rows.
//! Not here: names and types, which the planner checks.

use std::ops::ControlFlow;

use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SetExpr, Statement as SqlStatement, TableFactor,
    visit_expressions,
};

use super::{check_nesting, stream_error};
use crate::error::{Error, ErrorKind, Result};

/// Checks the syntax of a `sql` step, without tables: it must be a single query.
///
/// # Errors
/// `Config` with the parser's message.
pub fn check_query(query: &str) -> Result<()> {
    parse(query).map(drop)
}

/// Checks the syntax of `where`, without columns.
///
/// # Errors
/// `Config` with the parser's message.
pub fn check_predicate(predicate: &str) -> Result<()> {
    check_query(&format!("SELECT * FROM input WHERE {predicate}"))
        .map_err(|e| e.at(format!("`where: {predicate}`")))
}

/// Why a query cannot be computed on parts of the rows, as far as its text shows; `None` does not rule out that the plan
/// has a reason.
///
/// # Errors
/// Like [`check_query`].
pub fn why_whole_query(query: &str) -> Result<Option<&'static str>> {
    let Statement::Statement(statement) = parse(query)? else { return Ok(None) };
    let SqlStatement::Query(query) = *statement else { return Ok(None) };
    Ok(of_query(&query))
}

fn parse(query: &str) -> Result<Statement> {
    check_nesting(query)?;
    let mut statements = DFParser::parse_sql(query).map_err(|e| {
        stream_error(e, &[]).hint("the table `input` has the rows of the step before")
    })?;
    match (statements.len(), statements.pop_front()) {
        (1, Some(statement)) => Ok(statement),
        (count, _) => Err(Error::new(
            ErrorKind::Config,
            format!("a `sql` step must be a single query, found {count} statements"),
        )),
    }
}

fn of_query(query: &Query) -> Option<&'static str> {
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return Some("has a limit");
    }
    if query.order_by.is_some() {
        return Some("sorts all rows");
    }
    match query.body.as_ref() {
        SetExpr::Select(select) => of_select(select),
        SetExpr::Query(query) => of_query(query),
        SetExpr::SetOperation { .. } => Some("combines tables with a set operation"),
        _ => None,
    }
}

fn of_select(select: &Select) -> Option<&'static str> {
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    };
    if is_grouped || select.distinct.is_some() || select.having.is_some() {
        return Some("aggregates all rows");
    }
    let is_table = |table: &TableFactor| matches!(table, TableFactor::Table { args: None, .. });
    let joined = select.from.iter().flat_map(|from| from.joins.iter().map(|join| &join.relation));
    let tables = select.from.iter().skip(1).map(|from| &from.relation).chain(joined);
    if tables.into_iter().any(is_table) {
        return Some("joins all rows");
    }
    let aggregates = all_default_aggregate_functions();
    let is_aggregate = |name: &str| {
        aggregates.iter().any(|aggregate| {
            aggregate.name() == name || aggregate.aliases().iter().any(|alias| alias == name)
        })
    };
    let found = visit_expressions(&select.projection, |expression: &Expr| {
        match expression {
            // Only the plan shows which tables a subquery reads.
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                ControlFlow::Break(None)
            }
            Expr::Function(function) if function.over.is_some() => {
                ControlFlow::Break(Some("has a window over all rows"))
            }
            Expr::Function(function) if is_aggregate(&function.name.to_string().to_lowercase()) => {
                ControlFlow::Break(Some("aggregates all rows"))
            }
            _ => ControlFlow::Continue(()),
        }
    });
    found.break_value().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_whether_it_needs_all_rows() {
        for (query, expected) in [
            ("SELECT * FROM input", None),
            ("SELECT id, upper(text) FROM input WHERE id > 3", None),
            ("SELECT unnest(items) FROM input", None),
            ("SELECT * FROM input ORDER BY id", Some("sorts all rows")),
            ("SELECT * FROM input LIMIT 3", Some("has a limit")),
            ("SELECT * FROM input OFFSET 3", Some("has a limit")),
            ("SELECT lang, 1 FROM input GROUP BY lang", Some("aggregates all rows")),
            ("SELECT DISTINCT lang FROM input", Some("aggregates all rows")),
            ("SELECT 1 + Count(*) FROM input", Some("aggregates all rows")),
            (
                "SELECT row_number() OVER (ORDER BY id) FROM input",
                Some("has a window over all rows"),
            ),
            ("SELECT * FROM input AS a JOIN input AS b ON a.id = b.id", Some("joins all rows")),
            ("SELECT (SELECT max(id) FROM input) FROM input", None),
            ("SELECT * FROM input, other", Some("joins all rows")),
            (
                "SELECT 1 FROM input UNION ALL SELECT 2",
                Some("combines tables with a set operation"),
            ),
        ] {
            assert_eq!(why_whole_query(query).unwrap(), expected, "{query}");
        }
        why_whole_query("SELECT 1; SELECT 2").unwrap_err();
    }
}
