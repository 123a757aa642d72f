//! f32 kernels on slices of host memory, each on the calling thread.
//!
//! The unit of parallelism on a CPU is a worker with its own batch, so nothing here starts a thread.
//! Loops are written for the compiler's vectoriser and run through [`pulp::Arch`], which picks AVX2
//! where the machine has it. Sums use fixed lanes and nothing contracts to a fused multiply-add, so the
//! instruction set changes no result save that of a product. Not here: what the numbers mean; see the layers beside
//! this file.

mod int8;
mod packed;

use candle_core::{DType, Device, Layout, Result, Storage, StorageRef, Tensor, bail};

pub(in crate::nn) use int8::Int8Weight;
pub(in crate::nn) use packed::PackedWeight;

/// Whether the kernels of this file apply to `tensor`: f32 in host memory.
pub(in crate::nn) fn applies(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32
}

/// Read access to the numbers of an f32 tensor in host memory.
pub(in crate::nn) struct CpuView<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> CpuView<'a> {
    pub(in crate::nn) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The storage from the tensor's first element on.
    pub(in crate::nn) fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => {
                let numbers = storage.as_slice::<f32>()?;
                // A view without elements may start past the end.
                Ok(numbers.get(self.layout.start_offset()..).unwrap_or_default())
            }
            _ => bail!("expected a tensor in host memory"),
        }
    }

    /// The tensor as a matrix with its own strides.
    pub(in crate::nn) fn matrix(&self) -> Result<Matrix<'_>> {
        let (rows, columns) = self.layout.shape().dims2()?;
        let [row_stride, column_stride] = *self.layout.stride() else {
            bail!("expected a matrix, found {:?}", self.layout.shape())
        };
        Ok(Matrix { data: self.slice()?, rows, columns, row_stride, column_stride })
    }
}

/// A strided matrix within a slice.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A contiguous matrix.
    pub(in crate::nn) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The one row of this matrix, `times` times.
    ///
    /// # Panics
    /// When the matrix has another number of rows: a bug of the caller.
    pub(in crate::nn) fn repeated(self, times: usize) -> Self {
        assert_eq!(self.rows, 1, "bug: only one row can be repeated");
        Self { rows: times, row_stride: 0, ..self }
    }

    /// Rows `rows` and columns `columns` of this matrix.
    ///
    /// # Panics
    /// When the block is not inside the matrix: a bug of the caller.
    pub(in crate::nn) fn block(
        self,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "bug: block outside matrix");
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        Self {
            data: self.data.get(start..).unwrap_or(&[]),
            rows: rows.len(),
            columns: columns.len(),
            ..self
        }
    }

    /// Rows `rows` of this matrix.
    ///
    /// # Panics
    /// When they are not inside the matrix: a bug of the caller.
    pub(in crate::nn) fn rows(self, rows: std::ops::Range<usize>) -> Self {
        self.block(rows, 0..self.columns)
    }

    /// Number of rows.
    pub(in crate::nn) fn num_rows(self) -> usize {
        self.rows
    }

    /// The transposed matrix; no number moves.
    pub(in crate::nn) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// How many numbers of `data` the matrix reaches over.
    fn span(self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => {
                (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1
            }
        }
    }
}

/// What [`matmul`] does with the numbers that the output holds already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::nn) enum Output {
    Overwrite,
    Add,
}

/// `out = scale · lhs · rhs`, or `out += scale · lhs · rhs`; row `i` of the product starts at
/// `out[i * out_stride]`.
///
/// # Panics
/// When the shapes do not fit together: a bug of the caller.
pub(in crate::nn) fn matmul(
    out: &mut [f32],
    out_stride: usize,
    mode: Output,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (rows, inner, columns) = (lhs.rows, lhs.columns, rhs.columns);
    assert_eq!(inner, rhs.rows, "bug: inner dimensions of a product differ");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= out_stride || rows == 1, "bug: rows of a product overlap");
    assert!((rows - 1) * out_stride + columns <= out.len(), "bug: product larger than its output");
    assert!(lhs.span() <= lhs.data.len() && rhs.span() <= rhs.data.len(), "bug: short matrix");
    // A slice has at most isize::MAX bytes, so no stride within one is cut.
    let stride = |stride: usize| stride as isize;
    // SAFETY: the asserts above keep every element that `gemm` reads inside `lhs.data` and `rhs.data`
    // and every element that it writes inside `out`, which as a unique borrow overlaps neither.
    #[allow(unsafe_code, reason = "the product is a call into `gemm`, which takes pointers")]
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            stride(out_stride),
            mode == Output::Add,
            lhs.data.as_ptr(),
            stride(lhs.column_stride),
            stride(lhs.row_stride),
            rhs.data.as_ptr(),
            stride(rhs.column_stride),
            stride(rhs.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Applies `f` to every number; `f` must be `#[inline(always)]` to be vectorised.
pub(in crate::nn) fn map(values: &mut [f32], f: impl Fn(f32) -> f32) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for value in values {
                *value = f(*value);
            }
        },
    );
}

