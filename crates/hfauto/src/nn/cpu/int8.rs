//! Linear layers with 8-bit integer weights in host memory: dynamic per-token quantization.
//!
//! Weights are quantized at load, with one scale per output. Activations are quantized in each forward pass, with a
//! scale and a zero point per token, so a token's result depends on no other token. Sums are exact 32-bit integers.
//!
//! Activations get as many bits as the kernel multiplies without loss of speed: 8 with VNNI and in plain loops, up to 16,
//! and no zero point, with AVX2. A few features of a normalized state are often a hundred times as large as the others,
//! whatever the norm's weights: in 8 bits, they leave few steps for the others, and a small decoder soon writes other text.
//!
//! Where calibration data is available (`Linear::load_fused`), activations are smoothed as in SmoothQuant: activations are
//! divided by smoothing factors, and weights are multiplied by them, so that a few large features do not use up the
//! range of the others. The LayerNorm's weights serve as calibration. The fused layer of queries, keys and values
//! quantizes its input three times, because factors that suit values do not suit queries: with common factors, the
//! result is worse than without smoothing.
//!
//! The kernel is selected at run time: AVX-512 with VNNI, AVX2, or plain loops. The parent module explains why no crate
//! is used. Not here: which layers are in 8 bits (`crate::auto`). The entry is [`Int8Weight`].

use std::array;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{Result, bail};

use super::super::matrix_rows::{Rows, blocks};
use super::packed::append_rows;
use super::tile::PANEL;
use super::{multiply, quantize_to_i16, quantize_to_u8};

/// The largest quantized weight. −128 is unused, so that the range is symmetric.
const MAX_WEIGHT: f32 = 127.0;

/// Inputs that one instruction multiplies and accumulates.
const GROUP: usize = 4;

/// The exponent of the smoothing factors. At 0, activations keep their differences in magnitude; at 1, the weights take
/// over all of them. From 0.5 to 1, embeddings of film reviews hardly differ.
///
/// # Source
/// SmoothQuant, <https://arxiv.org/abs/2211.10438>. Here, the LayerNorm's output magnitudes replace measured ones, and
/// one exponent applies to activations and weights.
const SMOOTHING: f32 = 0.7;

/// Rows per tile.
const TILE_ROWS: usize = 8;

thread_local! {
    /// The quantized tokens of a product; the buffers are reused by the next one.
    static TOKENS: RefCell<Tokens> = RefCell::default();
}

/// Quantized activations: `x ≈ scale · (value − zero_point)` for each token.
#[derive(Default)]
struct Tokens {
    /// Rows of whole groups. The padding is multiplied by weights of zero.
    values: Vec<[u8; GROUP]>,
    /// The same in 16 bits, for kernels that multiply those.
    wide: Vec<[i16; GROUP]>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    /// One token after smoothing.
    smoothed: Vec<f32>,
}

impl Tokens {
    /// Quantizes rows of `columns` elements, multiplied by `factors`: to 8 bits, or to `wide` numbers of up to this size. A row
    /// with NaN or infinite elements gets a NaN scale, so its results are NaN.
    fn quantize(&mut self, x: &[f32], columns: usize, factors: Option<&[f32]>, wide: Option<f32>) {
        let (rows, groups) = (x.len() / columns, columns.div_ceil(GROUP));
        match wide {
            Some(_) => self.wide.resize(rows * groups, [0; GROUP]),
            None => self.values.resize(rows * groups, [0; GROUP]),
        }
        self.scales.clear();
        self.zero_points.clear();
        for (row, start) in x.chunks_exact(columns).zip((0..).step_by(groups)) {
            let row = match factors {
                Some(factors) => {
                    self.smoothed.resize(columns, 0.0);
                    multiply(&mut self.smoothed, row, factors);
                    &self.smoothed
                }
                None => row,
            };
            let places = start..start + groups;
            let (scale, zero_point) = if let Some(most) = wide {
                let values = &mut self.wide[places].as_flattened_mut()[..columns];
                (quantize_to_i16(values, row, most), 0)
            } else {
                quantize_to_u8(&mut self.values[places].as_flattened_mut()[..columns], row)
            };
            self.scales.push(scale);
            self.zero_points.push(zero_point);
        }
    }
}

