//! `rerank`: how well a document answers a query, as sentence-transformers' `CrossEncoder.predict`.
//!
//! # Source
//! `sentence_transformers/cross_encoder/CrossEncoder.py` at v5.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use serde_json::Value;

use super::classifier::{Classifier, LoadedClassifier};
use super::labels::ScoreFunction;
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, AutoConfig};
use crate::config::pipeline::{Activation, Rerank, TaskStep};
use crate::error::{Error, ErrorKind, Result};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct RerankTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    activation: ScoreFunction,
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
        let activation = match options.activation {
            Some(Activation::Sigmoid) => ScoreFunction::Sigmoid,
            Some(Activation::Identity) => ScoreFunction::None,
            None => default_activation(model.config())?,
        };
        let input = TextInput::new(
            model,
            [options.query.as_str(), options.document.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let summary = classifier.summary(
            "rerank",
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "activation": if activation == ScoreFunction::None { "identity" } else { activation.name() },
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::Float32, true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, activation })
    }
}

/// The activation that the configuration names, in its new or its old place; sigmoid without one.
fn default_activation(config: &AutoConfig) -> Result<ScoreFunction> {
    let json = config.json();
    let named = json
        .get("sentence_transformers")
        .and_then(|own| own.get("activation_fn"))
        .or_else(|| json.get("sbert_ce_default_activation_function"))
        .and_then(Value::as_str);
    match named.map(|path| path.rsplit('.').next().unwrap_or(path)) {
        None | Some("Sigmoid") => Ok(ScoreFunction::Sigmoid),
        Some("Identity") => Ok(ScoreFunction::None),
        Some(_) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("activation `{}` of config.json is not implemented", named.unwrap_or_default()),
        )
        .hint("set `activation` to sigmoid or identity")),
    }
}

impl Task for RerankTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.input.encode(texts))
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        size_of::<f32>()
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(RerankModel {
            model: self.classifier.load(device)?,
            activation: self.activation,
        }))
    }
}

/// The task with its weights.
struct RerankModel {
    model: LoadedClassifier,
    activation: ScoreFunction,
}

impl TaskModel for RerankModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, _) = self.model.logits(sequences)?;
        Ok(Arc::new(Float32Array::from(self.activation.apply(&numbers))))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
