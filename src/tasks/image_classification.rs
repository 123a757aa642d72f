//! `image-classification`: classifies images, given by path or as bytes, as transformers' pipeline does.
//!
//! Reads and decodes an image only when its batch runs. Until then a row is a path or a slice of the
//! column. Never fetches images from URLs.
//!
//! # Source
//! `src/transformers/pipelines/image_classification.py` at v4.57.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::{Device, Tensor};
use hfauto::pipelines::{ScoreFunction, best};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier, forward_failed};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::image_input::ImageInput;
use super::labels::{LabelsBuilder, label_list_type, logit_lists, logits_type};
use super::models::Models;
use super::text_input::place;
use super::{
    EncodedRow, ImageBytes, ImageSource, Sequence, Task, TaskBase, TaskModel, WeightSize, is_text,
    text_column,
};
use crate::auto::{AutoClass, AutoImageProcessor, logit_rows};
use crate::document::TopK;
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::image::RgbImage;
use crate::models::{ImageDimensions, Want};

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
    input: ImageInput,
    base: TaskBase,
    image: ImageDimensions,
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
        let (image, processor) = classifier.model.image()?;
        check_size(image, processor)
            .map_err(|e| e.at(format!("model `{}`", classifier.model.snapshot().name())))?;
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
        let input = ImageInput::new(step.dir.clone(), step.images.clone());
        let mut shown = serde_json::json!({
            "function_to_apply": output.function.name(),
            "top_k": output.top_k.min(config.num_labels()),
        });
        let images = input.summary();
        if !images.is_empty() {
            shown["images"] = images.into();
        }
        let summary = classifier.summary(step.task.id, step, shown);
        let data_type = output.fields().map_or_else(label_list_type, DataType::Struct);
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let base = TaskBase {
            columns: vec![options.input.clone()],
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { image: *image, input, classifier, base, output })
    }

    /// The sequence for an image.
    fn sequence(&self, image: ImageSource) -> Sequence {
        let placeholders = vec![0; self.image.tokens];
        Sequence { image: Some(image), ..Sequence::new(placeholders, Vec::new()) }
    }
}

/// Checks that the model accepts the output of its image processor.
fn check_size(image: &ImageDimensions, processor: &AutoImageProcessor) -> Result<()> {
    if image.num_channels != 3 {
        return Err(Error::new(
            ErrorKind::Model,
            format!("`num_channels: {}` in config.json, but images have 3", image.num_channels),
        ));
    }
    match processor.output_size() {
        Some((height, width)) if (height, width) != (image.height, image.width) => Err(Error::new(
            ErrorKind::Model,
            format!(
                "preprocessor_config.json makes images of {height} by {width} pixels, config.json says \
                 `image_size` {} by {}",
                image.height, image.width
            ),
        )),
        _ => Ok(()),
    }
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

impl Task for ImageClassificationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        match types.iter().find(|data_type| !is_text(data_type) && !is_binary(data_type)) {
            None => Ok(()),
            Some(data_type) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "column `{}` is {data_type}, expected paths (text) or images (binary)",
                    self.base.columns[0]
                ),
            )),
        }
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let [column] = columns else {
            return Err(Error::new(ErrorKind::Internal, "image-classification reads one column"));
        };
        let number = |row: usize| first_row + row as u64;
        let valid = |row: usize| column.is_valid(row).then_some(row);
        if is_text(column.data_type()) {
            let paths = text_column(column)?;
            let encode = |row: usize| {
                let image = self.input.at(paths.value(row));
                let image = image.map_err(|e| e.at(place(&self.base.columns, number(row))))?;
                Ok(EncodedRow::from(self.sequence(image)))
            };
            return (0..paths.len()).map(|row| valid(row).map(encode).transpose()).collect();
        }
        let images = cast(column, &DataType::LargeBinary)
            .map_err(|e| Error::new(ErrorKind::Internal, "column is not binary").source(e))?;
        let images = images.as_binary::<i64>();
        let encode = |row: usize| {
            let range =
                images.value_offsets()[row] as usize..images.value_offsets()[row + 1] as usize;
            let buffer = images.values().slice_with_length(range.start, range.len());
            let bytes = ImageBytes { buffer, place: place(&self.base.columns, number(row)) };
            EncodedRow::from(self.sequence(ImageSource::Bytes(bytes)))
        };
        Ok((0..images.len()).map(|row| valid(row).map(encode)).collect())
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        let num_labels = self.classifier.model.config().num_labels();
        let logits = if self.output.logits { num_labels * size_of::<f32>() } else { 0 };
        self.output.top_k.min(num_labels) * 32 + logits
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        self.input.check()?;
        let model = self.classifier.load(device)?;
        let (image, processor) = self.classifier.model.image()?;
        Ok(Box::new(ImageClassificationModel {
            image: *image,
            processor: processor.clone(),
            input: self.input.clone(),
            output: self.output,
            model,
        }))
    }
}

/// The task with its weights.
struct ImageClassificationModel {
    model: LoadedClassifier,
    image: ImageDimensions,
    processor: AutoImageProcessor,
    input: ImageInput,
    output: Output,
}

impl ImageClassificationModel {
    /// Reads, decodes and preprocesses an image: `(3, height, width)`.
    fn pixel_values(&self, sequence: &Sequence) -> Result<Tensor> {
        let Some(image) = &sequence.image else {
            return Err(Error::new(ErrorKind::Internal, "a sequence has no image"));
        };
        self.input.picture(image, |image| self.prepare(&image))
    }

    fn prepare(&self, image: &RgbImage) -> Result<Tensor> {
        let pixel_values = self.processor.preprocess(image)?;
        let ImageDimensions { num_channels, height, width, .. } = self.image;
        let [_, own_height, own_width] = pixel_values.dims() else {
            return Err(Error::new(
                ErrorKind::Internal,
                "an image tensor does not have three dimensions",
            ));
        };
        if pixel_values.dims() != [num_channels, height, width] {
            let message = format!(
                "the image has {own_height} by {own_width} pixels, but the model takes {height} by {width}"
            );
            return Err(Error::of_row(RowErrorKind::ImageDecode, message)
                .hint("preprocessor_config.json does not resize images (`do_resize`)"));
        }
        Ok(pixel_values)
    }
}

impl TaskModel for ImageClassificationModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let images = sequences
            .iter()
            .map(|sequence| self.pixel_values(sequence))
            .collect::<Result<Vec<_>>>()?;
        let model = &self.model.model;
        let logits = model
            .image_inputs(&images)
            .and_then(|inputs| model.forward(&inputs, &Want::default()))
            .map_err(forward_failed)?
            .logits;
        let (numbers, columns) = logit_rows(&logits)?;
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

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
