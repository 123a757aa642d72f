//! Scores of queries and keys with the vectors of relative positions, as a bias on the scores of a few queries.
//!
//! A tile of queries needs the vectors from its last query's first key to its first query's last key: little more than a row
//! has keys. A tile of keys needs as many as there are queries. Not here: softmax (`super`). The entry is [`Positions`].

use std::array;

use pulp::Simd;

use super::super::Matrix;
use super::super::packed::PackedWeight;
use super::super::tile::{F32, PANEL, tile};

/// Queries whose biases are in memory at a time: they stay in the L2 cache, and the vectors of a tile of keys fill their panels.
pub(super) const QUERIES: usize = 128;

/// Vectors of relative positions of some heads, numbered by increasing offset of the key from the query.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Positions<'a> {
    /// The vectors of each head that queries are multiplied with, if they are.
    pub(in crate::nn) keys: Option<&'a [PackedWeight]>,
    /// Those that keys are multiplied with, if they are.
    pub(in crate::nn) queries: Option<&'a [PackedWeight]>,
    /// The vector of each offset; offset 0 is in the middle.
    pub(in crate::nn) vectors: &'a [u32],
    /// The offset, in either direction, up to which the vectors of neighbouring offsets are neighbours.
    pub(in crate::nn) linear: usize,
}

/// Buffers for one head, reused by the next.
#[derive(Default)]
pub(super) struct PositionScores {
    /// `(queries, keys)`.
    pub(super) bias: Vec<f32>,
    products: Vec<f32>,
}

impl PositionScores {
    /// Computes the bias, which is the scaled scores of `q` and `k`, of one head, with the vectors of head `head`. The first
    /// query has position `first`. `ROWS` and `VECTORS` are the sizes of a tile.
    #[inline(always)]
    pub(super) fn compute<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        positions: Positions<'_>,
        head: usize,
        (q, k): (Matrix<'_>, Matrix<'_>),
        (first, scale): (usize, f32),
    ) {
        let (num_queries, num_keys) = (q.rows, k.rows);
        let middle = positions.vectors.len() / 2;
        self.bias.clear();
        self.bias.resize(num_queries * num_keys, 0.0);
        if let Some(table) = positions.keys {
            for start in (0..num_queries).step_by(ROWS) {
                let rows = tile_rows::<ROWS>(q, start);
                let last = num_queries.min(start + ROWS) - 1;
                let seen = |query: usize| {
                    let begin = middle - (first + query);
                    &positions.vectors[begin..begin + num_keys]
                };
                let (lowest, highest) = (seen(last)[0], seen(start)[num_keys - 1]);
                let (least, stride) =
                    self.multiply::<S, ROWS, VECTORS>(simd, &table[head], &rows, lowest, highest);
                for query in start..=last {
                    let products = &self.products[(query - start) * stride..][..stride];
                    let bias = &mut self.bias[query * num_keys..][..num_keys];
                    let position = first + query;
                    let near = position.saturating_sub(positions.linear).min(num_keys)
                        ..(position + positions.linear + 1).min(num_keys);
                    let seen = seen(query);
                    let place = |vector: u32| vector as usize - least;
                    for key in (0..near.start).chain(near.end..num_keys) {
                        bias[key] = products[place(seen[key])] * scale;
                    }
                    if !near.is_empty() {
                        let products = &products[place(seen[near.start])..][..near.len()];
                        for (bias, product) in bias[near].iter_mut().zip(products) {
                            *bias = product * scale;
                        }
                    }
                }
            }
        }
        if let Some(table) = positions.queries {
            for start in (0..num_keys).step_by(ROWS) {
                let rows = tile_rows::<ROWS>(k, start);
                let count = ROWS.min(num_keys - start);
                let seen = |query: usize| {
                    let begin = middle + start - (first + query);
                    &positions.vectors[begin..begin + count]
                };
                let (lowest, highest) = (seen(num_queries - 1)[0], seen(0)[count - 1]);
                let (least, stride) =
                    self.multiply::<S, ROWS, VECTORS>(simd, &table[head], &rows, lowest, highest);
                for query in 0..num_queries {
                    let bias = &mut self.bias[query * num_keys + start..][..count];
                    let products = self.products.chunks_exact(stride);
                    for ((bias, vector), products) in bias.iter_mut().zip(seen(query)).zip(products)
                    {
                        *bias += products[*vector as usize - least] * scale;
                    }
                }
            }
        }
    }

    /// The products of `rows` with the vectors from `lowest` to `highest`, and with others in their panels. Returns the number of
    /// the first, and that of the products of a row.
    #[inline(always)]
    fn multiply<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        table: &PackedWeight,
        rows: &[&[f32]; ROWS],
        lowest: u32,
        highest: u32,
    ) -> (usize, usize) {
        let panels = lowest as usize / PANEL..highest as usize / PANEL + 1;
        let stride = panels.len() * PANEL;
        self.products.resize(ROWS * stride, 0.0);
        for (number, panel) in panels.clone().enumerate() {
            let (panel, _) = S::as_simd_f32s(table.f32_panel(panel));
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
            tile(simd, F32, &mut sums, rows, panel, 0);
            for (row, sums) in sums.iter().enumerate() {
                let products = &mut self.products[row * stride + number * PANEL..][..PANEL];
                for (product, sum) in S::as_mut_simd_f32s(products).0.iter_mut().zip(sums) {
                    *product = *sum;
                }
            }
        }
        (panels.start * PANEL, stride)
    }
}

/// The rows of a tile; the last row is repeated where there are fewer.
#[inline(always)]
fn tile_rows<const ROWS: usize>(matrix: Matrix<'_>, start: usize) -> [&[f32]; ROWS] {
    array::from_fn(
        #[inline(always)]
        |row| matrix.row((start + row).min(matrix.rows - 1)),
    )
}
