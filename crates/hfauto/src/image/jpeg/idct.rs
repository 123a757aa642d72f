//! Dequantizes coefficients and transforms them to samples: libjpeg's accurate integer IDCT (`JDCT_ISLOW`).
//!
//! # Source
//! `src/jidctint.c` of libjpeg-turbo 3.

use std::num::Wrapping;

/// Samples along a side of a block.
pub(super) const SIDE: usize = 8;
/// Coefficients of a block.
pub(super) const BLOCK: usize = SIDE * SIDE;

/// Fraction bits of the constants.
const CONST_BITS: usize = 13;
/// Fraction bits kept between the passes.
const PASS1_BITS: usize = 2;

const fn fix(x: f64) -> Wrapping<i32> {
    Wrapping((x * (1 << CONST_BITS) as f64 + 0.5) as i32)
}

const FIX_0_298631336: Wrapping<i32> = fix(0.298_631_336);
const FIX_0_390180644: Wrapping<i32> = fix(0.390_180_644);
const FIX_0_541196100: Wrapping<i32> = fix(0.541_196_100);
const FIX_0_765366865: Wrapping<i32> = fix(0.765_366_865);
const FIX_0_899976223: Wrapping<i32> = fix(0.899_976_223);
const FIX_1_175875602: Wrapping<i32> = fix(1.175_875_602);
const FIX_1_501321110: Wrapping<i32> = fix(1.501_321_110);
const FIX_1_847759065: Wrapping<i32> = fix(1.847_759_065);
const FIX_1_961570560: Wrapping<i32> = fix(1.961_570_560);
const FIX_2_053119869: Wrapping<i32> = fix(2.053_119_869);
const FIX_2_562915447: Wrapping<i32> = fix(2.562_915_447);
const FIX_3_072711026: Wrapping<i32> = fix(3.072_711_026);

/// The samples of a block, row by row, from its quantized coefficients and the quantization table, both row by row.
pub(super) fn idct(coefficients: &[i16; BLOCK], steps: &[u16; BLOCK]) -> [u8; BLOCK] {
    // Coefficients of damaged files overflow; libjpeg wraps them too.
    let mut block = [Wrapping(0i32); BLOCK];
    for ((value, coefficient), step) in block.iter_mut().zip(coefficients).zip(steps) {
        *value = Wrapping(i32::from(coefficient.wrapping_mul(*step as i16)));
    }
    for column in 0..SIDE {
        let values = std::array::from_fn(|row| block[row * SIDE + column]);
        let values = one_dimension(values, CONST_BITS - PASS1_BITS);
        for (row, value) in values.into_iter().enumerate() {
            block[row * SIDE + column] = value;
        }
    }
    let mut samples = [0; BLOCK];
    for (row, samples) in block.chunks_exact(SIDE).zip(samples.chunks_exact_mut(SIDE)) {
        let values = std::array::from_fn(|column| row[column]);
        let values = one_dimension(values, CONST_BITS + PASS1_BITS + 3);
        for (sample, value) in samples.iter_mut().zip(values) {
            *sample = (value.0.saturating_add(128)).clamp(0, 255) as u8;
        }
    }
    samples
}

fn one_dimension(x: [Wrapping<i32>; SIDE], descale: usize) -> [Wrapping<i32>; SIDE] {
    let z1 = (x[2] + x[6]) * FIX_0_541196100;
    let tmp2 = z1 - x[6] * FIX_1_847759065;
    let tmp3 = z1 + x[2] * FIX_0_765366865;
    let tmp0 = (x[0] + x[4]) << CONST_BITS;
    let tmp1 = (x[0] - x[4]) << CONST_BITS;
    let even = [tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3];

    let z5 = (x[7] + x[3] + x[5] + x[1]) * FIX_1_175875602;
    let z1 = (x[7] + x[1]) * FIX_0_899976223;
    let z2 = (x[5] + x[3]) * FIX_2_562915447;
    let z3 = z5 - (x[7] + x[3]) * FIX_1_961570560;
    let z4 = z5 - (x[5] + x[1]) * FIX_0_390180644;
    let odd = [
        x[1] * FIX_1_501321110 - z1 + z4,
        x[3] * FIX_3_072711026 - z2 + z3,
        x[5] * FIX_2_053119869 - z2 + z4,
        x[7] * FIX_0_298631336 - z1 + z3,
    ];
    let half = Wrapping(1 << (descale - 1));
    std::array::from_fn(|place| {
        let sum = match place {
            0..4 => even[place] + odd[place],
            _ => even[7 - place] - odd[7 - place],
        };
        (sum + half) >> descale
    })
}
