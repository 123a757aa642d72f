//! Resizing as Pillow does it: a convolution along each axis in whole numbers, so that the bytes are the
//! same on every machine.
//!
//! # Source
//! `src/libImaging/Resample.c` and, for `nearest`, `ImagingScaleAffine` in `src/libImaging/Geometry.c` of
//! Pillow 12.

use std::f64::consts::PI;

use super::RgbImage;

/// Fraction bits of a weight: a sum of products with bytes stays within 32 bits, sign and overshoot included.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Filters of Pillow (`Image.Resampling`), with its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// The pixel that the middle of the new one falls on.
    Nearest = 0,
    /// Windowed sinc over three pixels on each side.
    Lanczos = 1,
    /// Triangle over one pixel on each side.
    Bilinear = 2,
    /// Cubic over two pixels on each side, with a = −0.5.
    Bicubic = 3,
    /// The mean of the pixels covered.
    Box = 4,
    /// A Hamming window over one pixel on each side.
    Hamming = 5,
}

impl Resampling {
    /// All filters, by their codes.
    pub const ALL: [Self; 6] =
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];

    /// The filter with Pillow's `code`.
    pub fn from_code(code: u64) -> Option<Self> {
        usize::try_from(code).ok().and_then(|code| Self::ALL.get(code).copied())
    }

    /// Its name in Pillow, lower-case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "hamming",
        }
    }

    /// How far the filter reaches, in pixels of the coarser picture.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
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
                    x.sin() / x * (0.54 + 0.46 * x.cos())
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
    let mut pixels = None;
    if width != image.width {
        pixels = Some(horizontal(image, &Weights::new(image.width, width, resample)));
    }
    if height != image.height {
        let before = pixels.as_deref().unwrap_or(&image.pixels);
        pixels = Some(vertical(before, width, &Weights::new(image.height, height, resample)));
    }
    pixels.unwrap_or_else(|| image.pixels.clone())
}

/// For each new place along an axis the old one. Steps are summed up one by one, as Pillow does: a
/// product would round otherwise.
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

/// For each new place along an axis the old ones that it is made of.
struct Weights {
    /// The first old place, and where its weight is; there is one entry more than places.
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

    /// The first old place and the weights from there on, for each new place.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.places.windows(2).map(|pair| {
            let [(first, start), (_, end)] = [pair[0], pair[1]];
            (first, &self.weights[start..end])
        })
    }
}

/// The sum's whole part, within a byte. It starts at one half.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn horizontal(image: &RgbImage, weights: &Weights) -> Vec<u8> {
    let width = weights.places.len() - 1;
    let mut out = Vec::with_capacity(width * image.height * CHANNELS);
    for row in image.pixels.chunks_exact(image.width * CHANNELS) {
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
