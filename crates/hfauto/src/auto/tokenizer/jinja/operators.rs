//! Template operators with more than constant cost, as filters; see [`super::compile`].

use std::sync::OnceLock;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Expression};

use super::budget::{self, charge};
use super::python::{self, own, own_item, size};

pub(super) const CONCAT: &str = "__concat";
pub(super) const ADD: &str = "__add";
pub(super) const MUL: &str = "__mul";
pub(super) const EQ: &str = "__eq";
pub(super) const NE: &str = "__ne";
/// A new list or map, as a value that knows its size.
pub(super) const OWN: &str = "__own";
/// A value assigned to an attribute of a namespace.
pub(super) const ITEM: &str = "__item";
/// An operand that is read once, item by item.
pub(super) const FLAT: &str = "__flat";
/// An operand that is read completely, with nested items.
pub(super) const DEEP: &str = "__deep";
/// A string or list that is indexed.
pub(super) const INDEXED: &str = "__indexed";
/// An operand that is sliced.
pub(super) const SLICEABLE: &str = "__sliceable";
/// The result of a slice.
pub(super) const SLICED: &str = "__sliced";

/// Tests that read both sides.
pub(super) const DEEP_TESTS: &[&str] = &[
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "in",
    "lower",
    "upper",
    "startingwith",
    "endingwith",
    "sameas",
];

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(CONCAT, concat);
    environment.add_filter(ADD, add);
    environment.add_filter(MUL, mul);
    environment.add_filter(EQ, |a: Value, b: Value| equal(&a, &b));
    environment.add_filter(NE, |a: Value, b: Value| Ok::<_, Error>(!equal(&a, &b)?));
    environment.add_filter(OWN, own);
    environment.add_filter(ITEM, own_item);
    environment.add_filter(SLICED, own);
    environment.add_filter(FLAT, flat);
    environment.add_filter(SLICEABLE, |value: Value| -> Result<Value, Error> {
        // The engine fails when it slices an empty list backwards, but slices `none` to an empty list.
        let value = flat(value)?;
        Ok(if is_list(&value) && value.len() == Some(0) { Value::from(()) } else { value })
    });
    environment.add_filter(DEEP, |value: Value| -> Result<Value, Error> {
        charge(size(&value).weight)?;
        Ok(value)
    });
    environment.add_filter(INDEXED, |value: Value| -> Result<Value, Error> {
        charge(value.as_str().map_or(1, str::len))?;
        Ok(value)
    });
}

fn flat(value: Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => charge(text.len())?,
        None => budget::charge_times(python::flat_len(&value), budget::ITEM)?,
    }
    Ok(value)
}

/// `a ~ b`
fn concat(a: Value, b: Value) -> Result<Value, Error> {
    charge(size(&a).weight.saturating_add(size(&b).weight))?;
    let mut text = super::shown(&a)?;
    match b.as_str() {
        Some(b) => text.push_str(b),
        None => text.push_str(&super::shown(&b)?),
    }
    Ok(Value::from(text))
}

fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    charge(size(a).weight.min(size(b).weight))?;
    Ok(a == b)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// `a + b`
fn add(a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        charge(left.len() + right.len())?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(&a) && is_list(&b) {
        let mut items = Vec::new();
        for item in a.try_iter()?.chain(b.try_iter()?) {
            charge(budget::ITEM)?;
            items.push(item);
        }
        return own(Value::from(items));
    }
    // A fast path for counters.
    if let (Some(left), Some(right)) = (a.as_i64(), b.as_i64())
        && a.is_integer()
        && b.is_integer()
        && let Some(sum) = left.checked_add(right)
    {
        return Ok(Value::from(sum));
    }
    arithmetic(&ADDITION, "a + b", a, b)
}

/// `a * b`: repeats texts and lists.
fn mul(a: Value, b: Value) -> Result<Value, Error> {
    let repeats = |value: &Value| value.as_str().is_some() || is_list(value);
    for (repeated, count) in [(&a, &b), (&b, &a)] {
        if repeats(repeated) {
            let count = count.as_i64().map_or(1, |count| usize::try_from(count).unwrap_or(0));
            budget::charge_times(count, size(repeated).weight.max(1))?;
        }
    }
    own(arithmetic(&PRODUCT, "a * b", a, b)?)
}

type Compiled = OnceLock<Option<Expression<'static, 'static>>>;
static ADDITION: Compiled = OnceLock::new();
static PRODUCT: Compiled = OnceLock::new();

/// The engine's own arithmetic, which it does not export.
fn arithmetic(
    cell: &'static Compiled,
    text: &'static str,
    a: Value,
    b: Value,
) -> Result<Value, Error> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    let compiled = cell
        .get_or_init(|| ENVIRONMENT.get_or_init(Environment::new).compile_expression(text).ok());
    let Some(expression) = compiled else {
        return Err(Error::new(ErrorKind::InvalidOperation, "no arithmetic"));
    };
    expression.eval(Value::from_iter([("a", a), ("b", b)]))
}
