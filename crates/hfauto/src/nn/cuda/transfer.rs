//! Transfers between host memory and a GPU through page-locked memory. A copy from or to pageable memory waits for all
//! work that any thread has submitted before.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, PinnedHostSlice};

use super::turn::{pause, resume};
use super::{
    BackpropOp, CudaDType, CudaDevice, CudaStorage, CudaView, DType, Device, DeviceRepr, Result,
    Shape, Storage, Tensor, WrapErr, bail, bf16, card, f16,
};

/// Page-locked memory of a thread, reused across batches, because allocating it costs more than copying.
struct Staging {
    context: Arc<CudaContext>,
    words: PinnedHostSlice<u32>,
    /// Recorded after the copy to the GPU: once it completes, the words may be overwritten.
    read: Option<CudaEvent>,
}

impl Staging {
    /// The words, once no copy uses them.
    fn words(&mut self) -> Result<&mut [u32]> {
        if let Some(read) = self.read.take() {
            read.synchronize().w()?;
        }
        self.words.as_mut_slice().w()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The next call reports errors of the GPU too.
        let _ = self.words();
    }
}

/// The minimum number of words per thread.
const MIN_WORDS: usize = 1 << 16;

thread_local! {
    static STAGING: RefCell<Option<Staging>> = const { RefCell::new(None) };
}

/// Calls `f` with this thread's staging memory of at least `count` words.
fn staged<T>(
    device: &CudaDevice,
    count: usize,
    f: impl FnOnce(&mut Staging) -> Result<T>,
) -> Result<T> {
    let context = Arc::clone(device.cuda_stream().context());
    STAGING.with(|staging| {
        let mut staging = staging.borrow_mut();
        let fits = |staging: &Staging| {
            Arc::ptr_eq(&staging.context, &context) && staging.words.len() >= count
        };
        if !staging.as_ref().is_some_and(fits) {
            let words = count.next_power_of_two().max(MIN_WORDS);
            // SAFETY: the words are written before they are read: by `to_device`, or by the copy in `to_host`.
            #[allow(unsafe_code, reason = "page-locked memory is allocated uninitialized")]
            let words = unsafe { context.alloc_pinned_with_flags(words, 0) }.w()?;
            *staging = Some(Staging { context: Arc::clone(&context), words, read: None });
        }
        match staging.as_mut() {
            Some(staging) => f(staging),
            None => bail!("bug: no staging memory"),
        }
    })
}

/// Copies numbers to a GPU in one transfer.
///
/// # Errors
/// When the GPU is out of memory.
pub(in crate::nn) fn to_device(
    values: &[u32],
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    resume();
    let (shape, device) = (shape.into(), card(device)?);
    if shape.elem_count() != values.len() {
        bail!("bug: {} numbers for {shape:?}", values.len());
    }
    let stream = device.cuda_stream();
    if values.is_empty() {
        return Tensor::zeros(shape, DType::U32, &Device::Cuda(device.clone()));
    }
    let slice = staged(device, values.len(), |staging| {
        let words = &mut staging.words()?[..values.len()];
        words.copy_from_slice(values);
        // SAFETY: the copy writes every element.
        #[allow(unsafe_code, reason = "zeroing would be wasted work")]
        let mut slice = unsafe { device.alloc::<u32>(values.len()) }?;
        stream.memcpy_htod(&*words, &mut slice).w()?;
        // No wait here: the GPU may be busy with another thread's batch.
        staging.read = Some(stream.record_event(None).w()?);
        Ok(slice)
    })?;
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// The elements of an f32 tensor, once the GPU has computed them. Does not wait for work that other threads submitted
/// later.
///
/// # Errors
/// When earlier work has failed on the GPU.
pub(in crate::nn) fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    if tensor.dtype() != DType::F32 {
        bail!("bug: {:?} to host memory as f32", tensor.dtype());
    }
    let (tensor, device) = (tensor.contiguous()?, card(tensor.device())?);
    let stream = device.cuda_stream();
    let view = CudaView::new(&tensor);
    let count = tensor.elem_count();
    if count == 0 {
        return Ok(Vec::new());
    }
    let slice = view.slice::<f32>()?;
    staged(device, count, |staging| {
        let words = &mut staging.words()?[..count];
        // SAFETY: any four bytes are valid for both types, which have the same size and alignment.
        #[allow(unsafe_code, reason = "the page-locked memory holds both u32 and f32")]
        let words = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), count) };
        stream.memcpy_dtoh(&slice, words).w()?;
        let written = stream.record_event(None).w()?;
        pause();
        written.synchronize().w()?;
        Ok(words.to_vec())
    })
}

/// A tensor of `capacity` rows. The first `len` are copied from `x`; the rest is uninitialized.
///
/// # Errors
/// When the GPU is out of memory.
pub(in crate::nn) fn grown(x: &Tensor, len: usize, capacity: usize) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 => copy_rows::<f16>(x, len, capacity),
        DType::BF16 => copy_rows::<bf16>(x, len, capacity),
        dtype => bail!("bug: a cache of {dtype:?}"),
    }
}

fn copy_rows<T: CudaDType + DeviceRepr>(x: &Tensor, len: usize, capacity: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if len > rows.min(capacity) {
        bail!("bug: {len} rows of {rows} into {capacity}");
    }
    let (x, device) = (x.contiguous()?, card(x.device())?);
    let view = CudaView::new(&x);
    // SAFETY: `append` writes the remaining rows before they are read.
    #[allow(unsafe_code, reason = "zeroing would be wasted work")]
    let mut slice = unsafe { device.alloc::<T>(capacity * width) }?;
    if len * width > 0 {
        let from = view.slice::<T>()?.slice(..len * width);
        device.memcpy_dtod(&from, &mut slice.slice_mut(..len * width))?;
    }
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
    Ok(Tensor::from_storage(storage, (capacity, width), BackpropOp::none(), false))
}
