//! Attention of one sequence in host memory, without padding, with scores that stay in the L1 cache.
//!
//! Keys and values of all heads are packed once into panels. Then, for each head, a few queries at a time are
//! multiplied by the keys that they attend to, go through softmax, and are multiplied by the values. A single query, as in
//! decoding, reads keys and values in place: packing them would cost more than the product. A query's result does not
//! depend on the number of queries. Not here: which keys a sequence has (`crate::nn::attention`). The entry is
//! [`Attention`].

mod panels;
mod positions;

use std::array;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use self::panels::{HALF, Head, Panels, Shape};
pub(in crate::nn) use self::positions::Positions;
use self::positions::{PositionScores, QUERIES as POSITION_QUERIES};
use super::Matrix;
#[cfg(target_arch = "x86_64")]
use super::bf16;
use super::functions::{Function, Tanh, exp2_of_negative};
use super::tile::{F32, Operands, PANEL, tile};
use crate::nn::{AlibiForm, AttentionMask};

/// A bias on the scores, `(num_heads, rows, stride)`. The last query of a sequence is at the position of its last key.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Bias<'a> {
    pub(in crate::nn) numbers: &'a [f32],
    pub(in crate::nn) rows: usize,
    pub(in crate::nn) stride: usize,
}

impl Bias<'_> {
    /// The bias from head `head` on.
    pub(in crate::nn) fn heads_from(self, head: usize) -> Self {
        Self { numbers: &self.numbers[head * self.rows * self.stride..], ..self }
    }
}

/// Linear biases on the scores, computed from positions.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Slopes<'a> {
    /// One number per head.
    pub(in crate::nn) slopes: &'a [f32],
    pub(in crate::nn) form: AlibiForm,
}

impl Slopes<'_> {
    /// The biases from head `head` on.
    pub(in crate::nn) fn heads_from(self, head: usize) -> Self {
        Self { slopes: &self.slopes[head..], ..self }
    }

    /// The bias of one head on the scores of the query at `position` with the keys from `first_key` on.
    #[inline(always)]
    fn of_query(self, head: usize, position: usize, first_key: usize) -> Slope {
        // No sequence is longer than an i32, which vectors convert to f32.
        let (query, first_key) = (position as i32, first_key as i32);
        Slope { slope: self.slopes[head], form: self.form, query, first_key }
    }
}

/// The linear bias of one head and query.
#[derive(Clone, Copy)]
struct Slope {
    slope: f32,
    form: AlibiForm,
    query: i32,
    first_key: i32,
}

/// The attention kernel, for one sequence after the other.
pub(in crate::nn) struct Attention<'a> {
    pub(in crate::nn) num_heads: usize,
    /// Greater than 0.
    pub(in crate::nn) scale: f32,
    pub(in crate::nn) bias: Option<Bias<'a>>,
    pub(in crate::nn) alibi: Option<Slopes<'a>>,
    /// Vectors of relative positions, multiplied with queries and keys. There is then no `bias`, and no head shares its keys.
    pub(in crate::nn) positions: Option<Positions<'a>>,
    /// The keys that a query attends to.
    pub(in crate::nn) mask: AttentionMask,
    /// The bound `c` of the scores, which become `c · tanh(score / c)` before the bias.
    pub(in crate::nn) softcap: Option<f32>,
    /// Whether sequences with several queries may use bf16, if the processor supports it.
    pub(in crate::nn) bf16: bool,
    /// Buffers reused across sequences.
    pub(in crate::nn) scratch: Scratch,
}

/// Buffers for one sequence, reused by the next.
#[derive(Default)]
pub(in crate::nn) struct Scratch {
    panels: Panels,
    /// `(queries of a block, keys)`; `(num_heads, keys)` for a single query.
    scores: Vec<f32>,
    position_scores: PositionScores,
}

