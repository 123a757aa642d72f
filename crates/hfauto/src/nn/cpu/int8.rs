//! Linear layers over 8-bit integers, in host memory: dynamic per-token quantization.
//!
//! Weights are quantized at load, with one scale per output; activations while the model runs, with a scale and a zero
//! point per token, so that a token's numbers depend on no other. Sums are exact 32-bit integers. Where the magnitudes
//! of a layer's inputs are known beforehand (`Linear::after`), activations are smoothed: divided by smoothing factors
//! that the weights are multiplied with, so that a few large features do not use up the range of the others. This is
//! SmoothQuant with the LayerNorm's weights as calibration. Queries, keys and values are one layer that quantizes its
//! input three times, because factors that suit values do not suit queries: a common quantization is worse than no
//! smoothing.
//!
//! The kernel is chosen at run time: AVX-512 with VNNI, AVX2, or plain loops; the module above says why no crate is
//! used. Not here: which layers are in 8 bits (`crate::auto`). The entry is [`Int8Weight`].

use std::array;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice::ChunksExact;

use candle_core::{Result, Tensor, bail};

use super::packed::append_rows;
use super::tile::PANEL;
use super::{CpuView, applies, multiply, round_to_u8};

/// The largest weight after rounding; −128 is left out, so that steps are the same on both sides.
const MAX_WEIGHT: f32 = 127.0;

/// Inputs that are multiplied and added up by one instruction.
const GROUP: usize = 4;

/// How much of the differences between inputs is taken from them, and how much of those between weights is given to
/// them: 0 would leave everything to the inputs' steps, 1 to the weights'. From 0.5 to 1, embeddings of film reviews
/// hardly differ.
///
/// # Source
/// SmoothQuant, <https://arxiv.org/abs/2211.10438>, with the sizes of a normalisation's outputs in place of measured
/// ones.
const SMOOTHING: f32 = 0.7;

/// Rows that are multiplied with a panel at once.
const TILE_ROWS: usize = 8;

/// Of more inputs than these, sums might not fit in 32 bits: 255 · 127 each.
const MAX_IN_FEATURES: usize = 65_536;

thread_local! {
    /// Rounded tokens of one product, kept for the next.
    static TOKENS: RefCell<Tokens> = RefCell::default();
}

/// Rounded activations: `x ≈ step · (value − zero)` for each token.
#[derive(Default)]
struct Tokens {
    /// Rows of whole groups; what is beyond a token's numbers meets weights of zero.
    values: Vec<[u8; GROUP]>,
    steps: Vec<f32>,
    zeros: Vec<u8>,
    /// One token, evened out.
    even: Vec<f32>,
}

impl Tokens {
    /// Rounds rows of `columns` numbers, times `factors`, to `0..=levels`. A row that has a number which is not finite
    /// gets a step that is not either, so that its results are NaN.
    fn round(&mut self, x: &[f32], columns: usize, factors: Option<&[f32]>, levels: f32) {
        let (rows, groups) = (x.len() / columns, columns.div_ceil(GROUP));
        self.values.resize(rows * groups, [0; GROUP]);
        self.steps.clear();
        self.zeros.clear();
        for (row, values) in x.chunks_exact(columns).zip(self.values.chunks_exact_mut(groups)) {
            let row = match factors {
                Some(factors) => {
                    self.even.resize(columns, 0.0);
                    multiply(&mut self.even, row, factors);
                    &self.even
                }
                None => row,
            };
            let values = &mut values.as_flattened_mut()[..columns];
            let (step, zero) = round_to_u8(values, row, levels);
            self.steps.push(step);
            self.zeros.push(zero);
        }
    }
}

/// What each input's weights are multiplied with, given about how large the inputs are.
fn evening<'a>(rows: impl Iterator<Item = &'a [f32]>, sizes: &[f32]) -> Vec<f32> {
    let mut largest = vec![0f32; sizes.len()];
    for row in rows {
        for (largest, weight) in largest.iter_mut().zip(row) {
            *largest = largest.max(weight.abs());
        }
    }
    let evening = sizes.iter().zip(largest).map(|(size, largest)| (size / largest).powf(SMOOTHING));
    // An input without a size or weights matters little, or is not finite and shows anyway.
    evening.map(|by| if by.is_normal() && (1.0 / by).is_normal() { by } else { 1.0 }).collect()
}

