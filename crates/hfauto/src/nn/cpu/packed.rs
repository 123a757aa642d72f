//! Weights of linear layers in host memory, packed in the order in which the kernel reads them.
//!
//! A weight is packed once, at load, into panels of 32 outputs, as f32 or as bf16. A product of a few tokens is then as
//! fast per token as a product of a thousand. With weights in bf16, a processor that has instructions for it multiplies in
//! bf16 ([`super::bf16`]): the input is rounded to bf16, and sums stay f32. On other processors the kernel widens the weights
//! in registers, and computes what the f32 kernel computes with the rounded weights, bit for bit. The kernel is written once
//! against `pulp`'s vectors. Not here: 8-bit weights (`int8`), and products of two activations (`super::matmul`). The entry is
//! [`PackedWeight`].

use std::array;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{Result, bail};
use pulp::bytemuck::cast_slice;
use pulp::{Arch, Simd, WithSimd};

use super::super::matrix_rows::{Rows, blocks};
#[cfg(target_arch = "x86_64")]
use super::bf16;
#[cfg(target_arch = "x86_64")]
use super::tile::Operands;
use super::tile::{F32, Multiply, PANEL, Widened, tile};

/// A packed weight.
pub(in crate::nn) struct PackedWeight {
    in_features: usize,
    out_features: usize,
    panels: Panels,
}

/// Panels of `(in_features, PANEL)`, padded with zeros.
enum Panels {
    F32(Vec<f32>),
    /// Panels of `(in_features / 2, PANEL)`, rounded up: the weights of two consecutive inputs in 32 bits, the first in the low
    /// half.
    Bf16(Vec<u32>),
}

/// The bf16 nearest to `x`, ties to even.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // A NaN stays one, whatever its lower bits.
        return (bits >> 16) as u16 | 0x40;
    }
    // Infinity where the rounded number is too large.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

impl PackedWeight {
    /// Packs the rows of `matrices`, `(out_features, in_features)` together, neither of them 0.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in crate::nn) fn f32(
        (out_features, in_features): (usize, usize),
        matrices: &[Box<dyn Rows + '_>],
    ) -> Result<Self> {
        let mut numbers = vec![0.0; out_features.next_multiple_of(PANEL) * in_features];
        blocks(matrices, |first, rows| {
            for (output, row) in (first..).zip(rows.chunks_exact(in_features)) {
                let (panel, column) = (output / PANEL * PANEL * in_features, output % PANEL);
                let panel = &mut numbers[panel..][..PANEL * in_features];
                for (numbers, number) in panel.chunks_exact_mut(PANEL).zip(row) {
                    numbers[column] = *number;
                }
            }
        })?;
        Ok(Self { in_features, out_features, panels: Panels::F32(numbers) })
    }

    /// As [`PackedWeight::f32`], rounded to bf16.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in crate::nn) fn bf16(
        (out_features, in_features): (usize, usize),
        matrices: &[Box<dyn Rows + '_>],
    ) -> Result<Self> {
        let pairs = in_features.div_ceil(2);
        let mut words = vec![0; out_features.next_multiple_of(PANEL) * pairs];
        blocks(matrices, |first, rows| {
            for (output, row) in (first..).zip(rows.chunks_exact(in_features)) {
                let (panel, column) = (output / PANEL * PANEL * pairs, output % PANEL);
                let panel = &mut words[panel..][..PANEL * pairs];
                for (words, pair) in panel.chunks_exact_mut(PANEL).zip(row.chunks(2)) {
                    let high = pair.get(1).map_or(0, |high| to_bf16(*high));
                    words[column] = u32::from(to_bf16(pair[0])) | u32::from(high) << 16;
                }
            }
        })?;
        Ok(Self { in_features, out_features, panels: Panels::Bf16(words) })
    }

    /// Whether the weight is stored in bf16.
    pub(in crate::nn) fn is_bf16(&self) -> bool {
        matches!(self.panels, Panels::Bf16(_))
    }

