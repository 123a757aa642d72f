//! Matrices that are read by ranges of rows, so that a layer is built in its final form without a dense copy. Not here:
//! reading from files (`crate::hub`). The entry is [`Rows`].

use std::ops::Range;

use candle_core::{DType, Result, Tensor, bail};

use crate::blocks::BlockFormat;

/// A matrix that is read by ranges of rows, as f32.
pub trait Rows {
    /// `(rows, columns)`.
    fn shape(&self) -> (usize, usize);

    /// Appends `rows` to `out`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()>;

    /// The format of the rows, where a layer keeps them as they are stored.
    fn format(&self) -> Option<BlockFormat> {
        None
    }

    /// Appends `rows` as they are stored, in [`Rows::format`], to `out`.
    ///
    /// # Errors
    /// If they cannot be read, or have no such format.
    fn read_blocks(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let _ = out;
        bail!("bug: rows {rows:?} are not in blocks")
    }

    /// The transposed matrix, where that is the one that is stored.
    fn transposed(&self) -> Option<Box<dyn Rows + '_>> {
        None
    }
}

/// Elements per block of rows that a layer is built from: 256 KiB of f32, which stay in the cache.
const BLOCK: usize = 1 << 16;

/// Calls `take` with the number of the first row and the numbers of each block of rows: those of the first matrix, then
/// those of the next. All have the same number of columns.
///
/// # Errors
/// If rows cannot be read.
pub(super) fn blocks(
    matrices: &[Box<dyn Rows + '_>],
    mut take: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let (mut start, mut numbers) = (0, Vec::new());
    for matrix in matrices {
        let (rows, columns) = matrix.shape();
        let step = (BLOCK / columns.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let range = first..rows.min(first + step);
            numbers.clear();
            matrix.read(range.clone(), &mut numbers)?;
            if numbers.len() != range.len() * columns {
                bail!("bug: {} numbers for {} rows of {columns}", numbers.len(), range.len());
            }
            take(start + first, &numbers);
        }
        start += rows;
    }
    Ok(())
}

/// Whether two matrices have the same numbers; with `only_start`, whether they begin with the same ones.
pub(super) fn are_same(a: &dyn Rows, b: &dyn Rows, only_start: bool) -> Result<bool> {
    let (rows, columns) = a.shape();
    if b.shape() != (rows, columns) {
        return Ok(false);
    }
    let step = (BLOCK / columns.max(1)).max(1);
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(step).take(if only_start { 1 } else { usize::MAX }) {
        ours.clear();
        others.clear();
        let range = first..rows.min(first + step);
        a.read(range.clone(), &mut ours)?;
        b.read(range, &mut others)?;
        if ours != others {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The rows of a tensor in memory.
pub struct TensorRows(Tensor);

impl TensorRows {
    /// The rows of `tensor`; further dimensions are flattened.
    ///
    /// # Errors
    /// If the tensor is not in host memory.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Self(tensor.flatten_from(1)?.to_dtype(DType::F32)?.contiguous()?))
    }
}

impl Rows for TensorRows {
    fn shape(&self) -> (usize, usize) {
        self.0.dims2().unwrap_or_default()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let rows = self.0.narrow(0, rows.start, rows.len())?.flatten_all()?;
        out.extend(rows.to_vec1::<f32>()?);
        Ok(())
    }
}

/// The rows of a matrix in another order.
pub(super) struct Reordered<'a> {
    matrix: Box<dyn Rows + 'a>,
    order: Vec<Range<usize>>,
}

impl<'a> Reordered<'a> {
    /// The rows of `matrix` in these ranges, one range after the other.
    ///
    /// # Errors
    /// If the matrix does not have these rows.
    pub(super) fn new(matrix: Box<dyn Rows + 'a>, order: &[Range<usize>]) -> Result<Self> {
        let rows = matrix.shape().0;
        if order.iter().any(|range| range.end > rows) {
            bail!("bug: rows outside of the {rows} of a matrix");
        }
        Ok(Self { matrix, order: order.to_vec() })
    }
}

impl Reordered<'_> {
    /// The ranges of the matrix that are its `rows` in the other order.
    fn ranges(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        self.order
            .iter()
            .scan(0, |start, range| {
                let (first, end) = (*start, *start + range.len());
                *start = end;
                Some((first, end, range.start))
            })
            .filter_map(move |(first, end, place)| {
                let (from, until) = (rows.start.max(first), rows.end.min(end));
                (from < until).then(|| place + from - first..place + until - first)
            })
    }
}

impl Rows for Reordered<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.order.iter().map(ExactSizeIterator::len).sum(), self.matrix.shape().1)
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.ranges(rows).try_for_each(|range| self.matrix.read(range, out))
    }

    fn format(&self) -> Option<BlockFormat> {
        self.matrix.format()
    }

    fn read_blocks(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        self.ranges(rows).try_for_each(|range| self.matrix.read_blocks(range, out))
    }
}

/// The columns of a matrix as rows (`Conv1D`). Holds the matrix in f32.
pub(super) struct Transposed {
    numbers: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Transposed {
    pub(super) fn new(matrix: &dyn Rows) -> Result<Self> {
        let (columns, rows) = matrix.shape();
        let mut numbers = Vec::with_capacity(rows * columns);
        matrix.read(0..columns, &mut numbers)?;
        Ok(Self { numbers, rows, columns })
    }
}

impl Rows for Transposed {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let start = out.len();
        out.resize(start + rows.len() * self.columns, 0.0);
        let out = &mut out[start..];
        for (place, numbers) in self.numbers.chunks_exact(self.rows).enumerate() {
            for (row, number) in numbers[rows.clone()].iter().enumerate() {
                out[row * self.columns + place] = *number;
            }
        }
        Ok(())
    }
}
