//! Results that a model step does not compute again: those that an earlier run has kept, by the values of the step's input
//! columns. Not here: which results a job has (`unit_results`), and where they are kept (`crate::sink`).

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{cast, interleave};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Kept, KeptWriter, Place, RowKey};
use crate::tasks::is_text;

/// What a step reuses and keeps for the rows of one unit.
#[derive(Debug)]
pub(crate) struct StepResults {
    earlier: Option<Arc<Kept>>,
    keep: Mutex<Option<KeptWriter>>,
    /// Whether texts are the paths of files, whose content is not known.
    is_of_files: bool,
}

/// The rows of a batch whose results may be reused or kept.
#[derive(Debug)]
pub(super) struct KeyedRows {
    keys: Vec<RowKey>,
    /// For each row, the index of its result among `values`.
    found: Vec<Option<usize>>,
    values: Option<ArrayRef>,
}

impl StepResults {
    /// Reuses `earlier` results, and gives all of them to a writer. `is_of_files` says that texts are the paths of files.
    pub(super) fn new(
        earlier: Option<Arc<Kept>>,
        writer: Option<KeptWriter>,
        is_of_files: bool,
    ) -> Self {
        Self { earlier, keep: Mutex::new(writer), is_of_files }
    }

    /// Makes the results durable.
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub(super) fn finish(&self) -> Result<()> {
        let writer = self.keep.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), KeptWriter::finish)
    }

    /// Looks up the rows of a batch by the columns that the task reads; `None` if rows of these types have no key. Blocks.
    ///
    /// # Errors
    /// `Sink` if kept results cannot be read.
    pub(super) fn look_up(&self, columns: &[ArrayRef]) -> Result<Option<KeyedRows>> {
        if self.is_of_files && columns.iter().any(|column| is_text(column.data_type())) {
            return Ok(None);
        }
        let Some(keys) = keys(columns)? else { return Ok(None) };
        let Some(earlier) = &self.earlier else {
            return Ok(Some(KeyedRows { found: vec![None; keys.len()], keys, values: None }));
        };
        let mut places: Vec<Place> = Vec::new();
        let found = keys.iter().map(|key| {
            earlier.find(key).map(|place| {
                places.push(place);
                places.len() - 1
            })
        });
        let found = found.collect();
        let values = if places.is_empty() { None } else { Some(earlier.values(&places)?) };
        Ok(Some(KeyedRows { keys, found, values }))
    }

    /// Keeps the results of a batch of rows, except those for which `is_kept` is false.
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub(super) fn keep(
        &self,
        rows: &KeyedRows,
        column: &ArrayRef,
        is_kept: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut writer = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *writer {
            Some(writer) => {
                writer.add(&rows.keys, column, |row| column.is_valid(row) && is_kept(row))
            }
            None => Ok(()),
        }
    }
}

impl KeyedRows {
    /// Whether a row's result is known.
    pub(super) fn has(&self, row: usize) -> bool {
        self.found.get(row).is_some_and(Option::is_some)
    }

    /// The number of rows whose results are known.
    pub(super) fn len_found(&self) -> usize {
        self.found.iter().flatten().count()
    }

    /// The ranges of consecutive rows whose results are not known.
    pub(super) fn missing(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for row in (0..self.found.len()).filter(|row| !self.has(*row)) {
            match ranges.last_mut() {
                Some(last) if last.end == row => last.end += 1,
                _ => ranges.push(row..row + 1),
            }
        }
        ranges
    }

    /// The column of all rows: known results, and those in `computed`, which has a row for each.
    pub(super) fn merge(&self, computed: &ArrayRef) -> Result<ArrayRef> {
        let Some(values) = &self.values else { return Ok(Arc::clone(computed)) };
        let order: Vec<(usize, usize)> = (self.found.iter().enumerate())
            .map(|(row, found)| found.map_or((0, row), |index| (1, index)))
            .collect();
        let failed = |error| {
            Error::new(ErrorKind::Internal, "kept results do not fit the column").source(error)
        };
        // A column without rows to compute may have no rows at all.
        let nulls;
        let computed = if computed.len() == self.found.len() {
            computed
        } else {
            nulls = new_null_array(computed.data_type(), self.found.len());
            &nulls
        };
        interleave(&[computed.as_ref(), values.as_ref()], &order).map_err(failed)
    }
}

/// The keys of rows; `None` if values of these types cannot be compared.
fn keys(columns: &[ArrayRef]) -> Result<Option<Vec<RowKey>>> {
    let failed =
        |error| Error::new(ErrorKind::Internal, "cannot hash the rows of a step").source(error);
    let mut plain = Vec::with_capacity(columns.len());
    for column in columns {
        // All types of texts are one.
        let is_text = is_text(column.data_type());
        plain.push(if is_text {
            cast(column, &DataType::Utf8View).map_err(failed)?
        } else {
            Arc::clone(column)
        });
    }
    let fields: Vec<SortField> =
        plain.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    if !RowConverter::supports_fields(&fields) {
        return Ok(None);
    }
    let types: Vec<String> = plain.iter().map(|column| column.data_type().to_string()).collect();
    let mut begin = blake3::Hasher::new();
    begin.update(types.join("\n").as_bytes());
    let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&plain));
    let keys = rows
        .map_err(failed)?
        .iter()
        .map(|row| {
            let mut hasher = begin.clone();
            hasher.update(row.as_ref());
            let mut key = RowKey::default();
            hasher.finalize_xof().fill(&mut key);
            key
        })
        .collect();
    Ok(Some(keys))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, LargeStringArray, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn key(column: impl Array + 'static) -> Vec<RowKey> {
        keys(&[Arc::new(column) as ArrayRef]).unwrap().unwrap()
    }

    #[test]
    fn keys_are_those_of_values() {
        let texts = key(StringArray::from(vec![Some("a"), Some(""), None, Some("a")]));
        assert_eq!(texts[0], texts[3]);
        assert_ne!(texts[1], texts[2]);
        assert_eq!(key(LargeStringArray::from(vec!["a"]))[0], texts[0]);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), Some(2)]),
            Some(vec![Some(1)]),
            Some(vec![Some(1), Some(2)]),
        ]);
        let lists = key(lists);
        assert!(lists[0] == lists[2] && lists[0] != lists[1]);
        let pair = |a: &str, b: &str| {
            let column = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
            keys(&[column(a), column(b)]).unwrap().unwrap()[0]
        };
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
    }

    #[test]
    fn known_and_computed_results_are_put_together() {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![10, 30]));
        let found = vec![Some(0), None, Some(1), None, None];
        let rows = KeyedRows { keys: vec![[0; 16]; 5], found, values: Some(values) };
        assert_eq!(rows.missing(), [1..2, 3..5]);
        assert_eq!(rows.len_found(), 2);
        let computed: ArrayRef =
            Arc::new(Int32Array::from(vec![None, Some(2), None, None, Some(5)]));
        let merged = rows.merge(&computed).unwrap();
        let expected = Int32Array::from(vec![Some(10), Some(2), Some(30), None, Some(5)]);
        assert_eq!(*merged, *(Arc::new(expected) as ArrayRef));
    }
}