/// The smoothing factor of each input, from the magnitudes of the activations and the largest weights.
fn smoothing_factors(largest: &[f32], magnitudes: &[f32]) -> Vec<f32> {
    let smoothing = magnitudes
        .iter()
        .zip(largest)
        .map(|(magnitude, largest)| (magnitude / largest).powf(SMOOTHING));
    // Inputs with zero magnitude or zero weights need no smoothing. NaN and infinity show up in the results anyway.
    smoothing.map(|by| if by.is_normal() && (1.0 / by).is_normal() { by } else { 1.0 }).collect()
}

/// A packed weight of 8-bit integers.
pub(in crate::nn) struct Int8Weight {
    in_features: usize,
    out_features: usize,
    /// Consecutive ranges of outputs, each with its own smoothing factors.
    parts: Vec<Part>,
}

/// A range of outputs.
struct Part {
    outputs: Range<usize>,
    groups: usize,
    /// Panels of `(groups, PANEL, GROUP)`, padded with zeros.
    values: Vec<[[i8; GROUP]; PANEL]>,
    /// The quantization scale of each output.
    scales: Vec<f32>,
    /// The sum of each output's weights, which corrects its products for a token's zero point.
    sums: Vec<i32>,
    /// The largest sum of the magnitudes of an output's weights: times the largest input, it fits in 32 bits.
    largest_sum: i32,
    /// The reciprocal smoothing factors, by which inputs are multiplied before quantization.
    factors: Option<Vec<f32>>,
}

impl Part {
    /// A part without weights.
    fn new(outputs: Range<usize>, in_features: usize, smoothing: Option<&[f32]>) -> Self {
        let groups = in_features.div_ceil(GROUP);
        let panels = outputs.len().div_ceil(PANEL);
        let factors = smoothing.map(|smoothing| smoothing.iter().map(|by| 1.0 / by).collect());
        Self {
            outputs,
            groups,
            values: vec![[[0; GROUP]; PANEL]; panels * groups],
            scales: vec![0.0; panels * PANEL],
            sums: vec![0; panels * PANEL],
            largest_sum: 1,
            factors,
        }
    }

    /// Quantizes the smoothed weights of one output of the part.
    fn set(&mut self, output: usize, row: &[f32]) {
        let max = row.iter().fold(0f32, |max, value| max.max(value.abs()));
        let scale = if max > 0.0 { max / MAX_WEIGHT } else { 1.0 };
        let panel = &mut self.values[output / PANEL * self.groups..][..self.groups];
        let mut magnitudes = 0;
        for (place, value) in row.iter().enumerate() {
            // Within ±127. NaN becomes 0 here; the scale is NaN instead.
            let value = (value / scale).round() as i8;
            panel[place / GROUP][output % PANEL][place % GROUP] = value;
            self.sums[output] += i32::from(value);
            magnitudes += i32::from(value).abs();
        }
        self.largest_sum = self.largest_sum.max(magnitudes);
        self.scales[output] =
            if row.iter().all(|value| value.is_finite()) { scale } else { f32::NAN };
    }
}

