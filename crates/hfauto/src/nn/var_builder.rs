//! Paths into the tensors of a checkpoint, as candle's `VarBuilder`, together with the form that linear layers get.
//!
//! Not here: names and shapes of a checkpoint (`crate::auto`), reading by rows (`matrix_rows`). The entry is [`VarBuilder`].

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::BuildHasher;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::matrix_rows::{Rows, TensorRows, are_same};
use super::precision::Precision;

/// Where the tensors of a [`VarBuilder`] come from.
pub trait TensorSource {
    /// The tensor `name`.
    ///
    /// # Errors
    /// If the tensor is missing or has another shape. A source that collects such mismatches returns a scalar that is
    /// broadcast to `shape` instead, which is not contiguous and takes no memory.
    fn get(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// Whether there is a tensor `name`.
    fn contains(&self, name: &str) -> bool;

    /// The tensor `name`, of at least two dimensions, as a matrix with as many rows as its first dimension; `None`
    /// where [`TensorSource::get`] returns a broadcast scalar.
    ///
    /// # Errors
    /// As [`TensorSource::get`].
    fn rows(&self, shape: &Shape, name: &str) -> Result<Option<Box<dyn Rows + '_>>>;

    /// Called for a matrix of [`TensorSource::rows`] that a layer is built from, rather than compared: from this number of
    /// its elements.
    fn mark_used(&self, shape: &Shape, name: &str, elements: usize) {
        let _ = (shape, name, elements);
    }

    /// Called with the size in memory of what was loaded.
    fn count_bytes(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Whether only sizes count: layers are then not built.
    fn only_sizes(&self) -> bool {
        false
    }
}

/// A path in a checkpoint, and how tensors below it are loaded.
#[derive(Clone)]
pub struct VarBuilder<'a> {
    source: Rc<dyn TensorSource + 'a>,
    path: String,
    dtype: DType,
    device: Device,
    precision: Precision,
    head: Option<Rc<TiedHead>>,
}

/// The head over the vocabulary that shares the word embeddings.
struct TiedHead {
    /// The path of its weight from the root.
    weight: String,
    precision: Precision,
}

/// The table that word embeddings and head share: a builder and a name for it, and the precision of the head.
pub(super) struct TiedTable<'a> {
    pub(super) vb: VarBuilder<'a>,
    pub(super) name: String,
}

impl<'a> VarBuilder<'a> {
    /// The root of `source`, for tensors of `dtype` on `device` and linear layers that compute in `precision`.
    pub fn new(
        source: impl TensorSource + 'a,
        dtype: DType,
        device: &Device,
        precision: Precision,
    ) -> Self {
        let (source, device) = (Rc::new(source), device.clone());
        Self { source, path: String::new(), dtype, device, precision, head: None }
    }

    /// The same paths in another source, which is made from this one.
    #[must_use]
    pub(super) fn map_source<S: TensorSource + 'a>(
        &self,
        map: impl FnOnce(Rc<dyn TensorSource + 'a>) -> S,
    ) -> Self {
        Self { source: Rc::new(map(Rc::clone(&self.source))), ..self.clone() }
    }

