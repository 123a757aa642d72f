//! The device of a model: `device` of `from_pretrained` and of a pipeline's models.

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};

/// The devices for `auto`: all GPUs of the build and the machine, each with a copy of the model, else the CPU.
/// `CUDA_VISIBLE_DEVICES` hides GPUs from the driver, and therefore from here.
///
/// # Errors
/// As [`cuda_device`].
pub fn auto_devices() -> Result<Vec<Device>> {
    match gpu_count() {
        0 => Ok(vec![Device::Cpu]),
        cards => (0..cards).map(cuda_device).collect(),
    }
}

/// The number of NVIDIA GPUs that this build can use.
fn gpu_count() -> usize {
    #[cfg(feature = "cuda")]
    return crate::nn::cuda::device_count();
    #[cfg(not(feature = "cuda"))]
    0
}

/// The NVIDIA GPU `ordinal`.
///
/// # Errors
/// `Unsupported` if the build or the machine does not have it.
#[cfg(feature = "cuda")]
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    let count = gpu_count();
    let message = match count {
        0 => format!("there is no device `cuda:{ordinal}`: found no NVIDIA GPU with a driver"),
        _ => format!(
            "there is no device `cuda:{ordinal}`: GPUs are numbered from 0 to {}",
            count - 1
        ),
    };
    let error = || Error::new(ErrorKind::Unsupported, message).hint("use `cpu` or `auto`");
    if ordinal >= count {
        return Err(error());
    }
    crate::nn::cuda::device(ordinal).map_err(|e| {
        Error::new(ErrorKind::Unsupported, format!("cannot initialize device `cuda:{ordinal}`"))
            .source(e)
            .hint("use `cpu`, or check `nvidia-smi`")
    })
}

/// The NVIDIA GPU `ordinal`.
///
/// # Errors
/// `Unsupported` if the build or the machine does not have it.
#[cfg(not(feature = "cuda"))]
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    let message = format!("device `cuda:{ordinal}`: this program was built without CUDA");
    Err(Error::new(ErrorKind::Unsupported, message)
        .hint("use `cpu` or `auto`, or build with `--features cuda`"))
}

/// The dtype for `auto` on devices of one kind: f32 on a CPU, bf16 on GPUs, f16 if a GPU lacks bf16.
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
