//! Kernels over rows and elements: products, activations, norms, lookups, pooling.

use std::sync::PoisonError;

use super::{
    Arg, BackpropOp, Card, CudaBlasLT, CudaDType, CudaStorage, CudaView, DType, DeviceRepr, Matmul,
    MatmulConfig, Result, Storage, Tensor, bail, bf16, card, elementwise, empty, f16, launch,
    to_device,
};
use crate::nn::Lengths;

/// Threads per block, for kernels with one warp per row.
const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;

/// `x · weightᵀ + bias` in half precision, accumulated in f32.
///
/// # Shapes
/// `x`: `(tokens, in_features)`; `weight`: `(out_features, in_features)`; returns `(tokens, out_features)`.
///
/// # Errors
/// When shapes or dtypes do not match, or the GPU is out of memory.
pub(in crate::nn) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let fits = weight.dtype() == x.dtype() && bias.is_none_or(|bias| bias.dtype() == x.dtype());
    match x.dtype() {
        DType::F16 if fits => product::<f16>(x, weight, bias),
        DType::BF16 if fits => product::<bf16>(x, weight, bias),
        dtype => bail!("a linear layer of {:?} got {dtype:?}", weight.dtype()),
    }
}

fn product<T: CudaDType + DeviceRepr>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor>
where
    CudaBlasLT: Matmul<T>,
{
    let ((tokens, inner), (width, in_features)) = (x.dims2()?, weight.dims2()?);
    if inner != in_features || bias.is_some_and(|bias| bias.dims() != [width]) {
        bail!("linear layer of {in_features} features got {inner}");
    }
    let device = card(x.device())?;
    if tokens == 0 || width == 0 || inner == 0 {
        return Tensor::zeros((tokens, width), x.dtype(), x.device());
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let (x_view, weight_view) = (CudaView::new(&x), CudaView::new(&weight));
    let bias_view = bias.as_ref().map(CudaView::new);
    let (x, weight) = (x_view.slice::<T>()?, weight_view.slice::<T>()?);
    let bias = bias_view.as_ref().map(CudaView::slice::<T>).transpose()?;
    // cuBLAS is column-major, so it computes `weight · xᵀ`, with one bias per row.
    let config = MatmulConfig {
        transa: true,
        transb: false,
        transc: false,
        m: width as u64,
        n: tokens as u64,
        k: inner as u64,
        alpha: 1.0,
        lda: inner as i64,
        ldb: inner as i64,
        beta: 0.0,
        ldc: width as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    };
    // SAFETY: the product writes every element. The shapes match each other and the slices.
    #[allow(unsafe_code, reason = "cuBLASLt takes addresses and sizes")]
    let out = unsafe {
        let mut out = device.alloc::<T>(tokens * width)?;
        let card = Card::of(device)?;
        // A product may consist of several kernels that share the workspace, so no other may run in between.
        let blas = card.blas.lock().unwrap_or_else(PoisonError::into_inner);
        blas.matmul(config, &weight, &x, &mut out, bias.as_ref(), None)
            .map_err(|error| candle_core::Error::Cuda(Box::new(error)))?;
        drop(blas);
        out
    };
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(out, device.clone()));
    Ok(Tensor::from_storage(storage, (tokens, width), BackpropOp::none(), false))
}

/// Applies the activation with this number in `elementwise.cu` in place to a tensor that is not shared.
///
/// # Errors
/// When the dtype has no kernel.
pub(in crate::nn) fn activate(x: Tensor, number: i32) -> Result<Tensor> {
    let count = x.elem_count();
    if count == 0 {
        return Ok(x);
    }
    if !x.is_contiguous() {
        bail!("bug: an in-place activation needs a contiguous tensor");
    }
    let device = card(x.device())?.clone();
    let blocks = count.div_ceil(8 * THREADS as usize).min(1 << 16) as u32;
    let view = CudaView::new(&x);
    let args = [Arg::Pointer(view.pointer()?), Arg::Count(count as u64), Arg::Int(number)];
    // SAFETY: the tensor has `count` elements of this dtype, and the caller gives it up.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(&device, elementwise(x.dtype())?, "activate", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(view);
    Ok(x)
}

