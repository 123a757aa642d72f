//! Root mean square normalization over the last axis of `(tokens, hidden_size)`.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::{self, CpuView};
use super::precision::InputNorm;
use super::var_builder::VarBuilder;

/// `x / √(mean(x²) + eps) · weight`, without subtracting a mean or adding a bias (`T5LayerNorm`, `LlamaRMSNorm`).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight` of `hidden_size` elements.
    ///
    /// # Errors
    /// When the checkpoint lacks it or has another shape.
    pub fn load(vb: VarBuilder<'_>, hidden_size: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get(hidden_size, "weight")?, eps })
    }

    /// Like [`RmsNorm::load`], for a checkpoint that stores the weight less 1 (`GemmaRMSNorm`). The weight stays in f32, the
    /// dtype of the product.
    ///
    /// # Errors
    /// As [`RmsNorm::load`].
    pub fn load_less_one(vb: VarBuilder<'_>, hidden_size: usize, eps: f64) -> Result<Self> {
        let weight = vb.set_dtype(DType::F32).get(hidden_size, "weight")?;
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        let weight = if weight.is_contiguous() { (weight + 1.0)? } else { weight };
        Ok(Self { weight, eps })
    }

    /// A norm of `hidden_size` features without weights.
    ///
    /// # Errors
    /// If the device cannot hold the tensor.
    pub fn plain(hidden_size: usize, eps: f64, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { weight: Tensor::ones(hidden_size, dtype, device)?, eps })
    }

    /// Normalizes each head of `x` separately.
    ///
    /// # Shapes
    /// `x`: `(tokens, heads * hidden_size)`, as what is returned, where `hidden_size` is that of the norm; it may be a view.
    ///
    /// # Errors
    /// As [`RmsNorm::forward`].
    pub fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if tokens == 0 {
            return Tensor::zeros((0, width), x.dtype(), x.device());
        }
        self.forward(&x.reshape(((), self.weight.dim(0)?))?)?.reshape((tokens, width))
    }

    /// Normalizes `x`.
    ///
    /// # Errors
    /// When the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::applies(x) && cpu::applies(&self.weight) && x.dim(1)? == self.weight.dim(0)? {
            let mut values = x.flatten_all()?.to_vec1::<f32>()?;
            let weight = CpuView::new(&self.weight);
            let hidden_size = self.weight.dim(0)?;
            cpu::rms_norm(&mut values, &weight.slice()?[..hidden_size], self.eps as f32);
            return Tensor::from_vec(values, x.shape(), x.device());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(x) && x.dtype() == self.weight.dtype() {
            return super::cuda::normalize(x, None, &self.weight, None, self.eps);
        }
        let dtype = x.dtype();
        // The squares are computed in f32, because half precision is too coarse.
        let x = if dtype == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
        let mean_square = x.sqr()?.mean_keepdim(1)?;
        let normalized = x.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?;
        if self.weight.dtype() == dtype {
            normalized.to_dtype(dtype)?.broadcast_mul(&self.weight)
        } else {
            normalized.broadcast_mul(&self.weight)?.to_dtype(dtype)
        }
    }
}

impl InputNorm for RmsNorm {
    fn output_magnitudes(&self) -> Result<Vec<f32>> {
        self.weight.abs()?.to_dtype(DType::F32)?.to_vec1()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::random::randn;

    #[test]
    fn host_kernel_agrees_with_the_device_formula() -> Result<()> {
        let x = randn(3f32, 2., (7, 50), &Device::Cpu)?;
        let layer = RmsNorm { weight: randn(1f32, 0.1, 50, &Device::Cpu)?, eps: 1e-6 };
        let double = RmsNorm { weight: layer.weight.to_dtype(DType::F64)?, eps: 1e-6 };
        let exact = double.forward(&x.to_dtype(DType::F64)?)?;
        let ours = layer.forward(&x)?.to_dtype(DType::F64)?;
        let off = (ours - exact)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
        assert!(off < 2e-6, "{off:e}");
        Ok(())
    }

    #[test]
    fn a_weight_stored_less_one_is_one_more_and_heads_are_normalized_apart() -> Result<()> {
        let weight = Tensor::new(&[0f32, 1.0], &Device::Cpu)?;
        let tensors = std::collections::HashMap::from([("weight".to_owned(), weight)]);
        let vb = VarBuilder::from_tensors(tensors, DType::BF16, &Device::Cpu);
        let layer = RmsNorm::load_less_one(vb, 2, 1e-6)?;
        let x = Tensor::new(&[[9f32, 3.0, 3.0, 0.5, -0.5, 9.0]], &Device::Cpu)?.narrow(1, 1, 4)?;
        let y = layer.forward_heads(&x)?;
        assert_eq!(y.dims(), [1, 4]);
        for (ours, expected) in y.get(0)?.to_vec1::<f32>()?.into_iter().zip([1.0, 2.0, 1.0, -2.0]) {
            assert!((ours - expected).abs() < 1e-5, "{ours}");
        }
        let half = layer.forward_heads(&x.to_dtype(DType::BF16)?)?;
        assert_eq!(half.dtype(), DType::BF16);
        assert!(layer.forward_heads(&x.narrow(1, 0, 3)?).is_err());
        assert_eq!(layer.forward_heads(&x.narrow(0, 0, 0)?)?.dims(), [0, 4]);
        Ok(())
    }

    #[test]
    fn the_mean_stays_and_zeros_stay_zeros() -> Result<()> {
        let layer = RmsNorm { weight: Tensor::new(&[1f32, 2.0], &Device::Cpu)?, eps: 1e-6 };
        let y = layer.forward(&Tensor::new(&[[3f32, 3.0], [0.0, 0.0]], &Device::Cpu)?)?;
        for (ours, expected) in
            y.flatten_all()?.to_vec1::<f32>()?.into_iter().zip([1.0, 2.0, 0.0, 0.0])
        {
            assert!((ours - expected).abs() < 1e-6, "{ours}");
        }
        assert!(layer.forward(&Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?).is_err());
        Ok(())
    }
}
