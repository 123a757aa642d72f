//! Functions for host memory and GPUs alike: transfers, casts, sums, row selection.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::{self, CpuView};
use crate::error;

/// The elementwise sum, for example of a layer's output and its residual. `b` has the shape of `a`, or one that is broadcast to
/// it: that of its last dimensions.
///
/// candle's elementwise operations on a CPU divide a large tensor among threads of a pool that all workers share. They would wait for
/// each other, and the pool's threads would take the time of their batches. So this, [`mul`] and [`scale`] stay on their thread.
///
/// # Errors
/// When the shapes do not fit or candle cannot allocate.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::cuda::applies(a) && a.shape() == b.shape() {
        return super::cuda::add(a, b);
    }
    match zip_on_cpu(a, b, |a, b| a + b)? {
        Some(sum) => Ok(sum),
        None => a.broadcast_add(b),
    }
}

/// The elementwise product, with shapes as in [`add`].
///
/// # Errors
/// As [`add`].
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match zip_on_cpu(a, b, |a, b| a * b)? {
        Some(product) => Ok(product),
        None => a.broadcast_mul(b),
    }
}

/// `x · factor`, elementwise.
///
/// # Errors
/// When candle cannot allocate.
pub fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    if cpu::applies(x) && x.is_contiguous() {
        let factor = Tensor::new(factor as f32, x.device())?;
        return mul(x, &factor);
    }
    x * factor
}

/// Combines the elements of `a` with those of `b`, which is repeated. `None` where the kernels of `nn/cpu` do not apply.
fn zip_on_cpu(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Result<Option<Tensor>> {
    let is_plain = |x: &Tensor| cpu::applies(x) && x.is_contiguous();
    let last = &b.dims()[b.dims().iter().take_while(|n| **n == 1).count()..];
    if !is_plain(a) || !is_plain(b) || !a.dims().ends_with(last) || b.rank() > a.rank() {
        return Ok(None);
    }
    let (a_view, b_view) = (CpuView::new(a), CpuView::new(b));
    let lhs = &a_view.slice()?[..a.elem_count()];
    let rhs = &b_view.slice()?[..b.elem_count()];
    Tensor::from_vec(cpu::zip_repeated(lhs, rhs, f), a.shape(), a.device()).map(Some)
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

#[cfg(test)]
mod tests {
    use candle_core::Shape;

    use super::*;
    use crate::nn::random::randn;

    #[test]
    fn sums_and_products_are_those_of_candle() -> Result<()> {
        let random = |shape: Shape| randn(0f32, 1., shape, &Device::Cpu);
        // Large enough for candle to use its threads; broadcast rows, scalars, views and empty tensors.
        for (a, b) in [
            (vec![300, 257], vec![300, 257]),
            (vec![300, 257], vec![257]),
            (vec![3, 40, 7], vec![1, 40, 7]),
            (vec![3, 40, 7], vec![3, 1, 7]),
            (vec![4, 5], vec![]),
            (vec![4, 5], vec![1, 1]),
            (vec![0, 5], vec![5]),
            (vec![4, 0], vec![4, 0]),
        ] {
            let (a, b) = (random(a.into())?, random(b.into())?);
            for a in [a.clone(), a.transpose(0, 1)?.contiguous()?.transpose(0, 1)?] {
                let numbers = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
                assert_eq!(add(&a, &b)?.shape(), a.shape());
                assert_eq!(numbers(add(&a, &b)?)?, numbers(a.broadcast_add(&b)?)?);
                assert_eq!(numbers(mul(&a, &b)?)?, numbers(a.broadcast_mul(&b)?)?);
                assert_eq!(numbers(scale(&a, 0.37)?)?, numbers((&a * 0.37)?)?);
            }
        }
        assert!(add(&random((2, 3).into())?, &random((2, 4).into())?).is_err());
        assert!(add(&random(3.into())?, &random((2, 4).into())?).is_err());
        Ok(())
    }
}
