//! `image-feature-extraction`: one vector per image, given by path or as bytes.
//!
//! A model of texts and images (CLIP, SigLIP) gives the projected vector, comparable with those that `feature-extraction` gives
//! for texts. Other models pool their tokens.
//!
//! # Source
//! `src/transformers/pipelines/image_feature_extraction.py` at v5.24, and `encode` of sentence-transformers at v6.2.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::pipelines::{ImageFeatures, ImagePooling};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::summary;
use super::definition::{
    InputColumn, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::image_rows::{ImageReader, ImageRows};
use super::models::Models;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, AutoModel};
use crate::error::{Error, ErrorKind, Result};

/// The options of `image-feature-extraction`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ImageFeatureExtraction {
    /// The image column: paths relative to this file, or encoded bytes.
    pub input: String,
    /// How to pool the tokens of an image into one vector. Default: `pooler` for a model of texts and images, else `mean`.
    pub pooling: Option<ImagePooling>,
    /// Whether to scale vectors to unit length. Default: as in the model's `modules.json`, else false.
    pub normalize: Option<bool>,
}

pub(super) static IMAGE_FEATURE_EXTRACTION: TaskDefinition = TaskDefinition {
    id: "image-feature-extraction",
    aliases: &[],
    summary: "Computes embeddings of images.",
    auto_class: AutoClass::Model,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<ImageFeatureExtraction>(),
    function: SqlFunction {
        name: "embed_image",
        parameters: &["image"],
        parts: &[],
        description: "The embedding of an image, given as a path or as bytes: FixedSizeList<Float32>.",
        example: "SELECT embed_image(path, 'clip') FROM images",
    },
    usual_type: || DataType::new_list(DataType::Float32, true),
    template: include_str!("../../pipelines/image-feature-extraction.yaml"),
};

impl TaskOptions for ImageFeatureExtraction {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(ImageFeatureExtractionTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct ImageFeatureExtractionTask {
    images: ImageRows,
    features: ImageFeatures,
    base: TaskBase,
}

impl ImageFeatureExtractionTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve_image`]; `Config` for a pooling that the model does not have; `Model` if its image processor produces
    /// images that it does not accept.
    fn resolve(step: &TaskStep, options: &ImageFeatureExtraction, models: &Models) -> Result<Self> {
        let model = models.resolve_image(&step.model)?;
        let images = ImageRows::resolve(step, &model)?;
        let features = ImageFeatures::resolve(
            model.sentence_transformer(),
            options.pooling,
            options.normalize,
        )
        .map_err(|e| e.at(format!("model `{}`", model.snapshot().name())))?;
        let mut shown = serde_json::json!({
            "pooling": features.pooling.name(),
            "normalize": features.normalize,
        });
        images.show_in(&mut shown);
        let summary = summary(step.task.id, step, &model, shown);
        let field = Arc::new(Field::new(&step.output, vector_type(features.dimension), true));
        let base = TaskBase { columns: vec![options.input.clone()], field, model, summary };
        Ok(Self { images, features, base })
    }
}

fn vector_type(dimension: usize) -> DataType {
    let item = Field::new_list_field(DataType::Float32, false);
    DataType::FixedSizeList(Arc::new(item), dimension as i32)
}

impl Task for ImageFeatureExtractionTask {
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
        self.features.dimension * size_of::<f32>()
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let images = self.images.reader(&self.base.model)?;
        let model = self.base.model.load(device)?;
        self.features.check(&model)?;
        Ok(Box::new(ImageFeatureExtractionModel { images, features: self.features, model }))
    }
}

/// The task with its weights.
struct ImageFeatureExtractionModel {
    model: Arc<AutoModel>,
    images: ImageReader,
    features: ImageFeatures,
}

impl TaskModel for ImageFeatureExtractionModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let mut numbers = Vec::new();
        for images in ImageReader::by_size(&self.images.read(sequences)?) {
            numbers.extend(self.features.of(&self.model, images)?);
        }
        let DataType::FixedSizeList(item, width) = vector_type(self.features.dimension) else {
            return Err(Error::new(ErrorKind::Internal, "vectors are not lists of one size"));
        };
        let values = Arc::new(Float32Array::from(numbers));
        Ok(Arc::new(FixedSizeListArray::new(item, width, values, None)))
    }

    fn take_image_time(&self) -> Duration {
        self.images.take_time()
    }

    fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}
