//! Formats values as Python does: chat templates print them and pass them to `json.dumps`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::budget::{ITEM, charge};
use crate::limits;

/// A template value that is formatted as in Python.
pub(in super::super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Array(list) => {
            Value::from_object(List::new(list.iter().map(value).collect(), ObjectRepr::Seq))
        }
        serde_json::Value::Object(map) => {
            let entries = map.iter().map(|(key, item)| (Value::from(key.as_str()), value(item)));
            Value::from_object(Dict::new(entries.collect()))
        }
        scalar => Value::from_serialize(scalar),
    }
}

/// The total size of a value; a list that occurs twice counts twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Bytes of strings, plus [`ITEM`] for each value.
    pub(super) weight: usize,
    /// The nesting depth of lists and maps.
    pub(super) depth: usize,
}

impl Size {
    fn around<'a>(items: impl Iterator<Item = &'a Value>) -> Self {
        let mut all = Self { weight: ITEM, depth: 0 };
        for item in items {
            let item = size(item);
            all.weight = all.weight.saturating_add(item.weight);
            all.depth = all.depth.max(item.depth);
        }
        all.depth += 1;
        all
    }
}

/// The size of a value, computed from its parts.
pub(super) fn size(value: &Value) -> Size {
    if let Some(text) = value.as_str() {
        return Size { weight: ITEM + text.len(), depth: 0 };
    }
    let Some(object) = value.as_object() else { return Size { weight: ITEM, depth: 0 } };
    if let Some(list) = object.downcast_ref::<List>() {
        list.size
    } else if let Some(dict) = object.downcast_ref::<Dict>() {
        dict.size
    } else if object.repr() == ObjectRepr::Plain {
        Size { weight: ITEM, depth: 0 }
    } else if let Some(pairs) = object.try_iter_pairs().filter(|_| object.repr() == ObjectRepr::Map)
    {
        // A namespace or keyword arguments; their values are already owned.
        let items: Vec<Value> = pairs.flat_map(|(key, item)| [key, item]).collect();
        Size::around(items.iter())
    } else {
        let items: Vec<Value> = items(value).collect();
        Size::around(items.iter())
    }
}

/// The cost of reading a value once: the bytes of a text, or the number of items or entries.
pub(super) fn flat_len(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.len().unwrap_or(1), str::len)
}

/// Converts a value to one with a known size: copies lists, maps and iterators to our own lists and maps. Namespaces,
/// macros and functions stay unchanged.
///
/// # Errors
/// `OutOfFuel` for a value that is too long or too deep.
pub(super) fn own(value: Value) -> Result<Value, Error> {
    owned(value, 0)
}

/// [`own`] for an element of a list, a map or a namespace. The element must not be a namespace or macro, because these
/// could come to contain themselves.
pub(super) fn own_item(value: Value) -> Result<Value, Error> {
    owned(value, 1)
}

fn owned(value: Value, depth: usize) -> Result<Value, Error> {
    let Some(object) = value.as_object() else { return Ok(value) };
    if object.is::<List>() || object.is::<Dict>() {
        return Ok(value);
    }
    let repr = object.repr();
    let fixed = repr == ObjectRepr::Plain || object.type_name().ends_with("::Namespace");
    if fixed && depth == 0 {
        return Ok(value);
    }
    if fixed {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a namespace, a macro or a function cannot be kept in a list, a map or a namespace",
        ));
    }
    if depth > limits::CHAT_DEPTH {
        return Err(too_deep());
    }
    if repr == ObjectRepr::Map {
        let mut entries = Vec::new();
        for (key, item) in object.try_iter_pairs().into_iter().flatten() {
            charge(2 * ITEM)?;
            entries.push((owned(key, depth + 1)?, owned(item, depth + 1)?));
        }
        let dict = Dict::new(entries);
        if dict.size.depth > limits::CHAT_DEPTH {
            Err(too_deep())
        } else {
            Ok(Value::from_object(dict))
        }
    } else {
        let mut items = Vec::new();
        for item in object.try_iter().into_iter().flatten() {
            charge(ITEM)?;
            items.push(owned(item, depth + 1)?);
        }
        let list = List::new(items, repr);
        if list.size.depth > limits::CHAT_DEPTH {
            Err(too_deep())
        } else {
            Ok(Value::from_object(list))
        }
    }
}

fn too_deep() -> Error {
    let limit = limits::CHAT_DEPTH;
    Error::new(ErrorKind::OutOfFuel, format!("lists and maps are nested more than {limit} deep"))
}

