//! Attention of one row of the table, in host memory: no padding, and scores that never leave the cache.
//!
//! Keys and values of all heads are laid out once in panels, as the products of [`super::packed`] read them; then, head by
//! head, a few queries at a time are multiplied with all keys, their softmax is taken, and they are multiplied with
//! all values. A single query, as of a decoder with a cache, reads keys and values where they are instead: to lay
//! them out would cost more than the product. What a query gets does not depend on how many others are with it, as
//! long as there are any. Not here: which keys a row has (`crate::nn::attention`). The entry is [`Attention`].

use std::array;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::Matrix;
use super::functions::exp2_of_negative;
use super::packed::{PANEL, tile};

/// Panels that are not full are a half: what is beyond the keys, or a head's features, is computed in vain.
const HALF: usize = PANEL / 2;

/// What is added to the scores, `(num_heads, rows, stride)`: the last query of a row is at the place of its last
/// key.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Bias<'a> {
    pub(in crate::nn) numbers: &'a [f32],
    pub(in crate::nn) rows: usize,
    pub(in crate::nn) stride: usize,
}

/// The kernel, for one row after the other.
pub(in crate::nn) struct Attention<'a> {
    pub(in crate::nn) num_heads: usize,
    pub(in crate::nn) scale: f32,
    pub(in crate::nn) bias: Option<Bias<'a>>,
    /// Whether a query sees only the keys up to its own place.
    pub(in crate::nn) causal: bool,
    /// Kept from row to row.
    pub(in crate::nn) scratch: Scratch,
}

/// What one row needs while it is computed, with room that the next one uses again.
#[derive(Default)]
pub(in crate::nn) struct Scratch {
    /// `(num_heads, queries, head_dim)`, times a factor, so that 2 to the product with a key is what `e` to the scaled
    /// product would be.
    queries: Vec<f32>,
    /// For each head, panel after panel of keys, `(head_dim, keys of the panel)` each.
    keys: Vec<f32>,
    /// For each head, panel after panel of features, `(keys, features of the panel)` each.
    values: Vec<f32>,
    /// `(queries of a block, keys)`; `(num_heads, keys)` of a single query.
    scores: Vec<f32>,
}

impl Attention<'_> {
    /// Writes `softmax(q · kᵀ · scale + bias) · v` of each head to `out`, whose rows are as wide as those of `q`.
    ///
    /// # Shapes
    /// `q`: `(queries, num_heads * head_dim)`, `k` and `v`: `(keys, num_heads * head_dim)`; numbers of a row side by
    /// side. `causal` or with a bias, no fewer keys than queries.
    ///
    /// # Panics
    /// When the shapes do not fit together: a bug of the caller.
    pub(in crate::nn) fn row(
        &mut self,
        q: Matrix<'_>,
        k: Matrix<'_>,
        v: Matrix<'_>,
        out: &mut [f32],
    ) {
        assert!(k.rows == v.rows && k.columns == q.columns && v.columns == q.columns, "bug: keys");
        assert_eq!(out.len(), q.rows * q.columns, "bug: an output of another size");
        if q.rows > 0 && k.rows > 0 && q.columns > 0 {
            Arch::new().dispatch(Row { attention: self, q, k, v, out });
        }
    }
}

/// One row at work.
struct Row<'a, 'b> {
    attention: &'a mut Attention<'b>,
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Row<'_, '_> {
    type Output = ();

    /// Blocks are as many queries as their sums leave registers for, as in [`super::packed`].
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            _ if self.q.rows == 1 => self.single(simd),
            16 => self.blocks::<S, 8, 2, 1>(simd),
            8 => self.blocks::<S, 3, 4, 2>(simd),
            4 => self.blocks::<S, 3, 8, 4>(simd),
            _ => self.blocks::<S, 1, PANEL, HALF>(simd),
        }
    }
}

impl Row<'_, '_> {
    fn head_dim(&self) -> usize {
        self.q.columns / self.attention.num_heads
    }