/// A weight of 8-bit integers, packed.
pub(in crate::nn) struct Int8Weight {
    in_features: usize,
    out_features: usize,
    /// Outputs that want their inputs evened out each in their own way; one after the other, they are all.
    parts: Vec<Part>,
}

/// Some outputs of a weight, side by side.
struct Part {
    outputs: Range<usize>,
    groups: usize,
    /// Panel after panel, each `(groups, PANEL, GROUP)`; what is beyond the weight is zero.
    values: Vec<[[i8; GROUP]; PANEL]>,
    /// What one step of each output's weights is worth.
    steps: Vec<f32>,
    /// The sum of each output's weights: what a token's zero adds to each of its products.
    sums: Vec<i32>,
    /// What inputs are multiplied with before they are rounded.
    factors: Option<Vec<f32>>,
}

impl Part {
    /// `rows` are those of the outputs, of `in_features` each.
    fn new(
        outputs: Range<usize>,
        rows: ChunksExact<'_, f32>,
        in_features: usize,
        sizes: Option<&[f32]>,
    ) -> Self {
        let evening = sizes.map(|sizes| evening(rows.clone(), sizes));
        let groups = in_features.div_ceil(GROUP);
        let panels = outputs.len().div_ceil(PANEL);
        let mut values = vec![[[0; GROUP]; PANEL]; panels * groups];
        let mut steps = vec![0.0; panels * PANEL];
        let mut sums = vec![0; panels * PANEL];
        let mut even = Vec::with_capacity(in_features);
        for (output, row) in rows.enumerate() {
            even.clear();
            match &evening {
                Some(evening) => even.extend(row.iter().zip(evening).map(|(x, by)| x * by)),
                None => even.extend_from_slice(row),
            }
            let row = &even;
            let max = row.iter().fold(0f32, |max, value| max.max(value.abs()));
            let step = if max > 0.0 { max / MAX_WEIGHT } else { 1.0 };
            let panel = &mut values[output / PANEL * groups..][..groups];
            for (place, value) in row.iter().enumerate() {
                // Within ±127; NaN becomes 0 here and shows in the step.
                let value = (value / step).round() as i8;
                panel[place / GROUP][output % PANEL][place % GROUP] = value;
                sums[output] += i32::from(value);
            }
            steps[output] = if row.iter().all(|value| value.is_finite()) { step } else { f32::NAN };
        }
        let factors = evening.map(|evening| evening.iter().map(|by| 1.0 / by).collect());
        Self { outputs, groups, values, steps, sums, factors }
    }
}

impl Int8Weight {
    /// Rounds and packs a weight of `(out_features, in_features)`; `None` when it is not f32 in host memory, has
    /// no numbers, or has so many inputs that sums might overflow. `sizes` are those of the inputs, about; with them, each
    /// of the `parts`, so many outputs after each other, has its inputs evened out by itself.
    ///
    /// # Errors
    /// When there are sizes of another number of inputs, or parts of another number of outputs: bugs of the caller.
    pub(in crate::nn) fn new(
        weight: &Tensor,
        sizes: Option<&[f32]>,
        parts: &[usize],
    ) -> Result<Option<Self>> {
        let (out_features, in_features) = weight.dims2()?;
        let is_summable = (1..=MAX_IN_FEATURES).contains(&in_features);
        if !applies(weight) || out_features == 0 || !is_summable {
            return Ok(None);
        }
        if sizes.is_some_and(|sizes| sizes.len() != in_features) {
            bail!("bug: sizes of another number of inputs");
        }
        if parts.iter().sum::<usize>() != out_features {
            bail!("bug: parts of another number of outputs");
        }
        let weight = weight.contiguous()?;
        let view = CpuView::new(&weight);
        let numbers = &view.slice()?[..out_features * in_features];
        // What is rounded alike is one part.
        let parts = if sizes.is_some() { parts } else { &[out_features] };
        let mut start = 0;
        let parts = parts.iter().map(|outputs| {
            let outputs = start..start + outputs;
            start = outputs.end;
            let numbers = &numbers[outputs.start * in_features..outputs.end * in_features];
            Part::new(outputs, numbers.chunks_exact(in_features), in_features, sizes)
        });
        Ok(Some(Self { in_features, out_features, parts: parts.collect() }))
    }

