//! The microkernel of matrix products: a few rows times a panel, with register blocking.
//!
//! Not here: the rows and panels; see `packed` for weights and `attention` for keys and values. The entry is [`tile`].

use std::array;
use std::ops::Range;

use pulp::Simd;

/// Columns of a panel: a multiple of every processor's vector length.
pub(super) const PANEL: usize = 32;

/// The number of products that are accumulated before they are added to the total, which slows the growth of rounding
/// errors.
const DEPTH: usize = 512;

/// How one row of a panel is stored and multiplied. Sums are f32.
pub(super) trait Multiply<S: Simd>: Copy {
    /// Elements of a row of `x` that one row of a panel is multiplied by, one after the other.
    const PARTS: usize;

    /// The weights in one vector of a row of a panel for element `part` of `x`.
    fn weights(self, simd: S, vector: S::f32s, part: usize) -> S::f32s;

    /// Adds to `sum` the products of `a` and `b`, or the dot product of each group of `a` with that of `b`.
    fn multiply_add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;
}

/// The element type of a product: f32, or a group of narrower elements in the 32 bits of an f32 that one instruction
/// multiplies and accumulates.
pub(super) trait Operands<S: Simd>: Multiply<S> {
    /// Elements of a group.
    const GROUP: usize;

    /// Builds groups from two vectors: the first element from `first` and the second, if groups have one, from
    /// `second`.
    fn join(self, simd: S, first: S::f32s, second: S::f32s) -> S::f32s;

    /// Packs contiguous elements into groups. Pads the last group with zeros.
    fn group(self, simd: S, groups: &mut [f32], x: &[f32]);

    /// Like [`group`](Self::group), in place.
    fn group_in_place(self, simd: S, x: &mut [f32]);
}

/// Plain f32 elements.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl<S: Simd> Multiply<S> for F32 {
    const PARTS: usize = 1;

    #[inline(always)]
    fn weights(self, _: S, vector: S::f32s, _: usize) -> S::f32s {
        vector
    }

    #[inline(always)]
    fn multiply_add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }
}

/// Rows of f32 times panels of pairs of bf16, which are widened in registers: the products and sums of [`F32`]. A pair is the
/// weights of two consecutive elements of `x`, the first in the low half of the 32 bits.
#[derive(Clone, Copy)]
pub(super) struct Widened;

impl<S: Simd> Multiply<S> for Widened {
    const PARTS: usize = 2;

    #[inline(always)]
    fn weights(self, simd: S, vector: S::f32s, part: usize) -> S::f32s {
        // A bf16 is the upper half of an f32.
        let pairs = simd.transmute_u32s_f32s(vector);
        let bits = if part == 0 {
            simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16))
        } else {
            simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000))
        };
        simd.transmute_f32s_u32s(bits)
    }

    #[inline(always)]
    fn multiply_add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }
}

impl<S: Simd> Operands<S> for F32 {
    const GROUP: usize = 1;

    #[inline(always)]
    fn join(self, _: S, first: S::f32s, _: S::f32s) -> S::f32s {
        first
    }

    /// Like `copy_from_slice`, whose call costs more than copying so few elements.
    #[inline(always)]
    fn group(self, _: S, groups: &mut [f32], x: &[f32]) {
        let ((groups, last_groups), (x, last)) = (S::as_mut_simd_f32s(groups), S::as_simd_f32s(x));
        for (group, x) in groups.iter_mut().zip(x) {
            *group = *x;
        }
        for (group, x) in last_groups.iter_mut().zip(last) {
            *group = *x;
        }
    }

    #[inline(always)]
    fn group_in_place(self, _: S, _: &mut [f32]) {}
}

/// Overwrites `sums` with the product of rows `x`, all of one length, and a panel with as many rows of `VECTORS`
/// vectors. A row's result does not depend on `ROWS`, or on the `skipped` leading zeros that the
/// caller omits. Returning the sums by value would copy them with `memmove`.
#[inline(always)]
pub(super) fn tile<S: Simd, O: Multiply<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    operands: O,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
    x: &[&[f32]; ROWS],
    panel: &[S::f32s],
    skipped: usize,
) {
    let depth = x[0].len();
    let first = depth.min(DEPTH - skipped % DEPTH);
    add_up(simd, operands, sums, x, panel, 0..first);
    for start in (first..depth).step_by(DEPTH) {
        let mut more = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        let places = start..depth.min(start + DEPTH);
        add_up(simd, operands, &mut more, x, panel, places);
        for (sums, more) in sums.iter_mut().zip(&more) {
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum = simd.add_f32s(*sum, *more);
            }
        }
    }
}

/// The same for at most [`DEPTH`] products.
#[inline(always)]
fn add_up<S: Simd, O: Multiply<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    operands: O,
    out: &mut [[S::f32s; VECTORS]; ROWS],
    x: &[&[f32]; ROWS],
    panel: &[S::f32s],
    places: Range<usize>,
) {
    let parts: [&[f32]; ROWS] = array::from_fn(
        #[inline(always)]
        |row| &x[row][places.clone()],
    );
    let weights = &panel.as_chunks::<VECTORS>().0[places.start / O::PARTS..];
    let (whole, rest) = (places.len() / O::PARTS, places.len() % O::PARTS);
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (place, row) in weights[..whole].iter().enumerate() {
        for part in 0..O::PARTS {
            multiply_row(simd, operands, &mut sums, &parts, row, (place, part));
        }
    }
    for part in 0..rest {
        multiply_row(simd, operands, &mut sums, &parts, &weights[whole], (whole, part));
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = *sum;
        }
    }
}

/// Adds to `sums` the products of one element of each row of `x` and a row of a panel.
#[inline(always)]
fn multiply_row<S: Simd, O: Multiply<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    operands: O,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
    x: &[&[f32]; ROWS],
    row: &[S::f32s; VECTORS],
    (place, part): (usize, usize),
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        let x = simd.splat_f32s(x[place * O::PARTS + part]);
        for (sum, vector) in sums.iter_mut().zip(row) {
            let weights = operands.weights(simd, *vector, part);
            *sum = operands.multiply_add(simd, x, weights, *sum);
        }
    }
}
