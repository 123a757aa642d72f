//! Weights of linear layers in host memory, packed in the order in which the kernel reads them.
//!
//! A weight is packed once, at load, into panels of 32 outputs. A product of a few tokens is then as fast per token as
//! a product of a thousand. The kernel is written once against `pulp`'s vectors. Not here: 8-bit weights (`int8`), and
//! products of two activations (`super::matmul`). The entry is [`PackedWeight`].

use std::array;
use std::mem::MaybeUninit;

use candle_core::{Result, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};

use super::tile::{F32, PANEL, tile};
use super::{CpuView, applies};

/// A packed f32 weight.
pub(in crate::nn) struct PackedWeight {
    in_features: usize,
    out_features: usize,
    /// Panels of `(in_features, PANEL)`, padded with zeros.
    numbers: Vec<f32>,
}

impl PackedWeight {
    /// Packs a weight of `(out_features, in_features)`; `None` when it is not f32 in host memory, or is empty.
    pub(in crate::nn) fn new(weight: &Tensor) -> Result<Option<Self>> {
        let (out_features, in_features) = weight.dims2()?;
        if !applies(weight) || out_features == 0 || in_features == 0 {
            return Ok(None);
        }
        let weight = weight.contiguous()?;
        let view = CpuView::new(&weight);
        let rows = &view.slice()?[..out_features * in_features];
        let mut numbers = vec![0.0; out_features.next_multiple_of(PANEL) * in_features];
        let panels = numbers.chunks_exact_mut(PANEL * in_features);
        for (panel, rows) in panels.zip(rows.chunks(PANEL * in_features)) {
            for (column, row) in rows.chunks_exact(in_features).enumerate() {
                for (numbers, number) in panel.chunks_exact_mut(PANEL).zip(row) {
                    numbers[column] = *number;
                }
            }
        }
        Ok(Some(Self { in_features, out_features, numbers }))
    }

    /// `(out_features, in_features)`.
    pub(in crate::nn) fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// Appends `x · weightᵀ + bias` to `out`. `x` has rows of `in_features`, the result rows of `out_features`. A row's
    /// result does not depend on the number of rows.
    ///
    /// # Errors
    /// When the lengths do not match: a bug of the caller.
    pub(in crate::nn) fn append(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        let product = |out: &mut _| Arch::new().dispatch(Product { weight: self, x, bias, out });
        // SAFETY: the product returns the number of elements that it has written.
        #[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
        unsafe {
            append_rows(out, x, bias, self.shape(), product)
        }
    }
}

/// Appends the output of a layer of `(out_features, in_features)` for `x`. `write` gets the uninitialized output.
///
/// # Safety
/// `write` must write as many distinct elements as it returns.
///
/// # Errors
/// When the lengths do not match: a bug of the caller.
///
/// # Panics
/// When `write` leaves elements unwritten: a bug of the caller.
#[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
pub(super) unsafe fn append_rows(
    out: &mut Vec<f32>,
    x: &[f32],
    bias: Option<&[f32]>,
    (out_features, in_features): (usize, usize),
    write: impl FnOnce(&mut [MaybeUninit<f32>]) -> usize,
) -> Result<()> {
    if !x.len().is_multiple_of(in_features) || bias.is_some_and(|bias| bias.len() != out_features) {
        bail!("bug: the input or the bias has the wrong length");
    }
    let count = x.len() / in_features * out_features;
    out.reserve(count);
    let written = write(&mut out.spare_capacity_mut()[..count]);
    assert_eq!(written, count, "bug: a product with gaps");
    // SAFETY: `out` has capacity for `count` more elements, and as many distinct ones were written.
    unsafe { out.set_len(out.len() + count) };
    Ok(())
}

/// `out = x · weightᵀ + bias`. Returns the number of elements written; each element, a row of `x` and an output, is
/// written once.
struct Product<'a> {
    weight: &'a PackedWeight,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Product<'_> {
    type Output = usize;

    /// Tile sizes are chosen so that the accumulators fit in registers: 32 with AVX-512 and NEON, 16 with AVX2.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        match S::F32_LANES {
            16 => self.tiles::<S, 8, 2>(simd),
            8 => self.tiles::<S, 3, 4>(simd),
            4 => self.tiles::<S, 3, 8>(simd),
            _ => self.tiles::<S, 1, PANEL>(simd),
        }
    }
}

impl Product<'_> {
    /// A row of a panel has `VECTORS` vectors.
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) -> usize {
        let (in_features, out_features) = (self.weight.in_features, self.weight.out_features);
        let rows = self.x.len() / in_features;
        let mut written = 0;
        for (number, panel) in self.weight.numbers.chunks_exact(in_features * PANEL).enumerate() {
            let column = number * PANEL;
            let columns = PANEL.min(out_features - column);
            let mut bias = [0.0; PANEL];
            if let Some(all) = self.bias {
                bias[..columns].copy_from_slice(&all[column..column + columns]);
            }
            let tile =
                Tile { simd, panel: S::as_simd_f32s(panel).0, bias: S::as_simd_f32s(&bias).0 };
            let mut row = 0;
            while row < rows {
                // Each tile writes its columns of the rows that it counts.
                let x = &self.x[row * in_features..];
                let out = &mut self.out[row * out_features + column..];
                let strides = (in_features, out_features);
                row += match rows - row {
                    left if left >= ROWS => tile.store::<ROWS, VECTORS>(x, out, strides, columns),
                    4.. if ROWS > 4 => tile.store::<4, VECTORS>(x, out, strides, columns),
                    2.. if ROWS > 2 => tile.store::<2, VECTORS>(x, out, strides, columns),
                    _ => tile.store::<1, VECTORS>(x, out, strides, columns),
                };
            }
            written += row * columns;
        }
        written
    }
}

