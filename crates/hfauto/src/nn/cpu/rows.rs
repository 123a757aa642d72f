//! Operations on rows: norms, log-sum-exp terms, quantization.
//!
//! The order of summation depends only on the length of a row. Not here: the layers (`crate::nn`), which provide rows
//! and parameters.

use pulp::{Arch, Simd, WithSimd};

use super::functions::{self, Exp};

/// The maximum and `Σ e^(x − max)`. Sums are f32 within a block and f64 over blocks, so that the error does not grow
/// with the number of elements.
pub(in crate::nn) fn max_and_sum_exp(values: &[f32]) -> (f32, f64) {
    const BLOCK: usize = 512;
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = max(values);
            let mut total = 0.0;
            let mut exps = [0f32; BLOCK];
            for block in values.chunks(BLOCK) {
                let exps = &mut exps[..block.len()];
                for (exp, value) in exps.iter_mut().zip(block) {
                    *exp = *value - max;
                }
                functions::map::<Exp>(exps);
                total += f64::from(sum(exps));
            }
            (max, total)
        },
    )
}

/// Layer normalization of each row of `weight.len()` elements of `x`, or of `x + residual`. The mean is subtracted
/// before squaring, so a large mean costs no precision. A row stays in the cache while it is processed.
///
/// # Panics
/// When the lengths do not match: a bug of the caller.
pub(in crate::nn) fn layer_norm(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) -> Vec<f32> {
    assert!(
        residual.is_none_or(|residual| residual.len() == x.len()),
        "bug: the residual has another length"
    );
    assert_eq!(weight.len(), bias.len(), "bug: the bias has another length");
    if weight.is_empty() {
        return Vec::new();
    }
    Arch::new().dispatch(LayerNorm { x, residual, weight, bias, eps })
}

/// Independent accumulators, to avoid a dependency chain.
const SUMS: usize = 4;

struct LayerNorm<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl WithSimd for LayerNorm<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { x, residual, weight, bias, eps } = self;
        let mut out = Vec::with_capacity(x.len());
        let columns = weight.len();
        let count = columns as f32;
        let (weights, last_weights) = S::as_simd_f32s(weight);
        let (biases, last_biases) = S::as_simd_f32s(bias);
        for (start, x) in (0..).step_by(columns).zip(x.chunks_exact(columns)) {
            match residual {
                Some(residual) => {
                    let residual = &residual[start..start + columns];
                    out.extend(x.iter().zip(residual).map(
                        #[inline(always)]
                        |(x, residual)| x + residual,
                    ));
                }
                None => out.extend_from_slice(x),
            }
            let row = &mut out[start..];
            let (vectors, rest) = S::as_mut_simd_f32s(row);
            let sum = total(
                simd,
                vectors,
                #[inline(always)]
                |sum, vector| simd.add_f32s(sum, vector),
            );
            let mean = (sum + rest.iter().sum::<f32>()) / count;
            let means = simd.splat_f32s(mean);
            let squares = total(
                simd,
                vectors,
                #[inline(always)]
                |sum, vector| {
                    let centred = simd.sub_f32s(vector, means);
                    simd.mul_add_e_f32s(centred, centred, sum)
                },
            );
            let squares = squares + rest.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>();
            let inverse_std = 1.0 / (squares / count + eps).sqrt();
            let inverse_stds = simd.splat_f32s(inverse_std);
            for ((vector, weight), bias) in vectors.iter_mut().zip(weights).zip(biases) {
                let scaled = simd.mul_f32s(simd.sub_f32s(*vector, means), inverse_stds);
                *vector = simd.mul_add_e_f32s(scaled, *weight, *bias);
            }
            for ((value, weight), bias) in rest.iter_mut().zip(last_weights).zip(last_biases) {
                *value = (*value - mean) * inverse_std * weight + bias;
            }
        }
        out
    }
}

/// Root mean square normalization of each row of `weight.len()` elements, in place.
pub(in crate::nn) fn rms_norm(values: &mut [f32], weight: &[f32], eps: f32) {
    if !weight.is_empty() {
        Arch::new().dispatch(RmsNorm { values, weight, eps });
    }
}

struct RmsNorm<'a> {
    values: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let count = self.weight.len() as f32;
        for row in self.values.chunks_exact_mut(self.weight.len()) {
            let (vectors, rest) = S::as_simd_f32s(row);
            let squares = total(
                simd,
                vectors,
                #[inline(always)]
                |sum, vector| simd.mul_add_e_f32s(vector, vector, sum),
            );
            let squares = squares + rest.iter().map(|v| v * v).sum::<f32>();
            let inverse = 1.0 / (squares / count + self.eps).sqrt();
            for (value, weight) in row.iter_mut().zip(self.weight) {
                *value = *value * inverse * weight;
            }
        }
    }
}

