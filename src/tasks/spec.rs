//! The model and the images of a step, as a pipeline names them.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::image::RgbImage;
use crate::limits;

/// A model as a pipeline names it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Hub id (`org/name`), or the absolute path of a local directory.
    pub repo: String,
    /// Branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// The dtype to compute in.
    pub dtype: Dtype,
    /// The device to compute on.
    pub device: DeviceSpec,
    /// Overrides of `config.json`, as in `from_pretrained(..., config=...)`.
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl ModelSpec {
    /// The model of a hub id or an absolute directory, with defaults for everything else.
    pub fn of_repo(repo: impl Into<String>) -> Self {
        Self {
            repo: repo.into(),
            revision: None,
            dtype: Dtype::Auto,
            device: DeviceSpec::Auto,
            config: serde_json::Map::new(),
        }
    }
}

/// The dtype that a model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f32 on a CPU, bf16 on a GPU (f16 where the card lacks it).
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats, on a GPU.
    F16,
    /// 16-bit brain floats, on a GPU.
    Bf16,
    /// 8-bit integers in the linear layers of an encoder, rounded while it runs: faster, close to f32.
    Int8,
}

/// `device` of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The best devices that this build and machine have: all cards, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA card of this number.
    Cuda(usize),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceSpec {
    /// The number of the card that `cuda` (the first one) or `cuda:N` means; `None` for any other text.
    pub fn cuda_ordinal(text: &str) -> Option<usize> {
        match text.strip_prefix("cuda")?.strip_prefix(':') {
            None if text == "cuda" => Some(0),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        }
    }
}

/// The restrictions on images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesSpec {
    /// The absolute folder that image paths must lie in; `None` allows any path.
    pub root: Option<PathBuf>,
    /// The most pixels of an image.
    pub max_pixels: u64,
    /// The largest image file, in bytes.
    pub max_file_bytes: u64,
}

impl Default for ImagesSpec {
    fn default() -> Self {
        Self {
            root: None,
            max_pixels: RgbImage::MAX_PIXELS,
            max_file_bytes: limits::IMAGE_FILE_BYTES,
        }
    }
}