/// Normalizes rows of `x`, or of `x + residual`: LayerNorm with `bias`, RMSNorm without.
///
/// # Errors
/// When shapes or dtypes do not match.
pub(in crate::nn) fn normalize(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let like_weight = |other: &Tensor| other.dims() == [width] && other.dtype() == x.dtype();
    let fits = like_weight(weight)
        && bias.is_none_or(like_weight)
        && residual.is_none_or(|r| r.dims() == x.dims() && r.dtype() == x.dtype());
    if !fits {
        bail!("a norm of {:?} got {:?} and {:?}", weight.shape(), x.shape(), residual);
    }
    let device = card(x.device())?;
    let out = empty(device, x.dtype(), (rows, width))?;
    if out.elem_count() == 0 {
        return Ok(out);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let views = [Some(&out), Some(&x), residual.as_ref(), Some(&weight), bias.as_ref()];
    let views = views.map(|tensor| tensor.map(CudaView::new));
    let mut args = Vec::with_capacity(9);
    for view in &views {
        args.push(Arg::Pointer(view.as_ref().map_or(Ok(0), CudaView::pointer)?));
    }
    args.extend([
        Arg::Int(rows as i32),
        Arg::Int(width as i32),
        Arg::Float(eps as f32),
        Arg::Int(i32::from(bias.is_some())),
    ]);
    let blocks = rows.div_ceil(WARPS) as u32;
    // SAFETY: all tensors are contiguous and have the shapes checked above.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(x.dtype())?, "normalize", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(views);
    Ok(out)
}

/// Looks up rows of a table by id. With `sum`, which must not be shared, adds the rows to it in place. An id outside
/// the table gives NaN.
///
/// # Errors
/// When the dtype has no kernel or the shapes do not match.
pub(in crate::nn) fn lookup(table: &Tensor, ids: &Tensor, sum: Option<Tensor>) -> Result<Tensor> {
    let (table_rows, width) = table.dims2()?;
    let (count, device) = (ids.dims1()?, card(table.device())?);
    let add = sum.is_some();
    let out = match sum {
        Some(sum) => sum,
        None => empty(device, table.dtype(), (count, width))?,
    };
    let fits = out.dims() == [count, width] && out.dtype() == table.dtype() && out.is_contiguous();
    if ids.dtype() != DType::U32 || !fits {
        bail!("{:?} rows of {:?} cannot be added to {:?}", ids.shape(), table.shape(), out.shape());
    }
    if out.elem_count() == 0 {
        return Ok(out);
    }
    let (table, ids) = (table.contiguous()?, ids.contiguous()?);
    let (out_view, table_view, ids_view) =
        (CudaView::new(&out), CudaView::new(&table), CudaView::new(&ids));
    let args = [
        Arg::Pointer(out_view.pointer()?),
        Arg::Pointer(table_view.pointer()?),
        Arg::Pointer(ids_view.pointer()?),
        Arg::Int(count as i32),
        Arg::Int(table_rows as i32),
        Arg::Int(width as i32),
        Arg::Int(i32::from(add)),
    ];
    let blocks = count.div_ceil(WARPS) as u32;
    // SAFETY: all tensors are contiguous; the kernel checks every id.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(table.dtype())?, "lookup", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(out_view);
    Ok(out)
}

/// Scales rows to length 1. Lengths below `shortest` count as `shortest`.
///
/// # Errors
/// When the dtype has no kernel.
pub(in crate::nn) fn unit_rows(x: &Tensor, shortest: f64) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (x, device) = (x.contiguous()?, card(x.device())?);
    let out = empty(device, x.dtype(), (rows, width))?;
    if out.elem_count() == 0 {
        return Ok(out);
    }
    let (out_view, x_view) = (CudaView::new(&out), CudaView::new(&x));
    let args = [
        Arg::Pointer(out_view.pointer()?),
        Arg::Pointer(x_view.pointer()?),
        Arg::Int(rows as i32),
        Arg::Int(width as i32),
        Arg::Float(shortest as f32),
    ];
    let blocks = rows.div_ceil(WARPS) as u32;
    // SAFETY: both tensors are contiguous and have the same shape.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(x.dtype())?, "unit_rows", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(out_view);
    Ok(out)
}

