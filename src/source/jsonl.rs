//! The columns of JSONL files, one JSON object per line. As for CSV, every row is read once before the run: a field that
//! first appears in the last row is a column, and a malformed line is reported before a model is loaded.
//!
//! | type            | values                                                           |
//! |-----------------|------------------------------------------------------------------|
//! | Boolean         | `true`, `false`                                                  |
//! | Int64, UInt64   | integers; unsigned when one is beyond Int64                      |
//! | Float64         | numbers that a float prints with the same digits, integers up to 2^53, `NaN`, `Infinity` |
//! | Utf8            | strings, fields that are always null, and numbers whose digits no type above preserves |
//! | List, Struct    | arrays and objects, with item and field types by the same rules  |
//!
//! A missing field is null. A string and a number in one field are an error with the field and both lines, because no
//! type holds both unchanged; `source.types` may declare the field as text.

use std::io::{BufRead, BufReader, Read};

use memchr::memchr;

use super::columns::{Columns, Conflict};
use super::inspect::{Extent, Inspection, Rows, read_error, too_long};
use super::invalid::{self, InvalidText};
use super::json::{self, Problem};
use super::kind::value_error;
use super::text::Text;
use super::units::Starts;
use crate::error::{Error, ErrorKind, Result};

/// A file's fields in the order of their first appearance.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonColumns {
    pub(super) columns: Columns,
    /// The places to cut the file.
    pub(super) starts: Starts,
    /// The strings that are not UTF-8, if they are not errors.
    pub(super) invalid: InvalidText,
    /// The lengths of rows.
    pub(super) extent: Extent,
    /// Whether some values must be rewritten for arrow's reader.
    pub(super) needs_repair: bool,
}

/// Widens `columns` to those of another file.
pub(super) fn merge(columns: &mut Columns, other: &Columns) -> Result<()> {
    match columns.merge(other) {
        Ok(false) => Ok(()),
        Ok(true) => Err(too_many_columns("the files have", columns.max())),
        Err(conflict) => {
            let how =
                format!("{} in this file and {} in one before", conflict.here, conflict.before);
            Err(mixed(&conflict, &how))
        }
    }
}

fn mixed(conflict: &Conflict, how: &str) -> Error {
    let top = conflict.field.split(['.', '[']).next().unwrap_or_default();
    let scalar = |word: &str| word != "an array" && word != "an object";
    let error = Error::new(ErrorKind::Data, format!("field `{}` is {how}", conflict.field));
    if top == conflict.field && scalar(conflict.before) && scalar(conflict.here) {
        let types =
            format!("or set `source.types.{top}` to string: values are then text, as written");
        return error.hint(format!("write the field with one type in every row, {types}"));
    }
    error.hint("write the field with one type in every row")
}

fn too_many_columns(what: &str, max: usize) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("{what} more than {max} fields, including nested ones"),
    )
    .hint(
        "write objects whose keys are data as arrays of key-value pairs, or set `source.max_columns`",
    )
}

/// Reads a whole file, or up to the requested number of rows.
pub(super) fn inspect(text: Text, what: &Inspection) -> Result<(JsonColumns, Rows)> {
    let mut lines = Lines {
        reader: BufReader::with_capacity(1 << 18, text.reader),
        max_bytes: what.max_line_bytes,
        long: Vec::new(),
    };
    let mut found = JsonColumns {
        columns: Columns::new(&what.types, what.max_columns),
        ..JsonColumns::default()
    };
    let (mut number, mut rows, mut next_byte) = (0, 0, text.begin);
    refuse_array(lines.reader.fill_buf().map_err(|error| read_error(error, 0))?)?;
    loop {
        if rows >= what.max_rows {
            return Ok((found, Rows::AtLeast(rows)));
        }
        let byte = next_byte;
        let is_line = lines.next(number, |line| {
            next_byte += line.len() as u64;
            number += 1;
            if line.trim_ascii().is_empty() {
                return Ok(());
            }
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let odd = json::read_row(line, number, &mut found.columns)
                .map_err(|problem| explained(problem, number, line, what.max_columns))?;
            if !odd.invalid.is_empty() && !what.marks {
                return Err(not_utf8(number));
            }
            if let (Some(field), false) = (odd.halves.first(), what.marks) {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("line {number}, field `{field}`: an escape such as `\\ud83d` is half of a surrogate pair"),
                )
                .hint("write both halves, or keep the row with `on_error`"));
            }
            found.needs_repair |= odd.repair;
            for field in &odd.invalid {
                found.invalid.add(field, rows, number)?;
            }
            for field in &odd.halves {
                found.invalid.add_half(field, rows, number)?;
            }
            found.starts.add(rows, byte);
            found.extent.add(line.len() as u64);
            rows += 1;
            Ok(())
        })?;
        if !is_line {
            return Ok((found, Rows::Exactly(rows)));
        }
    }
}