impl Int8Weight {
    /// Quantizes and packs the rows of `matrices`, which have at most [`limits::INT8_INPUTS`](crate::limits::INT8_INPUTS) columns. `parts` are the numbers
    /// of outputs of the fused layers. `magnitudes` are those of the inputs; with them, each part gets its own smoothing
    /// factors, and the rows are read twice.
    ///
    /// # Errors
    /// When rows cannot be read; when the number of magnitudes is not `in_features`, or the parts do not add up to the
    /// number of rows: bugs of the caller.
    pub(in crate::nn) fn new(
        in_features: usize,
        parts: &[usize],
        matrices: &[Box<dyn Rows + '_>],
        magnitudes: Option<&[f32]>,
    ) -> Result<Self> {
        let out_features = parts.iter().sum();
        if magnitudes.is_some_and(|magnitudes| magnitudes.len() != in_features) {
            bail!("bug: the number of magnitudes differs from the number of inputs");
        }
        if matrices.iter().map(|matrix| matrix.shape().0).sum::<usize>() != out_features {
            bail!("bug: the parts do not add up to the number of outputs");
        }
        // Without smoothing, all outputs share one quantized input.
        let parts = if magnitudes.is_some() { parts } else { &[out_features] };
        let ends: Vec<usize> = parts
            .iter()
            .scan(0, |end, part| {
                *end += part;
                Some(*end)
            })
            .collect();
        let part_of = |output: usize| ends.partition_point(|end| *end <= output);
        let mut smoothing: Vec<Option<Vec<f32>>> = vec![None; parts.len()];
        if let Some(magnitudes) = magnitudes {
            let mut largest = vec![vec![0f32; in_features]; parts.len()];
            blocks(matrices, |first, rows| {
                for (output, row) in (first..).zip(rows.chunks_exact(in_features)) {
                    for (largest, weight) in largest[part_of(output)].iter_mut().zip(row) {
                        *largest = largest.max(weight.abs());
                    }
                }
            })?;
            let factors = largest.iter().map(|largest| smoothing_factors(largest, magnitudes));
            smoothing = factors.map(Some).collect();
        }
        let ranges = parts.iter().zip(&ends).map(|(outputs, end)| end - outputs..*end);
        let built =
            ranges.zip(&smoothing).map(|(range, by)| Part::new(range, in_features, by.as_deref()));
        let mut built: Vec<Part> = built.collect();
        let mut smoothed = Vec::with_capacity(in_features);
        blocks(matrices, |first, rows| {
            for (output, row) in (first..).zip(rows.chunks_exact(in_features)) {
                smoothed.clear();
                match &smoothing[part_of(output)] {
                    Some(smoothing) => {
                        smoothed.extend(row.iter().zip(smoothing).map(|(x, by)| x * by));
                    }
                    None => smoothed.extend_from_slice(row),
                }
                let part = &mut built[part_of(output)];
                part.set(output - part.outputs.start, &smoothed);
            }
        })?;
        Ok(Self { in_features, out_features, parts: built })
    }

    /// Appends the weights of one output, dequantized, to `out`.
    pub(in crate::nn) fn append_row(&self, output: usize, out: &mut Vec<f32>) {
        let Some(part) = self.parts.iter().find(|part| part.outputs.contains(&output)) else {
            return;
        };
        let (output, start) = (output - part.outputs.start, out.len());
        let (scale, column) = (part.scales[output], output % PANEL);
        let panel = &part.values[output / PANEL * part.groups..][..part.groups];
        let values = panel.iter().flat_map(|group| group[column]);
        out.extend(values.take(self.in_features).map(|value| f32::from(value) * scale));
        for (number, by) in out[start..].iter_mut().zip(part.factors.iter().flatten()) {
            *number *= by;
        }
    }

    /// `(out_features, in_features)`.
    pub(in crate::nn) fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// Appends `x · weightᵀ + bias` to `out`, as [`PackedWeight::append`](super::packed::PackedWeight::append).
    ///
    /// # Errors
    /// When the lengths do not match: a bug of the caller.
    pub(in crate::nn) fn append(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        self.append_with(Kernel::of_this_processor(), out, x, bias)
    }

    /// As [`PackedWeight::append_outputs`](super::packed::PackedWeight::append_outputs), for a weight of one part.
    ///
    /// # Errors
    /// As [`Int8Weight::append`]; for a weight of several parts: a bug of the caller.
    pub(in crate::nn) fn append_outputs(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> Result<()> {
        let [part] = &self.parts[..] else { bail!("bug: some outputs of fused layers") };
        if !outputs.start.is_multiple_of(PANEL) || outputs.end > self.out_features {
            bail!("bug: outputs between panels");
        }
        let kernel = Kernel::of_this_processor();
        let shape = (outputs.len(), self.in_features);
        let products = |out: &mut [MaybeUninit<f32>]| {
            TOKENS.with_borrow_mut(|tokens| {
                let factors = part.factors.as_deref();
                tokens.quantize(x, self.in_features, factors, kernel.wide_inputs(part));
                let product =
                    Product { part, tokens, bias, outputs: outputs.clone(), all: outputs };
                kernel.multiply(&product, out)
            })
        };
        // SAFETY: as in `append_with`.
        #[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
        unsafe {
            append_rows(out, x, bias, shape, products)
        }
    }

    /// Whether it is not fused of layers with their own smoothing factors.
    pub(in crate::nn) fn has_one_part(&self) -> bool {
        self.parts.len() == 1
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
                    let factors = part.factors.as_deref();
                    tokens.quantize(x, self.in_features, factors, kernel.wide_inputs(part));
                    let (outputs, all) = (part.outputs.clone(), 0..self.out_features);
                    let product = Product { part, tokens, bias, outputs, all };
                    written += kernel.multiply(&product, out);
                }
                written
            })
        };
        // SAFETY: each output belongs to one part, and `multiply` returns the number of elements that it has written.
        #[allow(unsafe_code, reason = "zeroing the output first takes a twentieth of the time")]
        unsafe {
            append_rows(out, x, bias, self.shape(), products)
        }
    }
}