    /// The tensors of a map.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self::new(tensors, dtype, device, Precision::Full)
    }

    /// The path below this one.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Self {
        Self { path: self.full(&name), ..self.clone() }
    }

    /// The path of the tensor `name` from the root.
    pub(super) fn full(&self, name: &impl Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// The tensor `name`. Where linear layers are stored in bf16, its numbers are rounded to bf16.
    ///
    /// # Errors
    /// As [`TensorSource::get`].
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let tensor = self.source.get(&shape.into(), &self.full(&name), self.dtype, &self.device)?;
        self.count(tensor.dims(), self.dtype.size_in_bytes());
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        if self.precision == Precision::Bf16 && tensor.is_contiguous() {
            return tensor.to_dtype(DType::BF16)?.to_dtype(self.dtype);
        }
        Ok(tensor)
    }

    /// The tensor `name` by rows; see [`TensorSource::rows`].
    ///
    /// # Errors
    /// As [`TensorSource::get`].
    pub(super) fn rows(
        &self,
        shape: impl Into<Shape>,
        name: &str,
    ) -> Result<Option<Box<dyn Rows + '_>>> {
        let (shape, name) = (shape.into(), self.full(&name));
        self.source.mark_used(&shape, &name, shape.elem_count());
        self.source.rows(&shape, &name)
    }

    /// Only these rows of the matrix `name`, `(rows, columns)`; the others are not read.
    ///
    /// # Errors
    /// As [`TensorSource::get`]; for a row that the matrix lacks.
    pub fn select_rows(&self, shape: (usize, usize), name: &str, rows: &[u32]) -> Result<Tensor> {
        let (count, columns) = shape;
        let (shape, name) = (Shape::from(shape), self.full(&name));
        self.source.mark_used(&shape, &name, rows.len().saturating_mul(columns));
        self.count(&[rows.len(), columns], self.dtype.size_in_bytes());
        let mut numbers = Vec::new();
        match self.source.rows(&shape, &name)? {
            Some(matrix) if !self.only_sizes() => {
                for row in rows.iter().map(|row| *row as usize) {
                    if row >= count {
                        bail!("`{name}` has {count} rows, not a row {row}");
                    }
                    matrix.read(row..row + 1, &mut numbers)?;
                }
            }
            _ => {
                let zero = Tensor::zeros((), self.dtype, &self.device)?;
                return zero.broadcast_as((rows.len(), columns));
            }
        }
        let tensor = Tensor::from_vec(numbers, (rows.len(), columns), &Device::Cpu)?;
        let stored = if self.precision == Precision::Bf16 { DType::BF16 } else { self.dtype };
        tensor.to_dtype(stored)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    /// Counts elements of `size` bytes.
    pub(super) fn count(&self, dims: &[usize], size: usize) {
        // The shape of a missing tensor is whatever the configuration claims.
        let elements = dims.iter().fold(size as u64, |n, dim| n.saturating_mul(*dim as u64));
        self.source.count_bytes(elements);
    }

    /// Whether only sizes count; see [`TensorSource::only_sizes`].
    pub(super) fn only_sizes(&self) -> bool {
        self.source.only_sizes()
    }

    /// Ties the word embeddings to the head with this weight, which computes in `precision`.
    #[must_use]
    pub fn with_tied_head(&self, weight: &str, precision: Precision) -> Self {
        let head = TiedHead { weight: self.full(&weight), precision };
        Self { head: Some(Rc::new(head)), ..self.clone() }
    }

    /// The table under `name` if the head shares it: the checkpoint has it once, under either name, or twice with the
    /// same numbers.
    ///
    /// # Errors
    /// If the tables cannot be read.
    ///
    /// # Source
    /// `PreTrainedModel.tie_weights` of transformers at v5.24.
    pub(super) fn tied_table(
        &self,
        shape: (usize, usize),
        name: &str,
    ) -> Result<Option<TiedTable<'a>>> {
        let Some(head) = &self.head else { return Ok(None) };
        let vb = self.set_precision(head.precision);
        let own = TiedTable { vb: vb.clone(), name: name.to_owned() };
        match (self.contains_tensor(name), self.source.contains(&head.weight)) {
            (true, true) => {
                let is_same = self.same_rows(shape, &self.full(&name), &head.weight)?;
                if !is_same {
                    tracing::debug!(
                        head = head.weight,
                        "the checkpoint has a head that differs from the word embeddings: they are not tied"
                    );
                }
                Ok(is_same.then_some(own))
            }
            (false, true) => {
                let root = Self { path: String::new(), ..vb };
                Ok(Some(TiedTable { vb: root, name: head.weight.clone() }))
            }
            _ => Ok(Some(own)),
        }
    }

    /// Without the tied head of [`VarBuilder::with_tied_head`]: for word embeddings that no head shares.
    #[must_use]
    pub fn without_tied_head(&self) -> Self {
        Self { head: None, ..self.clone() }
    }

    /// Whether the matrices `one` and `other` have the same numbers; also if one of them cannot be read.
    ///
    /// # Errors
    /// As [`TensorSource::get`].
    pub fn have_same_rows(&self, shape: (usize, usize), one: &str, other: &str) -> Result<bool> {
        self.same_rows(shape, &self.full(&one), &self.full(&other))
    }

    /// The same for paths from the root.
    fn same_rows(&self, shape: (usize, usize), one: &str, other: &str) -> Result<bool> {
        let rows = |path| self.source.rows(&shape.into(), path);
        match (rows(one)?, rows(other)?) {
            (Some(one), Some(other)) => are_same(&*one, &*other, self.only_sizes()),
            _ => Ok(true),
        }
    }

    /// Whether the matrix `name` is stored in blocks.
    ///
    /// # Errors
    /// As [`TensorSource::get`].
    pub(super) fn are_blocks(&self, shape: (usize, usize), name: &str) -> Result<bool> {
        let rows = self.source.rows(&shape.into(), &self.full(&name))?;
        Ok(rows.is_some_and(|rows| rows.format().is_some()))
    }

    /// Whether there is a tensor `name`.
    pub fn contains_tensor(&self, name: &str) -> bool {
        self.source.contains(&self.full(&name))
    }

    /// The dtype of tensors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device of tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The precision of linear layers.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same tensors in another dtype.
    #[must_use]
    pub fn set_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// The same tensors for linear layers in another precision.
    #[must_use]
    pub fn set_precision(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// For layers that are not quantized, such as poolers: full precision instead of int8.
    #[must_use]
    pub fn unquantized(&self) -> Self {
        match self.precision {
            Precision::Int8 => self.set_precision(Precision::Full),
            Precision::Full | Precision::Bf16 => self.clone(),
        }
    }
}

impl<S: BuildHasher> TensorSource for HashMap<String, Tensor, S> {
    fn get(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match HashMap::get(self, name) {
            Some(tensor) if tensor.shape() == shape => tensor.to_device(device)?.to_dtype(dtype),
            Some(tensor) => bail!("`{name}` has shape {:?}, expected {shape:?}", tensor.shape()),
            None => bail!("there is no tensor `{name}`"),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.contains_key(name)
    }

    fn rows(&self, shape: &Shape, name: &str) -> Result<Option<Box<dyn Rows + '_>>> {
        let tensor = TensorSource::get(self, shape, name, DType::F32, &Device::Cpu)?;
        Ok(Some(Box::new(TensorRows::new(&tensor)?)))
    }
}
