//! The dtype of a model's computation, and the supported combinations: `dtype` of `from_pretrained` and of a
//! pipeline's models.

use candle_core::{DType, Device};

use super::config::AutoConfig;
use super::families::FAMILIES;
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result};
use crate::models::{Backbone, Head};
use crate::nn::Precision;

/// The dtype of a model's computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelDtype {
    /// Floating point.
    Float(DType),
    /// Dynamic int8 quantization of an encoder's linear layers: static weight scales per output feature, dynamic
    /// activation scales per token. Attention is computed in bf16 if the processor supports it; everything else,
    /// heads and poolers included, in f32.
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

    /// The dtype of loaded tensors.
    pub fn tensors(self) -> DType {
        match self {
            Self::Float(dtype) => dtype,
            Self::Int8 => DType::F32,
        }
    }

    /// The precision of the layers.
    pub(super) fn precision(self) -> Precision {
        match self {
            Self::Float(_) => Precision::Full,
            Self::Int8 => Precision::Int8,
        }
    }

    /// The dtype of the computation on `device`; by default f32. A CPU supports f32 and int8: candle has no bf16
    /// matrix products there, and f16 is slower and less accurate.
    ///
    /// # Errors
    /// `Unsupported` if the device, the family or the Auto class does not support it.
    pub fn computable(
        wish: Option<Self>,
        device: &Device,
        config: &AutoConfig,
        class: AutoClass,
    ) -> Result<Self> {
        let dtype = wish.unwrap_or(Self::Float(DType::F32));
        let is_known = match dtype {
            Self::Int8 => {
                config.require_int8(class)?;
                device.is_cpu()
            }
            Self::Float(DType::F32) => true,
            Self::Float(float) => !device.is_cpu() && matches!(float, DType::F16 | DType::BF16),
        };
        if is_known {
            return Ok(dtype);
        }
        let place = if device.is_cpu() { "a CPU" } else { "this device" };
        let error = Error::new(
            ErrorKind::Unsupported,
            format!("dtype `{}` is not implemented on {place}", dtype.as_str()),
        );
        Err(error.hint("use `f32`; narrower weights are widened when they are loaded"))
    }

    /// Packs every linear layer of a loaded model for the device, and returns how many parameters are then in
    /// int8.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub(super) fn pack(
        self,
        backbone: &mut dyn Backbone,
        head: Option<&mut Head>,
    ) -> candle_core::Result<u64> {
        let precision = self.precision();
        let mut in_int8 = 0;
        for layer in backbone.linear_layers() {
            layer.pack(precision)?;
            in_int8 += layer.int8_parameters() as u64;
        }
        let in_full = head.into_iter().flat_map(Head::linear_layers);
        for layer in in_full.chain(backbone.pooler_layer()) {
            layer.pack(Precision::Full)?;
        }
        Ok(in_int8)
    }
}

impl AutoConfig {
    /// Checks, without weights, that `class` of this model supports int8.
    ///
    /// # Errors
    /// `Unsupported` for a family that does not support it, or a model that generates.
    pub fn require_int8(&self, class: AutoClass) -> Result<()> {
        let family = self.family();
        let generates = matches!(class, AutoClass::CausalLM | AutoClass::Seq2SeqLM);
        if family.int8 && !generates {
            return Ok(());
        }
        let what = if family.int8 {
            format!("`{class}`")
        } else {
            format!("model_type `{}`", family.model_type)
        };
        let with: Vec<&str> =
            FAMILIES.iter().filter(|family| family.int8).map(|family| family.model_type).collect();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("dtype `int8` is not implemented for {what}"),
        )
        .hint(format!(
            "use `f32`; `int8` is for encoders that do not generate text: {}",
            with.join(", ")
        )))
    }
}
