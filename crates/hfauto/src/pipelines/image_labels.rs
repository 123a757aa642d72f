//! Texts as labels of images: the logits of a model of texts and images for each image and each text.
//!
//! # Source
//! `src/transformers/pipelines/zero_shot_image_classification.py` at v5.24.

use candle_core::Tensor;

use super::ScoreFunction;
use crate::auto::{AutoConfig, ModelWithHead, logit_rows};
use crate::error::{Error, ErrorKind, Result, forward_failed};
use crate::models::{Similarity, Want};

/// The vectors of texts that are labels, for a model with the class `AutoModelForZeroShotImageClassification`.
///
/// # Example
/// ```
/// use hfauto::auto::{
///     AutoImageProcessor, AutoModelForZeroShotImageClassification, EncodeOptions,
/// };
/// use hfauto::image::RgbImage;
/// use hfauto::pipelines::ImageLabels;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
/// // Or a hub id, as "openai/clip-vit-base-patch32".
/// let id = format!("{golden}/tasks/clip");
/// let processor = AutoImageProcessor::from_pretrained(&id)?;
/// let model = AutoModelForZeroShotImageClassification::from_pretrained(&id)?;
///
/// let encode = |text| model.tokenizer()?.encode(text, &EncodeOptions::default());
/// let texts = [encode("a photo of a cat")?.input_ids, encode("a photo of a dog")?.input_ids];
/// let labels = ImageLabels::new(&model, &texts)?;
/// let image = RgbImage::decode(&std::fs::read(format!("{golden}/images/0-rgb.jpg"))?)?;
/// let logits = labels.logits(&model, &[processor.preprocess(&image)?])?;
/// let scores = ImageLabels::function(model.config()).apply(&logits[0]);
/// assert_eq!(scores.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ImageLabels {
    /// Of unit length.
    vectors: Vec<Vec<f32>>,
    similarity: Similarity,
}

impl ImageLabels {
    /// The vectors of texts, given as token ids.
    ///
    /// # Errors
    /// `Unsupported` for a model that does not compare texts and images; `Model` when it computes NaN or infinity; `Internal` when
    /// a tensor operation fails.
    pub fn new(model: &ModelWithHead, texts: &[Vec<u32>]) -> Result<Self> {
        let Some(similarity) = model.backbone().similarity() else {
            let message = format!("model `{}` does not compare texts and images", model.name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let mut vectors = Vec::with_capacity(texts.len());
        // One at a time: the vectors of labels do not depend on each other, and their number is not bounded.
        for text in texts {
            let (numbers, _) = model.logits([(&text[..], &[][..])])?;
            vectors.push(numbers);
        }
        Ok(Self { vectors, similarity })
    }

    /// The function from logits to scores: labels compete in CLIP, and are independent in SigLIP.
    pub fn function(config: &AutoConfig) -> ScoreFunction {
        if config.family().pads_texts { ScoreFunction::Sigmoid } else { ScoreFunction::Softmax }
    }

    /// The logits of all texts for each image, `(channels, height, width)` of one size, in one forward pass.
    ///
    /// # Errors
    /// As [`ImageLabels::new`].
    pub fn logits(&self, model: &ModelWithHead, images: &[Tensor]) -> Result<Vec<Vec<f32>>> {
        let output = model
            .image_inputs(images)
            .and_then(|inputs| model.forward(&inputs, &Want::default()))
            .map_err(forward_failed)?;
        let (numbers, width) = logit_rows(&output.logits)?;
        let of_image = |image: &[f32]| {
            self.vectors.iter().map(|text| self.similarity.logit(image, text)).collect()
        };
        Ok(numbers.chunks_exact(width.max(1)).map(of_image).collect())
    }
}
