//! What a LoRA adapter adds to one weight. Not here: the files of the adapter (`super::adapter`).

use std::ops::Range;

/// The product of two matrices that is added to a weight.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// `(rank, in_features)`.
    pub(super) a: Vec<f32>,
    /// `(out_features, rank)`.
    pub(super) b: Vec<f32>,
    pub(super) rank: usize,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
    pub(super) scaling: f32,
    /// Whether the weight is `(in_features, out_features)`.
    pub(super) fan_in_fan_out: bool,
}

impl Delta {
    /// The shape of the weight.
    pub(super) fn shape(&self) -> [usize; 2] {
        let shape = [self.out_features, self.in_features];
        if self.fan_in_fan_out { [shape[1], shape[0]] } else { shape }
    }

    /// Adds rows of the product to rows of the weight, or of the transposed one.
    pub(super) fn add(&self, numbers: &mut [f32], rows: Range<usize>, is_transposed: bool) {
        let rank = self.rank;
        let by_input = self.fan_in_fan_out != is_transposed;
        let columns = if by_input { self.out_features } else { self.in_features };
        let mut sums = vec![0.0; columns];
        for (row, numbers) in rows.zip(numbers.chunks_exact_mut(columns.max(1))) {
            sums.fill(0.0);
            for place in 0..rank {
                if by_input {
                    let a = self.a[place * self.in_features + row];
                    for (sum, b) in sums.iter_mut().zip(self.b.chunks_exact(rank)) {
                        *sum += b[place] * a;
                    }
                } else {
                    let b = self.b[row * rank + place];
                    let a = &self.a[place * self.in_features..][..self.in_features];
                    for (sum, a) in sums.iter_mut().zip(a) {
                        *sum += b * a;
                    }
                }
            }
            for (number, sum) in numbers.iter_mut().zip(&sums) {
                *number += sum * self.scaling;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_added_in_either_direction() {
        let delta = |fan_in_fan_out| Delta {
            a: vec![1.0, 2.0, 3.0, 0.0, 1.0, 0.0],
            b: vec![1.0, 0.0, 0.0, 10.0],
            rank: 2,
            in_features: 3,
            out_features: 2,
            scaling: 2.0,
            fan_in_fan_out,
        };
        let rows = [[2.0, 4.0, 6.0], [0.0, 20.0, 0.0]];
        for (fan_in_fan_out, is_transposed) in [(false, false), (true, true)] {
            let mut numbers = vec![0.0; 3];
            delta(fan_in_fan_out).add(&mut numbers, 1..2, is_transposed);
            assert_eq!(numbers, rows[1]);
        }
        for (fan_in_fan_out, is_transposed) in [(true, false), (false, true)] {
            let mut numbers = vec![1.0; 4];
            delta(fan_in_fan_out).add(&mut numbers, 0..2, is_transposed);
            assert_eq!(numbers, [3.0, 1.0, 5.0, 21.0]);
        }
        assert_eq!((delta(false).shape(), delta(true).shape()), ([2, 3], [3, 2]));
    }
}
