//! A sort window: rows that are sorted by length together, and the information to restore their order.
//!
//! A window keeps its input batches unchanged and, for every input row, the numbers of its distinct sequences. Not
//! here: when a window is full (`gather`), the forward pass (`workers`), and results shared between windows
//! (`results`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};

use super::reuse::{KeyedRows, StepResults};
use super::row_error::{RowError, RowErrors, beside_errors};
use crate::batch::{shares, token_budget_batches};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::{Batching, EncodedRow, Note, Results, Sequence};

/// Builds the column of a batch of rows from their inputs and the results of their sequences.
pub(super) type Finish<'a> = dyn Fn(&[ArrayRef], &Results<'_>) -> Result<ArrayRef> + 'a;

/// A row after encoding: its sequences, null, or the error.
pub(crate) type Encoded = std::result::Result<Option<EncodedRow>, RowError>;

/// Input rows, and the columns of them that the task reads.
pub(super) struct Input {
    pub(super) batch: RecordBatch,
    pub(super) columns: Vec<ArrayRef>,
    /// The results of rows that need not be computed.
    pub(super) known: Option<Arc<KeyedRows>>,
}

/// The results of a window's batches.
pub(super) struct Computed {
    /// One array per batch.
    pub(super) values: Vec<ArrayRef>,
    /// For every distinct sequence, its (array, index) among the values.
    pub(super) places: Vec<(usize, usize)>,
    /// The places of failed sequences, with their errors.
    pub(super) failed: HashMap<(usize, usize), RowError>,
}

/// A window that still accepts rows.
#[derive(Default)]
pub(super) struct WindowBuilder {
    inputs: Vec<Input>,
    rows: Rows,
    distinct: HashMap<Sequence, u32>,
    tokens: usize,
    output_bytes: usize,
}

/// The input rows of a window and their sequences.
#[derive(Default)]
struct Rows {
    /// For every input row of every batch, its range in `sequences`; `None` for null.
    ranges: Vec<Option<Range<usize>>>,
    /// Numbers of distinct sequences.
    sequences: Vec<u32>,
    notes: Vec<Option<Note>>,
    /// Refused rows, by their number in the window.
    refused: BTreeMap<usize, RowError>,
}

impl WindowBuilder {
    /// Adds a batch and its encoded rows. `output_bytes` returns the size of the result for a sequence of the given
    /// number of tokens.
    pub(super) fn push(
        &mut self,
        input: Input,
        encoded: Vec<Encoded>,
        output_bytes: impl Fn(usize) -> usize,
    ) {
        for row in encoded {
            let row = row.unwrap_or_else(|refused| {
                self.rows.refused.insert(self.rows.ranges.len(), refused);
                None
            });
            let Some(EncodedRow { sequences, note, .. }) = row else {
                self.rows.ranges.push(None);
                self.rows.notes.push(None);
                continue;
            };
            let start = self.rows.sequences.len();
            for sequence in sequences {
                let (tokens, next) = (sequence.tokens(), self.distinct.len() as u32);
                // The output repeats the results of repeated rows, so every row counts.
                self.output_bytes += output_bytes(tokens);
                let number = match self.distinct.entry(sequence) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        self.tokens += tokens;
                        *entry.insert(next)
                    }
                };
                self.rows.sequences.push(number);
            }
            self.rows.ranges.push(Some(start..self.rows.sequences.len()));
            self.rows.notes.push(note);
        }
        self.inputs.push(input);
    }

    /// The number of input rows so far.
    pub(super) fn num_rows(&self) -> usize {
        self.rows.ranges.len()
    }

    /// The number of tokens of the distinct sequences so far.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The expected size of the results, in bytes.
    pub(super) fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// Closes the window and returns its distinct sequences.
    pub(super) fn build(self) -> (Window, Vec<Sequence>) {
        let mut sequences: Vec<(Sequence, u32)> = self.distinct.into_iter().collect();
        sequences.sort_unstable_by_key(|(_, number)| *number);
        let sequences: Vec<Sequence> =
            sequences.into_iter().map(|(sequence, _)| sequence).collect();
        (Window { inputs: self.inputs, rows: self.rows }, sequences)
    }
}

/// Batches of indices into `sequences`; each index occurs once.
pub(super) fn batches(
    sequences: &[Sequence],
    batching: Batching,
    (max_batch_tokens, workers): (usize, usize),
) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = sequences.iter().map(Sequence::tokens).collect();
    match batching {
        Batching::TokenBudget | Batching::Rows => {
            token_budget_batches(&lengths, max_batch_tokens, workers)
        }
        Batching::Share => shares(&lengths, workers),
    }
}

/// For each of `count` indices, its (batch, index) in `batches`.
pub(super) fn places(batches: &[Vec<usize>], count: usize) -> Vec<(usize, usize)> {
    let mut places = vec![(0, 0); count];
    for (array, batch) in batches.iter().enumerate() {
        for (index, &number) in batch.iter().enumerate() {
            places[number] = (array, index);
        }
    }
    places
}