    /// `FULL` vectors are the row of a panel, `PART` that of half a panel.
    #[inline(always)]
    fn blocks<S: Simd, const QUERIES: usize, const FULL: usize, const PART: usize>(self, simd: S) {
        let (num_queries, num_keys, head_dim) = (self.q.rows, self.k.rows, self.head_dim());
        let Attention { num_heads, scratch, scale, bias, causal } = self.attention;
        scratch.lay_out(simd, *num_heads, *scale * LOG2_E, self.q, self.k, self.v);
        let padded_keys = num_keys.next_multiple_of(HALF);
        let padded_dim = head_dim.next_multiple_of(HALF);
        // Bidirectional queries may be more than the keys; they have no bias, so no place.
        let before = num_keys.saturating_sub(num_queries);
        scratch.scores.resize(QUERIES * padded_keys, 0.0);
        for head in 0..*num_heads {
            let mut block = Block {
                simd,
                queries: &scratch.queries[head * num_queries * head_dim..]
                    [..num_queries * head_dim],
                keys: &scratch.keys[head * padded_keys * head_dim..][..padded_keys * head_dim],
                values: &scratch.values[head * num_keys * padded_dim..][..num_keys * padded_dim],
                scores: &mut scratch.scores,
                bias: bias.map(|bias| &bias.numbers[head * bias.rows * bias.stride..]),
                bias_stride: bias.map_or(0, |bias| bias.stride),
                causal: *causal,
                head_dim,
                num_keys,
                padded_keys,
                before,
                out: &mut *self.out,
                columns: head * head_dim..(head + 1) * head_dim,
                out_stride: self.q.columns,
            };
            let mut first = 0;
            while first < num_queries {
                first += match num_queries - first {
                    left if left >= QUERIES => block.run::<QUERIES, FULL, PART>(first),
                    left if left >= 4 && QUERIES > 4 => block.run::<4, FULL, PART>(first),
                    left if left >= 2 && QUERIES > 2 => block.run::<2, FULL, PART>(first),
                    _ => block.run::<1, FULL, PART>(first),
                };
            }
        }
    }

    /// The only query sees all keys; keys and values are read as they lie, one after the other.
    #[inline(always)]
    fn single<S: Simd>(self, simd: S) {
        let (num_keys, head_dim) = (self.k.rows, self.head_dim());
        let Attention { num_heads, scratch, scale, bias, .. } = self.attention;
        let (query, factor) = (self.q.row(0), *scale * LOG2_E);
        scratch.scores.resize(*num_heads * num_keys, 0.0);
        for key in 0..num_keys {
            let heads = query.chunks_exact(head_dim).zip(self.k.row(key).chunks_exact(head_dim));
            for (head, (query, key_of_head)) in heads.enumerate() {
                let score = dot(simd, query, key_of_head) * factor;
                scratch.scores[head * num_keys + key] = score;
            }
        }
        for (head, scores) in scratch.scores.chunks_exact_mut(num_keys).enumerate() {
            if let Some(bias) = bias {
                let row = head * bias.rows + num_keys - 1;
                add_bias(scores, &bias.numbers[row * bias.stride..]);
            }
            let scale = powers(simd, scores);
            for score in scores {
                *score *= scale;
            }
        }
        self.out.fill(0.0);
        for key in 0..num_keys {
            let heads =
                self.out.chunks_exact_mut(head_dim).zip(self.v.row(key).chunks_exact(head_dim));
            for (head, (out, value)) in heads.enumerate() {
                add_scaled(simd, out, value, scratch.scores[head * num_keys + key]);
            }
        }
    }
}

