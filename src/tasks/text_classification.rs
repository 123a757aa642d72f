//! `text-classification`: classifies a text or a pair of texts, as transformers' pipeline does.
//!
//! # Source
//! `src/transformers/pipelines/text_classification.py` at v4.57. Truncates longer texts to the model's maximum, where
//! transformers fails.

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Device;
use hfauto::pipelines::{ScoreFunction, best};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::labels::{LabelsBuilder, label_fields, label_list_type, logit_lists, logits_type};
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::document::{ColumnOr, TopK};
use crate::error::Result;

/// The options of `text-classification`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TextClassification {
    /// The text column, or `{text, text_pair}`.
    pub input: ColumnOr<TextPair>,
    /// The number of labels, highest score first, or `all`. Default: 1.
    pub top_k: Option<TopK>,
    /// The function that turns logits into scores. Default: as in the model's configuration.
    pub function_to_apply: Option<ScoreFunction>,
}

/// A text and its pair.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextPair {
    /// The column of the first text.
    pub text: String,
    /// The column of the second text.
    pub text_pair: String,
}

impl TextPair {
    pub(super) fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::part("text", &self.text), InputColumn::part("text_pair", &self.text_pair)]
    }
}

pub(super) static TEXT_CLASSIFICATION: TaskDefinition = TaskDefinition {
    id: "text-classification",
    aliases: &["sentiment-analysis"],
    summary: "Classifies a text.",
    auto_class: AutoClass::SequenceClassification,
    outputs: &[ModelOutputName::Logits],
    generates: false,
    options: OptionsType::of::<TextClassification>(),
    function: SqlFunction {
        name: "classify",
        parameters: &["text"],
        parts: &["text", "text_pair"],
        description: "The top label of a text, or of a pair {text: …, text_pair: …}: Struct<label, score>; with top_k a list.",
        example: "SELECT classify(text, 'sentiment')['label'] FROM reviews",
    },
    usual_type: || DataType::Struct(label_fields()),
    template: include_str!("../../pipelines/text-classification.yaml"),
};

impl TaskOptions for TextClassification {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        match &self.input {
            ColumnOr::Column(text) => vec![InputColumn::whole(text)],
            ColumnOr::Columns(pair) => pair.inputs(),
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(TextClassificationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct TextClassificationTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    output: Output,
}

/// The content of the column.
#[derive(Clone, Copy, Debug)]
struct Output {
    /// `None`: the top label as a struct; otherwise a list of at most this many labels, highest score first.
    top_k: Option<usize>,
    function: ScoreFunction,
    logits: bool,
}

impl Output {
    fn fields(self) -> Option<Fields> {
        let logits = || Field::new("logits", logits_type(), false);
        match (self.top_k, self.logits) {
            (None, false) => Some(label_fields()),
            (None, true) => {
                let fields = label_fields().iter().cloned().chain([Arc::new(logits())]).collect();
                Some(fields)
            }
            (Some(_), true) => {
                Some(Fields::from(vec![Field::new("labels", label_list_type(), false), logits()]))
            }
            (Some(_), false) => None,
        }
    }

    fn data_type(self) -> DataType {
        self.fields().map_or_else(label_list_type, DataType::Struct)
    }
}

impl TextClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no classification head; `Config` for an option that the
    /// model does not support.
    fn resolve(step: &TaskStep, options: &TextClassification, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::SequenceClassification, models)?;
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            options.inputs().into_iter().map(|input| input.name),
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let top_k = options.top_k.unwrap_or(TopK::ONE);
        let output = Output {
            top_k: top_k.list(),
            function: options
                .function_to_apply
                .unwrap_or_else(|| ScoreFunction::of(classifier.model.config())),
            logits: step.stores_logits(),
        };
        // As in transformers, a list needs a label for every output of the head; the top label needs only its own.
        if output.top_k.is_some() {
            let labels = classifier.model.config().labels();
            labels.map_err(|e| e.at(format!("model `{}`", step.model_name)))?;
        }
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "function_to_apply": output.function.name(),
                "top_k": top_k.shown(),
            }),
        );
        let field = Arc::new(Field::new(&step.output, output.data_type(), true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, output })
    }
}

impl Task for TextClassificationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.input.encode_optional_pair(texts))
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        let labels =
            self.output.top_k.unwrap_or(1).min(self.classifier.model.config().num_labels());
        labels * 32
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = self.classifier.load(device)?;
        Ok(Box::new(TextClassificationModel { model, output: self.output }))
    }
}

/// The task with its weights.
struct TextClassificationModel {
    model: LoadedClassifier,
    output: Output,
}

impl TaskModel for TextClassificationModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, columns) = self.model.logits(sequences)?;
        let mut labels = LabelsBuilder::default();
        for logits in numbers.chunks_exact(columns) {
            let scores = self.output.function.apply(logits);
            let chosen = best(&scores, self.output.top_k.unwrap_or(1));
            labels.push_rows(self.model.model.config(), &chosen, &scores)?;
        }
        let logits = || Arc::new(logit_lists(numbers.clone(), columns)) as ArrayRef;
        Ok(match (self.output.top_k, self.output.fields()) {
            (None, Some(fields)) => {
                let (_, mut arrays, _) = labels.finish_structs().into_parts();
                if self.output.logits {
                    arrays.push(logits());
                }
                Arc::new(StructArray::new(fields, arrays, None))
            }
            (_, Some(fields)) => {
                let arrays = vec![Arc::new(labels.finish_lists()) as ArrayRef, logits()];
                Arc::new(StructArray::new(fields, arrays, None))
            }
            (_, None) => Arc::new(labels.finish_lists()),
        })
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
