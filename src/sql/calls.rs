//! Collects the calls in an expression, and the condition under which each is needed. A branch of `CASE`, a later
//! argument of `COALESCE`, and the second operand of `AND` and `OR` are lazy in SQL: a call there is needed only for
//! rows that meet a condition. Not here: replacing the calls (`lift`).

use std::any::Any;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, BinaryExpr, Case, ScalarFunction};
use datafusion::logical_expr::utils::{conjunction, disjunction, split_binary_owned};
use datafusion::logical_expr::{Expr, Operator, lit, when};

use super::marker::ModelFunction;

/// A distinct call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The call itself.
    pub(super) expr: Expr,
    /// The rows that need the call; `None` for all.
    pub(super) condition: Option<Expr>,
}

/// The function and arguments of an expression that is a call.
pub(super) fn model_function(expr: &Expr) -> Option<(&ModelFunction, &[Expr])> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let function = (func.inner().as_ref() as &dyn Any).downcast_ref::<ModelFunction>()?;
    Some((function, args))
}

/// Whether an expression contains a call.
pub(super) fn has_call(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(model_function(expr).is_some())).unwrap_or(false)
}

/// The distinct calls of expressions. Each call comes after the calls in its arguments.
pub(super) fn calls<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> Result<Vec<Call>> {
    let mut calls = Calls(Vec::new());
    for expr in exprs {
        calls.visit(expr, None)?;
    }
    let mut calls = calls.0;
    // A condition that needs a later call, or the call itself, is dropped: the call is then made for all rows.
    for index in 0..calls.len() {
        let later: Vec<Expr> = calls[index..].iter().map(|call| call.expr.clone()).collect();
        calls[index]
            .condition
            .take_if(|condition| condition.exists(|expr| Ok(later.contains(expr))).unwrap_or(true));
    }
    Ok(calls)
}

