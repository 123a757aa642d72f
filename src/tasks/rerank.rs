//! `rerank`: scores a document against a query, as sentence-transformers' `CrossEncoder.predict`.
//!
//! # Source
//! `sentence_transformers/cross_encoder/model.py` at v6.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::PairScores;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::models::Models;
use super::text_input::{TextInput, check_prompt};
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::document::{Cursor, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TorchActivation;

/// The options of `rerank`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rerank {
    /// `{query, document}`.
    pub input: QueryDocument,
    /// The function that turns the logit into a score. Default: as in the model's configuration.
    pub activation: Option<Activation>,
    /// Text prepended to every query. Default: the model's default prompt.
    pub prompt: Option<String>,
    /// The name of a prompt in the model's `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
}

/// A query and a document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryDocument {
    /// The column of the query.
    pub query: String,
    /// The column of the document.
    pub document: String,
}

/// The function that turns a logit into a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Sigmoid: a score from 0 to 1.
    Sigmoid,
    /// The unchanged logit.
    Identity,
}

pub(super) static RERANK: TaskDefinition = TaskDefinition {
    id: "rerank",
    summary: "Scores a document against a query.",
    auto_class: AutoClass::SequenceClassification,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<Rerank>(),
    function: SqlFunction {
        name: "rerank",
        parameters: &["query", "document"],
        parts: &[],
        description: "The relevance of a document to a query, as CrossEncoder.predict computes it: Float32.",
        example: "SELECT id FROM documents ORDER BY rerank('warm coat', text, 'reranker') DESC LIMIT 10",
    },
    usual_type: || DataType::Float32,
    template: include_str!("../../pipelines/rerank.yaml"),
};

impl TaskOptions for Rerank {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let QueryDocument { query, document } = &self.input;
        vec![InputColumn::part("query", query), InputColumn::part("document", document)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_prompt(self.prompt.as_ref(), self.prompt_name.as_ref(), at, report);
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(RerankTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct RerankTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    scores: PairScores,
}

impl RerankTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no classification head, more than one
    /// label or an activation that is not implemented.
    fn resolve(step: &TaskStep, options: &Rerank, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::SequenceClassification, models)?;
        let model = Arc::clone(&classifier.model);
        let labels = model.config().num_labels();
        if labels != 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` has {labels} labels; `rerank` needs one", step.model_name),
            )
            .hint(
                "use `text-classification` with `{text, text_pair}` for a model with several labels",
            ));
        }
        let activation = options.activation.map(|activation| match activation {
            Activation::Sigmoid => TorchActivation::SIGMOID,
            Activation::Identity => TorchActivation::IDENTITY,
        });
        let scores = PairScores::resolve(
            model.sentence_transformer(),
            model.dtype(),
            activation,
            options.prompt.as_deref(),
            options.prompt_name.as_deref(),
        )?;
        let input = TextInput::new(
            Arc::clone(&model),
            [options.input.query.as_str(), options.input.document.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "activation": scores.activation.name().to_lowercase(),
                "prompt": scores.prompt,
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::Float32, true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, scores })
    }
}

impl Task for RerankTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| {
            // Only the query gets the prompt.
            self.input.encode(&[&self.scores.first(texts[0]), texts[1]])
        })
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        size_of::<f32>()
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(RerankModel {
            model: self.classifier.load(device)?,
            scores: self.scores.clone(),
        }))
    }
}

/// The task with its weights.
struct RerankModel {
    model: LoadedClassifier,
    scores: PairScores,
}

impl TaskModel for RerankModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let scores = self.scores.forward(&self.model.model, self.model.rows(sequences))?;
        Ok(Arc::new(Float32Array::from(scores)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
