//! Elementary functions of vectors, and activation functions built from them.
//!
//! Written once against `pulp`'s vectors, for any vector width. The functions are free of branches, and NaN stays NaN.
//! Not here: which activation a model uses (`crate::nn::Activation`). The entry is [`map`].

use pulp::{Arch, Simd, WithSimd};

/// An elementwise function, written for vectors.
pub(in crate::nn) trait Function {
    /// Applies the function to each element of `x`.
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s;
}

/// Applies a function to every element.
pub(in crate::nn) fn map<F: Function>(values: &mut [f32]) {
    struct Map<'a, F> {
        values: &'a mut [f32],
        function: std::marker::PhantomData<F>,
    }

    impl<F: Function> WithSimd for Map<'_, F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.values);
            for vector in vectors {
                *vector = F::of(simd, *vector);
            }
            if !rest.is_empty() {
                simd.partial_store_f32s(rest, F::of(simd, simd.partial_load_f32s(rest)));
            }
        }
    }

    Arch::new().dispatch(Map::<F> { values, function: std::marker::PhantomData });
}

/// `x · Φ(x)`, with the cumulative distribution function of the normal distribution accurate to 2·10⁻⁷.
pub(in crate::nn) struct Gelu;

impl Function for Gelu {
    /// `Φ(x) = ½ + x · P(x²) / Q(x²)` for |x| ≤ 5.5; beyond, `Φ` is 0 or 1. The coefficients minimize the maximum
    /// error: 7·10⁻⁹ before rounding.
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        const BOUND: f32 = 5.5;
        const P: [f32; 6] = [
            2.274_945_7e-8,
            6.352_091_5e-6,
            1.688_238_4e-4,
            4.677_249_6e-3,
            3.385_248e-2,
            3.989_422_3e-1,
        ];
        const Q: [f32; 6] =
            [1.197_504_6e-6, 7.364_683_6e-5, 1.884_434_7e-3, 2.864_577_4e-2, 2.515_215e-1, 1.0];
        let clamped = clamp(simd, x, -BOUND, BOUND);
        let square = simd.mul_f32s(clamped, clamped);
        let quotient = simd.div_f32s(polynomial(simd, square, P), polynomial(simd, square, Q));
        let phi = simd.mul_add_e_f32s(clamped, quotient, simd.splat_f32s(0.5));
        // The remainder is tiny, but is multiplied by a large number.
        let too_low = simd.less_than_f32s(x, simd.splat_f32s(-BOUND));
        simd.mul_f32s(x, simd.select_f32s(too_low, simd.splat_f32s(0.0), phi))
    }
}

/// `x · Φ(x)` accurate to 2·10⁻⁴, for inputs of 8-bit layers, in half the time of [`Gelu`].
pub(in crate::nn) struct CoarseGelu;

impl Function for CoarseGelu {
    /// `Φ(x) = ½ + x · P(x²)` for |x| ≤ 4; beyond, it is 0 or 1. The polynomial meets these values at the ends, and
    /// minimizes the maximum error times `x`.
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        const BOUND: f32 = 4.0;
        const P: [f32; 7] = [
            2.258_821_2e-8,
            -1.588_827_4e-6,
            4.776_389_3e-5,
            -8.121_875_6e-4,
            8.763_691e-3,
            -6.455_441_6e-2,
            3.978_702_7e-1,
        ];
        let clamped = clamp(simd, x, -BOUND, BOUND);
        let quotient = polynomial(simd, simd.mul_f32s(clamped, clamped), P);
        simd.mul_f32s(x, simd.mul_add_e_f32s(clamped, quotient, simd.splat_f32s(0.5)))
    }
}

/// The tanh approximation of GELU.
pub(in crate::nn) struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        /// √(2/π).
        const SQRT_2_OVER_PI: f32 = 0.797_884_6;
        // ½ · x · (1 + tanh(y)) is x · σ(2 · y).
        let (one, cubic) = (simd.splat_f32s(1.0), simd.splat_f32s(0.044_715));
        let inner = simd.mul_add_e_f32s(simd.mul_f32s(x, x), cubic, one);
        let scaled = simd.mul_f32s(x, simd.splat_f32s(2.0 * SQRT_2_OVER_PI));
        simd.mul_f32s(x, sigmoid(simd, simd.mul_f32s(scaled, inner)))
    }
}

/// `x · σ(1.702 · x)`.
pub(in crate::nn) struct QuickGelu;

impl Function for QuickGelu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, sigmoid(simd, simd.mul_f32s(x, simd.splat_f32s(1.702))))
    }
}

