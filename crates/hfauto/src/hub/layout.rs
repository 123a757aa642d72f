//! The layout of a tensor in a file: element type, shape, byte range and strides. Not here: the formats that describe
//! it ([`super::torch`], safetensors in [`super::weights`]).

use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::source::WeightFile;
use crate::blocks::BlockFormat;
use crate::error::{Error, ErrorKind};

/// Why a file is unusable: a fragment that follows the file's name, and a hint.
#[derive(Debug)]
pub(super) struct Fault {
    kind: ErrorKind,
    pub(super) what: String,
    pub(super) hint: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Model, what: what.into(), hint: None }
    }

    /// What is not implemented.
    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unsupported, ..Self::new(what) }
    }

    /// The error for the file at `path`.
    pub(super) fn of(self, path: &Path) -> Error {
        let error = Error::new(self.kind, format!("`{}` {}", path.display(), self.what));
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// An error while reading an open file.
    pub(super) fn unread(error: &std::io::Error) -> Self {
        Self::new(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "was truncated during the read".to_owned(),
            _ => format!("cannot be read: {error}"),
        })
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint.get_or_insert(hint);
        self
    }
}

/// The type of a tensor's elements in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    I64,
    I32,
    I16,
    I8,
    U32,
    U8,
    /// A byte that is 0 or 1.
    Bool,
    /// Numbers of a GGUF file, which layers keep as they are.
    Block(BlockFormat),
    /// A type that candle does not support: its name in the format, and its size in bits.
    Other(&'static str, usize),
}

impl Element {
    /// The size of an element; for blocks, that of a byte.
    pub(super) fn bits(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 64,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::F16 | Self::BF16 | Self::I16 => 16,
            Self::F8E4M3 | Self::I8 | Self::U8 | Self::Bool | Self::Block(_) => 8,
            Self::Other(_, bits) => bits,
        }
    }

    /// The candle dtype with the same byte representation.
    pub(super) fn dtype(self) -> Option<DType> {
        Some(match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::F8E4M3 => DType::F8E4M3,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 => DType::I16,
            Self::U32 => DType::U32,
            Self::U8 | Self::Bool => DType::U8,
            Self::Block(BlockFormat::F32) => DType::F32,
            Self::Block(BlockFormat::F16) => DType::F16,
            Self::Block(BlockFormat::BF16) => DType::BF16,
            Self::I8 | Self::Block(_) | Self::Other(..) => return None,
        })
    }

    /// Its name, for users.
    pub(super) fn name(self) -> &'static str {
        match (self, self.dtype()) {
            (Self::Block(format), None) => format.name(),
            (_, Some(dtype)) => dtype.as_str(),
            (Self::Other(name, _), None) => name,
            (_, None) => "i8",
        }
    }

    /// Whether its numbers are floating point, in whatever form.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Block(_)) || self.dtype().is_some_and(|dtype| dtype.is_float())
    }
}

/// The order of a tensor's rows in a file, where it is not that of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// Each of this many heads has the rows of its two halves in turn: rotary embeddings of neighbours.
    Neighbours(usize),
    /// All queries, then all keys, then all values; the architecture has the queries of each of `kv_heads` groups with
    /// their key and value.
    Groups { heads: usize, kv_heads: usize },
}

impl RowOrder {
    /// Whether it fits this number of rows.
    pub(super) fn fits(self, rows: usize) -> bool {
        match self {
            Self::Neighbours(heads) => heads > 0 && rows.is_multiple_of(2 * heads),
            Self::Groups { heads, kv_heads } => {
                kv_heads > 0
                    && heads.is_multiple_of(kv_heads)
                    && rows.is_multiple_of(heads + 2 * kv_heads)
            }
        }
    }

    /// The place in the file of a row of the architecture, of `rows`.
    fn stored(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Neighbours(heads) => {
                let half = rows / heads / 2;
                let (head, place) = (row / (2 * half), row % (2 * half));
                head * 2 * half + place % half * 2 + place / half
            }
            Self::Groups { heads, kv_heads } => {
                let (size, queries) = (rows / (heads + 2 * kv_heads), heads / kv_heads);
                let (head, place) = (row / size, row % size);
                let (group, member) = (head / (queries + 2), head % (queries + 2));
                let head = match member.checked_sub(queries) {
                    None => group * queries + member,
                    Some(0) => heads + group,
                    Some(_) => heads + kv_heads + group,
                };
                head * size + place
            }
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// The bytes of the file from the first element to the end of the last.
    bytes: Range<usize>,
    /// In elements; `None` for contiguous tensors.
    strides: Option<Vec<usize>>,
    /// `None` where rows are in the order of the architecture.
    order: Option<RowOrder>,
    /// What is added to each number.
    shift: f32,
    /// Whether the file has the transposed matrix.
    pub(super) is_transposed: bool,
}

impl Stored {
    /// A contiguous tensor. `bytes` has exactly the length that the shape needs.
    pub(super) fn contiguous(element: Element, shape: Vec<usize>, bytes: Range<usize>) -> Self {
        Self { element, shape, bytes, strides: None, order: None, shift: 0.0, is_transposed: false }
    }