/// The instruction set for dot products of 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Accumulates four products per instruction, exactly.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Multiplies in 16 bits and adds two products in 32. AVX2 has products in 8 bits, too, but they add two in 16, which
    /// overflow beyond activations of 7 bits.
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

    /// The largest quantized activation, if the kernel multiplies in 16 bits.
    fn wide_inputs(self, part: &Part) -> Option<f32> {
        let most = (i32::MAX / part.largest_sum).min(i16::MAX.into()) as f32;
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some(most),
            _ => None,
        }
    }

    fn multiply(self, product: &Product<'_>, out: &mut [MaybeUninit<f32>]) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: `of_this_processor`, and the tests, select this kernel only if the processor has its features.
            Self::Avx512Vnni => unsafe { x86::multiply_avx512_vnni(product, out) },
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { x86::multiply_avx2(product, out) },
            Self::Plain => product.multiply::<PlainSums>(out),
        }
    }
}

/// Dot products of token rows with a panel of weights, in the instructions of one kernel.
trait Sums {
    /// A quantized input.
    type Input;

    /// The groups of all tokens, row after row.
    fn groups(tokens: &Tokens) -> &[[Self::Input; GROUP]];

    /// Every row of `tokens` has as many groups as `panel`. Overwrites `out`; returning the sums by value would copy
    /// them, which takes a tenth of the time.
    fn accumulate<const ROWS: usize>(
        out: &mut [[i32; PANEL]; ROWS],
        tokens: &[&[[Self::Input; GROUP]]; ROWS],
        panel: &[[[i8; GROUP]; PANEL]],
    );
}

struct PlainSums;

impl Sums for PlainSums {
    type Input = u8;

    #[inline(always)]
    fn groups(tokens: &Tokens) -> &[[u8; GROUP]] {
        &tokens.values
    }

