//! Resolves `source`: paths, CSV dialect, columns.

use super::{Cursor, Resolver};
use crate::config::pipeline::{CsvSpec, DeltaSource, SourceSpec, TableFormat, TextEncoding};
use crate::config::raw::{RawCsv, RawSource};
use crate::document::Diagnostic;
use crate::limits::{MAX_LINE_SIZE_BYTES, MAX_TEXT_COLUMNS};

impl Resolver<'_> {
    pub(super) fn source(&mut self, raw: &RawSource, at: Cursor<'_>) -> SourceSpec {
        let path = at.key("path");
        let mut paths = Vec::new();
        for (index, text) in raw.path.strings().iter().enumerate() {
            paths.extend(self.path_text(text, path.item(index), "path"));
        }
        if let Some(columns) = &raw.select {
            if columns.is_empty() {
                self.report.push(
                    Diagnostic::new(at.key("select").value, "`select` names no column")
                        .hint("remove it to read every column"),
                );
            }
            self.columns(columns, at.key("select"), "select");
        }
        if let Some(predicate) = &raw.predicate {
            self.not_empty(predicate, at.key("where"), "where");
        }
        SourceSpec {
            paths,
            format: raw.format.and_then(TableFormat::of_files),
            delta: self.delta_source(raw, at),
            csv: self.csv(raw.csv.as_ref(), at.key("csv")),
            types: raw.types.clone().unwrap_or_default(),
            schema: raw.schema.unwrap_or_default(),
            max_line_size_bytes: self.size(
                raw.max_line_size.as_ref(),
                at.key("max_line_size"),
                "max_line_size",
                MAX_LINE_SIZE_BYTES,
            ),
            max_columns: raw.max_columns.map_or(MAX_TEXT_COLUMNS, |most| most.get() as usize),
            select: raw.select.clone(),
            predicate: raw.predicate.clone(),
            limit: raw.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            location: self.report.location(at.key),
        }
    }

    fn delta_source(&mut self, raw: &RawSource, at: Cursor<'_>) -> DeltaSource {
        let is_asked = raw.format == Some(TableFormat::Delta);
        if raw.version.is_some() && !is_asked {
            self.report.push(
                Diagnostic::new(at.key("version").key, "`version` is for Delta tables")
                    .hint("add `format: delta`, or remove it"),
            );
        }
        let is_glob = |path: &String| path.contains(['*', '?', '[']);
        if is_asked && (raw.path.strings().len() != 1 || raw.path.strings().iter().any(is_glob)) {
            self.report.push(
                Diagnostic::new(at.key("path").value, "a Delta table is one folder")
                    .related(at.key("format").value, "the format")
                    .hint("its log says which files are read"),
            );
        }
        DeltaSource { is_asked, version: raw.version }
    }

    fn csv(&mut self, raw: Option<&RawCsv>, at: Cursor<'_>) -> CsvSpec {
        let mut spec = CsvSpec::default();
        let Some(raw) = raw else { return spec };
        if let Some(text) = &raw.delimiter
            && let Some(byte) = self.csv_byte(text, at, "delimiter", "such as `,`")
        {
            spec.delimiter = byte;
        }
        if let Some(text) = &raw.quote {
            spec.quote = None;
            if !text.is_empty() {
                spec.quote =
                    self.csv_byte(text, at, "quote", "such as `'`, or `\"\"` to disable quoting");
            }
        }
        if let Some(text) = &raw.escape {
            spec.escape = self.csv_byte(text, at, "escape", "such as `\\`");
        }
        if let Some(text) = &raw.comment {
            spec.comment = self.csv_byte(text, at, "comment", "such as `#`");
        }
        let bytes = [
            ("delimiter", Some(spec.delimiter)),
            ("quote", spec.quote),
            ("comment", spec.comment),
            // Escaping quotes with the quote character is the same as doubling them.
            ("escape", spec.escape.filter(|escape| Some(*escape) != spec.quote)),
        ];
        for (index, (key, byte)) in bytes.iter().enumerate() {
            let Some(byte) = byte else { continue };
            if let Some((other, _)) = bytes[..index].iter().find(|(_, b)| *b == Some(*byte)) {
                let message = format!("`{key}` and `{other}` are the same character");
                let place = if at.key(key).value == at.value { other } else { key };
                self.report.push(
                    Diagnostic::new(at.key(place).value, message)
                        .hint("each must be a different character"),
                );
            }
        }
        if spec.escape == spec.quote {
            spec.escape = None;
        }
        if spec.escape.is_some() && spec.quote.is_none() {
            let message = "`escape` applies to quoted fields, but `quote` disables quoting";
            self.report
                .push(Diagnostic::new(at.key("escape").value, message).hint("remove one of them"));
        }
        if let Some(label) = &raw.encoding {
            let here = at.key("encoding");
            if let Some(encoding) = TextEncoding::of_label(label) {
                spec.encoding = encoding;
            } else {
                let message =
                    format!("`encoding`: unknown encoding `{}`", here.shown(label).escape_debug());
                self.report.push(Diagnostic::new(here.value, message).hint(
                    "known are utf-8, utf-16, latin1, windows-1250 to -1258, iso-8859-2 to -16, \
                     koi8-r, shift_jis, euc-jp, euc-kr, gbk, gb18030 and big5",
                ));
            }
        }
        spec.null_values = raw.null_values.clone().unwrap_or_default();
        spec.has_header = raw.has_header.unwrap_or(true);
        spec
    }

    /// A character of the CSV dialect, which must be a single byte.
    fn csv_byte(&mut self, text: &str, at: Cursor<'_>, key: &str, such_as: &str) -> Option<u8> {
        if let [byte] = *text.as_bytes()
            && byte.is_ascii()
            && !b"\r\n\0".contains(&byte)
        {
            return Some(byte);
        }
        let here = at.key(key);
        let found = here.shown(text).escape_debug();
        let message = format!("`{key}`: expected one byte, {such_as}, found `{found}`");
        self.report.push(
            Diagnostic::new(here.value, message).hint("a tab is `\"\\t\"`, in double quotes"),
        );
        None
    }
}
