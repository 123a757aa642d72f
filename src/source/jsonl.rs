//! The columns of JSONL files, one JSON object a line. Every row is read once before the run, as for
//! CSV: a field that first appears in the last row is a column, and a broken line is an error with its
//! number before a model is loaded.
//!
//! | type            | values                                                           |
//! |-----------------|------------------------------------------------------------------|
//! | Boolean         | `true`, `false`                                                  |
//! | Int64, UInt64   | integers; unsigned when one is beyond Int64                      |
//! | Float64         | numbers, at least one with a point or exponent                   |
//! | Utf8            | strings, and fields that are always null                         |
//! | List, Struct    | arrays and objects, their insides by the same rules              |
//!
//! A field that a row lacks is null. Two rows that put a string and a number in one field are an error
//! that names the field and both lines: there is no type that holds both unchanged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::Value;

use super::inspect::{Rows, Start, read_error};
use super::invalid::{self, InvalidText};
use super::units::UNIT_ROWS;
use crate::error::{Error, ErrorKind, Result};

/// A file's fields in the order of their first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonColumns {
    fields: Vec<(String, Kind)>,
    /// Bytes of the strings of each field.
    pub(super) text_bytes: BTreeMap<String, u64>,
    /// Where every so many rows start, after the first.
    pub(super) starts: Vec<Start>,
    /// Fields with strings that are not UTF-8, where they are no errors.
    pub(super) invalid: InvalidText,
}

/// What all values of a field so far have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    /// Integers; whether one is negative, and whether one is beyond `i64::MAX`.
    Int {
        negative: bool,
        large: bool,
    },
    Float,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

/// Two kinds of value in one field.
struct Conflict {
    field: String,
    before: &'static str,
    here: &'static str,
}

impl Kind {
    fn of(value: Value) -> Result<Self, Conflict> {
        Ok(match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) => match (number.as_i64(), number.is_u64()) {
                (Some(integer), _) => Self::Int { negative: integer < 0, large: false },
                (None, true) => Self::Int { negative: false, large: true },
                (None, false) => Self::Float,
            },
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let mut inner = Self::Null;
                for item in items {
                    inner.add(Self::of(item)?, "[]")?;
                }
                Self::List(Box::new(inner))
            }
            Value::Object(entries) => Self::Object(
                entries
                    .into_iter()
                    .map(|(name, value)| match Self::of(value) {
                        Ok(kind) => Ok((name, kind)),
                        Err(conflict) => Err(conflict.inside(&name)),
                    })
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// Widens to hold `other` too.
    fn add(&mut self, other: Self, name: &str) -> Result<(), Conflict> {
        match (&mut *self, other) {
            (_, Self::Null)
            | (Self::Boolean, Self::Boolean)
            | (Self::Text, Self::Text)
            | (Self::Float, Self::Float | Self::Int { .. }) => Ok(()),
            (Self::Null, other) => {
                *self = other;
                Ok(())
            }
            (Self::Int { .. }, Self::Float) => {
                *self = Self::Float;
                Ok(())
            }
            (Self::Int { negative, large }, Self::Int { negative: n, large: l }) => {
                *negative |= n;
                *large |= l;
                if *negative && *large {
                    return Err(Conflict {
                        field: name.to_owned(),
                        before: "a negative integer or one beyond 2^63",
                        here: "the other",
                    });
                }
                Ok(())
            }
            (Self::List(inner), Self::List(other)) => {
                inner.add(*other, "[]").map_err(|conflict| conflict.inside(name))
            }
            (Self::Object(fields), Self::Object(others)) => {
                add_fields(fields, others).map_err(|conflict| conflict.inside(name))
            }
            (before, here) => {
                Err(Conflict { field: name.to_owned(), before: before.word(), here: here.word() })
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Int { .. } | Self::Float => "a number",
            Self::Text => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Null | Self::Text => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Int { large: true, .. } => DataType::UInt64,
            Self::Int { .. } => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::List(inner) => {
                DataType::List(Arc::new(Field::new_list_field(inner.data_type(), true)))
            }
            Self::Object(fields) => DataType::Struct(arrow_fields(fields)),
        }
    }
}

impl Conflict {
    fn inside(mut self, name: &str) -> Self {
        let dot = if self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{name}{dot}{}", self.field);
        self
    }
}

fn add_fields(
    fields: &mut Vec<(String, Kind)>,
    others: Vec<(String, Kind)>,
) -> Result<(), Conflict> {
    for (index, (name, kind)) in others.into_iter().enumerate() {
        // Rows nearly always have their fields in one order: look there first.
        let known = match fields.get(index) {
            Some((known, _)) if *known == name => Some(index),
            _ => fields.iter().position(|(known, _)| *known == name),
        };
        match known {
            Some(known) => fields[known].1.add(kind, &name)?,
            None => fields.push((name, kind)),
        }
    }
    Ok(())
}

fn arrow_fields(fields: &[(String, Kind)]) -> Fields {
    fields.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
}

impl JsonColumns {
    /// Widens to the columns of another file.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        add_fields(&mut self.fields, other.fields).map_err(|conflict| {
            mixed(
                &conflict,
                &format!("{} in this file and {} in one before", conflict.here, conflict.before),
            )
        })
    }

    pub(super) fn schema(&self) -> Schema {
        Schema::new(arrow_fields(&self.fields))
    }
}

