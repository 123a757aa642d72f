//! The lengths of the rows of a ragged batch. Not here: their tokens (`inputs`).

use std::sync::Arc;

/// The lengths and start offsets of the rows of a ragged batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// `rows + 1` offsets; row `i` has tokens `cumulative[i]..cumulative[i + 1]`.
    cumulative: Arc<[usize]>,
    max: usize,
}

impl Lengths {
    /// Takes one length per row.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut cumulative = vec![0];
        let (mut total, mut max) = (0, 0);
        for length in lengths {
            total += length;
            max = max.max(length);
            cumulative.push(total);
        }
        Self { cumulative: cumulative.into(), max }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.cumulative.len() - 1
    }

    /// The number of tokens of all rows.
    pub fn total_tokens(&self) -> usize {
        self.cumulative[self.rows()]
    }

    /// The number of tokens of the longest row.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The number of tokens of the same rows if padded to the longest.
    pub fn padded_tokens(&self) -> usize {
        self.max * self.rows()
    }

    /// `rows + 1` offsets, for devices.
    pub(super) fn cumulative_u32(&self) -> Vec<u32> {
        self.cumulative.iter().map(|&start| start as u32).collect()
    }

    /// The range of row `row` in the flat token axis.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.cumulative[row]..self.cumulative[row + 1]
    }

    /// The ranges of all rows, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.rows()).map(|row| self.range(row))
    }
}
