//! `image-classification`: classifies images, given by path or as bytes, as transformers' pipeline does.
//!
//! Reads and decodes an image only when its batch runs. Until then a row is a path or a slice of the
//! column. Never fetches images from URLs.
//!
//! # Source
//! `src/transformers/pipelines/image_classification.py` at v4.57.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Device;
use hfauto::pipelines::{ScoreFunction, best};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier, forward_failed};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::image_rows::{ImageReader, ImageRows};
use super::labels::{LabelsBuilder, label_list_type, logit_lists, logits_type};
use super::models::Models;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, logit_rows};
use crate::document::TopK;
use crate::error::Result;
use crate::models::Want;

/// The options of `image-classification`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ImageClassification {
    /// The image column: paths relative to this file, or encoded bytes.
    pub input: String,
    /// The number of labels, highest score first, or `all`. Default: 5.
    pub top_k: Option<TopK>,
}

pub(super) static IMAGE_CLASSIFICATION: TaskDefinition = TaskDefinition {
    id: "image-classification",
    aliases: &[],
    summary: "Classifies images.",
    auto_class: AutoClass::ImageClassification,
    outputs: &[ModelOutputName::Logits],
    generates: false,
    options: OptionsType::of::<ImageClassification>(),
    function: SqlFunction {
        name: "classify_image",
        parameters: &["image"],
        parts: &[],
        description: "The top labels of an image, given as a path or as bytes: List<Struct<label, score>>.",
        example: "SELECT classify_image(path, 'vit') FROM images",
    },
    usual_type: label_list_type,
    template: include_str!("../../pipelines/image-classification.yaml"),
};

impl TaskOptions for ImageClassification {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(ImageClassificationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct ImageClassificationTask {
    classifier: Classifier,
    images: ImageRows,
    base: TaskBase,
    output: Output,
}

/// The content of the column: a list of labels, highest score first, optionally with the logits.
#[derive(Clone, Copy, Debug)]
struct Output {
    top_k: usize,
    function: ScoreFunction,
    logits: bool,
}

impl Output {
    /// The fields, if the column is a struct.
    fn fields(self) -> Option<Fields> {
        self.logits.then(|| {
            Fields::from(vec![
                Field::new("labels", label_list_type(), false),
                Field::new("logits", logits_type(), false),
            ])
        })
    }
}

impl ImageClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model takes no images or has no classification head;
    /// `Model` if its image processor produces images that the model does not accept.
    fn resolve(step: &TaskStep, options: &ImageClassification, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve_image(step, AutoClass::ImageClassification, models)?;
        let config = classifier.model.config();
        let images = ImageRows::resolve(step, &classifier.model)?;
        let multi_label = config.problem_type() == Some("multi_label_classification");
        let output = Output {
            top_k: options.top_k.map_or(5, TopK::most),
            function: if multi_label || config.num_labels() == 1 {
                ScoreFunction::Sigmoid
            } else {
                ScoreFunction::Softmax
            },
            logits: step.stores_logits(),
        };
        let mut shown = serde_json::json!({
            "function_to_apply": output.function.name(),
            "top_k": output.top_k.min(config.num_labels()),
        });
        images.show_in(&mut shown);
        let summary = classifier.summary(step.task.id, step, shown);
        let data_type = output.fields().map_or_else(label_list_type, DataType::Struct);
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let base = TaskBase {
            columns: vec![options.input.clone()],
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, images, base, output })
    }
}

impl Task for ImageClassificationTask {
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
        let num_labels = self.classifier.model.config().num_labels();
        let logits = if self.output.logits { num_labels * size_of::<f32>() } else { 0 };
        self.output.top_k.min(num_labels) * 32 + logits
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let images = self.images.reader(&self.classifier.model)?;
        let model = self.classifier.load(device)?;
        Ok(Box::new(ImageClassificationModel { images, output: self.output, model }))
    }
}

/// The task with its weights.
struct ImageClassificationModel {
    model: LoadedClassifier,
    images: ImageReader,
    output: Output,
}

impl TaskModel for ImageClassificationModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let model = &self.model.model;
        let (mut numbers, mut columns) = (Vec::new(), 1);
        for images in ImageReader::by_size(&self.images.read(sequences)?) {
            let logits = model
                .image_inputs(images)
                .and_then(|inputs| model.forward(&inputs, &Want::default()))
                .map_err(forward_failed)?
                .logits;
            let (found, width) = logit_rows(&logits)?;
            numbers.extend(found);
            columns = width;
        }
        let mut labels = LabelsBuilder::default();
        for logits in numbers.chunks_exact(columns) {
            let scores = self.output.function.apply(logits);
            let chosen = best(&scores, self.output.top_k);
            labels.push_rows(model.config(), &chosen, &scores)?;
        }
        let labels = Arc::new(labels.finish_lists());
        Ok(match self.output.fields() {
            None => labels,
            Some(fields) => {
                let logits = Arc::new(logit_lists(numbers, columns));
                Arc::new(StructArray::new(fields, vec![labels, logits], None))
            }
        })
    }

    fn take_image_time(&self) -> Duration {
        self.images.take_time()
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
