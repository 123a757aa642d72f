//! NVIDIA GPUs: one device per card, our own kernels, products by cuBLASLt, and transfers to and from host memory.
//! Built with the feature `cuda`. Not here: what the numbers mean; see the layers of the folder above, which ask
//! `applies` and come here for half precision, and for f32 where that loses nothing. Candle's operations remain the
//! reference, and compute the rest of f32.
//!
//! # Kernels
//! cuBLASLt computes products, with the bias fused. Attention over ragged rows, norms with the residual, activations,
//! lookups, pooling and the append to a cache are kernels of our own (`*.cu`, embedded as text). NVRTC compiles them
//! for the card at first use. The sources include no header, so a machine needs no toolkit to run them.
//!
//! # One stream per card
//! The process has one candle device per card, so one stream: work runs in the order of submission. Weights that one
//! thread loads are visible to the others, memory is reused in that order, and cudarc's events between streams are
//! off. Several workers share a card: one batch is computed, one is queued behind it, one is copied out. They take
//! turns to submit ([`take_turn`]), because cuBLAS may pass partial sums between kernels in a workspace that all
//! threads share.
//!
//! Copies use page-locked memory of each thread: one copy for ids and lengths, one for results. `to_host` waits for
//! its own batch, not for those behind it. Ids are checked on the host, because an error reported by the card would
//! stall every thread.
//!
//! Several cards have their own weights, workers and turns; their workers take batches from one queue (`crate::engine`
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

/// How many cards there are; 0 without a driver.
pub fn device_count() -> usize {
    CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Card `ordinal`, the same device for everyone who asks: tensors of all models can meet, and share a stream.
///
/// # Errors
/// When there is no such card, or its driver does not answer.
pub fn device(ordinal: usize) -> Result<Device> {
    static DEVICES: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = devices.iter().find(|(known, _)| *known == ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: every tensor of this device is made, used and freed on its one stream, by candle and here.
        #[allow(unsafe_code, reason = "events would only order the stream with itself")]
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    devices.push((ordinal, device.clone()));
    Ok(device)
}

/// Bytes of a card's memory that are free, and all of them.
///
/// # Errors
/// When the device is no card, or its driver does not answer.
pub fn memory(device: &Device) -> Result<(usize, usize)> {
    card(device)?.cuda_stream().context().mem_get_info().w()
}

/// The first compute capability with bf16, and with copies that go on by themselves.
const AMPERE: (i32, i32) = (8, 0);

/// Whether the card computes in bf16: those before Ampere do not.
///
/// # Errors
/// As [`memory`].
pub fn has_bf16(device: &Device) -> Result<bool> {
    Ok(compute_capability(card(device)?)? >= AMPERE)
}

/// Whether kernels of this folder apply: half precision, or f32, on a card.
pub(super) fn applies(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && dtype_number(tensor.dtype()).is_some()
}

fn is_half(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F16 | DType::BF16)
}

/// `DTYPE` in the kernels' sources.
fn dtype_number(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        _ => None,
    }
}

/// The kernels over rows and elements of this dtype.
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

/// What a card has been given so far: compiled kernels, and cuBLASLt with its workspace.
struct Card {
    modules: Mutex<HashMap<Source, Arc<CudaModule>>>,
    blas: Mutex<CudaBlasLT>,
}

/// A source of kernels with what it is compiled for.
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
    /// Of this device; made when it is first asked for.
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
    /// An address in the card's memory; 0 for none.
    Pointer(u64),
    Int(i32),
    Count(u64),
    Float(f32),
}

/// Hands a kernel to the card's stream.
///
/// # Safety
/// The arguments must be those of the kernel, its addresses must be of memory that is large enough for what it does
/// there, and nothing may be freed before the launch is handed in.
#[allow(unsafe_code, reason = "a kernel reads and writes wherever its arguments say")]
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
    // SAFETY: the caller's promise.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Read access to a tensor of a card.
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
            _ => bail!("bug: expected a tensor on a card"),
        }
    }

    /// The address of the tensor's first number.
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

    /// The numbers of a tensor without gaps.
    fn slice<T: CudaDType>(&self) -> Result<driver::CudaView<'_, T>> {
        let start = self.layout.start_offset();
        let count = self.layout.shape().elem_count();
        Ok(self.storage()?.as_cuda_slice::<T>()?.slice(start..start + count))
    }

    /// Numbers from one row to the next, of a matrix whose rows have no gaps.
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

/// A tensor of numbers that nobody has written yet.
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
    // SAFETY: whoever asks for it hands it to a kernel that writes all of it before anything reads it.
    #[allow(unsafe_code, reason = "zeros would be written for nothing")]
    let slice = unsafe { device.alloc::<T>(count) }?;
    Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
}
