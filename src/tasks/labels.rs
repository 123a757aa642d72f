//! Labels with scores: the function that makes scores of logits, and their Arrow columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float32Builder, ListArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Tensor;

use crate::auto::AutoConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::logits_to_host;

/// What makes scores of logits, as transformers' `function_to_apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScoreFunction {
    Sigmoid,
    Softmax,
    None,
}

impl ScoreFunction {
    /// Scores of one row's logits.
    pub(super) fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Self::Sigmoid => logits.iter().map(|&x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Softmax => softmax(logits),
            Self::None => logits.to_vec(),
        }
    }

    /// The name in pipeline files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
            Self::None => "none",
        }
    }
}

/// Probabilities of one row's logits.
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|&x| (x - max).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|x| x / sum).collect()
}

/// The places of the `top_k` greatest scores, best first; of equal ones the first comes first.
pub(super) fn best(scores: &[f32], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(top_k);
    order
}

/// The rows of logits `(rows, n)` in host memory.
///
/// # Errors
/// As [`logits_to_host`].
pub(super) fn logit_rows(logits: &Tensor) -> Result<(Vec<f32>, usize)> {
    let (_, columns) = logits
        .dims2()
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot read logits").source(e))?;
    Ok((logits_to_host(logits)?, columns))
}

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

/// Builds structs of label and score.
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

    /// Adds the labels of one row, for the head's rows `chosen`.
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

    /// One struct a label.
    pub(super) fn finish_structs(mut self) -> StructArray {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.labels.finish()), Arc::new(self.scores.finish())];
        StructArray::new(label_fields(), columns, None)
    }

    /// One list a row.
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

/// Logits `(rows, columns)` as a list a row.
pub(super) fn logit_lists(numbers: Vec<f32>, columns: usize) -> ListArray {
    let rows = numbers.len().checked_div(columns).unwrap_or(0);
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(columns, rows));
    ListArray::new(item, offsets, Arc::new(Float32Array::from(numbers)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_keeps_the_order_of_equals() {
        assert_eq!(best(&[0.1, 0.5, 0.5, 0.9], 3), [3, 1, 2]);
        assert_eq!(best(&[0.1], 5), [0]);
    }

    #[test]
    fn softmax_survives_large_logits() {
        assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
    }
}
