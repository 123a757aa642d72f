//! Units: rows of one file that are computed and committed together. A unit is about a minute of work: a run that dies
//! loses no more. The cuts depend on the file and the pipeline only, never on the machine, the time or other files.
//!
//! | format | places to cut |
//! |---|---|
//! | Parquet, Arrow IPC | any row; the starts of row groups and record batches where these are small |
//! | CSV, JSONL | the starts of some rows, by the offset in the text; a compressed file is decompressed up to there |
//!
//! Not here: which pipelines may be cut, and how much work a row is (`crate::job`); finished units (`crate::sink`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::text_bytes::TextBytes;
use crate::limits::PARQUET_UNITS;

/// The most rows of a unit, unless the pipeline says otherwise.
const UNIT_ROWS: u64 = 16_384;

/// The fewest rows of a unit that ends because of its work: generation needs rows to compute side by side.
const LEAST_ROWS: u64 = 8;

/// The places to cut a text file that inspection remembers. Where it finds more, it forgets every second one.
const MAX_STARTS: usize = 4096;

/// Units of a file that is decompressed or transcoded up to their start are larger in proportion to its text beyond this
/// size, to bound the share of time that is spent on text of other units.
const SKIPPED_BYTES: u64 = 1 << 30;

/// The bytes of a row's value that inspection does not know.
const UNKNOWN_BYTES: u64 = 512;

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
    Rows { rows: Range<u64>, of: u64 },
    /// A range of the text of a file: of its bytes, or of its text in UTF-8 if the file has an encoding that cannot be read
    /// from the middle. The end may lie behind the end of the text.
    Bytes(Range<u64>),
}

/// A place to cut a file: the start of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) row: u64,
    /// Its offset in the text; 0 for formats that are read by rows.
    pub(super) byte: u64,
}

/// The size of units.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitSize {
    /// The most rows.
    pub rows: u64,
    /// The work of each model step.
    pub steps: Vec<StepWork>,
}

/// The work of a model step for one row, as a share of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct StepWork {
    /// The columns that the step reads.
    pub columns: Vec<String>,
    /// Pairs of a number of bytes in these columns and the work for a row of this size, in ascending order.
    pub work: Vec<(u64, f64)>,
}

impl Default for UnitSize {
    fn default() -> Self {
        Self { rows: UNIT_ROWS, steps: Vec::new() }
    }
}

impl StepWork {
    /// The work for a row of `bytes` bytes, interpolated.
    pub(crate) fn of(&self, bytes: f64) -> f64 {
        let mut below = (0.0, self.work.first().map_or(0.0, |(_, work)| *work));
        for (at, work) in self.work.iter().map(|(at, work)| (*at as f64, *work)) {
            if bytes <= at {
                let share = (bytes - below.0) / (at - below.0).max(1.0);
                return below.1 + (work - below.1) * share;
            }
            below = (at, work);
        }
        below.1
    }
}

impl UnitSize {
    /// The work for an average row of a file of `rows` rows, whose columns have `text_bytes` bytes.
    fn row(&self, text_bytes: &TextBytes, rows: u64) -> f64 {
        let mean = |column: &String| match text_bytes.of(column) {
            Some(bytes) => bytes as f64 / rows.max(1) as f64,
            None => UNKNOWN_BYTES as f64,
        };
        self.steps.iter().map(|step| step.of(step.columns.iter().map(mean).sum())).sum()
    }

    /// The parts of a file that are its units, at least one.
    pub(super) fn cut(&self, file: &Cuttable<'_>) -> Vec<(Range<u64>, Part)> {
        let row = self.row(file.text_bytes, file.rows);
        if !file.is_text {
            let by_work = if row > 0.0 { (1.0 / row) as u64 } else { u64::MAX };
            let rows =
                self.rows.min(by_work.max(LEAST_ROWS)).max(file.rows.div_ceil(PARQUET_UNITS));
            let starts = row_starts(file.starts, file.rows, rows);
            return ranges(starts, file.rows)
                .map(|rows| (rows.clone(), Part::Rows { rows, of: file.rows }))
                .collect();
        }
        let bytes = file.text_end();
        let most =
            if file.is_sought { 1.0 } else { (bytes as f64 / SKIPPED_BYTES as f64).max(1.0) };
        let mean_bytes = (bytes as f64 / file.rows.max(1) as f64).max(1.0);
        // A long row counts as several.
        let is_too_large = |begin: Start, end: Start| {
            let rows = end.row - begin.row;
            let long = end.byte.saturating_sub(begin.byte) as f64 / mean_bytes;
            let work = row * long.max(rows as f64);
            rows > self.rows || rows > LEAST_ROWS && work > most
        };
        let end = Start { row: file.rows, byte: bytes };
        let (mut begin, mut last) = (Start { row: 0, byte: 0 }, Start { row: 0, byte: 0 });
        let mut cuts = vec![begin];
        for next in file.starts.iter().copied().chain([end]) {
            if is_too_large(begin, next) && last.row > begin.row {
                cuts.push(last);
                begin = last;
            }
            last = next;
        }
        let ends = cuts[1..].iter().copied().chain([Start { row: file.rows, byte: file.end }]);
        let unit =
            |(begin, end): (&Start, Start)| (begin.row..end.row, Part::Bytes(begin.byte..end.byte));
        cuts.iter().zip(ends).map(unit).collect()
    }
}