/// A closed window.
pub(super) struct Window {
    inputs: Vec<Input>,
    rows: Rows,
}

impl Window {
    /// The input batches with the result column appended, in input order. The column contains the results of the
    /// sequences unchanged, or the output of `finish` for each batch. If errors are kept, it also contains the errors
    /// of rows; `on_error` is called for each.
    ///
    /// # Errors
    /// `Internal` when a result does not have the declared type; errors of `finish`.
    pub(super) fn assemble(
        self,
        computed: &Computed,
        sequence_type: &DataType,
        finish: Option<&Finish<'_>>,
        row_errors: RowErrors,
        (schema, results): (&SchemaRef, Option<&StepResults>),
        on_error: impl Fn(&RowError),
    ) -> impl Iterator<Item = Result<RecordBatch>> {
        let mut arrays: Vec<ArrayRef> = computed.values.clone();
        // An additional array with a single null stands for all null rows, and keeps the list from being empty.
        let null = (arrays.len(), 0);
        arrays.push(new_null_array(sequence_type, 1));
        let mut start = 0;
        self.inputs.into_iter().map(move |Input { batch, columns, known }| {
            let rows = start..start + batch.num_rows();
            start = rows.end;
            let wrong = |e| {
                let name = schema.fields().last().map_or("", |field| field.name().as_str());
                Error::new(ErrorKind::Internal, format!("result of `{name}`")).source(e)
            };
            let mut order = Vec::with_capacity(rows.len());
            let mut local = Vec::new();
            let mut errors = Vec::new();
            for (row, range) in rows.clone().zip(&self.rows.ranges[rows.clone()]) {
                let numbers = range.clone().map(|range| &self.rows.sequences[range]);
                let place = |number: &u32| computed.places[*number as usize];
                let failed = |number: &u32| computed.failed.get(&place(number));
                let error = self.rows.refused.get(&row);
                let error = error.or_else(|| numbers?.iter().find_map(failed));
                if let Some(error) = error {
                    on_error(error);
                }
                errors.push(error);
                if let (Some(numbers), None) = (numbers, error) {
                    let first = order.len();
                    order.extend(numbers.iter().map(place));
                    local.push(Some(first..order.len()));
                } else {
                    order.extend(finish.is_none().then_some(null));
                    local.push(None);
                }
            }
            let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
            let values = interleave(&arrays, &order).map_err(wrong)?;
            let mut column = match finish {
                None => values,
                Some(finish) => {
                    let notes = &self.rows.notes[rows.clone()];
                    finish(&columns, &Results { rows: &local, notes, values })?
                }
            };
            if let Some(known) = &known {
                column = known.merge(&column)?;
                let has_no_error = |row: usize| errors.get(row).is_some_and(Option::is_none);
                results.map_or(Ok(()), |results| results.keep(known, &column, has_no_error))?;
            }
            if row_errors != RowErrors::Fail {
                let null = self.rows.ranges[rows].iter().zip(&errors).enumerate();
                let valid = null.map(|(index, (row, error))| {
                    let is_known = known.as_ref().is_some_and(|known| known.has(index));
                    row.is_some() || error.is_some() || is_known
                });
                let valid: NullBuffer = valid.collect::<Vec<bool>>().into();
                column = beside_errors(column, valid, &errors, row_errors).map_err(wrong)?;
            }
            let mut columns = batch.columns().to_vec();
            columns.push(column);
            RecordBatch::try_new(Arc::clone(schema), columns).map_err(wrong)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int32Array, Int64Array};
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::super::row_error::output_type;
    use super::*;
    use crate::error::RowErrorKind;

    #[expect(clippy::unnecessary_wraps, reason = "rows of a window may be null or refused")]
    fn row(ids: &[u32]) -> Encoded {
        Ok(Some(Sequence::new(ids.to_vec(), Vec::new()).into()))
    }

    fn batch(ids: &[i64]) -> Input {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&ids)]).unwrap();
        Input { batch, columns: vec![ids], known: None }
    }

    #[test]
    fn distinct_rows_once_and_order_restored() {
        let mut builder = WindowBuilder::default();
        builder
            .push(batch(&[1, 2, 3]), vec![row(&[7]), Ok(None), row(&[5, 6, 7])], |tokens| tokens);
        builder.push(batch(&[4, 5]), vec![row(&[7]), row(&[8, 9])], |tokens| tokens);
        assert_eq!((builder.num_rows(), builder.tokens(), builder.output_bytes()), (5, 6, 7));

        let (window, sequences) = builder.build();
        assert_eq!(sequences.len(), 3);
        let batches = batches(&sequences, Batching::TokenBudget, (4, 2));
        assert_eq!(batches, [vec![1], vec![2, 0]]);

        let (results, schema) = (first_tokens(&sequences, &batches), schema());
        let batches: Vec<RecordBatch> = window
            .assemble(&results, &DataType::Int32, None, RowErrors::Fail, (&schema, None), |_| ())
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(column(&batches[0]), [Some(7), None, Some(5)]);
        assert_eq!(column(&batches[1]), [Some(7), Some(8)]);
    }

    #[test]
    fn rows_of_several_sequences_are_merged() {
        let rows = |rows: &[&[&[u32]]]| {
            let row = |sequences: &[&[u32]]| {
                let sequences = sequences.iter().map(|ids| Sequence::new(ids.to_vec(), Vec::new()));
                Ok(Some(EncodedRow {
                    sequences: sequences.collect(),
                    note: Some(Box::new(rows.len() as i32)),
                    ..EncodedRow::default()
                }))
            };
            rows.iter().map(|sequences| row(sequences)).collect::<Vec<_>>()
        };
        let mut builder = WindowBuilder::default();
        builder.push(batch(&[1, 2, 3]), rows(&[&[&[7], &[5, 6]], &[], &[&[7]]]), |tokens| tokens);
        let mut second = rows(&[&[&[9, 1, 1], &[7]]]);
        second.push(Ok(None));
        builder.push(batch(&[4, 5]), second, |tokens| tokens);
        let (window, sequences) = builder.build();
        let batches = batches(&sequences, Batching::Share, (4, 2));
        assert_eq!(batches, [vec![2, 0], vec![1]]);

        // The sum over a row's sequences, plus the row's note.
        let finish = |columns: &[ArrayRef], results: &Results<'_>| -> Result<ArrayRef> {
            assert_eq!(columns[0].len(), results.rows.len());
            let values = results.values.as_primitive::<Int32Type>();
            let sums = results.rows.iter().zip(results.notes).map(|(range, note)| {
                let sum: i32 = range.clone()?.map(|index| values.value(index)).sum();
                Some(sum + 100 * note.as_ref()?.downcast_ref::<i32>()?)
            });
            Ok(Arc::new(sums.collect::<Int32Array>()))
        };
        let (results, schema) = (first_tokens(&sequences, &batches), schema());
        let batches: Vec<RecordBatch> = window
            .assemble(
                &results,
                &DataType::Int32,
                Some(&finish),
                RowErrors::Fail,
                (&schema, None),
                |_| (),
            )
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(column(&batches[0]), [Some(312), Some(300), Some(307)]);
        assert_eq!(column(&batches[1]), [Some(116), None]);
    }

    #[test]
    fn row_errors_are_beside_their_values() {
        let mut builder = WindowBuilder::default();
        let error = |kind, text: &str| RowError { kind, message: text.to_owned() };
        let refused = error(RowErrorKind::TooLong, "too long");
        let rows = vec![row(&[7]), Err(refused), Ok(None), row(&[8])];
        builder.push(batch(&[1, 2, 3, 4]), rows, |tokens| tokens);
        let (window, sequences) = builder.build();
        let batches = batches(&sequences, Batching::TokenBudget, (4, 2));
        let mut computed = first_tokens(&sequences, &batches);
        let failed = error(RowErrorKind::ImageDecode, "no image");
        computed.failed.insert(computed.places[1], failed);
        let kept = output_type(&Field::new("first", DataType::Int32, true), RowErrors::KeepKind);
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("first", kept, true),
        ]));
        let heard = std::cell::RefCell::<Vec<RowErrorKind>>::default();
        let mut batches = window.assemble(
            &computed,
            &DataType::Int32,
            None,
            RowErrors::KeepKind,
            (&schema, None),
            |error| {
                heard.borrow_mut().push(error.kind);
            },
        );
        let batch = batches.next().unwrap().unwrap();
        let both = batch.column(1).as_struct();
        let values: Vec<_> = both.column(0).as_primitive::<Int32Type>().iter().collect();
        let errors: Vec<_> = both.column(1).as_string::<i32>().iter().collect();
        assert_eq!(values, [Some(7), None, None, None]);
        assert_eq!(errors, [None, Some("too long"), None, Some("no image")]);
        let kinds: Vec<_> = both.column(2).as_string::<i32>().iter().collect();
        assert_eq!(kinds, [None, Some("too_long"), None, Some("image_decode")]);
        assert_eq!(*heard.borrow(), [RowErrorKind::TooLong, RowErrorKind::ImageDecode]);
        assert_eq!(
            (0..4).map(|i| both.is_null(i)).collect::<Vec<_>>(),
            [false, false, true, false]
        );
    }

    /// The results of a model that returns the first token of each sequence.
    fn first_tokens(sequences: &[Sequence], batches: &[Vec<usize>]) -> Computed {
        let answers = |batch: &Vec<usize>| {
            let first = batch.iter().map(|&i| sequences[i].input_ids[0] as i32);
            Arc::new(Int32Array::from_iter_values(first)) as ArrayRef
        };
        let values = batches.iter().map(answers).collect();
        Computed { values, places: places(batches, sequences.len()), failed: HashMap::new() }
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("first", DataType::Int32, true),
        ]))
    }

    fn column(batch: &RecordBatch) -> Vec<Option<i32>> {
        batch.column(1).as_primitive::<Int32Type>().iter().collect()
    }
}
