//! Decodes BMP as Pillow does: palettes of 1, 4 and 8 bits, 16, 24 and 32 bits of colour, run-length encoding. Pillow
//! expands 5 and 6 bits to 8 by its own formula, and ignores alpha.
//!
//! # Source
//! `BmpImageFile._bitmap`, `BmpRleDecoder` in `src/PIL/BmpImagePlugin.py` of Pillow 13.

use super::RgbImage;
use super::decode::{Admitted, Limits, admit, damaged, with_room};
use crate::error::{Error, Result};

const HEADERS: [usize; 6] = [40, 52, 56, 64, 108, 124];
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BITFIELDS: u32 = 3;

/// The contents of the headers.
struct Header {
    width: usize,
    height: usize,
    is_top_down: bool,
    bits: usize,
    compression: u32,
    pixels: Pixels,
    /// The offset of the pixels.
    offset: usize,
}

/// The layout of a pixel in a row.
enum Pixels {
    /// An index into the palette.
    Index(Vec<[u8; 3]>),
    /// Two bytes: the shift and the mask of red, green and blue.
    Bits([(u32, u32); 3]),
    /// The positions of red, green and blue within a pixel of the given number of bytes.
    Bytes([usize; 3], usize),
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted)> {
    let header = header(bytes)?;
    let Header { width, height, .. } = header;
    let admitted = admit(width as u64, height as u64, limits)?;
    let image = match header.compression {
        RLE8 | RLE4 => {
            let indices = runs(bytes, &header)?;
            decoded(&header, |y, out| {
                let row = &indices[y * width..(y + 1) * width];
                row.iter().for_each(|index| out.extend(header.color(usize::from(*index))));
                Ok(())
            })
        }
        _ => {
            let stride = (width * header.bits).div_ceil(32) * 4;
            decoded(&header, |y, out| {
                let start =
                    y.checked_mul(stride).and_then(|start| start.checked_add(header.offset));
                // The padding of the last row may be missing.
                let end = start.map(|start| start + (width * header.bits).div_ceil(8));
                let row = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
                header.row(row.ok_or_else(cut_off)?, out);
                Ok(())
            })
        }
    };
    Ok((image?, admitted))
}

fn cut_off() -> Error {
    damaged("the BMP file is truncated")
}

fn unsupported(what: &str) -> Error {
    damaged(format!("BMP files {what} are not supported"))
        .hint("save the image as a BMP of 24 bits, or as PNG")
}

fn number<const LENGTH: usize>(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + LENGTH).ok_or_else(cut_off)?;
    Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

fn header(bytes: &[u8]) -> Result<Header> {
    let size = number::<4>(bytes, 14)? as usize;
    let mut header = Header {
        width: 0,
        height: 0,
        is_top_down: false,
        bits: 0,
        compression: 0,
        pixels: Pixels::Bytes([2, 1, 0], 3),
        offset: number::<4>(bytes, 10)? as usize,
    };
    let (mut colors, entry) = if size == 12 {
        header.width = number::<2>(bytes, 18)? as usize;
        header.height = number::<2>(bytes, 20)? as usize;
        header.bits = number::<2>(bytes, 24)? as usize;
        (0, 3)
    } else if HEADERS.contains(&size) {
        let height = number::<4>(bytes, 22)?;
        header.is_top_down = height >> 24 == 0xff;
        header.width = number::<4>(bytes, 18)? as usize;
        header.height = if header.is_top_down { height.wrapping_neg() } else { height } as usize;
        header.bits = number::<2>(bytes, 28)? as usize;
        header.compression = number::<4>(bytes, 30)?;
        (number::<4>(bytes, 46)? as usize, 4)
    } else {
        return Err(unsupported(&format!("with a header of {size} bytes")));
    };
    let mut behind = 14 + size;
    let masks = if header.compression == BITFIELDS {
        // The masks follow the shortest header, which has no alpha mask.
        let at = if size < 52 { behind } else { 54 };
        let alpha = if size < 56 { 0 } else { number::<4>(bytes, 66)? };
        if size < 52 {
            behind += 12;
        }
        let mask = |place: usize| number::<4>(bytes, at + 4 * place);
        Some([mask(0)?, mask(1)?, mask(2)?, alpha])
    } else {
        None
    };
    if colors == 0 && header.bits <= 8 {
        colors = 1 << header.bits;
    }
    if header.offset == 14 + size && header.bits <= 8 {
        header.offset += entry * colors;
    }
    header.pixels = match (header.bits, header.compression, masks) {
        (1 | 4 | 8, 0, None) | (8, RLE8, None) | (4, RLE4, None) => {
            if !(1..=256).contains(&colors) {
                return Err(damaged(format!("a BMP palette of {colors} colours")));
            }
            let palette = bytes.get(behind..behind + entry * colors).ok_or_else(cut_off)?;
            behind += entry * colors;
            let colors: Vec<_> = palette.chunks_exact(entry).map(|c| [c[2], c[1], c[0]]).collect();
            Pixels::Index(if is_gray(&colors) { SHADES.to_vec() } else { colors })
        }
        (16, 0, None) => Pixels::Bits([(10, 31), (5, 31), (0, 31)]),
        (24, 0, None) => Pixels::Bytes([2, 1, 0], 3),
        (32, 0, None) => Pixels::Bytes([2, 1, 0], 4),
        (bits, BITFIELDS, Some(masks)) => fields(bits, masks)?,
        (bits, compression, _) => {
            return Err(unsupported(&format!("of {bits} bits with compression {compression}")));
        }
    };
    if header.offset == 0 {
        header.offset = behind;
    }
    Ok(header)
}

