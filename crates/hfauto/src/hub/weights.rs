//! A checkpoint's tensors by name, read on demand. Not here: their use (`crate::models`).
//!
//! The content of a file determines its format: safetensors, the zip and the legacy format of `torch.save`, GGUF, or a
//! shard index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::delta::Delta;
use super::gguf;
use super::layout::{Element, Fault, Stored};
use super::shards::ShardIndex;
use super::source::WeightFile;
use super::torch;
use crate::blocks::BlockFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::limits;

const AGAIN: &str = "download the file again";

/// All tensors of a checkpoint, from one file or several.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, (usize, Stored)>,
    /// What an adapter adds to tensors.
    deltas: BTreeMap<String, Delta>,
}

impl Weights {
    /// Opens weight files and reads their tensor tables.
    ///
    /// A path that ends with `.index.json` is a shard index. Its shards are opened as well, and every tensor in the
    /// index must be in its shard.
    ///
    /// # Errors
    /// `Model` when a file is missing, damaged or of an unknown format, when a pickle names anything but tensors, or
    /// when two files contain the same tensor.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut indexes = Vec::new();
        for path in files {
            if path.to_str().is_some_and(|path| path.ends_with(".index.json")) {
                let index = ShardIndex::read(path)?;
                let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
                for shard in index.shards() {
                    let shard_path = dir.join(shard);
                    if !shard_path.is_file() {
                        return Err(Error::new(
                            ErrorKind::Model,
                            format!(
                                "`{}` names shard `{shard}`, which does not exist",
                                path.display()
                            ),
                        )
                        .hint("download the model again: all shards belong to it"));
                    }
                    if !paths.contains(&shard_path) {
                        paths.push(shard_path);
                    }
                }
                indexes.push((path, dir, index));
            } else if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        let mut weights =
            Self { files: Vec::new(), tensors: BTreeMap::new(), deltas: BTreeMap::new() };
        for path in paths {
            weights.add(path)?;
        }
        for (path, dir, index) in indexes {
            weights.verify(path, &dir, &index)?;
        }
        Ok(weights)
    }

    /// Adds a product to a tensor whenever it is read.
    pub(super) fn set_delta(&mut self, name: String, delta: Delta) {
        self.deltas.insert(name, delta);
    }

    /// Takes tensors of `other` under these names, each with its name there, instead of the own ones.
    pub(super) fn replace(&mut self, names: &[(String, String)], other: Self) {
        let first = self.files.len();
        self.files.extend(other.files);
        for (name, stored_as) in names {
            if let Some((file, stored)) = other.tensors.get(stored_as) {
                self.tensors.insert(name.clone(), (first + file, stored.clone()));
            }
        }
    }

