//! Vectors of images: the tokens of an image pooled into one vector, or the model's own vector.
//!
//! # Source
//! `src/transformers/pipelines/image_feature_extraction.py` at v5.24, and `encode` of sentence-transformers at v6.2.

use candle_core::Tensor;

use crate::auto::{AutoModel, Module, SentenceTransformerConfig};
use crate::error::{Error, ErrorKind, Result, forward_failed};
use crate::models::{ImageDimensions, Want};
use crate::nn::{normalize, not_finite, to_host};

/// How the tokens of an image become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImagePooling {
    /// The state of the class token.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// The model's own vector (`pooler_output`); of a model of texts and images, the projected one.
    Pooler,
}

impl ImagePooling {
    /// The name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Pooler => "pooler",
        }
    }
}

/// How images become vectors.
///
/// # Example
/// ```
/// use hfauto::auto::{AutoImageProcessor, AutoModel, SentenceTransformerConfig};
/// use hfauto::image::RgbImage;
/// use hfauto::pipelines::ImageFeatures;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
/// // Or a hub id, as "openai/clip-vit-base-patch32".
/// let id = format!("{golden}/tasks/clip");
/// let processor = AutoImageProcessor::from_pretrained(&id)?;
/// let model = AutoModel::from_pretrained(&id)?;
///
/// let image = RgbImage::decode(&std::fs::read(format!("{golden}/images/0-rgb.jpg"))?)?;
/// let features = ImageFeatures::of_config(model.config(), None)?;
/// let vector = features.of(&model, &[processor.preprocess(&image)?])?;
/// assert_eq!(vector.len(), features.dimension);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFeatures {
    /// How tokens are pooled.
    pub pooling: ImagePooling,
    /// Whether vectors are scaled to unit length.
    pub normalize: bool,
    /// The size of a vector.
    pub dimension: usize,
}

impl ImageFeatures {
    /// The vectors of a model's images: by default the model's own vector if it also reads texts, else the mean of its tokens, as
    /// in sentence-transformers. They are not scaled.
    ///
    /// # Errors
    /// `Unsupported` for a model that reads no images; `Config` for a pooling that it does not have.
    pub fn of_config(
        config: &crate::auto::AutoConfig,
        pooling: Option<ImagePooling>,
    ) -> Result<Self> {
        let dimensions = config.dimensions();
        let Some(image) = dimensions.image else {
            return Err(Error::new(ErrorKind::Unsupported, "the model reads text, not images"));
        };
        let pooling = pooling.unwrap_or(if dimensions.reads_text() {
            ImagePooling::Pooler
        } else {
            ImagePooling::Mean
        });
        let ImageDimensions { special_tokens, hidden_size, pooled_size, .. } = image;
        if pooling == ImagePooling::Cls && special_tokens == 0 {
            let message = format!("`{}` has no class token", config.model_type());
            return Err(Error::new(ErrorKind::Config, message)
                .hint("choose `pooling: mean` or `pooling: pooler`"));
        }
        let dimension = if pooling == ImagePooling::Pooler { pooled_size } else { hidden_size };
        Ok(Self { pooling, normalize: false, dimension })
    }

    /// As [`ImageFeatures::of_config`], for a directory that may be one of sentence-transformers, whose modules count: by default
    /// vectors are scaled to unit length if they end in Normalize.
    ///
    /// # Errors
    /// As [`ImageFeatures::of_config`]; `Unsupported` for a module that changes vectors in another way.
    pub fn resolve(
        model: &SentenceTransformerConfig,
        pooling: Option<ImagePooling>,
        normalize: Option<bool>,
    ) -> Result<Self> {
        let features = Self::of_config(&model.config, pooling)?;
        let changes = |module: &&Module| {
            !matches!(module, Module::Features(_) | Module::Pooling(_) | Module::Normalize)
        };
        if let Some(module) = model.modules.iter().find(changes).filter(|_| pooling.is_none()) {
            let message = format!("modules.json has a module after pooling: {module:?}");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("set `pooling` to leave the modules out"));
        }
        let own = pooling.is_none() && model.modules.last() == Some(&Module::Normalize);
        Ok(Self { normalize: normalize.unwrap_or(own), ..features })
    }

    /// Checks that the loaded checkpoint has what the pooling needs.
    ///
    /// # Errors
    /// `Config` for `pooler` if it has no pooler.
    pub fn check(&self, model: &AutoModel) -> Result<()> {
        if self.pooling != ImagePooling::Pooler || model.backbone().has_pooler() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, "`pooling: pooler`: the checkpoint has no pooler")
            .hint("transformers would initialize one with random weights; choose `mean` or `cls`"))
    }

    /// The vectors of images `(channels, height, width)` of one size, one after the other, in one forward pass.
    ///
    /// # Errors
    /// `Model` when the model computes NaN or infinity; `Internal` when a tensor operation fails.
    pub fn of(&self, model: &AutoModel, images: &[Tensor]) -> Result<Vec<f32>> {
        let vectors = self.forward(model, images).map_err(forward_failed)?;
        let values = to_host(&vectors)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot read embeddings").source(e))?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(not_finite(*value)),
            None => Ok(values),
        }
    }

    fn forward(&self, model: &AutoModel, images: &[Tensor]) -> candle_core::Result<Tensor> {
        let inputs = model.image_inputs(images)?;
        let pooler_output = self.pooling == ImagePooling::Pooler;
        let output = model.forward(&inputs, &Want { pooler_output, ..Want::default() })?;
        let states = &output.last_hidden_state.values;
        let vectors = match (self.pooling, output.pooler_output) {
            (ImagePooling::Pooler, Some(pooled)) => pooled,
            (ImagePooling::Pooler, None) => candle_core::bail!("bug: no `pooler_output`"),
            (ImagePooling::Cls, _) => inputs.select(states, |_, _| Ok(0))?,
            (ImagePooling::Mean, _) => {
                let rows = output.last_hidden_state.lengths.rows();
                let (tokens, hidden_size) = states.dims2()?;
                states.reshape((rows, tokens / rows.max(1), hidden_size))?.mean(1)?
            }
        };
        if self.normalize { normalize(&vectors) } else { Ok(vectors) }
    }
}
