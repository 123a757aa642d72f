//! Transposes rows of numbers into panels, by vector shuffles where the processor has them. Not here: panels of other
//! types. The entry is [`transpose`].

use std::array;

use pulp::Simd;

use super::tile::PANEL;

/// The rows that are transposed together.
const ROWS: usize = PANEL / 2;

/// Rows of numbers, each `distance` numbers after the one before.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) distance: usize,
}

/// Transposes the first `columns` numbers of `PANEL / 2` rows into rows of `out` with the given `stride`.
#[inline(always)]
pub(super) fn transpose<S: Simd>(
    simd: S,
    out: &mut [f32],
    stride: usize,
    rows: Strided<'_>,
    columns: usize,
) {
    let done = transpose_squares(simd, out, stride, rows, columns);
    for column in done..columns {
        let numbers: [f32; ROWS] = array::from_fn(
            #[inline(always)]
            |row| rows.numbers[row * rows.distance + column],
        );
        out[column * stride..][..ROWS].copy_from_slice(&numbers);
    }
}

/// Like [`transpose`], but only for whole squares, by vector shuffles. Returns the number of transposed columns, which is 0
/// without AVX.
#[inline(always)]
fn transpose_squares<S: Simd>(
    simd: S,
    out: &mut [f32],
    stride: usize,
    rows: Strided<'_>,
    columns: usize,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V4>() {
        /// Indices that interleave two vectors: their low halves, and their high halves.
        const TURNS: [[u32; ROWS]; 2] = [
            [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23],
            [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31],
        ];
        let [low, high] = TURNS.map(pulp::cast);
        let squares = columns / ROWS;
        for square in 0..squares {
            let mut vectors: [pulp::f32x16; ROWS] = array::from_fn(
                #[inline(always)]
                |row| {
                    let start = row * rows.distance + square * ROWS;
                    simd.partial_load_f32s(&rows.numbers[start..][..ROWS])
                },
            );
            // Each iteration moves one bit of an element's index from its row to its column.
            for _ in 0..ROWS.ilog2() {
                let mut turned = vectors;
                for row in 0..ROWS / 2 {
                    let (a, b) = (pulp::cast(vectors[row]), pulp::cast(vectors[row + ROWS / 2]));
                    turned[2 * row] = pulp::cast(simd.avx512f._mm512_permutex2var_ps(a, low, b));
                    turned[2 * row + 1] =
                        pulp::cast(simd.avx512f._mm512_permutex2var_ps(a, high, b));
                }
                vectors = turned;
            }
            for (column, vector) in (square * ROWS..).zip(vectors) {
                let numbers: [f32; ROWS] = pulp::cast(vector);
                out[column * stride..][..ROWS].copy_from_slice(&numbers);
            }
        }
        return squares * ROWS;
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V3>() {
        const LANES: usize = 8;
        let squares = columns / LANES;
        for (square, first) in (0..squares).flat_map(|square| [(square, 0), (square, LANES)]) {
            let mut vectors: [pulp::f32x8; LANES] = array::from_fn(
                #[inline(always)]
                |row| {
                    let start = (first + row) * rows.distance + square * LANES;
                    simd.partial_load_f32s(&rows.numbers[start..][..LANES])
                },
            );
            // As above: the vectors of a pair are interleaved, here by halves of 128 bits.
            for _ in 0..LANES.ilog2() {
                let mut turned = vectors;
                for row in 0..LANES / 2 {
                    let (a, b) = (pulp::cast(vectors[row]), pulp::cast(vectors[row + LANES / 2]));
                    let low = simd.avx._mm256_unpacklo_ps(a, b);
                    let high = simd.avx._mm256_unpackhi_ps(a, b);
                    turned[2 * row] =
                        pulp::cast(simd.avx._mm256_permute2f128_ps::<0x20>(low, high));
                    turned[2 * row + 1] =
                        pulp::cast(simd.avx._mm256_permute2f128_ps::<0x31>(low, high));
                }
                vectors = turned;
            }
            for (column, vector) in (square * LANES..).zip(vectors) {
                let numbers: [f32; LANES] = pulp::cast(vector);
                out[column * stride + first..][..LANES].copy_from_slice(&numbers);
            }
        }
        return squares * LANES;
    }
    let _ = (simd, out, stride, rows, columns);
    0
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    struct Transposed<'a> {
        out: &'a mut [f32],
        rows: Strided<'a>,
        columns: usize,
    }

    impl WithSimd for Transposed<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            transpose(simd, self.out, PANEL, self.rows, self.columns);
        }
    }

    #[test]
    fn columns_become_rows_with_every_instruction_set() {
        for columns in [1, 8, 16, 40, 53] {
            let distance = columns + 3;
            let numbers: Vec<f32> = (0..ROWS * distance).map(|i| i as f32).collect();
            let rows = Strided { numbers: &numbers, distance };
            let check = |dispatch: &dyn Fn(Transposed<'_>)| {
                let mut out = vec![-1.0; columns * PANEL];
                dispatch(Transposed { out: &mut out, rows, columns });
                for (column, out) in out.chunks_exact(PANEL).enumerate() {
                    let expected: [f32; ROWS] =
                        array::from_fn(|row| numbers[row * distance + column]);
                    assert_eq!(out[..ROWS], expected);
                    assert_eq!(out[ROWS..], [-1.0; PANEL - ROWS]);
                }
            };
            check(&|transposed| Arch::new().dispatch(transposed));
            check(&|transposed| transposed.with_simd(pulp::Scalar::new()));
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                check(&|transposed| Simd::vectorize(simd, transposed));
            }
        }
    }
}
