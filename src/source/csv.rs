//! The columns of CSV files. Every row is read once before the run. Types come from all rows: one word after a million
//! numbers makes a column text. A ragged row, or a byte that is not UTF-8, is reported with its line before a model is
//! loaded. This costs little, because reading is hundreds of times faster than any model. The module `kind` infers types
//! from values.
//!
//! An empty field is null, quoted or not, as is every value of `null_values`. Quoted fields may contain line breaks and
//! delimiters. A quote without a delimiter after it, or without a closing quote, is an error. Blank lines are skipped.
//! Names are made unique as in polars: the second `text` is `text_duplicated_0`, and unnamed columns are `column_1`,
//! `column_2` and so on by position.

use std::collections::{BTreeMap, BTreeSet};

use super::inspect::{Extent, Inspection, Rows, read_error, too_long};
use super::invalid::{CONVERT, InvalidText};
use super::kind::{Kind, shown, value_error};
use super::quotes::QuoteWatch;
use super::text::{Text, value_in_utf8};
use super::units::Starts;
use crate::config::pipeline::{ColumnType, CsvSpec, TextEncoding};
use crate::error::{Error, ErrorKind, Result};

/// The columns of a file; an empty file has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CsvColumns {
    pub(super) columns: Vec<CsvColumn>,
    /// The places to cut the file.
    pub(super) starts: Starts,
    /// The values that are not UTF-8, if they are not errors.
    pub(super) invalid: InvalidText,
    /// The lengths of rows.
    pub(super) extent: Extent,
}

/// A column of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CsvColumn {
    pub(super) name: String,
    /// The name in the header, if it differs.
    pub(super) written: Option<String>,
    pub(super) kind: Kind,
    /// The declared type, which overrides the values.
    pub(super) given: Option<ColumnType>,
    /// The bytes of its values.
    pub(super) bytes: u64,
    /// The first number whose digits a common type may lose: its line and text.
    pub(super) digits: Option<(u64, String)>,
}

/// Reads a whole file, or up to the requested number of rows.
pub(super) fn inspect(text: Text, what: &Inspection) -> Result<(CsvColumns, Rows)> {
    let spec = &what.csv;
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(spec.delimiter)
        .quoting(spec.quote.is_some())
        .quote(spec.quote.unwrap_or(b'"'))
        .escape(spec.escape)
        .comment(spec.comment)
        .has_headers(false)
        // Row lengths are checked below, for the message.
        .flexible(true)
        .buffer_capacity(1 << 18)
        .from_reader(QuoteWatch::new(text.reader, spec, what.max_line_bytes));
    let mut record = ::csv::ByteRecord::new();
    let mut found = CsvColumns::default();
    let mut rows = 0;
    let mut header_line = 0;
    let mut has_columns = false;
    loop {
        if rows >= what.max_rows {
            return Ok((found, Rows::AtLeast(rows)));
        }
        let (line_before, byte_before) = (reader.position().line(), reader.position().byte());
        let is_record =
            reader.read_byte_record(&mut record).map_err(|error| match error.into_kind() {
                ::csv::ErrorKind::Io(error) => read_error(error, line_before),
                other => {
                    Error::new(ErrorKind::Data, "cannot read CSV").source(format!("{other:?}"))
                }
            })?;
        let line = record.position().map_or(line_before, ::csv::Position::line);
        let end = reader.position().byte();
        if reader.get_mut().record_ends(end) {
            return Err(misplaced_quote(line_before));
        }
        if reader.get_ref().ends_open() {
            return Err(unclosed(line));
        }
        if !is_record {
            return Ok((found, Rows::Exactly(rows)));
        }
        if end - byte_before > what.max_line_bytes {
            return Err(read_error(
                std::io::Error::other(too_long(what.max_line_bytes)),
                line_before,
            ));
        }
        if !has_columns {
            has_columns = true;
            header_line = line;
            if record.len() > what.max_columns {
                return Err(too_many_columns(record.len(), line, what.max_columns));
            }
            found.columns = header(&record, line, what, text.encoding, text.is_raw)?;
            if spec.has_header {
                continue;
            }
        }
        if record.len() != found.columns.len() {
            return Err(ragged(&found, &record, line, header_line, spec));
        }
        let byte = record.position().map_or(0, ::csv::Position::byte);
        found.starts.add(rows, text.begin + byte);
        found.extent.add(end - byte);
        for (column, value) in found.columns.iter_mut().zip(&record) {
            column.bytes += value.len() as u64;
            if text.is_raw {
                let Some(value) = value_in_utf8(value, text.encoding) else {
                    return Err(not_text(
                        &format!("column `{}`", column.name),
                        line,
                        text.encoding,
                    ));
                };
                column.add(&value, line, spec)?;
                continue;
            }
            match std::str::from_utf8(value) {
                Ok(value) => column.add(value, line, spec)?,
                Err(_) if !what.marks => {
                    return Err(not_text(
                        &format!("column `{}`", column.name),
                        line,
                        text.encoding,
                    ));
                }
                Err(_) => {
                    column.kind = Kind::Text;
                    if column.given.is_some_and(|given| given != ColumnType::String) {
                        return Err(column.refuses("text that is not UTF-8", line));
                    }
                    found.invalid.add(&column.name, rows, line)?;
                }
            }
        }
        rows += 1;
    }
}

