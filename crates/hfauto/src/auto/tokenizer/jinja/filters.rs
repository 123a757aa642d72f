//! The library's filters, functions and methods. Each first pays for its reads and writes, and its result is converted
//! to our own values.

use std::borrow::Cow;
use std::sync::OnceLock;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters, functions};
use minijinja_contrib::pycompat;

use super::budget::{ITEM, charge, charge_times};
use super::python::{flat_len, own, own_item, size};
use crate::limits;

/// The available filters of the library. `tojson`, `string` and `title` are our own; `round` is excluded.
const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "sum",
    "trim",
    "unique",
    "upper",
    "zip",
];

pub(super) fn add_to(environment: &mut Environment<'static>) {
    for name in FILTERS {
        environment.add_filter(*name, move |state: &State, args: Rest<Value>| {
            charge_filter(name, &args)?;
            own(call(name, state, &args)?)
        });
    }
    environment.add_function("range", range);
    environment.add_function("dict", |value: Option<Value>, more: Kwargs| {
        own(functions::dict(value, more)?)
    });
    environment.add_function("namespace", namespace);
    environment.remove_global("debug");
    environment.set_unknown_method_callback(method);
}

/// Calls the library's filter. Filters that call others by name find ours.
fn call(name: &str, state: &State, args: &[Value]) -> Result<Value, Error> {
    static PLAIN: OnceLock<Environment<'static>> = OnceLock::new();
    Ok(match name {
        "map" => {
            let (value, rest): (Value, Rest<Value>) = from_args(args)?;
            Value::from(filters::map(state, value, rest)?)
        }
        "select" | "reject" => {
            let (value, test, rest): (Value, Option<Cow<'_, str>>, Rest<Value>) = from_args(args)?;
            let filter = if name == "select" { filters::select } else { filters::reject };
            Value::from(filter(state, value, test, rest)?)
        }
        "selectattr" | "rejectattr" => {
            let (value, attr, test, rest): (
                Value,
                Cow<'_, str>,
                Option<Cow<'_, str>>,
                Rest<Value>,
            ) = from_args(args)?;
            let filter =
                if name == "selectattr" { filters::selectattr } else { filters::rejectattr };
            Value::from(filter(state, value, attr, test, rest)?)
        }
        "escape" | "e" => {
            let (value,): (&Value,) = from_args(args)?;
            filters::escape(state, value)?
        }
        // The library's filters for both strings and lists fail on an empty list.
        "slice" | "batch" | "reverse"
            if args.first().is_some_and(|v| flat_len(v) == 0 && is_list(v)) =>
        {
            Value::from(Vec::<Value>::new())
        }
        _ => PLAIN.get_or_init(super::plain).empty_state().apply_filter(name, args)?,
    })
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn charge_filter(name: &str, args: &[Value]) -> Result<(), Error> {
    let Some(value) = args.first() else { return Ok(()) };
    let len = flat_len(value);
    let weights =
        |values: &[Value]| values.iter().map(|v| size(v).weight).fold(0, usize::saturating_add);
    match name {
        "default" | "d" | "attr" | "bool" | "abs" => charge(1),
        "length" | "count" | "first" | "last" | "int" | "float" => {
            charge(value.as_str().map_or(1, str::len))
        }
        "lower" | "upper" | "capitalize" | "safe" => charge_times(3, weights(args)),
        "escape" | "e" => charge_times(6, weights(args)),
        "trim" => charge_trim(value, args.get(1)),
        "replace" => charge_replace(value, args.get(1), args.get(2)),
        "join" => charge_join(value, args.get(1)),
        "indent" => charge_indent(value, &args[1..]),
        "batch" | "slice" => {
            let count = args.get(1).and_then(Value::as_i64).unwrap_or(1);
            let count = usize::try_from(count).unwrap_or(0);
            if count > limits::CHAT_WIDTH {
                return Err(too_wide(name, count));
            }
            charge_times(len.saturating_add(count), 2 * ITEM)
        }
        "format" => charge_format(args),
        "split" => charge_split(value, args.get(1)),
        "lines" => charge_split(value, Some(&Value::from("\n"))),
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
            charge_times(len, weights(&args[1..]).saturating_add(2 * ITEM))?;
            let reads = ["lower", "upper", "escaped", "safe"];
            if args[1..].iter().any(|arg| arg.as_str().is_some_and(|name| reads.contains(&name))) {
                charge(size(value).weight)?;
            }
            Ok(())
        }
        "sort" | "unique" | "groupby" | "dictsort" | "min" | "max" => {
            charge(size(value).weight.saturating_mul(8))?;
            charge_times(len, 2 * ITEM + weights(&args[1..]))
        }
        // Every sum is a new value.
        "sum" => charge_times(len, size(value).weight),
        "pprint" => charge_times(100, size(value).weight),
        _ => charge(
            args.iter().map(flat_len).fold(0, usize::saturating_add).saturating_mul(2 * ITEM),
        ),
    }
}

fn charge_trim(value: &Value, chars: Option<&Value>) -> Result<(), Error> {
    let chars = chars.and_then(Value::as_str).map_or(1, str::len);
    charge_times(flat_len(value), if chars > 16 { chars } else { 1 })
}

fn charge_replace(value: &Value, from: Option<&Value>, to: Option<&Value>) -> Result<(), Error> {
    let text = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
    for value in [Some(value), from, to].into_iter().flatten() {
        charge(size(value).weight)?;
    }
    let (from, to) = (text(from), text(to));
    if to.len() > from.len() {
        let count = match value.as_str() {
            Some(value) => value.matches(&from).count(),
            None => size(value).weight,
        };
        charge_times(count, to.len())?;
    }
    Ok(())
}

fn charge_join(value: &Value, between: Option<&Value>) -> Result<(), Error> {
    let between = between.map_or(0, |between| size(between).weight);
    charge(size(value).weight.saturating_mul(2))?;
    charge_times(flat_len(value), between.saturating_add(ITEM))
}

fn charge_indent(value: &Value, options: &[Value]) -> Result<(), Error> {
    let mut width = 4;
    for option in options {
        let named = Kwargs::try_from(option.clone()).ok();
        let named = named.and_then(|options| options.get::<Value>("width").ok());
        if let Some(given) = named.as_ref().unwrap_or(option).as_i64() {
            width = width.max(usize::try_from(given).unwrap_or(0));
        }
    }
    if width > limits::CHAT_WIDTH {
        return Err(too_wide("indent", width));
    }
    let lines = value.as_str().map_or(0, |text| text.matches('\n').count());
    charge_times(lines + 1, width)?;
    charge(size(value).weight.saturating_mul(2))
}

fn charge_split(value: &Value, by: Option<&Value>) -> Result<(), Error> {
    let Some(text) = value.as_str() else { return charge_times(flat_len(value), 2 * ITEM) };
    charge(text.len())?;
    let pieces = match by.and_then(Value::as_str) {
        Some(by) => text.matches(by).count(),
        None => text.split_whitespace().count(),
    };
    charge_times(pieces + 1, 2 * ITEM)
}

/// Charges for a format and its arguments; numbers in the format are widths.
fn charge_format(args: &[Value]) -> Result<(), Error> {
    let Some(format) = args.first().and_then(Value::as_str) else { return charge(1) };
    charge(format.len())?;
    let mut widths = 0_usize;
    for digits in format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        widths = widths.saturating_add(digits.parse().unwrap_or(usize::MAX));
    }
    // A `*` or a nested field takes a width from the arguments.
    let mut largest = 0;
    for arg in &args[1..] {
        let weight = size(arg).weight;
        largest = largest.max(weight);
        if let Some(number) = arg.as_i64().filter(|_| format.contains('*') || format.contains(":{"))
        {
            widths =
                widths.saturating_add(usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX));
        }
    }
    if widths > limits::CHAT_WIDTH {
        return Err(too_wide("format", widths));
    }
    let fields = format.bytes().filter(|byte| matches!(byte, b'%' | b'{')).count();
    charge_times(fields, largest.saturating_mul(2).saturating_add(widths).saturating_add(ITEM))
}

