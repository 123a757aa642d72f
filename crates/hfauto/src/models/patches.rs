//! The patches of images: a convolution whose stride equals its kernel size, as a linear layer. Not here: positions and special
//! tokens.

use candle_core::{DType, Result, Tensor, bail};

use super::ImageGrid;
use crate::nn::{Linear, ModelInputs, VarBuilder};

/// The embeddings of patches.
pub(super) struct PatchEmbeddings {
    projection: Linear,
    num_channels: usize,
    patch_size: (usize, usize),
    hidden_size: usize,
}

impl PatchEmbeddings {
    /// Loads the convolution.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape.
    pub(super) fn load(
        vb: VarBuilder<'_>,
        num_channels: usize,
        patch_size: (usize, usize),
        hidden_size: usize,
        bias: bool,
    ) -> Result<Self> {
        let kernel = [num_channels, patch_size.0, patch_size.1];
        let projection = Linear::load_convolution(vb, hidden_size, &kernel, bias)?;
        Ok(Self { projection, num_channels, patch_size, hidden_size })
    }

    /// Embeds the patches, row after row; ignores the remaining pixels at the bottom and on the right.
    ///
    /// # Shapes
    /// `pixel_values`: `(rows, channels, height, width)`; returns `(rows, patches, hidden_size)`.
    ///
    /// # Errors
    /// If the images have another number of channels or are smaller than a patch, or candle cannot allocate.
    pub(super) fn forward(&self, pixel_values: &Tensor, dtype: DType) -> Result<Tensor> {
        let (rows, channels, height, width) = pixel_values.dims4()?;
        let (patch_height, patch_width) = self.patch_size;
        let grid = ImageGrid::of_patches(self.patch_size);
        let [down, across] = grid.cells(height, width);
        if channels != self.num_channels || down == 0 || across == 0 {
            bail!(
                "images have {channels} channels and {height} by {width} pixels; patches have {} channels and {patch_height} by \
                 {patch_width} pixels",
                self.num_channels
            );
        }
        let patches = pixel_values
            .to_dtype(dtype)?
            .narrow(2, 0, down * patch_height)?
            .narrow(3, 0, across * patch_width)?
            .reshape((rows, channels, down, patch_height, across, patch_width))?
            .permute((0, 2, 4, 1, 3, 5))? // (rows, down, across, channels, patch_height, patch_width)
            .reshape((rows * down * across, channels * patch_height * patch_width))?;
        self.projection.forward(&patches)?.reshape((rows, down * across, self.hidden_size))
    }
}

/// The mean of the tokens of each image but the first.
///
/// # Shapes
/// `states`: `(total_tokens, hidden_size)`; returns `(rows, hidden_size)`.
///
/// # Errors
/// If the images have no patches or differ in size.
pub(super) fn mean_of_patches(inputs: &ModelInputs, states: &Tensor) -> Result<Tensor> {
    let (rows, tokens, hidden_size) = (inputs.lengths.rows(), inputs.lengths.max(), states.dim(1)?);
    if tokens < 2 || inputs.lengths.total_tokens() != rows * tokens {
        bail!("the mean of patches needs images of one size");
    }
    states.reshape((rows, tokens, hidden_size))?.narrow(1, 1, tokens - 1)?.mean(1)
}

/// The images of `inputs`.
///
/// # Errors
/// If there are none.
pub(super) fn pixel_values(inputs: &ModelInputs) -> Result<&Tensor> {
    match &inputs.pixel_values {
        Some(pixel_values) => Ok(pixel_values),
        None => bail!("the model reads images: `pixel_values` are missing"),
    }
}

/// Checks that the images have the size of the configuration.
///
/// # Errors
/// If they do not.
pub(super) fn check_size(
    pixel_values: &Tensor,
    num_channels: usize,
    image_size: (usize, usize),
) -> Result<()> {
    let (_, channels, height, width) = pixel_values.dims4()?;
    if (channels, (height, width)) == (num_channels, image_size) {
        return Ok(());
    }
    bail!(
        "images have {channels} channels and {height} by {width} pixels; config.json says \
         `num_channels: {num_channels}` and `image_size` {} by {}",
        image_size.0,
        image_size.1
    )
}