fn mixed(conflict: &Conflict, how: &str) -> Error {
    Error::new(ErrorKind::Data, format!("field `{}` is {how}", conflict.field))
        .hint("write the field with one type in every row")
}

/// Reads a file through, or up to `max_rows`. With `marks`, strings that are not UTF-8 are remembered.
pub(super) fn inspect(
    reader: impl Read,
    max_rows: u64,
    marks: bool,
) -> Result<(JsonColumns, Rows)> {
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let mut columns = JsonColumns::default();
    let mut line = Vec::new();
    let mut number = 0;
    let mut rows = 0;
    let mut next_byte = 0;
    loop {
        if rows >= max_rows {
            return Ok((columns, Rows::AtLeast(rows)));
        }
        if number == 0 {
            refuse_array(reader.fill_buf().map_err(|error| read_error(error, 0))?)?;
        }
        line.clear();
        let read =
            reader.read_until(b'\n', &mut line).map_err(|error| read_error(error, number))?;
        if read == 0 {
            return Ok((columns, Rows::Exactly(rows)));
        }
        let byte = next_byte;
        next_byte += read as u64;
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value = match serde_json::from_slice::<Value>(&line) {
            Ok(value) => value,
            Err(error) => {
                let is_text = std::str::from_utf8(&line).is_ok();
                let marked = if marks && !is_text { invalid::lossy_object(&line) } else { None };
                let Some((value, fields)) = marked else {
                    return Err(not_json(&error, number, is_text));
                };
                for field in fields {
                    columns.invalid.add(&field, rows, number)?;
                }
                value
            }
        };
        if !value.is_object() {
            let found = match Kind::of(value) {
                Ok(kind) => kind.word(),
                Err(_) => "an array",
            };
            return Err(Error::new(
                ErrorKind::Data,
                format!("line {number} is {found}, expected an object"),
            ));
        }
        if rows > 0 && rows.is_multiple_of(UNIT_ROWS) {
            columns.starts.push(Start { row: rows, byte });
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let Value::String(text) = value else { continue };
            match columns.text_bytes.get_mut(name) {
                Some(bytes) => *bytes += text.len() as u64,
                None => {
                    columns.text_bytes.insert(name.clone(), text.len() as u64);
                }
            }
        }
        let conflict = match Kind::of(value) {
            Ok(Kind::Object(fields)) => add_fields(&mut columns.fields, fields).err(),
            Ok(_) => None,
            Err(conflict) => Some(conflict),
        };
        if let Some(conflict) = conflict {
            let how = format!("{} on line {number} and {} before", conflict.here, conflict.before);
            return Err(mixed(&conflict, &how));
        }
        rows += 1;
    }
}