#[derive(Debug)]
struct List {
    items: Vec<Value>,
    size: Size,
    repr: ObjectRepr,
}

impl List {
    fn new(items: Vec<Value>, repr: ObjectRepr) -> Self {
        Self { size: Size::around(items.iter()), items, repr }
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.repr
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(Arc::clone(self))).map_err(|_| fmt::Error)?)
    }
}

/// A map in insertion order.
#[derive(Debug)]
struct Dict {
    entries: Vec<(Value, Value)>,
    /// The position of each key, for maps of more than a few entries.
    index: HashMap<Value, usize>,
    size: Size,
}

impl Dict {
    fn new(entries: Vec<(Value, Value)>) -> Self {
        let size = Size::around(entries.iter().flat_map(|(key, item)| [key, item]));
        let keys = entries.iter().enumerate().map(|(at, (key, _))| (key.clone(), at));
        let index = if entries.len() > 16 { keys.collect() } else { HashMap::new() };
        Self { entries, index, size }
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if let Some(key) = key.as_str() {
            return self.get_value_by_str(key);
        }
        let at = if self.index.is_empty() {
            self.entries.iter().position(|(known, _)| known == key)?
        } else {
            *self.index.get(key)?
        };
        Some(self.entries[at].1.clone())
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let at = if self.index.is_empty() {
            self.entries.iter().position(|(known, _)| known.as_str() == Some(key))?
        } else {
            *self.index.get(&Value::from(key))?
        };
        Some(self.entries[at].1.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.entries.len())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.iter().map(|(key, _)| key.clone()).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(Arc::clone(self))).map_err(|_| fmt::Error)?)
    }
}

/// `str(value)`: strings unchanged, everything else as in [`repr`].
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// `repr(value)`.
///
/// # Errors
/// `OutOfFuel` when the rendering's budget is spent.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    charge(size(value).weight)?;
    let mut out = String::new();
    write_repr(&mut out, value);
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number_repr(value)),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in items(value).enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_repr(out, &item);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in items(value).enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_repr(out, &key);
                out.push_str(": ");
                write_repr(out, &value.get_item(&key).unwrap_or_default());
            }
            out.push('}');
        }
        _ => match value.as_str() {
            Some(text) => write_text(out, text),
            None => out.push_str(&value.to_string()),
        },
    }
}

/// The items of a list, or the keys of a map.
fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

/// The shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
fn number_repr(number: &Value) -> String {
    match f64::try_from(number.clone()) {
        Ok(float) if !number.is_integer() => float_repr(float),
        _ => number.to_string(),
    }
}

fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    if float.is_infinite() {
        return if float < 0.0 { "-inf".into() } else { "inf".into() };
    }
    if float == 0.0 || (1e-4..1e16).contains(&float.abs()) {
        return format!("{float:?}");
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn write_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// Whether `c` is neither a control character nor a separator other than the space.
fn is_printable(c: char) -> bool {
    // Rust escapes the same categories and, at the start of a text only, combining marks.
    let mut text = String::from("a");
    text.push(c);
    matches!(c, '"' | '\'') || text.escape_debug().count() == 2
}

/// The arguments of `json.dumps` that templates may pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Dumps {
    pub(super) ensure_ascii: bool,
    pub(super) indent: Option<usize>,
    /// The separators between items, and between key and value.
    pub(super) separators: Option<(String, String)>,
    pub(super) sort_keys: bool,
}