impl Scratch {
    /// Reads every row of the matrices once, from its start to its end.
    #[inline(always)]
    fn lay_out<S: Simd>(
        &mut self,
        simd: S,
        num_heads: usize,
        factor: f32,
        q: Matrix<'_>,
        k: Matrix<'_>,
        v: Matrix<'_>,
    ) {
        let head_dim = k.columns / num_heads;
        self.queries.resize(q.rows * q.columns, 0.0);
        for query in 0..q.rows {
            for (head, numbers) in q.row(query).chunks_exact(head_dim).enumerate() {
                let place = (head * q.rows + query) * head_dim;
                scale_into(simd, &mut self.queries[place..place + head_dim], numbers, factor);
            }
        }
        let padded_keys = k.rows.next_multiple_of(HALF);
        self.keys.resize(padded_keys * k.columns, 0.0);
        for first in (0..k.rows).step_by(HALF) {
            // Beyond the last key, the last key again: nobody looks at its scores.
            let rows: [&[f32]; HALF] = array::from_fn(|i| k.row((first + i).min(k.rows - 1)));
            let start = first / PANEL * PANEL;
            let width = PANEL.min(padded_keys - start);
            for head in 0..num_heads {
                let rows = rows.map(|row| &row[head * head_dim..][..head_dim]);
                let place = (head * padded_keys + start) * head_dim;
                let panel = &mut self.keys[place..place + head_dim * width];
                for (i, out) in panel.chunks_exact_mut(width).enumerate() {
                    let out: &mut [f32] = &mut out[first - start..];
                    if let Some(out) = out.first_chunk_mut::<HALF>() {
                        *out = rows.map(|row| row[i]);
                    }
                }
            }
        }
        let padded_dim = head_dim.next_multiple_of(HALF);
        self.values.resize(v.rows * num_heads * padded_dim, 0.0);
        for value in 0..v.rows {
            for (head, numbers) in v.row(value).chunks_exact(head_dim).enumerate() {
                for (start, numbers) in (0..).step_by(PANEL).zip(numbers.chunks(PANEL)) {
                    let width = numbers.len().next_multiple_of(HALF);
                    let place = (head * padded_dim + start) * v.rows + value * width;
                    let out = &mut self.values[place..place + width];
                    let (out, beyond) = out.split_at_mut(numbers.len());
                    copy::<S>(out, numbers);
                    beyond.fill(0.0);
                }
            }
        }
    }
}

/// Queries of one head at work.
struct Block<'a, S> {
    simd: S,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scores: &'a mut [f32],
    /// That of this head.
    bias: Option<&'a [f32]>,
    bias_stride: usize,
    causal: bool,
    head_dim: usize,
    num_keys: usize,
    padded_keys: usize,
    /// The place of the first query.
    before: usize,
    out: &'a mut [f32],
    /// Those of this head in `out`.
    columns: Range<usize>,
    out_stride: usize,
}