    /// Appends the weights of one output to `out`.
    pub(in crate::nn) fn append_row(&self, output: usize, out: &mut Vec<f32>) {
        let (panel, column) = (output / PANEL, output % PANEL);
        match &self.panels {
            Panels::F32(numbers) => {
                let panel = numbers[panel * PANEL * self.in_features..].chunks_exact(PANEL);
                out.extend(panel.take(self.in_features).map(|numbers| numbers[column]));
            }
            Panels::Bf16(words) => {
                let pairs = self.in_features.div_ceil(2);
                let panel = words[panel * PANEL * pairs..].chunks_exact(PANEL).take(pairs);
                let end = out.len() + self.in_features;
                out.extend(panel.flat_map(|words| {
                    let pair = words[column];
                    [pair << 16, pair & 0xffff_0000].map(f32::from_bits)
                }));
                out.truncate(end);
            }
        }
    }

    /// A panel of a weight in f32, `(in_features, PANEL)`.
    ///
    /// # Panics
    /// When the weight is in bf16: a bug of the caller.
    pub(super) fn f32_panel(&self, panel: usize) -> &[f32] {
        let Panels::F32(numbers) = &self.panels else { panic!("bug: a panel in bf16") };
        let size = PANEL * self.in_features;
        &numbers[panel * size..][..size]
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
        self.append_outputs(out, x, bias, 0..self.out_features)
    }