    /// The same tensor with rows that the file has in another order, and a number that is added to each element.
    pub(super) fn rearranged(self, order: Option<RowOrder>, shift: f32) -> Self {
        Self { order, shift, ..self }
    }

    /// The same matrix, transposed.
    pub(super) fn transposed(self) -> Self {
        let mut shape = self.shape;
        shape.reverse();
        Self { shape, is_transposed: true, ..self }
    }

    /// The shape in the file.
    fn file_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.is_transposed {
            shape.reverse();
        }
        shape
    }

    /// A view of `storage` (a byte range of the file) that starts at element `offset`.
    pub(super) fn view(
        element: Element,
        shape: Vec<usize>,
        strides: Vec<usize>,
        storage: Range<usize>,
        offset: usize,
    ) -> Result<Self, Fault> {
        if shape.len() != strides.len() {
            let (shape, strides) = (shape.len(), strides.len());
            return Err(Fault::new(format!("gives {strides} strides to {shape} dimensions")));
        }
        let size = element.bits() / 8;
        let held = storage.len() / size;
        let outside = || {
            Fault::new(format!(
                "has a tensor outside its storage: shape {shape:?}, strides {strides:?}, from element {offset} of {held}"
            ))
        };
        let mut count = 1usize;
        let mut last = offset;
        for (&length, &stride) in shape.iter().zip(&strides) {
            count = count.checked_mul(length).ok_or_else(outside)?;
            let reach = length.saturating_sub(1).checked_mul(stride).ok_or_else(outside)?;
            last = last.checked_add(reach).ok_or_else(outside)?;
        }
        if count == 0 {
            return Ok(Self::contiguous(element, shape, storage.start..storage.start));
        }
        // A view with repeated elements may be far larger than its file. No checkpoint has one.
        if last >= held || count > held {
            return Err(outside());
        }
        let bytes = storage.start + offset * size..storage.start + (last + 1) * size;
        let mut expected = 1;
        let is_contiguous = shape.iter().zip(&strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        });
        let strides = (!is_contiguous).then_some(strides);
        Ok(Self { strides, ..Self::contiguous(element, shape, bytes) })
    }

    /// The number of rows in the file and the elements of each, if they follow each other: a tensor of at least one
    /// dimension that is not a strided view.
    pub(super) fn rows(&self) -> Option<(usize, usize)> {
        let shape = self.file_shape();
        let (rows, rest) = shape.split_first()?;
        self.strides.is_none().then(|| (*rows, rest.iter().product()))
    }

    /// The format of rows that are kept as they are stored.
    pub(super) fn format(&self) -> Option<BlockFormat> {
        match self.element {
            Element::Block(format) if self.shift == 0.0 => Some(format),
            _ => None,
        }
    }

    /// The ranges of the file's bytes that hold a range of [`Stored::rows`].
    fn ranges(&self, rows: Range<usize>) -> candle_core::Result<Vec<Range<usize>>> {
        let Some((count, _)) = self.rows().filter(|(count, _)| rows.end <= *count) else {
            candle_core::bail!("bug: rows {rows:?} of {:?}", self.shape);
        };
        let size = self.bytes.len() / count.max(1);
        let bytes = |rows: Range<usize>| {
            self.bytes.start + rows.start * size..self.bytes.start + rows.end * size
        };
        Ok(match self.order {
            None => vec![bytes(rows)],
            Some(order) => {
                rows.map(|row| order.stored(row, count)).map(|row| bytes(row..row + 1)).collect()
            }
        })
    }

    /// Appends a range of [`Stored::rows`], as the file has them, to `out`.
    pub(super) fn read_blocks(
        &self,
        file: &WeightFile,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> candle_core::Result<()> {
        for bytes in self.ranges(rows)? {
            let start = out.len();
            out.resize(start + bytes.len(), 0);
            file.read_into(&mut out[start..], bytes.start).map_err(unread)?;
        }
        Ok(())
    }

    /// Appends a range of [`Stored::rows`], as f32, to `out`.
    pub(super) fn read_rows(
        &self,
        file: &WeightFile,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        let columns = self.rows().map_or(0, |(_, columns)| columns);
        let begin = out.len();
        for range in self.ranges(rows.clone())? {
            let count = if self.order.is_some() { 1 } else { rows.len() };
            let start = out.len();
            if self.element == Element::F32 {
                out.resize(start + count * columns, 0.0);
                let bytes = pulp::bytemuck::cast_slice_mut(&mut out[start..]);
                file.read_into(bytes, range.start).map_err(unread)?;
            } else if let Element::Block(format) = self.element {
                let blocks = file.read(range).map_err(unread)?;
                out.resize(start + count * columns, 0.0);
                format.widen(&blocks, &mut out[start..]);
            } else {
                let part = Self::contiguous(self.element, vec![count, columns], range);
                let tensor = part.read(file, DType::F32, &Device::Cpu)?.flatten_all()?;
                out.extend(tensor.to_vec1::<f32>()?);
            }
        }
        if self.shift != 0.0 {
            out[begin..].iter_mut().for_each(|number| *number += self.shift);
        }
        Ok(())
    }

    /// Reads the tensor from `file` onto `device`, converted to `dtype`.
    pub(super) fn read(
        &self,
        file: &WeightFile,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let is_plain = self.order.is_none() && self.shift == 0.0 && !self.is_transposed;
        if !is_plain || matches!(self.element, Element::Block(_)) {
            let mut numbers = Vec::new();
            self.read_rows(file, 0..self.rows().map_or(0, |(rows, _)| rows), &mut numbers)?;
            let tensor = Tensor::from_vec(numbers, self.file_shape(), &Device::Cpu)?;
            let tensor = if self.is_transposed { tensor.t()?.contiguous()? } else { tensor };
            return tensor.to_dtype(dtype)?.to_device(device);
        }
        // Reads f32 weights, the common case, directly into their final buffer.
        if let (Element::F32, None) = (self.element, &self.strides) {
            let mut values = vec![0_f32; self.bytes.len() / 4];
            file.read_into(pulp::bytemuck::cast_slice_mut(&mut values), self.bytes.start)
                .map_err(unread)?;
            return Tensor::from_vec(values, self.shape.as_slice(), device)?.to_dtype(dtype);
        }
        let bytes = file.read(self.bytes.clone()).map_err(unread)?;
        let bytes = match &self.strides {
            None => bytes,
            Some(strides) => gather(&bytes, self.element.bits() / 8, &self.shape, strides),
        };
        let tensor = match (self.element, self.element.dtype()) {
            (_, Some(stored)) => Tensor::from_raw_buffer(&bytes, stored, &self.shape, device)?,
            (Element::I8, None) => {
                let wide: Vec<i64> =
                    bytes.iter().map(|byte| i64::from(byte.cast_signed())).collect();
                Tensor::from_vec(wide, self.shape.as_slice(), device)?
            }
            (element, None) => {
                return Err(candle_core::Error::Msg(format!("cannot compute with {element:?}")));
            }
        };
        tensor.to_dtype(dtype)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unread(error: std::io::Error) -> candle_core::Error {
    candle_core::Error::Msg(Fault::unread(&error).what)
}

/// The elements of a view, in order. `bytes` contains all of them.
fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut place = 0;
    for _ in 0..count {
        gathered.extend_from_slice(&bytes[place * size..(place + 1) * size]);
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            place += strides[dim];
            if index[dim] < shape[dim] {
                break;
            }
            place -= strides[dim] * shape[dim];
            index[dim] = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these bytes.
    fn file(bytes: &[u8]) -> WeightFile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, bytes).unwrap();
        WeightFile::open(path).unwrap()
    }

    fn view(
        shape: &[usize],
        strides: &[usize],
        storage: Range<usize>,
        offset: usize,
    ) -> Result<Stored, Fault> {
        Stored::view(Element::I16, shape.to_vec(), strides.to_vec(), storage, offset)
    }

    #[test]
    fn reads_views() {
        let file = file(&(0..12i16).flat_map(i16::to_le_bytes).collect::<Vec<_>>());
        let check = |shape: &[usize], strides: &[usize], offset, expected: &[i64]| {
            let stored = view(shape, strides, 4..24, offset).unwrap();
            let tensor = stored.read(&file, DType::I64, &Device::Cpu).unwrap();
            assert_eq!(tensor.dims(), shape);
            assert_eq!(tensor.flatten_all().unwrap().to_vec1::<i64>().unwrap(), expected);
        };
        check(&[2, 3], &[3, 1], 0, &[2, 3, 4, 5, 6, 7]);
        check(&[3, 2], &[1, 3], 0, &[2, 5, 3, 6, 4, 7]);
        check(&[2, 2], &[4, 2], 1, &[3, 5, 7, 9]);
        check(&[1, 3], &[99, 1], 7, &[9, 10, 11]);
        check(&[2, 0], &[1, 1], 3, &[]);
        check(&[], &[], 9, &[11]);
    }

    #[test]
    fn refuses_views_that_leave_their_storage() {
        for (shape, strides, offset) in [
            (&[4][..], &[1][..], 7),
            (&[2], &[10], 0),
            (&[11], &[0], 0),
            (&[usize::MAX, 2], &[1, 1], 0),
            (&[2], &[usize::MAX], 1),
            (&[2, 2], &[1], 0),
            (&[1], &[1], usize::MAX),
        ] {
            assert!(view(shape, strides, 4..24, offset).is_err(), "{shape:?} {strides:?} {offset}");
        }
    }

    #[test]
    fn widens_signed_bytes() {
        let stored = Stored::contiguous(Element::I8, vec![2], 0..2);
        let tensor = stored.read(&file(&[0xff, 2]), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(tensor.to_vec1::<f32>().unwrap(), [-1.0, 2.0]);
    }
}