impl Dumps {
    /// `json.dumps(value, …)`.
    ///
    /// # Errors
    /// `BadSerialization` for values that JSON cannot represent, including undefined values.
    pub(super) fn to_string(&self, value: &Value) -> Result<String, Error> {
        charge(size(value).weight.saturating_mul(2))?;
        let mut out = String::new();
        self.write(&mut out, value, 0)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items = items(value).map(|item| (None, item));
                return self.write_items(out, ['[', ']'], items, depth);
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in items(value) {
                    let item = value.get_item(&key)?;
                    entries.push((Some(key_text(&key)?), item));
                }
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                return self.write_items(out, ['{', '}'], entries.into_iter(), depth);
            }
            ValueKind::String => self.write_text(out, value.as_str().unwrap_or_default()),
            _ => out.push_str(&scalar(value)?),
        }
        Ok(())
    }

    fn write_items(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        let (between, colon) = match &self.separators {
            Some((between, colon)) => (between.as_str(), colon.as_str()),
            None if self.indent.is_some() => (",", ": "),
            None => (", ", ": "),
        };
        let new_line = |out: &mut String, depth: usize| -> Result<(), Error> {
            if let Some(indent) = self.indent {
                let width = indent.saturating_mul(depth);
                charge(width)?;
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width));
            }
            Ok(())
        };
        out.push(open);
        let mut any = false;
        for (key, value) in items {
            charge(between.len().saturating_add(colon.len()))?;
            out.push_str(if any { between } else { "" });
            any = true;
            new_line(out, depth + 1)?;
            if let Some(key) = key {
                self.write_text(out, &key);
                out.push_str(colon);
            }
            self.write(out, &value, depth + 1)?;
        }
        if any {
            new_line(out, depth)?;
        }
        out.push(close);
        Ok(())
    }

    fn write_text(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c >= '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Values that JSON writes without quotes.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if value.is_true() { "true".into() } else { "false".into() }),
        ValueKind::Number => Ok(match number_repr(value).as_str() {
            "nan" => "NaN".into(),
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            number => number.to_string(),
        }),
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("a value of type {kind} is not JSON serializable"),
        )),
    }
}

/// A map key, which must be a string in JSON.
fn key_text(key: &Value) -> Result<String, Error> {
    key.as_str().map_or_else(|| scalar(key), |text| Ok(text.to_string()))
}

/// Title case as in Jinja: words start after white space, opening brackets and hyphens.
pub(super) fn jinja_title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_in_python() {
        // Each expected value is CPython 3.11's.
        for (json, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(-3), "-3"),
            (json!(1.0), "1.0"),
            (json!(0.1), "0.1"),
            (json!(1e16), "1e+16"),
            (json!(123_456_789_012_345_680.0), "1.2345678901234568e+17"),
            (json!(9_999_999_999_999_998.0), "9999999999999998.0"),
            (json!(0.0001), "0.0001"),
            (json!(0.00001), "1e-05"),
            (json!(-1.5e-300), "-1.5e-300"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("it's"), "\"it's\""),
            (json!("it's \"so\""), "'it\\'s \"so\"'"),
            (
                json!("é\u{301}\u{a0}\n\u{1}\u{7f}\u{200b}🙂\u{e000}\\"),
                "'é\u{301}\\xa0\\n\\x01\\x7f\\u200b🙂\\ue000\\\\'",
            ),
            (json!([1, [], {}, {"a": ["b", null]}]), "[1, [], {}, {'a': ['b', None]}]"),
        ] {
            assert_eq!(repr(&value(&json)).unwrap(), expected);
        }
        assert_eq!(str(&value(&json!("it's"))).unwrap(), "it's");
        assert_eq!(repr(&Value::from(f64::NEG_INFINITY)).unwrap(), "-inf");
        assert_eq!(repr(&Value::from(vec![Value::UNDEFINED])).unwrap(), "[Undefined]");
    }

    #[test]
    fn json_looks_as_in_python() {
        let all = value(&json!({"b": [1, 2.0, 1e20, []], "a": "é\u{7f}🙂<'\"\u{1}/", "c": {}}));
        let plain = Dumps::default();
        assert_eq!(
            plain.to_string(&all).unwrap(),
            "{\"b\": [1, 2.0, 1e+20, []], \"a\": \"é\u{7f}🙂<'\\\"\\u0001/\", \"c\": {}}"
        );
        let ascii = Dumps { ensure_ascii: true, sort_keys: true, ..plain.clone() };
        assert_eq!(
            ascii.to_string(&all).unwrap(),
            "{\"a\": \"\\u00e9\\u007f\\ud83d\\ude42<'\\\"\\u0001/\", \"b\": [1, 2.0, 1e+20, []], \"c\": {}}"
        );
        let indented = Dumps { indent: Some(1), ..plain.clone() };
        assert_eq!(
            indented.to_string(&value(&json!({"a": [1, {"b": 2}]}))).unwrap(),
            "{\n \"a\": [\n  1,\n  {\n   \"b\": 2\n  }\n ]\n}"
        );
        let tight = Dumps { separators: Some((",".into(), ":".into())), ..plain };
        let list = value(&json!({"a": [1, 2]}));
        assert_eq!(tight.to_string(&list).unwrap(), "{\"a\":[1,2]}");
        assert_eq!(tight.to_string(&Value::from(f64::NAN)).unwrap(), "NaN");
        assert!(tight.to_string(&Value::from(vec![Value::UNDEFINED])).is_err());
    }
}
