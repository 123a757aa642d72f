//! Linear layers over `(tokens, features)`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::activation::Activation;
use super::cpu::{self, CpuView, Matrix, Output};

/// `x · weightᵀ + bias`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight `(out_features, in_features)` and a bias `(out_features)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Loads `weight` and, with `bias`, `bias`.
    ///
    /// # Errors
    /// When the checkpoint does not have them in this shape.
    pub fn load(
        vb: VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Self> {
        let weight = vb.get((out_features, in_features), "weight")?;
        let bias = if bias { Some(vb.get(out_features, "bias")?) } else { None };
        Ok(Self { weight, bias })
    }

    /// As [`Linear::load`] from a `Conv1D` of transformers, whose weight is `(in_features, out_features)`;
    /// it is transposed here, once.
    ///
    /// # Errors
    /// When the checkpoint does not have them in this shape.
    pub fn load_conv1d(
        vb: VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
    ) -> Result<Self> {
        let weight = vb.get((in_features, out_features), "weight")?;
        // See `Linear::fuse` for tensors that the checkpoint lacks.
        let weight = if weight.is_contiguous() { weight.t()?.contiguous()? } else { weight.t()? };
        Ok(Self { weight, bias: Some(vb.get(out_features, "bias")?) })
    }

    /// Several layers of one input as one product; their outputs lie side by side.
    ///
    /// # Errors
    /// When the weights or biases cannot be concatenated.
    pub fn fuse(layers: &[Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = layers.iter().map(|layer| &layer.weight).collect();
        // A tensor that the checkpoint lacks is a scalar broadcast to its shape while the loader lists
        // what is missing; concatenating those would allocate whatever the config claims.
        if let Some(layer) = layers.iter().find(|layer| !layer.weight.is_contiguous()) {
            return Ok(layer.clone());
        }
        let weight = Tensor::cat(&weights, 0)?;
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x`: `(tokens, in_features)`; returns `(tokens, out_features)`.
    ///
    /// # Errors
    /// When the shapes do not fit or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_activated(x, Activation::Identity)
    }

    /// Applies the layer, then `activation`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if cpu::applies(x) && cpu::applies(&self.weight) {
            let mut values = self.forward_cpu(x)?;
            activation.apply(&mut values);
            return Tensor::from_vec(values, (x.dim(0)?, self.weight.dim(0)?), x.device());
        }
        let y = x.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        activation.forward(&y)
    }

    fn forward_cpu(&self, x: &Tensor) -> Result<Vec<f32>> {
        let (rows, in_features) = x.dims2()?;
        let (out_features, expected) = self.weight.dims2()?;
        if in_features != expected {
            candle_core::bail!("linear layer of {expected} features got {in_features}");
        }
        let (x, weight) = (CpuView::new(x), CpuView::new(&self.weight));
        let x = x.matrix()?;
        // `gemm` sums in another order when there is one row; computed as two, it is, bit for bit, what it
        // would be among others.
        let (x, tokens) = if rows == 1 { (x.repeated(2), 2) } else { (x, rows) };
        let (mut out, mode) = match &self.bias {
            Some(bias) => {
                let bias = bias.contiguous()?;
                let bias = CpuView::new(&bias);
                (bias.slice()?[..out_features].repeat(tokens), Output::Add)
            }
            None => (vec![0.0; tokens * out_features], Output::Overwrite),
        };
        let weight: Matrix<'_> = weight.matrix()?;
        cpu::matmul(&mut out, out_features, mode, 1.0, x, weight.t());
        out.truncate(rows * out_features);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn agrees_with_candle_and_fuses() -> Result<()> {
        let device = Device::Cpu;
        let x = Tensor::randn(0f32, 1., (5, 12), &device)?;
        let layers = [4, 6]
            .map(|out| {
                Ok(Linear::new(
                    Tensor::randn(0f32, 1., (out, 12), &device)?,
                    Some(Tensor::randn(0f32, 1., out, &device)?),
                ))
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let separate = Tensor::cat(&[layers[0].forward(&x)?, layers[1].forward(&x)?], 1)?;
        let fused = Linear::fuse(&layers)?;
        // f64 takes candle's product.
        let double = Linear::new(
            fused.weight.to_dtype(DType::F64)?,
            fused.bias.as_ref().map(|b| b.to_dtype(DType::F64)).transpose()?,
        );
        let exact = double.forward(&x.to_dtype(DType::F64)?)?;
        for y in [separate, fused.forward(&x)?, fused.forward(&x.t()?.contiguous()?.t()?)?] {
            let off = (y.to_dtype(DType::F64)? - &exact)?.abs()?.flatten_all()?.max(0)?;
            assert!(off.to_scalar::<f64>()? < 1e-5);
        }
        Ok(())
    }

    #[test]
    fn a_row_does_not_depend_on_how_many_there_are() -> Result<()> {
        let device = Device::Cpu;
        for (inputs, outputs) in [(96, 300), (700, 129)] {
            let x = Tensor::randn(0f32, 1., (40, inputs), &device)?;
            let bias = Tensor::randn(0f32, 1., outputs, &device)?;
            let layer =
                Linear::new(Tensor::randn(0f32, 1., (outputs, inputs), &device)?, Some(bias));
            let all = layer.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
            for rows in [1, 2, 3, 7, 16] {
                let some = layer.forward(&x.narrow(0, 5, rows)?)?;
                let some = some.flatten_all()?.to_vec1::<f32>()?;
                assert_eq!(some, all[5 * outputs..(5 + rows) * outputs], "{rows} rows");
            }
        }
        Ok(())
    }

    #[test]
    fn no_tokens_give_no_rows_and_wrong_widths_an_error() -> Result<()> {
        let device = Device::Cpu;
        let layer = Linear::new(Tensor::ones((3, 2), DType::F32, &device)?, None);
        assert_eq!(layer.forward(&Tensor::zeros((0, 2), DType::F32, &device)?)?.dims(), [0, 3]);
        assert!(layer.forward(&Tensor::zeros((1, 4), DType::F32, &device)?).is_err());
        Ok(())
    }
}