/// The larger of `x` and 0.
pub(in crate::nn) struct Relu;

impl Function for Relu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        // Not the processor's maximum, which may turn NaN into 0.
        let zero = simd.splat_f32s(0.0);
        simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
    }
}

/// `e^x`.
pub(in crate::nn) struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        exp(simd, x)
    }
}

/// `σ(x)`.
pub(in crate::nn) struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        sigmoid(simd, x)
    }
}

/// `x · σ(x)`.
pub(in crate::nn) struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, sigmoid(simd, x))
    }
}

/// The hyperbolic tangent, accurate to 2·10⁻⁷.
pub(in crate::nn) struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        let (one, two) = (simd.splat_f32s(1.0), simd.splat_f32s(2.0));
        let power = exp(simd, simd.add_f32s(x, x));
        simd.sub_f32s(one, simd.div_f32s(two, simd.add_f32s(power, one)))
    }
}

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `e^x`, accurate to about one unit in the last place. It is 0 below −87.3 and about 3·10³⁸ above 88.3, never
/// subnormal. NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, then a polynomial with a maximum relative error of 2·10⁻⁹.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// ln 2 in two parts: `n * LN2_HIGH` is exact for the `n` that occur.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// e^x is a normal number above this value.
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;
    const POLYNOMIAL: [f32; 7] =
        [1.383_684_6e-3, 8.374_816e-3, 4.166_822_5e-2, 1.666_642e-1, 4.999_999e-1, 1.0, 1.0];
    let round = simd.splat_f32s(ROUND);
    let clamped = clamp(simd, x, LOWEST, HIGHEST);
    let log2_e = simd.splat_f32s(std::f32::consts::LOG2_E);
    let shifted = simd.mul_add_e_f32s(clamped, log2_e, round);
    let n = simd.sub_f32s(shifted, round);
    let r = simd.negate_mul_add_e_f32s(n, simd.splat_f32s(LN2_HIGH), clamped);
    let r = simd.negate_mul_add_e_f32s(n, simd.splat_f32s(LN2_LOW), r);
    let power = scaled(simd, polynomial(simd, r, POLYNOMIAL), shifted);
    let too_low = simd.less_than_f32s(x, simd.splat_f32s(LOWEST));
    simd.select_f32s(too_low, simd.splat_f32s(0.0), power)
}

/// `2^x` for `x ≤ 0`, accurate to about one unit in the last place. Below −126, it returns `2^−126`, which is
/// negligible beside the maximum of 1. NaN stays NaN. Cheaper than [`exp`], because the remainder of `x` after rounding
/// is exact.
#[inline(always)]
pub(super) fn exp2_of_negative<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LOWEST: f32 = -126.0;
    const POLYNOMIAL: [f32; 6] =
        [1.327_398_2e-3, 9.671_97e-3, 5.550_680_3e-2, 2.402_223_5e-1, 6.931_470_6e-1, 1.0];
    let lowest = simd.splat_f32s(LOWEST);
    // A comparison with NaN is false.
    let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
    let round = simd.splat_f32s(ROUND);
    let shifted = simd.add_f32s(x, round);
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, round));
    scaled(simd, polynomial(simd, r, POLYNOMIAL), shifted)
}

/// `x · 2ⁿ`, with `n` in the low bits of `shifted`; argument and result are normal numbers.
#[inline(always)]
fn scaled<S: Simd>(simd: S, x: S::f32s, shifted: S::f32s) -> S::f32s {
    let bits = simd.transmute_u32s_f32s(shifted);
    let exponent = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(x), exponent))
}

/// The coefficients start with the highest power.
#[inline(always)]
fn polynomial<S: Simd, const TERMS: usize>(
    simd: S,
    x: S::f32s,
    coefficients: [f32; TERMS],
) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(*coefficient));
    }
    sum
}

