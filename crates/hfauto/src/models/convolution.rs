//! Convolutions over maps of features. Not here: patches, whose convolution is a linear layer, and the maps as tokens
//! (`feature_maps`).

use candle_core::{DType, Result, Tensor};

use crate::nn::VarBuilder;

/// The geometry of a convolution with a square kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) kernel_size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Whether each channel has a kernel of its own.
    pub(super) depthwise: bool,
}

/// A convolution, `torch.nn.Conv2d`; a batch normalization after it is part of its weight.
pub(super) struct Convolution {
    /// `(out_channels, in_channels, kernel_size, kernel_size)`.
    weight: Tensor,
    /// `(1, out_channels, 1, 1)`.
    bias: Tensor,
    geometry: Geometry,
}

impl Convolution {
    /// Loads a convolution with a bias.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        in_channels: usize,
        out_channels: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let weight = Self::weight(vb, in_channels, out_channels, geometry)?;
        let bias = per_channel(&vb.get(out_channels, "bias")?)?;
        Ok(Self { weight, bias, geometry })
    }

    /// Loads a convolution without a bias, and the batch normalization after it.
    ///
    /// # Errors
    /// As [`Convolution::load`].
    pub(super) fn load_normalized(
        convolution: &VarBuilder<'_>,
        normalization: &VarBuilder<'_>,
        in_channels: usize,
        out_channels: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        const EPS: f64 = 1e-5;
        let weight = Self::weight(convolution, in_channels, out_channels, geometry)?;
        let get = |name| normalization.get(out_channels, name);
        let (gamma, beta) = (get("weight")?, get("bias")?);
        let (mean, variance) = (get("running_mean")?, get("running_var")?);
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        if ![&weight, &gamma, &beta, &mean, &variance].into_iter().all(Tensor::is_contiguous) {
            return Ok(Self { weight, bias: per_channel(&beta)?, geometry });
        }
        let dtype = weight.dtype();
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let scale = (wide(&gamma)? / (wide(&variance)? + EPS)?.sqrt()?)?;
        let bias = (wide(&beta)? - (wide(&mean)? * &scale)?)?.to_dtype(dtype)?;
        let scale = scale.reshape((out_channels, 1, 1, 1))?;
        let weight = wide(&weight)?.broadcast_mul(&scale)?.to_dtype(dtype)?;
        Ok(Self { weight, bias: per_channel(&bias)?, geometry })
    }

    fn weight(
        vb: &VarBuilder<'_>,
        in_channels: usize,
        out_channels: usize,
        geometry: Geometry,
    ) -> Result<Tensor> {
        let inputs = if geometry.depthwise { 1 } else { in_channels };
        let size = geometry.kernel_size;
        vb.get((out_channels, inputs, size, size), "weight")
    }

    /// The dtype that it computes in.
    pub(super) fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Applies the convolution.
    ///
    /// # Shapes
    /// `(rows, in_channels, height, width)` to `(rows, out_channels, height, width)` of the geometry.
    ///
    /// # Errors
    /// If the shapes do not match or candle cannot allocate.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Geometry { stride, padding, depthwise, .. } = self.geometry;
        let groups = if depthwise { self.weight.dim(0)? } else { 1 };
        let x = x.contiguous()?;
        x.conv2d(&self.weight, padding, stride, 1, groups)?.broadcast_add(&self.bias)
    }
}

fn per_channel(x: &Tensor) -> Result<Tensor> {
    x.reshape((1, x.dim(0)?, 1, 1))
}
