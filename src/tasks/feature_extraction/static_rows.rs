//! `feature-extraction` of a static embedding: the mean of the rows of a text's tokens. A row costs little more than its
//! tokens, so it is computed where it is tokenized, into the column's buffer.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::{StaticEncoder, StaticOptions};
use rayon::prelude::*;
use serde_json::json;

use super::column::{self, Int8Ranges};
use super::{FeatureExtraction, Precision, Text};
use crate::auto::{Module, StaticTokens};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::classifier::summary;
use crate::tasks::definition::{TaskStep, count};
use crate::tasks::models::ResolvedModel;
use crate::tasks::prompt::{Prompt, check_types};
use crate::tasks::text_input::{encode_rows, place};
use crate::tasks::{
    Batching, ComputedRows, EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize,
    text_column,
};

/// Rows that a thread takes at once.
const ROWS_AT_ONCE: usize = 64;

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub(super) struct StaticTask {
    base: TaskBase,
    options: StaticOptions,
    tokens: StaticTokens,
    prompt: Text,
    dimensions: usize,
    precision: Precision,
    size: WeightSize,
}

impl StaticTask {
    /// Resolves the options for a model with a static embedding.
    ///
    /// # Errors
    /// `Config` for an option that a static embedding does not have; as [`StaticEncoder::check`].
    pub(super) fn resolve(
        step: &TaskStep,
        options: &FeatureExtraction,
        model: Arc<ResolvedModel>,
    ) -> Result<Self> {
        let config = model.sentence_transformer();
        let refused =
            [("pooling", options.pooling.is_some()), ("outputs", !step.outputs.is_empty())];
        if let Some((key, _)) = refused.iter().find(|(_, given)| *given) {
            let message = format!("`{key}`: model `{}` is a static embedding", step.model_name);
            return Err(Error::new(ErrorKind::Config, message)
                .hint(format!("leave `{key}` out: a text is the mean of its tokens' vectors")));
        }
        let Some(table) = config.static_embedding.clone() else {
            return Err(Error::new(ErrorKind::Internal, "the model has no table of embeddings"));
        };
        let full = table.dimensions;
        let saved = config.truncate_dim.map_or(full, |dimensions| dimensions.min(full));
        let dimensions = options.dimensions.map_or(saved, count);
        if dimensions > full {
            let message = format!("`dimensions: {dimensions}` is more than the model's {full}");
            return Err(Error::new(ErrorKind::Config, message));
        }
        // As for other models: only an explicit `normalize: true` restores the unit length that truncation breaks.
        let static_options = StaticOptions {
            max_length: step.max_length,
            refuse_longer: step.truncation == Some(false),
            normalize: options.normalize,
            truncate_dim: Some(dimensions),
            normalize_truncated: options.normalize == Some(true) && dimensions < full,
        };
        let tokenizer = model.tokenizer();
        let tokens = StaticEncoder::check(config, tokenizer, static_options)?;
        let columns = super::columns(options);
        let own = options.prompt.as_ref().map(Prompt::text);
        let fixed = config.prompt_text(own, options.prompt_name.as_deref())?;
        let prompt = Text::new(options, fixed, &columns)?;
        let normalize =
            options.normalize.unwrap_or_else(|| config.modules.contains(&Module::Normalize));
        let precision = options.precision();
        let shown = json!({
            "max_length": step.max_length.or_else(|| table.max_length(tokenizer)),
            "truncation": step.truncation.unwrap_or(true),
            "prompt": prompt.shown(options),
            "normalize": normalize,
            "dimensions": dimensions,
            "precision": precision.name(),
        });
        let summary = summary(step.task.id, step, &model, shown);
        let data_type = column::embedding_type(dimensions, precision);
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let size = WeightSize { parameters: table.tokens * full, bytes: table.bytes };
        let base = TaskBase { columns, field, model, summary };
        Ok(Self { base, options: static_options, tokens, prompt, dimensions, precision, size })
    }
}

