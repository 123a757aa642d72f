//! The tile that products consist of: a few rows times a panel, with all accumulators in registers.
//!
//! Not here: what rows and panels are; see `packed` for weights and `attention` for keys and values. The entry is
//! [`tile`].

use std::array;
use std::ops::Range;

use pulp::Simd;

/// Columns of a product that lie side by side: a multiple of every processor's vectors.
pub(super) const PANEL: usize = 32;

/// Places that are added up by themselves before they are added to the rest, so that errors grow less with their
/// number.
const DEPTH: usize = 512;

/// What is multiplied: f32, or narrower numbers, of which a group that is multiplied and added up at once lies in the 32
/// bits of an f32. Sums are f32.
pub(super) trait Operands<S: Simd>: Copy {
    /// Numbers of a group.
    const GROUP: usize;

    /// `sum`, and the products of each group of `a` with that of `b`.
    fn multiply_add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;

    /// Groups of which each takes its first number from `first` and, if it has another one, that from `second`.
    fn join(self, simd: S, first: S::f32s, second: S::f32s) -> S::f32s;

    /// Groups of numbers side by side; what `x` lacks of the last one is zero.
    fn group(self, simd: S, groups: &mut [f32], x: &[f32]);

    /// As [`group`](Self::group), to where the numbers are.
    fn group_in_place(self, simd: S, x: &mut [f32]);
}

/// Numbers as they are.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl<S: Simd> Operands<S> for F32 {
    const GROUP: usize = 1;

    #[inline(always)]
    fn multiply_add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }

    #[inline(always)]
    fn join(self, _: S, first: S::f32s, _: S::f32s) -> S::f32s {
        first
    }

    /// As `copy_from_slice`, whose call costs more than so few numbers.
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

/// `sums` becomes rows of `x`, all of one length, times a panel of as many rows of `VECTORS` vectors. A row's numbers do not
/// depend on `ROWS`. (Returned, the sums would go through `memmove`.)
#[inline(always)]
pub(super) fn tile<S: Simd, O: Operands<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    operands: O,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
    x: &[&[f32]; ROWS],
    panel: &[S::f32s],
) {
    let depth = x[0].len();
    add_up(simd, operands, sums, x, panel, 0..depth.min(DEPTH));
    for start in (DEPTH..depth).step_by(DEPTH) {
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

/// Of these places alone.
#[inline(always)]
fn add_up<S: Simd, O: Operands<S>, const ROWS: usize, const VECTORS: usize>(
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
    let weights = panel[places.start * VECTORS..places.end * VECTORS].chunks_exact(VECTORS);
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (place, weights) in weights.enumerate() {
        for (sums, x) in sums.iter_mut().zip(&parts) {
            let x = simd.splat_f32s(x[place]);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = operands.multiply_add(simd, x, *weight, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = *sum;
        }
    }
}
