//! `rerank`: how well a document answers a query, as sentence-transformers' `CrossEncoder.predict`.
//!
//! # Source
//! `sentence_transformers/cross_encoder/model.py` at v6.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::{DType, Device};

use super::classifier::{Classifier, LoadedClassifier};
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, Encoder, ModelDtype};
use crate::config::pipeline::{Activation, Rerank, TaskStep};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TorchActivation;

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct RerankTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    activation: TorchActivation,
    prompt: String,
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
        let directory = model.sentence_transformer();
        directory.require_cross_encoder()?;
        let activation = match options.activation {
            Some(Activation::Sigmoid) => TorchActivation::SIGMOID,
            Some(Activation::Identity) => TorchActivation::IDENTITY,
            None => directory
                .activation()
                .map_err(|e| e.hint("set `activation` to sigmoid or identity"))?
                .unwrap_or(TorchActivation::SIGMOID),
        };
        let in_full = model.dtype() == ModelDtype::Float(DType::F32);
        if !directory.keep_in_fp32_modules.is_empty() && !in_full {
            let names = directory.keep_in_fp32_modules.join(", ");
            let message = format!("`keep_in_fp32_modules: [{names}]` is not implemented");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("set `dtype: f32`"));
        }
        // The prompts of a directory that was not saved as a cross-encoder are meant for single texts.
        let prompt = match (directory.encoder, &options.prompt, &options.prompt_name) {
            (_, Some(prompt), _) => prompt.clone(),
            (Some(Encoder::CrossEncoder), None, name) => {
                directory.prompt_text(None, name.as_deref())?
            }
            (_, None, None) => String::new(),
            (_, None, Some(name)) => {
                let message = format!("the model has no prompt `{name}` for pairs");
                return Err(
                    Error::new(ErrorKind::Config, message).hint("give the text itself as `prompt`")
                );
            }
        };
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
                "activation": activation.name().to_lowercase(),
                "prompt": prompt,
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::Float32, true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, activation, prompt })
    }
}

impl Task for RerankTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| match self.prompt.as_str() {
            "" => self.input.encode(texts),
            // Prepended to the query only.
            prompt => self.input.encode(&[&format!("{prompt}{}", texts[0]), texts[1]]),
        })
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
    activation: TorchActivation,
}

impl TaskModel for RerankModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (mut scores, labels) = self.model.logits(sequences)?;
        self.activation.apply(&mut scores, labels);
        Ok(Arc::new(Float32Array::from(scores)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