    /// Only the tensors below `folder.`, by the rest of their names.
    pub(super) fn below(self, folder: &str) -> Self {
        let own = |(name, stored): (String, _)| {
            let name = name.strip_prefix(folder)?.strip_prefix('.')?;
            Some((name.to_owned(), stored))
        };
        Self { tensors: self.tensors.into_iter().filter_map(own).collect(), ..self }
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let cannot =
            |e| Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(e);
        let file = WeightFile::open(path.clone()).map_err(cannot)?;
        let tensors = guarded(ErrorKind::Model, &format!("`{}`", path.display()), || {
            contents(&file).map_err(|fault| fault.of(&path))
        })?;
        let number = self.files.len();
        for (name, stored) in tensors {
            if let Some((other, _)) = self.tensors.get(&name) {
                let other = self.files[*other].path.display();
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("tensor `{name}` is in `{other}` and in `{}`", path.display()),
                ));
            }
            self.tensors.insert(name, (number, stored));
        }
        self.files.push(file);
        Ok(())
    }

    /// Checks that each shard contains the tensors that the index assigns to it.
    fn verify(&self, path: &Path, dir: &Path, index: &ShardIndex) -> Result<()> {
        let astray: Vec<_> = index
            .weight_map
            .iter()
            .filter(|(name, shard)| {
                let file = self.tensors.get(*name).map(|(file, _)| &self.files[*file].path);
                file != Some(&dir.join(shard))
            })
            .collect();
        let Some((name, shard)) = astray.first() else { return Ok(()) };
        let more = match astray.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Error::new(
            ErrorKind::Model,
            format!(
                "`{}` places tensor `{name}` in `{shard}`, which does not have it{more}",
                path.display()
            ),
        )
        .hint("index and shards belong to different models: download them again"))
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, if the checkpoint has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(_, stored)| stored.shape.as_slice())
    }

    /// The stored dtype of a tensor; `None` when it is missing or candle lacks the dtype. Booleans are `U8`.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).and_then(|(_, stored)| stored.element.dtype())
    }

    /// How a tensor is stored: the name of a dtype, or of a type of ggml.
    pub fn stored_as(&self, name: &str) -> Option<&'static str> {
        self.tensors.get(name).map(|(_, stored)| stored.element.name())
    }

    /// Whether a tensor has floating-point numbers, in whatever form.
    pub(crate) fn is_float(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|(_, stored)| stored.element.is_float())
    }

    /// The format of the rows of a matrix that layers keep as they are stored.
    pub(crate) fn format(&self, name: &str) -> Option<BlockFormat> {
        let is_adapted = self.deltas.contains_key(name);
        self.tensors.get(name).filter(|_| !is_adapted).and_then(|(_, stored)| stored.format())
    }

    /// Whether [`Weights::rows`] are those of the transposed matrix.
    pub(crate) fn is_transposed(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|(_, stored)| stored.is_transposed)
    }

    /// The number of rows of a tensor (its first dimension) and the elements of each, if they can be read one by one with
    /// [`Weights::read_rows`].
    pub(crate) fn rows(&self, name: &str) -> Option<(usize, usize)> {
        self.tensors.get(name).and_then(|(_, stored)| stored.rows())
    }

    /// Appends a range of rows, as f32, to `out`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub(crate) fn read_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.read(name, |file, stored| {
            let start = out.len();
            stored.read_rows(file, rows.clone(), out)?;
            if let Some(delta) = self.deltas.get(name) {
                delta.add(&mut out[start..], rows, stored.is_transposed);
            }
            Ok(())
        })
    }

    /// Appends a range of rows, in their [`Weights::format`], to `out`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub(crate) fn read_blocks(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.read(name, |file, stored| stored.read_blocks(file, rows, out))
    }

    /// Reads a tensor and converts it to `dtype` on `device`.
    ///
    /// # Errors
    /// `Model` when the tensor is missing, or candle does not support its type.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.read(name, |file, stored| {
            let Some(delta) = self.deltas.get(name) else {
                return stored.read(file, dtype, device);
            };
            let tensor = stored.read(file, DType::F32, &Device::Cpu)?;
            let mut numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            delta.add(&mut numbers, 0..tensor.dim(0)?, false);
            Tensor::from_vec(numbers, tensor.shape(), device)?.to_dtype(dtype)
        })
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&WeightFile, &Stored) -> candle_core::Result<T>,
    ) -> Result<T> {
        let Some((file, stored)) = self.tensors.get(name) else {
            return Err(Error::new(
                ErrorKind::Model,
                format!("the checkpoint has no tensor `{name}`"),
            ));
        };
        let file = &self.files[*file];
        read(file, stored).map_err(|e| {
            Error::new(ErrorKind::Model, format!("cannot read tensor `{name}`"))
                .source(e)
                .at(format!("`{}`", file.path.display()))
        })
    }
}