/// Reads lines of bounded length.
struct Lines<R> {
    reader: BufReader<R>,
    max_bytes: u64,
    /// A line that is longer than the read buffer.
    long: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Reads the next line, including its end; `false` at the end of the file.
    fn next(&mut self, before: u64, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<bool> {
        self.long.clear();
        loop {
            let ready = match self.reader.fill_buf() {
                Ok(ready) => ready,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error, before)),
            };
            if ready.is_empty() {
                if self.long.is_empty() {
                    return Ok(false);
                }
                take(&self.long)?;
                return Ok(true);
            }
            let end = memchr(b'\n', ready);
            let length = end.map_or(ready.len(), |end| end + 1);
            if (self.long.len() + length) as u64 > self.max_bytes {
                let error = std::io::Error::other(too_long(self.max_bytes));
                return Err(read_error(error, before));
            }
            if self.long.is_empty() && end.is_some() {
                take(&ready[..length])?;
                self.reader.consume(length);
                return Ok(true);
            }
            self.long.extend_from_slice(&ready[..length]);
            self.reader.consume(length);
            if end.is_some() {
                take(&self.long)?;
                return Ok(true);
            }
        }
    }
}

fn not_utf8(line: u64) -> Error {
    Error::new(ErrorKind::Data, format!("line {line} is not UTF-8")).hint(invalid::CONVERT)
}

fn explained(problem: Problem, number: u64, line: &[u8], max_columns: usize) -> Error {
    match problem {
        Problem::Syntax(byte, reason) => {
            let message = format!("line {number} is not JSON: {reason} at byte {byte}");
            let error = Error::new(ErrorKind::Data, message);
            if std::str::from_utf8(line).is_ok() {
                error.hint("JSONL has one complete JSON object per line")
            } else {
                error.hint(format!("the line is not UTF-8; {}", invalid::CONVERT))
            }
        }
        Problem::NotObject(found) => {
            Error::new(ErrorKind::Data, format!("line {number} is {found}, expected an object"))
        }
        Problem::Conflict(conflict) => {
            let how = format!("{} on line {number} and {} before", conflict.here, conflict.before);
            mixed(&conflict, &how)
        }
        Problem::Value { column, value, given } => value_error(&column, &value, given, number),
        Problem::TooManyColumns => {
            too_many_columns(&format!("the rows up to line {number} have"), max_columns)
        }
    }
}

