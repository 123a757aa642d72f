//! NVIDIA GPUs: one device per GPU, custom kernels, products with cuBLASLt, and transfers to and from host memory.
//! Built with the feature `cuda`.
//!
//! Not here: the layers (`crate::nn`), which check `applies` and use these kernels for half precision, and for f32
//! where that loses no precision. Candle's operations are the reference, and compute the rest of f32.
//!
//! # Kernels
//! cuBLASLt computes products with a fused bias. Custom kernels (`*.cu`, embedded as text) compute attention over
//! ragged rows, norms with a residual, activations, lookups, pooling and the append to a KV cache. NVRTC compiles them
//! for the GPU at first use. The sources include no headers, so a machine needs no CUDA toolkit to run them.
//!
//! # One stream per GPU
//! The process has one candle device per GPU, and therefore one stream: work runs in the order of submission. Weights
//! loaded by one thread are visible to the others, memory is reused in stream order, and cudarc's cross-stream events
//! are off.
//!
//! Several workers share a GPU, so that one batch is computed, one is queued, and one is copied out. They take turns to
//! submit work ([`take_turn`]), because cuBLAS may pass partial sums between kernels in a workspace that all threads
//! share.
//!
//! Copies use page-locked memory of each thread: one copy for ids and lengths, one for results. `to_host` waits for its
//! own batch, not for later ones. Ids are checked on the host, because reporting an error from the GPU would stall
//! every thread.
//!
//! Each GPU has its own weights, workers and turns. The workers of all GPUs take batches from one queue (`crate::exec`
//! of hfauto-pipe, which also halves a batch that does not fit).

mod attention;
mod rows;
mod transfer;
mod turn;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use candle_core::cuda_backend::cudarc::driver::{
    self, CudaContext, CudaFunction, CudaModule, CudaSlice, DevicePtr, DeviceRepr, LaunchConfig,
    PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, StorageRef, Tensor,
    bail,
};
use half::{bf16, f16};

pub(super) use attention::{KeyRows, RowTable, append, attention, can_append, can_attend};
pub(super) use rows::{activate, add, linear, lookup, normalize, pool, unit_rows, widen};
pub(super) use transfer::{grown, to_device, to_host};
pub(super) use turn::resume;
pub use turn::{Turn, take_turn};

/// The number of GPUs; 0 without a driver.
pub fn device_count() -> usize {
    CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// The device of GPU `ordinal`. Every call returns the same device, so tensors of all models are compatible and share a
/// stream.
///
/// # Errors
/// When there is no such GPU, or its driver does not respond.
pub fn device(ordinal: usize) -> Result<Device> {
    static DEVICES: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = devices.iter().find(|(known, _)| *known == ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: candle and this module create, use and free every tensor of this device on its one stream.
        #[allow(unsafe_code, reason = "events would only order the stream with itself")]
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    devices.push((ordinal, device.clone()));
    Ok(device)
}

/// The free and the total memory of a GPU, in bytes.
///
/// # Errors
/// When the device is not a GPU, or its driver does not respond.
pub fn memory(device: &Device) -> Result<(usize, usize)> {
    card(device)?.cuda_stream().context().mem_get_info().w()
}

/// The first compute capability with bf16 and asynchronous copies to shared memory.
const AMPERE: (i32, i32) = (8, 0);

/// Whether the GPU supports bf16; GPUs before Ampere do not.
///
/// # Errors
/// As [`memory`].
pub fn has_bf16(device: &Device) -> Result<bool> {
    Ok(compute_capability(card(device)?)? >= AMPERE)
}

/// Whether the kernels of this folder apply: f32 or half precision, on a GPU.
pub(super) fn applies(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && dtype_number(tensor.dtype()).is_some()
}

fn is_half(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F16 | DType::BF16)
}

/// The value of `DTYPE` in the kernels' sources.
fn dtype_number(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        _ => None,
    }
}

/// The kernels over rows and elements for this dtype.
fn elementwise(dtype: DType) -> Result<Source> {
    match dtype_number(dtype) {
        Some(dtype) => Ok(Source::Elementwise { dtype }),
        None => bail!("bug: no kernel takes {dtype:?}"),
    }
}

fn card(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(cuda) => Ok(cuda),
        _ => bail!("bug: expected a CUDA device, found {device:?}"),
    }
}

fn compute_capability(card: &CudaDevice) -> Result<(i32, i32)> {
    card.cuda_stream().context().compute_capability().w()
}

/// Per-GPU state: compiled kernels, and cuBLASLt with its workspace.
struct Card {
    modules: Mutex<HashMap<Source, Arc<CudaModule>>>,
    blas: Mutex<CudaBlasLT>,
}

/// A kernel source and its compile-time parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Elementwise { dtype: usize },
    Attention { dtype: usize, head_dim: usize, warps: usize, keys: usize },
}

