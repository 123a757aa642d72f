//! The columns of CSV files. Every row is read once before the run: the types are those of all rows
//! (a column whose first million rows are numbers and then one is a word is text), and a ragged row or
//! a byte that is not UTF-8 is an error with its line, before a model is loaded. Reading is hundreds of
//! times faster than any model, so this costs little.
//!
//! A column's type changes no value that a reader could see, save that numbers are written in their
//! shortest form: `007`, `+1` and numbers beyond 64 bits stay text.
//!
//! | type                    | every value that is not empty                                 |
//! |-------------------------|---------------------------------------------------------------|
//! | Boolean                 | `true` or `false`, in any case                                |
//! | Int64                   | an integer without leading zeros, within 64 bits              |
//! | Float64                 | a decimal or exponent number, or `NaN`                        |
//! | Date32                  | `YYYY-MM-DD`                                                  |
//! | Timestamp(Microsecond)  | `YYYY-MM-DD HH:MM:SS` with `T` or space and up to 6 decimals  |
//! | Utf8                    | anything else, and columns that are always empty              |
//!
//! An empty field is null, quoted or not. Quoted fields may hold line breaks and delimiters; a quote
//! that is never closed, and so swallows the rest of the file, is an error. Blank lines are skipped. Files without a header name their columns `column_1`, `column_2` and so on.

use std::collections::VecDeque;
use std::io::{self, Read};

use datafusion::arrow::compute::kernels::cast_utils::Parser;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};

use super::inspect::{Rows, Start, read_error};
use super::invalid::{CONVERT, InvalidText};
use super::units::UNIT_ROWS;
use crate::config::pipeline::CsvSpec;
use crate::error::{Error, ErrorKind, Result};

/// The names and kinds of a file's columns; no columns when the file is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CsvColumns {
    pub(super) names: Vec<String>,
    pub(super) kinds: Vec<Kind>,
    /// Bytes of the values of each column.
    pub(super) bytes: Vec<u64>,
    /// Where every so many rows start, after the first.
    pub(super) starts: Vec<Start>,
    /// Values that are not UTF-8, where they are no errors.
    pub(super) invalid: InvalidText,
}

/// What all values seen so far have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Empty,
    Boolean,
    Int,
    Float,
    Date,
    Timestamp,
    Text,
}

impl Kind {
    fn of(value: &str) -> Self {
        let bytes = value.as_bytes();
        let Some(first) = bytes.first() else { return Self::Empty };
        match first {
            b't' | b'T' | b'f' | b'F'
                if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") =>
            {
                Self::Boolean
            }
            b'N' if value == "NaN" => Self::Float,
            b'-' | b'.' | b'0'..=b'9' => Self::of_number_or_date(value),
            _ => Self::Text,
        }
    }

    fn of_number_or_date(value: &str) -> Self {
        let digits = value.strip_prefix('-').unwrap_or(value).as_bytes();
        let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // `007` is a name, not a number; so is `-0`, which would lose its sign.
        let padded = whole > 1 && digits[0] == b'0';
        if whole == digits.len() {
            let exact = !padded && value != "-0" && Int64Type::parse(value).is_some();
            return if whole > 0 && exact { Self::Int } else { Self::Text };
        }
        if !padded && is_decimal(digits, whole) {
            let finite = Float64Type::parse(value).is_some_and(f64::is_finite);
            return if finite { Self::Float } else { Self::Text };
        }
        let shape = |pattern: &[u8]| {
            pattern.iter().zip(value.as_bytes()).all(|(expected, byte)| match expected {
                b'9' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' '),
                other => byte == other,
            })
        };
        if value.len() == 10 && shape(b"9999-99-99") && Date32Type::parse(value).is_some() {
            return Self::Date;
        }
        let fraction = value.get(19..).and_then(|rest| match rest {
            "" => Some(""),
            _ => rest.strip_prefix('.').filter(|rest| (1..=6).contains(&rest.len())),
        });
        if fraction.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            && shape(b"9999-99-99T99:99:99")
            && TimestampMicrosecondType::parse(value).is_some()
        {
            return Self::Timestamp;
        }
        Self::Text
    }

    /// The kind that holds the values of both.
    pub(super) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Empty, kind) | (kind, Self::Empty) => kind,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            _ => Self::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Empty | Self::Text => DataType::Utf8,
        }
    }
}