/// Softmax of each row of `columns` numbers, in place.
pub(in crate::nn) fn softmax(values: &mut [f32], columns: usize) {
    if columns == 0 {
        return;
    }
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in values.chunks_exact_mut(columns) {
                let max = max(row);
                for value in row.iter_mut() {
                    *value = exp(*value - max);
                }
                let scale = 1.0 / sum(row);
                for value in row.iter_mut() {
                    *value *= scale;
                }
            }
        },
    );
}

/// The largest number and `Σ e^(x − max)`. The sum is f32 over a few numbers and f64 over the sums, so that
/// its error does not grow with their count.
pub(in crate::nn) fn max_and_sum_exp(values: &[f32]) -> (f32, f64) {
    const BLOCK: usize = 512;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = max(values);
            let mut total = 0.0;
            let mut exps = [0f32; BLOCK];
            for block in values.chunks(BLOCK) {
                let exps = &mut exps[..block.len()];
                for (exp_of, value) in exps.iter_mut().zip(block) {
                    *exp_of = exp(*value - max);
                }
                total += f64::from(sum(exps));
            }
            (max, total)
        },
    )
}

/// Layer normalisation of each row of `weight.len()` numbers of `x`, or of `x` and `residual` added; the mean is
/// taken off before squaring, so a large mean costs no digits. While a row is worked on, it is in the cache.
///
/// # Panics
/// When the lengths do not fit together: a bug of the caller.
pub(in crate::nn) fn layer_norm(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) -> Vec<f32> {
    let columns = weight.len();
    assert!(residual.is_none_or(|residual| residual.len() == x.len()), "bug: another residual");
    let mut out = Vec::with_capacity(x.len());
    if columns == 0 {
        return out;
    }
    let count = columns as f32;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for start in (0..x.len()).step_by(columns) {
                let row = &x[start..start + columns];
                match residual {
                    Some(residual) => {
                        let residual = &residual[start..start + columns];
                        out.extend(row.iter().zip(residual).map(|(x, residual)| x + residual));
                    }
                    None => out.extend_from_slice(row),
                }
                let row = &mut out[start..];
                let mean = sum(row) / count;
                for value in row.iter_mut() {
                    *value -= mean;
                }
                let inverse_std = 1.0 / (sum_of_squares(row) / count + eps).sqrt();
                for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                    *value = *value * inverse_std * weight + bias;
                }
            }
        },
    );
    out
}

/// Rounds `x` to `values` of `0..=levels`, so that `x ≈ step · (value − zero)`, and returns the step and the zero.
/// Zero itself is exact. The step is NaN when a number is not finite.
pub(in crate::nn) fn round_to_u8(values: &mut [u8], x: &[f32], levels: f32) -> (f32, u8) {
    /// Adding 2²³ leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 8_388_608.0;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (low, high, finite) = bounds(x);
            let inverse = levels / (high - low);
            if !finite || !inverse.is_finite() {
                // All are zero, or too close to it to be told apart, or their distance overflows.
                values.fill(0);
                let nothing = finite && high - low < 1.0;
                return (if nothing { 1.0 } else { f32::NAN }, 0);
            }
            let zero = (-low * inverse).round_ties_even();
            for (value, x) in values.iter_mut().zip(x) {
                let rounded = x * inverse + zero;
                let rounded = if rounded < levels { rounded } else { levels };
                let rounded = if rounded > 0.0 { rounded } else { 0.0 };
                *value = (rounded + ROUND).to_bits() as u8;
            }
            ((high - low) / levels, zero as u8)
        },
    )
}

/// Root mean square normalisation of each row of `weight.len()` numbers, in place.
pub(in crate::nn) fn rms_norm(values: &mut [f32], weight: &[f32], eps: f32) {
    let columns = weight.len();
    if columns == 0 {
        return;
    }
    let count = columns as f32;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in values.chunks_exact_mut(columns) {
                let inverse = 1.0 / (sum_of_squares(row) / count + eps).sqrt();
                for (value, weight) in row.iter_mut().zip(weight) {
                    *value = *value * inverse * weight;
                }
            }
        },
    );
}

