//! Functions for host memory and GPUs alike: transfers, casts, sums, row selection.

use candle_core::{DType, Device, Result, Tensor};

use crate::error;

/// The sum of two tensors of the same shape, for example of a layer's output and its residual.
///
/// # Errors
/// When the shapes differ or candle cannot allocate.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::cuda::applies(a) {
        return super::cuda::add(a, b);
    }
    a + b
}

/// Converts a tensor to another dtype, including dtypes that candle cannot convert on a GPU.
///
/// # Errors
/// When candle cannot convert or allocate.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Tensor::zeros(x.shape(), dtype, x.device());
    }
    x.to_dtype(dtype)
}

/// Selects rows of `states` by number.
///
/// # Shapes
/// `states`: `(n, hidden_size)`; returns `(rows, hidden_size)`.
///
/// # Errors
/// When a row does not exist or candle cannot allocate.
pub fn select_rows(states: &Tensor, rows: Vec<u32>) -> Result<Tensor> {
    if rows.is_empty() {
        return Tensor::zeros((0, states.dim(1)?), states.dtype(), states.device());
    }
    let rows = to_device(rows, states.device())?;
    #[cfg(feature = "cuda")]
    if super::cuda::applies(states) {
        return super::cuda::lookup(states, &rows, None);
    }
    states.contiguous()?.index_select(&rows, 0)
}

/// Copies values to a device in one transfer.
pub(super) fn to_device(values: Vec<u32>, device: &Device) -> Result<Tensor> {
    let count = values.len();
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::to_device(&values, count, device);
    }
    Tensor::from_vec(values, count, device)
}

/// The elements of a tensor in row-major order, as f32. On a GPU, this waits until they are computed.
///
/// # Errors
/// When the device cannot convert or copy them.
pub fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    if tensor.elem_count() == 0 {
        return Ok(Vec::new());
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(tensor) {
        if tensor.dtype() == DType::F32 {
            return super::cuda::to_host(tensor);
        }
        return super::cuda::to_host(&super::cuda::widen(tensor)?);
    }
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The logits of a head in row-major order, as f32, for every task with a head.
///
/// −∞ is legitimate: some heads forbid a token with a bias of −∞. NaN and +∞ are errors: every comparison with NaN is
/// false, so a label, token or span would be chosen arbitrarily.
///
/// # Errors
/// `Model` for NaN or +∞; `Internal` when the device cannot convert or copy the logits.
pub fn logits_to_host(logits: &Tensor) -> error::Result<Vec<f32>> {
    let values = to_host(logits).map_err(|e| {
        error::Error::new(error::ErrorKind::Internal, "cannot read logits").source(e)
    })?;
    let is_bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    // Without an early exit, the compiler vectorizes the loop.
    if values.iter().fold(false, |bad, x| bad | is_bad(x)) {
        let bad = values.iter().copied().find(is_bad);
        return Err(not_finite(bad.unwrap_or(f32::NAN)));
    }
    Ok(values)
}

/// The error for a model that computed NaN or infinity.
pub fn not_finite(value: f32) -> error::Error {
    error::Error::new(error::ErrorKind::Model, format!("the model computed `{value}`"))
        .hint("its weights are damaged, or do not belong to its config.json")
}