/// Whether `digits`, which starts with `whole` digits, is a number with a point or an exponent.
fn is_decimal(digits: &[u8], whole: usize) -> bool {
    let mut at = whole;
    let run = |at: usize| digits[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut fraction = 0;
    if digits.get(at) == Some(&b'.') {
        fraction = run(at + 1);
        at += 1 + fraction;
    }
    if whole + fraction == 0 {
        return false;
    }
    if let Some(b'e' | b'E') = digits.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = digits.get(at) {
            at += 1;
        }
        let exponent = run(at.min(digits.len()));
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == digits.len()
}

/// The schema that all files together have. The caller has checked that their names agree.
pub(super) fn schema<'a>(files: impl IntoIterator<Item = &'a CsvColumns>) -> Schema {
    let mut names: &[String] = &[];
    let mut kinds = Vec::new();
    for file in files {
        if names.is_empty() {
            names = &file.names;
            kinds.clone_from(&file.kinds);
        }
        for (kind, other) in kinds.iter_mut().zip(&file.kinds) {
            *kind = kind.merge(*other);
        }
    }
    let fields = names.iter().zip(kinds);
    Schema::new(
        fields.map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect::<Vec<_>>(),
    )
}

/// Reads a file through, or up to `max_rows`. With `marks`, values that are not UTF-8 are remembered.
pub(super) fn inspect(
    reader: impl Read,
    spec: CsvSpec,
    max_rows: u64,
    marks: bool,
) -> Result<(CsvColumns, Rows)> {
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(spec.delimiter)
        .has_headers(false)
        // Lengths are checked here, for the message.
        .flexible(true)
        .buffer_capacity(1 << 18)
        .from_reader(QuoteWatch { inner: reader, offset: 0, quotes: VecDeque::new() });
    let mut record = ::csv::ByteRecord::new();
    let mut columns = CsvColumns::default();
    let mut rows = 0;
    let mut header_line = 0;
    let mut last_line = 0;
    loop {
        if rows >= max_rows {
            return Ok((columns, Rows::AtLeast(rows)));
        }
        let line_before = reader.position().line();
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => {
                // A record of several lines with an odd number of quotes did not end by itself.
                let open = !reader.get_ref().quotes.len().is_multiple_of(2);
                if open && reader.position().line() > last_line + 1 {
                    return Err(unclosed(last_line));
                }
                return Ok((columns, Rows::Exactly(rows)));
            }
            Err(error) => {
                return Err(match error.into_kind() {
                    ::csv::ErrorKind::Io(error) => read_error(error, line_before),
                    other => {
                        Error::new(ErrorKind::Data, "cannot read CSV").source(format!("{other:?}"))
                    }
                });
            }
        }
        let line = record.position().map_or(line_before, ::csv::Position::line);
        last_line = line;
        reader.get_mut().forget(record.position().map_or(0, ::csv::Position::byte));
        if columns.names.is_empty() {
            header_line = line;
            columns.kinds = vec![Kind::Empty; record.len()];
            columns.bytes = vec![0; record.len()];
            if spec.has_header {
                columns.names = (0..record.len())
                    .map(|index| text(&record, index, line, &[]).map(str::to_owned))
                    .collect::<Result<_>>()?;
                continue;
            }
            columns.names = (1..=record.len()).map(|index| format!("column_{index}")).collect();
        }
        if record.len() != columns.names.len() {
            return Err(ragged(&columns, &record, line, header_line, spec));
        }
        if rows > 0 && rows.is_multiple_of(UNIT_ROWS) {
            let byte = record.position().map_or(0, ::csv::Position::byte);
            columns.starts.push(Start { row: rows, byte });
        }
        for index in 0..record.len() {
            let kind = &mut columns.kinds[index];
            match text(&record, index, line, &columns.names) {
                Ok(value) => {
                    columns.bytes[index] += value.len() as u64;
                    if *kind != Kind::Text {
                        *kind = kind.merge(Kind::of(value));
                    }
                }
                Err(error) if !marks => return Err(error),
                Err(_) => {
                    *kind = Kind::Text;
                    columns.bytes[index] += record[index].len() as u64;
                    columns.invalid.add(&columns.names[index], rows, line)?;
                }
            }
        }
        rows += 1;
    }
}

/// Remembers where the quotes of the current record are.
struct QuoteWatch<R> {
    inner: R,
    offset: u64,
    quotes: VecDeque<u64>,
}

impl<R: Read> Read for QuoteWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let quotes = (self.offset..).zip(&buffer[..read]).filter(|(_, byte)| **byte == b'"');
        self.quotes.extend(quotes.map(|(offset, _)| offset));
        self.offset += read as u64;
        Ok(read)
    }
}

impl<R> QuoteWatch<R> {
    fn forget(&mut self, before: u64) {
        while self.quotes.front().is_some_and(|offset| *offset < before) {
            self.quotes.pop_front();
        }
    }
}

fn unclosed(line: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("a quote in the row that starts on line {line} is never closed"),
    )
    .hint("the file may be cut off; inside a quoted field, a quote is written twice")
}

fn text<'r>(
    record: &'r ::csv::ByteRecord,
    index: usize,
    line: u64,
    names: &[String],
) -> Result<&'r str> {
    std::str::from_utf8(&record[index]).map_err(|error| {
        let column = match names.get(index) {
            Some(name) => format!("column `{name}`"),
            None => format!("column {}", index + 1),
        };
        Error::new(ErrorKind::Data, format!("line {line}, {column}: the text is not UTF-8"))
            .source(error)
            .hint(CONVERT)
    })
}