impl<S: Simd> Block<'_, S> {
    /// `QUERIES` queries from `first` on; returns their number.
    #[inline(always)]
    fn run<const QUERIES: usize, const FULL: usize, const PART: usize>(
        &mut self,
        first: usize,
    ) -> usize {
        // How many keys a query sees, and the last of them.
        let seen = |query: usize| {
            if self.causal { self.before + first + query + 1 } else { self.num_keys }
        };
        let seen: [usize; QUERIES] = array::from_fn(seen);
        let most = seen[QUERIES - 1];
        for start in (0..most).step_by(PANEL) {
            if start + PANEL <= self.padded_keys {
                self.score::<QUERIES, FULL>(first, start);
            } else {
                self.score::<QUERIES, PART>(first, start);
            }
        }
        let mut scales = [0.0; QUERIES];
        for (query, (scale, seen)) in scales.iter_mut().zip(seen).enumerate() {
            let scores = &mut self.scores[query * self.padded_keys..][..most];
            let (scores, hidden) = scores.split_at_mut(seen);
            if let Some(bias) = self.bias {
                add_bias(scores, &bias[(self.before + first + query) * self.bias_stride..]);
            }
            *scale = powers(self.simd, scores);
            hidden.fill(0.0);
        }
        for start in (0..self.head_dim).step_by(PANEL) {
            if self.head_dim - start > HALF {
                self.mix::<QUERIES, FULL>(first, start, most, &scales);
            } else {
                self.mix::<QUERIES, PART>(first, start, most, &scales);
            }
        }
        QUERIES
    }

    /// The products with the panel of keys that starts at `start`.
    #[inline(always)]
    fn score<const QUERIES: usize, const VECTORS: usize>(&mut self, first: usize, start: usize) {
        let (simd, depth) = (self.simd, self.head_dim);
        let q: [&[f32]; QUERIES] =
            array::from_fn(|i| &self.queries[(first + i) * depth..][..depth]);
        let (panel, _) = S::as_simd_f32s(&self.keys[start * depth..]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; QUERIES];
        tile(simd, &mut sums, &q, panel);
        for (query, sums) in sums.iter().enumerate() {
            let scores = &mut self.scores[query * self.padded_keys + start..];
            let (scores, _) = S::as_mut_simd_f32s(scores);
            // `copy_from_slice` would be a call.
            for (score, sum) in scores[..VECTORS].iter_mut().zip(sums) {
                *score = *sum;
            }
        }
    }

    /// The products of the first `seen` powers with the panel of values that starts at feature `start`.
    #[inline(always)]
    fn mix<const QUERIES: usize, const VECTORS: usize>(
        &mut self,
        first: usize,
        start: usize,
        seen: usize,
        scales: &[f32; QUERIES],
    ) {
        let simd = self.simd;
        let powers: [&[f32]; QUERIES] =
            array::from_fn(|i| &self.scores[i * self.padded_keys..][..seen]);
        let (panel, _) = S::as_simd_f32s(&self.values[start * self.num_keys..]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; QUERIES];
        tile(simd, &mut sums, &powers, panel);
        let columns =
            self.columns.start + start..self.columns.end.min(self.columns.start + start + PANEL);
        for (query, (sums, scale)) in sums.iter().zip(scales).enumerate() {
            let out = &mut self.out[(first + query) * self.out_stride..][columns.clone()];
            let scale = simd.splat_f32s(*scale);
            if out.len() == PANEL {
                for (out, sum) in S::as_mut_simd_f32s(out).0.iter_mut().zip(sums) {
                    *out = simd.mul_f32s(*sum, scale);
                }
            } else {
                let mut numbers = [0.0; PANEL];
                for (vector, sum) in S::as_mut_simd_f32s(&mut numbers).0.iter_mut().zip(sums) {
                    *vector = simd.mul_f32s(*sum, scale);
                }
                out.copy_from_slice(&numbers[..out.len()]);
            }
        }
    }
}

/// Adds a row of bias to scores that are logarithms to base 2.
#[inline(always)]
fn add_bias(scores: &mut [f32], bias: &[f32]) {
    for (score, bias) in scores.iter_mut().zip(bias) {
        *score += bias * LOG2_E;
    }
}

/// Turns scores into 2 to their distance from the greatest, and returns what makes their sum 1.
#[inline(always)]
fn powers<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    // Two, so that one maximum does not wait for the other; each by its name, so that it stays in a register.
    let mut even = simd.splat_f32s(f32::NEG_INFINITY);
    let mut odd = even;
    let (pairs, last) = vectors.as_chunks::<2>();
    for [one, other] in pairs {
        even = simd.max_f32s(*one, even);
        odd = simd.max_f32s(*other, odd);
    }
    for vector in last {
        even = simd.max_f32s(*vector, even);
    }
    let highest = simd.reduce_max_f32s(simd.max_f32s(even, odd));
    let highest = rest.iter().fold(highest, |highest, score| highest.max(*score));
    let highest = simd.splat_f32s(highest);
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        *vector = exp2_of_negative(simd, simd.sub_f32s(*vector, highest));
        sum = simd.add_f32s(sum, *vector);
    }
    let mut total = simd.reduce_sum_f32s(sum);
    if !rest.is_empty() {
        let vector = simd.sub_f32s(simd.partial_load_f32s(rest), highest);
        simd.partial_store_f32s(rest, exp2_of_negative(simd, vector));
        total += rest.iter().sum::<f32>();
    }
    1.0 / total
}