impl CsvColumn {
    fn add(&mut self, value: &str, line: u64, spec: &CsvSpec) -> Result<()> {
        let is_null = || value.is_empty() || spec.null_values.iter().any(|null| null == value);
        match self.given {
            Some(ColumnType::String) => return Ok(()),
            Some(given) if is_null() || given.takes(value) => return Ok(()),
            Some(_) => return Err(self.refuses(&format!("`{}`", shown(value)), line)),
            None if self.kind == Kind::Text => return Ok(()),
            None if !spec.null_values.is_empty() && is_null() => return Ok(()),
            None => {}
        }
        let kind = Kind::of(value);
        if matches!(kind, Kind::LongInt | Kind::Number) && self.digits.is_none() {
            self.digits = Some((line, shown(value)));
        }
        self.kind = self.kind.merge(kind);
        Ok(())
    }

    /// The error for a value that does not match the column's declared type.
    fn refuses(&self, value: &str, line: u64) -> Error {
        let given = self.given.map_or("", ColumnType::name);
        value_error(&self.name, value, given, line)
    }
}

/// The columns named or implied by the first row.
fn header(
    record: &::csv::ByteRecord,
    line: u64,
    what: &Inspection,
    encoding: TextEncoding,
    is_raw: bool,
) -> Result<Vec<CsvColumn>> {
    let encoding = if is_raw { encoding } else { TextEncoding::Utf8 };
    let numbered = |index: usize| format!("column_{}", index + 1);
    let mut written = Vec::with_capacity(record.len());
    for (index, value) in record.iter().enumerate() {
        let name = value_in_utf8(value, encoding)
            .ok_or_else(|| not_text(&format!("column {}", index + 1), line, encoding))?;
        written.push(if what.csv.has_header { Some(name.into_owned()) } else { None });
    }
    let mut taken: BTreeSet<String> =
        written.iter().flatten().filter(|name| !name.is_empty()).cloned().collect();
    let mut first: BTreeSet<String> = BTreeSet::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut unique = |base: String| {
        let count = counts.entry(base.clone()).or_default();
        loop {
            let name = format!("{base}_duplicated_{count}");
            *count += 1;
            if taken.insert(name.clone()) {
                return name;
            }
        }
    };
    let mut columns = Vec::with_capacity(record.len());
    for (index, written) in written.into_iter().enumerate() {
        let base = match &written {
            Some(name) if !name.is_empty() => name.clone(),
            _ => numbered(index),
        };
        let name = if first.insert(base.clone()) { base } else { unique(base) };
        first.insert(name.clone());
        let given = what.types.get(&name).copied();
        let written = written.filter(|written| *written != name);
        columns.push(CsvColumn { name, written, given, ..CsvColumn::default() });
    }
    Ok(columns)
}

