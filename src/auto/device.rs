//! Which device a model is on: `device` of `from_pretrained` and of a pipeline's models.

use candle_core::Device;

use crate::config::pipeline::DeviceSpec;
use crate::error::{Error, ErrorKind, Result};

impl DeviceSpec {
    /// The device. `auto` is the first card where this build and this machine have one, else the CPU.
    ///
    /// # Errors
    /// `Unsupported` when a card is asked for that this build or this machine does not have.
    pub fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if cards() == 0 => Ok(Device::Cpu),
            Self::Auto => cuda(0),
            Self::Cuda(ordinal) => cuda(ordinal),
        }
    }
}

/// How many NVIDIA cards this build can compute on.
fn cards() -> usize {
    #[cfg(feature = "cuda")]
    return crate::nn::cuda::device_count();
    #[cfg(not(feature = "cuda"))]
    0
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    let count = cards();
    let message = match count {
        0 => format!("there is no device `cuda:{ordinal}`: no NVIDIA card with a driver was found"),
        _ => format!(
            "there is no device `cuda:{ordinal}`: cards are numbered from 0 to {}",
            count - 1
        ),
    };
    let error = || Error::new(ErrorKind::Unsupported, message).hint("use `cpu` or `auto`");
    if ordinal >= count {
        return Err(error());
    }
    crate::nn::cuda::device(ordinal).map_err(|e| {
        Error::new(ErrorKind::Unsupported, format!("device `cuda:{ordinal}` does not start"))
            .source(e)
            .hint("use `cpu`, or look at `nvidia-smi`")
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    let message = format!("device `cuda:{ordinal}`: this program was built without CUDA");
    Err(Error::new(ErrorKind::Unsupported, message)
        .hint("use `cpu` or `auto`, or build it with `--features cuda`"))
}

/// What `dtype: auto` is on a device: f32 on a CPU, bf16 on a card, f16 where the card lacks it.
pub fn auto_dtype(device: &Device) -> candle_core::DType {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let has_bf16 = crate::nn::cuda::has_bf16(device).unwrap_or(false);
        return if has_bf16 { candle_core::DType::BF16 } else { candle_core::DType::F16 };
    }
    let _ = device;
    candle_core::DType::F32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_not_there_is_an_error_with_a_way_out() {
        let error = DeviceSpec::Cuda(99).device().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`cuda:99`"), "{error}");
        assert!(error.remedy().is_some_and(|hint| hint.contains("cpu")), "{error}");
        assert!(DeviceSpec::Cpu.device().unwrap().is_cpu());
        assert!(DeviceSpec::Auto.device().is_ok());
        assert_eq!(auto_dtype(&Device::Cpu), candle_core::DType::F32);
    }
}