/// As `copy_from_slice`, whose call costs more than so few numbers.
#[inline(always)]
fn copy<S: Simd>(out: &mut [f32], x: &[f32]) {
    let ((out, out_rest), (x, x_rest)) = (S::as_mut_simd_f32s(out), S::as_simd_f32s(x));
    for (out, x) in out.iter_mut().zip(x) {
        *out = *x;
    }
    for (out, x) in out_rest.iter_mut().zip(x_rest) {
        *out = *x;
    }
}

/// `out` becomes `x · factor`.
#[inline(always)]
fn scale_into<S: Simd>(simd: S, out: &mut [f32], x: &[f32], factor: f32) {
    let ((out, out_rest), (x, x_rest)) = (S::as_mut_simd_f32s(out), S::as_simd_f32s(x));
    for (out, x) in out.iter_mut().zip(x) {
        *out = simd.mul_f32s(*x, simd.splat_f32s(factor));
    }
    for (out, x) in out_rest.iter_mut().zip(x_rest) {
        *out = x * factor;
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}

/// Adds `x · factor` to `out`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, out: &mut [f32], x: &[f32], factor: f32) {
    let ((out, out_rest), (x, x_rest)) = (S::as_mut_simd_f32s(out), S::as_simd_f32s(x));
    for (out, x) in out.iter_mut().zip(x) {
        *out = simd.mul_add_e_f32s(*x, simd.splat_f32s(factor), *out);
    }
    for (out, x) in out_rest.iter_mut().zip(x_rest) {
        *out += x * factor;
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "what nobody wrote to, and rows the same, bit for bit")]
mod tests {
    use proptest::prelude::*;

    use super::super::packed::tests::numbers;
    use super::*;

    struct Case {
        num_queries: usize,
        num_keys: usize,
        num_heads: usize,
        head_dim: usize,
        causal: bool,
        with_bias: bool,
    }