impl Attention<'_> {
    /// Writes `softmax(q · kᵀ · scale + biases) · v` of each head to `out`, for the given `queries` of the sequence. Their
    /// results do not depend on which others are computed.
    ///
    /// # Shapes
    /// `q`: all queries, `(rows, num_heads * head_dim)`; `out`: `(queries, num_heads * head_dim)`; `k` and `v`:
    /// `(keys, num_kv_heads * head_dim)`, where `num_heads` is a multiple of `num_kv_heads`. Rows are contiguous. With biases
    /// or a mask other than full, there are at least as many keys as rows of `q`.
    ///
    /// # Panics
    /// When the shapes do not match: a bug of the caller.
    pub(in crate::nn) fn row(
        &mut self,
        q: Matrix<'_>,
        queries: Range<usize>,
        k: Matrix<'_>,
        v: Matrix<'_>,
        out: &mut [f32],
    ) {
        assert!(k.rows == v.rows && k.columns == v.columns, "bug: keys");
        let head_dim = q.columns / self.num_heads;
        let heads_fit = head_dim == 0
            || k.columns.is_multiple_of(head_dim)
                && self.num_heads.is_multiple_of(k.columns / head_dim);
        assert!(heads_fit, "bug: heads of keys");
        assert_eq!(
            out.len(),
            queries.len() * q.columns,
            "bug: the output has another size than the queries"
        );
        assert!(self.scale > 0.0, "bug: a scale that is not positive");
        if !queries.is_empty() && k.rows > 0 && q.columns > 0 {
            let row = Row { attention: self, q, queries, k, v, out };
            if let Some(row) = row.in_bf16() {
                Arch::new().dispatch(row);
            }
        }
    }
}

/// The operands for one sequence.
struct Row<'a, 'b> {
    attention: &'a mut Attention<'b>,
    /// All queries of the sequence, whose number chooses the kernel.
    q: Matrix<'a>,
    /// Those to compute.
    queries: Range<usize>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Row<'_, '_> {
    type Output = ();

    /// Block sizes are chosen so that the accumulators fit in registers, as in [`super::packed`].
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            _ if self.is_single() => self.single(simd),
            16 => self.blocks::<S, F32, 8, 2, 1>(simd, F32),
            8 => self.blocks::<S, F32, 3, 4, 2>(simd, F32),
            4 => self.blocks::<S, F32, 3, 8, 4>(simd, F32),
            _ => self.blocks::<S, F32, 1, PANEL, HALF>(simd, F32),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl bf16::WithBf16 for Row<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_bf16(self, simd: pulp::x86::V4, bf16: bf16::Bf16) {
        self.blocks::<_, _, 8, 2, 1>(simd, bf16);
    }
}

impl Row<'_, '_> {
    /// Computes the sequence in bf16 if that is requested and supported; otherwise returns it.
    fn in_bf16(self) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if self.attention.bf16 && !self.is_single() {
            return bf16::run(self).err();
        }
        Some(self)
    }

    fn head_dim(&self) -> usize {
        self.q.columns / self.attention.num_heads
    }

    /// Whether the kernel of a single query applies.
    fn is_single(&self) -> bool {
        self.q.rows == 1 && self.attention.positions.is_none()
    }

    /// A row of a panel has `FULL` vectors, a row of half a panel `PART`.
    #[inline(always)]
    fn blocks<
        S: Simd,
        O: Operands<S>,
        const QUERIES: usize,
        const FULL: usize,
        const PART: usize,
    >(
        self,
        simd: S,
        operands: O,
    ) {
        let Attention { num_heads, scratch, scale, bias, alibi, positions, mask, softcap, .. } =
            self.attention;
        let Scratch { panels, scores, position_scores } = scratch;
        let q = self.q.block(self.queries.clone(), 0..self.q.columns);
        let shape = Shape::new(*num_heads, q, self.k, O::GROUP);
        let Shape { num_queries, num_keys, head_dim, .. } = shape;
        panels.lay_out(simd, operands, shape, (q, self.k, self.v));
        scores.resize(QUERIES * shape.padded_keys(), 0.0);
        // Bidirectional queries may outnumber the keys. They have no bias, so their position does not matter.
        let before = num_keys.saturating_sub(self.q.rows) + self.queries.start;
        let step = if positions.is_some() { POSITION_QUERIES } else { num_queries };
        for (head, start) in
            (0..*num_heads).flat_map(|head| (0..num_queries).step_by(step).map(move |q| (head, q)))
        {
            let (end, columns) =
                (num_queries.min(start + step), head * head_dim..(head + 1) * head_dim);
            if let Some(positions) = *positions {
                let (q, k) =
                    (q.block(start..end, columns.clone()), self.k.columns(columns.clone()));
                let place = (before + start, *scale);
                position_scores.compute::<S, QUERIES, FULL>(simd, positions, head, (q, k), place);
            }
            // The biases of positions begin with query `start`.
            let (bias, bias_stride, bias_before) = match (bias.as_ref(), &positions) {
                (_, Some(_)) => (Some(&position_scores.bias[..]), num_keys, before + start),
                (Some(bias), None) => {
                    (Some(&bias.numbers[head * bias.rows * bias.stride..]), bias.stride, 0)
                }
                (None, None) => (None, 0, 0),
            };
            let mut block = Block {
                simd,
                operands,
                shape,
                head: panels.head(head, shape),
                scores: &mut *scores,
                scale: *scale,
                softcap: *softcap,
                bias,
                bias_stride,
                bias_before,
                alibi: alibi.map(|alibi| alibi.heads_from(head)),
                mask: *mask,
                before,
                out: &mut *self.out,
                columns,
                out_stride: self.q.columns,
            };
            let mut first = start;
            while first < end {
                first += match end - first {
                    left if left >= QUERIES => block.run::<QUERIES, FULL, PART>(first),
                    left if left >= 4 && QUERIES > 4 => block.run::<4, FULL, PART>(first),
                    left if left >= 2 && QUERIES > 2 => block.run::<2, FULL, PART>(first),
                    _ => block.run::<1, FULL, PART>(first),
                };
            }
        }
    }

