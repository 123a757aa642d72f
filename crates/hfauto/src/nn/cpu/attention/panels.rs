//! Packs the queries, keys and values of one sequence into panels.
//!
//! Reads every token once, from its first element to its last, because the output of a projection exceeds the L1 cache.
//! Not here: the products. The entry is [`Panels`].

use std::array;

use pulp::Simd;

use super::super::Matrix;
use super::super::tile::{Operands, PANEL};
use super::super::transpose::{Strided, transpose};

/// A partial panel is padded to half a panel. The padding beyond the keys, or beyond a head's features, is computed but
/// unused.
pub(super) const HALF: usize = PANEL / 2;

/// The dimensions of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) num_queries: usize,
    pub(super) num_keys: usize,
    pub(super) head_dim: usize,
    /// Elements of a [group](Operands::GROUP).
    group: usize,
}

impl Shape {
    pub(super) fn new(num_heads: usize, q: Matrix<'_>, k: Matrix<'_>, group: usize) -> Self {
        let head_dim = q.columns / num_heads;
        let num_kv_heads = k.columns / head_dim;
        Self { num_heads, num_kv_heads, num_queries: q.rows, num_keys: k.rows, head_dim, group }
    }

    /// The number of keys of a head, padded to panels.
    pub(super) fn padded_keys(self) -> usize {
        self.num_keys.next_multiple_of(HALF)
    }

    /// The number of features of a head, padded to panels.
    fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(HALF)
    }

    /// Groups per query or key.
    pub(super) fn depth(self) -> usize {
        self.head_dim.div_ceil(self.group)
    }

    /// Groups of values per feature.
    pub(super) fn value_groups(self) -> usize {
        self.num_keys.div_ceil(self.group)
    }
}

/// Buffers for one sequence, reused by the next.
#[derive(Default)]
pub(super) struct Panels {
    /// For each head, `(queries, groups of the head's features)`.
    queries: Vec<f32>,
    /// For each key-value head, panel after panel of keys, `(groups of the head's features, keys of the panel)` each.
    keys: Vec<f32>,
    /// For each key-value head, panel after panel of features, `(groups of keys, features of the panel)` each.
    values: Vec<f32>,
    /// A few keys of a head, `(HALF, groups of the head's features)`.
    some_keys: Vec<f32>,
}

/// The panels of one head.
pub(super) struct Head<'a> {
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

impl Panels {
    /// The panels of query head `head`, packed with this shape. Consecutive query heads share a key-value head.
    pub(super) fn head(&self, head: usize, shape: Shape) -> Head<'_> {
        let queries = shape.num_queries * shape.depth();
        let keys = shape.padded_keys() * shape.depth();
        let values = shape.padded_dim() * shape.value_groups();
        let kv_head = head / (shape.num_heads / shape.num_kv_heads);
        Head {
            queries: &self.queries[head * queries..][..queries],
            keys: &self.keys[kv_head * keys..][..keys],
            values: &self.values[kv_head * values..][..values],
        }
    }

    #[inline(always)]
    pub(super) fn lay_out<S: Simd, O: Operands<S>>(
        &mut self,
        simd: S,
        operands: O,
        shape: Shape,
        (q, k, v): (Matrix<'_>, Matrix<'_>, Matrix<'_>),
    ) {
        let Shape { num_queries, head_dim, .. } = shape;
        let depth = shape.depth();
        self.queries.resize(shape.num_heads * num_queries * depth, 0.0);
        for query in 0..num_queries {
            for (head, numbers) in q.row(query).chunks_exact(head_dim).enumerate() {
                let place = (head * num_queries + query) * depth;
                operands.group(simd, &mut self.queries[place..place + depth], numbers);
            }
        }
        self.lay_out_keys(simd, operands, shape, k);
        self.lay_out_values(simd, operands, shape, v);
    }

    #[inline(always)]
    fn lay_out_keys<S: Simd, O: Operands<S>>(
        &mut self,
        simd: S,
        operands: O,
        shape: Shape,
        k: Matrix<'_>,
    ) {
        let Shape { num_kv_heads, num_keys, head_dim, .. } = shape;
        let (depth, padded_keys) = (shape.depth(), shape.padded_keys());
        self.keys.resize(num_kv_heads * padded_keys * depth, 0.0);
        self.some_keys.resize(HALF * depth, 0.0);
        for first in (0..num_keys).step_by(HALF) {
            // Pads with the last key; its scores are unused.
            let rows: [&[f32]; HALF] = array::from_fn(
                #[inline(always)]
                |i| k.row((first + i).min(num_keys - 1)),
            );
            let start = first / PANEL * PANEL;
            let width = PANEL.min(padded_keys - start);
            for head in 0..num_kv_heads {
                for (row, groups) in rows.iter().zip(self.some_keys.chunks_exact_mut(depth)) {
                    operands.group(simd, groups, &row[head * head_dim..][..head_dim]);
                }
                let place = (head * padded_keys + start) * depth;
                let panel = &mut self.keys[place..place + depth * width];
                let columns = self.some_keys.len() / HALF;
                let keys = Strided { numbers: &self.some_keys, distance: columns };
                transpose(simd, &mut panel[first - start..], width, keys, columns);
            }
        }
    }

    #[inline(always)]
    fn lay_out_values<S: Simd, O: Operands<S>>(
        &mut self,
        simd: S,
        operands: O,
        shape: Shape,
        v: Matrix<'_>,
    ) {
        let Shape { num_kv_heads, num_keys, head_dim, .. } = shape;
        let (groups, padded_dim) = (shape.value_groups(), shape.padded_dim());
        self.values.resize(num_kv_heads * groups * padded_dim, 0.0);
        for group in 0..groups {
            let first = v.row(group * O::GROUP);
            // Pads with the last value, which is multiplied by zero.
            let second = v.row((group * O::GROUP + 1).min(num_keys - 1));
            for head in 0..num_kv_heads {
                for start in (0..head_dim).step_by(PANEL) {
                    let features =
                        head * head_dim + start..head * head_dim + head_dim.min(start + PANEL);
                    let width = features.len().next_multiple_of(HALF);
                    let place = (head * padded_dim + start) * groups + group * width;
                    let panel = &mut self.values[place..place + width];
                    join(simd, operands, panel, &first[features.clone()], &second[features]);
                }
            }
        }
    }
}

/// [Joins](Operands::join) the elements of two rows. `panel` may be longer.
#[inline(always)]
fn join<S: Simd, O: Operands<S>>(
    simd: S,
    operands: O,
    panel: &mut [f32],
    first: &[f32],
    second: &[f32],
) {
    let (vectors, _) = S::as_mut_simd_f32s(panel);
    let ((first, last_first), (second, last_second)) =
        (S::as_simd_f32s(first), S::as_simd_f32s(second));
    for ((vector, first), second) in vectors.iter_mut().zip(first).zip(second) {
        *vector = operands.join(simd, *first, *second);
    }
    if let Some(vector) = vectors.get_mut(first.len()) {
        let last = (simd.partial_load_f32s(last_first), simd.partial_load_f32s(last_second));
        *vector = operands.join(simd, last.0, last.1);
    }
}