/// The tensor table of a weight file.
fn contents(file: &WeightFile) -> Result<BTreeMap<String, Stored>, Fault> {
    let head = file.head(512).map_err(|e| Fault::unread(&e))?;
    let text = String::from_utf8_lossy(&head[..head.len().min(128)]);
    let begins = |prefix: &str| {
        let text = text.trim_start();
        text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if head.is_empty() {
        Err(Fault::new("is empty").hint(AGAIN))
    } else if begins("version https://git-lfs") {
        Err(Fault::new("is a Git LFS pointer, not weights")
            .hint("fetch the weights with `git lfs pull` in the model's directory"))
    } else if head.starts_with(gguf::MAGIC) {
        gguf::contents(file)
    } else if head.get(8) == Some(&b'{') {
        read_safetensors(file)
    } else if head.starts_with(b"PK\x03\x04") {
        torch::read_zip(file)
    } else if head[0] == 0x80 {
        torch::read_legacy(file)
    } else if begins("<!doctype") || begins("<html") || begins("<?xml") {
        Err(Fault::new("is a web page, not weights").hint(AGAIN))
    } else if head.get(257..262) == Some(b"ustar") {
        Err(Fault::new("is in the tar format of torch before 0.4, which is not supported")
            .hint("load it with torch once and save it as safetensors"))
    } else {
        let start: String = text.chars().take(16).collect();
        Err(Fault::new(format!(
            "is neither safetensors nor GGUF nor a checkpoint of torch.save: it begins with {start:?}"
        ))
        .hint(AGAIN))
    }
}

fn read_safetensors(file: &WeightFile) -> Result<BTreeMap<String, Stored>, Fault> {
    const PREFIX: usize = 8;
    let declared = file.head(PREFIX).map_err(|e| Fault::unread(&e))?;
    let declared = declared.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    let end = usize::try_from(declared).ok().and_then(|len| len.checked_add(PREFIX));
    let Some(data) = end.filter(|end| *end <= file.len()) else {
        return Err(Fault::new(format!(
            "is truncated or damaged: its header should have {declared} bytes, the file has {}",
            file.len()
        ))
        .hint(AGAIN));
    };
    if data > limits::SAFETENSORS_HEADER_BYTES {
        return Err(Fault::new(format!(
            "is damaged: its header should have {declared} bytes, expected at most {}",
            limits::SAFETENSORS_HEADER_BYTES
        ))
        .hint(AGAIN));
    }
    let header = file.head(data).map_err(|e| Fault::unread(&e))?;
    let metadata = table_of(&header, file.len())?;
    let mut tensors = BTreeMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        if info.shape.len() > limits::TENSOR_RANK {
            let rank = info.shape.len();
            return Err(
                Fault::new(format!("is damaged: a tensor has {rank} dimensions")).hint(AGAIN)
            );
        }
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        let stored = Stored::contiguous(element(info.dtype), info.shape.clone(), bytes);
        tensors.insert(name, stored);
    }
    Ok(tensors)
}

/// The tensor table in the `header` of a file of `found` bytes, or a fault with the expected and actual sizes.
fn table_of(header: &[u8], found: usize) -> Result<Metadata, Fault> {
    let fault = |what: String| Fault::new(what).hint(AGAIN);
    // The library validates the header alone. For a valid one it only reports the data as incomplete.
    let metadata = match SafeTensors::read_metadata(header) {
        Ok((_, metadata)) => metadata,
        Err(SafeTensorError::MetadataIncompleteBuffer) => serde_json::from_slice(&header[8..])
            .map_err(|e| fault(format!("has a damaged header: {e}")))?,
        Err(e) => return Err(fault(format!("has a damaged header: {e}"))),
    };
    match header.len().checked_add(metadata.data_len()) {
        Some(expected) if expected == found => Ok(metadata),
        Some(expected) if expected > found => Err(fault(format!(
            "is truncated: its header requires {expected} bytes, it has {found}"
        ))),
        _ => Err(fault(format!(
            "is damaged: its header requires {} bytes, it has {found}",
            header.len().saturating_add(metadata.data_len())
        ))),
    }
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::F8_E4M3 => Element::F8E4M3,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U32 => Element::U32,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        Dtype::U16 => Element::Other("U16", 16),
        Dtype::U64 => Element::Other("U64", 64),
        Dtype::C64 => Element::Other("C64", 64),
        Dtype::F8_E5M2 => Element::Other("F8_E5M2", 8),
        Dtype::F8_E8M0 => Element::Other("F8_E8M0", 8),
        // Packed formats, and types added in later versions of the crate.
        _ => Element::Other("a packed type", dtype.bitsize()),
    }
}

#[cfg(test)]
mod tests;