    /// `(out_features, in_features)`.
    pub(in crate::nn) fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// Appends `x · weightᵀ + bias` to `out`, as
    /// [`PackedWeight::append`](super::packed::PackedWeight::append).
    ///
    /// # Errors
    /// When the lengths do not fit together: a bug of the caller.
    pub(in crate::nn) fn append(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        self.append_with(Kernel::of_this_processor(), out, x, bias)
    }

    fn append_with(
        &self,
        kernel: Kernel,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        let products = |out: &mut [MaybeUninit<f32>]| {
            TOKENS.with_borrow_mut(|tokens| {
                let mut written = 0;
                for part in &self.parts {
                    tokens.round(x, self.in_features, part.factors.as_deref(), kernel.levels());
                    let out_features = self.out_features;
                    written += kernel.multiply(&Product { part, tokens, bias, out_features }, out);
                }
                written
            })
        };
        // SAFETY: outputs are of one part each, and what a product returns is what `append_rows` asks for.
        #[allow(unsafe_code, reason = "as for weights in f32")]
        unsafe {
            append_rows(out, x, bias, self.shape(), products)
        }
    }
}

/// Instructions for sums of products of 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Four products at once, exact.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Two products at once, whose sum has to fit in 16 bits: activations have 7.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Kernel {
    fn of_this_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Self::Avx512Vnni;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// The largest rounded activation.
    fn levels(self) -> f32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 127.0,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => 255.0,
            Self::Plain => 255.0,
        }
    }

    fn multiply(self, product: &Product<'_>, out: &mut [MaybeUninit<f32>]) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `of_this_processor`, and the tests, choose this after they have seen its features.
            Self::Avx512Vnni => unsafe { x86::multiply_avx512_vnni(product, out) },
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { x86::multiply_avx2(product, out) },
            Self::Plain => product.multiply::<PlainSums>(out),
        }
    }
}

/// Sums of products of rows of tokens with a panel of weights, by the instructions of one kernel.
trait Sums {
    /// Every row of `tokens` has as many groups as `panel`; `out` is overwritten. (Returned, the sums would be moved,
    /// which takes a tenth of the time.)
    fn add_up<const ROWS: usize>(
        out: &mut [[i32; PANEL]; ROWS],
        tokens: &[&[[u8; GROUP]]; ROWS],
        panel: &[[[i8; GROUP]; PANEL]],
    );
}

struct PlainSums;

impl Sums for PlainSums {
    #[inline(always)]
    fn add_up<const ROWS: usize>(
        out: &mut [[i32; PANEL]; ROWS],
        tokens: &[&[[u8; GROUP]]; ROWS],
        panel: &[[[i8; GROUP]; PANEL]],
    ) {
        for (sums, tokens) in out.iter_mut().zip(tokens) {
            *sums = [0; PANEL];
            for (token, weights) in tokens.iter().zip(panel) {
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    for (token, weight) in token.iter().zip(weights) {
                        *sum += i32::from(*token) * i32::from(*weight);
                    }
                }
            }
        }
    }
}

/// A product at work.
struct Product<'a> {
    part: &'a Part,
    tokens: &'a Tokens,
    /// Of all parts, as `out_features` are.
    bias: Option<&'a [f32]>,
    out_features: usize,
}