    /// As [`PackedWeight::append`], for some of the outputs: the result rows, and `bias`, have as many elements. `outputs`
    /// starts at a multiple of [`PANEL`].
    ///
    /// # Errors
    /// As [`PackedWeight::append`].
    pub(in crate::nn) fn append_outputs(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> Result<()> {
        if !outputs.start.is_multiple_of(PANEL) || outputs.end > self.out_features {
            bail!("bug: outputs between panels");
        }
        let shape = (outputs.len(), self.in_features);
        let product = |out: &mut _| {
            let panels = self.slices(outputs);
            Product { panels, shape, outputs: 0..shape.0, x, bias, out }.run()
        };
        // SAFETY: the product returns the number of elements that it has written.
        #[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
        unsafe {
            append_rows(out, x, bias, shape, product)
        }
    }

    /// The panels of some outputs, which start at a multiple of [`PANEL`].
    fn slices(&self, outputs: Range<usize>) -> Slices<'_> {
        let (start, end) = (outputs.start, outputs.end.next_multiple_of(PANEL));
        match &self.panels {
            Panels::F32(numbers) => {
                Slices::F32(&numbers[start * self.in_features..end * self.in_features])
            }
            Panels::Bf16(words) => {
                let pairs = self.in_features.div_ceil(2);
                Slices::Bf16(&words[start * pairs..end * pairs])
            }
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

thread_local! {
    /// The panel that a product has made; the buffer is reused by the next one.
    static PANEL_NUMBERS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// As [`append_rows`], for a weight whose panels, `(in_features, PANEL)` in f32, are made one after the other. `panels` are the
/// outputs of each, at most [`PANEL`], and what makes it; together they are all outputs, each once. A weight in f32 gives
/// the same results.
///
/// # Errors
/// As [`PackedWeight::append`].
///
/// # Panics
/// When outputs are missing or repeated: a bug of the caller.
pub(super) fn append_by_panels<F: FnOnce(&mut [f32])>(
    out: &mut Vec<f32>,
    x: &[f32],
    bias: Option<&[f32]>,
    shape: (usize, usize),
    panels: impl Iterator<Item = (Range<usize>, F)>,
) -> Result<()> {
    let write = |out: &mut [MaybeUninit<f32>]| {
        PANEL_NUMBERS.with_borrow_mut(|panel| {
            panel.resize(PANEL * shape.1, 0.0);
            let (mut written, mut next) = (0, 0);
            for (outputs, fill) in panels {
                assert_eq!(outputs.start, next, "bug: panels with gaps");
                next = outputs.end;
                fill(panel);
                let (panels, out) = (Slices::F32(panel), &mut *out);
                written += Product { panels, shape, outputs, x, bias, out }.run();
            }
            written
        })
    };
    // SAFETY: each product returns the number of elements that it has written, in its own columns: panels follow each other.
    #[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
    unsafe {
        append_rows(out, x, bias, shape, write)
    }
}

/// Panels that follow each other.
#[derive(Clone, Copy)]
enum Slices<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

/// The columns of `out = x · weightᵀ + bias` that panels hold. Returns the number of elements written; each element, a row of
/// `x` and an output, is written once.
struct Product<'a> {
    panels: Slices<'a>,
    /// `(out_features, in_features)` of the whole weight.
    shape: (usize, usize),
    /// The outputs that the panels hold.
    outputs: Range<usize>,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Product<'_> {
    type Output = usize;

    /// Tile sizes are chosen so that the accumulators fit in registers: 32 with AVX-512 and NEON, 16 with AVX2.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        match self.panels {
            Slices::F32(numbers) => self.panels(simd, F32, numbers),
            Slices::Bf16(words) => self.panels(simd, Widened, cast_slice(words)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl bf16::WithBf16 for Product<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_bf16(self, simd: pulp::x86::V4, bf16: bf16::Bf16) -> usize {
        let Slices::Bf16(words) = self.panels else { return self.with_simd(simd) };
        let (out_features, in_features) = self.shape;
        let pairs = in_features.div_ceil(2);
        let mut x = vec![0.0; self.x.len() / in_features * pairs];
        for (pairs, row) in x.chunks_exact_mut(pairs).zip(self.x.chunks_exact(in_features)) {
            bf16.group(simd, pairs, row);
        }
        let product = Product { x: &x, shape: (out_features, pairs), ..self };
        product.tiles::<_, _, 8, 2>(simd, bf16, cast_slice(words))
    }
}

impl Product<'_> {
    /// Multiplies in bf16 where the weight is in bf16 and the processor has the instructions, otherwise in f32.
    fn run(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Slices::Bf16(_) = self.panels {
            return bf16::run(self).unwrap_or_else(|product| Arch::new().dispatch(product));
        }
        Arch::new().dispatch(self)
    }

    #[inline(always)]
    fn panels<S: Simd, O: Multiply<S>>(self, simd: S, operands: O, panels: &[f32]) -> usize {
        match S::F32_LANES {
            16 => self.tiles::<S, O, 8, 2>(simd, operands, panels),
            8 => self.tiles::<S, O, 3, 4>(simd, operands, panels),
            4 => self.tiles::<S, O, 3, 8>(simd, operands, panels),
            _ => self.tiles::<S, O, 1, PANEL>(simd, operands, panels),
        }
    }

    /// `VECTORS` vectors hold the columns of a panel.
    #[inline(always)]
    fn tiles<S: Simd, O: Multiply<S>, const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        operands: O,
        panels: &[f32],
    ) -> usize {
        let (out_features, in_features) = self.shape;
        let rows = self.x.len() / in_features;
        let mut written = 0;
        let panels = panels.chunks_exact(in_features.div_ceil(O::PARTS) * PANEL);
        for (number, panel) in panels.enumerate() {
            let column = self.outputs.start + number * PANEL;
            let columns = PANEL.min(self.outputs.end - column);
            let mut bias = [0.0; PANEL];
            if let Some(all) = self.bias {
                bias[..columns].copy_from_slice(&all[column..column + columns]);
            }
            let (panel, bias) = (S::as_simd_f32s(panel).0, S::as_simd_f32s(&bias).0);
            let tile = Tile { simd, operands, panel, bias };
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
struct Tile<'a, S: Simd, O> {
    simd: S,
    operands: O,
    panel: &'a [S::f32s],
    bias: &'a [S::f32s],
}

impl<S: Simd, O: Multiply<S>> Tile<'_, S, O> {
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
        tile(self.simd, self.operands, &mut sums, &x, self.panel, 0);
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
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::super::super::matrix_rows::TensorRows;
    use super::super::has_bf16;
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
        let shape = (out_features, in_features);
        let packed = PackedWeight::f32(shape, &matrices(&weight, shape)).unwrap();
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
                let panels = packed.slices(0..shape.0);
                Product { panels, shape, outputs: 0..shape.0, x, bias, out }
                    .with_simd(pulp::Scalar::new())
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

    fn matrices(weight: &[f32], shape: (usize, usize)) -> Vec<Box<dyn Rows>> {
        let tensor = Tensor::from_slice(weight, shape, &Device::Cpu).unwrap();
        vec![Box::new(TensorRows::new(&tensor).unwrap())]
    }

    fn rounded(numbers: &[f32]) -> Vec<f32> {
        numbers.iter().map(|x| f32::from_bits(u32::from(to_bf16(*x)) << 16)).collect()
    }

    /// `x · weightᵀ + bias` of a weight in bf16 by the kernel that widens it.
    fn widened(weight: &PackedWeight, x: &[f32], bias: &[f32]) -> Vec<f32> {
        let (mut all, shape, bias) = (Vec::new(), weight.shape(), Some(bias));
        let product = |out: &mut _| {
            let panels = weight.slices(0..shape.0);
            Arch::new().dispatch(Product { panels, shape, outputs: 0..shape.0, x, bias, out })
        };
        // SAFETY: as in `append`.
        #[allow(unsafe_code, reason = "as in `append`")]
        unsafe {
            append_rows(&mut all, x, bias, shape, product).unwrap();
        }
        all
    }

    const BF16_SHAPES: [(usize, (usize, usize)); 6] = [
        (1, (1, 1)),
        (5, (70, 33)),
        (13, (97, 600)),
        (3, (31, 1101)),
        (9, (64, 1536)),
        (2, (33, 2)),
    ];

    #[test]
    fn bf16_weights_that_are_widened_give_the_bits_of_the_rounded_weights() {
        for (rows, shape) in BF16_SHAPES {
            let weight = numbers(shape.0 * shape.1, 4);
            let rounded = rounded(&weight);
            let bf16 = PackedWeight::bf16(shape, &matrices(&weight, shape)).unwrap();
            let f32 = PackedWeight::f32(shape, &matrices(&rounded, shape)).unwrap();
            assert!(bf16.is_bf16() && !f32.is_bf16());
            let (x, bias) = (numbers(rows * shape.1, 5), numbers(shape.0, 6));
            let mut expected = Vec::new();
            f32.append(&mut expected, &x, Some(&bias)).unwrap();
            assert_eq!(widened(&bf16, &x, &bias), expected, "{shape:?}");
            for (output, row) in rounded.chunks_exact(shape.1).enumerate() {
                for weight in [&bf16, &f32] {
                    let mut ours = Vec::new();
                    weight.append_row(output, &mut ours);
                    assert_eq!(ours, row, "{output} of {shape:?}");
                }
            }
        }
    }

    #[test]
    fn bf16_products_are_those_of_rounded_operands_summed_in_f32() {
        for (rows, shape) in BF16_SHAPES {
            let weight = numbers(shape.0 * shape.1, 4);
            let bf16 = PackedWeight::bf16(shape, &matrices(&weight, shape)).unwrap();
            let (x, bias) = (numbers(rows * shape.1, 5), numbers(shape.0, 6));
            let mut ours = Vec::new();
            bf16.append(&mut ours, &x, Some(&bias)).unwrap();
            let (weight, of_x) = (rounded(&weight), rounded(&x));
            if !has_bf16() {
                assert_eq!(ours, widened(&bf16, &x, &bias), "{shape:?}");
                continue;
            }
            for (row, out) in ours.chunks_exact(shape.0).enumerate() {
                let row = &of_x[row * shape.1..][..shape.1];
                for (output, &out) in out.iter().enumerate() {
                    let weight = &weight[output * shape.1..][..shape.1];
                    let products = row.iter().zip(weight);
                    let exact: f64 = products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let off = (f64::from(out) - exact - f64::from(bias[output])).abs();
                    assert!(off <= 1e-6 * (shape.1 as f64 + 1.0), "{output} of {shape:?}: {off}");
                }
            }
            // A row's result does not depend on the other rows.
            for (x, all) in x.chunks_exact(shape.1).zip(ours.chunks_exact(shape.0)) {
                let mut alone = Vec::new();
                bf16.append(&mut alone, x, Some(&bias)).unwrap();
                assert_eq!(alone, all, "{shape:?}");
            }
        }
    }

    #[test]
    fn rounding_to_bf16_is_that_of_candle() {
        let mut some = numbers(4000, 7);
        let bits = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0x0000_8000, 0x8000_0000];
        some.extend(bits.map(f32::from_bits));
        some.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MIN]);
        let tensor = Tensor::from_slice(&some, some.len(), &Device::Cpu).unwrap();
        let candle = tensor.to_dtype(candle_core::DType::BF16).unwrap();
        let candle = candle.to_dtype(candle_core::DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for (x, expected) in some.iter().zip(candle) {
            assert_eq!((u32::from(to_bf16(*x)) << 16), expected.to_bits(), "{x}");
        }
        assert!(f32::from_bits(u32::from(to_bf16(f32::from_bits(0x7f80_0001))) << 16).is_nan());
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