/// The sum over all rows of `columns` elements.
pub(in crate::nn) fn sum_rows(x: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    if columns > 0 {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for row in x.chunks_exact(columns) {
                    for (sum, number) in sums.iter_mut().zip(row) {
                        *sum += number;
                    }
                }
            },
        );
    }
    sums
}

/// `f` of each element of `x` with that of `y`, which is repeated: a whole number of times, unless one of them is empty.
pub(in crate::nn) fn zip_repeated(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    if let &[y] = y {
        Arch::new().dispatch(
            #[inline(always)]
            || out.extend(x.iter().map(|x| f(*x, y))),
        );
    } else if !y.is_empty() {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for x in x.chunks_exact(y.len()) {
                    out.extend(x.iter().zip(y).map(|(x, y)| f(*x, *y)));
                }
            },
        );
    }
    out
}

/// Writes the elementwise product `x · factors` to `out`.
pub(in crate::nn) fn multiply(out: &mut [f32], x: &[f32], factors: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
                *out = x * factor;
            }
        },
    );
}

/// The largest quantized number.
const QUANT_MAX: f32 = 255.0;

/// Quantizes `x` to `values` of `0..=255` with `x ≈ scale · (value − zero_point)`. Returns the scale and the zero
/// point. Zero is represented exactly. The scale is NaN if an element is not finite.
///
/// # Panics
/// When the lengths differ: a bug of the caller.
pub(in crate::nn) fn quantize_to_u8(values: &mut [u8], x: &[f32]) -> (f32, u8) {
    assert_eq!(values.len(), x.len(), "bug: the numbers of values and elements differ");
    Arch::new().dispatch(Quantize { values, x })
}

/// Quantizes `x` to `values` of `−most..=most` with `x ≈ scale · value`. Returns the scale, NaN if an element is not
/// finite. `most` is a whole number of at most 32,767.
///
/// # Panics
/// When the lengths differ: a bug of the caller.
pub(in crate::nn) fn quantize_to_i16(values: &mut [i16], x: &[f32], most: f32) -> f32 {
    assert_eq!(values.len(), x.len(), "bug: the numbers of values and elements differ");
    Arch::new().dispatch(QuantizeWide { values, x, most })
}

struct QuantizeWide<'a> {
    values: &'a mut [i16],
    x: &'a [f32],
    most: f32,
}

impl WithSimd for QuantizeWide<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        /// Adding 1.5 · 2²³ leaves the nearest integer, of either sign, in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        let Self { values, x, most } = self;
        let (low, high) = bounds(simd, x);
        let largest = high.max(-low);
        let inverse = most / largest;
        if !inverse.is_finite() || inverse == 0.0 {
            // As in `Quantize`.
            values.fill(0);
            return if largest < 1.0 { 1.0 } else { f32::NAN };
        }
        for (value, x) in values.iter_mut().zip(x) {
            *value = (x * inverse + ROUND).to_bits() as i16;
        }
        largest / most
    }
}

struct Quantize<'a> {
    values: &'a mut [u8],
    x: &'a [f32],
}

impl WithSimd for Quantize<'_> {
    type Output = (f32, u8);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, u8) {
        /// Elements that are quantized together.
        const BLOCK: usize = 64;
        let Self { values, x } = self;
        let (low, high) = bounds(simd, x);
        let inverse = QUANT_MAX / (high - low);
        if !inverse.is_finite() || inverse == 0.0 {
            // All elements are zero or close to it, or one is not finite, or their range overflows.
            values.fill(0);
            return (if high - low < 1.0 { 1.0 } else { f32::NAN }, 0);
        }
        let zero_point = (-low * inverse).round_ties_even();
        // A constant length lets the compiler vectorize the loop well.
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        let (x_blocks, x_rest) = x.as_chunks::<BLOCK>();
        for (values, x) in blocks.iter_mut().zip(x_blocks) {
            quantize(values, x, inverse, zero_point);
        }
        quantize(rest, x_rest, inverse, zero_point);
        ((high - low) / QUANT_MAX, zero_point as u8)
    }
}

#[inline(always)]
fn quantize(values: &mut [u8], x: &[f32], inverse: f32, zero_point: f32) {
    /// Adding 2²³ leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 8_388_608.0;
    for (value, x) in values.iter_mut().zip(x) {
        let rounded = x * inverse + (zero_point + ROUND);
        let rounded = if rounded < QUANT_MAX + ROUND { rounded } else { QUANT_MAX + ROUND };
        let rounded = if rounded > ROUND { rounded } else { ROUND };
        *value = rounded.to_bits() as u8;
    }
}

