//! A sort window: the rows that are sorted by length together, and the way back to their order.
//!
//! A window keeps its input batches as they came, tokens of each distinct row once, and for every input
//! row the place of its result. Not here: when a window is full (`exec`) and who computes (`workers`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{FieldRef, SchemaRef};

use crate::batch::token_budget_batches;
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::EncodedRow;

/// A window that still takes rows.
#[derive(Default)]
pub(super) struct WindowBuilder {
    batches: Vec<RecordBatch>,
    /// For every input row of every batch, its distinct row; `None` for null.
    rows: Vec<Option<u32>>,
    distinct: HashMap<EncodedRow, u32>,
    tokens: usize,
    output_bytes: usize,
}

impl WindowBuilder {
    /// Adds a batch and its encoded rows; `output_bytes` gives the size of one row's result.
    pub(super) fn push(
        &mut self,
        batch: RecordBatch,
        encoded: Vec<Option<EncodedRow>>,
        output_bytes: impl Fn(usize) -> usize,
    ) {
        for row in encoded {
            let distinct = row.map(|row| {
                let (tokens, next) = (row.tokens(), self.distinct.len() as u32);
                // Results of repeated rows are copied out again, so every row counts here.
                self.output_bytes += output_bytes(tokens);
                match self.distinct.entry(row) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        self.tokens += tokens;
                        *entry.insert(next)
                    }
                }
            });
            self.rows.push(distinct);
        }
        self.batches.push(batch);
    }

    /// Input rows so far.
    pub(super) fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// Tokens of the distinct rows so far.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes that the results will take.
    pub(super) fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// Closes the window: batches under the token budget, and the way back.
    pub(super) fn build(self, max_batch_tokens: usize) -> Window {
        let mut rows: Vec<(EncodedRow, u32)> = self.distinct.into_iter().collect();
        rows.sort_unstable_by_key(|(_, number)| *number);
        let rows: Vec<EncodedRow> = rows.into_iter().map(|(row, _)| row).collect();

        let lengths: Vec<usize> = rows.iter().map(EncodedRow::tokens).collect();
        let model_batches = token_budget_batches(&lengths, max_batch_tokens);
        let mut places = vec![(0, 0); rows.len()];
        for (array, batch) in model_batches.iter().enumerate() {
            for (index, &row) in batch.iter().enumerate() {
                places[row] = (array, index);
            }
        }
        // One more array, of a single null, stands for every row that is null.
        let null = (model_batches.len(), 0);
        let order =
            self.rows.iter().map(|row| row.map_or(null, |row| places[row as usize])).collect();
        Window { batches: self.batches, rows: Arc::new(rows), model_batches, order }
    }
}

/// A closed window.
pub(super) struct Window {
    batches: Vec<RecordBatch>,
    /// The distinct rows.
    pub(super) rows: Arc<Vec<EncodedRow>>,
    /// Batches of row numbers into `rows`.
    pub(super) model_batches: Vec<Vec<usize>>,
    /// For every input row, its (array, index) among the results.
    order: Vec<(usize, usize)>,
}

impl Window {
    /// The input batches with the result column appended, in input order.
    ///
    /// # Errors
    /// `Internal` when a result does not have the declared type.
    pub(super) fn assemble(
        self,
        results: &[ArrayRef],
        field: &FieldRef,
        schema: &SchemaRef,
    ) -> impl Iterator<Item = Result<RecordBatch>> {
        let mut arrays: Vec<ArrayRef> = results.to_vec();
        arrays.push(new_null_array(field.data_type(), 1));
        let (field, schema) = (Arc::clone(field), Arc::clone(schema));
        let mut start = 0;
        self.batches.into_iter().map(move |batch| {
            let order = &self.order[start..start + batch.num_rows()];
            start += batch.num_rows();
            let values: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
            let wrong = |e| {
                Error::new(ErrorKind::Internal, format!("result of `{}`", field.name())).source(e)
            };
            let column = interleave(&values, order).map_err(wrong)?;
            let mut columns = batch.columns().to_vec();
            columns.push(column);
            RecordBatch::try_new(Arc::clone(&schema), columns).map_err(wrong)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "rows of a window may be null")]
    fn row(ids: &[u32]) -> Option<EncodedRow> {
        Some(EncodedRow { input_ids: ids.to_vec(), token_type_ids: Vec::new(), truncated: false })
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

        let window = builder.build(4);
        assert_eq!(window.rows.len(), 3);
        assert_eq!(window.model_batches, [vec![1], vec![2, 0]]);

        // The model answers each row with its first token.
        let results: Vec<ArrayRef> = window
            .model_batches
            .iter()
            .map(|batch| {
                let first = batch.iter().map(|&row| window.rows[row].input_ids[0] as i32);
                Arc::new(Int32Array::from_iter_values(first)) as ArrayRef
            })
            .collect();
        let field = Arc::new(Field::new("first", DataType::Int32, true));
        let schema = Arc::new(Schema::new(vec![
            Arc::new(Field::new("id", DataType::Int64, false)),
            Arc::clone(&field),
        ]));
        let batches: Vec<RecordBatch> =
            window.assemble(&results, &field, &schema).collect::<Result<_>>().unwrap();
        let column = |batch: &RecordBatch| {
            batch
                .column(1)
                .as_any()
                .downcast_ref::<Int32Array>()
                .unwrap()
                .iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(column(&batches[0]), [Some(7), None, Some(5)]);
        assert_eq!(column(&batches[1]), [Some(7), Some(8)]);
    }
}