fn too_many_columns(count: usize, line: u64, max: usize) -> Error {
    Error::new(ErrorKind::Data, format!("line {line} has {count} columns: the limit is {max}"))
        .hint("check `source.csv.delimiter`, or set `source.max_columns`")
}

fn misplaced_quote(line: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("a quote in the row that starts on line {line} closes a field, but no delimiter follows"),
    )
    .hint("inside a quoted field, double the quote; or set `source.csv.escape`, or set `source.csv.quote` to \"\" to disable quoting")
}

fn unclosed(line: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("a quote in the row that starts on line {line} is not closed"),
    )
    .hint("the file may be cut off; inside a quoted field, double the quote")
}

fn not_text(column: &str, line: u64, encoding: TextEncoding) -> Error {
    let (name, remedy) = match encoding {
        TextEncoding::Other(encoding) if encoding.is_single_byte() => {
            (encoding.name(), "check `source.csv.encoding`")
        }
        _ => ("UTF-8", CONVERT),
    };
    Error::new(ErrorKind::Data, format!("line {line}, {column}: the text is not {name}"))
        .hint(remedy)
}

fn ragged(
    found: &CsvColumns,
    record: &::csv::ByteRecord,
    line: u64,
    header_line: u64,
    spec: &CsvSpec,
) -> Error {
    let fields = |count: usize| match count {
        1 => "1 field".to_owned(),
        count => format!("{count} fields"),
    };
    let expected = found.columns.len();
    let first = if spec.has_header { "the header" } else { "the first row" };
    let hint = if expected == 1 {
        "check `source.csv.delimiter`, and quote fields that contain it"
    } else {
        "a field that contains the delimiter, a quote or a line break must be quoted"
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

    fn inspect_as(bytes: &[u8], what: &Inspection) -> Result<(CsvColumns, Rows)> {
        let reader = Box::new(std::io::Cursor::new(bytes.to_vec()));
        let encoding = TextEncoding::Utf8;
        inspect(Text { reader, begin: 0, encoding, is_raw: false }, what)
    }

    fn inspected(text: &str) -> Result<(CsvColumns, Rows)> {
        inspect_as(text.as_bytes(), &Inspection::default())
    }

    fn types(text: &str) -> Vec<String> {
        let (found, _) = inspected(text).unwrap();
        let of = |column: &CsvColumn| format!("{}: {}", column.name, column.kind.data_type());
        found.columns.iter().map(of).collect()
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
    fn quotes_hold_line_breaks() {
        let text = "a,b\r\n\"x\ny\",1\r\n\"\"\"q\"\"\",2\r\n";
        assert_eq!(types(text), ["a: Utf8", "b: Int64"]);
        let (_, rows) = inspected(text).unwrap();
        assert_eq!(rows, Rows::Exactly(2));
    }

    #[test]
    fn a_ragged_row_is_named_by_its_line() {
        let error = inspected("a,b\n\"1\n1\",2\n3\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.message(), "line 4 has 1 field, the header (line 1) has 2");
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_swallow_rows() {
        let error = inspected("a,b\n1,\"x\"\n2,\"y\n3,z\n4,z\n").unwrap_err();
        assert_eq!(error.message(), "a quote in the row that starts on line 3 is not closed");
        for sound in ["a,b\n1,5\" disk\n", "a,b\n1,\"x\"\"\ny\"\n", "a,b\n1,5\" disk\n2,\"x\ny\""] {
            inspected(sound).unwrap();
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_named_by_line_and_column() {
        let error = inspect_as(b"a,b\n1,ok\n2,\xe9t\xe9\n", &Inspection::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.message(), "line 3, column `b`: the text is not UTF-8");
    }

    #[test]
    fn stops_after_the_rows_that_are_wanted() {
        let what = Inspection { max_rows: 2, ..Inspection::default() };
        let (_, rows) = inspect_as(b"a\n1\n2\n3\nx,y\n", &what).unwrap();
        assert_eq!(rows, Rows::AtLeast(2));
    }

    #[test]
    fn names_are_unique() {
        let names = |text: &str| {
            let columns = inspected(text).unwrap().0.columns;
            columns.into_iter().map(|column| column.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("id,text,text,text\n"), "id text text_duplicated_0 text_duplicated_1");
        assert_eq!(names(",text,\n"), "column_1 text column_3");
        assert_eq!(names("a,a,a_duplicated_0\n"), "a a_duplicated_1 a_duplicated_0");
        assert_eq!(names(",column_1,\"\"\n"), "column_1 column_1_duplicated_0 column_3");
    }

    #[test]
    fn a_quote_that_no_delimiter_follows_is_refused() {
        for text in ["a,b\n1,\"x\"y\n2,z\n", "a,b\n1,\"x\" \n2,z\n", "a,b\n\n1,\"x\"y"] {
            let error = inspected(text).unwrap_err();
            assert!(
                error.message().ends_with("closes a field, but no delimiter follows"),
                "{error}"
            );
        }
        let error = inspected("a,b\n0,w\n1,\"x\"y\n2,z\n").unwrap_err();
        assert!(error.message().contains("line 3"), "{error}");
    }

    #[test]
    fn dialects_are_settings() {
        let what = Inspection {
            csv: CsvSpec {
                delimiter: b';',
                quote: Some(b'\''),
                escape: Some(b'\\'),
                comment: Some(b'#'),
                null_values: vec!["NA".to_owned(), "-".to_owned()],
                ..CsvSpec::default()
            },
            ..Inspection::default()
        };
        let text = b"# by 'hand\na;b;c\n'1;\\'2';NA;3\n#x\n\"y;-;-\n";
        let (found, rows) = inspect_as(text, &what).unwrap();
        let kinds: Vec<Kind> = found.columns.iter().map(|column| column.kind).collect();
        assert_eq!((kinds, rows), (vec![Kind::Text, Kind::Empty, Kind::Int], Rows::Exactly(2)));
        let no_quotes = Inspection {
            csv: CsvSpec { quote: None, ..CsvSpec::default() },
            ..Inspection::default()
        };
        assert_eq!(inspect_as(b"a,b\n\"x\"y,\"z\n", &no_quotes).unwrap().1, Rows::Exactly(1));
    }

    #[test]
    fn types_that_are_given_are_checked() {
        let types = [("sku", ColumnType::String), ("n", ColumnType::Int64)];
        let types = types.map(|(name, given)| (name.to_owned(), given)).into();
        let what = Inspection { types, ..Inspection::default() };
        inspect_as(b"sku,n\n1E5,1\n,\n", &what).unwrap();
        let error = inspect_as(b"sku,n\n1E5,1\n2E5,x\n", &what).unwrap_err();
        assert_eq!(error.message(), "line 3, column `n`: `x` is not of type int64");
    }

    #[test]
    fn rows_and_columns_have_limits() {
        let what = Inspection { max_line_bytes: 1000, ..Inspection::default() };
        let long = "x".repeat(2000);
        for text in [format!("a\n{long}\n"), format!("a\n\"{long}"), format!("a\n\"x\n{long}\"\n")]
        {
            let error = inspect_as(text.as_bytes(), &what).unwrap_err();
            assert!(error.message().contains("longer than 1000 bytes"), "{error}");
        }
        let wide = ",".repeat(crate::limits::MAX_TEXT_COLUMNS);
        let error = inspected(&format!("{wide}\n{wide}\n")).unwrap_err();
        assert!(error.message().contains("4097 columns"), "{error}");
    }

    #[test]
    fn numbers_that_lose_digits_are_found() {
        let (found, _) = inspected("n,m\n9007199254740993,1\n1.5,123456789012345678.91\n").unwrap();
        let of = |column: &CsvColumn| (column.kind, column.digits.clone().unwrap());
        let long = (2, "9007199254740993".to_owned());
        assert_eq!(of(&found.columns[0]), (Kind::Number, long));
        assert_eq!(of(&found.columns[1]), (Kind::Number, (3, "123456789012345678.91".to_owned())));
    }
}
