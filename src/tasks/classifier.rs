//! Helpers of the tasks over a model with a head: the model resolved for an Auto class, and its logits.

use std::sync::Arc;

use candle_core::Device;

use serde_json::Value;

use super::models::{Models, ResolvedModel};
use super::{ModelSummary, Sequence, TaskStep, WeightSize};
use crate::auto::{AutoClass, HeadRequest, ModelWithHead};
use crate::error::{Error, ErrorKind, Result};
use crate::models::{ModelOutput, Want};
use crate::nn::ModelInputs;

/// A model with a head, without weights.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    pub(super) model: Arc<ResolvedModel>,
    class: AutoClass,
    allow_new_head: bool,
    /// The rows of a head over the vocabulary that are loaded; `None`: all.
    vocabulary_rows: Option<Vec<u32>>,
}

impl Classifier {
    /// Resolves the step's model and checks that its family has `class`.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` with the classes that the family has.
    pub(super) fn resolve(step: &TaskStep, class: AutoClass, models: &Models) -> Result<Self> {
        Self::new(step, class, models.resolve(&step.model)?)
    }

    /// The same for a model that reads images.
    ///
    /// # Errors
    /// As [`Models::resolve_image`]; `Unsupported` with the classes that the family has.
    pub(super) fn resolve_image(
        step: &TaskStep,
        class: AutoClass,
        models: &Models,
    ) -> Result<Self> {
        Self::new(step, class, models.resolve_image(&step.model)?)
    }

    /// The same for a resolved model and, of a head over the vocabulary, only `vocabulary_rows`.
    ///
    /// # Errors
    /// `Unsupported` with the classes that the family has.
    pub(super) fn with_rows(
        step: &TaskStep,
        class: AutoClass,
        model: Arc<ResolvedModel>,
        vocabulary_rows: Option<Vec<u32>>,
    ) -> Result<Self> {
        Ok(Self { vocabulary_rows, ..Self::new(step, class, model)? })
    }

    fn new(step: &TaskStep, class: AutoClass, model: Arc<ResolvedModel>) -> Result<Self> {
        model.require(class)?;
        let allow_new_head = step.allow_new_head;
        Ok(Self { model, class, allow_new_head, vocabulary_rows: None })
    }

    /// Rejects an encoder, whose tokens attend to later tokens. Some architectures can be either;
    /// `is_decoder` in `config.json` decides.
    ///
    /// # Errors
    /// `Unsupported` if the architecture needs `is_decoder: true` and the config lacks it.
    pub(super) fn require_decoder(&self) -> Result<()> {
        let config = self.model.config();
        let is_decoder = config.json().get("is_decoder").and_then(Value::as_bool) == Some(true);
        if is_decoder || !config.family().has(AutoClass::MaskedLM) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("model `{}` is an encoder: it does not generate text", self.model.snapshot().name()),
        )
        .hint("choose a decoder such as gpt2; a BERT trained as a decoder has `is_decoder: true` in config.json"))
    }

    /// Loads the weights to one of the model's devices.
    ///
    /// # Errors
    /// As [`ResolvedModel::load_with_head`].
    pub(super) fn load(&self, device: &Device) -> Result<LoadedClassifier> {
        let (class, allow_new_head) = (self.class, self.allow_new_head);
        let rows = self.vocabulary_rows.as_deref();
        let model = self.model.load_with_head(class, allow_new_head, rows, device)?;
        let token_type_ids = self.model.gives_token_type_ids();
        Ok(LoadedClassifier { model, token_type_ids })
    }

    /// The size of the weights that [`load`](Self::load) loads; `None` as for [`ResolvedModel::weight_size`].
    pub(super) fn weight_size(&self) -> Option<WeightSize> {
        let vocabulary_rows = self.vocabulary_rows.as_deref();
        self.model.weight_size(HeadRequest { vocabulary_rows, ..HeadRequest::of(self.class) })
    }

    /// The summary for plans, reports and lineage.
    pub(super) fn summary(
        &self,
        task: &'static str,
        step: &TaskStep,
        options: Value,
    ) -> ModelSummary {
        summary(task, step, &self.model, options)
    }
}

/// The summary of a step over `model` for plans, reports and lineage.
pub(super) fn summary(
    task: &'static str,
    step: &TaskStep,
    model: &ResolvedModel,
    options: Value,
) -> ModelSummary {
    ModelSummary {
        task,
        name: step.model_name.clone(),
        repo: model.snapshot().name().to_owned(),
        commit: model.snapshot().commit().map(str::to_owned),
        model_type: model.config().model_type().to_owned(),
        dtype: model.dtype().as_str(),
        device: model.device_name(),
        tokenizer: model.processor_digest().to_string(),
        options,
    }
}

/// A model with a head and its weights.
pub(super) struct LoadedClassifier {
    pub(super) model: Arc<ModelWithHead>,
    /// Whether the model takes segment ids.
    token_type_ids: bool,
}

impl LoadedClassifier {
    /// The logits of a batch of sequences, row-major, and the length of a row.
    ///
    /// # Errors
    /// `Internal` when a tensor operation fails.
    pub(super) fn logits(&self, sequences: &[&Sequence]) -> Result<(Vec<f32>, usize)> {
        Ok(self.model.logits(self.rows(sequences))?)
    }

    /// The hidden states that the head reads.
    ///
    /// # Errors
    /// As [`LoadedClassifier::logits`].
    pub(super) fn states(&self, sequences: &[&Sequence]) -> Result<(ModelInputs, ModelOutput)> {
        let inputs = self.inputs(sequences)?;
        let backbone = self.model.backbone();
        let output = backbone.forward(&inputs, &Want::default()).map_err(forward_failed)?;
        Ok((inputs, output))
    }

    fn inputs(&self, sequences: &[&Sequence]) -> Result<ModelInputs> {
        self.model.inputs(self.rows(sequences)).map_err(forward_failed)
    }

    /// The model inputs of the sequences.
    pub(super) fn rows<'a>(
        &self,
        sequences: &[&'a Sequence],
    ) -> impl Iterator<Item = (&'a [u32], &'a [u32])> {
        sequences.iter().map(|sequence| {
            let types: &[u32] = if self.token_type_ids { &sequence.token_type_ids } else { &[] };
            (sequence.input_ids.as_slice(), types)
        })
    }

    /// The size of the loaded weights.
    pub(super) fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}

/// The error of a tensor operation in a forward pass.
pub(super) fn forward_failed(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Internal, "a forward pass failed").source(error)
}
