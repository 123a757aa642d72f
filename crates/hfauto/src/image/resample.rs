//! Resizes as Pillow does: by a fixed-point convolution along each axis, with identical bytes on every machine.
//!
//! # Source
//! `src/libImaging/Resample.c` and, for `nearest`, `ImagingScaleAffine` in `src/libImaging/Geometry.c` of
//! Pillow 13.

use std::borrow::Cow;
use std::f64::consts::PI;

use super::RgbImage;

/// Fraction bits of a weight. A weighted sum of bytes fits in 32 bits, including its sign and overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Filters of Pillow (`Image.Resampling`), with its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// The source pixel at the centre of the target pixel.
    Nearest = 0,
    /// Windowed sinc over three pixels on each side.
    Lanczos = 1,
    /// Triangle over one pixel on each side.
    Bilinear = 2,
    /// Cubic over two pixels on each side, with a = −0.5.
    Bicubic = 3,
    /// The mean of the covered pixels.
    Box = 4,
    /// A Hamming window over one pixel on each side.
    Hamming = 5,
    /// The Magic Kernel Sharp of 2013 over two and a half pixels on each side.
    Mks2013 = 6,
    /// The Magic Kernel Sharp of 2021 over four and a half pixels on each side.
    Mks2021 = 7,
}

impl Resampling {
    /// All filters, by their codes.
    pub const ALL: [Self; 8] = [
        Self::Nearest,
        Self::Lanczos,
        Self::Bilinear,
        Self::Bicubic,
        Self::Box,
        Self::Hamming,
        Self::Mks2013,
        Self::Mks2021,
    ];

    /// The filter with Pillow's `code`.
    pub fn from_code(code: u64) -> Option<Self> {
        usize::try_from(code).ok().and_then(|code| Self::ALL.get(code).copied())
    }

    /// The filter's name in Pillow, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "hamming",
            Self::Mks2013 => "mks2013",
            Self::Mks2021 => "mks2021",
        }
    }

    /// The radius of the filter, in pixels of the coarser image.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
            Self::Mks2013 => 2.5,
            Self::Mks2021 => 4.5,
        }
    }

    /// The filter's value at a distance of `x` pixels.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    let x = x * PI;
                    x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
                }
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Mks2013 => mks2013(x.abs()),
            Self::Mks2021 => mks2021(x.abs()),
            Self::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

/// # Source
/// J. P. Costella, The Magic Kernel.
fn mks2013(x: f64) -> f64 {
    if x <= 0.5 {
        17.0 / 16.0 - 7.0 / 4.0 * x * x
    } else if x <= 1.5 {
        (4.0 * x * x - 11.0 * x + 7.0) / 4.0
    } else if x <= 2.5 {
        -(2.0 * x - 5.0) * (2.0 * x - 5.0) / 32.0
    } else {
        0.0
    }
}

/// # Source
/// As [`mks2013`].
fn mks2021(x: f64) -> f64 {
    if x <= 0.5 {
        577.0 / 576.0 - 239.0 / 144.0 * x * x
    } else if x <= 1.5 {
        (140.0 * x * x - 379.0 * x + 239.0) / 144.0
    } else if x <= 2.5 {
        -(24.0 * x * x - 113.0 * x + 130.0) / 144.0
    } else if x <= 3.5 {
        (4.0 * x * x - 27.0 * x + 45.0) / 144.0
    } else if x <= 4.5 {
        -(2.0 * x - 9.0) * (2.0 * x - 9.0) / 1152.0
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

pub(super) fn resize(
    image: &RgbImage,
    width: usize,
    height: usize,
    resample: Resampling,
) -> Vec<u8> {
    if resample == Resampling::Nearest {
        let columns = nearest(image.width, width);
        let rows = nearest(image.height, height);
        return image.rearranged(width, height, |x, y| (columns[x], rows[y])).pixels;
    }
    // Each pass rounds, so their order affects the result. As in Pillow, the vertical pass runs first if it removes so
    // many rows that the horizontal pass becomes faster.
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let (lost_rows, lost_columns) = (lost(image.height, height), lost(image.width, width));
    let vertical_first = lost_rows > 0 && lost_rows > 2 * lost_columns;
    let across = |pixels: Cow<'_, [u8]>| -> Vec<u8> {
        if image.width == width {
            return pixels.into_owned();
        }
        horizontal(&pixels, image.width, &Weights::new(image.width, width, resample))
    };
    let down = |pixels: Cow<'_, [u8]>, width: usize| -> Vec<u8> {
        if image.height == height {
            return pixels.into_owned();
        }
        vertical(&pixels, width, &Weights::new(image.height, height, resample))
    };
    let pixels = Cow::Borrowed(&image.pixels[..]);
    if vertical_first {
        across(Cow::Owned(down(pixels, image.width)))
    } else {
        down(Cow::Owned(across(pixels)), width)
    }
}

/// The source position of each target position along an axis. Accumulates the step as Pillow does; a multiplication
/// would round differently.
fn nearest(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut place = step * 0.5;
    let places = std::iter::repeat_with(|| {
        let at = (place as usize).min(from - 1);
        place += step;
        at
    });
    places.take(to).collect()
}

/// The weighted source positions of each target position along an axis.
struct Weights {
    /// The first source position and the start of its weights, for each target position; one sentinel at the end.
    places: Vec<(usize, usize)>,
    weights: Vec<i32>,
}

impl Weights {
    fn new(from: usize, to: usize, resample: Resampling) -> Self {
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = resample.support() * filter_scale;
        let mut places = Vec::with_capacity(to + 1);
        let mut weights = Vec::new();
        for place in 0..to {
            let center = (place as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let values: Vec<f64> = (first..end)
                .map(|old| resample.weight((old as f64 - center + 0.5) * (1.0 / filter_scale)))
                .collect();
            let sum: f64 = values.iter().sum();
            places.push((first, weights.len()));
            weights.extend(values.iter().map(|value| {
                let value = if sum == 0.0 { *value } else { value / sum };
                let scaled = value * f64::from(1 << PRECISION_BITS);
                (scaled + if value < 0.0 { -0.5 } else { 0.5 }) as i32
            }));
        }
        places.push((0, weights.len()));
        Self { places, weights }
    }

    /// The first source position of each target position, with the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.places.windows(2).map(|pair| {
            let [(first, start), (_, end)] = [pair[0], pair[1]];
            (first, &self.weights[start..end])
        })
    }
}

/// The integer part of a weighted sum, clamped to a byte. Sums start at one half, for rounding.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn horizontal(pixels: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let rows = pixels.chunks_exact(width * CHANNELS);
    let mut out = Vec::with_capacity((weights.places.len() - 1) * rows.len() * CHANNELS);
    for row in rows {
        for (first, weights) in weights.iter() {
            let mut sums = [HALF; CHANNELS];
            let pixels = row[first * CHANNELS..].chunks_exact(CHANNELS);
            for (pixel, weight) in pixels.zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.map(byte));
        }
    }
    out
}

fn vertical(pixels: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let row_bytes = width * CHANNELS;
    let mut out = Vec::with_capacity((weights.places.len() - 1) * row_bytes);
    let mut sums = vec![HALF; row_bytes];
    for (first, weights) in weights.iter() {
        sums.fill(HALF);
        let rows = pixels[first * row_bytes..].chunks_exact(row_bytes);
        for (row, weight) in rows.zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.iter().map(|sum| byte(*sum)));
    }
    out
}