/// A file that can be cut.
pub(super) struct Cuttable<'f> {
    pub(super) rows: u64,
    pub(super) text_bytes: &'f TextBytes,
    /// Places to cut.
    pub(super) starts: &'f [Start],
    /// Whether it is a CSV or JSONL file.
    pub(super) is_text: bool,
    /// Whether a reader can start in the middle of the file.
    pub(super) is_sought: bool,
    /// The end of its last part.
    pub(super) end: u64,
}

impl Cuttable<'_> {
    /// The approximate length of the text.
    fn text_end(&self) -> u64 {
        if self.is_sought {
            return self.end;
        }
        // The rows behind the last place have the average length.
        let last = self.starts.last().filter(|start| start.row > 0);
        last.map_or(0, |last| (last.byte as f64 * self.rows as f64 / last.row as f64) as u64)
    }
}

/// The places to cut a text file, found row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Starts {
    starts: Vec<Start>,
    interval: u64,
}

impl Default for Starts {
    fn default() -> Self {
        Self { starts: Vec::new(), interval: 1 }
    }
}

impl Starts {
    /// Adds the start of a row; rows come in order.
    pub(super) fn add(&mut self, row: u64, byte: u64) {
        if row == 0 || !row.is_multiple_of(self.interval) {
            return;
        }
        if self.starts.len() >= MAX_STARTS && self.interval < UNIT_ROWS {
            self.interval *= 2;
            let interval = self.interval;
            self.starts.retain(|start| start.row.is_multiple_of(interval));
            if !row.is_multiple_of(interval) {
                return;
            }
        }
        self.starts.push(Start { row, byte });
    }

    /// All of them, in order.
    pub(super) fn take(&mut self) -> Vec<Start> {
        self.interval = 1;
        std::mem::take(&mut self.starts)
    }
}

fn ranges(starts: Vec<u64>, end: u64) -> impl Iterator<Item = Range<u64>> {
    let ends: Vec<u64> = starts.iter().copied().chain([end]).collect();
    [0].into_iter().chain(starts).zip(ends).map(|(start, end)| start..end)
}

