//! Units: rows of one file that are computed and committed together. A file is cut at positions that a reader can seek
//! to: Parquet by rows, along row groups where those are small; CSV and JSONL at lines, unless they are compressed. Not
//! here: which pipelines may be cut (`crate::job`), and finished units (`crate::sink`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The approximate number of rows of a unit. A run that dies loses its units in progress: 80 seconds of work each, for a
/// model that computes 200 rows per second.
pub(super) const UNIT_ROWS: u64 = 16_384;

/// A unit of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The number of its file.
    pub file: usize,
    /// Its rows in the file, before `where`; `None` if the rows are not counted.
    pub rows: Option<Range<u64>>,
    pub(super) part: Option<Part>,
}

/// The part of a file that a unit covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    /// A range of rows, in a file of `of` rows.
    Rows {
        rows: Range<u64>,
        of: u64,
    },
    Bytes(Range<u64>),
}
