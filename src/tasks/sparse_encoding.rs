//! `sparse-encoding`: converts a text to sparse weights over the vocabulary, as sentence-transformers'
//! `SparseEncoder` with SPLADE pooling does.
//!
//! # Source
//! `sentence_transformers/sparse_encoder/model.py` and `modules/splade_pooling.py` at v6.2. A directory without
//! `modules.json` uses max pooling of `log1p(relu(logits))`.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier, forward_failed};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
    count,
};
use super::models::{Models, ResolvedModel};
use super::prompt::no_columns;
use super::sparse_rows::{SparseRows, item};
use super::sparse_static::{SparseStaticOptions, SparseStaticTask};
use super::text_input::{TextInput, check_prompt};
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{
    AutoClass, Encoder, SpladeActivation, SpladePooling, SpladeStrategy, logit_rows,
};
use crate::document::{Cursor, Diagnostics};
use crate::error::Result;

/// The number of tokens whose logits are computed at once: each row of logits is as long as the vocabulary.
const TOKENS_AT_ONCE: usize = 64;

/// The options of `sparse-encoding`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct SparseEncoding {
    /// The text column.
    pub input: String,
    /// How to pool the token vectors. Default: as in the model's modules, else `max`.
    pub pooling: Option<SpladeStrategy>,
    /// Keep only the k largest weights. Default: the model's `max_active_dims`.
    pub top_k: Option<NonZeroU64>,
    /// Text prepended to every row. Default: the model's default prompt.
    pub prompt: Option<String>,
    /// The name of a prompt in the model's `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
}

pub(super) static SPARSE_ENCODING: TaskDefinition = TaskDefinition {
    id: "sparse-encoding",
    aliases: &[],
    summary: "Computes a sparse vector over the vocabulary (SPLADE).",
    auto_class: AutoClass::MaskedLM,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<SparseEncoding>(),
    function: SqlFunction {
        name: "sparse_encode",
        parameters: &["text"],
        parts: &[],
        description: "The sparse vector of a text over the vocabulary (SPLADE): List<Struct<token, index, weight>>.",
        example: "SELECT sparse_encode(text, 'splade') FROM documents",
    },
    usual_type: || DataType::List(item()),
    template: include_str!("../../pipelines/sparse-encoding.yaml"),
};

impl TaskOptions for SparseEncoding {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_prompt(self.prompt.is_some(), self.prompt_name.is_some(), at, report);
        no_columns(&[("prompt", self.prompt.as_ref())], at, report);
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        let model = models.resolve(&step.model)?;
        if let Some(table) = model.sentence_transformer().sparse_static.clone() {
            let options = SparseStaticOptions {
                column: &self.input,
                has_pooling: self.pooling.is_some(),
                top_k: self.top_k.map(count),
                prompt: self.prompt.as_deref(),
                prompt_name: self.prompt_name.as_deref(),
            };
            return Ok(Arc::new(SparseStaticTask::resolve(step, options, model, table)?));
        }
        Ok(Arc::new(SparseEncodingTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct SparseEncodingTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    pooling: SpladePooling,
    top_k: Option<usize>,
    prompt: String,
}

impl SparseEncodingTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head.
    fn resolve(step: &TaskStep, options: &SparseEncoding, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::MaskedLM, models)?;
        let directory = classifier.model.sentence_transformer();
        let mut pooling = directory.require_sparse_encoder()?;
        let own = directory.encoder == Some(Encoder::SparseEncoder);
        let prompt = match &options.prompt {
            Some(prompt) => prompt.clone(),
            None if own || options.prompt_name.is_some() => {
                directory.prompt_text(None, options.prompt_name.as_deref())?
            }
            None => String::new(),
        };
        let top_k = options.top_k.map(count).or(directory.max_active_dims.filter(|_| own));
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            [options.input.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        if let Some(strategy) = options.pooling {
            pooling.strategy = strategy;
        }
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "pooling": pooling.strategy.name(),
                "activation_function": pooling.activation.name(),
                "top_k": top_k,
                "prompt": prompt,
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::List(item()), true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, pooling, top_k, prompt })
    }
}

impl Task for SparseEncodingTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| match self.prompt.as_str() {
            "" => self.input.encode(texts),
            prompt => self.input.encode(&[&format!("{prompt}{}", texts[0])]),
        })
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        // Trained encoders keep a few weights per token; without `top_k`, every vocabulary entry may have one.
        self.top_k.unwrap_or(tokens * 16) * 24
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(SparseEncodingModel {
            model: self.classifier.load(device)?,
            resolved: Arc::clone(&self.classifier.model),
            pooling: self.pooling,
            top_k: self.top_k,
        }))
    }
}

/// The task with its weights.
struct SparseEncodingModel {
    model: LoadedClassifier,
    resolved: Arc<ResolvedModel>,
    pooling: SpladePooling,
    top_k: Option<usize>,
}

impl SparseEncodingModel {
    /// The weights of one row over the vocabulary.
    fn pool(&self, states: &candle_core::Tensor) -> Result<Vec<f32>> {
        let tokens = states.dim(0).map_err(forward_failed)?;
        let mut pooled: Vec<f32> = Vec::new();
        for start in (0..tokens).step_by(TOKENS_AT_ONCE) {
            let some = states.narrow(0, start, TOKENS_AT_ONCE.min(tokens - start));
            let logits = some.and_then(|some| self.model.model.head().project(&some));
            let (numbers, vocabulary) = logit_rows(&logits.map_err(forward_failed)?)?;
            pooled.resize(vocabulary, 0.0);
            for logits in numbers.chunks_exact(vocabulary) {
                for (weight, logit) in pooled.iter_mut().zip(logits) {
                    let value = logit.max(0.0).ln_1p();
                    let value = match self.pooling.activation {
                        SpladeActivation::Relu => value,
                        SpladeActivation::Log1pRelu => value.ln_1p(),
                    };
                    match self.pooling.strategy {
                        SpladeStrategy::Max => *weight = weight.max(value),
                        SpladeStrategy::Sum => *weight += value,
                    }
                }
            }
        }
        Ok(pooled)
    }
}

impl TaskModel for SparseEncodingModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (inputs, output) = self.model.states(sequences)?;
        let mut rows = SparseRows::new(self.resolved.tokenizer(), self.top_k);
        for row in 0..inputs.lengths.rows() {
            let states = output.last_hidden_state.row(row).map_err(forward_failed)?;
            rows.push((0..).zip(self.pool(&states)?));
        }
        Ok(rows.finish())
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
