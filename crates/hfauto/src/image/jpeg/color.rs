//! From coefficients to pixels: decodes planes of samples, upsamples them to one size, and converts colours.

use super::idct::{SIDE, idct};
use super::{Component, Frame, Result, damaged, filled};
use crate::image::RgbImage;
use crate::image::decode::with_room;

/// Samples of one component at the image's resolution.
type Plane = Vec<u8>;

pub(super) fn decode(
    mut frame: Frame,
    jfif: bool,
    adobe_transform: Option<u8>,
) -> Result<RgbImage> {
    let mut planes: Vec<Plane> = Vec::new();
    for index in 0..frame.components.len() {
        planes.push(upsample(&frame.components[index], &frame)?);
        // Coefficients take twice the memory of the plane and are no longer needed.
        frame.components[index].coefficients = Vec::new();
    }
    let mut pixels = with_room(frame.width * frame.height * 3)?;
    match &planes[..] {
        [gray] => pixels.extend(gray.iter().flat_map(|value| [*value; 3])),
        [first, second, third] => {
            let ids = [0, 1, 2].map(|place| frame.components[place].id);
            let is_rgb = match (jfif, adobe_transform) {
                (true, _) => false,
                (false, Some(transform)) => transform == 0,
                (false, None) => ids == *b"RGB",
            };
            let colors = first.iter().zip(second).zip(third);
            if is_rgb {
                pixels.extend(colors.flat_map(|((r, g), b)| [*r, *g, *b]));
            } else {
                pixels.extend(colors.flat_map(|((y, cb), cr)| ycc_to_rgb(*y, *cb, *cr)));
            }
        }
        [first, second, third, black] => {
            let is_cmyk = matches!(adobe_transform, None | Some(0));
            let colors = first.iter().zip(second).zip(third).zip(black);
            pixels.extend(colors.flat_map(|(((a, b), c), k)| {
                let cmy = if is_cmyk {
                    [*a, *b, *c]
                } else {
                    ycc_to_rgb(*a, *b, *c).map(|value| 255 - value)
                };
                cmyk_to_rgb(cmy, *k)
            }));
        }
        _ => return Err(damaged("a JPEG frame with unknown colours")),
    }
    Ok(RgbImage::new(frame.width, frame.height, pixels))
}

const SCALE_BITS: u32 = 16;
const HALF: i32 = 1 << (SCALE_BITS - 1);

const fn fix(x: f64) -> i32 {
    (x * (1 << SCALE_BITS) as f64 + 0.5) as i32
}

fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((fix(1.40200) * cr + HALF) >> SCALE_BITS);
    let green = y + ((-fix(0.34414) * cb - fix(0.71414) * cr + HALF) >> SCALE_BITS);
    let blue = y + ((fix(1.77200) * cb + HALF) >> SCALE_BITS);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Pillow's own conversion. The channels are inverted in the file, as Adobe writes them.
///
/// # Source
/// `cmyk2rgb` in `src/libImaging/Convert.c`; the raw mode `CMYK;I` of `JpegImagePlugin.py`.
pub(in crate::image) fn cmyk_to_rgb(cmy: [u8; 3], black: u8) -> [u8; 3] {
    let light = i32::from(black);
    cmy.map(|value| {
        let product = (255 - i32::from(value)) * light + 128;
        (light - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// The samples of a component, `blocks_x * 8` per row.
fn samples(component: &Component) -> Result<Vec<u8>> {
    let steps = component.steps.ok_or_else(|| damaged("a JPEG component has no data"))?;
    let stride = component.blocks_x * SIDE;
    let mut plane = filled(0, component.coefficients.len() * SIDE * SIDE)?;
    for (blocks, rows) in component
        .coefficients
        .chunks_exact(component.blocks_x)
        .zip(plane.chunks_exact_mut(stride * SIDE))
    {
        for (place, block) in blocks.iter().enumerate() {
            let samples = idct(block, &steps);
            for (row, samples) in samples.chunks_exact(SIDE).enumerate() {
                let start = row * stride + place * SIDE;
                rows[start..start + SIDE].copy_from_slice(samples);
            }
        }
    }
    Ok(plane)
}

/// A component's plane at the image's resolution. Interpolates where a side is halved (libjpeg's "fancy" upsampling),
/// and repeats samples otherwise.
fn upsample(component: &Component, frame: &Frame) -> Result<Plane> {
    let samples = samples(component)?;
    let stride = component.blocks_x * SIDE;
    let row = |y: usize| &samples[y * stride..y * stride + component.width];
    let (across, down) = (frame.max_h / component.h, frame.max_v / component.v);
    // The neighbour of row `y / 2` that is nearer to pixel row `y`.
    let beside = |y: usize| match y % 2 {
        0 => (y / 2).saturating_sub(1),
        _ => (y / 2 + 1).min(component.height - 1),
    };
    let mut plane = with_room(frame.width * frame.height)?;
    let mut wide = Vec::with_capacity(component.width * across);
    for y in 0..frame.height {
        wide.clear();
        match (across, down) {
            (1, 1) => wide.extend_from_slice(row(y)),
            (2, 1) if component.width > 2 => double(row(y), &mut wide),
            (1, 2) => {
                let bias = if y % 2 == 0 { 1 } else { 2 };
                let both = row(y / 2).iter().zip(row(beside(y)));
                wide.extend(both.map(|(near, far)| {
                    ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8
                }));
            }
            (2, 2) if component.width > 2 => {
                let both = row(y / 2).iter().zip(row(beside(y)));
                let sums: Vec<u16> =
                    both.map(|(near, far)| u16::from(*near) * 3 + u16::from(*far)).collect();
                double_sums(&sums, &mut wide);
            }
            _ => {
                let row = row(y / down).iter();
                wide.extend(row.flat_map(|value| std::iter::repeat_n(*value, across)));
            }
        }
        plane.extend_from_slice(&wide[..frame.width]);
    }
    Ok(plane)
}

/// Doubles a row: each sample moves a quarter of the way to its neighbour. `row` has at least three samples.
fn double(row: &[u8], out: &mut Vec<u8>) {
    let last = row.len() - 1;
    let mix =
        |near: u8, far: u8, bias: u16| ((u16::from(near) * 3 + u16::from(far) + bias) >> 2) as u8;
    for (x, value) in row.iter().enumerate() {
        out.push(if x == 0 { *value } else { mix(*value, row[x - 1], 1) });
        out.push(if x == last { *value } else { mix(*value, row[x + 1], 2) });
    }
}

/// The same for sums over two rows, which are four times the samples.
fn double_sums(sums: &[u16], out: &mut Vec<u8>) {
    let last = sums.len() - 1;
    for (x, sum) in sums.iter().enumerate() {
        let left = if x == 0 { sum * 4 + 8 } else { sum * 3 + sums[x - 1] + 8 };
        let right = if x == last { sum * 4 + 7 } else { sum * 3 + sums[x + 1] + 7 };
        out.extend([(left >> 4) as u8, (right >> 4) as u8]);
    }
}
