//! Parses one JSONL row for the types of its values, without keeping the values. Not here: lines (`jsonl`), values
//! (arrow's reader).
//!
//! In addition to JSON, `NaN`, `Infinity`, `-Infinity` (and `Inf`) are numbers, as Python writes them. An unpaired
//! surrogate escape (`\ud83d` alone) is text that is not UTF-8. [`repaired`] rewrites both for arrow's reader.

use memchr::memchr2;

use super::columns::{Column, Columns, Conflict, Kind};
use super::kind::{EXACT_IN_FLOAT, float_keeps, shown};
use crate::config::pipeline::ColumnType;
use crate::limits::MAX_JSON_DEPTH;

/// Why a line is not a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is not JSON: the byte position, from 1, and the reason.
    Syntax(usize, &'static str),
    /// It is JSON, but not an object: the kind of value found.
    NotObject(&'static str),
    /// A field has a different type of value than before.
    Conflict(Conflict),
    /// A value does not match its column's declared type.
    Value { column: String, value: String, given: &'static str },
    /// There are too many fields.
    TooManyColumns,
}

impl Problem {
    fn inside(self, name: &str) -> Self {
        match self {
            Self::Conflict(conflict) => Self::Conflict(conflict.inside(name)),
            other => other,
        }
    }
}

/// The parts of a row that are not plain JSON in UTF-8.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Oddities {
    /// Numbers or escapes that [`repaired`] has to rewrite.
    pub(super) repair: bool,
    /// Fields with bytes that are not UTF-8.
    pub(super) invalid: Vec<String>,
    /// Fields with unpaired surrogate escapes.
    pub(super) halves: Vec<String>,
}

/// Parses a row, and widens `columns` to hold it.
pub(super) fn read_row(
    line: &[u8],
    number: u64,
    columns: &mut Columns,
) -> Result<Oddities, Problem> {
    let mut parser = Parser {
        bytes: line,
        at: 0,
        depth: 0,
        line: number,
        is_utf8: std::str::from_utf8(line).is_ok(),
        fields: columns.count(),
        max_fields: columns.max(),
        seen: Seen::default(),
        odd: Oddities::default(),
    };
    parser.space();
    if parser.peek() != Some(b'{') {
        let mut scratch = Column::default();
        parser.value(&mut scratch)?;
        parser.end()?;
        return Err(Problem::NotObject(scratch.word()));
    }
    parser.object(columns, true)?;
    parser.end()?;
    columns.set_count(parser.fields);
    Ok(parser.odd)
}

struct Parser<'l> {
    bytes: &'l [u8],
    at: usize,
    depth: usize,
    line: u64,
    is_utf8: bool,
    /// The number of fields so far, including nested ones.
    fields: usize,
    max_fields: usize,
    /// The oddities in the strings of the current top-level field.
    seen: Seen,
    odd: Oddities,
}

#[derive(Default)]
struct Seen {
    invalid: bool,
    half: bool,
}

/// The bytes between quotes.
struct Text<'l> {
    raw: &'l [u8],
    has_escapes: bool,
}

