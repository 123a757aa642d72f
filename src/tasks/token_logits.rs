//! Models with logits per token: returns the logits of a sequence as one list, which the tasks
//! combine. Not here: their meaning (`token_classification`, `question_answering`).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float32Type};
use candle_core::Device;

use super::classifier::{Classifier, LoadedClassifier};
use super::{Sequence, TaskModel, WeightSize};
use crate::error::{Error, ErrorKind, Result};

/// One list of numbers per sequence: the logits of its first token, then those of the second, and so
/// on.
pub(super) fn token_logits_type() -> DataType {
    DataType::List(item())
}

fn item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Float32, false))
}

/// A model with weights and `labels` logits per token.
pub(super) struct TokenLogitsModel {
    model: LoadedClassifier,
    labels: usize,
}

impl TokenLogitsModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// As [`Classifier::load`].
    pub(super) fn load(classifier: &Classifier, device: &Device, labels: usize) -> Result<Self> {
        Ok(Self { model: classifier.load(device)?, labels })
    }
}

impl TaskModel for TokenLogitsModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, columns) = self.model.logits(sequences)?;
        if columns != self.labels {
            let labels = self.labels;
            return Err(Error::new(
                ErrorKind::Model,
                format!("the model's head has {columns} labels, expected {labels}"),
            ));
        }
        let lengths = sequences.iter().map(|sequence| sequence.tokens() * columns);
        let offsets = OffsetBuffer::from_lengths(lengths);
        let values = Arc::new(Float32Array::from(numbers));
        let lists = ListArray::try_new(item(), offsets, values, None).map_err(|e| {
            Error::new(ErrorKind::Internal, "the logits are not those of every token").source(e)
        })?;
        Ok(Arc::new(lists))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}

/// The logits of sequences, read back from their array.
pub(super) struct TokenLogits<'a> {
    lists: &'a ListArray,
    values: &'a [f32],
}

impl<'a> TokenLogits<'a> {
    /// Wraps an array of [`token_logits_type`].
    pub(super) fn new(values: &'a ArrayRef) -> Self {
        let lists = values.as_list::<i32>();
        Self { lists, values: lists.values().as_primitive::<Float32Type>().values() }
    }

    /// The logits of one sequence, token after token.
    pub(super) fn sequence(&self, index: usize) -> &'a [f32] {
        let offsets = self.lists.value_offsets();
        &self.values[offsets[index] as usize..offsets[index + 1] as usize]
    }
}