impl Product<'_> {
    #[inline(always)]
    fn multiply<S: Sums>(&self, out: &mut [MaybeUninit<f32>]) -> usize {
        let Self { part, tokens, bias, .. } = self;
        let rows = tokens.steps.len();
        let panels = part.values.chunks_exact(part.groups);
        let sums = part.sums.as_chunks::<PANEL>().0;
        let steps = part.steps.as_chunks::<PANEL>().0;
        let columns = part.outputs.clone().step_by(PANEL);
        let mut written = 0;
        for (((panel, sums), steps), column) in panels.zip(sums).zip(steps).zip(columns) {
            let columns = column..part.outputs.end.min(column + PANEL);
            let mut own_bias = [0.0; PANEL];
            if let Some(bias) = bias {
                own_bias[..columns.len()].copy_from_slice(&bias[columns.clone()]);
            }
            let width = columns.len();
            let panel = Panel { values: panel, sums, steps, bias: &own_bias, columns };
            let mut row = 0;
            while row < rows {
                row += if row + TILE_ROWS <= rows {
                    self.tile::<S, TILE_ROWS>(row, &panel, out);
                    TILE_ROWS
                } else {
                    self.tile::<S, 1>(row, &panel, out);
                    1
                };
            }
            written += row * width;
        }
        written
    }

    /// `ROWS` rows from `row` on, times a panel: writes to its columns of them.
    #[inline(always)]
    fn tile<S: Sums, const ROWS: usize>(
        &self,
        row: usize,
        panel: &Panel<'_>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let Self { tokens, out_features, .. } = self;
        let groups = panel.values.len();
        let values = array::from_fn(|i| &tokens.values[(row + i) * groups..][..groups]);
        let mut sums = [[0; PANEL]; ROWS];
        S::add_up::<ROWS>(&mut sums, &values, panel.values);
        for (row, sums) in (row..).zip(&sums) {
            let (zero, step) = (i32::from(tokens.zeros[row]), tokens.steps[row]);
            let out = &mut out[row * out_features..][panel.columns.clone()];
            if let Some(out) = out.first_chunk_mut::<PANEL>() {
                panel.scale(out, sums, zero, step);
            } else {
                let mut scaled = [MaybeUninit::uninit(); PANEL];
                panel.scale(&mut scaled, sums, zero, step);
                out.copy_from_slice(&scaled[..out.len()]);
            }
        }
    }
}

/// A panel of a weight at work.
struct Panel<'a> {
    values: &'a [[[i8; GROUP]; PANEL]],
    sums: &'a [i32; PANEL],
    steps: &'a [f32; PANEL],
    bias: &'a [f32; PANEL],
    /// Which outputs it has; the last panel of a part may have fewer than others.
    columns: Range<usize>,
}

