//! `next-sentence-prediction`: predicts whether one text follows another, with BERT's pretraining
//! head.
//!
//! # Source
//! `BertForNextSentencePrediction` in `modeling_bert.py` at v4.57: logit 0 means "follows".

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float32Array, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Device;
use hfauto::pipelines::softmax;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::labels::{logit_lists, logits_type};
use super::models::Models;
use super::text_classification::TextPair;
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::error::Result;

/// The options of `next-sentence-prediction`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct NextSentencePrediction {
    /// `{text, text_pair}`.
    pub input: TextPair,
}

pub(super) static NEXT_SENTENCE_PREDICTION: TaskDefinition = TaskDefinition {
    id: "next-sentence-prediction",
    aliases: &[],
    summary: "Predicts whether one text follows another.",
    auto_class: AutoClass::NextSentencePrediction,
    outputs: &[ModelOutputName::Logits],
    generates: false,
    options: OptionsType::of::<NextSentencePrediction>(),
    function: SqlFunction {
        name: "is_next",
        parameters: &["text", "text_pair"],
        parts: &[],
        description: "Whether the second text follows the first: Struct<is_next, score>.",
        example: "SELECT is_next(a, b, 'bert')['is_next'] FROM pairs",
    },
    usual_type: || DataType::Struct(fields(false)),
    template: include_str!("../../pipelines/next-sentence-prediction.yaml"),
};

impl TaskOptions for NextSentencePrediction {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        self.input.inputs()
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(NextSentencePredictionTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct NextSentencePredictionTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    logits: bool,
}

impl NextSentencePredictionTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head.
    fn resolve(step: &TaskStep, options: &NextSentencePrediction, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::NextSentencePrediction, models)?;
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            [options.input.text.as_str(), options.input.text_pair.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let logits = step.stores_logits();
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({"max_length": input.max_length}),
        );
        let field = Field::new(&step.output, DataType::Struct(fields(logits)), true);
        let base = TaskBase {
            columns: input.columns.clone(),
            field: Arc::new(field),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, logits })
    }
}

fn fields(logits: bool) -> Fields {
    let is_next = Field::new("is_next", DataType::Boolean, false);
    let score = Field::new("score", DataType::Float32, false);
    let logits = logits.then(|| Field::new("logits", logits_type(), false));
    [is_next, score].into_iter().chain(logits).collect()
}

impl Task for NextSentencePredictionTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.input.encode_optional_pair(texts))
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        16
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = self.classifier.load(device)?;
        Ok(Box::new(NextSentencePredictionModel { model, logits: self.logits }))
    }
}

/// The task with its weights.
struct NextSentencePredictionModel {
    model: LoadedClassifier,
    logits: bool,
}

impl TaskModel for NextSentencePredictionModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, columns) = self.model.logits(sequences)?;
        let follows = numbers.chunks_exact(columns).map(|logits| logits[0] >= logits[1]);
        let scores = numbers.chunks_exact(columns).map(|logits| softmax(logits)[0]);
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(follows.map(Some).collect::<BooleanArray>()),
            Arc::new(Float32Array::from_iter_values(scores)),
        ];
        if self.logits {
            arrays.push(Arc::new(logit_lists(numbers, columns)));
        }
        Ok(Arc::new(StructArray::new(fields(self.logits), arrays, None)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
