//! Units: rows of one file that are computed and committed together. A file is cut at places that can be reached
//! without reading what is before: Parquet by rows, along row groups where those are small; CSV and JSONL at lines,
//! unless they are compressed. Not here: which pipelines may be cut (`crate::job`), what happens to a finished unit
//! (`crate::sink`).

use std::ops::Range;

use super::table::TableFile;

/// Rows of a unit, about. A run that dies loses the units that it is on: with a model that makes 200 rows a
/// second, a minute and a half of each.
pub(super) const UNIT_ROWS: u64 = 16_384;

/// A unit of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The number of its file.
    pub file: usize,
    /// Its rows in the file, `where` not applied; `None` where rows are not counted.
    pub rows: Option<Range<u64>>,
    pub(super) part: Option<Part>,
}

/// The part of a file that a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Of so many rows.
    Rows {
        rows: Range<u64>,
        of: u64,
    },
    Bytes(Range<u64>),
}

/// The units of a file; one when it cannot be cut.
pub(super) fn units_of(number: usize, file: &TableFile) -> Vec<Unit> {
    let rows = file.rows.exactly();
    let (Some(all), false) = (rows, file.starts.is_empty()) else {
        return vec![Unit { file: number, rows: rows.map(|rows| 0..rows), part: None }];
    };
    let starts =
        [(0, 0)].into_iter().chain(file.starts.iter().map(|start| (start.row, start.byte)));
    let ends = file.starts.iter().map(|start| (start.row, start.byte));
    let ends = ends.chain([(all, file.file.bytes)]);
    let units = starts.zip(ends).map(|((row, byte), (end_row, end_byte))| {
        let part = if file.file.form.format.is_text() {
            Part::Bytes(byte..end_byte)
        } else {
            Part::Rows { rows: row..end_row, of: all }
        };
        Unit { file: number, rows: Some(row..end_row), part: Some(part) }
    });
    units.collect()
}
