//! A checkpoint's tensors by name; nothing is read until it is asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, ErrorKind, Result};

/// All tensors of a checkpoint, from one file or several.
pub struct Weights {
    shapes: BTreeMap<String, (Vec<usize>, Option<DType>)>,
    data: MmapedSafetensors,
}

impl Weights {
    /// Opens weight files and reads their tables of contents.
    ///
    /// # Errors
    /// `Model` when a file is damaged.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        // SAFETY: the files are not written while we run: they lie in a model directory or in the hub
        // cache, whose files are replaced, never changed in place.
        #[allow(unsafe_code)]
        let data = unsafe { MmapedSafetensors::multi(files) }
            .map_err(|e| Error::new(ErrorKind::Model, "cannot read weights").source(e))?;
        let shapes = data
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.shape().to_vec(), DType::try_from(view.dtype()).ok())))
            .collect();
        Ok(Self { shapes, data })
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// The shape of a tensor, if the checkpoint has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(name).map(|(shape, _)| shape.as_slice())
    }

    /// The dtype a tensor is stored in; `None` when it is missing or candle has no such dtype.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.shapes.get(name).and_then(|(_, dtype)| *dtype)
    }

    /// Reads a tensor and converts it to `dtype` on `device`.
    ///
    /// # Errors
    /// `Model` when the tensor is missing or damaged.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.data.load(name, device).and_then(|t| t.to_dtype(dtype)).map_err(|e| {
            Error::new(ErrorKind::Model, format!("cannot read tensor `{name}`")).source(e)
        })
    }
}
