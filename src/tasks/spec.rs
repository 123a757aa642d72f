//! The model and the images of a step, as the pipeline declares them.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::RgbImage;
use crate::limits;

/// A model, as the pipeline declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Hub id (`org/name`; for a GGUF file `org/name:Q4_K_M` or `org/name/file.gguf`), or the absolute path of a local
    /// directory or a GGUF file.
    pub repo: String,
    /// Branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// A LoRA adapter that is merged into the weights: a hub id, or the absolute path of a local directory.
    pub adapter: Option<String>,
    /// The dtype of the computation.
    pub dtype: Dtype,
    /// The device of the computation.
    pub device: DeviceSpec,
    /// Overrides of `config.json`, as in `from_pretrained(..., config=...)`.
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl ModelSpec {
    /// The model with this hub id or absolute directory, with defaults for everything else.
    pub fn of_repo(repo: impl Into<String>) -> Self {
        Self {
            repo: repo.into(),
            revision: None,
            adapter: None,
            dtype: Dtype::Auto,
            device: DeviceSpec::Auto,
            config: serde_json::Map::new(),
        }
    }
}

/// The dtype of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f32 on a CPU, bf16 on a GPU (f16 on a GPU without bf16).
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, on a GPU.
    F16,
    /// bfloat16; on a CPU, weights are stored in bf16 and the computation is in f32.
    Bf16,
    /// Dynamic int8 quantization of the linear layers, on a CPU: faster, a quarter of the memory, close to f32.
    Int8,
}

impl Dtype {
    /// The name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// `device` of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// All GPUs if the build and the machine have any, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU with this ordinal.
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
    /// The device that pipeline files and flags name so; `None` if there is no such name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            _ => Self::cuda_ordinal(name).map(Self::Cuda),
        }
    }

    /// The ordinal of the GPU that `cuda` (the first one) or `cuda:N` names; `None` for any other text.
    pub fn cuda_ordinal(text: &str) -> Option<usize> {
        match text.strip_prefix("cuda")?.strip_prefix(':') {
            None if text == "cuda" => Some(0),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        }
    }
}

/// The limits on images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesSpec {
    /// The absolute folder that image paths must lie in; `None` allows any path.
    pub root: Option<PathBuf>,
    /// The maximum number of pixels per image.
    pub max_pixels: u64,
    /// The maximum size of an image file in bytes.
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
