//! `token-count`: counts the tokens of a text, special tokens included, as
//! `len(tokenizer(text).input_ids)`. Runs no model, and truncates only with `truncation: true`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::summary;
use super::definition::{
    InputColumn, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::models::{Models, ResolvedModel};
use super::text_input::encode_rows;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, EncodeOptions};
use crate::error::Result;
use crate::models::Dimensions;

/// The options of `token-count`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TokenCount {
    /// The text column.
    pub input: String,
}

pub(super) static TOKEN_COUNT: TaskDefinition = TaskDefinition {
    id: "token-count",
    aliases: &[],
    summary: "Counts the tokens of a text.",
    auto_class: AutoClass::Model,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<TokenCount>(),
    function: SqlFunction {
        name: "token_count",
        parameters: &["text"],
        parts: &[],
        description: "The number of tokens of a text, special tokens included: Int32.",
        example: "SELECT sum(token_count(text, 'minilm')) FROM reviews",
    },
    usual_type: || DataType::Int32,
    template: include_str!("../../pipelines/token-count.yaml"),
};

impl TaskOptions for TokenCount {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(TokenCountTask::resolve(step, self, models)?))
    }
}

/// The task with its tokenizer.
#[derive(Debug)]
struct TokenCountTask {
    model: Arc<ResolvedModel>,
    base: TaskBase,
    max_length: Option<usize>,
}

impl TokenCountTask {
    /// Resolves the step's tokenizer.
    ///
    /// # Errors
    /// As [`Models::resolve`].
    fn resolve(step: &TaskStep, options: &TokenCount, models: &Models) -> Result<Self> {
        let model = models.resolve(&step.model)?;
        let stated = step.max_length.or(model.tokenizer().model_max_length());
        let max_length = stated.filter(|_| step.truncation == Some(true));
        let summary =
            summary(step.task.id, step, &model, serde_json::json!({"max_length": max_length}));
        let field = Arc::new(Field::new(&step.output, DataType::Int32, true));
        let base = TaskBase {
            columns: vec![options.input.clone()],
            field,
            model: Arc::clone(&model),
            summary,
        };
        Ok(Self { model, base, max_length })
    }
}

impl Task for TokenCountTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let options = EncodeOptions { max_length: self.max_length, ..EncodeOptions::default() };
        encode_rows(None, &self.base.columns, columns, first_row, |texts| {
            let encoding = self.model.tokenizer().encode(texts[0], &options)?;
            // Only the count is needed.
            let sequence = Sequence { start: encoding.input_ids.len(), ..Sequence::default() };
            Ok(EncodedRow { truncated: encoding.truncated, ..sequence.into() })
        })
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        size_of::<i32>()
    }

    fn load(&self, _device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(TokenCounter))
    }

    fn weights(&self) -> Option<WeightSize> {
        Some(WeightSize { parameters: 0, bytes: 0 })
    }

    fn dimensions(&self) -> Option<&Dimensions> {
        None
    }
}

/// Returns the counts; runs no model.
struct TokenCounter;

impl TaskModel for TokenCounter {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let counts = sequences.iter().map(|sequence| sequence.start as i32);
        Ok(Arc::new(Int32Array::from_iter_values(counts)))
    }

    fn weights(&self) -> WeightSize {
        WeightSize { parameters: 0, bytes: 0 }
    }
}