    /// A single query has the position of the last key. Keys and values are read in place, in order.
    #[inline(always)]
    fn single<S: Simd>(self, simd: S) {
        let (last, head_dim) = (self.k.rows - 1, self.head_dim());
        let Attention { num_heads, scratch, scale, bias, alibi, mask, softcap, .. } =
            self.attention;
        let seen = mask.visible(last, self.k.rows);
        // The width of the query heads that share a key-value head.
        let sharing = *num_heads * head_dim / self.k.columns;
        let width = sharing * head_dim;
        scratch.scores.resize(*num_heads * seen.len(), 0.0);
        for (place, key) in seen.clone().enumerate() {
            let groups = self.q.row(0).chunks_exact(width);
            let groups = groups.zip(self.k.row(key).chunks_exact(head_dim)).enumerate();
            for (group, (queries, key_of_head)) in groups {
                for (head, query) in (group * sharing..).zip(queries.chunks_exact(head_dim)) {
                    scratch.scores[head * seen.len() + place] = dot(simd, query, key_of_head);
                }
            }
        }
        for (head, scores) in scratch.scores.chunks_exact_mut(seen.len()).enumerate() {
            let bias = bias.map(|bias| {
                let row = head * bias.rows + last;
                &bias.numbers[row * bias.stride + seen.start..]
            });
            let slope = alibi.map(|alibi| alibi.of_query(head, last, seen.start));
            let factor = adjust(simd, scores, *scale, *softcap, bias, slope);
            let scale = powers(simd, scores, factor);
            for score in scores {
                *score *= scale;
            }
        }
        self.out.fill(0.0);
        for (place, key) in seen.clone().enumerate() {
            let groups = self.out.chunks_exact_mut(width);
            let groups = groups.zip(self.v.row(key).chunks_exact(head_dim)).enumerate();
            for (group, (outs, value)) in groups {
                for (head, out) in (group * sharing..).zip(outs.chunks_exact_mut(head_dim)) {
                    add_scaled(simd, out, value, scratch.scores[head * seen.len() + place]);
                }
            }
        }
    }
}

/// A block of queries of one head.
struct Block<'a, S, O> {
    simd: S,
    operands: O,
    shape: Shape,
    head: Head<'a>,
    scores: &'a mut [f32],
    scale: f32,
    softcap: Option<f32>,
    /// The bias of this head.
    bias: Option<&'a [f32]>,
    bias_stride: usize,
    /// The position that the first row of the bias is for.
    bias_before: usize,
    /// The linear biases from this head on.
    alibi: Option<Slopes<'a>>,
    mask: AttentionMask,
    /// The position of the first query.
    before: usize,
    out: &'a mut [f32],
    /// The columns of this head in `out`.
    columns: Range<usize>,
    out_stride: usize,
}

