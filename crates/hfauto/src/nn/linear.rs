//! Linear layers over `(tokens, features)`.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::activation::Activation;
use super::cpu::{self, CpuView, Int8Weight, Matrix, Output, PackedWeight};
#[cfg(feature = "cuda")]
use super::cuda;
use super::layer_norm::LayerNorm;
use super::mlp::Gate;

/// Tokens per block of a packed layer: a block's results are still in the cache when the activation function, or the
/// next layer, reads them.
const BLOCK_TOKENS: usize = 128;

/// The number of tokens that a tile of the kernels multiplies at once.
const TILE_TOKENS: usize = 8;

/// `x · weightᵀ + bias`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    /// The norm that produces the input, until the weight is packed.
    input_norm: Option<LayerNorm>,
    /// The number of outputs of each fused layer.
    parts: Vec<usize>,
}

/// How layers compute on a CPU, which determines the form of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// In the dtype of the weight.
    Full,
    /// In 8-bit integers: weights are quantized at load, per output, and inputs in each forward pass, per token.
    /// Attention, which has no weights, uses bf16 where the processor supports it.
    Int8,
}

#[derive(Clone)]
enum Weight {
    /// As in the checkpoint, `(out_features, in_features)`.
    Dense(Tensor),
    Packed(Arc<PackedWeight>),
    Int8(Arc<Int8Weight>),
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(weight) => write!(f, "Dense({:?})", weight.shape()),
            Self::Packed(weight) => write!(f, "Packed({:?})", weight.shape()),
            Self::Int8(weight) => write!(f, "Int8({:?})", weight.shape()),
        }
    }
}

impl Weight {
    /// `(out_features, in_features)`.
    fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Packed(weight) => Ok(weight.shape()),
            Self::Int8(weight) => Ok(weight.shape()),
        }
    }

    /// Appends rows of results to `out`.
    fn append(&self, out: &mut Vec<f32>, x: &[f32], bias: Option<&[f32]>) -> Result<()> {
        match self {
            Self::Packed(weight) => weight.append(out, x, bias),
            Self::Int8(weight) => weight.append(out, x, bias),
            Self::Dense(weight) => append_dense(out, x, weight, bias),
        }
    }
}

