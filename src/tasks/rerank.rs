//! `rerank`: how well a document answers a query, as sentence-transformers' `CrossEncoder.predict`.
//!
//! # Source
//! `sentence_transformers/cross_encoder/model.py` at v6.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::PairScores;

use super::classifier::{Classifier, LoadedClassifier};
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::config::pipeline::{Activation, Rerank, TaskStep};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TorchActivation;

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct RerankTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    scores: PairScores,
}

impl RerankTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head, more than one label or an
    /// activation that is not implemented.
    pub fn resolve(step: &TaskStep, options: &Rerank, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::SequenceClassification, models)?;
        let model = Arc::clone(&classifier.model);
        let labels = model.config().num_labels();
        if labels != 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` has {labels} labels; `rerank` needs one", step.model_name),
            )
            .hint(
                "use `text-classification` with `{text, text_pair}` for a model of several labels",
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
            [options.query.as_str(), options.document.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let summary = classifier.summary(
            "rerank",
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
            // Prepended to the query only.
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