impl<S: Simd, O: Operands<S>> Block<'_, S, O> {
    /// Computes `QUERIES` queries from `first` on. Returns their number.
    #[inline(always)]
    fn run<const QUERIES: usize, const FULL: usize, const PART: usize>(
        &mut self,
        first: usize,
    ) -> usize {
        let (num_keys, padded_keys) = (self.shape.num_keys, self.shape.padded_keys());
        // The keys that each query attends to. Neither end decreases from query to query.
        let seen: [Range<usize>; QUERIES] = array::from_fn(
            #[inline(always)]
            |query| self.mask.visible(self.before + first + query, num_keys),
        );
        let keys = seen[0].start / PANEL * PANEL..seen[QUERIES - 1].end;
        for start in keys.clone().step_by(PANEL) {
            if start + PANEL <= padded_keys {
                self.score::<QUERIES, FULL>(first, start, keys.start);
            } else {
                self.score::<QUERIES, PART>(first, start, keys.start);
            }
        }
        let mut scales = [0.0; QUERIES];
        for (query, (scale, seen)) in scales.iter_mut().zip(seen).enumerate() {
            let scores = &mut self.scores[query * padded_keys..][..keys.len()];
            let visible = &mut scores[seen.start - keys.start..seen.end - keys.start];
            let bias = self.bias.map(
                #[inline(always)]
                |bias| {
                    let row = self.before + first + query - self.bias_before;
                    &bias[row * self.bias_stride + seen.start..]
                },
            );
            let slope = self.alibi.map(
                #[inline(always)]
                |alibi| alibi.of_query(0, self.before + first + query, seen.start),
            );
            let factor = adjust(self.simd, visible, self.scale, self.softcap, bias, slope);
            *scale = powers(self.simd, visible, factor);
            scores[..seen.start - keys.start].fill(0.0);
            scores[seen.end - keys.start..].fill(0.0);
            self.operands.group_in_place(self.simd, scores);
        }
        for start in (0..self.shape.head_dim).step_by(PANEL) {
            if self.shape.head_dim - start > HALF {
                self.mix::<QUERIES, FULL>(first, start, keys.clone(), &scales);
            } else {
                self.mix::<QUERIES, PART>(first, start, keys.clone(), &scales);
            }
        }
        QUERIES
    }

    /// Multiplies queries by the panel of keys that starts at `start`. The scores begin with key `first_key`.
    #[inline(always)]
    fn score<const QUERIES: usize, const VECTORS: usize>(
        &mut self,
        first: usize,
        start: usize,
        first_key: usize,
    ) {
        let (simd, depth) = (self.simd, self.shape.depth());
        let q: [&[f32]; QUERIES] = array::from_fn(
            #[inline(always)]
            |i| &self.head.queries[(first + i) * depth..][..depth],
        );
        let (panel, _) = S::as_simd_f32s(&self.head.keys[start * depth..]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; QUERIES];
        tile(simd, self.operands, &mut sums, &q, panel, 0);
        for (query, sums) in sums.iter().enumerate() {
            let place = query * self.shape.padded_keys() + start - first_key;
            let scores = &mut self.scores[place..];
            let (scores, _) = S::as_mut_simd_f32s(scores);
            // `copy_from_slice` would compile to a call.
            for (score, sum) in scores[..VECTORS].iter_mut().zip(sums) {
                *score = *sum;
            }
        }
    }

    /// Multiplies the softmax numerators of `keys` by the panel of values that starts at feature `start`. The first key
    /// starts a panel.
    #[inline(always)]
    fn mix<const QUERIES: usize, const VECTORS: usize>(
        &mut self,
        first: usize,
        start: usize,
        keys: Range<usize>,
        scales: &[f32; QUERIES],
    ) {
        let simd = self.simd;
        let powers: [&[f32]; QUERIES] = array::from_fn(
            #[inline(always)]
            |i| &self.scores[i * self.shape.padded_keys()..][..keys.len().div_ceil(O::GROUP)],
        );
        let (panel, _) = S::as_simd_f32s(&self.head.values[start * self.shape.value_groups()..]);
        let skipped = keys.start / O::GROUP;
        let panel = &panel[skipped * VECTORS..];
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; QUERIES];
        tile(simd, self.operands, &mut sums, &powers, panel, skipped);
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

