//! Weights of linear layers that stay in the blocks of their file, in host memory. A product widens one panel of 32 outputs at
//! a time, and multiplies all rows of its input by it with the kernel for f32: results are those of the widened weight, and
//! the cost of widening is shared by the rows. Not here: the formats (`crate::blocks`). The entry is [`BlockWeight`].
//!
//! The bytes of the 32 outputs of a panel are interleaved at load: the first byte of each, then the second of each. A vector
//! then widens the same place of several outputs, with their scales in registers, and stores it where the kernel reads
//! it. No number is transposed or moved twice.
//!
//! # Costs
//! With AVX-512, a row costs one multiplication for 16 weights, at one per cycle. Widening 16 weights takes a load, one to
//! three operations on integers, a conversion, a multiplication and a store: as much as two to five rows (F16, whose
//! bytes are joined first, ten). So 16 rows are multiplied at 70 to 90% of the speed of weights in f32, 32 rows at 85 to
//! 95%. Workers widen panels for themselves: sharing them would save at most a tenth of the time to generate, and would make
//! workers wait for each other. A panel stays in the L2 cache: 112 KiB for 896 inputs.

use std::ops::Range;

use candle_core::{Result, bail};

use super::super::matrix_rows::Rows;
use super::packed::append_by_panels;
use super::tile::PANEL;
use crate::blocks::BlockFormat;

/// Bytes that are read from a file together.
const READ: usize = 1 << 18;

/// A weight in blocks.
pub(in crate::nn) struct BlockWeight {
    in_features: usize,
    parts: Vec<Part>,
}

/// Outputs of one format.
struct Part {
    format: BlockFormat,
    outputs: Range<usize>,
    /// Panels of as many elements as an output has bytes, padded with zeros.
    bytes: Vec<[u8; PANEL]>,
}

impl Part {
    /// Reads the rows of a matrix, which become the outputs from `start` on. One that is not in blocks is stored in f32.
    fn new(start: usize, in_features: usize, matrix: &dyn Rows) -> Result<Self> {
        let (rows, columns) = matrix.shape();
        let format = matrix.format().unwrap_or(BlockFormat::F32);
        let Some(length) = format.bytes_of(columns).filter(|_| columns == in_features) else {
            bail!("bug: rows of {columns} numbers in blocks of {format:?}")
        };
        let mut bytes = vec![[0; PANEL]; rows.div_ceil(PANEL) * length];
        let step = (READ / length.max(1)).next_multiple_of(PANEL).max(PANEL);
        let (mut stored, mut numbers) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(step) {
            let range = first..rows.min(first + step);
            stored.clear();
            if matrix.format().is_some() {
                matrix.read_blocks(range.clone(), &mut stored)?;
            } else {
                numbers.clear();
                matrix.read(range.clone(), &mut numbers)?;
                stored.extend(numbers.iter().flat_map(|number: &f32| number.to_le_bytes()));
            }
            if stored.len() != range.len() * length {
                bail!("bug: {} bytes for {} rows of {columns}", stored.len(), range.len());
            }
            for (row, stored) in range.zip(stored.chunks_exact(length.max(1))) {
                let panel = &mut bytes[row / PANEL * length..][..length];
                for (bytes, byte) in panel.iter_mut().zip(stored) {
                    bytes[row % PANEL] = *byte;
                }
            }
        }
        Ok(Self { format, outputs: start..start + rows, bytes })
    }

    /// The bytes of the panel that has the output `output`.
    fn panel(&self, output: usize) -> &[[u8; PANEL]] {
        let length = self.bytes.len() / self.outputs.len().div_ceil(PANEL).max(1);
        &self.bytes[(output - self.outputs.start) / PANEL * length..][..length]
    }
}

impl BlockWeight {
    /// Reads the rows of `matrices`, of `in_features` columns. Matrices that are not in blocks are stored in f32.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in crate::nn) fn new(in_features: usize, matrices: &[Box<dyn Rows + '_>]) -> Result<Self> {
        let (mut parts, mut outputs) = (Vec::with_capacity(matrices.len()), 0);
        for matrix in matrices {
            let part = Part::new(outputs, in_features, &**matrix)?;
            outputs = part.outputs.end;
            parts.push(part);
        }
        Ok(Self { in_features, parts })
    }

    /// `(out_features, in_features)`.
    pub(in crate::nn) fn shape(&self) -> (usize, usize) {
        (self.parts.last().map_or(0, |part| part.outputs.end), self.in_features)
    }

    /// Appends the weights of one output to `out`.
    pub(in crate::nn) fn append_row(&self, output: usize, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + self.in_features, 0.0);
        if let Some(part) = self.parts.iter().find(|part| part.outputs.contains(&output)) {
            let place = (output - part.outputs.start) % PANEL;
            let blocks: Vec<u8> = part.panel(output).iter().map(|bytes| bytes[place]).collect();
            part.format.widen(&blocks, &mut out[start..]);
        }
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
    /// As [`BlockWeight::append`]; when `outputs` starts inside a panel: a bug of the caller.
    pub(in crate::nn) fn append_outputs(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> Result<()> {
        let mut panels = Vec::with_capacity(outputs.len().div_ceil(PANEL) + self.parts.len());
        for part in &self.parts {
            let first = outputs.start.max(part.outputs.start);
            let last = outputs.end.min(part.outputs.end);
            if first < last && !(first - part.outputs.start).is_multiple_of(PANEL) {
                bail!("bug: outputs between panels");
            }
            panels.extend((first..last).step_by(PANEL).map(|output| {
                let columns = output - outputs.start..last.min(output + PANEL) - outputs.start;
                (columns, part.format, part.panel(output))
            }));
        }
        let shape = (outputs.len(), self.in_features);
        let panels = panels.into_iter().map(|(columns, format, bytes)| {
            let fill = move |panel: &mut [f32]| format.widen_rows(bytes, panel.as_chunks_mut().0);
            (columns, fill)
        });
        append_by_panels(out, x, bias, shape, panels)
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
            // The first part has one panel, of 13 outputs.
            let mut some = Vec::new();
            let x = vec![1.0; columns];
            blocks.append_outputs(&mut some, &x, None, 13..30)?;
            let mut all = Vec::new();
            blocks.append(&mut all, &x, None)?;
            assert_eq!(some, all[13..30]);
            assert!(blocks.append_outputs(&mut some, &x, None, 14..30).is_err());
            let (mut ours, mut expected) = (Vec::new(), Vec::new());
            blocks.append_row(30, &mut ours);
            packed.append_row(30, &mut expected);
            assert_eq!(ours, expected);
        }
        Ok(())
    }
}
