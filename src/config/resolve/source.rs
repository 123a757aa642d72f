//! `source`: paths, CSV settings, columns.

use super::{Cursor, Resolver};
use crate::config::diagnostics::Diagnostic;
use crate::config::pipeline::{CsvSpec, FileFormat, SourceSpec};
use crate::config::raw::{RawCsv, RawFormat, RawSource, StringOrList};

impl Resolver<'_> {
    pub(super) fn source(&mut self, raw: &RawSource, at: Cursor<'_>) -> SourceSpec {
        let path = at.key("path");
        let written = match &raw.path {
            StringOrList::One(text) => std::slice::from_ref(text),
            StringOrList::Many(list) => list,
        };
        let mut paths = Vec::new();
        for (index, text) in written.iter().enumerate() {
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
            format: raw.format.map(file_format),
            csv: self.csv(raw.csv.as_ref(), at.key("csv")),
            select: raw.select.clone(),
            predicate: raw.predicate.clone(),
            limit: raw.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            location: self.report.location(at.key),
        }
    }

    fn csv(&mut self, raw: Option<&RawCsv>, at: Cursor<'_>) -> CsvSpec {
        let mut delimiter = b',';
        if let Some(text) = raw.and_then(|csv| csv.delimiter.as_deref()) {
            match *text.as_bytes() {
                [byte] if byte.is_ascii() && !b"\"\r\n\0".contains(&byte) => delimiter = byte,
                _ => {
                    let here = at.key("delimiter");
                    let message = format!(
                        "`delimiter`: expected one byte, such as `,`, found `{}`",
                        here.shown(text).escape_debug()
                    );
                    self.report.push(
                        Diagnostic::new(here.value, message)
                            .hint("a tab is `\"\\t\"`, in double quotes"),
                    );
                }
            }
        }
        CsvSpec { delimiter, has_header: raw.and_then(|csv| csv.has_header).unwrap_or(true) }
    }
}

pub(super) fn file_format(raw: RawFormat) -> FileFormat {
    match raw {
        RawFormat::Parquet => FileFormat::Parquet,
        RawFormat::Csv => FileFormat::Csv,
        RawFormat::Jsonl => FileFormat::Jsonl,
        RawFormat::Arrow => FileFormat::Arrow,
    }
}