impl<'l> Parser<'l> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn syntax<T>(&self, reason: &'static str) -> Result<T, Problem> {
        let reason =
            if self.at >= self.bytes.len() { "the line ends before the value" } else { reason };
        Err(Problem::Syntax(self.at + 1, reason))
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), Problem> {
        if self.peek() != Some(byte) {
            return self.syntax(reason);
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        self.space();
        if self.at < self.bytes.len() {
            return self.syntax("unexpected characters after the value");
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let is_word = self.bytes[self.at..].starts_with(word);
        self.at += if is_word { word.len() } else { 0 };
        is_word
    }

    fn deeper(&mut self) -> Result<(), Problem> {
        self.depth += 1;
        if self.depth > MAX_JSON_DEPTH {
            return self.syntax("values are nested more than 56 levels deep");
        }
        Ok(())
    }

    fn object(&mut self, columns: &mut Columns, is_row: bool) -> Result<(), Problem> {
        self.deeper()?;
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        let mut index = 0;
        loop {
            let key_at = self.at;
            if self.peek() != Some(b'"') {
                return self.syntax("a field must begin with a quoted name");
            }
            let before = std::mem::take(&mut self.seen);
            let text = self.string()?;
            if self.seen.invalid || self.seen.half {
                self.at = key_at;
                return self.syntax("the name of a field is not UTF-8");
            }
            self.seen = before;
            let name = unescaped(&text);
            let count = columns.fields.len();
            let place = columns.place(index, &name);
            if columns.fields.len() > count {
                self.fields += 1;
                if self.fields > self.max_fields {
                    return Err(Problem::TooManyColumns);
                }
            }
            self.space();
            self.expect(b':', "expected `:` after the name of a field")?;
            self.space();
            let column = &mut columns.fields[place].1;
            if is_row {
                self.seen = Seen::default();
                self.top_value(&name, column)?;
                if self.seen.invalid {
                    self.odd.invalid.push(name.to_string());
                }
                if self.seen.half {
                    self.odd.halves.push(name.to_string());
                }
            } else {
                self.value(column).map_err(|problem| problem.inside(&name))?;
            }
            index += 1;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.syntax("expected `,` or `}` after a field"),
            }
            self.space();
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Parses the value of a table column.
    fn top_value(&mut self, name: &str, column: &mut Column) -> Result<(), Problem> {
        let begin = self.at;
        if self.peek() == Some(b'"') {
            let text = self.string()?;
            column.text_bytes += text.raw.len() as u64;
            if column.given.is_none() {
                return column.add(Kind::Text, name).map_err(Problem::Conflict);
            }
            self.at = begin;
        }
        let Some(given) = column.given else {
            return self.value(column).map_err(|problem| problem.inside(name));
        };
        let mut found = Column::default();
        self.value(&mut found)?;
        let written = String::from_utf8_lossy(&self.bytes[begin..self.at]);
        let takes = match found.kind {
            Kind::Null => true,
            Kind::List | Kind::Object => false,
            Kind::Text if given == ColumnType::String => true,
            // Arrow's reader does not accept a string for a boolean.
            Kind::Text if given == ColumnType::Boolean || self.seen.invalid || self.seen.half => {
                false
            }
            Kind::Text => {
                let raw = &self.bytes[begin + 1..self.at - 1];
                given.takes(&unescaped(&Text { raw, has_escapes: raw.contains(&b'\\') }))
            }
            kind => given.takes_json(kind, &written),
        };
        if takes {
            return Ok(());
        }
        let (column, value) = (name.to_owned(), format!("`{}`", shown(&written)));
        Err(Problem::Value { column, value, given: given.name() })
    }

    fn value(&mut self, column: &mut Column) -> Result<(), Problem> {
        let conflict = |result: Result<(), Conflict>| result.map_err(Problem::Conflict);
        match self.peek() {
            Some(b'"') => {
                self.string()?;
                conflict(column.add(Kind::Text, ""))
            }
            Some(b'{') => {
                conflict(column.add(Kind::Object, ""))?;
                self.object(&mut column.inner.get_or_insert_default().columns, false)
            }
            Some(b'[') => {
                conflict(column.add(Kind::List, ""))?;
                let inner = column.inner.get_or_insert_default();
                self.array(&mut inner.item).map_err(|problem| problem.inside("[]"))
            }
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => {
                let begin = self.at;
                let kind = self.number()?;
                if matches!(kind, Kind::Number | Kind::Int { long: true, .. })
                    && column.digits.is_none()
                {
                    let written = String::from_utf8_lossy(&self.bytes[begin..self.at]);
                    column.digits = Some((self.line, shown(&written)));
                }
                conflict(column.add(kind, ""))
            }
            Some(b't') if self.word(b"true") => conflict(column.add(Kind::Boolean, "")),
            Some(b'f') if self.word(b"false") => conflict(column.add(Kind::Boolean, "")),
            Some(b'n') if self.word(b"null") => Ok(()),
            _ => self.syntax("expected a value"),
        }
    }

    fn array(&mut self, item: &mut Column) -> Result<(), Problem> {
        self.deeper()?;
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            self.value(item)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.syntax("expected `,` or `]` after a value"),
            }
            self.space();
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn number(&mut self) -> Result<Kind, Problem> {
        let begin = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let is_negative = self.at > begin;
        for word in [&b"Infinity"[..], b"Inf", b"NaN"] {
            if word == b"NaN" && is_negative {
                continue;
            }
            if self.word(word) {
                self.odd.repair = true;
                return Ok(Kind::Float);
            }
        }
        let digits = |parser: &mut Self| {
            let from = parser.at;
            while parser.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                parser.at += 1;
            }
            parser.at - from
        };
        let whole = self.at;
        match digits(self) {
            0 => return self.syntax("expected a value"),
            1 => {}
            _ if self.bytes[whole] == b'0' => {
                self.at = whole;
                return self.syntax("a number must not have leading zeros");
            }
            _ => {}
        }
        let mut is_integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            is_integer = false;
            if digits(self) == 0 {
                return self.syntax("expected a digit after the point");
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            is_integer = false;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if digits(self) == 0 {
                return self.syntax("expected a digit in the exponent");
            }
        }
        // The number is ASCII.
        let text = std::str::from_utf8(&self.bytes[begin..self.at]).unwrap_or_default();
        if !is_integer || text == "-0" {
            return Ok(if float_keeps(text) { Kind::Float } else { Kind::Number });
        }
        Ok(match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(integer), _) => Kind::Int {
                negative: integer < 0,
                large: false,
                long: integer.unsigned_abs() > EXACT_IN_FLOAT,
            },
            (Err(_), Ok(_)) => Kind::Int { negative: false, large: true, long: true },
            (Err(_), Err(_)) => Kind::Number,
        })
    }

    /// Parses a string; problems of its text go to `seen`.
    fn string(&mut self) -> Result<Text<'l>, Problem> {
        self.at += 1;
        let begin = self.at;
        let mut has_escapes = false;
        let mut is_half = false;
        loop {
            let Some(found) = memchr2(b'"', b'\\', &self.bytes[self.at..]) else {
                self.at = self.bytes.len();
                return self.syntax("a string is not closed");
            };
            self.at += found;
            if self.bytes[self.at] == b'"' {
                break;
            }
            has_escapes = true;
            let Some(length) = escape_length(&self.bytes[self.at..]) else {
                return self.syntax("an escape is invalid");
            };
            if let Some(unit) = unit(&self.bytes[self.at..])
                && (0xd800..0xe000).contains(&unit)
            {
                let is_pair = is_pair(&self.bytes[self.at..]);
                is_half |= !is_pair;
                self.at += if is_pair { 2 * length } else { length };
            } else {
                self.at += length;
            }
        }
        let raw = &self.bytes[begin..self.at];
        if let Some(control) = raw.iter().position(|byte| *byte < 0x20) {
            self.at = begin + control;
            return self.syntax("a control character in a string must be escaped");
        }
        self.at += 1;
        self.seen.invalid |= !self.is_utf8 && std::str::from_utf8(raw).is_err();
        self.seen.half |= is_half;
        self.odd.repair |= is_half;
        Ok(Text { raw, has_escapes })
    }
}