fn too_wide(what: &str, found: usize) -> Error {
    let limit = limits::CHAT_WIDTH;
    Error::new(
        ErrorKind::OutOfFuel,
        format!("`{what}` is asked for {found} characters or parts, expected at most {limit}"),
    )
}

fn range(lower: isize, upper: Option<isize>, step: Option<isize>) -> Result<Value, Error> {
    let (from, to) = upper.map_or((0, lower), |upper| (lower, upper));
    if from.checked_sub(to).is_none() || step == Some(isize::MIN) {
        return Err(Error::new(ErrorKind::InvalidOperation, "range has too many elements"));
    }
    own(functions::range(lower, upper, step)?)
}

fn namespace(defaults: Option<Value>) -> Result<Value, Error> {
    let Some(defaults) = defaults else { return functions::namespace(None) };
    let Some(object) = defaults.as_object().filter(|_| defaults.kind() == ValueKind::Map) else {
        return functions::namespace(Some(defaults));
    };
    let mut entries = Vec::new();
    for (key, value) in object.try_iter_pairs().into_iter().flatten() {
        charge(ITEM)?;
        entries.push((key, own_item(value)?));
    }
    functions::namespace(Some(entries.into_iter().collect()))
}

/// The methods of Python's strings, lists and dicts.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let first = args.first();
    match (value.as_str(), name) {
        (Some(text), "count") if first.and_then(Value::as_str) == Some("") => {
            charge(text.len())?;
            return Ok(Value::from(text.chars().count() + 1));
        }
        (Some(_), "replace") => charge_replace(value, first, args.get(1))?,
        (Some(_), "split" | "rsplit") => charge_split(value, first)?,
        (Some(_), "splitlines") => charge_split(value, Some(&Value::from("\n")))?,
        (Some(_), "strip" | "lstrip" | "rstrip") => charge_trim(value, first)?,
        (Some(text), "join") => {
            charge_join(first.unwrap_or(value), Some(value))?;
            charge(text.len())?;
        }
        (Some(_), "format") => {
            let all: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
            charge_format(&all)?;
        }
        (Some(text), "upper" | "lower" | "title" | "capitalize") => charge_times(3, text.len())?,
        (Some(text), _) => {
            charge(text.len())?;
            for arg in args {
                charge(size(arg).weight)?;
            }
        }
        (None, "get") => charge(first.map_or(1, |key| size(key).weight))?,
        (None, "count") => charge(size(value).weight)?,
        (None, _) => charge_times(flat_len(value), 2 * ITEM)?,
    }
    if let (Some(text), "rsplit") = (value.as_str(), name) {
        return own(rsplit(state, text, args)?);
    }
    own(pycompat::unknown_method_callback(state, value, name, args)?)
}