/// The sum of two tensors of the same shape.
///
/// # Errors
/// When shapes or dtypes differ.
pub(in crate::nn) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        bail!("{:?} cannot be added to {:?}", b.shape(), a.shape());
    }
    let (a, b, device, count) =
        (a.contiguous()?, b.contiguous()?, card(a.device())?, a.elem_count());
    let out = empty(device, a.dtype(), a.shape().clone())?;
    // The kernel reads sixteen bytes at a time, but a view may start at any element.
    if count == 0 || [&a, &b].iter().any(|x| x.layout().start_offset() % 8 != 0) {
        return a + b;
    }
    let (out_view, a_view, b_view) = (CudaView::new(&out), CudaView::new(&a), CudaView::new(&b));
    let args = [
        Arg::Pointer(out_view.pointer()?),
        Arg::Pointer(a_view.pointer()?),
        Arg::Pointer(b_view.pointer()?),
        Arg::Count(count as u64),
    ];
    let blocks = count.div_ceil(8 * THREADS as usize).min(1 << 16) as u32;
    // SAFETY: all tensors are contiguous and have the same shape.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(a.dtype())?, "add", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(out_view);
    Ok(out)
}

/// Converts a tensor to f32.
///
/// # Errors
/// When the dtype has no kernel.
pub(in crate::nn) fn widen(x: &Tensor) -> Result<Tensor> {
    let (x, count, device) = (x.contiguous()?, x.elem_count(), card(x.device())?);
    let out = empty(device, DType::F32, x.shape().clone())?;
    if count == 0 {
        return Ok(out);
    }
    let (out_view, x_view) = (CudaView::new(&out), CudaView::new(&x));
    let args = [
        Arg::Pointer(out_view.pointer()?),
        Arg::Pointer(x_view.pointer()?),
        Arg::Count(count as u64),
    ];
    let blocks = count.div_ceil(8 * THREADS as usize).min(1 << 16) as u32;
    // SAFETY: both tensors are contiguous and have the same shape.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(x.dtype())?, "widen", ((blocks, 1, 1), THREADS), &args)?;
    }
    drop(out_view);
    Ok(out)
}

/// One f32 vector per row of tokens, as `Pooling::forward`. `modes` are the numbers of the modes in `elementwise.cu`.
///
/// # Errors
/// When the dtype has no kernel.
pub(in crate::nn) fn pool(
    tokens: &Tensor,
    lengths: &Lengths,
    modes: &[i32],
    skipped: usize,
) -> Result<Tensor> {
    let ((_, width), rows) = (tokens.dims2()?, lengths.rows());
    let device = card(tokens.device())?;
    let out = empty(device, DType::F32, (rows, modes.len() * width))?;
    if out.elem_count() == 0 {
        return Ok(out);
    }
    let tokens = tokens.contiguous()?;
    let starts = to_device(&lengths.cumulative_u32(), rows + 1, tokens.device())?;
    let (out_view, tokens_view, starts) =
        (CudaView::new(&out), CudaView::new(&tokens), CudaView::new(&starts));
    for (part, mode) in modes.iter().enumerate() {
        let args = [
            Arg::Pointer(out_view.pointer()? + (part * width * size_of::<f32>()) as u64),
            Arg::Pointer(tokens_view.pointer()?),
            Arg::Pointer(starts.pointer()?),
            Arg::Int(width as i32),
            Arg::Int((modes.len() * width) as i32),
            Arg::Int(skipped as i32),
            Arg::Int(*mode),
        ];
        let threads = (width.next_multiple_of(32) as u32).min(1024);
        // SAFETY: `starts` has the offsets of `rows` rows of `tokens`, and the columns of `out` for each mode do not
        // overlap.
        #[allow(unsafe_code, reason = "a kernel is launched")]
        unsafe {
            let grid = (rows as u32, 1, 1);
            launch(device, elementwise(tokens.dtype())?, "pool", (grid, threads), &args)?;
        }
    }
    drop(out_view);
    Ok(out)
}