impl Linear {
    /// A layer from a weight `(out_features, in_features)` and a bias `(out_features)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let parts = vec![weight.dim(0).unwrap_or(0)];
        Self { weight: Weight::Dense(weight), bias, input_norm: None, parts }
    }

    /// Loads `weight` and, if `bias` is true, `bias`.
    ///
    /// # Errors
    /// When the checkpoint lacks them or has other shapes.
    pub fn load(
        vb: VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Self> {
        let weight = vb.get((out_features, in_features), "weight")?;
        let bias = if bias { Some(vb.get(out_features, "bias")?) } else { None };
        Ok(Self::new(weight, bias))
    }

    /// Like [`Linear::load`], for a `Conv1D` of transformers: its weight, `(in_features, out_features)`, is transposed
    /// once at load.
    ///
    /// # Errors
    /// When the checkpoint lacks them or has other shapes.
    pub fn load_conv1d(
        vb: VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
    ) -> Result<Self> {
        let weight = vb.get((in_features, out_features), "weight")?;
        // See `Linear::fuse` for tensors that the checkpoint lacks.
        let weight = if weight.is_contiguous() { weight.t()?.contiguous()? } else { weight.t()? };
        Ok(Self::new(weight, Some(vb.get(out_features, "bias")?)))
    }

    /// Fuses layers with the same input into one product; their outputs are concatenated.
    ///
    /// # Errors
    /// When the weights or biases cannot be concatenated, or a layer is packed already.
    pub fn fuse(layers: &[Self]) -> Result<Self> {
        let weights = layers.iter().map(|layer| match &layer.weight {
            Weight::Dense(weight) => Ok(weight),
            Weight::Packed(_) | Weight::Int8(_) => bail!("bug: a packed layer cannot be fused"),
        });
        let weights: Vec<&Tensor> = weights.collect::<Result<_>>()?;
        // While the loader collects missing tensors, a missing one is a scalar broadcast to its shape. Concatenating
        // those would allocate whatever size the config claims.
        if let Some(missing) = weights.iter().position(|weight| !weight.is_contiguous()) {
            return Ok(layers[missing].clone());
        }
        let parts = weights.iter().map(|weight| weight.dim(0)).collect::<Result<_>>()?;
        let weight = Tensor::cat(&weights, 0)?;
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Self { parts, ..Self::new(weight, bias) })
    }

    /// Declares that the input is the output of `norm`, whose weights then calibrate the quantization to 8 bits. Each
    /// fused layer gets its own smoothing factors.
    #[must_use]
    pub fn after(mut self, norm: &LayerNorm) -> Self {
        self.input_norm = Some(norm.clone());
        self
    }

    /// Packs the weight for the CPU's kernels and drops the tensor. A layer that is not f32 in host memory stays
    /// unchanged.
    ///
    /// # Errors
    /// When candle cannot read the weight.
    pub fn pack(&mut self, precision: Precision) -> Result<()> {
        let Weight::Dense(weight) = &self.weight else { return Ok(()) };
        let norm = self.input_norm.take();
        let packed = match precision {
            Precision::Full => PackedWeight::new(weight)?.map(|w| Weight::Packed(Arc::new(w))),
            Precision::Int8 => {
                let magnitudes = norm.map(|norm| norm.output_magnitudes()).transpose()?;
                Int8Weight::new(weight, magnitudes.as_deref(), &self.parts)?
                    .map(|w| Weight::Int8(Arc::new(w)))
            }
        };
        self.weight = packed.unwrap_or_else(|| self.weight.clone());
        Ok(())
    }

    /// The precision that the layer computes in.
    pub fn precision(&self) -> Precision {
        match self.weight {
            Weight::Int8(_) => Precision::Int8,
            Weight::Dense(_) | Weight::Packed(_) => Precision::Full,
        }
    }

    /// The number of weight parameters in 8-bit integers.
    pub fn int8_parameters(&self) -> usize {
        match &self.weight {
            Weight::Int8(weight) => weight.shape().0 * weight.shape().1,
            Weight::Dense(_) | Weight::Packed(_) => 0,
        }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x`: `(tokens, in_features)`; returns `(tokens, out_features)`.
    ///
    /// # Errors
    /// When the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_activated(x, Activation::Identity)
    }

    /// Applies the layer, then `activation`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if self.on_cpu(x) {
            return forward_cpu(x, self, Between::Activation(activation), None);
        }
        let Weight::Dense(weight) = &self.weight else {
            bail!("a linear layer packed for f32 on the CPU got {:?}, or another device", x.dtype())
        };
        #[cfg(feature = "cuda")]
        cuda::resume();
        #[cfg(feature = "cuda")]
        if cuda::applies(x) && x.dtype() != DType::F32 {
            return cuda::activate(cuda::linear(x, weight, self.bias.as_ref())?, activation);
        }
        let y = x.matmul(&weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        activation.forward(&y)
    }

    /// Applies the layer, then `activation`, then `next`: the feed-forward network of a transformer.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_through(
        &self,
        x: &Tensor,
        activation: Activation,
        next: &Self,
    ) -> Result<Tensor> {
        if self.on_cpu(x) && next.on_cpu(x) {
            return forward_cpu(x, self, Between::Activation(activation), Some(next));
        }
        next.forward(&self.forward_activated(x, activation)?)
    }

    /// Like [`Linear::forward_through`], with a gate; `None` where the kernels of `nn/cpu` do not apply.
    pub(super) fn forward_through_gate(
        &self,
        x: &Tensor,
        gate: Gate,
        next: &Self,
    ) -> Result<Option<Tensor>> {
        let on_cpu = self.on_cpu(x) && next.on_cpu(x);
        on_cpu.then(|| forward_cpu(x, self, Between::Gate(gate), Some(next))).transpose()
    }

    fn is_packed(&self) -> bool {
        !matches!(self.weight, Weight::Dense(_))
    }

    /// Whether the kernels of `nn/cpu` apply. They split their input into rows, so it must not be empty.
    fn on_cpu(&self, x: &Tensor) -> bool {
        cpu::applies(x)
            && match &self.weight {
                Weight::Dense(weight) => cpu::applies(weight) && weight.elem_count() > 0,
                Weight::Packed(_) | Weight::Int8(_) => true,
            }
            && self.bias.as_ref().is_none_or(|bias| bias.dtype() == DType::F32)
    }
}

/// The operation on the output of a layer.
#[derive(Clone, Copy)]
enum Between {
    Activation(Activation),
    /// Halves the number of features.
    Gate(Gate),
}

/// Applies `first`, what is `between`, and optionally `next`, block by block, on this thread and idle ones.
fn forward_cpu(
    x: &Tensor,
    first: &Linear,
    between: Between,
    next: Option<&Linear>,
) -> Result<Tensor> {
    let (tokens, in_features) = x.dims2()?;
    let (width, expected) = first.weight.shape()?;
    if in_features != expected {
        bail!("linear layer of {expected} features got {in_features}");
    }
    let out_features = match next {
        Some(next) => {
            let (out_features, expected) = next.weight.shape()?;
            let features_fit = match between {
                Between::Activation(_) => width == expected,
                Between::Gate(_) => width == 2 * expected,
            };
            if !features_fit {
                bail!("linear layer of {expected} features got {width}");
            }
            out_features
        }
        None => width,
    };
    let x = x.contiguous()?;
    let view = CpuView::new(&x);
    let numbers = &view.slice()?[..tokens * in_features];
    let bias = |linear: &Linear| linear.bias.as_ref().map(Tensor::contiguous).transpose();
    let (first_bias, next_bias) = (bias(first)?, next.map(bias).transpose()?.flatten());
    let (first_view, next_view) =
        (first_bias.as_ref().map(CpuView::new), next_bias.as_ref().map(CpuView::new));
    let first_bias = first_view.as_ref().map(CpuView::slice).transpose()?.map(|b| &b[..width]);
    let next_bias = next_view.as_ref().map(CpuView::slice).transpose()?.map(|b| &b[..out_features]);
    let layers = || [Some(first), next].into_iter().flatten();
    let work = if layers().all(Linear::is_packed) {
        tokens * width * (in_features + next.map_or(0, |_| out_features))
    } else {
        // The order of summation in `gemm` depends on the number of rows, so the rows stay together.
        0
    };
    let outs = cpu::shared(tokens, TILE_TOKENS, work, |range| {
        let mut out = Vec::with_capacity(range.len() * out_features);
        let (mut inner, mut gated) = (Vec::new(), Vec::new());
        let numbers = &numbers[range.start * in_features..range.end * in_features];
        for block in numbers.chunks(BLOCK_TOKENS * in_features) {
            let Some(next) = next else {
                let before = out.len();
                first.weight.append(&mut out, block, first_bias)?;
                if let Between::Activation(activation) = between {
                    activation.apply(&mut out[before..]);
                }
                continue;
            };
            inner.clear();
            first.weight.append(&mut inner, block, first_bias)?;
            let inputs = match (between, &next.weight) {
                (Between::Gate(gate), _) => {
                    gated.clear();
                    gate.append(&mut gated, &mut inner, width / 2);
                    &gated
                }
                (Between::Activation(activation), Weight::Int8(_)) => {
                    activation.apply_before_quantization(&mut inner);
                    &inner
                }
                (Between::Activation(activation), Weight::Dense(_) | Weight::Packed(_)) => {
                    activation.apply(&mut inner);
                    &inner
                }
            };
            next.weight.append(&mut out, inputs, next_bias)?;
        }
        Ok(out)
    });
    let mut outs = outs.into_iter().collect::<Result<Vec<_>>>()?;
    let out = if outs.len() == 1 { outs.remove(0) } else { outs.concat() };
    Tensor::from_vec(out, (tokens, out_features), x.device())
}

/// The product with an unpacked weight.
fn append_dense(
    out: &mut Vec<f32>,
    x: &[f32],
    weight: &Tensor,
    bias: Option<&[f32]>,
) -> Result<()> {
    let (out_features, in_features) = weight.dims2()?;
    let rows = x.len() / in_features;
    let view = CpuView::new(weight);
    let weight = view.matrix()?;
    let x = Matrix::new(x, rows, in_features);
    // `gemm` sums a single row in another order. Computed as two rows, its result is bit-identical to that of a row
    // among others.
    let (x, tokens) = if rows == 1 { (x.repeated(2), 2) } else { (x, rows) };
    let (mut product, mode) = match bias {
        Some(bias) => (bias.repeat(tokens), Output::Add),
        None => (vec![0.0; tokens * out_features], Output::Overwrite),
    };
    cpu::matmul(&mut product, out_features, mode, 1.0, x, weight.t());
    out.extend_from_slice(&product[..rows * out_features]);
    Ok(())
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
        // f64 uses candle's product.
        let double = Linear::new(
            dense(&fused).to_dtype(DType::F64)?,
            fused.bias.as_ref().map(|b| b.to_dtype(DType::F64)).transpose()?,
        );
        let exact = double.forward(&x.to_dtype(DType::F64)?)?;
        let mut packed = fused.clone();
        packed.pack(Precision::Full)?;
        let ys = [separate, fused.forward(&x)?, packed.forward(&x)?];
        let strided = x.t()?.contiguous()?.t()?;
        for y in ys.into_iter().chain([fused.forward(&strided)?, packed.forward(&strided)?]) {
            let off = (y.to_dtype(DType::F64)? - &exact)?.abs()?.flatten_all()?.max(0)?;
            assert!(off.to_scalar::<f64>()? < 1e-5);
        }
        Ok(())
    }

    fn dense(layer: &Linear) -> &Tensor {
        match &layer.weight {
            Weight::Dense(weight) => weight,
            packed => panic!("{packed:?}"),
        }
    }

    /// The layer as loaded, packed, and in 8 bits.
    fn kinds(layer: &Linear) -> Result<[Linear; 3]> {
        let (mut packed, mut int8) = (layer.clone(), layer.clone());
        packed.pack(Precision::Full)?;
        int8.pack(Precision::Int8)?;
        Ok([layer.clone(), packed, int8])
    }

    #[test]
    fn a_row_does_not_depend_on_the_number_of_rows() -> Result<()> {
        let device = Device::Cpu;
        for (inputs, outputs) in [(96, 300), (700, 129)] {
            let x = Tensor::randn(0f32, 1., (300, inputs), &device)?;
            let bias = Tensor::randn(0f32, 1., outputs, &device)?;
            let layer =
                Linear::new(Tensor::randn(0f32, 1., (outputs, inputs), &device)?, Some(bias));
            let next = Linear::new(Tensor::randn(0f32, 1., (9, outputs), &device)?, None);
            for (layer, next) in kinds(&layer)?.into_iter().zip(kinds(&next)?) {
                let through = |x: &Tensor| -> Result<Vec<f32>> {
                    layer.forward_through(x, Activation::Gelu, &next)?.flatten_all()?.to_vec1()
                };
                let all = layer.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
                let all_through = through(&x)?;
                for rows in [1, 2, 3, 7, 16, 129] {
                    let x = x.narrow(0, 5, rows)?;
                    let some = layer.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
                    assert_eq!(some, all[5 * outputs..(5 + rows) * outputs], "{rows} rows");
                    // `gemm` sums in another order when there are fewer rows than a few outputs.
                    if !matches!(layer.weight, Weight::Dense(_)) {
                        let expected = &all_through[5 * 9..(5 + rows) * 9];
                        assert_eq!(through(&x)?, expected, "{rows} rows");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn idle_threads_change_no_bit() -> Result<()> {
        let device = Device::Cpu;
        let x = Tensor::randn(0f32, 1., (150, 600), &device)?;
        let bias = Tensor::randn(0f32, 1., 800, &device)?;
        let layer = Linear::new(Tensor::randn(0f32, 1., (800, 600), &device)?, Some(bias));
        let next = Linear::new(Tensor::randn(0f32, 1., (70, 800), &device)?, None);
        for (layer, next) in kinds(&layer)?.into_iter().zip(kinds(&next)?) {
            let results = || -> Result<Vec<Vec<f32>>> {
                let ys = [layer.forward(&x)?, layer.forward_through(&x, Activation::Gelu, &next)?];
                ys.iter().map(|y| y.flatten_all()?.to_vec1()).collect()
            };
            let alone = results()?;
            let spare = Arc::new(cpu::SpareThreads::new(3).map_err(candle_core::Error::wrap)?);
            assert_eq!(spare.compute(results)?, alone, "{layer:?}");
        }
        Ok(())
    }

    #[test]
    fn forward_through_equals_two_layers_in_sequence() -> Result<()> {
        let device = Device::Cpu;
        let x = Tensor::randn(0f32, 1., (200, 24), &device)?;
        let first = Linear::new(
            Tensor::randn(0f32, 1., (50, 24), &device)?,
            Some(Tensor::randn(0f32, 1., 50, &device)?),
        );
        let next = Linear::new(Tensor::randn(0f32, 1., (7, 50), &device)?, None);
        for (first, next) in kinds(&first)?.into_iter().zip(kinds(&next)?) {
            let one = first.forward_through(&x, Activation::Silu, &next)?;
            let other = next.forward(&first.forward_activated(&x, Activation::Silu)?)?;
            let numbers = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
            assert_eq!(numbers(one)?, numbers(other)?);
        }
        Ok(())
    }

    #[test]
    fn a_packed_layer_neither_fuses_nor_computes_in_another_dtype() -> Result<()> {
        let layer = Linear::new(Tensor::ones((3, 2), DType::F32, &Device::Cpu)?, None);
        for packed in &kinds(&layer)?[1..] {
            assert!(Linear::fuse(&[packed.clone(), layer.clone()]).is_err());
            assert!(packed.forward(&Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?).is_err());
            assert!(packed.forward(&Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?).is_err());
            assert!(
                packed
                    .forward_through(
                        &Tensor::zeros((1, 2), DType::F32, &Device::Cpu)?,
                        Activation::Relu,
                        packed
                    )
                    .is_err()
            );
        }
        let mut double = Linear::new(Tensor::ones((3, 2), DType::F64, &Device::Cpu)?, None);
        double.pack(Precision::Int8)?;
        assert_eq!(
            double.forward(&Tensor::ones((1, 2), DType::F64, &Device::Cpu)?)?.dims(),
            [1, 3]
        );
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