/// Sums are taken in this many independent lanes: two AVX-512 or four AVX2 registers.
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

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn max(values: &[f32]) -> f32 {
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

/// The least and the greatest number, 0 among them, and whether all are finite.
#[inline(always)]
fn bounds(values: &[f32]) -> (f32, f32, bool) {
    let (mut low, mut high, mut nothing) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for ((low, high), value) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = if *value < *low { *value } else { *low };
            *high = if *value > *high { *value } else { *high };
        }
        for (nothing, value) in nothing.iter_mut().zip(chunk) {
            *nothing += *value * 0.0;
        }
    }
    for value in rest {
        low[0] = if *value < low[0] { *value } else { low[0] };
        high[0] = if *value > high[0] { *value } else { high[0] };
        nothing[0] += *value * 0.0;
    }
    let low = low.iter().fold(0f32, |a, &b| if b < a { b } else { a });
    let high = high.iter().fold(0f32, |a, &b| if b > a { b } else { a });
    (low, high, nothing.iter().sum::<f32>() == 0.0)
}

/// `e^x` to about one unit in the last place; 0 below −87.3 and about 3·10³⁸ above 88.3, never a
/// subnormal number. NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, then seven terms of the Taylor series, whose remainder
/// `r⁸ / 8!` is below 6·10⁻⁹.
#[inline(always)]
pub(in crate::nn) fn exp(x: f32) -> f32 {
    /// Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: `n * LN2_HIGH` is exact for the `n` that occur.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// e^x is a normal number above this.
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;

    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    if x < LOWEST { 0.0 } else { series * power }
}

/// The error function, to 5·10⁻⁷.
///
/// # Source
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
#[inline(always)]
pub(in crate::nn) fn erf(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = 1.061_405_4;
    let series = series * t - 1.453_152;
    let series = series * t + 1.421_413_7;
    let series = series * t - 0.284_496_74;
    let series = series * t + 0.254_829_6;
    let y = 1.0 - series * t * exp(-z * z);
    y.copysign(x)
}

/// The hyperbolic tangent, to 2·10⁻⁷.
#[inline(always)]
pub(in crate::nn) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The logistic function.
#[inline(always)]
pub(in crate::nn) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "some values are exact")]
mod tests {
    use super::*;

    fn grid() -> impl Iterator<Item = f32> {
        (-40_000..=40_000).map(|i| i as f32 * 0.0005)
    }

    #[test]
    fn exp_is_accurate_to_a_unit_or_two_in_the_last_place() {
        for x in grid().chain([-87.2, -50.0, 60.0, 88.2]) {
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_and_tanh_agree_with_the_exact_functions() -> Result<()> {
        let xs: Vec<f32> = grid().collect();
        let exact = Tensor::from_slice(&xs, xs.len(), &Device::Cpu)?
            .to_dtype(DType::F64)?
            .erf()?
            .to_vec1::<f64>()?;
        for (&x, exact) in xs.iter().zip(exact) {
            assert!((f64::from(erf(x)) - exact).abs() < 5e-7, "erf({x})");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
        }
        assert!(erf(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        Ok(())
    }

    #[test]
    fn softmax_sums_to_one_and_survives_masks() {
        let mut values: Vec<f32> = (0..70).map(|i| (i % 7) as f32).collect();
        values.extend([f32::MIN; 70]);
        values.extend((0..70).map(|i| if i < 3 { 1.0 } else { f32::MIN }));
        softmax(&mut values, 70);
        for row in values.chunks(70) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        assert!((values[70] - 1.0 / 70.0).abs() < 1e-7, "a fully masked row is uniform");
        assert_eq!(values[143..], [0.0; 67], "masked positions are exactly zero");
        let mut with_nan = [0.0, f32::NAN];
        softmax(&mut with_nan, 2);
        assert!(with_nan[1].is_nan());
    }

    #[test]
    fn layer_norm_keeps_its_digits_under_a_large_mean() {
        let values: Vec<f32> = (0..64).map(|i| 10_000.0 + (i % 2) as f32).collect();
        let values = layer_norm(&values, None, &[1.0; 64], &[0.0; 64], 1e-12);
        for (i, value) in values.iter().enumerate() {
            let expected = if i % 2 == 0 { -1.0 } else { 1.0 };
            assert!((value - expected).abs() < 1e-5, "{i}: {value}");
        }
    }

    #[test]
    fn matmul_takes_blocks_transposes_and_adds() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let a = Matrix::new(&a, 3, 4);
        // rows 1..3, columns 2..4 of a: [[6, 7], [10, 11]]
        let block = a.block(1..3, 2..4);
        let mut out = vec![1.0; 6];
        matmul(&mut out, 3, Output::Add, 2.0, block, block.t());
        assert_eq!(out, [171.0, 275.0, 1.0, 275.0, 443.0, 1.0]);
        matmul(&mut out, 3, Output::Overwrite, 1.0, block, block);
        assert_eq!(out[..2], [106.0, 119.0]);
        assert_eq!(out[3..5], [170.0, 191.0]);
    }
}