/// Caps scores and adds a row of the bias and the linear bias, if there are any. Returns the factor that makes base-2 logarithms of the
/// scores.
#[inline(always)]
fn adjust<S: Simd>(
    simd: S,
    scores: &mut [f32],
    scale: f32,
    softcap: Option<f32>,
    bias: Option<&[f32]>,
    slope: Option<Slope>,
) -> f32 {
    let mut factor = scale * LOG2_E;
    if let Some(cap) = softcap {
        let (vectors, rest) = S::as_mut_simd_f32s(scores);
        let factor_of_cap = simd.splat_f32s(scale / cap);
        for vector in vectors {
            *vector = Tanh::of(simd, simd.mul_f32s(*vector, factor_of_cap));
        }
        if !rest.is_empty() {
            let vector = simd.mul_f32s(simd.partial_load_f32s(rest), factor_of_cap);
            simd.partial_store_f32s(rest, Tanh::of(simd, vector));
        }
        factor = cap * LOG2_E;
    }
    if let Some(bias) = bias {
        for (score, bias) in scores.iter_mut().zip(bias) {
            *score = *score * factor + bias * LOG2_E;
        }
        factor = 1.0;
    }
    if let Some(Slope { slope, form, query, first_key }) = slope {
        for (score, key) in scores.iter_mut().zip(first_key..) {
            *score = *score * factor + form.bias(slope, query, key) * LOG2_E;
        }
        factor = 1.0;
    }
    factor
}