/// The operands of one panel.
struct Tile<'a, S: Simd> {
    simd: S,
    panel: &'a [S::f32s],
    bias: &'a [S::f32s],
}

impl<S: Simd> Tile<'_, S> {
    /// Multiplies `ROWS` rows of `x` by the panel and stores its `columns` outputs. The strides are those of the rows
    /// of `x` and of `out`. Returns the number of rows.
    #[inline(always)]
    fn store<const ROWS: usize, const VECTORS: usize>(
        &self,
        x: &[f32],
        out: &mut [MaybeUninit<f32>],
        (in_features, stride): (usize, usize),
        columns: usize,
    ) -> usize {
        let x: [&[f32]; ROWS] = array::from_fn(|row| &x[row * in_features..][..in_features]);
        let mut sums = [[self.simd.splat_f32s(0.0); VECTORS]; ROWS];
        tile(self.simd, F32, &mut sums, &x, self.panel, 0);
        for (row, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0; PANEL];
            let (vectors, _) = S::as_mut_simd_f32s(&mut numbers);
            for ((vector, sum), bias) in vectors.iter_mut().zip(sums).zip(self.bias) {
                *vector = self.simd.add_f32s(*sum, *bias);
            }
            let out = &mut out[row * stride..];
            match out.first_chunk_mut::<PANEL>() {
                Some(out) if columns == PANEL => {
                    for (out, number) in out.iter_mut().zip(numbers) {
                        out.write(number);
                    }
                }
                _ => {
                    out[..columns].write_copy_of_slice(&numbers[..columns]);
                }
            }
        }
        ROWS
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// Test values of both signs whose sums do not cancel.
    pub(in crate::nn) fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn check(rows: usize, in_features: usize, out_features: usize, with_bias: bool) {
        let weight = numbers(out_features * in_features, 1);
        let x = numbers(rows * in_features, 2);
        let bias = with_bias.then(|| numbers(out_features, 3));
        let tensor =
            Tensor::from_slice(&weight, (out_features, in_features), &Device::Cpu).unwrap();
        let packed = PackedWeight::new(&tensor).unwrap().unwrap();
        assert_eq!(packed.shape(), (out_features, in_features));
        let mut out = vec![7.0];
        packed.append(&mut out, &x, bias.as_deref()).unwrap();
        assert_eq!((out[0], out.len()), (7.0, 1 + rows * out_features));
        for (row, out) in out[1..].chunks_exact(out_features).enumerate() {
            let x = &x[row * in_features..][..in_features];
            for (column, &out) in out.iter().enumerate() {
                let weight = &weight[column * in_features..][..in_features];
                let sum: f64 =
                    x.iter().zip(weight).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let exact = sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
                let bound = 1e-6 * (in_features as f64 + 1.0);
                assert!((f64::from(out) - exact).abs() <= bound, "{row}, {column}: {out} {exact}");
            }
            // Scalar code agrees up to rounding.
            let mut plain = Vec::new();
            let bias = bias.as_deref();
            let product = |out: &mut _| {
                Product { weight: &packed, x, bias, out }.with_simd(pulp::Scalar::new())
            };
            // SAFETY: as in `append`.
            #[allow(unsafe_code, reason = "as in `append`")]
            unsafe {
                append_rows(&mut plain, x, bias, packed.shape(), product).unwrap();
            }
            for (plain, out) in plain.iter().zip(out) {
                assert!((plain - out).abs() <= 2e-6 * (in_features as f32 + 1.0));
            }
            // A row's result does not depend on the other rows.
            let mut alone = Vec::new();
            packed.append(&mut alone, x, bias).unwrap();
            assert_eq!(alone, out);
        }
    }

    #[test]
    fn agrees_with_the_plain_product_at_the_sizes_of_models() {
        for (rows, in_features, out_features) in
            [(0, 5, 3), (1, 1, 1), (13, 384, 1152), (129, 257, 33), (3, 3072, 31), (2, 40, 5000)]
        {
            check(rows, in_features, out_features, true);
        }
    }

    #[test]
    fn empty_weights_are_not_packed() {
        for shape in [(0, 4), (4, 0)] {
            let weight = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            assert!(PackedWeight::new(&weight).unwrap().is_none());
        }
        let double = Tensor::zeros((2, 2), candle_core::DType::F64, &Device::Cpu).unwrap();
        assert!(PackedWeight::new(&double).unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_the_plain_product_at_any_size(
            rows in 0usize..70,
            in_features in 1usize..600,
            out_features in 1usize..200,
            with_bias: bool,
        ) {
            check(rows, in_features, out_features, with_bias);
        }
    }
}
