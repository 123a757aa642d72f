//! A column of images as rows of a task, and their inputs for a model. Not here: how a file is opened (`image_input`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use candle_core::Tensor;
use serde_json::Value;

use super::image_input::ImageInput;
use super::models::ResolvedModel;
use super::text_input::place;
use super::{EncodedRow, ImageBytes, ImageSource, Sequence, TaskStep, is_text, text_column};
use crate::auto::AutoImageProcessor;
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::image::RgbImage;
use crate::models::ImageDimensions;

/// How many times as many tokens as an image of the model's own size an image of another size may have.
const MOST_TOKENS: usize = 16;

/// The images of a step.
#[derive(Debug)]
pub(super) struct ImageRows {
    input: ImageInput,
    /// The tokens of each image; those of the model's own size if images differ in size.
    tokens: usize,
}

impl ImageRows {
    /// The images of `step`, for a model that reads images.
    ///
    /// # Errors
    /// `Unsupported` if the model reads text; `Model` if its image processor produces images that it does not accept.
    pub(super) fn resolve(step: &TaskStep, model: &ResolvedModel) -> Result<Self> {
        let (image, processor) = model.image()?;
        let tokens = tokens(image, processor)
            .map_err(|e| e.at(format!("model `{}`", model.snapshot().name())))?;
        Ok(Self { input: ImageInput::new(step.dir.clone(), step.images.clone()), tokens })
    }

    /// Adds the settings that differ from the defaults to the options that reports show.
    pub(super) fn show_in(&self, options: &mut Value) {
        let images = self.input.summary();
        if !images.is_empty() {
            options["images"] = images.into();
        }
    }

    /// Checks that the column has paths or encoded images.
    ///
    /// # Errors
    /// `Config` for another type.
    pub(super) fn check_inputs(columns: &[String], types: &[&DataType]) -> Result<()> {
        match types.iter().find(|data_type| !is_text(data_type) && !is_binary(data_type)) {
            None => Ok(()),
            Some(data_type) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "column `{}` is {data_type}, expected paths (text) or images (binary)",
                    columns[0]
                ),
            )),
        }
    }

    /// One sequence for each image of the column, as [`Task::encode`](super::Task::encode); `names` are those of the columns.
    ///
    /// # Errors
    /// `Data` for a path that is never opened, such as a URL.
    pub(super) fn encode(
        &self,
        names: &[String],
        columns: &[ArrayRef],
        first_row: u64,
    ) -> Result<Vec<Option<EncodedRow>>> {
        let [column] = columns else {
            return Err(Error::new(ErrorKind::Internal, "a task over images reads one column"));
        };
        let number = |row: usize| first_row + row as u64;
        let valid = |row: usize| column.is_valid(row).then_some(row);
        if is_text(column.data_type()) {
            let paths = text_column(column)?;
            let encode = |row: usize| -> Result<EncodedRow> {
                let image = self.input.at(paths.value(row));
                let image = image.map_err(|e| e.at(place(names, number(row))))?;
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
            let bytes = ImageBytes { buffer, place: place(names, number(row)) };
            EncodedRow::from(self.sequence(ImageSource::Bytes(bytes)))
        };
        Ok((0..images.len()).map(|row| valid(row).map(encode)).collect())
    }

    /// The sequence for an image.
    fn sequence(&self, image: ImageSource) -> Sequence {
        let placeholders = vec![0; self.tokens];
        Sequence { image: Some(image), ..Sequence::new(placeholders, Vec::new()) }
    }

    /// Reads the images for `model`.
    ///
    /// # Errors
    /// `NoInput` when the settings rule out every image.
    pub(super) fn reader(&self, model: &ResolvedModel) -> Result<ImageReader> {
        self.input.check()?;
        let (image, processor) = model.image()?;
        Ok(ImageReader {
            image: *image,
            processor: processor.clone(),
            input: self.input.clone(),
            nanos: AtomicU64::new(0),
        })
    }
}

/// The tokens of an image from this processor; checks that the model accepts it.
fn tokens(image: &ImageDimensions, processor: &AutoImageProcessor) -> Result<usize> {
    if image.num_channels != 3 {
        return Err(Error::new(
            ErrorKind::Model,
            format!("`num_channels: {}` in config.json, but images have 3", image.num_channels),
        ));
    }
    let Some((height, width)) = processor.output_size() else { return Ok(image.tokens) };
    image.tokens_of(height, width).ok_or_else(|| {
        Error::new(
            ErrorKind::Model,
            format!(
                "preprocessor_config.json makes images of {height} by {width} pixels, config.json says \
                 `image_size` {} by {}",
                image.height, image.width
            ),
        )
    })
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Reads, decodes and preprocesses images.
pub(super) struct ImageReader {
    image: ImageDimensions,
    processor: AutoImageProcessor,
    input: ImageInput,
    /// The time that images took and that has not been taken, of all workers.
    nanos: AtomicU64,
}

impl ImageReader {
    /// The inputs `(3, height, width)` of the images of a batch.
    ///
    /// # Errors
    /// `Data` for an image that cannot be read or decoded, or that the model does not take.
    pub(super) fn read(&self, sequences: &[&Sequence]) -> Result<Vec<Tensor>> {
        let read = |sequence: &&Sequence| {
            let Some(image) = &sequence.image else {
                return Err(Error::new(ErrorKind::Internal, "a sequence has no image"));
            };
            self.input.picture(image, |image| self.prepare(&image))
        };
        let start = Instant::now();
        let images = sequences.iter().map(read).collect();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        images
    }

    /// The time that images took since the last call.
    pub(super) fn take_time(&self) -> Duration {
        Duration::from_nanos(self.nanos.swap(0, Ordering::Relaxed))
    }

    /// The images in parts of one size, in order.
    pub(super) fn by_size(images: &[Tensor]) -> impl Iterator<Item = &[Tensor]> {
        images.chunk_by(|one, other| one.dims() == other.dims())
    }

    fn prepare(&self, image: &RgbImage) -> Result<Tensor> {
        let pixel_values = self.processor.preprocess(image)?;
        let [channels, height, width] = *pixel_values.dims() else {
            return Err(Error::new(
                ErrorKind::Internal,
                "an image tensor does not have three dimensions",
            ));
        };
        let ImageDimensions { num_channels, height: own_height, width: own_width, tokens, .. } =
            self.image;
        let refused = |message: String| Error::of_row(RowErrorKind::ImageDecode, message);
        match self.image.tokens_of(height, width).filter(|_| channels == num_channels) {
            Some(found) if found <= tokens.saturating_mul(MOST_TOKENS) => Ok(pixel_values),
            Some(_) => Err(refused(format!(
                "the image has {height} by {width} pixels, but the model is made for {own_height} by {own_width}"
            ))
            .hint("resize it: preprocessor_config.json does not (`do_resize`, `do_center_crop`)")),
            None => Err(refused(format!(
                "the image has {height} by {width} pixels, but the model takes {own_height} by {own_width}"
            ))
            .hint("preprocessor_config.json does not resize images (`do_resize`)")),
        }
    }
}