/// Clamps `x`; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    simd.select_f32s(simd.greater_than_f32s(x, high), high, x)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "some values are exact")]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};

    use super::*;

    struct Exp2;

    impl Function for Exp2 {
        #[inline(always)]
        fn of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
            exp2_of_negative(simd, x)
        }
    }

    /// Uses this processor's vectors. Checks that scalar code agrees up to rounding.
    fn of<F: Function>(xs: &[f32]) -> Vec<f32> {
        let mut values = xs.to_vec();
        map::<F>(&mut values);
        for (&x, &value) in xs.iter().zip(&values) {
            let plain = F::of(pulp::Scalar::new(), x);
            let both_nan = plain.is_nan() && value.is_nan();
            // Φ has an absolute error, which GELU multiplies by x.
            let near = (plain - value).abs() <= 4e-7 * value.abs().max(x.abs()).max(1.0);
            assert!(both_nan || plain == value || near, "{x}: {plain} {value}");
        }
        values
    }

    fn grid() -> Vec<f32> {
        (-40_000..=40_000).map(|i| i as f32 * 0.0005).collect()
    }

    #[test]
    fn powers_are_accurate_to_a_unit_or_two_in_the_last_place() {
        let mut xs = grid();
        xs.extend([-87.2, -50.0, 60.0, 88.2]);
        for (x, value) in xs.iter().zip(of::<Exp>(&xs)) {
            let expected = f64::from(*x).exp();
            let relative = (f64::from(value) - expected).abs() / expected;
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative:e}");
        }
        xs.retain(|x| *x <= 0.0);
        xs.extend([-125.9, -126.0]);
        for (x, value) in xs.iter().zip(of::<Exp2>(&xs)) {
            let expected = f64::from(*x).exp2();
            let relative = (f64::from(value) - expected).abs() / expected;
            assert!(relative < 2.5e-7, "exp2({x}) is off by {relative:e}");
        }
    }

    #[test]
    fn powers_at_their_ends() {
        let ends = of::<Exp>(&[0.0, -88.0, f32::NEG_INFINITY, f32::MIN, f32::INFINITY, f32::NAN]);
        assert_eq!(ends[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(ends[4] > 1e38 && ends[5].is_nan());
        let ends = of::<Exp2>(&[0.0, -1.0, -127.0, f32::NEG_INFINITY, f32::MIN, f32::NAN]);
        let least = f32::MIN_POSITIVE;
        assert_eq!(ends[..5], [1.0, 0.5, least, least, least]);
        assert!(ends[5].is_nan());
    }

    #[test]
    fn gelu_and_tanh_agree_with_the_exact_functions() -> Result<()> {
        let xs = grid();
        let exact = Tensor::from_slice(&xs, xs.len(), &Device::Cpu)?
            .to_dtype(DType::F64)?
            .gelu_erf()?
            .to_vec1::<f64>()?;
        for ((x, value), exact) in xs.iter().zip(of::<Gelu>(&xs)).zip(exact) {
            // The rounding error of f32 at |x|, plus the error of Φ.
            let bound = 2.5e-7 * f64::from(x.abs().max(1.0));
            assert!((f64::from(value) - exact).abs() < bound, "gelu({x}): {value} {exact}");
        }
        let mut coarse = xs.clone();
        map::<CoarseGelu>(&mut coarse);
        for ((&x, value), fine) in xs.iter().zip(coarse).zip(of::<Gelu>(&xs)) {
            let plain = CoarseGelu::of(pulp::Scalar::new(), x);
            let off = (value - fine).abs().max((plain - fine).abs());
            assert!(off < 2e-4, "coarse gelu({x}): {value} {plain} {fine}");
        }
        for (x, value) in xs.iter().zip(of::<Tanh>(&xs)) {
            assert!((f64::from(value) - f64::from(*x).tanh()).abs() < 2e-7, "tanh({x})");
        }
        Ok(())
    }

    #[test]
    fn far_out_and_nan() {
        let xs = [f32::NEG_INFINITY, -1e30, 1e30, f32::NAN];
        let [.., nan] = of::<Relu>(&xs)[..] else { unreachable!() };
        assert!(nan.is_nan());
        assert_eq!(of::<Relu>(&xs)[..3], [0.0, 0.0, 1e30]);
        let [_, low, high, _] = of::<Sigmoid>(&xs)[..] else { unreachable!() };
        assert!(low < 1e-37 && high == 1.0);
        assert_eq!(of::<Silu>(&xs)[2], 1e30);
        assert_eq!(of::<Gelu>(&xs)[1..3], [-0.0, 1e30]);
        // The remainder of Φ is smaller than its rounding error times x.
        let mut coarse = xs;
        map::<CoarseGelu>(&mut coarse);
        let [_, low, high, nan] = coarse;
        assert!(low.abs() < 1e24 && (high - 1e30).abs() < 1e24, "{low} {high}");
        assert!(nan.is_nan());
        for nan in [of::<Gelu>(&xs)[3], of::<GeluTanh>(&xs)[3], of::<QuickGelu>(&xs)[3]] {
            assert!(nan.is_nan());
        }
    }
}