/// `str.rsplit(sep=None, maxsplit=-1)` of Python, which the library lacks.
fn rsplit(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok());
    let mut parts: Vec<&str> = match (separator, most) {
        (Some(""), _) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
        }
        (Some(separator), Some(most)) => text.rsplitn(most.saturating_add(1), separator).collect(),
        (Some(separator), None) => text.rsplit(separator).collect(),
        (None, None) => {
            return pycompat::unknown_method_callback(state, &Value::from(text), "split", &[]);
        }
        (None, Some(most)) => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end());
            while !rest.is_empty() {
                let cut = rest.rfind(char::is_whitespace).filter(|_| parts.len() < most);
                let Some(at) = cut else {
                    parts.push(rest);
                    break;
                };
                parts.push(rest[at..].trim_start());
                rest = rest[..at].trim_end();
            }
            parts
        }
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Template;

    #[test]
    fn rsplit_is_pythons() {
        // The results are those of Python 3.11.
        for (source, expected) in [
            ("{{ 'a/b/c'.rsplit('/', 1) }}", "['a/b', 'c']"),
            ("{{ 'a/b/c'.rsplit('/') }}", "['a', 'b', 'c']"),
            ("{{ '  a b  c '.rsplit(none, 1) }}", "['  a b', 'c']"),
            ("{{ '  a b  c '.rsplit() }}", "['a', 'b', 'c']"),
            ("{{ 'aaa'.rsplit('aa') }}", "['a', '']"),
            ("{{ 'a b'.rsplit(none, 0) }}", "['a b']"),
            ("{{ ' '.rsplit(none, 2) }}", "[]"),
            ("{{ '<think>é</think>x'.rsplit('</think>', 1)[-1] }}", "x"),
        ] {
            assert_eq!(Template::new(source).unwrap().render([]).unwrap(), expected, "{source}");
        }
        assert!(Template::new("{{ 'a'.rsplit('') }}").unwrap().render([]).is_err());
    }
}
