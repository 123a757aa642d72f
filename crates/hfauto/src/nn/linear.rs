//! Linear layers over `(tokens, features)`.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::activation::Activation;
use super::cpu::{self, BlockWeight, CpuView, Int8Weight, Matrix, Output, PackedWeight};
#[cfg(feature = "cuda")]
use super::cuda;
use super::gate::Gate;
use super::matrix_rows::{Reordered, Rows, TensorRows, Transposed};
use super::precision::{InputNorm, Precision};
use super::var_builder::VarBuilder;
use crate::limits;

/// Tokens per block of a packed layer: a block's results are still in the cache when the activation function, or the
/// next layer, reads them.
pub(super) const BLOCK_TOKENS: usize = 128;

/// The same where a layer widens its weight for each block.
const WIDENED_BLOCK_TOKENS: usize = 512;

/// The number of tokens that a tile of the kernels multiplies at once.
pub(super) const TILE_TOKENS: usize = 8;

/// `x · weightᵀ + bias`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
}

/// The weight of a linear layer, or a table of vectors.
#[derive(Clone)]
pub(super) enum Weight {
    /// As in the checkpoint, `(out_features, in_features)`.
    Dense(Tensor),
    /// In f32 or bf16.
    Packed(Arc<PackedWeight>),
    Int8(Arc<Int8Weight>),
    /// In the blocks of a GGUF file; the computation is in f32.
    Blocks(Arc<BlockWeight>),
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(weight) => write!(f, "Dense({:?})", weight.shape()),
            Self::Packed(weight) => write!(f, "Packed({:?})", weight.shape()),
            Self::Int8(weight) => write!(f, "Int8({:?})", weight.shape()),
            Self::Blocks(weight) => write!(f, "Blocks({:?})", weight.shape()),
        }
    }
}

/// The matrices of a layer in a checkpoint, and the form that it gets.
struct Plan<'a> {
    matrices: Vec<Box<dyn Rows + 'a>>,
    /// The number of outputs of each fused layer.
    parts: &'a [usize],
    in_features: usize,
    precision: Precision,
}

impl Plan<'_> {
    fn build(&self, norm: Option<&dyn InputNorm>) -> Result<Weight> {
        let (matrices, out_features) = (&self.matrices[..], self.parts.iter().sum());
        let shape = (out_features, self.in_features);
        Ok(match self.precision {
            Precision::Full if matrices.iter().any(|matrix| matrix.format().is_some()) => {
                Weight::Blocks(Arc::new(BlockWeight::new(self.in_features, matrices)?))
            }
            Precision::Full => Weight::Packed(Arc::new(PackedWeight::f32(shape, matrices)?)),
            Precision::Bf16 => Weight::Packed(Arc::new(PackedWeight::bf16(shape, matrices)?)),
            Precision::Int8 => {
                let magnitudes = norm.map(InputNorm::output_magnitudes).transpose()?;
                let (magnitudes, parts) = (magnitudes.as_deref(), self.parts);
                let weight = Int8Weight::new(self.in_features, parts, matrices, magnitudes)?;
                Weight::Int8(Arc::new(weight))
            }
        })
    }
}

/// The precision of a layer with weights of this dtype, which the kernels of `nn/cpu` compute; `None` where candle
/// computes.
fn packed_precision(
    precision: Precision,
    dtype: DType,
    device: &Device,
    (out_features, in_features): (usize, usize),
) -> Option<Precision> {
    if !device.is_cpu() || dtype != DType::F32 || out_features == 0 || in_features == 0 {
        return None;
    }
    Some(precision)
}

/// Refuses int8 for more inputs than its sums hold. `layer` names the weight.
fn check_inputs(precision: Precision, in_features: usize, layer: &str) -> Result<()> {
    let most = limits::INT8_INPUTS;
    if precision == Precision::Int8 && in_features > most {
        bail!("{layer} has {in_features} inputs, more than the {most} of int8: use f32 or bf16");
    }
    Ok(())
}