/// The layouts that Pillow supports.
fn fields(bits: usize, masks: [u32; 4]) -> Result<Pixels> {
    let [red, green, blue, _] = masks;
    Ok(match (bits, masks) {
        (32, [0xff_0000, 0xff00, 0xff, 0 | 0xff00_0000] | [0, 0, 0, 0]) => {
            Pixels::Bytes([2, 1, 0], 4)
        }
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0 | 0xff]) => Pixels::Bytes([3, 2, 1], 4),
        (32, [0xff00_0000, 0xff00, 0xff, 0 | 0xff_0000]) => Pixels::Bytes([3, 1, 0], 4),
        (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => Pixels::Bytes([0, 1, 2], 4),
        (24, [0xff_0000, 0xff00, 0xff, _]) => Pixels::Bytes([2, 1, 0], 3),
        (16, [0xf800, 0x7e0, 0x1f, _]) => Pixels::Bits([(11, 31), (5, 63), (0, 31)]),
        (16, [0x7c00, 0x3e0, 0x1f, _]) => Pixels::Bits([(10, 31), (5, 31), (0, 31)]),
        _ => {
            let layout = format!("of {bits} bits with the masks {red:x}, {green:x} and {blue:x}");
            return Err(unsupported(&layout));
        }
    })
}

impl Header {
    fn color(&self, index: usize) -> [u8; 3] {
        match &self.pixels {
            Pixels::Index(colors) => colors.get(index).copied().unwrap_or_default(),
            _ => [0; 3],
        }
    }

    fn row(&self, row: &[u8], out: &mut Vec<u8>) {
        match &self.pixels {
            Pixels::Index(colors) => {
                let (per_byte, mask) = (8 / self.bits, ((1u32 << self.bits) - 1) as u8);
                // An all-black palette means black and white.
                let is_white = |index: usize| index == 1 && colors[..] == [[0; 3]];
                for x in 0..self.width {
                    let shift = (per_byte - 1 - x % per_byte) * self.bits;
                    let index = usize::from(row[x / per_byte] >> shift & mask);
                    out.extend(if is_white(index) { [255; 3] } else { self.color(index) });
                }
            }
            Pixels::Bits(channels) => {
                for pixel in row.chunks_exact(2) {
                    let pixel = u32::from(u16::from_le_bytes([pixel[0], pixel[1]]));
                    out.extend(
                        channels.map(|(shift, mask)| ((pixel >> shift & mask) * 255 / mask) as u8),
                    );
                }
            }
            Pixels::Bytes(places, length) => {
                for pixel in row.chunks_exact(*length) {
                    out.extend(places.map(|place| pixel[place]));
                }
            }
        }
    }
}

/// Whether the palette is a gray ramp, which Pillow ignores, whatever its length.
fn is_gray(colors: &[[u8; 3]]) -> bool {
    colors.len() > 2 && SHADES.starts_with(colors)
}

const SHADES: [[u8; 3]; 256] = {
    let mut shades = [[0; 3]; 256];
    let mut shade = 0;
    while shade < 256 {
        shades[shade] = [shade as u8; 3];
        shade += 1;
    }
    shades
};

/// Builds the image from rows that `row` appends in file order.
fn decoded(header: &Header, row: impl Fn(usize, &mut Vec<u8>) -> Result<()>) -> Result<RgbImage> {
    let mut pixels = with_room(header.width * header.height * 3)?;
    for y in 0..header.height {
        row(if header.is_top_down { y } else { header.height - 1 - y }, &mut pixels)?;
    }
    Ok(RgbImage::new(header.width, header.height, pixels))
}

/// Palette indices of the pixels, in file order.
fn runs(bytes: &[u8], header: &Header) -> Result<Vec<u8>> {
    let (width, whole) = (header.width, header.width * header.height);
    let is_rle4 = header.compression == RLE4;
    let mut out: Vec<u8> = with_room(whole)?;
    let (mut at, mut x) = (header.offset, 0);
    while out.len() < whole {
        let Some([count, value]) = bytes.get(at..at + 2) else { break };
        at += 2;
        let nibbles = [value >> 4, value & 15];
        match (count, value) {
            (0, 0) => {
                out.resize(out.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some([right, up]) = bytes.get(at..at + 2) else { break };
                at += 2;
                let skipped = usize::from(*right) + usize::from(*up) * width;
                out.resize(whole.min(out.len() + skipped), 0);
                x = out.len() % width;
            }
            (0, count) => {
                let pixels = usize::from(*count).min(whole - out.len());
                let length = if is_rle4 { pixels.div_ceil(2) } else { pixels };
                let Some(values) = bytes.get(at..at + length) else { break };
                at += length;
                if is_rle4 {
                    let values = values.iter().flat_map(|value| [value >> 4, value & 15]);
                    out.extend(values.take(pixels));
                } else {
                    out.extend_from_slice(values);
                }
                x += usize::from(*count);
                at += at % 2;
            }
            (count, value) => {
                let pixels = usize::from(*count).min(width.saturating_sub(x));
                if is_rle4 {
                    out.extend((0..pixels).map(|pixel| nibbles[pixel % 2]));
                } else {
                    out.resize(out.len() + pixels, *value);
                }
                x += pixels;
            }
        }
    }
    if out.len() < whole {
        return Err(cut_off());
    }
    Ok(out)
}