fn not_json(error: &serde_json::Error, line: u64, is_text: bool) -> Error {
    // serde_json ends its message with a line number that counts from this line.
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    let message = format!("line {line} is not JSON: {reason} at byte {}", error.column());
    let error = Error::new(ErrorKind::Data, message);
    if is_text {
        error.hint("JSONL has one whole JSON object on every line")
    } else {
        error.hint(format!("the line is not UTF-8; {}", invalid::CONVERT))
    }
}

/// A whole document would be read as one line of any length.
fn refuse_array(start: &[u8]) -> Result<()> {
    if start.starts_with(b"\xef\xbb\xbf") {
        return Err(Error::new(ErrorKind::Data, "the file starts with a byte order mark")
            .hint("remove it, for example with `sed -i '1s/^\\xEF\\xBB\\xBF//'`"));
    }
    if start.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::new(ErrorKind::Data, "the file is a JSON array, not JSON lines")
            .hint("convert it, for example with `jq -c '.[]'`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<String> {
        let (columns, _) = inspect(text.as_bytes(), u64::MAX, false).unwrap();
        let schema = columns.schema();
        schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect()
    }

    fn error(text: &[u8]) -> Error {
        let error = inspect(text, u64::MAX, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        error
    }

    #[test]
    fn columns_are_those_of_all_rows_in_order_of_appearance() {
        let text = "{\"b\":1,\"n\":null}\n\n{\"a\":\"x\",\"b\":1.5}\r\n{\"c\":true,\"b\":2}";
        assert_eq!(types(text), ["b: Float64", "n: Utf8", "a: Utf8", "c: Boolean"]);
    }

    #[test]
    fn integers_stay_exact() {
        let text = "{\"a\":18446744073709551615,\"b\":-1}\n{\"a\":1,\"b\":1}\n";
        assert_eq!(types(text), ["a: UInt64", "b: Int64"]);
        let both = error(b"{\"a\":18446744073709551615}\n{\"a\":-1}\n");
        assert!(both.message().starts_with("field `a` is "), "{both}");
    }

    #[test]
    fn nested_values_have_nested_types() {
        let text = "{\"s\":{\"x\":[1],\"y\":[]}}\n{\"s\":{\"x\":[2.5,null],\"z\":{}}}\n";
        let (columns, _) = inspect(text.as_bytes(), u64::MAX, false).unwrap();
        let list = |inner| DataType::List(Arc::new(Field::new_list_field(inner, true)));
        assert_eq!(
            *columns.schema().field(0).data_type(),
            DataType::Struct(Fields::from(vec![
                Field::new("x", list(DataType::Float64), true),
                Field::new("y", list(DataType::Utf8), true),
                Field::new("z", DataType::Struct(Fields::empty()), true),
            ]))
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_field() {
        let check = |text: &[u8], expected: &str| {
            assert_eq!(error(text).message(), expected);
        };
        check(b"{\"a\":1}\n{\"a\":\"x\"}\n", "field `a` is a string on line 2 and a number before");
        check(
            b"{\"s\":[{\"a\":1}]}\n{\"s\":[{\"a\":[]}]}\n",
            "field `s[].a` is an array on line 2 and a number before",
        );
        check(b"{\"a\":1}\n[1]\n", "line 2 is an array, expected an object");
        check(b"[{\"a\":1}]\n", "the file is a JSON array, not JSON lines");
        let cut = error(b"{\"a\":1}\n{\"a\":");
        assert!(cut.message().starts_with("line 2 is not JSON: EOF while parsing"), "{cut}");
        let latin1 = error(b"{\"a\":\"\xe9\"}\n");
        assert!(latin1.remedy().unwrap().contains("not UTF-8"), "{latin1}");
    }
}
