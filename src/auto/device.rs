//! Which device a model is on: `device` of `from_pretrained` and of a pipeline's models.

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};

/// The device that `auto` means: the first card where this build and this machine have one, else the CPU.
///
/// # Errors
/// As [`cuda_device`].
pub fn auto_device() -> Result<Device> {
    if cards() == 0 { Ok(Device::Cpu) } else { cuda_device(0) }
}

/// How many NVIDIA cards this build can compute on.
fn cards() -> usize {
    #[cfg(feature = "cuda")]
    return crate::nn::cuda::device_count();
    #[cfg(not(feature = "cuda"))]
    0
}

/// The NVIDIA card `ordinal`.
///
/// # Errors
/// `Unsupported` when this build or this machine does not have it.
#[cfg(feature = "cuda")]
pub fn cuda_device(ordinal: usize) -> Result<Device> {
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

/// The NVIDIA card `ordinal`.
///
/// # Errors
/// `Unsupported` when this build or this machine does not have it.
#[cfg(not(feature = "cuda"))]
pub fn cuda_device(ordinal: usize) -> Result<Device> {
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
        let error = cuda_device(99).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`cuda:99`"), "{error}");
        assert!(error.remedy().is_some_and(|hint| hint.contains("cpu")), "{error}");
        assert!(auto_device().is_ok());
        assert_eq!(auto_dtype(&Device::Cpu), candle_core::DType::F32);
    }
}
