//! Layer normalization over the last axis of `(tokens, hidden_size)`.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::cpu::{self, CpuView};
use super::precision::InputNorm;
use super::var_builder::VarBuilder;

/// `(x − mean) / √(variance + eps) · weight + bias`, as `torch.nn.LayerNorm`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight` and `bias` of `hidden_size` elements.
    ///
    /// # Errors
    /// When the checkpoint lacks them or has other shapes.
    pub fn load(vb: VarBuilder<'_>, hidden_size: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get(hidden_size, "weight")?, bias: vb.get(hidden_size, "bias")?, eps })
    }

    /// Loads a norm without a bias.
    ///
    /// # Errors
    /// When the checkpoint lacks `weight` or has another shape.
    pub fn load_without_bias(vb: VarBuilder<'_>, hidden_size: usize, eps: f64) -> Result<Self> {
        let weight = vb.get(hidden_size, "weight")?;
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        let bias = if weight.is_contiguous() { weight.zeros_like()? } else { weight.clone() };
        Ok(Self { weight, bias, eps })
    }

    /// A norm without a weight and a bias of its own.
    ///
    /// # Errors
    /// When the device cannot hold its tensors.
    pub fn plain(hidden_size: usize, eps: f64, dtype: DType, device: &Device) -> Result<Self> {
        let (weight, bias) =
            (Tensor::ones(hidden_size, dtype, device)?, Tensor::zeros(hidden_size, dtype, device)?);
        Ok(Self { weight, bias, eps })
    }

    /// Normalizes each head of `x` separately.
    ///
    /// # Shapes
    /// `x`: `(tokens, heads * hidden_size)`, as what is returned, where `hidden_size` is that of the norm; it may be a view.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if tokens == 0 {
            return Tensor::zeros((0, width), x.dtype(), x.device());
        }
        self.forward(&x.reshape(((), self.weight.dim(0)?))?)?.reshape((tokens, width))
    }

    /// Whether the checkpoint has the norm, and not only its size counts; see `TensorSource::get`.
    pub fn is_loaded(&self) -> bool {
        self.weight.is_contiguous() && self.bias.is_contiguous()
    }

    /// The dtype that it computes in.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Normalizes `x`.
    ///
    /// # Errors
    /// When the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.normalize(x, None)
    }

    /// Normalizes `x + residual`.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.normalize(x, Some(residual))
    }

    fn normalize(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        if cpu::applies(x) && cpu::applies(&self.weight) && x.dim(1)? == self.weight.dim(0)? {
            let count = x.elem_count();
            let contiguous = x.contiguous()?;
            let x_view = CpuView::new(&contiguous);
            let residual = residual
                .map(|residual| {
                    if residual.dims() != x.dims() || !cpu::applies(residual) {
                        bail!("{:?} cannot be added to {:?}", residual.shape(), x.shape());
                    }
                    residual.contiguous()
                })
                .transpose()?;
            let residual_view = residual.as_ref().map(CpuView::new);
            let residual = match &residual_view {
                Some(view) => Some(&view.slice()?[..count]),
                None => None,
            };
            let (weight, bias) = (CpuView::new(&self.weight), CpuView::new(&self.bias));
            let hidden_size = self.weight.dim(0)?;
            let values = cpu::layer_norm(
                &x_view.slice()?[..count],
                residual,
                &weight.slice()?[..hidden_size],
                &bias.slice()?[..hidden_size],
                self.eps as f32,
            );
            return Tensor::from_vec(values, x.shape(), x.device());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(x) {
            let (weight, bias) = (&self.weight, Some(&self.bias));
            return super::cuda::normalize(x, residual, weight, bias, self.eps);
        }
        let dtype = x.dtype();
        let x = match residual {
            Some(residual) => (x + residual)?,
            None => x.clone(),
        };
        // The variance is computed in f32, because half precision is too coarse.
        let x = if dtype == DType::F64 { x } else { x.to_dtype(DType::F32)? };
        let x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
        let variance = x.sqr()?.mean_keepdim(1)?;
        x.broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .to_dtype(dtype)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

impl InputNorm for LayerNorm {
    fn output_magnitudes(&self) -> Result<Vec<f32>> {
        let squares = (self.weight.sqr()? + self.bias.sqr()?)?;
        squares.sqrt()?.to_dtype(DType::F32)?.to_vec1()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::random::randn;

    #[test]
    fn host_kernel_agrees_with_the_device_formula() -> Result<()> {
        let device = Device::Cpu;
        let x = randn(3f32, 2., (7, 50), &device)?;
        let residual = randn(0f32, 1., (7, 50), &device)?;
        let layer = LayerNorm {
            weight: randn(1f32, 0.1, 50, &device)?,
            bias: randn(0f32, 0.1, 50, &device)?,
            eps: 1e-12,
        };
        let double = LayerNorm {
            weight: layer.weight.to_dtype(DType::F64)?,
            bias: layer.bias.to_dtype(DType::F64)?,
            eps: 1e-12,
        };
        let exact =
            double.forward_residual(&x.to_dtype(DType::F64)?, &residual.to_dtype(DType::F64)?)?;
        let ours = layer.forward_residual(&x, &residual)?.to_dtype(DType::F64)?;
        let off = (ours - exact)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
        assert!(off < 2e-6, "{off:e}");
        Ok(())
    }
}
