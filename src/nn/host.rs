//! What is written once for host memory and cards, besides layers: numbers to the host, other dtypes, sums, rows by
//! number.

use candle_core::{DType, Device, Result, Tensor};

/// The sum of two tensors of one shape, as after a layer with a residual.
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

/// The same numbers in another dtype; candle refuses to convert none of them on a card.
///
/// # Errors
/// When candle cannot convert or allocate.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Tensor::zeros(x.shape(), dtype, x.device());
    }
    x.to_dtype(dtype)
}

/// Rows of `states` by number.
///
/// # Shapes
/// `states`: `(n, hidden_size)`; returns `(rows, hidden_size)`.
///
/// # Errors
/// When a row is not there or candle cannot allocate.
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

/// Numbers to a device, in one copy.
pub(super) fn to_device(values: Vec<u32>, device: &Device) -> Result<Tensor> {
    let count = values.len();
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::to_device(&values, count, device);
    }
    Tensor::from_vec(values, count, device)
}

/// The numbers of a tensor in row order, as f32. On a card, the caller waits until they are computed.
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