impl Weight {
    /// Loads the matrix `name` in the form of the builder's precision.
    ///
    /// # Errors
    /// When the checkpoint lacks it or has another shape.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        (out_features, in_features): (usize, usize),
        name: &str,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        Self::load_parts(&[(vb.clone(), out_features)], in_features, name, norm)
    }

    /// Loads the matrices `name` of layers with the same input as one.
    fn load_parts(
        parts: &[(VarBuilder<'_>, usize)],
        in_features: usize,
        name: &str,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let Some((vb, _)) = parts.first() else { bail!("bug: a layer without a weight") };
        let sizes: Vec<usize> = parts.iter().map(|(_, outputs)| *outputs).collect();
        let out_features = sizes.iter().fold(0usize, |sum, outputs| sum.saturating_add(*outputs));
        let shape = (out_features, in_features);
        let Some(precision) = packed_precision(vb.precision(), vb.dtype(), vb.device(), shape)
        else {
            return Self::load_dense(parts, in_features, name);
        };
        let matrices = parts.iter().map(|(vb, outputs)| {
            check_inputs(precision, in_features, &format!("`{}`", vb.full(&name)))?;
            let rows = vb.rows((*outputs, in_features), name)?;
            count(vb, precision, rows.as_deref(), (*outputs, in_features));
            Ok(rows)
        });
        let matrices: Vec<_> = matrices.collect::<Result<_>>()?;
        let matrices: Option<Vec<_>> = matrices.into_iter().collect();
        match matrices {
            Some(matrices) if !vb.only_sizes() => {
                Plan { matrices, parts: &sizes, in_features, precision }.build(norm)
            }
            _ => absent(vb, shape),
        }
    }

    fn load_dense(
        parts: &[(VarBuilder<'_>, usize)],
        in_features: usize,
        name: &str,
    ) -> Result<Self> {
        let weights = parts.iter().map(|(vb, outputs)| vb.get((*outputs, in_features), name));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        // Concatenating broadcast scalars (see `TensorSource::get`) would allocate whatever size the config claims.
        if let Some(missing) = weights.iter().find(|weight| !weight.is_contiguous()) {
            return Ok(Self::Dense(missing.clone()));
        }
        Ok(Self::Dense(if weights.len() == 1 {
            weights[0].clone()
        } else {
            Tensor::cat(&weights, 0)?
        }))
    }

    /// `(out_features, in_features)`.
    pub(super) fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Packed(weight) => Ok(weight.shape()),
            Self::Int8(weight) => Ok(weight.shape()),
            Self::Blocks(weight) => Ok(weight.shape()),
        }
    }

    /// Appends the vector of one output to `out`; `None` for a dense weight.
    pub(super) fn append_row(&self, row: usize, out: &mut Vec<f32>) -> Option<()> {
        match self {
            Self::Dense(_) => return None,
            Self::Packed(weight) => weight.append_row(row, out),
            Self::Int8(weight) => weight.append_row(row, out),
            Self::Blocks(weight) => weight.append_row(row, out),
        }
        Some(())
    }

    /// Appends rows of results to `out`.
    fn append(&self, out: &mut Vec<f32>, x: &[f32], bias: Option<&[f32]>) -> Result<()> {
        match self {
            Self::Packed(weight) => weight.append(out, x, bias),
            Self::Int8(weight) => weight.append(out, x, bias),
            Self::Blocks(weight) => weight.append(out, x, bias),
            Self::Dense(weight) => append_dense(out, x, weight, bias),
        }
    }
}

/// Counts the memory of a weight in the form of `precision`, or in that of its `rows`.
fn count(
    vb: &VarBuilder<'_>,
    precision: Precision,
    rows: Option<&(dyn Rows + '_)>,
    (out_features, in_features): (usize, usize),
) {
    let stored = rows.and_then(|rows| rows.format()?.bytes_of(in_features));
    if let (Some(bytes), Precision::Full) = (stored, precision) {
        return vb.count(&[out_features, bytes], 1);
    }
    let size = match precision {
        Precision::Full => 4,
        Precision::Bf16 => 2,
        Precision::Int8 => 1,
    };
    vb.count(&[out_features, in_features], size);
    if precision == Precision::Int8 {
        // A scale and a sum for each output.
        vb.count(&[out_features], 8);
    }
}

/// A weight that takes no memory: the checkpoint lacks it, or only its size counts.
fn absent(vb: &VarBuilder<'_>, shape: (usize, usize)) -> Result<Weight> {
    Ok(Weight::Dense(Tensor::zeros((), vb.dtype(), vb.device())?.broadcast_as(shape)?))
}

/// Some rows of a layer in a checkpoint.
pub struct SelectedRows<'a> {
    /// The path of the layer.
    pub vb: VarBuilder<'a>,
    /// The number of rows that the checkpoint stores.
    pub stored: usize,
    /// The selected rows: one range after the other.
    pub rows: Vec<Range<usize>>,
}

impl SelectedRows<'_> {
    fn len(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }

    fn select(&self, tensor: &Tensor) -> Result<Tensor> {
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        if !tensor.is_contiguous() {
            return Ok(tensor.clone());
        }
        let ranges = self.rows.iter().map(|range| tensor.narrow(0, range.start, range.len()));
        Tensor::cat(&ranges.collect::<Result<Vec<_>>>()?, 0)
    }

    fn weight(&self, in_features: usize) -> Result<Tensor> {
        self.select(&self.vb.get((self.stored, in_features), "weight")?)
    }

    fn bias(&self) -> Result<Tensor> {
        self.select(&self.vb.get(self.stored, "bias")?)
    }
}