impl Task for StaticTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let model = &*self.base.model;
        let columns = self.prompt.texts(columns, &self.base.columns, first_row)?;
        encode_rows(Some(model), &self.base.columns, &columns, first_row, |texts| {
            let text = self.prompt.prepared(texts[0]);
            let (ids, truncated) = self.tokens.encode(model.tokenizer(), &text)?;
            Ok(EncodedRow { truncated, ..Sequence::new(ids, Vec::new()).into() })
        })
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        check_types(&self.base.columns, types, 1)
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        self.dimensions * size_of::<f32>()
    }

    fn needs_whole_windows(&self) -> bool {
        self.precision.has_ranges()
    }

    fn batching(&self) -> Batching {
        // Ranges of int8 come from the rows of a window.
        if self.precision.has_ranges() { Batching::TokenBudget } else { Batching::Rows }
    }

    fn weights(&self) -> Option<WeightSize> {
        Some(self.size)
    }

    fn load(&self, _device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = Arc::clone(&self.base.model);
        let config = model.sentence_transformer();
        let table = model.table()?;
        let encoder = StaticEncoder::new(config, model.tokenizer(), self.options, table)?;
        Ok(Box::new(StaticRows {
            encoder,
            columns: self.base.columns.clone(),
            prompt: self.prompt.clone(),
            precision: self.precision,
            ranges: OnceLock::new(),
            model,
        }))
    }
}

/// The task with its table.
struct StaticRows {
    encoder: StaticEncoder,
    model: Arc<ResolvedModel>,
    columns: Vec<String>,
    prompt: Text,
    precision: Precision,
    ranges: OnceLock<Int8Ranges>,
}

impl TaskModel for StaticRows {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let dimensions = self.encoder.dimensions();
        let mut values = vec![0.0; sequences.len() * dimensions];
        let mut scratch = Vec::new();
        for (sequence, out) in sequences.iter().zip(values.chunks_exact_mut(dimensions)) {
            let tokenizer = self.model.tokenizer();
            self.encoder.mean_into(tokenizer, &sequence.input_ids, &mut scratch, out)?;
        }
        column::numbers(values, dimensions, self.precision, None)
    }

    fn compute_rows(&self, columns: &[ArrayRef], first_row: u64) -> Result<ComputedRows> {
        let texts = text_column(&self.prompt.texts(columns, &self.columns, first_row)?[0])?;
        let (dimensions, tokenizer) = (self.encoder.dimensions(), self.model.tokenizer());
        let mut values = vec![0.0; texts.len() * dimensions];
        let parts = values.par_chunks_mut(ROWS_AT_ONCE * dimensions).enumerate();
        let parts = parts.map(|(part, values)| {
            let (mut scratch, mut text) = (Vec::new(), String::new());
            let (mut tokens, mut truncated) = (Vec::with_capacity(ROWS_AT_ONCE), 0);
            for (place_in_part, out) in values.chunks_exact_mut(dimensions).enumerate() {
                let row = part * ROWS_AT_ONCE + place_in_part;
                if texts.is_null(row) {
                    continue;
                }
                let own = match &self.prompt {
                    Text::After(prompt) if !prompt.is_empty() => {
                        text.clear();
                        text.push_str(prompt);
                        text.push_str(texts.value(row));
                        &text
                    }
                    Text::After(_) | Text::Rendered(_) => texts.value(row),
                };
                let found = self.encoder.encode_into(tokenizer, own, &mut scratch, out);
                let found = found
                    .map_err(|e| Error::from(e).at(place(&self.columns, first_row + row as u64)))?;
                tokens.push(found.tokens);
                truncated += u64::from(found.truncated);
            }
            Ok((tokens, truncated))
        });
        // The first error in the order of rows, whichever thread finds its own first.
        let parts: Vec<Result<(Vec<usize>, u64)>> = parts.collect();
        let (mut tokens, mut truncated) = (Vec::with_capacity(texts.len()), 0);
        for part in parts {
            let part = part?;
            tokens.extend(part.0);
            truncated += part.1;
        }
        let values = column::numbers(values, dimensions, self.precision, texts.nulls().cloned())?;
        Ok(ComputedRows { values, tokens, truncated })
    }

    fn finish_window(&self, batches: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        self.precision.finish_window(&self.ranges, batches)
    }

    fn weights(&self) -> WeightSize {
        let (parameters, bytes) = self.encoder.size();
        WeightSize { parameters, bytes }
    }
}