fn ragged(
    columns: &CsvColumns,
    record: &::csv::ByteRecord,
    line: u64,
    header_line: u64,
    spec: CsvSpec,
) -> Error {
    let fields = |count: usize| match count {
        1 => "1 field".to_owned(),
        count => format!("{count} fields"),
    };
    let expected = columns.names.len();
    let first = if spec.has_header { "the header" } else { "the first row" };
    let hint = if expected == 1 {
        "check `source.csv.delimiter`, and quotes around fields that hold it"
    } else {
        "a field that holds the delimiter, a quote or a line break has to be quoted"
    };
    Error::new(
        ErrorKind::Data,
        format!(
            "line {line} has {}, {first} (line {header_line}) has {expected}",
            fields(record.len())
        ),
    )
    .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: CsvSpec = CsvSpec { delimiter: b',', has_header: true };

    fn types(text: &str) -> Vec<String> {
        let (columns, _) = inspect(text.as_bytes(), SPEC, u64::MAX, false).unwrap();
        schema([&columns])
            .fields()
            .iter()
            .map(|field| format!("{}: {}", field.name(), field.data_type()))
            .collect()
    }

    #[test]
    fn a_value_has_a_kind() {
        let check = |kind: Kind, values: &[&str]| {
            for value in values {
                assert_eq!(Kind::of(value), kind, "{value:?}");
            }
        };
        check(Kind::Empty, &[""]);
        check(Kind::Boolean, &["true", "FALSE", "True"]);
        check(Kind::Int, &["0", "-1", "42", "9223372036854775807", "-9223372036854775808"]);
        check(Kind::Float, &["1.5", "-0.25", "1.", ".5", "1e5", "1.5E-3", "NaN", "0.0"]);
        check(Kind::Date, &["2024-02-29", "1969-12-31"]);
        check(
            Kind::Timestamp,
            &["2024-02-29 23:59:59", "2024-02-29T00:00:00.123456", "1969-12-31 00:00:00.1"],
        );
        check(
            Kind::Text,
            &[
                "007",
                "-0",
                "+1",
                "00.5",
                "9223372036854775808",
                "1e999",
                ".",
                "-",
                "1e",
                "e5",
                "1.2.3",
                "nan",
                "inf",
                "2024-13-01",
                "2024-02-30",
                "2024-1-1",
                " 1",
                "1 ",
                "2024-02-29 23:59",
                "2024-02-29 23:59:59Z",
                "2024-02-29 23:59:59.1234567",
                "2024-02-29 25:00:00",
                "-é",
                "0x10",
                "t",
                "1_000",
                "2024-02-29é23:59:59",
            ],
        );
    }

    #[test]
    fn types_are_those_of_all_rows() {
        let mut text = "id,text,empty,mixed\n".to_owned();
        for row in 0..3000 {
            text += &format!("{row},,,{row}\n");
        }
        text += "3000,hello,,1.5\n";
        assert_eq!(types(&text), ["id: Int64", "text: Utf8", "empty: Utf8", "mixed: Float64"]);
    }

    #[test]
    fn quotes_hold_line_breaks_and_a_bom_is_no_part_of_a_name() {
        let text = "\u{feff}a,b\r\n\"x\ny\",1\r\n\"\"\"q\"\"\",2\r\n";
        assert_eq!(types(text), ["a: Utf8", "b: Int64"]);
        let (_, rows) = inspect(text.as_bytes(), SPEC, u64::MAX, false).unwrap();
        assert_eq!(rows, Rows::Exactly(2));
    }

    #[test]
    fn a_ragged_row_is_named_by_its_line() {
        let error = inspect("a,b\n\"1\n1\",2\n3\n".as_bytes(), SPEC, u64::MAX, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.message(), "line 4 has 1 field, the header (line 1) has 2");
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_swallow_rows() {
        let inspect = |text: &str| inspect(text.as_bytes(), SPEC, u64::MAX, false);
        let error = inspect("a,b\n1,\"x\"\n2,\"y\n3,z\n4,z\n").unwrap_err();
        assert_eq!(error.message(), "a quote in the row that starts on line 3 is never closed");
        for sound in ["a,b\n1,5\" disk\n", "a,b\n1,\"x\"\"\ny\"\n", "a,b\n1,5\" disk\n2,\"x\ny\""] {
            inspect(sound).unwrap();
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_named_by_line_and_column() {
        let error = inspect(&b"a,b\n1,ok\n2,\xe9t\xe9\n"[..], SPEC, u64::MAX, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.message(), "line 3, column `b`: the text is not UTF-8");
    }

    #[test]
    fn stops_after_the_rows_that_are_wanted() {
        let (_, rows) = inspect("a\n1\n2\n3\nx,y\n".as_bytes(), SPEC, 2, false).unwrap();
        assert_eq!(rows, Rows::AtLeast(2));
    }
}