/// Concatenates tensors, unless the checkpoint lacks one; see `TensorSource::get`.
fn concat(tensors: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    match tensors.iter().find(|tensor| !tensor.is_contiguous()) {
        Some(missing) => Ok(missing.clone()),
        None => Tensor::cat(&tensors, 0),
    }
}

impl Linear {
    /// A layer from a weight `(out_features, in_features)` and a bias `(out_features)`, as they are.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self::with_weight(Weight::Dense(weight), bias)
    }

    pub(super) fn with_weight(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Loads `weight` and, if `bias` is true, `bias`, in the form that the precision of `vb` needs.
    ///
    /// # Errors
    /// When the checkpoint lacks them or has other shapes.
    pub fn load(
        vb: VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Self> {
        Self::load_fused(&[(vb, out_features)], in_features, bias, None)
    }

    /// Like [`Linear::load`], for layers with the same input, each given by its path and its number of outputs: one
    /// product, whose outputs are concatenated. `norm` produces the input; its weights then calibrate the quantization to
    /// 8 bits, for which each layer gets its own smoothing factors.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn load_fused(
        parts: &[(VarBuilder<'_>, usize)],
        in_features: usize,
        bias: bool,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let weight = Weight::load_parts(parts, in_features, "weight", norm)?;
        if !bias {
            return Ok(Self::with_weight(weight, None));
        }
        let bias = concat(parts.iter().map(|(vb, outputs)| vb.get(*outputs, "bias")))?;
        Ok(Self::with_weight(weight, Some(bias)))
    }

    /// Like [`Linear::load_fused`], for a `Conv1D` of transformers with a bias: the weight, `(in_features, out_features)`,
    /// is transposed once at load. `parts` are the numbers of outputs of the layers that it fuses.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn load_conv1d(
        vb: VarBuilder<'_>,
        in_features: usize,
        parts: &[usize],
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let out_features = parts.iter().fold(0usize, |sum, outputs| sum.saturating_add(*outputs));
        let (shape, stored) = ((out_features, in_features), (in_features, out_features));
        let bias = Some(vb.get(out_features, "bias")?);
        let Some(precision) = packed_precision(vb.precision(), vb.dtype(), vb.device(), shape)
        else {
            let weight = vb.get(stored, "weight")?;
            // See `TensorSource::get` for tensors that the checkpoint lacks.
            let is_there = weight.is_contiguous();
            let weight = if is_there { weight.t()?.contiguous()? } else { weight.t()? };
            return Ok(Self::new(weight, bias));
        };
        check_inputs(precision, in_features, &format!("`{}`", vb.full(&"weight")))?;
        let rows = vb.rows(stored, "weight")?;
        let own = rows.as_ref().and_then(|rows| rows.transposed());
        count(&vb, precision, own.as_deref(), shape);
        let weight = match &rows {
            Some(rows) if !vb.only_sizes() => {
                let own = match own {
                    Some(own) => own,
                    None => Box::new(Transposed::new(&**rows)?),
                };
                Plan { matrices: vec![own], parts, in_features, precision }.build(norm)?
            }
            _ => absent(&vb, shape)?,
        };
        Ok(Self::with_weight(weight, bias))
    }

    /// Like [`Linear::load_fused`], for layers whose rows the checkpoint stores in another order, or among those of other layers.
    /// Biases, if they have them, are in the same order.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn load_selected(
        parts: &[SelectedRows<'_>],
        in_features: usize,
        bias: bool,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let Some(SelectedRows { vb, .. }) = parts.first() else {
            bail!("bug: a layer without a weight")
        };
        let bias = bias.then(|| concat(parts.iter().map(SelectedRows::bias))).transpose()?;
        let sizes: Vec<usize> = parts.iter().map(SelectedRows::len).collect();
        let shape = (sizes.iter().sum(), in_features);
        let Some(precision) = packed_precision(vb.precision(), vb.dtype(), vb.device(), shape)
        else {
            let weight = concat(parts.iter().map(|part| part.weight(in_features)))?;
            return Ok(Self::new(weight, bias));
        };
        let mut matrices: Vec<Box<dyn Rows>> = Vec::new();
        for part in parts {
            let vb = &part.vb;
            check_inputs(precision, in_features, &format!("`{}`", vb.full(&"weight")))?;
            let rows = vb.rows((part.stored, in_features), "weight")?;
            count(vb, precision, rows.as_deref(), (part.len(), in_features));
            if let Some(rows) = rows {
                matrices.push(Box::new(Reordered::new(rows, &part.rows)?));
            }
        }
        let weight = if vb.only_sizes() || matrices.len() < parts.len() {
            absent(vb, shape)?
        } else {
            Plan { matrices, parts: &sizes, in_features, precision }.build(norm)?
        };
        Ok(Self::with_weight(weight, bias))
    }

    /// Loads a layer into host memory, without counting its weight, for use while the model loads: in f32, with numbers that are
    /// rounded to bf16 where those of the model are. `None` where the checkpoint lacks the weight, or only sizes count.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub(super) fn load_on_host(
        vb: &VarBuilder<'_>,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Option<Self>> {
        let bias = bias.then(|| vb.get(out_features, "bias")).transpose()?;
        let shape = (out_features, in_features);
        let is_there = bias.as_ref().is_none_or(Tensor::is_contiguous);
        let Some(rows) = vb.rows(shape, "weight")?.filter(|_| is_there && !vb.only_sizes()) else {
            return Ok(None);
        };
        let precision = match vb.precision() {
            Precision::Bf16 => Precision::Bf16,
            Precision::Full | Precision::Int8 => Precision::Full,
        };
        let plan = Plan { matrices: vec![rows], parts: &[out_features], in_features, precision };
        let to_host = |bias: Tensor| bias.to_dtype(DType::F32)?.to_device(&Device::Cpu);
        Ok(Some(Self::with_weight(plan.build(None)?, bias.map(to_host).transpose()?)))
    }

    /// Like [`Linear::load`], for a convolution over what `x` has side by side: `kernel` are the dimensions of the weight after
    /// the first.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn load_convolution(
        vb: VarBuilder<'_>,
        out_features: usize,
        kernel: &[usize],
        bias: bool,
    ) -> Result<Self> {
        let bias = bias.then(|| vb.get(out_features, "bias")).transpose()?;
        let shape = [&[out_features], kernel].concat();
        let in_features = kernel.iter().fold(1, |product: usize, n| product.saturating_mul(*n));
        let flat = (out_features, in_features);
        let Some(precision) = packed_precision(vb.precision(), vb.dtype(), vb.device(), flat)
        else {
            let weight = vb.get(shape, "weight")?;
            let weight = if weight.is_contiguous() { weight.flatten_from(1)? } else { weight };
            return Ok(Self::new(weight, bias));
        };
        check_inputs(precision, in_features, &format!("`{}`", vb.full(&"weight")))?;
        let rows = vb.rows(shape, "weight")?;
        count(&vb, precision, rows.as_deref(), flat);
        let weight = match rows {
            Some(rows) if !vb.only_sizes() => {
                let plan =
                    Plan { matrices: vec![rows], parts: &[out_features], in_features, precision };
                plan.build(None)?
            }
            _ => absent(&vb, flat)?,
        };
        Ok(Self::with_weight(weight, bias))
    }

    /// The same layer with another bias.
    #[must_use]
    pub fn with_bias(self, bias: Option<Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// The same layer in the form of `precision`, if its weight is f32 in host memory; otherwise unchanged. `norm` and
    /// `parts` are as in [`Linear::load_fused`].
    ///
    /// # Errors
    /// When candle cannot read the weight, or the parts do not add up to its outputs.
    pub fn packed(
        self,
        precision: Precision,
        norm: Option<&dyn InputNorm>,
        parts: &[usize],
    ) -> Result<Self> {
        let Weight::Dense(weight) = &self.weight else { return Ok(self) };
        let shape = weight.dims2()?;
        if parts.iter().sum::<usize>() != shape.0 {
            bail!("bug: the parts do not add up to the number of outputs");
        }
        let (dtype, device) = (weight.dtype(), weight.device());
        let Some(precision) = packed_precision(precision, dtype, device, shape) else {
            return Ok(self);
        };
        check_inputs(precision, shape.1, "the layer")?;
        let matrices: Vec<Box<dyn Rows>> = vec![Box::new(TensorRows::new(weight)?)];
        let weight = Plan { matrices, parts, in_features: shape.1, precision }.build(norm)?;
        Ok(Self { weight, ..self })
    }

    /// The precision that the layer computes in.
    pub fn precision(&self) -> Precision {
        match self.weight {
            Weight::Int8(_) => Precision::Int8,
            Weight::Packed(ref weight) if weight.is_bf16() => Precision::Bf16,
            Weight::Dense(_) | Weight::Packed(_) | Weight::Blocks(_) => Precision::Full,
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
            return activation.forward_in_place(cuda::linear(x, weight, self.bias.as_ref())?);
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
    pub(super) fn on_cpu(&self, x: &Tensor) -> bool {
        cpu::applies(x)
            && match &self.weight {
                Weight::Dense(weight) => cpu::applies(weight) && weight.elem_count() > 0,
                Weight::Packed(_) | Weight::Int8(_) | Weight::Blocks(_) => true,
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
    let widens = layers().any(|layer| matches!(layer.weight, Weight::Blocks(_)));
    let block_tokens = if widens { WIDENED_BLOCK_TOKENS } else { BLOCK_TOKENS };
    let outs = cpu::shared(tokens, TILE_TOKENS, work, |range| {
        let mut out = Vec::with_capacity(range.len() * out_features);
        let (mut inner, mut gated) = (Vec::new(), Vec::new());
        let numbers = &numbers[range.start * in_features..range.end * in_features];
        for block in numbers.chunks(block_tokens * in_features) {
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
                (
                    Between::Activation(activation),
                    Weight::Dense(_) | Weight::Packed(_) | Weight::Blocks(_),
                ) => {
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
    use candle_core::Shape;

    use super::*;
    use crate::nn::random::randn;

    fn random(shape: impl Into<Shape>) -> Result<Tensor> {
        randn(0f32, 1., shape, &Device::Cpu)
    }

    /// The layer with an f32 weight as it is, and in each form that a CPU computes with.
    fn kinds(layer: &Linear) -> Result<[Linear; 4]> {
        let (outputs, _) = layer.weight.shape()?;
        let packed = |precision| layer.clone().packed(precision, None, &[outputs]);
        let [full, bf16, int8] = [Precision::Full, Precision::Bf16, Precision::Int8].map(packed);
        Ok([layer.clone(), full?, bf16?, int8?])
    }

    fn assert_close(ours: &Tensor, exact: &Tensor, most: f64) -> Result<()> {
        let off = (ours.to_dtype(DType::F64)? - exact)?.abs()?.flatten_all()?.max(0)?;
        let off = off.to_scalar::<f64>()?;
        assert!(off < most, "{off:e}");
        Ok(())
    }

    #[test]
    fn agrees_with_candle() -> Result<()> {
        let (x, weight, bias) = (random((5, 12))?, random((10, 12))?, random(10)?);
        // f64 uses candle's product.
        let [weight64, bias64] = [&weight, &bias].map(|tensor| tensor.to_dtype(DType::F64));
        let exact = Linear::new(weight64?, Some(bias64?)).forward(&x.to_dtype(DType::F64)?)?;
        let layer = Linear::new(weight, Some(bias));
        let packed = layer.clone().packed(Precision::Full, None, &[10])?;
        let strided = x.t()?.contiguous()?.t()?;
        for layer in [layer, packed] {
            assert_close(&layer.forward(&x)?, &exact, 1e-5)?;
            assert_close(&layer.forward(&strided)?, &exact, 1e-5)?;
        }
        Ok(())
    }

    fn loaded(tensors: &[(&str, Tensor)], precision: Precision) -> VarBuilder<'static> {
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone()));
        VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu)
            .set_precision(precision)
    }

    fn numbers(y: &Tensor) -> Result<Vec<f32>> {
        y.flatten_all()?.to_vec1()
    }

    #[test]
    fn loading_builds_the_form_of_the_precision_and_fuses() -> Result<()> {
        let tensors = [
            ("q.weight", random((40, 12))?),
            ("q.bias", random(40)?),
            ("k.weight", random((6, 12))?),
            ("k.bias", random(6)?),
        ];
        let x = random((5, 12))?;
        let both = |name: usize| Tensor::cat(&[&tensors[name].1, &tensors[name + 2].1], 0);
        for precision in [Precision::Full, Precision::Bf16, Precision::Int8] {
            let vb = loaded(&tensors, precision);
            let parts = [(vb.pp("q"), 40), (vb.pp("k"), 6)];
            let layer = Linear::load_fused(&parts, 12, true, None)?;
            assert_eq!(layer.precision(), precision);
            let bias = Some(both(1)?);
            // Where weights are in bf16, biases are rounded, too.
            let bias = match precision {
                Precision::Bf16 => bias.map(|b| b.to_dtype(DType::BF16)?.to_dtype(DType::F32)),
                _ => bias.map(Ok),
            };
            let expected = Linear::new(both(0)?, bias.transpose()?);
            let expected = expected.packed(precision, None, &[46])?.forward(&x)?;
            assert_eq!(numbers(&layer.forward(&x)?)?, numbers(&expected)?);
            // `Conv1D` is the transposed weight; a convolution a flattened one.
            let weight = tensors[0].1.clone();
            let bias = tensors[1].1.clone();
            let conv1d = [("weight", weight.t()?.contiguous()?), ("bias", bias.clone())];
            let conv1d = Linear::load_conv1d(loaded(&conv1d, precision), 12, &[30, 10], None)?;
            let kernel = [("weight", weight.reshape((40, 3, 2, 2))?), ("bias", bias)];
            let kernel =
                Linear::load_convolution(loaded(&kernel, precision), 40, &[3, 2, 2], true)?;
            let one = Linear::load(vb.pp("q"), 12, 40, true)?;
            let expected = numbers(&one.forward(&x)?)?;
            assert_eq!(numbers(&conv1d.forward(&x)?)?, expected);
            assert_eq!(numbers(&kernel.forward(&x)?)?, expected);
        }
        Ok(())
    }

    #[test]
    fn a_tied_head_and_its_table_are_one_weight() -> Result<()> {
        let (head, words) = (random((40, 12))?, random((40, 12))?);
        let ids = Tensor::new(&[39u32, 0, 7], &Device::Cpu)?;
        let load = |tensors: &[(&str, &Tensor)], precision| {
            let tensors: Vec<_> =
                tensors.iter().map(|(name, tensor)| (*name, (*tensor).clone())).collect();
            let vb = loaded(&tensors, precision).with_tied_head("head.weight", precision);
            crate::nn::Embedding::load_words(&vb.pp("words"), 40, 12, None)
        };
        let rows = |weight: &Tensor| numbers(&weight.index_select(&ids, 0)?);
        let full = Precision::Full;
        let tied = load(&[("words.weight", &words)], full)?;
        assert!(tied.tied_head().is_some());
        assert_eq!(numbers(&tied.forward(&ids)?)?, rows(&words)?);
        let only_head = load(&[("head.weight", &head)], full)?;
        assert!(only_head.tied_head().is_some());
        assert_eq!(numbers(&only_head.forward(&ids)?)?, rows(&head)?);
        let same = load(&[("words.weight", &words), ("head.weight", &words)], full)?;
        assert!(same.tied_head().is_some());
        let differ = load(&[("words.weight", &words), ("head.weight", &head)], full)?;
        assert!(differ.tied_head().is_none());
        assert_eq!(numbers(&differ.forward(&ids)?)?, rows(&words)?);
        // Half a step of 127 steps of the largest weight, or of 8 bits of a weight.
        for (precision, most) in [(Precision::Int8, 0.5 / 127.0), (Precision::Bf16, 0.5 / 128.0)] {
            let tied = load(&[("words.weight", &words)], precision)?;
            let found = numbers(&tied.forward(&ids)?)?;
            for (found, exact) in found.chunks_exact(12).zip(rows(&words)?.chunks_exact(12)) {
                let largest = exact.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (found, exact) in found.iter().zip(exact) {
                    assert!((found - exact).abs() <= 1.01 * most * largest, "{precision:?}");
                }
            }
            assert_eq!(tied.tied_head().map(|head| head.precision()), Some(precision));
        }
        Ok(())
    }

    #[test]
    fn a_row_does_not_depend_on_the_number_of_rows() -> Result<()> {
        let device = Device::Cpu;
        for (inputs, outputs) in [(96, 300), (700, 129)] {
            let x = randn(0f32, 1., (300, inputs), &device)?;
            let bias = randn(0f32, 1., outputs, &device)?;
            let layer = Linear::new(randn(0f32, 1., (outputs, inputs), &device)?, Some(bias));
            let next = Linear::new(randn(0f32, 1., (9, outputs), &device)?, None);
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
        let x = randn(0f32, 1., (150, 600), &device)?;
        let bias = randn(0f32, 1., 800, &device)?;
        let layer = Linear::new(randn(0f32, 1., (800, 600), &device)?, Some(bias));
        let next = Linear::new(randn(0f32, 1., (70, 800), &device)?, None);
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
        let x = randn(0f32, 1., (200, 24), &device)?;
        let first =
            Linear::new(randn(0f32, 1., (50, 24), &device)?, Some(randn(0f32, 1., 50, &device)?));
        let next = Linear::new(randn(0f32, 1., (7, 50), &device)?, None);
        for (first, next) in kinds(&first)?.into_iter().zip(kinds(&next)?) {
            let one = first.forward_through(&x, Activation::Silu, &next)?;
            let other = next.forward(&first.forward_activated(&x, Activation::Silu)?)?;
            let numbers = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
            assert_eq!(numbers(one)?, numbers(other)?);
        }
        Ok(())
    }

    #[test]
    fn a_packed_layer_computes_in_no_other_dtype() -> Result<()> {
        let layer = Linear::new(Tensor::ones((3, 2), DType::F32, &Device::Cpu)?, None);
        for packed in &kinds(&layer)?[1..] {
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
        assert!(layer.clone().packed(Precision::Full, None, &[2]).is_err());
        // What the kernels do not apply to stays as it is.
        for (shape, dtype) in [((3, 2), DType::F64), ((0, 2), DType::F32), ((3, 0), DType::F32)] {
            let layer = Linear::new(Tensor::ones(shape, dtype, &Device::Cpu)?, None);
            for precision in [Precision::Full, Precision::Bf16, Precision::Int8] {
                let layer = layer.clone().packed(precision, None, &[shape.0])?;
                assert!(matches!(layer.weight, Weight::Dense(_)));
            }
        }
        Ok(())
    }

    #[test]
    fn int8_of_too_many_inputs_is_refused_by_name() -> Result<()> {
        let most = limits::INT8_INPUTS;
        for (inputs, fits) in [(most, true), (most + 1, false)] {
            let weight = Tensor::ones((1, inputs), DType::F32, &Device::Cpu)?;
            let packed = Linear::new(weight.clone(), None).packed(Precision::Int8, None, &[1]);
            assert_eq!(packed.is_ok(), fits);
            for (weight, conv1d) in [(weight.clone(), false), (weight.t()?.contiguous()?, true)] {
                let bias = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
                let tensors = [("mlp.wo.weight", weight), ("mlp.wo.bias", bias)];
                let load = |precision| {
                    let vb = loaded(&tensors, precision).pp("mlp.wo");
                    if conv1d {
                        return Linear::load_conv1d(vb, inputs, &[1], None);
                    }
                    Linear::load(vb, inputs, 1, true)
                };
                assert!(load(Precision::Full).is_ok() && load(Precision::Bf16).is_ok());
                let found = load(Precision::Int8).map_err(|error| error.to_string());
                assert_eq!(found.is_ok(), fits);
                if let Err(text) = found {
                    assert!(text.contains("`mlp.wo.weight` has 65537 inputs"), "{text}");
                }
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
