//! The column of sparse vectors: per row, the tokens with a weight. Not here: where weights come from.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, ListArray, StringBuilder, StructArray, UInt32Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};

use crate::auto::AutoTokenizer;

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("token", DataType::Utf8, false),
        Field::new("index", DataType::UInt32, false),
        Field::new("weight", DataType::Float32, false),
    ])
}

/// The items of the column.
pub(super) fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields()), false))
}

/// Builds the column: per row, the tokens with a weight, the largest first.
pub(super) struct SparseRows<'a> {
    tokenizer: &'a AutoTokenizer,
    top_k: usize,
    names: StringBuilder,
    indexes: UInt32Builder,
    weights: Float32Builder,
    lengths: Vec<usize>,
}

impl<'a> SparseRows<'a> {
    /// Rows of at most `top_k` tokens.
    pub(super) fn new(tokenizer: &'a AutoTokenizer, top_k: Option<usize>) -> Self {
        Self {
            tokenizer,
            top_k: top_k.unwrap_or(usize::MAX),
            names: StringBuilder::new(),
            indexes: UInt32Builder::new(),
            weights: Float32Builder::new(),
            lengths: Vec::new(),
        }
    }

    /// Adds a row of tokens and weights, sorted by token; weights of 0 are left out.
    pub(super) fn push(&mut self, weights: impl Iterator<Item = (u32, f32)>) {
        let mut kept: Vec<(u32, f32)> = weights.filter(|(_, weight)| *weight != 0.0).collect();
        if kept.len() > self.top_k {
            kept.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
            kept.truncate(self.top_k);
        }
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (index, weight) in &kept {
            self.names.append_value(self.tokenizer.id_to_token(*index).unwrap_or_default());
            self.indexes.append_value(*index);
            self.weights.append_value(*weight);
        }
        self.lengths.push(kept.len());
    }

    /// The column.
    pub(super) fn finish(mut self) -> ArrayRef {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.names.finish()),
            Arc::new(self.indexes.finish()),
            Arc::new(self.weights.finish()),
        ];
        let values = Arc::new(StructArray::new(fields(), arrays, None));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        Arc::new(ListArray::new(item(), offsets, values, None))
    }
}