/// Groups row groups, which start at `groups`, into units of up to `unit_rows`; larger row groups are split.
fn row_starts(groups: &[Start], rows: u64, unit_rows: u64) -> Vec<u64> {
    let mut starts = Vec::new();
    let (mut row, mut in_unit) = (0, 0);
    for end in groups.iter().map(|group| group.row).chain([rows]) {
        let group_rows = end.saturating_sub(row);
        if in_unit > 0 && in_unit + group_rows > unit_rows {
            starts.push(row);
            in_unit = 0;
        }
        let mut begin = 0;
        while group_rows - begin > unit_rows {
            begin += unit_rows;
            starts.push(row + begin);
        }
        in_unit += group_rows - begin;
        row += group_rows;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_texts() -> &'static TextBytes {
        Box::leak(Box::default())
    }

    fn rows_of(size: &UnitSize, file: &Cuttable<'_>) -> Vec<u64> {
        let units = size.cut(file);
        let mut next = 0;
        for (rows, _) in &units {
            assert_eq!(rows.start, next);
            next = rows.end;
        }
        assert_eq!(next, file.rows);
        units.into_iter().map(|(rows, _)| rows.end - rows.start).collect()
    }

    /// A step whose rows take `work` each, whatever their length.
    fn size(work: f64) -> UnitSize {
        let step = StepWork { columns: vec!["text".to_owned()], work: vec![(1, work)] };
        UnitSize { steps: vec![step], ..UnitSize::default() }
    }

    fn by_rows(rows: u64, starts: &[Start]) -> Cuttable<'_> {
        let (text_bytes, is_text, is_sought, end) = (no_texts(), false, true, 0);
        Cuttable { rows, text_bytes, starts, is_text, is_sought, end }
    }

    /// A text file with rows of the given lengths.
    fn starts(lengths: impl Iterator<Item = u64>) -> (Vec<Start>, u64) {
        let (mut starts, mut byte) = (Starts::default(), 0);
        for (row, length) in lengths.enumerate() {
            starts.add(row as u64, byte);
            byte += length;
        }
        (starts.take(), byte)
    }

    #[test]
    fn units_are_few_whatever_a_footer_claims() {
        let count = |rows: u64, work| rows_of(&size(work), &by_rows(rows, &[])).len() as u64;
        assert_eq!(count(0, 0.0), 1);
        assert_eq!(count(UNIT_ROWS, 0.0), 1);
        assert_eq!(count(UNIT_ROWS + 1, 0.0), 2);
        assert!(count(i64::MAX as u64, 0.0) <= PARQUET_UNITS + 1);
        assert!(count(i64::MAX as u64, 1.0) <= PARQUET_UNITS + 1);
    }

    #[test]
    fn units_hold_a_given_amount_of_work() {
        assert_eq!(rows_of(&size(0.01), &by_rows(250, &[])), [100, 100, 50]);
        // A single row is more than a unit.
        assert_eq!(rows_of(&size(7.0), &by_rows(20, &[])), [8, 8, 4]);
        let groups = [Start { row: 60, byte: 0 }, Start { row: 120, byte: 0 }];
        assert_eq!(rows_of(&size(0.01), &by_rows(180, &groups)), [60, 60, 60]);
        let given = UnitSize { rows: 3, steps: Vec::new() };
        assert_eq!(rows_of(&given, &by_rows(7, &[])), [3, 3, 1]);
    }

    #[test]
    fn long_rows_count_as_several() {
        let lengths = (0..1000).map(|row| if row < 900 { 10 } else { 910 });
        let (starts, end) = starts(lengths);
        let text = |is_sought| {
            let (rows, text_bytes, starts) = (1000, no_texts(), &starts[..]);
            Cuttable { rows, text_bytes, starts, is_text: true, is_sought, end }
        };
        // 100 bytes on average: the short rows count by their number, the long ones by their bytes.
        let rows = rows_of(&size(0.01), &text(true));
        assert_eq!(rows[..9], [100; 9]);
        assert!(rows[9..].iter().all(|rows| *rows <= 10 + LEAST_ROWS), "{rows:?}");
        assert_eq!(rows_of(&size(0.01), &text(false))[..9], [100; 9]);
        let parts = size(0.01).cut(&text(true));
        assert_eq!(parts[1].1, Part::Bytes(1000..2000));
        assert!(matches!(&parts.last().unwrap().1, Part::Bytes(bytes) if bytes.end == end));
    }

    #[test]
    fn places_to_cut_are_few_and_even() {
        let (few, _) = starts((0..100).map(|_| 2));
        assert_eq!(few.len(), 99);
        assert_eq!(few[9], Start { row: 10, byte: 20 });
        let (many, _) = starts((0..1_000_000).map(|_| 2));
        assert!((MAX_STARTS / 2 - 1..=MAX_STARTS).contains(&many.len()), "{}", many.len());
        assert!(many.windows(2).all(|pair| pair[1].row - pair[0].row == many[0].row));
        // Units of the most rows are cut as if every place were known.
        let file = Cuttable {
            rows: 1_000_000,
            text_bytes: no_texts(),
            starts: &many,
            is_text: true,
            is_sought: true,
            end: 2_000_000,
        };
        assert_eq!(rows_of(&UnitSize::default(), &file)[..61], [UNIT_ROWS; 61]);
    }

    #[test]
    fn work_depends_on_the_length_of_texts() {
        let work = vec![(100, 0.1), (200, 0.3)];
        let step = StepWork { columns: vec!["a".to_owned(), "b".to_owned()], work };
        for (bytes, expected) in [(0.0, 0.1), (100.0, 0.1), (150.0, 0.2), (900.0, 0.3)] {
            assert!((step.of(bytes) - expected).abs() < 1e-9, "{bytes}");
        }
        let size = UnitSize { steps: vec![step], ..UnitSize::default() };
        let texts = [("a".to_owned(), 1000), ("b".to_owned(), 500)].into_iter().collect();
        assert!((size.row(&texts, 10) - 0.2).abs() < 1e-9);
        // The column `b` is made by another step.
        let texts = [("a".to_owned(), 1000)].into_iter().collect();
        assert!((size.row(&texts, 10) - 0.3).abs() < 1e-9);
    }
}