/// The byte length of the escape at the start of `bytes`.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => unit(bytes).map(|_| 6),
        _ => None,
    }
}

/// The UTF-16 code unit of the escape `\uXXXX` at the start of `bytes`.
fn unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, byte| Some(unit * 16 + (*byte as char).to_digit(16)?))
}

/// Whether `bytes` start with the escapes of a surrogate pair.
fn is_pair(bytes: &[u8]) -> bool {
    unit(bytes).is_some_and(|high| (0xd800..0xdc00).contains(&high))
        && bytes.get(6..).and_then(unit).is_some_and(|low| (0xdc00..0xe000).contains(&low))
}

fn unescaped<'l>(text: &Text<'l>) -> std::borrow::Cow<'l, str> {
    if !text.has_escapes {
        return String::from_utf8_lossy(text.raw);
    }
    let quoted = [b"\"", text.raw, b"\""].concat();
    let value = serde_json::from_slice::<String>(&quoted);
    value.unwrap_or_else(|_| String::from_utf8_lossy(text.raw).into_owned()).into()
}

/// Rewrites a row that [`read_row`] has parsed as plain JSON: `NaN` and infinities become strings, which arrow's reader
/// parses as floats, and unpaired surrogates become U+FFFD.
pub(super) fn repaired(line: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    let mut in_string = false;
    while at < line.len() {
        let rest = &line[at..];
        match rest[0] {
            b'\\' if in_string => {
                let is_half = unit(rest).is_some_and(|unit| (0xd800..0xe000).contains(&unit));
                let length = if is_pair(rest) { 12 } else { escape_length(rest).unwrap_or(1) };
                if is_half && length == 6 {
                    out.extend_from_slice(b"\\ufffd");
                } else {
                    out.extend_from_slice(&rest[..length]);
                }
                at += length;
            }
            b'"' => {
                in_string = !in_string;
                out.push(b'"');
                at += 1;
            }
            b'N' | b'I' if !in_string => {
                let is_negative = out.last() == Some(&b'-');
                out.truncate(out.len() - usize::from(is_negative));
                let word = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
                out.extend_from_slice(match (rest[0], is_negative) {
                    (b'N', _) => b"\"NaN\"",
                    (_, false) => b"\"inf\"",
                    (_, true) => b"\"-inf\"",
                });
                at += word;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(line: &str) -> String {
        match read_row(line.as_bytes(), 1, &mut Columns::default()) {
            Ok(_) => "none".to_owned(),
            Err(Problem::Syntax(at, reason)) => format!("{at}: {reason}"),
            Err(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_json_is_named_with_its_byte() {
        for (line, expected) in [
            ("{\"a\":", "6: the line ends before the value"),
            ("{\"a\":01}", "6: a number must not have leading zeros"),
            ("{\"a\":1.}", "8: expected a digit after the point"),
            ("{\"a\":+1}", "6: expected a value"),
            ("{\"a\":-NaN}", "7: expected a value"),
            ("{\"a\":nul}", "6: expected a value"),
            ("{a:1}", "2: a field must begin with a quoted name"),
            ("{\"a\":1}}", "8: unexpected characters after the value"),
            ("{\"a\":1,}", "8: a field must begin with a quoted name"),
            ("{\"a\":[1 2]}", "9: expected `,` or `]` after a value"),
            ("{\"a\":\"x}", "9: the line ends before the value"),
            ("{\"a\":\"\\x\"}", "7: an escape is invalid"),
            ("{\"a\":\"\t\"}", "7: a control character in a string must be escaped"),
            ("{\"\\ud800\":1}", "2: the name of a field is not UTF-8"),
            ("7", "NotObject(\"a number\")"),
        ] {
            assert_eq!(problem(line), expected, "{line}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(55), "]".repeat(55));
        assert_eq!(problem(&deep), "none");
        let deeper = format!("{{\"a\":{}", "[".repeat(1_000_000));
        assert!(problem(&deeper).ends_with("values are nested more than 56 levels deep"));
    }

    #[test]
    fn rows_are_repaired() {
        let check = |line: &str, expected: &str| {
            let odd = read_row(line.as_bytes(), 1, &mut Columns::default()).unwrap();
            let mut out = Vec::new();
            repaired(line.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert_eq!(odd.repair, line != expected, "{line}");
        };
        check(
            "{\"a\":NaN,\"b\": [Infinity, -Infinity,Inf]}",
            "{\"a\":\"NaN\",\"b\": [\"inf\", \"-inf\",\"inf\"]}",
        );
        check("{\"NaN\":\"Infinity \\\" NaN\"}", "{\"NaN\":\"Infinity \\\" NaN\"}");
        check(
            "{\"a\":\"\\ud83d end \\ud83d\\ude00 \\\\ud83d\"}",
            "{\"a\":\"\\ufffd end \\ud83d\\ude00 \\\\ud83d\"}",
        );
        check("{\"a\":\"\\ude00\\ud83d\"}", "{\"a\":\"\\ufffd\\ufffd\"}");
    }

    proptest! {
        /// A row is exactly what serde_json parses as an object.
        #[test]
        fn json_is_what_serde_json_reads(line in "[{}\\[\\]:,\"\\\\a0-9eE.+ u-]{0,24}") {
            let value = serde_json::from_str::<serde_json::Value>(&line);
            let row = read_row(line.as_bytes(), 1, &mut Columns::default());
            match (value, row) {
                (Ok(value), row) if value.is_object() => {
                    prop_assert!(matches!(row, Ok(_) | Err(Problem::Conflict(_))), "{:?}", row);
                }
                (Ok(_), row) => prop_assert!(matches!(row, Err(Problem::NotObject(_) | Problem::Conflict(_)))),
                // A number out of the range of floats, or an unpaired surrogate.
                (Err(error), Ok(odd)) => {
                    prop_assert!(odd.repair || error.to_string().contains("out of range"), "{}", error);
                }
                (Err(_), Err(_)) => {}
            }
        }
    }
}