/// Replaces scores by `2^(factor · (score − max))` and returns the reciprocal of their sum. `factor` is greater than 0.
#[inline(always)]
fn powers<S: Simd>(simd: S, scores: &mut [f32], factor: f32) -> f32 {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    // Two independent maxima, to avoid a dependency chain, in separate variables, to stay in registers.
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
    let (factor, offset) = (simd.splat_f32s(factor), simd.splat_f32s(-highest * factor));
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        *vector = exp2_of_negative(simd, simd.mul_add_e_f32s(*vector, factor, offset));
        sum = simd.add_f32s(sum, *vector);
    }
    let mut total = simd.reduce_sum_f32s(sum);
    if !rest.is_empty() {
        let vector = simd.mul_add_e_f32s(simd.partial_load_f32s(rest), factor, offset);
        simd.partial_store_f32s(rest, exp2_of_negative(simd, vector));
        total += rest.iter().sum::<f32>();
    }
    1.0 / total
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
mod tests {
    #![expect(
        clippy::float_cmp,
        reason = "untouched elements, and rows that are equal bit for bit"
    )]

    use proptest::prelude::*;

    use super::super::has_bf16;
    use super::super::packed::tests::numbers;
    use super::*;

    struct Case {
        num_queries: usize,
        num_keys: usize,
        num_heads: usize,
        /// Query heads that share a head of keys; divides `num_heads`.
        sharing: usize,
        head_dim: usize,
        mask: AttentionMask,
        softcap: Option<f32>,
        with_bias: bool,
        alibi: Option<AlibiForm>,
        bf16: bool,
    }

    /// Compares with the definition in f64, computed query by query and head by head. Checks this processor's vectors
    /// and scalar code, or bf16 if supported.
    fn check(case: &Case) {
        let Case { num_queries, num_keys, num_heads, sharing, head_dim, .. } = *case;
        let Case { mask, softcap, with_bias, alibi, bf16, .. } = *case;
        let rounds = bf16 && has_bf16() && num_queries > 1;
        let (width, kv_width) = (num_heads * head_dim, num_heads / sharing * head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        // Columns of one product, as in a model's fused projection.
        let tokens = numbers(num_queries.max(num_keys) * 3 * width, 7);
        let tokens: Vec<f32> = tokens.iter().map(|x| x * 3.0).collect();
        let all = Matrix::new(&tokens, num_queries.max(num_keys), 3 * width);
        let part = |part: usize, rows| all.block(0..rows, part * width..part * width + kv_width);
        let q = all.block(0..num_queries, 0..width);
        let (k, v) = (part(1, num_keys), part(2, num_keys));
        let (rows, stride) = (num_keys + 1, num_keys + 2);
        let bias = numbers(num_heads * rows * stride, 8);
        let bias = with_bias.then_some(Bias { numbers: &bias, rows, stride });
        let slopes: Vec<f32> = (1..=num_heads).map(|head| 0.5 / head as f32).collect();
        let alibi = alibi.map(|form| Slopes { slopes: &slopes, form });
        let scratch = Scratch::default();
        let mut attention = Attention {
            num_heads,
            scale,
            bias: None,
            alibi: None,
            positions: None,
            mask,
            softcap,
            bf16,
            scratch,
        };
        let mut out = vec![7.0; num_queries * width];
        // Leftovers of an earlier, longer sequence must not matter.
        let nans = vec![f32::NAN; (num_keys + 40) * width];
        let longer = Matrix::new(&nans, num_keys + 40, width);
        attention.row(longer, 0..longer.rows, longer, longer, &mut vec![0.0; nans.len()]);
        (attention.bias, attention.alibi) = (bias, alibi);
        attention.row(q, 0..num_queries, k, v, &mut out);
        let mut plain = out.clone();
        if !rounds {
            let (attention, queries) = (&mut attention, 0..num_queries);
            let row = Row { attention, q, queries, k, v, out: &mut plain };
            row.with_simd(pulp::Scalar::new());
        }
        let before = num_keys.saturating_sub(num_queries);
        for query in 0..num_queries {
            let seen = mask.visible(before + query, num_keys);
            for (head, &slope) in slopes.iter().enumerate().take(num_heads) {
                let of = |matrix: Matrix<'_>, row: usize, i: usize| {
                    let own = if matrix.columns == width { head } else { head / sharing };
                    let number = matrix.row(row)[own * head_dim + i];
                    if rounds { half::bf16::from_f32(number).to_f64() } else { number.into() }
                };
                let scores = seen.clone().map(|key| {
                    let dot: f64 = (0..head_dim).map(|i| of(q, query, i) * of(k, key, i)).sum();
                    let bias = bias.as_ref().map_or(0.0, |bias| {
                        bias.numbers[(head * rows + before + query) * stride + key]
                    });
                    let linear = alibi.map_or(0.0, |alibi| {
                        alibi.form.bias(slope, (before + query) as i32, key as i32)
                    });
                    let score = dot * f64::from(scale);
                    let cap = softcap.map(f64::from);
                    cap.map_or(score, |cap| cap * (score / cap).tanh()) + f64::from(bias + linear)
                });
                let scores: Vec<f64> = scores.collect();
                let highest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for i in 0..head_dim {
                    let mixed: f64 =
                        seen.clone().zip(&powers).map(|(key, power)| power * of(v, key, i)).sum();
                    let place = query * width + head * head_dim + i;
                    // Values are up to 3, and softmax numerators in bf16 have 8 bits.
                    let bound = if rounds { 3.0 / 512.0 } else { 2e-5 };
                    for found in [out[place], plain[place]] {
                        let off = (f64::from(found) - mixed / sum).abs();
                        assert!(off < bound, "{query}, {head}, {i}: {found} {}", mixed / sum);
                    }
                }
            }
        }
        // Some of the queries get identical results, and so do the last ones as queries of their own: a single one has its
        // own kernel.
        for queries in
            [0..1, num_queries / 3..num_queries.div_ceil(2), num_queries - 1..num_queries]
        {
            let mut some = vec![7.0; queries.len() * width];
            attention.row(q, queries.clone(), k, v, &mut some);
            assert_eq!(some, out[queries.start * width..queries.end * width]);
        }
        if num_queries > 3 && num_queries <= num_keys {
            let mut last = vec![7.0; 2 * width];
            let q = q.block(num_queries - 2..num_queries, 0..q.columns);
            attention.row(q, 0..2, k, v, &mut last);
            assert_eq!(last, out[(num_queries - 2) * width..]);
        }
    }

    #[test]
    fn agrees_with_the_definition_at_the_sizes_of_models() {
        for (num_queries, num_keys, num_heads, head_dim) in
            [(16, 16, 12, 32), (129, 129, 2, 64), (1, 70, 2, 64), (1, 1, 1, 1), (5, 3, 2, 80)]
        {
            let causal = num_queries <= num_keys;
            let mask = if causal { AttentionMask::Causal } else { AttentionMask::Full };
            for (mask, with_bias) in [(AttentionMask::Full, false), (mask, false), (mask, causal)] {
                for bf16 in [false, true] {
                    check(&Case {
                        num_queries,
                        num_keys,
                        num_heads,
                        sharing: 1,
                        head_dim,
                        mask,
                        softcap: None,
                        with_bias,
                        alibi: None,
                        bf16,
                    });
                }
            }
        }
        if !has_bf16() {
            eprintln!("SKIPPED: bf16, which this processor does not have");
        }
        // Sums over more keys than one accumulation block.
        for bf16 in [false, true] {
            check(&Case {
                num_queries: 2,
                num_keys: 1100,
                num_heads: 1,
                sharing: 1,
                head_dim: 8,
                mask: AttentionMask::Causal,
                softcap: None,
                with_bias: false,
                alibi: None,
                bf16,
            });
        }
    }

    #[test]
    fn agrees_with_the_definition_at_the_sizes_of_decoders() {
        use AttentionMask::{Causal, CausalWindow, Full, Window};
        for (num_queries, num_keys, num_heads, sharing, head_dim) in
            [(70, 70, 4, 2, 24), (40, 65, 3, 3, 80), (1, 90, 4, 4, 256), (33, 33, 2, 1, 256)]
        {
            for mask in [Full, Causal, CausalWindow(1), CausalWindow(37), Window(5)] {
                for (softcap, with_bias, alibi) in [
                    (None, false, None),
                    (Some(2.0), false, Some(AlibiForm::Bf16Key { scale: 0.3 })),
                    (Some(9.0), true, None),
                    (None, true, Some(AlibiForm::Distance)),
                    (None, false, Some(AlibiForm::Distance)),
                ] {
                    for bf16 in [false, true] {
                        check(&Case {
                            num_queries,
                            num_keys,
                            num_heads,
                            sharing,
                            head_dim,
                            mask,
                            softcap,
                            with_bias,
                            alibi,
                            bf16,
                        });
                    }
                }
            }
        }
        // A window that begins in another accumulation block than its queries.
        for mask in [CausalWindow(700), Window(600)] {
            check(&Case {
                num_queries: 1300,
                num_keys: 1300,
                num_heads: 1,
                sharing: 1,
                head_dim: 8,
                mask,
                softcap: None,
                with_bias: false,
                alibi: Some(AlibiForm::Distance),
                bf16: false,
            });
        }
    }

    #[test]
    fn no_queries_or_keys_leave_the_output_alone() {
        let mut attention = Attention {
            num_heads: 1,
            scale: 1.0,
            bias: None,
            alibi: None,
            positions: None,
            mask: AttentionMask::Full,
            softcap: None,
            bf16: false,
            scratch: Scratch::default(),
        };
        let (none, one) = (Matrix::new(&[], 0, 2), Matrix::new(&[1.0, 2.0], 1, 2));
        attention.row(none, 0..0, one, one, &mut []);
        let mut out = [3.0, 4.0];
        attention.row(one, 0..1, none, none, &mut out);
        assert_eq!(out, [3.0, 4.0]);
    }

    #[test]
    fn nan_stays_in_its_own_row_and_head() {
        let numbers: Vec<f32> = (0..24).map(|i| if i == 13 { f32::NAN } else { 1.0 }).collect();
        let q = Matrix::new(&numbers, 6, 4);
        let ones = [1.0; 24];
        let k = Matrix::new(&ones, 6, 4);
        let mut attention = Attention {
            num_heads: 2,
            scale: 1.0,
            bias: None,
            alibi: None,
            positions: None,
            mask: AttentionMask::Full,
            softcap: None,
            bf16: false,
            scratch: Scratch::default(),
        };
        let mut out = [0.0; 24];
        for bf16 in [false, true] {
            attention.bf16 = bf16;
            attention.row(q, 0..6, k, k, &mut out);
            for (place, value) in out.into_iter().enumerate() {
                assert_eq!(value.is_nan(), place == 12 || place == 13, "{place}: {value}");
                assert!(value.is_nan() || (value - 1.0).abs() < 1e-6);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_definition_at_any_size(
            num_queries in 1usize..40,
            more_keys in 0usize..50,
            num_kv_heads in 1usize..4,
            sharing in 1usize..4,
            head_dim in 1usize..100,
            mask in prop_oneof![
                Just(AttentionMask::Full),
                Just(AttentionMask::Causal),
                (1usize..60).prop_map(AttentionMask::CausalWindow),
                (0usize..60).prop_map(AttentionMask::Window),
            ],
            capped: bool,
            with_bias: bool,
            alibi in prop_oneof![
                Just(None),
                Just(Some(AlibiForm::Distance)),
                Just(Some(AlibiForm::Bf16Key { scale: 0.3 })),
            ],
            bf16: bool,
        ) {
            let (num_keys, num_heads) = (num_queries + more_keys, num_kv_heads * sharing);
            let softcap = capped.then_some(3.0);
            check(&Case {
                num_queries,
                num_keys,
                num_heads,
                sharing,
                head_dim,
                mask,
                softcap,
                with_bias,
                alibi,
                bf16,
            });
        }
    }
}
