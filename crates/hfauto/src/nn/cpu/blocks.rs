//! Weights of linear layers that stay in the blocks of their file, in host memory. A product widens one panel of 32 outputs at
//! a time, and multiplies all rows of its input by it with the kernel for f32: results are those of the widened weight, and
//! the cost of widening is shared by the rows. Not here: the formats (`crate::blocks`). The entry is [`BlockWeight`].

use std::ops::Range;

use candle_core::{Result, bail};
use pulp::{Arch, Simd, WithSimd};

use super::super::matrix_rows::Rows;
use super::packed::append_by_panels;
use super::tile::PANEL;
use super::transpose::{Strided, transpose};
use crate::blocks::BlockFormat;

/// Columns that are widened for all outputs of a panel before they are transposed: they stay in the L1 cache.
const COLUMNS: usize = 256;
/// The distance of their rows: not a power of two, so that a column of them does not fall into a few sets of the cache.
const STRIDE: usize = COLUMNS + 16;

/// A weight in blocks.
pub(in crate::nn) struct BlockWeight {
    in_features: usize,
    parts: Vec<Part>,
}

/// Rows of one format.
struct Part {
    format: BlockFormat,
    rows: usize,
    blocks: Vec<u8>,
}

impl BlockWeight {
    /// Reads the rows of `matrices`, of `in_features` columns. Matrices that are not in blocks are stored in f32.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in crate::nn) fn new(in_features: usize, matrices: &[Box<dyn Rows + '_>]) -> Result<Self> {
        let parts = matrices.iter().map(|matrix| {
            let (rows, columns) = matrix.shape();
            let format = matrix.format().unwrap_or(BlockFormat::F32);
            let mut blocks = Vec::new();
            if matrix.format().is_some() {
                matrix.read_blocks(0..rows, &mut blocks)?;
            } else {
                let mut numbers = Vec::with_capacity(rows * columns);
                matrix.read(0..rows, &mut numbers)?;
                blocks = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
            }
            let expected = format.bytes_of(columns).and_then(|bytes| bytes.checked_mul(rows));
            if columns != in_features || expected != Some(blocks.len()) {
                bail!("bug: {} bytes for {rows} rows of {columns}", blocks.len());
            }
            Ok(Part { format, rows, blocks })
        });
        Ok(Self { in_features, parts: parts.collect::<Result<_>>()? })
    }

    /// `(out_features, in_features)`.
    pub(in crate::nn) fn shape(&self) -> (usize, usize) {
        (self.parts.iter().map(|part| part.rows).sum(), self.in_features)
    }

    /// Appends the weights of one output to `out`.
    pub(in crate::nn) fn append_row(&self, output: usize, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + self.in_features, 0.0);
        if let Some((format, blocks)) = self.row(output) {
            format.widen(blocks, &mut out[start..]);
        }
    }

    /// The format and the blocks of an output; `None` if there is no such output.
    fn row(&self, output: usize) -> Option<(BlockFormat, &[u8])> {
        let mut row = output;
        for part in &self.parts {
            if row < part.rows {
                let bytes = part.blocks.len() / part.rows;
                return Some((part.format, &part.blocks[row * bytes..][..bytes]));
            }
            row -= part.rows;
        }
        None
    }

    /// Appends `x · weightᵀ + bias` to `out`, as the weight in f32 does.
    ///
    /// # Errors
    /// When the lengths do not match: a bug of the caller.
    pub(in crate::nn) fn append(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        self.append_outputs(out, x, bias, 0..self.shape().0)
    }

    /// As [`PackedWeight::append_outputs`](super::packed::PackedWeight::append_outputs).
    ///
    /// # Errors
    /// As [`BlockWeight::append`].
    pub(in crate::nn) fn append_outputs(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> Result<()> {
        let shape = (outputs.len(), self.in_features);
        append_by_panels(out, x, bias, shape, |first, panel| {
            self.fill(outputs.start + first, panel);
        })
    }

    /// Widens the panel that begins with the output `first`. Outputs beyond the last one are 0.
    fn fill(&self, first: usize, panel: &mut [f32]) {
        let mut numbers = vec![0.0; PANEL * STRIDE];
        let rows: [_; PANEL] = std::array::from_fn(|place| self.row(first + place));
        // Formats without blocks may have any number of columns, the others a multiple of their block.
        for start in (0..self.in_features).step_by(COLUMNS) {
            let columns = COLUMNS.min(self.in_features - start);
            for (row, numbers) in rows.iter().zip(numbers.chunks_exact_mut(STRIDE)) {
                let numbers = &mut numbers[..columns];
                let part = row.and_then(|(format, blocks)| {
                    let bytes = format.bytes_of(start)?..format.bytes_of(start + columns)?;
                    Some((format, blocks.get(bytes)?))
                });
                match part {
                    Some((format, blocks)) => format.widen(blocks, numbers),
                    None => numbers.fill(0.0),
                }
            }
            let panel = &mut panel[start * PANEL..(start + columns) * PANEL];
            Arch::new().dispatch(Transposed { panel, numbers: &numbers, columns });
        }
    }
}

