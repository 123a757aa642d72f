//! Which device a model is on: `device` of `from_pretrained` and of a pipeline's models.

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};

/// The devices that `auto` means: all cards that this build and this machine have, each with a copy of the model, else the
/// CPU. `CUDA_VISIBLE_DEVICES` hides cards from the driver, and so from here.
///
/// # Errors
/// As [`cuda_device`].
pub fn auto_devices() -> Result<Vec<Device>> {
    match cards() {
        0 => Ok(vec![Device::Cpu]),
        cards => (0..cards).map(cuda_device).collect(),
    }
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

/// What `dtype: auto` is on devices of one kind: f32 on CPUs, bf16 on cards, f16 where one of them lacks it.
pub fn auto_dtype(devices: &[Device]) -> candle_core::DType {
    #[cfg(feature = "cuda")]
    if devices.iter().any(Device::is_cuda) {
        let has_bf16 = |device| crate::nn::cuda::has_bf16(device).unwrap_or(false);
        let all_have = devices.iter().all(has_bf16);
        return if all_have { candle_core::DType::BF16 } else { candle_core::DType::F16 };
    }
    let _ = devices;
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
        assert!(auto_devices().is_ok_and(|devices| !devices.is_empty()));
        assert_eq!(auto_dtype(&[Device::Cpu]), candle_core::DType::F32);
    }
}