/// Replaces expressions by others.
pub(super) fn replace(expr: Expr, replacements: &[(Expr, Expr)]) -> Result<Expr> {
    let replaced = expr.transform_down(|expr| {
        Ok(match replacements.iter().find(|(from, _)| *from == expr) {
            Some((_, to)) => Transformed::new(to.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        })
    })?;
    Ok(replaced.data)
}

struct Calls(Vec<Call>);

impl Calls {
    fn visit(&mut self, expr: &Expr, condition: Option<&Expr>) -> Result<()> {
        if !has_call(expr) {
            return Ok(());
        }
        if let Some((_, args)) = model_function(expr) {
            for arg in args {
                self.visit(arg, condition)?;
            }
            self.add(expr, condition);
            return Ok(());
        }
        match expr {
            Expr::Case(case) => self.case(case, condition),
            Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => {
                self.logical(expr, *op, condition)
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if is_coalesce(func.name()) => {
                self.coalesce(args, condition)
            }
            Expr::AggregateFunction(AggregateFunction { params, .. })
                if params.filter.is_some() =>
            {
                let filter = params.filter.as_deref().cloned().unwrap_or_else(|| lit(true));
                self.visit(&filter, condition)?;
                let needed = and_then(condition, filter.is_true());
                let sorted = params.order_by.iter().map(|sort| &sort.expr);
                for arg in params.args.iter().chain(sorted) {
                    self.visit(arg, needed.as_ref())?;
                }
                Ok(())
            }
            _ => {
                let mut result = Ok(());
                expr.apply_children(|child| {
                    result = self.visit(child, condition);
                    Ok(if result.is_ok() {
                        TreeNodeRecursion::Continue
                    } else {
                        TreeNodeRecursion::Stop
                    })
                })?;
                result
            }
        }
    }

    /// Adds a call, or adds a condition to a known one, which is needed if any of its conditions holds.
    fn add(&mut self, expr: &Expr, condition: Option<&Expr>) {
        // Each occurrence of a volatile expression draws its own value.
        let known = self.0.iter_mut().find(|call| call.expr == *expr && !expr.is_volatile());
        match known {
            Some(call) => {
                call.condition = match (call.condition.take(), condition) {
                    (Some(a), Some(b)) if a == *b => Some(a),
                    (Some(a), Some(b)) => Some(a.or(b.clone())),
                    _ => None,
                };
            }
            None => self.0.push(Call { expr: expr.clone(), condition: condition.cloned() }),
        }
    }

    /// The branch of the first condition that is true, else the last one.
    fn case(&mut self, case: &Case, condition: Option<&Expr>) -> Result<()> {
        if let Some(base) = &case.expr {
            self.visit(base, condition)?;
        }
        // Whether none of the first `count` conditions holds, and, with `then`, the next one does.
        let reached = |count: usize, then: Option<&Expr>| {
            let mut branches: Vec<_> = case.when_then_expr[..count]
                .iter()
                .map(|(when, _)| (when.clone(), Box::new(lit(false))))
                .collect();
            branches.extend(then.map(|when| (Box::new(when.clone()), Box::new(lit(true)))));
            if branches.is_empty() {
                return condition.cloned();
            }
            let otherwise = lit(then.is_none());
            let reached = Case::new(case.expr.clone(), branches, Some(Box::new(otherwise)));
            and_then(condition, Expr::Case(reached))
        };
        for (index, (when, then)) in case.when_then_expr.iter().enumerate() {
            self.visit(when, reached(index, None).as_ref())?;
            self.visit(then, reached(index, Some(when)).as_ref())?;
        }
        if let Some(otherwise) = &case.else_expr {
            self.visit(otherwise, reached(case.when_then_expr.len(), None).as_ref())?;
        }
        Ok(())
    }

    /// The operands without calls decide `AND` and `OR` where they suffice, then those with calls, in order.
    fn logical(&mut self, expr: &Expr, op: Operator, condition: Option<&Expr>) -> Result<()> {
        let operands = split_binary_owned(expr.clone(), op);
        let (calling, mut decided): (Vec<Expr>, Vec<Expr>) =
            operands.into_iter().partition(has_call);
        for operand in calling {
            let open = match op {
                Operator::And => conjunction(decided.clone()).map(Expr::is_not_false),
                _ => disjunction(decided.clone()).map(Expr::is_not_true),
            };
            let needed = match open {
                Some(open) => and_then(condition, open),
                None => condition.cloned(),
            };
            self.visit(&operand, needed.as_ref())?;
            decided.push(operand);
        }
        Ok(())
    }

    /// Each argument is needed if all previous ones are null.
    fn coalesce(&mut self, args: &[Expr], condition: Option<&Expr>) -> Result<()> {
        let mut needed = condition.cloned();
        for arg in args {
            self.visit(arg, needed.as_ref())?;
            needed = and_then(needed.as_ref(), arg.clone().is_null());
        }
        Ok(())
    }
}

fn is_coalesce(name: &str) -> bool {
    matches!(name, "coalesce" | "nvl" | "ifnull")
}

/// `condition AND then`, where `then` is evaluated only if `condition` holds. If `then` cannot be evaluated twice or
/// conditionally, `condition` is unchanged.
fn and_then(condition: Option<&Expr>, then: Expr) -> Option<Expr> {
    let elsewhere = then.is_volatile()
        || then
            .exists(|expr| {
                Ok(matches!(
                    expr,
                    Expr::ScalarSubquery(_)
                        | Expr::Exists(_)
                        | Expr::InSubquery(_)
                        | Expr::SetComparison(_)
                        | Expr::OuterReferenceColumn(..)
                        | Expr::AggregateFunction(_)
                        | Expr::WindowFunction(_)
                        | Expr::LambdaVariable(_)
                ))
            })
            .unwrap_or(true);
    match condition {
        _ if elsewhere => condition.cloned(),
        None => Some(then),
        Some(condition) => Some(only_where(condition.clone(), then, lit(false))),
    }
}

/// `value` if `condition` holds; it is not evaluated otherwise.
pub(super) fn only_where(condition: Expr, value: Expr, otherwise: Expr) -> Expr {
    let branch = (Box::new(condition), Box::new(value));
    Expr::Case(Case::new(None, vec![branch], Some(Box::new(otherwise))))
}

/// `value` if `condition` holds, else null.
pub(super) fn null_unless(condition: Expr, value: Expr) -> Result<Expr> {
    when(condition, value).end()
}

/// Whether an expression is an untyped null.
pub(super) fn is_null_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Null, _))
}
