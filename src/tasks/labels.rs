//! Labels with scores as Arrow columns. Not here: how logits become scores ([`hfauto::pipelines`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float32Builder, ListArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};

use crate::auto::AutoConfig;
use crate::error::Result;

/// `label: Utf8, score: Float32`.
pub(super) fn label_fields() -> Fields {
    Fields::from(vec![
        Field::new("label", DataType::Utf8, false),
        Field::new("score", DataType::Float32, false),
    ])
}

/// The type of a list of labels.
pub(super) fn label_list_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(label_fields()), false)))
}

/// Builds structs of a label and a score.
#[derive(Default)]
pub(super) struct LabelsBuilder {
    labels: StringBuilder,
    scores: Float32Builder,
    lengths: Vec<usize>,
}

impl LabelsBuilder {
    /// Adds one row's labels.
    pub(super) fn push<'a>(&mut self, labels: impl IntoIterator<Item = (&'a str, f32)>) {
        let before = self.scores_len();
        for (label, score) in labels {
            self.labels.append_value(label);
            self.scores.append_value(score);
        }
        self.lengths.push(self.scores_len() - before);
    }

    /// Adds the labels of one row, for the head outputs `chosen`.
    ///
    /// # Errors
    /// As [`AutoConfig::label`].
    pub(super) fn push_rows(
        &mut self,
        config: &AutoConfig,
        chosen: &[usize],
        scores: &[f32],
    ) -> Result<()> {
        let labels = chosen.iter().map(|&row| Ok((config.label(row)?, scores[row])));
        let labels = labels.collect::<Result<Vec<_>>>()?;
        self.push(labels);
        Ok(())
    }

    fn scores_len(&self) -> usize {
        self.scores.values_slice().len()
    }

    /// One struct per label.
    pub(super) fn finish_structs(mut self) -> StructArray {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.labels.finish()), Arc::new(self.scores.finish())];
        StructArray::new(label_fields(), columns, None)
    }

    /// One list per row.
    pub(super) fn finish_lists(mut self) -> ListArray {
        let offsets = OffsetBuffer::from_lengths(std::mem::take(&mut self.lengths));
        let item = Arc::new(Field::new_list_field(DataType::Struct(label_fields()), false));
        ListArray::new(item, offsets, Arc::new(self.finish_structs()), None)
    }
}

/// The type of a column of logits.
pub(super) fn logits_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Float32, false)))
}

/// Logits `(rows, columns)` as one list per row.
pub(super) fn logit_lists(numbers: Vec<f32>, columns: usize) -> ListArray {
    let rows = numbers.len().checked_div(columns).unwrap_or(0);
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(columns, rows));
    ListArray::new(item, offsets, Arc::new(Float32Array::from(numbers)), None)
}