impl Panel<'_> {
    /// Writes what the sums of a token with this zero and step stand for.
    #[inline(always)]
    fn scale(
        &self,
        out: &mut [MaybeUninit<f32>; PANEL],
        sums: &[i32; PANEL],
        zero: i32,
        step: f32,
    ) {
        for i in 0..PANEL {
            let sum = sums[i] - zero * self.sums[i];
            out[i].write(sum as f32 * (step * self.steps[i]) + self.bias[i]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vectors are loaded and stored through pointers")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
        _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
        _mm512_storeu_si512,
    };
    use std::mem::MaybeUninit;

    use super::{GROUP, PANEL, Product, Sums};

    /// # Safety
    /// The processor has AVX-512 F, BW and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn multiply_avx512_vnni(
        product: &Product<'_>,
        out: &mut [MaybeUninit<f32>],
    ) -> usize {
        product.multiply::<Avx512Vnni>(out)
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn multiply_avx2(
        product: &Product<'_>,
        out: &mut [MaybeUninit<f32>],
    ) -> usize {
        product.multiply::<Avx2>(out)
    }

    /// Only for [`multiply_avx512_vnni`].
    struct Avx512Vnni;

    impl Sums for Avx512Vnni {
        #[inline(always)]
        fn add_up<const ROWS: usize>(
            out: &mut [[i32; PANEL]; ROWS],
            tokens: &[&[[u8; GROUP]]; ROWS],
            panel: &[[[i8; GROUP]; PANEL]],
        ) {
            // SAFETY: `multiply_avx512_vnni`, the only caller, has the features. `weights` is PANEL * GROUP =
            // 128 bytes and a row of `out` PANEL * 4 = 128: two vectors of 64 each, at any alignment.
            unsafe {
                let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
                for (place, weights) in panel.iter().enumerate() {
                    let weights = weights.as_ptr().cast::<u8>();
                    let low = _mm512_loadu_si512(weights.cast());
                    let high = _mm512_loadu_si512(weights.add(64).cast());
                    for (sums, tokens) in sums.iter_mut().zip(tokens) {
                        let token = _mm512_set1_epi32(i32::from_ne_bytes(tokens[place]));
                        sums[0] = _mm512_dpbusd_epi32(sums[0], token, low);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], token, high);
                    }
                }
                for (out, sums) in out.iter_mut().zip(sums) {
                    let out = out.as_mut_ptr();
                    _mm512_storeu_si512(out.cast(), sums[0]);
                    _mm512_storeu_si512(out.add(16).cast(), sums[1]);
                }
            }
        }
    }

    /// Only for [`multiply_avx2`].
    struct Avx2;

    impl Sums for Avx2 {
        #[inline(always)]
        fn add_up<const ROWS: usize>(
            out: &mut [[i32; PANEL]; ROWS],
            tokens: &[&[[u8; GROUP]]; ROWS],
            panel: &[[[i8; GROUP]; PANEL]],
        ) {
            // SAFETY: `multiply_avx2`, the only caller, has the feature. `weights` is PANEL * GROUP = 128 bytes
            // and a row of `out` PANEL * 4 = 128: four vectors of 32 each, at any alignment.
            unsafe {
                let ones = _mm256_set1_epi16(1);
                for (out, tokens) in out.iter_mut().zip(tokens) {
                    let mut sums = [_mm256_setzero_si256(); 4];
                    for (token, weights) in tokens.iter().zip(panel) {
                        let token = _mm256_set1_epi32(i32::from_ne_bytes(*token));
                        let weights = weights.as_ptr().cast::<u8>();
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            let weights = _mm256_loadu_si256(weights.add(32 * vector).cast());
                            // Pairs: 2 · 127 · 127 fits in 16 bits.
                            let pairs = _mm256_maddubs_epi16(token, weights);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                        }
                    }
                    for (vector, sum) in sums.into_iter().enumerate() {
                        _mm256_storeu_si256(out.as_mut_ptr().add(8 * vector).cast(), sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums are integers, and rows the same, bit for bit")]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::super::packed::tests::numbers;
    use super::*;

    fn int8(weight: &[f32], out_features: usize, in_features: usize) -> Int8Weight {
        int8_of_sizes(weight, out_features, in_features, None)
    }

    fn int8_of_sizes(
        weight: &[f32],
        out_features: usize,
        in_features: usize,
        sizes: Option<&[f32]>,
    ) -> Int8Weight {
        let weight = Tensor::from_slice(weight, (out_features, in_features), &Device::Cpu).unwrap();
        Int8Weight::new(&weight, sizes, &[out_features]).unwrap().unwrap()
    }

    /// The product as the module doc says it, in plain loops, with so many levels of activations.
    fn plain(weight: &[f32], x: &[f32], in_features: usize, levels: f32) -> Vec<f32> {
        let mut out = Vec::new();
        for x in x.chunks_exact(in_features) {
            let low = x.iter().fold(0f32, |a, &b| a.min(b));
            let high = x.iter().fold(0f32, |a, &b| a.max(b));
            let inverse = if high > low { levels / (high - low) } else { 0.0 };
            let to_integer = 8_388_608.0;
            let step = if high > low { (high - low) / levels } else { 1.0 };
            let zero = (-low * inverse).round_ties_even();
            for weight in weight.chunks_exact(in_features) {
                let max = weight.iter().fold(0f32, |a, &b| a.max(b.abs()));
                let own_step = if max > 0.0 { max / 127.0 } else { 1.0 };
                let sum: i32 = x
                    .iter()
                    .zip(weight)
                    .map(|(x, weight)| {
                        // Added to 2²³, what is left of the sum is an integer.
                        let x = x * inverse + (zero + to_integer);
                        let x = x.clamp(to_integer, levels + to_integer) - to_integer - zero;
                        x as i32 * (weight / own_step).round() as i32
                    })
                    .sum();
                out.push(sum as f32 * (step * own_step));
            }
        }
        out
    }

    /// Those of this processor: the best, and those for lesser ones.
    fn kernels() -> Vec<Kernel> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            let best = Kernel::of_this_processor();
            return vec![best, Kernel::Avx2, Kernel::Plain];
        }
        vec![Kernel::Plain]
    }

    fn check(rows: usize, in_features: usize, out_features: usize, scale: f32) {
        let weight = numbers(out_features * in_features, 4);
        let x: Vec<f32> = numbers(rows * in_features, 5).iter().map(|x| x * scale).collect();
        let layer = int8(&weight, out_features, in_features);
        assert_eq!(layer.shape(), (out_features, in_features));
        for kernel in kernels() {
            let mut out = vec![7.0];
            layer.append_with(kernel, &mut out, &x, None).unwrap();
            let (first, out) = out.split_first().unwrap();
            assert_eq!(*first, 7.0);
            assert_eq!(out, plain(&weight, &x, in_features, kernel.levels()), "{kernel:?}");
            let bias = numbers(out_features, 6);
            for (row, out) in out.chunks_exact(out_features).enumerate() {
                let x = &x[row * in_features..][..in_features];
                let mut alone = Vec::new();
                layer.append_with(kernel, &mut alone, x, Some(&bias)).unwrap();
                for ((alone, out), bias) in alone.iter().zip(out).zip(&bias) {
                    assert_eq!(*alone, out + bias);
                }
                // Half a step of each factor, times the other factor.
                let highest = x.iter().fold(0f32, |a, &b| a.max(b.abs()));
                let steps = 0.5 / 127.0 + 1.01 / kernel.levels();
                let bound = in_features as f32 * highest * steps;
                for (weight, out) in weight.chunks_exact(in_features).zip(out) {
                    let exact: f32 = x.iter().zip(weight).map(|(a, b)| a * b).sum();
                    assert!((exact - out).abs() <= bound, "{kernel:?}: {exact} {out} {bound}");
                }
            }
        }
    }

    #[test]
    fn agrees_with_plain_loops_at_the_sizes_of_models() {
        for (rows, in_features, out_features) in
            [(0, 5, 3), (1, 1, 1), (13, 384, 1152), (130, 257, 33), (3, 3072, 31), (2, 40, 5000)]
        {
            check(rows, in_features, out_features, 3.0);
        }
    }

    #[test]
    fn the_largest_products_do_not_overflow() {
        // Every product is 127 · 255, or 127 · 127 where pairs are added in 16 bits.
        let (rows, in_features) = (9, MAX_IN_FEATURES);
        let weight: Vec<f32> = [1.0, -1.0].iter().flat_map(|&w| vec![w; in_features]).collect();
        let layer = int8(&weight, 2, in_features);
        for kernel in kernels() {
            let mut out = Vec::new();
            layer.append_with(kernel, &mut out, &vec![1.0; rows * in_features], None).unwrap();
            for row in out.chunks_exact(2) {
                assert!((row[0] - in_features as f32).abs() < 0.1, "{kernel:?}: {row:?}");
                assert_eq!(row[1], -row[0]);
            }
        }
        let wider = Tensor::ones((1, MAX_IN_FEATURES + 1), DType::F32, &Device::Cpu).unwrap();
        assert!(Int8Weight::new(&wider, None, &[1]).unwrap().is_none());
    }

    #[test]
    fn zeros_are_exact_and_what_is_not_finite_shows() {
        let layer = int8(&[0.0, 0.0, 1.0, -1.0], 2, 2);
        let mut out = Vec::new();
        let x = [0.0, 0.0, f32::NAN, 1.0, 1.0, f32::INFINITY, 1e-42, 0.0, 0.0, -2.0];
        layer.append(&mut out, &x, Some(&[5.0, 6.0])).unwrap();
        assert_eq!(out[..2], [5.0, 6.0]);
        assert!(out[2..6].iter().all(|value| value.is_nan()), "{out:?}");
        assert_eq!(out[6..8], [5.0, 6.0]);
        assert_eq!(out[8..], [5.0, 8.0]);
        let broken = int8(&[f32::NAN, 1.0], 1, 2);
        out.clear();
        broken.append(&mut out, &[0.5, 0.5], None).unwrap();
        assert!(out[0].is_nan());
    }

    #[test]
    fn inputs_of_known_sizes_lose_fewer_digits() {
        let (rows, in_features, out_features) = (40, 96, 64);
        // Every seventh input is fifty times as large as the others.
        let sizes: Vec<f32> =
            (0..in_features).map(|i| if i % 7 == 0 { 50.0 } else { 1.0 }).collect();
        let weight = numbers(out_features * in_features, 7);
        let x = numbers(rows * in_features, 8);
        let x: Vec<f32> = x.iter().zip(sizes.iter().cycle()).map(|(x, size)| x * size).collect();
        let off = |layer: &Int8Weight| {
            let mut out = Vec::new();
            layer.append(&mut out, &x, None).unwrap();
            let mut squares = 0f64;
            for (x, out) in x.chunks_exact(in_features).zip(out.chunks_exact(out_features)) {
                for (weight, out) in weight.chunks_exact(in_features).zip(out) {
                    let exact: f32 = x.iter().zip(weight).map(|(a, b)| a * b).sum();
                    squares += f64::from(exact - out).powi(2);
                }
            }
            squares.sqrt()
        };
        let plain = off(&int8(&weight, out_features, in_features));
        let even = off(&int8_of_sizes(&weight, out_features, in_features, Some(&sizes)));
        assert!(even < 0.7 * plain, "{even} {plain}");
    }

    #[test]
    fn sizes_that_say_nothing_change_nothing() {
        let weight = [0.0, 1.0, f32::INFINITY, 0.5, 0.0, -1.0, 1.0, 0.5];
        let sizes = [3.0, 0.0, 1.0, f32::NAN];
        let (plain, even) = (int8(&weight, 2, 4), int8_of_sizes(&weight, 2, 4, Some(&sizes)));
        assert_eq!(even.parts[0].factors, Some(vec![1.0; 4]));
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        plain.append(&mut expected, &[1.0, 2.0, 3.0, 4.0], None).unwrap();
        even.append(&mut out, &[1.0, 2.0, 3.0, 4.0], None).unwrap();
        assert_eq!(out[1], expected[1]);
        assert!(out[0].is_nan() && expected[0].is_nan());
        let weight = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(Int8Weight::new(&weight, Some(&sizes[..3]), &[2]).is_err());
        assert!(Int8Weight::new(&weight, Some(&sizes), &[1, 2]).is_err());
    }

    #[test]
    fn parts_are_what_they_would_be_alone() {
        let (rows, in_features, parts) = (11, 70, [33, 64, 7]);
        let out_features = parts.iter().sum();
        let weight = numbers(out_features * in_features, 9);
        let sizes: Vec<f32> = (0..in_features).map(|i| 1.0 + (i % 5) as f32).collect();
        let (x, bias) = (numbers(rows * in_features, 10), numbers(out_features, 11));
        let tensor = Tensor::from_slice(&weight, (out_features, in_features), &Device::Cpu);
        let all = Int8Weight::new(&tensor.unwrap(), Some(&sizes), &parts).unwrap().unwrap();
        for kernel in kernels() {
            let mut out = Vec::new();
            all.append_with(kernel, &mut out, &x, Some(&bias)).unwrap();
            let mut start = 0;
            for outputs in parts {
                let columns = start..start + outputs;
                let weight = &weight[start * in_features..columns.end * in_features];
                let part = int8_of_sizes(weight, outputs, in_features, Some(&sizes));
                let mut expected = Vec::new();
                part.append_with(kernel, &mut expected, &x, Some(&bias[columns.clone()])).unwrap();
                for (out, expected) in out.chunks(out_features).zip(expected.chunks(outputs)) {
                    assert_eq!(out[columns.clone()], *expected, "{kernel:?}, {columns:?}");
                }
                start = columns.end;
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let layer = int8(&[1.0; 6], 2, 3);
        assert!(layer.append(&mut Vec::new(), &[1.0; 4], None).is_err());
        assert!(layer.append(&mut Vec::new(), &[1.0; 3], Some(&[1.0])).is_err());
    }

    #[test]
    fn weights_without_numbers_are_left_alone() {
        let weight = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(Int8Weight::new(&weight, None, &[0]).unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_plain_loops_at_any_size(
            rows in 0usize..70,
            in_features in 1usize..600,
            out_features in 1usize..120,
            scale in 1e-3f32..1e3,
        ) {
            check(rows, in_features, out_features, scale);
        }
    }
}
