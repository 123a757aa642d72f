//! `zero-shot-image-classification`: labels images by texts from the pipeline file, with a model of texts and images (CLIP, SigLIP).
//! The vectors of the texts are computed once.
//!
//! # Source
//! `src/transformers/pipelines/zero_shot_image_classification.py` at v5.24.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::pipelines::{ImageLabels, ScoreFunction, best};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::image_rows::{ImageReader, ImageRows};
use super::labels::{LabelsBuilder, label_list_type};
use super::models::Models;
use super::text_input::max_tokens;
use super::zero_shot_classification::{check_labels, split_labels};
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize, template};
use crate::auto::AutoClass;
use crate::document::{Cursor, Diagnostics, StringOrList};
use crate::error::{Error, ErrorKind, Result};

/// The options of `zero-shot-image-classification`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ZeroShotImageClassification {
    /// The image column: paths relative to this file, or encoded bytes.
    pub input: String,
    /// The candidate labels.
    pub candidate_labels: StringOrList,
    /// The text for a label, which replaces `{}`. Default: `This is a photo of {}.`
    pub hypothesis_template: Option<String>,
}

pub(super) static ZERO_SHOT_IMAGE_CLASSIFICATION: TaskDefinition = TaskDefinition {
    id: "zero-shot-image-classification",
    aliases: &[],
    summary: "Classifies images by the pipeline's candidate labels.",
    auto_class: AutoClass::ZeroShotImageClassification,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<ZeroShotImageClassification>(),
    function: SqlFunction {
        name: "zero_shot_image",
        parameters: &["image"],
        parts: &[],
        description: "The scores of the labels in the option candidate_labels for an image, highest first: List<Struct<label, score>>.",
        example: r#"SELECT zero_shot_image(path, 'clip', options => '{"candidate_labels": ["a cat", "a dog"]}') FROM images"#,
    },
    usual_type: label_list_type,
    template: include_str!("../../pipelines/zero-shot-image-classification.yaml"),
};

impl ZeroShotImageClassification {
    fn template(&self) -> &str {
        self.hypothesis_template.as_deref().unwrap_or("This is a photo of {}.")
    }
}

impl TaskOptions for ZeroShotImageClassification {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_labels(&self.candidate_labels, self.template(), at, report);
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(ZeroShotImageClassificationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct ZeroShotImageClassificationTask {
    classifier: Classifier,
    images: ImageRows,
    base: TaskBase,
    labels: Vec<String>,
    /// The tokens of each label's text.
    texts: Vec<Vec<u32>>,
    function: ScoreFunction,
}

impl ZeroShotImageClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve_image`]; `Unsupported` when the model does not read texts, too; `Data` for a label that is too long.
    fn resolve(
        step: &TaskStep,
        options: &ZeroShotImageClassification,
        models: &Models,
    ) -> Result<Self> {
        let class = AutoClass::ZeroShotImageClassification;
        let classifier = Classifier::resolve_image(step, class, models)?;
        models.resolve(&step.model)?; // its tokenizer
        let model = &classifier.model;
        let images = ImageRows::resolve(step, model)?;
        let config = model.config();
        let max_length =
            max_tokens(model, step.max_length, model.tokenizer().model_max_length(), false)?;
        // The reference truncates only the texts that it pads.
        let truncation = step.truncation.unwrap_or(config.family().pads_texts);
        let input = model.text_input(max_length, truncation);
        let labels = split_labels(&options.candidate_labels);
        let encode = |label: &String| -> Result<Vec<u32>> {
            let text = template::format(options.template(), label).map_err(|reason| {
                let message = format!("`hypothesis_template` has {reason}");
                Error::new(ErrorKind::Config, message)
            })?;
            let encoding = input.row(&[&text]).map_err(|e| e.at(format!("label `{label}`")))?;
            Ok(encoding.input_ids)
        };
        let texts = labels.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let function = ImageLabels::function(config);
        let mut shown = serde_json::json!({
            "max_length": max_length,
            "candidate_labels": labels,
            "hypothesis_template": options.template(),
            "function_to_apply": function.name(),
        });
        images.show_in(&mut shown);
        let base = TaskBase {
            columns: vec![options.input.clone()],
            field: Arc::new(Field::new(&step.output, label_list_type(), true)),
            model: Arc::clone(model),
            summary: classifier.summary(step.task.id, step, shown),
        };
        Ok(Self { classifier, images, base, labels, texts, function })
    }
}

impl Task for ZeroShotImageClassificationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        ImageRows::check_inputs(&self.base.columns, types)
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.images.encode(&self.base.columns, columns, first_row)
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        self.labels.len() * 32
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let images = self.images.reader(&self.classifier.model)?;
        let model = self.classifier.load(device)?;
        let texts = ImageLabels::new(&model.model, &self.texts)?;
        let (labels, function) = (self.labels.clone(), self.function);
        Ok(Box::new(ZeroShotImageClassificationModel { model, images, texts, labels, function }))
    }
}

/// The task with its weights.
struct ZeroShotImageClassificationModel {
    model: LoadedClassifier,
    images: ImageReader,
    texts: ImageLabels,
    labels: Vec<String>,
    function: ScoreFunction,
}

impl TaskModel for ZeroShotImageClassificationModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let mut builder = LabelsBuilder::default();
        for images in ImageReader::by_size(&self.images.read(sequences)?) {
            for logits in self.texts.logits(&self.model.model, images)? {
                let scores = self.function.apply(&logits);
                let order = best(&scores, scores.len());
                builder.push(order.into_iter().map(|i| (self.labels[i].as_str(), scores[i])));
            }
        }
        Ok(Arc::new(builder.finish_lists()))
    }

    fn take_image_time(&self) -> Duration {
        self.images.take_time()
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
