//! `sparse-encoding` without a transformer: the weight of each token of a text. Not here: SPLADE (`sparse_encoding`).
//!
//! # Source
//! `sparse_encoder/modules/sparse_static_embedding.py` of sentence-transformers at v6.2.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;

use super::classifier::summary;
use super::definition::TaskStep;
use super::models::ResolvedModel;
use super::sparse_rows::{SparseRows, item};
use super::text_input::encode_rows;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, SparseStatic};
use crate::error::{Error, ErrorKind, Result};

/// The options of the step.
pub(super) struct SparseStaticOptions<'a> {
    pub(super) column: &'a str,
    pub(super) has_pooling: bool,
    pub(super) top_k: Option<usize>,
    pub(super) prompt: Option<&'a str>,
    pub(super) prompt_name: Option<&'a str>,
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub(super) struct SparseStaticTask {
    base: TaskBase,
    table: SparseStatic,
    top_k: Option<usize>,
    prompt: String,
    max_length: Option<usize>,
    truncation: bool,
}

impl SparseStaticTask {
    /// Resolves the options for a model whose weights are in `table`.
    ///
    /// # Errors
    /// `Config` for `pooling`, and an unknown prompt name.
    pub(super) fn resolve(
        step: &TaskStep,
        options: SparseStaticOptions<'_>,
        model: Arc<ResolvedModel>,
        table: SparseStatic,
    ) -> Result<Self> {
        if options.has_pooling {
            let message =
                format!("`pooling`: model `{}` has one weight per token", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint("leave `pooling` out"));
        }
        let config = model.sentence_transformer();
        let prompt = config.prompt_text(options.prompt, options.prompt_name)?;
        let top_k = options.top_k.or(config.max_active_dims);
        let max_length = step.max_length.or_else(|| model.tokenizer().model_max_length());
        let truncation = step.truncation.unwrap_or(true);
        let shown = serde_json::json!({
            "max_length": max_length, "truncation": truncation, "top_k": top_k, "prompt": prompt,
        });
        let summary = summary(step.task.id, step, &model, shown);
        let field = Arc::new(Field::new(&step.output, DataType::List(item()), true));
        let base = TaskBase { columns: vec![options.column.to_owned()], field, model, summary };
        Ok(Self { base, table, top_k, prompt, max_length, truncation })
    }
}

impl Task for SparseStaticTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let model = &*self.base.model;
        let input = model.text_input(self.max_length.unwrap_or(usize::MAX), self.truncation);
        encode_rows(None, &self.base.columns, columns, first_row, |texts| {
            let text = format!("{}{}", self.prompt, texts[0]);
            let max_length = self.max_length.filter(|_| self.truncation);
            let (ids, truncated) = SparseStatic::encode(model.tokenizer(), &text, max_length)?;
            input.fits(ids.len())?;
            Ok(EncodedRow { truncated, ..Sequence::new(ids, Vec::new()).into() })
        })
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        self.top_k.unwrap_or(tokens) * 24
    }

    fn weights(&self) -> Option<WeightSize> {
        let parameters = self.base.model.tokenizer().total_vocab_size();
        Some(WeightSize { parameters, bytes: parameters * size_of::<f32>() })
    }

    fn auto_class(&self) -> AutoClass {
        AutoClass::Model
    }

    fn load(&self, _device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(SparseStaticModel {
            weights: self.base.model.sparse_table(&self.table)?,
            resolved: Arc::clone(&self.base.model),
            top_k: self.top_k,
        }))
    }
}

/// The task with its weights.
struct SparseStaticModel {
    weights: Vec<f32>,
    resolved: Arc<ResolvedModel>,
    top_k: Option<usize>,
}

impl TaskModel for SparseStaticModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let mut rows = SparseRows::new(self.resolved.tokenizer(), self.top_k);
        for sequence in sequences {
            let weight = |id: &u32| {
                let weight = self.weights.get(*id as usize).copied().unwrap_or_default();
                (*id, weight)
            };
            rows.push(sequence.input_ids.iter().map(weight));
        }
        Ok(rows.finish())
    }

    fn weights(&self) -> WeightSize {
        let parameters = self.weights.len();
        WeightSize { parameters, bytes: parameters * size_of::<f32>() }
    }
}
