//! A file of a table: its inspection, and the part of it to read. Not here: the table of many files (`table`), the readers
//! of formats (`reader`).

use std::sync::Arc;

use super::inspect::{self, Layout, Rows};
use super::invalid::InvalidText;
use super::listing::ListedFile;
use super::session::ROWS_PER_BATCH;
use super::stamp::FileStamp;
use super::text::is_sought;
use super::text_bytes::TextBytes;
use super::units::{Cuttable, Part, Start, Unit, UnitSize};
use super::value_sizes::batch_rows;
use crate::error::{Error, ErrorKind};
use crate::guard::guarded;

/// A file of a table, and its row counts.
#[derive(Clone, Debug)]
pub(super) struct TableFile {
    pub(super) file: ListedFile,
    pub(super) rows: Rows,
    pub(super) text_bytes: TextBytes,
    pub(super) starts: Arc<[Start]>,
    /// The texts that are not UTF-8, if they are not errors.
    pub(super) invalid: Arc<InvalidText>,
    /// The settings for reading the file.
    pub(super) layout: Arc<Layout>,
    /// The part to read; `None` means the whole file.
    pub(super) part: Option<Part>,
    /// The first row of the part.
    pub(super) first_row: u64,
    /// The number of rows in the part, if counted.
    pub(super) part_rows: Option<u64>,
}

impl TableFile {
    /// The number of rows per batch of a Parquet file, which bounds the memory of the requested columns.
    ///
    /// # Errors
    /// A page of the file cannot be read.
    pub(super) fn parquet_batch_rows(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> crate::Result<usize> {
        let large = &self.layout.large_values;
        if large.is_empty() {
            return Ok(ROWS_PER_BATCH);
        }
        let rows = match &self.part {
            Some(Part::Rows { rows, .. }) => rows.clone(),
            _ => 0..u64::MAX,
        };
        let path = self.file.path.display();
        let rows = guarded(ErrorKind::Data, &format!("`{path}`"), || {
            Ok(match &self.file.remote {
                Some(remote) => batch_rows(large, &rows, true, &**remote, is_wanted),
                None => {
                    batch_rows(large, &rows, false, &inspect::open(&self.file.path)?, is_wanted)
                }
            })
        })?;
        rows.map_err(|error| {
            // A changed file may fail with any other error.
            if let Err(changed) = self.check_stamp() {
                return changed;
            }
            let message = format!("cannot read the pages of `{path}`");
            Error::new(ErrorKind::Data, message)
                .source(error)
                .at(path)
                .hint("the file may be damaged; write or copy it again")
        })
    }

    /// Fails if a local file has changed since its inspection.
    pub(super) fn check_stamp(&self) -> crate::Result<()> {
        let ListedFile { path, stamp, remote, .. } = &self.file;
        let found = std::fs::metadata(path).and_then(|found| FileStamp::of_file(&found));
        if remote.is_some() || found.map_or(true, |found| found == *stamp) {
            return Ok(());
        }
        let message = format!("`{}` was changed while it was read", path.display());
        Err(Error::new(ErrorKind::Data, message)
            .at(path.display())
            .hint("run again once no other program writes to it"))
    }

    /// The number of rows to read, if it is known.
    pub(super) fn known_rows(&self) -> Option<u64> {
        if self.part.is_some() { self.part_rows } else { self.rows.exactly() }
    }

    /// The rows of one of its units.
    pub(super) fn of_unit(&self, unit: &Unit) -> Self {
        let mut file = self.clone();
        file.part.clone_from(&unit.part);
        file.first_row = unit.rows.as_ref().map_or(0, |rows| rows.start);
        file.part_rows = unit.rows.as_ref().map(|rows| rows.end - rows.start);
        file
    }

    /// Its units, as those of file `number`; a single one if its rows are not counted.
    pub(super) fn units(&self, number: usize, size: &UnitSize) -> Vec<Unit> {
        let Some(all) = self.rows.exactly() else {
            return vec![Unit { file: number, rows: None, part: None }];
        };
        let form = &self.file.form;
        let is_text = form.format.is_text();
        let is_sought = !is_text || is_sought(form.codec, self.layout.encoding);
        let file = Cuttable {
            rows: all,
            text_bytes: &self.text_bytes,
            starts: &self.starts,
            is_text,
            is_sought,
            end: if is_sought { self.file.bytes } else { u64::MAX },
        };
        let mut units = size.cut(&file);
        if units.len() == 1 {
            return vec![Unit { file: number, rows: Some(0..all), part: None }];
        }
        let unit = |(rows, part)| Unit { file: number, rows: Some(rows), part: Some(part) };
        units.drain(..).map(unit).collect()
    }
}