/// Refuses a JSON array, which would be read as a single line of any length.
fn refuse_array(start: &[u8]) -> Result<()> {
    if start.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::new(ErrorKind::Data, "the file is a JSON array, not JSON lines")
            .hint("convert it, for example with `jq -c '.[]'`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::{DataType, Field, Fields};

    use super::*;

    fn inspect_as(bytes: &[u8], what: &Inspection) -> Result<(JsonColumns, Rows)> {
        let reader = Box::new(std::io::Cursor::new(bytes.to_vec()));
        let encoding = crate::config::pipeline::TextEncoding::Utf8;
        inspect(Text { reader, begin: 0, encoding, is_raw: false }, what)
    }

    fn columns(text: &str) -> Columns {
        inspect_as(text.as_bytes(), &Inspection::default()).unwrap().0.columns
    }

    fn types(text: &str) -> Vec<String> {
        let fields = columns(text).arrow();
        fields.iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect()
    }

    fn error(text: &[u8]) -> Error {
        let error = inspect_as(text, &Inspection::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        error
    }

    #[test]
    fn columns_are_those_of_all_rows_in_order_of_appearance() {
        let text = "{\"b\":1,\"n\":null}\n\n{\"a\":\"x\",\"b\":1.5}\r\n{\"c\":true,\"b\":2}";
        assert_eq!(types(text), ["b: Float64", "n: Utf8", "a: Utf8", "c: Boolean"]);
    }

    #[test]
    fn numbers_keep_their_digits() {
        let text = "{\"a\":18446744073709551615,\"b\":-1}\n{\"a\":1,\"b\":1}\n";
        assert_eq!(types(text), ["a: UInt64", "b: Int64"]);
        for (values, expected) in [
            ("18446744073709551615 -1", "Utf8"),
            ("18446744073709551616", "Utf8"),
            ("9007199254740993 1.5", "Utf8"),
            ("9007199254740993 2", "Int64"),
            ("9007199254740992 1.5", "Float64"),
            ("123456789012345678.91", "Utf8"),
            ("1e400", "Utf8"),
            ("0.30000000000000004 NaN -Infinity", "Float64"),
        ] {
            let rows: String = values.split(' ').map(|v| format!("{{\"a\":{v}}}\n")).collect();
            assert_eq!(types(&rows), [format!("a: {expected}")], "{values}");
            let nested: String =
                values.split(' ').map(|v| format!("{{\"a\":[{{\"b\":{v}}}]}}\n")).collect();
            assert!(types(&nested)[0].contains(expected), "{}", types(&nested)[0]);
        }
    }

    #[test]
    fn types_that_are_given_are_checked() {
        use crate::config::pipeline::ColumnType;
        let types = [("a", ColumnType::String), ("d", ColumnType::Date)];
        let types = types.map(|(name, given)| (name.to_owned(), given)).into();
        let what = Inspection { types, ..Inspection::default() };
        let text = b"{\"a\":1E5,\"d\":\"2024-02-29\"}\n{\"a\":\"x\",\"d\":null}\n{\"a\":true}\n";
        let (found, _) = inspect_as(text, &what).unwrap();
        assert_eq!(found.columns.arrow()[0].data_type(), &DataType::Utf8);
        let error = inspect_as(b"{\"d\":\"2024-02-29\"}\n{\"d\":20240229}\n", &what).unwrap_err();
        assert_eq!(error.message(), "line 2, column `d`: `20240229` is not of type date");
        let error = inspect_as(b"{\"a\":[1]}\n", &what).unwrap_err();
        assert_eq!(error.message(), "line 1, column `a`: `[1]` is not of type string");
    }

    #[test]
    fn rows_and_fields_have_limits() {
        let what = Inspection { max_line_bytes: 1000, ..Inspection::default() };
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2000));
        for text in [long.clone(), format!("{{}}\n{long}\n")] {
            let error = inspect_as(text.as_bytes(), &what).unwrap_err();
            assert!(error.message().contains("longer than 1000 bytes"), "{error}");
        }
        let wide: Vec<String> = (0..20_000).map(|i| format!("\"k{i}\":1")).collect();
        for text in [format!("{{{}}}", wide.join(",")), format!("{{\"a\":{{{}}}}}", wide.join(","))]
        {
            assert!(error(text.as_bytes()).message().contains("more than 4096 fields"));
        }
        let rows: String = (0..20_000).map(|i| format!("{{\"k{i}\":1}}\n")).collect();
        assert!(error(rows.as_bytes()).message().contains("up to line 4097"));
    }

    #[test]
    fn lines_are_read_wherever_they_are_cut() {
        let text: String =
            (0..3000).map(|i| format!("{{\"a\":\"{}\"}}\n", "x".repeat(i))).collect();
        let (found, rows) = inspect_as(text.as_bytes(), &Inspection::default()).unwrap();
        assert_eq!(rows, Rows::Exactly(3000));
        assert_eq!(found.columns.fields[0].1.text_bytes, 3000 * 2999 / 2);
    }

    #[test]
    fn nested_values_have_nested_types() {
        let text = "{\"s\":{\"x\":[1],\"y\":[]}}\n{\"s\":{\"x\":[2.5,null],\"z\":{}}}\n";
        let list = |inner| DataType::List(Arc::new(Field::new_list_field(inner, true)));
        assert_eq!(
            *columns(text).arrow()[0].data_type(),
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
        assert!(cut.message().starts_with("line 2 is not JSON: the line ends"), "{cut}");
        let latin1 = error(b"{\"a\":\"\xe9\"}\n");
        assert!(latin1.message().contains("not UTF-8"), "{latin1}");
    }
}