/// The minimum and maximum of the elements and 0; both are NaN if an element is not finite.
#[inline(always)]
fn bounds<S: Simd>(simd: S, x: &[f32]) -> (f32, f32) {
    let (vectors, rest) = S::as_simd_f32s(x);
    let zero = simd.splat_f32s(0.0);
    let (mut low, mut high, mut nothing) = ([zero; SUMS], [zero; SUMS], [zero; SUMS]);
    let last = [if rest.is_empty() { zero } else { simd.partial_load_f32s(rest) }];
    for group in vectors.chunks(SUMS).chain([&last[..]]) {
        for (i, vector) in group.iter().enumerate() {
            low[i] = simd.min_f32s(*vector, low[i]);
            high[i] = simd.max_f32s(*vector, high[i]);
            // `x · 0` is NaN for elements that are not finite.
            nothing[i] = simd.mul_add_e_f32s(*vector, zero, nothing[i]);
        }
    }
    let low = low.into_iter().reduce(|one, other| simd.min_f32s(one, other));
    let high = high.into_iter().reduce(|one, other| simd.max_f32s(one, other));
    let nothing = nothing.into_iter().reduce(|one, other| simd.add_f32s(one, other));
    let nothing = simd.reduce_sum_f32s(nothing.unwrap_or(zero));
    let (low, high) = (low.unwrap_or(zero), high.unwrap_or(zero));
    (simd.reduce_min_f32s(low) + nothing, simd.reduce_max_f32s(high) + nothing)
}

/// Folds `f` over the vectors in independent accumulators, and adds those up.
#[inline(always)]
fn total<S: Simd>(simd: S, vectors: &[S::f32s], f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); SUMS];
    let (groups, last) = vectors.as_chunks::<SUMS>();
    for group in groups {
        for (sum, vector) in sums.iter_mut().zip(group) {
            *sum = f(*sum, *vector);
        }
    }
    for (sum, vector) in sums.iter_mut().zip(last) {
        *sum = f(*sum, *vector);
    }
    let sum = sums.into_iter().reduce(|one, other| simd.add_f32s(one, other));
    sum.map_or(0.0, |sum| simd.reduce_sum_f32s(sum))
}

/// The number of independent lanes of a sum: two AVX-512 or four AVX2 registers.
const LANES: usize = 32;

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The largest element, −∞ without any; NaN is ignored.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::super::packed::tests::numbers;
    use super::*;

    #[test]
    fn norms_agree_with_their_definition_at_any_width() {
        for columns in [1, 3, 31, 32, 64, 100, 385] {
            let x: Vec<f32> = numbers(3 * columns, 1).iter().map(|x| 5.0 * x + 2.0).collect();
            let (residual, weight) = (numbers(3 * columns, 2), numbers(columns, 3));
            let bias = numbers(columns, 4);
            let layer_normed = layer_norm(&x, Some(&residual), &weight, &bias, 1e-5);
            let alone = layer_norm(&x[columns..2 * columns], None, &weight, &bias, 1e-5);
            let mut rms_normed = x.clone();
            rms_norm(&mut rms_normed, &weight, 1e-5);
            let (x, weight, bias, eps) = (&x[..], &weight[..], &bias[..], 1e-5);
            let plain = LayerNorm { x, residual: Some(&residual), weight, bias, eps };
            let plain = plain.with_simd(pulp::Scalar::new());
            for row in 0..3 {
                let of = |values: &[f32], i: usize| f64::from(values[row * columns + i]);
                let count = columns as f64;
                let norm = |values: &[f64], i: usize| {
                    let mean = values.iter().sum::<f64>() / count;
                    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                    let scaled = (values[i] - mean) / (variance + 1e-5).sqrt();
                    scaled * f64::from(weight[i]) + f64::from(bias[i])
                };
                let all: Vec<f64> = (0..columns).map(|i| of(x, i)).collect();
                let added: Vec<f64> = (0..columns).map(|i| of(x, i) + of(&residual, i)).collect();
                let mean_square = all.iter().map(|v| v * v).sum::<f64>() / count;
                for i in 0..columns {
                    assert!((of(&layer_normed, i) - norm(&added, i)).abs() < 2e-6);
                    assert!((of(&plain, i) - norm(&added, i)).abs() < 2e-6);
                    assert!(row != 1 || (f64::from(alone[i]) - norm(&all, i)).abs() < 2e-6);
                    let expected = all[i] / (mean_square + 1e-5).sqrt() * f64::from(weight[i]);
                    assert!((of(&rms_normed, i) - expected).abs() < 2e-6);
                }
            }
        }
        assert!(layer_norm(&[], None, &[], &[], 1e-5).is_empty());
    }

    #[test]
    fn layer_norm_is_precise_under_a_large_mean() {
        let values: Vec<f32> = (0..64).map(|i| 10_000.0 + (i % 2) as f32).collect();
        let values = layer_norm(&values, None, &[1.0; 64], &[0.0; 64], 1e-12);
        for (i, value) in values.iter().enumerate() {
            let expected = if i % 2 == 0 { -1.0 } else { 1.0 };
            assert!((value - expected).abs() < 1e-5, "{i}: {value}");
        }
    }
}