impl Source {
    fn text(&self) -> &'static str {
        match self {
            Self::Elementwise { .. } => include_str!("elementwise.cu"),
            Self::Attention { .. } => include_str!("attention.cu"),
        }
    }

    fn definitions(&self) -> Vec<String> {
        match self {
            Self::Elementwise { dtype } => vec![format!("-DDTYPE={dtype}")],
            Self::Attention { dtype, head_dim, warps, keys } => vec![
                format!("-DDTYPE={dtype}"),
                format!("-DHEAD_DIM={head_dim}"),
                format!("-DWARPS={warps}"),
                format!("-DKEYS={keys}"),
            ],
        }
    }

    fn compile(&self, card: &CudaDevice) -> Result<Arc<CudaModule>> {
        let (major, minor) = compute_capability(card)?;
        let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
        options.extend(self.definitions());
        let options = CompileOptions { options, ..CompileOptions::default() };
        let ptx = compile_ptx_with_opts(self.text(), options).w()?;
        card.cuda_stream().context().load_module(ptx).w()
    }
}

impl Card {
    /// The state of this device, created on first use.
    fn of(device: &CudaDevice) -> Result<Arc<Self>> {
        type Cards = Vec<(candle_core::cuda_backend::DeviceId, Arc<Card>)>;
        static CARDS: Mutex<Cards> = Mutex::new(Vec::new());
        let mut cards = CARDS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, card)) = cards.iter().find(|(id, _)| *id == device.id()) {
            return Ok(Arc::clone(card));
        }
        let blas = CudaBlasLT::new(device.cuda_stream())
            .map_err(|error| candle_core::Error::wrap(error).context("cuBLASLt"))?;
        let card = Arc::new(Self { modules: Mutex::default(), blas: Mutex::new(blas) });
        cards.push((device.id(), Arc::clone(&card)));
        Ok(card)
    }

    fn function(&self, device: &CudaDevice, source: Source, name: &str) -> Result<CudaFunction> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&source) {
            return module.load_function(name).w();
        }
        let module = source.compile(device)?;
        let function = module.load_function(name).w()?;
        modules.insert(source, module);
        Ok(function)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
enum Arg {
    /// An address in the GPU's memory; 0 for none.
    Pointer(u64),
    Int(i32),
    Count(u64),
    Float(f32),
}

/// Launches a kernel on the GPU's stream.
///
/// # Safety
/// The arguments must match the kernel's parameters. Its addresses must point to memory large enough for its accesses.
/// Nothing may be freed before the launch is submitted.
#[allow(unsafe_code, reason = "a kernel reads and writes wherever its arguments point")]
unsafe fn launch(
    device: &CudaDevice,
    source: Source,
    name: &str,
    (grid, block): ((u32, u32, u32), u32),
    args: &[Arg],
) -> Result<()> {
    let function = Card::of(device)?.function(device, source, name)?;
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    for arg in args {
        match arg {
            Arg::Pointer(value) | Arg::Count(value) => builder.arg(value),
            Arg::Int(value) => builder.arg(value),
            Arg::Float(value) => builder.arg(value),
        };
    }
    let config = LaunchConfig { grid_dim: grid, block_dim: (block, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: guaranteed by the caller.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Read access to a tensor on a GPU.
struct CudaView<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> CudaView<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    fn storage(&self) -> Result<&CudaStorage> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage),
            _ => bail!("bug: expected a tensor on a GPU"),
        }
    }

    /// The address of the tensor's first element.
    fn pointer(&self) -> Result<u64> {
        let storage = self.storage()?;
        let base = match &storage.slice {
            CudaStorageSlice::F32(slice) => address(slice),
            CudaStorageSlice::F16(slice) => address(slice),
            CudaStorageSlice::BF16(slice) => address(slice),
            CudaStorageSlice::U32(slice) => address(slice),
            CudaStorageSlice::I64(slice) => address(slice),
            _ => bail!("bug: no kernel takes {:?}", storage.dtype()),
        };
        Ok(base + (self.layout.start_offset() * storage.dtype().size_in_bytes()) as u64)
    }

    /// The elements of a contiguous tensor.
    fn slice<T: CudaDType>(&self) -> Result<driver::CudaView<'_, T>> {
        let start = self.layout.start_offset();
        let count = self.layout.shape().elem_count();
        Ok(self.storage()?.as_cuda_slice::<T>()?.slice(start..start + count))
    }

    /// The row stride, in elements, of a matrix with contiguous rows.
    fn row_stride(&self) -> Result<usize> {
        match (self.layout.dims(), self.layout.stride()) {
            ([rows, _], [stride, 1]) if *rows > 0 => Ok(*stride),
            (dims, stride) => bail!("bug: rows of {dims:?} have strides {stride:?}"),
        }
    }
}

fn address<T: DeviceRepr>(slice: &CudaSlice<T>) -> u64 {
    let (address, _) = slice.device_ptr(slice.stream());
    address
}

/// An uninitialized tensor.
fn empty(device: &CudaDevice, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.elem_count();
    let storage = match dtype {
        DType::F32 => allocate::<f32>(device, count)?,
        DType::F16 => allocate::<f16>(device, count)?,
        DType::BF16 => allocate::<bf16>(device, count)?,
        DType::U32 => allocate::<u32>(device, count)?,
        DType::I64 => allocate::<i64>(device, count)?,
        _ => bail!("bug: no kernel writes {dtype:?}"),
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

fn allocate<T: CudaDType + DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaStorage> {
    // SAFETY: callers pass it to a kernel that writes every element before anything reads it.
    #[allow(unsafe_code, reason = "zeroing would be wasted work")]
    let slice = unsafe { device.alloc::<T>(count) }?;
    Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
}
