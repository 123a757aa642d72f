//! The dtype of a model's computation, and the supported combinations: `dtype` of `from_pretrained` and of a
//! pipeline's models.

use candle_core::{DType, Device};

use super::config::AutoConfig;
use super::families::FAMILIES;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::Precision;

/// The dtype of a model's computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelDtype {
    /// Floating point. On a CPU, `BF16` is the form of the weights of linear layers and of word embeddings. Linear layers, and
    /// attention of encoders, multiply in bf16 with sums in f32 if the processor supports it; otherwise weights are widened in
    /// each product. Everything else is f32.
    Float(DType),
    /// Dynamic int8 quantization of the linear layers, on a CPU: static weight scales per output feature, dynamic
    /// activation scales per token. The head over the vocabulary of a model that generates is quantized, too; word
    /// embeddings that it shares are dequantized by row. Attention of encoders is computed in bf16 if the processor supports
    /// it; everything else, other heads and poolers included, in f32.
    Int8,
}

impl From<DType> for ModelDtype {
    fn from(dtype: DType) -> Self {
        Self::Float(dtype)
    }
}

impl ModelDtype {
    /// Its name in pipelines, reports and lineage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float(dtype) => dtype.as_str(),
            Self::Int8 => "int8",
        }
    }

    /// The dtype of tensors on `device`: of hidden states, and of weights other than those of linear layers.
    pub fn tensors(self, device: &Device) -> DType {
        match self {
            Self::Float(DType::BF16) if device.is_cpu() => DType::F32,
            Self::Float(dtype) => dtype,
            Self::Int8 => DType::F32,
        }
    }

    /// The precision of the layers on `device`.
    pub(super) fn precision(self, device: &Device) -> Precision {
        match self {
            Self::Float(DType::BF16) if device.is_cpu() => Precision::Bf16,
            Self::Float(_) => Precision::Full,
            Self::Int8 => Precision::Int8,
        }
    }

    /// The dtype of the computation on `device`; by default f32. A CPU supports f32, bf16 and int8, but not f16: few
    /// processors multiply it, and checkpoints in f16 are widened to f32 without loss.
    ///
    /// # Errors
    /// `Unsupported` if the device or the family does not support it.
    pub fn computable(wish: Option<Self>, device: &Device, config: &AutoConfig) -> Result<Self> {
        let dtype = wish.unwrap_or(Self::Float(DType::F32));
        let is_known = match dtype {
            Self::Int8 => {
                config.require_int8()?;
                device.is_cpu()
            }
            Self::Float(DType::F32 | DType::BF16) => true,
            Self::Float(float) => !device.is_cpu() && float == DType::F16,
        };
        if is_known {
            return Ok(dtype);
        }
        let place = if device.is_cpu() { "a CPU" } else { "this device" };
        let error = Error::new(
            ErrorKind::Unsupported,
            format!("dtype `{}` is not implemented on {place}", dtype.as_str()),
        );
        let hint = if device.is_cpu() {
            "use `f32`, which widens narrower weights when they are loaded, `bf16` or `int8`"
        } else {
            "use `bf16`, `f16` or `f32`"
        };
        Err(error.hint(hint))
    }
}

impl AutoConfig {
    /// Checks, without weights, that the model supports int8.
    ///
    /// # Errors
    /// `Unsupported` for a family that does not support it.
    pub fn require_int8(&self) -> Result<()> {
        let family = self.family();
        if family.int8 {
            return Ok(());
        }
        let without: Vec<&str> =
            FAMILIES.iter().filter(|family| !family.int8).map(|family| family.model_type).collect();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("dtype `int8` is not implemented for model_type `{}`", family.model_type),
        )
        .hint(format!(
            "use `f32` or `bf16`; every model_type supports `int8`, except {}",
            without.join(", ")
        )))
    }
}