    /// The definition, in f64, one query and head after the other; checks this processor's vectors and none.
    fn check(case: &Case) {
        let Case { num_queries, num_keys, num_heads, head_dim, causal, with_bias } = *case;
        let width = num_heads * head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        // Columns of one product, as queries, keys and values of a model are.
        let tokens = numbers(num_queries.max(num_keys) * 3 * width, 7);
        let tokens: Vec<f32> = tokens.iter().map(|x| x * 3.0).collect();
        let all = Matrix::new(&tokens, num_queries.max(num_keys), 3 * width);
        let part = |part: usize, rows| all.block(0..rows, part * width..(part + 1) * width);
        let (q, k, v) = (part(0, num_queries), part(1, num_keys), part(2, num_keys));
        let (rows, stride) = (num_keys + 1, num_keys + 2);
        let bias = numbers(num_heads * rows * stride, 8);
        let bias = with_bias.then_some(Bias { numbers: &bias, rows, stride });
        let mut attention =
            Attention { num_heads, scale, bias, causal, scratch: Scratch::default() };
        let mut out = vec![7.0; num_queries * width];
        // What an earlier, longer row left behind must not matter.
        attention.scratch.keys = vec![f32::NAN; 5];
        attention.scratch.scores = vec![f32::NAN; 5000];
        attention.row(q, k, v, &mut out);
        let mut plain = vec![7.0; out.len()];
        Row { attention: &mut attention, q, k, v, out: &mut plain }.with_simd(pulp::Scalar::new());
        let before = num_keys.saturating_sub(num_queries);
        for query in 0..num_queries {
            let seen = if causal { before + query + 1 } else { num_keys };
            for head in 0..num_heads {
                let of = |matrix: Matrix<'_>, row: usize, i: usize| {
                    f64::from(matrix.row(row)[head * head_dim + i])
                };
                let scores = (0..seen).map(|key| {
                    let dot: f64 = (0..head_dim).map(|i| of(q, query, i) * of(k, key, i)).sum();
                    let bias = bias.as_ref().map_or(0.0, |bias| {
                        bias.numbers[(head * rows + before + query) * stride + key]
                    });
                    dot * f64::from(scale) + f64::from(bias)
                });
                let scores: Vec<f64> = scores.collect();
                let highest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for i in 0..head_dim {
                    let mixed: f64 =
                        powers.iter().enumerate().map(|(key, power)| power * of(v, key, i)).sum();
                    let place = query * width + head * head_dim + i;
                    for found in [out[place], plain[place]] {
                        let off = (f64::from(found) - mixed / sum).abs();
                        assert!(off < 2e-5, "{query}, {head}, {i}: {found} {}", mixed / sum);
                    }
                }
            }
        }
        // The last queries, alone with the same keys, get the same numbers; a single one has a kernel of its own.
        if num_queries > 3 && num_queries <= num_keys {
            let mut last = vec![7.0; 2 * width];
            attention.row(q.rows(num_queries - 2..num_queries), k, v, &mut last);
            assert_eq!(last, out[(num_queries - 2) * width..]);
        }
    }

    #[test]
    fn agrees_with_the_definition_at_the_sizes_of_models() {
        for (num_queries, num_keys, num_heads, head_dim) in
            [(16, 16, 12, 32), (129, 129, 2, 64), (1, 70, 2, 64), (1, 1, 1, 1), (5, 3, 2, 80)]
        {
            let causal = num_queries <= num_keys;
            for (causal, with_bias) in [(false, false), (causal, false), (causal, causal)] {
                check(&Case { num_queries, num_keys, num_heads, head_dim, causal, with_bias });
            }
        }
        // Sums over more keys than are added up at once.
        check(&Case {
            num_queries: 2,
            num_keys: 1100,
            num_heads: 1,
            head_dim: 8,
            causal: true,
            with_bias: false,
        });
    }

    #[test]
    fn no_queries_or_keys_leave_the_output_alone() {
        let mut attention = Attention {
            num_heads: 1,
            scale: 1.0,
            bias: None,
            causal: false,
            scratch: Scratch::default(),
        };
        let (none, one) = (Matrix::new(&[], 0, 2), Matrix::new(&[1.0, 2.0], 1, 2));
        attention.row(none, one, one, &mut []);
        let mut out = [3.0, 4.0];
        attention.row(one, none, none, &mut out);
        assert_eq!(out, [3.0, 4.0]);
    }

    #[test]
    fn what_is_not_a_number_shows_in_its_own_row_and_head() {
        let numbers: Vec<f32> = (0..24).map(|i| if i == 13 { f32::NAN } else { 1.0 }).collect();
        let q = Matrix::new(&numbers, 6, 4);
        let ones = [1.0; 24];
        let k = Matrix::new(&ones, 6, 4);
        let mut attention = Attention {
            num_heads: 2,
            scale: 1.0,
            bias: None,
            causal: false,
            scratch: Scratch::default(),
        };
        let mut out = [0.0; 24];
        attention.row(q, k, k, &mut out);
        for (place, value) in out.into_iter().enumerate() {
            assert_eq!(value.is_nan(), place == 12 || place == 13, "{place}: {value}");
            assert!(value.is_nan() || (value - 1.0).abs() < 1e-6);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_definition_at_any_size(
            num_queries in 1usize..40,
            more_keys in 0usize..50,
            num_heads in 1usize..4,
            head_dim in 1usize..100,
            causal: bool,
            with_bias: bool,
        ) {
            let num_keys = num_queries + more_keys;
            check(&Case { num_queries, num_keys, num_heads, head_dim, causal, with_bias });
        }
    }
}