    #[inline(always)]
    fn accumulate<const ROWS: usize>(
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

/// The operands of a product.
struct Product<'a> {
    part: &'a Part,
    tokens: &'a Tokens,
    /// The bias of the outputs in a row.
    bias: Option<&'a [f32]>,
    /// The outputs to compute, those of the part or some of them.
    outputs: Range<usize>,
    /// All outputs in a row of the result.
    all: Range<usize>,
}

impl Product<'_> {
    #[inline(always)]
    fn multiply<S: Sums>(&self, out: &mut [MaybeUninit<f32>]) -> usize {
        let Self { part, tokens, bias, outputs, all } = self;
        let rows = tokens.scales.len();
        let skipped = (outputs.start - part.outputs.start) / PANEL;
        let panels = part.values.chunks_exact(part.groups).skip(skipped);
        let sums = &part.sums.as_chunks::<PANEL>().0[skipped..];
        let scales = &part.scales.as_chunks::<PANEL>().0[skipped..];
        let columns = outputs.clone().step_by(PANEL);
        let mut written = 0;
        for (((panel, sums), scales), column) in panels.zip(sums).zip(scales).zip(columns) {
            let columns = column - all.start..outputs.end.min(column + PANEL) - all.start;
            let mut own_bias = [0.0; PANEL];
            if let Some(bias) = bias {
                own_bias[..columns.len()].copy_from_slice(&bias[columns.clone()]);
            }
            let width = columns.len();
            let panel = Panel { values: panel, sums, scales, bias: &own_bias, columns };
            let mut row = 0;
            while row < rows {
                row += match rows - row {
                    TILE_ROWS.. => self.tile::<S, TILE_ROWS>(row, &panel, out),
                    4.. => self.tile::<S, 4>(row, &panel, out),
                    2.. => self.tile::<S, 2>(row, &panel, out),
                    _ => self.tile::<S, 1>(row, &panel, out),
                };
            }
            written += row * width;
        }
        written
    }

    /// Multiplies `ROWS` rows, from `row` on, by a panel, and writes the panel's columns of the output. Returns `ROWS`.
    #[inline(always)]
    fn tile<S: Sums, const ROWS: usize>(
        &self,
        row: usize,
        panel: &Panel<'_>,
        out: &mut [MaybeUninit<f32>],
    ) -> usize {
        let tokens = self.tokens;
        let groups = panel.values.len();
        let values = array::from_fn(|i| &S::groups(tokens)[(row + i) * groups..][..groups]);
        let mut sums = [[0; PANEL]; ROWS];
        S::accumulate::<ROWS>(&mut sums, &values, panel.values);
        for (row, sums) in (row..).zip(&sums) {
            let (zero_point, scale) = (i32::from(tokens.zero_points[row]), tokens.scales[row]);
            let out = &mut out[row * self.all.len()..][panel.columns.clone()];
            if let Some(out) = out.first_chunk_mut::<PANEL>() {
                panel.dequantize(out, sums, zero_point, scale);
            } else {
                let mut scaled = [MaybeUninit::uninit(); PANEL];
                panel.dequantize(&mut scaled, sums, zero_point, scale);
                out.copy_from_slice(&scaled[..out.len()]);
            }
        }
        ROWS
    }
}

/// The operands of one panel.
struct Panel<'a> {
    values: &'a [[[i8; GROUP]; PANEL]],
    sums: &'a [i32; PANEL],
    scales: &'a [f32; PANEL],
    bias: &'a [f32; PANEL],
    /// The places of the panel's outputs in a row. The last panel of a part may be partial.
    columns: Range<usize>,
}

