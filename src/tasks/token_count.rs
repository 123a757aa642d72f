//! `token-count`: how many tokens a text has, special tokens included, as `len(tokenizer(text).input_ids)`.
//! No model runs and nothing is cut unless `truncation: true` says so.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;

use super::classifier::summary;
use super::models::{Models, ResolvedModel};
use super::text_input::encode_rows;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::EncodeOptions;
use crate::config::pipeline::{TaskStep, TokenCount};
use crate::error::Result;
use crate::models::Dimensions;

/// The task with its tokenizer.
#[derive(Debug)]
pub struct TokenCountTask {
    model: Arc<ResolvedModel>,
    base: TaskBase,
    max_length: Option<usize>,
}

impl TokenCountTask {
    /// Resolves the step's tokenizer.
    ///
    /// # Errors
    /// As [`Models::resolve`].
    pub fn resolve(step: &TaskStep, options: &TokenCount, models: &Models) -> Result<Self> {
        let model = models.resolve(&step.model)?;
        let stated = step.max_length.or(model.tokenizer().model_max_length());
        let max_length = stated.filter(|_| step.truncation == Some(true));
        let summary =
            summary("token-count", step, &model, serde_json::json!({"max_length": max_length}));
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
            // The count is all that is left of the tokens.
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

/// Counts, without a model.
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
