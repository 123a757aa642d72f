//! A sort window: the rows that are sorted by length together, and the way back to their order.
//!
//! A window keeps its input batches as they came, tokens of each distinct sequence once, and for every
//! input row the places of its results. Not here: when a window is full (`exec`) and who computes (`workers`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};

use super::step::BatchSettings;
use crate::batch::{shares, token_budget_batches};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::{Batching, EncodedRow, Note, Results, Sequence};

/// Makes the column of a batch of rows from the results of their sequences.
pub(super) type Finish<'a> = dyn Fn(&RecordBatch, &Results<'_>) -> Result<ArrayRef> + 'a;

/// A window that still takes rows.
#[derive(Default)]
pub(super) struct WindowBuilder {
    batches: Vec<RecordBatch>,
    rows: Rows,
    distinct: HashMap<Sequence, u32>,
    tokens: usize,
    output_bytes: usize,
}

/// The input rows of a window and their sequences.
#[derive(Default)]
struct Rows {
    /// For every input row of every batch, the range of its sequences in `sequences`; `None` for null.
    ranges: Vec<Option<Range<usize>>>,
    /// Numbers of distinct sequences.
    sequences: Vec<u32>,
    notes: Vec<Option<Note>>,
}

impl WindowBuilder {
    /// Adds a batch and its encoded rows; `output_bytes` gives the size of the result of a sequence of so
    /// many tokens.
    pub(super) fn push(
        &mut self,
        batch: RecordBatch,
        encoded: Vec<Option<EncodedRow>>,
        output_bytes: impl Fn(usize) -> usize,
    ) {
        for row in encoded {
            let Some(EncodedRow { sequences, note, .. }) = row else {
                self.rows.ranges.push(None);
                self.rows.notes.push(None);
                continue;
            };
            let start = self.rows.sequences.len();
            for sequence in sequences {
                let (tokens, next) = (sequence.tokens(), self.distinct.len() as u32);
                // Results of repeated rows are copied out again, so every row counts here.
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
        self.batches.push(batch);
    }

    /// Input rows so far.
    pub(super) fn num_rows(&self) -> usize {
        self.rows.ranges.len()
    }

    /// Tokens of the distinct sequences so far.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes that the results will take.
    pub(super) fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// Closes the window: batches, and the way back.
    pub(super) fn build(self, batching: Batching, settings: BatchSettings) -> Window {
        let mut sequences: Vec<(Sequence, u32)> = self.distinct.into_iter().collect();
        sequences.sort_unstable_by_key(|(_, number)| *number);
        let sequences: Vec<Sequence> =
            sequences.into_iter().map(|(sequence, _)| sequence).collect();

        let lengths: Vec<usize> = sequences.iter().map(Sequence::tokens).collect();
        let model_batches = match batching {
            Batching::TokenBudget => token_budget_batches(&lengths, settings.max_batch_tokens),
            Batching::Share => shares(&lengths, settings.workers),
        };
        let mut places = vec![(0, 0); sequences.len()];
        for (array, batch) in model_batches.iter().enumerate() {
            for (index, &sequence) in batch.iter().enumerate() {
                places[sequence] = (array, index);
            }
        }
        Window {
            batches: self.batches,
            sequences: Arc::new(sequences),
            model_batches,
            places,
            rows: self.rows,
        }
    }
}

/// A closed window.
pub(super) struct Window {
    batches: Vec<RecordBatch>,
    /// The distinct sequences.
    pub(super) sequences: Arc<Vec<Sequence>>,
    /// Batches of numbers into `sequences`.
    pub(super) model_batches: Vec<Vec<usize>>,
    /// For every distinct sequence, its (array, index) among the results.
    places: Vec<(usize, usize)>,
    rows: Rows,
}

impl Window {
    /// The input batches with the result column appended, in input order: the results of their sequences
    /// as they are, or what `finish` makes of those of a batch.
    ///
    /// # Errors
    /// `Internal` when a result does not have the declared type; what `finish` returns.
    pub(super) fn assemble(
        self,
        results: &[ArrayRef],
        sequence_type: &DataType,
        finish: Option<&Finish<'_>>,
        schema: &SchemaRef,
    ) -> impl Iterator<Item = Result<RecordBatch>> {
        let mut arrays: Vec<ArrayRef> = results.to_vec();
        // One more array, of a single null, stands for every row that is null, and keeps the list from
        // being empty.
        let null = (arrays.len(), 0);
        arrays.push(new_null_array(sequence_type, 1));
        let mut start = 0;
        self.batches.into_iter().map(move |batch| {
            let rows = start..start + batch.num_rows();
            start = rows.end;
            let wrong = |e| {
                let name = schema.fields().last().map_or("", |field| field.name().as_str());
                Error::new(ErrorKind::Internal, format!("result of `{name}`")).source(e)
            };
            let ranges = &self.rows.ranges[rows.clone()];
            let mut order = Vec::with_capacity(ranges.len());
            let mut local = Vec::new();
            for range in ranges {
                if let Some(range) = range {
                    let first = order.len();
                    let numbers = self.rows.sequences[range.clone()].iter();
                    order.extend(numbers.map(|&number| self.places[number as usize]));
                    local.push(Some(first..order.len()));
                } else {
                    order.extend(finish.is_none().then_some(null));
                    local.push(None);
                }
            }
            let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
            let values = interleave(&arrays, &order).map_err(wrong)?;
            let column = match finish {
                None => values,
                Some(finish) => {
                    let notes = &self.rows.notes[rows];
                    finish(&batch, &Results { rows: &local, notes, values })?
                }
            };
            let mut columns = batch.columns().to_vec();
            columns.push(column);
            RecordBatch::try_new(Arc::clone(schema), columns).map_err(wrong)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array, Int64Array};
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "rows of a window may be null")]
    fn row(ids: &[u32]) -> Option<EncodedRow> {
        Some(Sequence::new(ids.to_vec(), Vec::new()).into())
    }

    fn batch(ids: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(ids.to_vec()))])
            .unwrap()
    }

    #[test]
    fn distinct_rows_once_and_order_restored() {
        let mut builder = WindowBuilder::default();
        builder.push(batch(&[1, 2, 3]), vec![row(&[7]), None, row(&[5, 6, 7])], |tokens| tokens);
        builder.push(batch(&[4, 5]), vec![row(&[7]), row(&[8, 9])], |tokens| tokens);
        assert_eq!((builder.num_rows(), builder.tokens(), builder.output_bytes()), (5, 6, 7));

        let window = builder.build(Batching::TokenBudget, SETTINGS);
        assert_eq!(window.sequences.len(), 3);
        assert_eq!(window.model_batches, [vec![1], vec![2, 0]]);

        let (results, schema) = (first_tokens(&window), schema());
        let batches: Vec<RecordBatch> = window
            .assemble(&results, &DataType::Int32, None, &schema)
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(column(&batches[0]), [Some(7), None, Some(5)]);
        assert_eq!(column(&batches[1]), [Some(7), Some(8)]);
    }

    #[test]
    fn rows_of_several_sequences_are_put_together_again() {
        let rows = |rows: &[&[&[u32]]]| {
            let row = |sequences: &[&[u32]]| {
                let sequences = sequences.iter().map(|ids| Sequence::new(ids.to_vec(), Vec::new()));
                Some(EncodedRow {
                    sequences: sequences.collect(),
                    truncated: false,
                    note: Some(Box::new(rows.len() as i32)),
                })
            };
            rows.iter().map(|sequences| row(sequences)).collect::<Vec<_>>()
        };
        let mut builder = WindowBuilder::default();
        builder.push(batch(&[1, 2, 3]), rows(&[&[&[7], &[5, 6]], &[], &[&[7]]]), |tokens| tokens);
        let mut second = rows(&[&[&[9, 1, 1], &[7]]]);
        second.push(None);
        builder.push(batch(&[4, 5]), second, |tokens| tokens);
        let window = builder.build(Batching::Share, SETTINGS);
        assert_eq!(window.model_batches, [vec![2, 0], vec![1]]);

        // The sum over a row's sequences, plus the row's note.
        let finish = |batch: &RecordBatch, results: &Results<'_>| -> Result<ArrayRef> {
            assert_eq!(batch.num_rows(), results.rows.len());
            let values = results.values.as_primitive::<Int32Type>();
            let sums = results.rows.iter().zip(results.notes).map(|(range, note)| {
                let sum: i32 = range.clone()?.map(|index| values.value(index)).sum();
                Some(sum + 100 * note.as_ref()?.downcast_ref::<i32>()?)
            });
            Ok(Arc::new(sums.collect::<Int32Array>()))
        };
        let (results, schema) = (first_tokens(&window), schema());
        let batches: Vec<RecordBatch> = window
            .assemble(&results, &DataType::Int32, Some(&finish), &schema)
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(column(&batches[0]), [Some(312), Some(300), Some(307)]);
        assert_eq!(column(&batches[1]), [Some(116), None]);
    }

    const SETTINGS: BatchSettings =
        BatchSettings { max_batch_tokens: 4, sort_window_rows: 9, workers: 2 };

    /// The answers of a model that answers each sequence with its first token.
    fn first_tokens(window: &Window) -> Vec<ArrayRef> {
        let answers = |batch: &Vec<usize>| {
            let first = batch.iter().map(|&i| window.sequences[i].input_ids[0] as i32);
            Arc::new(Int32Array::from_iter_values(first)) as ArrayRef
        };
        window.model_batches.iter().map(answers).collect()
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