impl Panel<'_> {
    /// Dequantizes the sums of a token with this zero point and scale.
    #[inline(always)]
    fn dequantize(
        &self,
        out: &mut [MaybeUninit<f32>; PANEL],
        sums: &[i32; PANEL],
        zero_point: i32,
        scale: f32,
    ) {
        for i in 0..PANEL {
            let sum = sums[i] - zero_point * self.sums[i];
            out[i].write(sum as f32 * (scale * self.scales[i]) + self.bias[i]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vectors are loaded and stored through pointers")]
mod x86 {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_hadd_epi32,
        _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi64x, _mm256_setzero_si256,
        _mm256_storeu_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_storeu_si512,
    };
    use std::mem::MaybeUninit;

    use super::{GROUP, PANEL, Product, Sums, Tokens};

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

    /// Called only from [`multiply_avx512_vnni`].
    struct Avx512Vnni;

    impl Sums for Avx512Vnni {
        type Input = u8;

        #[inline(always)]
        fn groups(tokens: &Tokens) -> &[[u8; GROUP]] {
            &tokens.values
        }

        #[inline(always)]
        fn accumulate<const ROWS: usize>(
            out: &mut [[i32; PANEL]; ROWS],
            tokens: &[&[[u8; GROUP]]; ROWS],
            panel: &[[[i8; GROUP]; PANEL]],
        ) {
            // SAFETY: the only caller, `multiply_avx512_vnni`, requires the features. `weights` is PANEL * GROUP = 128
            // bytes and a row of `out` PANEL * 4 = 128: two vectors of 64 each, at any alignment.
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

    /// Called only from [`multiply_avx2`].
    struct Avx2;

    impl Sums for Avx2 {
        type Input = i16;

        #[inline(always)]
        fn groups(tokens: &Tokens) -> &[[i16; GROUP]] {
            &tokens.wide
        }

        #[inline(always)]
        fn accumulate<const ROWS: usize>(
            out: &mut [[i32; PANEL]; ROWS],
            tokens: &[&[[i16; GROUP]]; ROWS],
            panel: &[[[i8; GROUP]; PANEL]],
        ) {
            let ((fours, rest), (token_fours, token_rest)) =
                (out.as_chunks_mut::<4>(), tokens.as_chunks::<4>());
            let ((twos, ones), (token_twos, token_ones)) =
                (rest.as_chunks_mut::<2>(), token_rest.as_chunks::<2>());
            // SAFETY: the only caller, `multiply_avx2`, requires the feature. At most eight vectors are sums, two to eight
            // weights.
            unsafe {
                for (out, tokens) in fours.iter_mut().zip(token_fours) {
                    accumulate_avx2::<4, 2>(out, tokens, panel);
                }
                for (out, tokens) in twos.iter_mut().zip(token_twos) {
                    accumulate_avx2::<2, 4>(out, tokens, panel);
                }
                for (out, tokens) in ones.as_chunks_mut::<1>().0.iter_mut().zip(token_ones) {
                    accumulate_avx2::<1, 8>(out, &[*tokens], panel);
                }
            }
        }
    }

    /// Takes `4 * VECTORS` outputs at a time. A vector of sums has two lanes for each of four outputs.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn accumulate_avx2<const ROWS: usize, const VECTORS: usize>(
        out: &mut [[i32; PANEL]; ROWS],
        tokens: &[&[[i16; GROUP]]; ROWS],
        panel: &[[[i8; GROUP]; PANEL]],
    ) {
        const { assert!(VECTORS.is_multiple_of(2) && PANEL.is_multiple_of(4 * VECTORS)) };
        for tokens in tokens {
            assert_eq!(tokens.len(), panel.len(), "bug: a token of another length");
        }
        for first in (0..PANEL).step_by(4 * VECTORS) {
            // SAFETY: `place` is below the length of the panel and of each token, which is checked above. A group of a token
            // is 8 bytes; four outputs are 16 bytes of weights and of sums. All are read and written at any alignment.
            unsafe {
                let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS];
                let mut weights = [_mm256_setzero_si256(); VECTORS];
                for (place, row) in panel.iter().enumerate() {
                    let row = row.as_ptr().add(first);
                    for (vector, weights) in weights.iter_mut().enumerate() {
                        let four = _mm_loadu_si128(row.add(4 * vector).cast());
                        *weights = _mm256_cvtepi8_epi16(four);
                    }
                    for (sums, tokens) in sums.iter_mut().zip(tokens) {
                        let token: *const i64 = tokens.as_ptr().add(place).cast();
                        let token = _mm256_set1_epi64x(token.read_unaligned());
                        for (sum, weights) in sums.iter_mut().zip(&weights) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(token, *weights));
                        }
                    }
                }
                for (out, sums) in out.iter_mut().zip(&sums) {
                    let out = out.as_mut_ptr().add(first);
                    for (pair, [low, high]) in sums.as_chunks::<2>().0.iter().enumerate() {
                        // Outputs 0, 1, 4, 5, 2, 3, 6, 7 before the permutation.
                        let both = _mm256_hadd_epi32(*low, *high);
                        let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
                        _mm256_storeu_si256(out.add(8 * pair).cast(), both);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums are integers, and rows the same, bit for bit")]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::super::super::matrix_rows::TensorRows;
    use super::super::packed::tests::numbers;
    use super::*;

    fn int8(weight: &[f32], out_features: usize, in_features: usize) -> Int8Weight {
        int8_smoothed(weight, out_features, in_features, None)
    }

    fn int8_smoothed(
        weight: &[f32],
        out_features: usize,
        in_features: usize,
        magnitudes: Option<&[f32]>,
    ) -> Int8Weight {
        quantized(weight, in_features, &[out_features], magnitudes).unwrap()
    }

    fn quantized(
        weight: &[f32],
        in_features: usize,
        parts: &[usize],
        magnitudes: Option<&[f32]>,
    ) -> Result<Int8Weight> {
        let shape = (weight.len() / in_features, in_features);
        let weight = Tensor::from_slice(weight, shape, &Device::Cpu)?;
        let matrices: Vec<Box<dyn Rows>> = vec![Box::new(TensorRows::new(&weight)?)];
        Int8Weight::new(in_features, parts, &matrices, magnitudes)
    }

    /// The product as the module documentation defines it, in plain loops.
    fn plain(weight: &[f32], x: &[f32], in_features: usize, wide: Option<f32>) -> Vec<f32> {
        let mut out = Vec::new();
        for x in x.chunks_exact(in_features) {
            let low = x.iter().fold(0f32, |a, &b| a.min(b));
            let high = x.iter().fold(0f32, |a, &b| a.max(b));
            let (most, range) = wide.map_or((255.0, high - low), |most| (most, high.max(-low)));
            let inverse = if range > 0.0 { most / range } else { 0.0 };
            let scale = if range > 0.0 { range / most } else { 1.0 };
            let zero_point = if wide.is_some() { 0.0 } else { (-low * inverse).round_ties_even() };
            for weight in weight.chunks_exact(in_features) {
                let max = weight.iter().fold(0f32, |a, &b| a.max(b.abs()));
                let own_scale = if max > 0.0 { max / 127.0 } else { 1.0 };
                let sum: i32 = x
                    .iter()
                    .zip(weight)
                    .map(|(x, weight)| {
                        let x = if wide.is_some() {
                            (x * inverse).round_ties_even()
                        } else {
                            // Adding 2²³ rounds the sum to an integer.
                            let to_integer = 8_388_608.0;
                            let x = x * inverse + (zero_point + to_integer);
                            x.clamp(to_integer, most + to_integer) - to_integer - zero_point
                        };
                        x as i32 * (weight / own_scale).round() as i32
                    })
                    .sum();
                out.push(sum as f32 * (scale * own_scale));
            }
        }
        out
    }

    /// The kernels that this processor can run.
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
            assert_eq!(
                out,
                plain(&weight, &x, in_features, kernel.wide_inputs(&layer.parts[0])),
                "{kernel:?}"
            );
            let bias = numbers(out_features, 6);
            for (row, out) in out.chunks_exact(out_features).enumerate() {
                let x = &x[row * in_features..][..in_features];
                let mut alone = Vec::new();
                layer.append_with(kernel, &mut alone, x, Some(&bias)).unwrap();
                for ((alone, out), bias) in alone.iter().zip(out).zip(&bias) {
                    assert_eq!(*alone, out + bias);
                }
                // The rounding error of each operand, times the largest value of the other.
                let highest = x.iter().fold(0f32, |a, &b| a.max(b.abs()));
                let steps = kernel.wide_inputs(&layer.parts[0]).unwrap_or(255.0);
                let rounding = 0.5 / 127.0 + 1.01 / steps;
                let bound = in_features as f32 * highest * rounding;
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
        // Every product is 127 · 255, or 127 times what the sums of wide inputs hold.
        let (rows, in_features) = (9, crate::limits::INT8_INPUTS);
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
    }

    #[test]
    fn zeros_are_exact_and_nonfinite_inputs_give_nan() {
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
    fn smoothing_reduces_the_quantization_error() {
        let (rows, in_features, out_features) = (40, 96, 64);
        // Every seventh input is fifty times as large as the others.
        let magnitudes: Vec<f32> =
            (0..in_features).map(|i| if i % 7 == 0 { 50.0 } else { 1.0 }).collect();
        let weight = numbers(out_features * in_features, 7);
        let x = numbers(rows * in_features, 8);
        let x: Vec<f32> =
            x.iter().zip(magnitudes.iter().cycle()).map(|(x, magnitude)| x * magnitude).collect();
        let off = |layer: &Int8Weight| {
            let mut out = Vec::new();
            // In 8 bits: with more, activations need no smoothing.
            layer.append_with(Kernel::Plain, &mut out, &x, None).unwrap();
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
        let smoothed = off(&int8_smoothed(&weight, out_features, in_features, Some(&magnitudes)));
        assert!(smoothed < 0.7 * plain, "{smoothed} {plain}");
    }

    #[test]
    fn unusable_magnitudes_disable_smoothing() {
        let weight = [0.0, 1.0, f32::INFINITY, 0.5, 0.0, -1.0, 1.0, 0.5];
        let magnitudes = [3.0, 0.0, 1.0, f32::NAN];
        let (plain, smoothed) =
            (int8(&weight, 2, 4), int8_smoothed(&weight, 2, 4, Some(&magnitudes)));
        assert_eq!(smoothed.parts[0].factors, Some(vec![1.0; 4]));
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        plain.append(&mut expected, &[1.0, 2.0, 3.0, 4.0], None).unwrap();
        smoothed.append(&mut out, &[1.0, 2.0, 3.0, 4.0], None).unwrap();
        assert_eq!(out[1], expected[1]);
        assert!(out[0].is_nan() && expected[0].is_nan());
        assert!(quantized(&[0.0; 8], 4, &[2], Some(&magnitudes[..3])).is_err());
        assert!(quantized(&[0.0; 8], 4, &[1, 2], Some(&magnitudes)).is_err());
    }

    #[test]
    fn parts_equal_separate_layers() {
        let (rows, in_features, parts) = (11, 70, [33, 64, 7]);
        let out_features: usize = parts.iter().sum();
        let weight = numbers(out_features * in_features, 9);
        let magnitudes: Vec<f32> = (0..in_features).map(|i| 1.0 + (i % 5) as f32).collect();
        let (x, bias) = (numbers(rows * in_features, 10), numbers(out_features, 11));
        let all = quantized(&weight, in_features, &parts, Some(&magnitudes)).unwrap();
        for (output, row) in weight.chunks_exact(in_features).enumerate() {
            let mut found = Vec::new();
            all.append_row(output, &mut found);
            assert_eq!(found.len(), in_features);
            // Half a step, after smoothing by factors of at most 5 and at least a fifth.
            for (found, weight) in found.iter().zip(row) {
                assert!((found - weight).abs() <= 5.0 / 127.0, "{output}: {found} {weight}");
            }
        }
        for kernel in kernels() {
            let mut out = Vec::new();
            all.append_with(kernel, &mut out, &x, Some(&bias)).unwrap();
            let mut start = 0;
            for outputs in parts {
                let columns = start..start + outputs;
                let weight = &weight[start * in_features..columns.end * in_features];
                let part = int8_smoothed(weight, outputs, in_features, Some(&magnitudes));
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
    fn wrong_lengths_are_refused() {
        let layer = int8(&[1.0; 6], 2, 3);
        assert!(layer.append(&mut Vec::new(), &[1.0; 4], None).is_err());
        assert!(layer.append(&mut Vec::new(), &[1.0; 3], Some(&[1.0])).is_err());
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
