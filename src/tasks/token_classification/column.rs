//! The column of entities. Not here: how tokens form entities ([`hfauto::pipelines`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int32Builder, ListArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use hfauto::pipelines::{AggregationStrategy, Entity};

use crate::tasks::labels::{logit_lists, logits_type};

/// The content of the column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Whether entities are single tokens, which have an index.
    index: bool,
    /// Whether the column also holds the logits of every token.
    pub(super) logits: bool,
}

impl Columns {
    pub(super) fn new(strategy: AggregationStrategy, logits: bool) -> Self {
        Self { index: strategy == AggregationStrategy::None, logits }
    }

    /// The type of the column.
    pub(super) fn data_type(self) -> DataType {
        if self.logits { DataType::Struct(self.fields()) } else { self.entities() }
    }

    fn entities(self) -> DataType {
        DataType::List(item(DataType::Struct(self.entity_fields())))
    }

    fn fields(self) -> Fields {
        Fields::from(vec![
            Field::new("entities", self.entities(), false),
            Field::new("logits", DataType::List(item(logits_type())), false),
        ])
    }

    fn entity_fields(self) -> Fields {
        let fields = [
            Field::new("label", DataType::Utf8, false),
            Field::new("score", DataType::Float32, false),
            Field::new("word", DataType::Utf8, false),
            Field::new("start", DataType::Int32, false),
            Field::new("end", DataType::Int32, false),
        ];
        let index = self.index.then(|| Field::new("index", DataType::Int32, false));
        fields.into_iter().chain(index).collect()
    }
}

fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(data_type, false))
}

/// Builds the column of a batch of rows.
pub(super) struct ColumnBuilder {
    columns: Columns,
    labels: StringBuilder,
    scores: Float32Builder,
    words: StringBuilder,
    starts: Int32Builder,
    ends: Int32Builder,
    indices: Int32Builder,
    lengths: Vec<usize>,
    valid: Vec<bool>,
    logits: Vec<f32>,
    /// The number of tokens of each row.
    tokens: Vec<usize>,
}

impl ColumnBuilder {
    pub(super) fn new(columns: Columns) -> Self {
        Self {
            columns,
            labels: StringBuilder::new(),
            scores: Float32Builder::new(),
            words: StringBuilder::new(),
            starts: Int32Builder::new(),
            ends: Int32Builder::new(),
            indices: Int32Builder::new(),
            lengths: Vec::new(),
            valid: Vec::new(),
            logits: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Adds a null row.
    pub(super) fn push_null(&mut self) {
        self.lengths.push(0);
        self.tokens.push(0);
        self.valid.push(false);
    }

    /// Adds a row; `logits` are those of its `tokens` tokens, if the column stores them.
    pub(super) fn push(&mut self, entities: &[Entity<'_>], logits: &[f32], tokens: usize) {
        for entity in entities {
            self.labels.append_value(entity.label);
            self.scores.append_value(entity.score);
            self.words.append_value(&entity.word);
            self.starts.append_value(entity.start as i32);
            self.ends.append_value(entity.end as i32);
            self.indices.append_value(entity.index as i32);
        }
        self.lengths.push(entities.len());
        self.valid.push(true);
        if self.columns.logits {
            self.logits.extend(logits);
            self.tokens.push(tokens);
        }
    }

    /// The column; `labels` is the number of logits per token.
    pub(super) fn finish(mut self, labels: usize) -> ArrayRef {
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.labels.finish()),
            Arc::new(self.scores.finish()),
            Arc::new(self.words.finish()),
            Arc::new(self.starts.finish()),
            Arc::new(self.ends.finish()),
        ];
        if self.columns.index {
            arrays.push(Arc::new(self.indices.finish()));
        }
        let fields = self.columns.entity_fields();
        let entities = StructArray::new(fields.clone(), arrays, None);
        let entity = item(DataType::Struct(fields));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let nulls = NullBuffer::from(self.valid);
        if !self.columns.logits {
            return Arc::new(ListArray::new(entity, offsets, Arc::new(entities), Some(nulls)));
        }
        let entities = ListArray::new(entity, offsets, Arc::new(entities), None);
        let tokens = Arc::new(logit_lists(self.logits, labels));
        let offsets = OffsetBuffer::from_lengths(self.tokens);
        let logits = ListArray::new(item(logits_type()), offsets, tokens, None);
        let arrays: Vec<ArrayRef> = vec![Arc::new(entities), Arc::new(logits)];
        Arc::new(StructArray::new(self.columns.fields(), arrays, Some(nulls)))
    }
}