/// The first `columns` of the rows of a panel, transposed.
struct Transposed<'a> {
    panel: &'a mut [f32],
    /// The rows, [`STRIDE`] numbers apart.
    numbers: &'a [f32],
    columns: usize,
}

impl WithSimd for Transposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for first in [0, PANEL / 2] {
            let rows = Strided { numbers: &self.numbers[first * STRIDE..], distance: STRIDE };
            transpose(simd, &mut self.panel[first..], PANEL, rows, self.columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::nn::cpu::PackedWeight;

    /// Rows of bytes in one format.
    struct Stored {
        format: BlockFormat,
        rows: usize,
        columns: usize,
        blocks: Vec<u8>,
    }

    impl Stored {
        fn boxed(format: BlockFormat, rows: usize, columns: usize) -> Box<dyn Rows> {
            let mut random = blake3::Hasher::new().update(format.name().as_bytes()).finalize_xof();
            let mut blocks = vec![0; rows * format.bytes_of(columns).unwrap()];
            random.fill(&mut blocks);
            if format == BlockFormat::F32 {
                let numbers = (0..rows * columns).map(|i| (i % 17) as f32 - 8.0);
                blocks = numbers.flat_map(f32::to_le_bytes).collect();
            }
            // Exponents of all scales are small: no number is infinite or NaN.
            for byte in &mut blocks {
                *byte &= 0xbf;
            }
            Box::new(Self { format, rows, columns, blocks })
        }
    }

    impl Rows for Stored {
        fn shape(&self) -> (usize, usize) {
            (self.rows, self.columns)
        }

        fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
            let mut blocks = Vec::new();
            self.read_blocks(rows.clone(), &mut blocks)?;
            let start = out.len();
            out.resize(start + rows.len() * self.columns, 0.0);
            self.format.widen(&blocks, &mut out[start..]);
            Ok(())
        }

        fn format(&self) -> Option<BlockFormat> {
            Some(self.format)
        }

        fn read_blocks(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
            let bytes = self.blocks.len() / self.rows;
            out.extend_from_slice(&self.blocks[rows.start * bytes..rows.end * bytes]);
            Ok(())
        }
    }

    #[test]
    fn products_are_those_of_the_widened_weight() -> Result<()> {
        use BlockFormat::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let narrow = [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0];
        let wide = [Q2K, Q3K, Q4K, Q5K, Q6K, F16];
        for (formats, columns) in [(&narrow[..], 288), (&wide[..], 512)] {
            let matrices: Vec<_> =
                formats.iter().map(|format| Stored::boxed(*format, 13, columns)).collect();
            let blocks = BlockWeight::new(columns, &matrices)?;
            let shape = (13 * formats.len(), columns);
            assert_eq!(blocks.shape(), shape);
            let packed = PackedWeight::f32(shape, &matrices)?;
            for rows in [1, 9] {
                let x: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32 - 3.0).collect();
                let bias: Vec<f32> = (0..shape.0).map(|i| i as f32).collect();
                let (mut ours, mut expected) = (Vec::new(), Vec::new());
                blocks.append(&mut ours, &x, Some(&bias))?;
                packed.append(&mut expected, &x, Some(&bias))?;
                assert!(expected.iter().all(|number| number.is_finite()));
                assert_eq!(ours, expected);
            }
            let (mut ours, mut expected) = (Vec::new(), Vec::new());
            blocks.append_row(30, &mut ours);
            packed.append_row(30, &mut expected);
            assert_eq!(ours, expected);
        }
        Ok(())
    }
}
