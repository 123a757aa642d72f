//! Decodes the first image of a TIFF file as Pillow does: gray of 1 to 32 bits, palettes, RGB and CMYK of 8 and 16
//! bits, in strips or tiles, uncompressed or with LZW, Deflate, PackBits or CCITT group 4. The `tiff` crate interprets
//! some tags differently from Pillow, so it only decodes raw samples.
//!
//! Refuses by name: JPEG and other compressions, YCbCr, Lab.
//!
//! # Source
//! `OPEN_INFO` and `TiffImageFile._setup` in `src/PIL/TiffImagePlugin.py`, `Unpack.c`, `Convert.c` of Pillow 13.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use ::tiff::TiffError;
use ::tiff::decoder::{Decoder, DecodingResult, Limits as DecoderLimits};
use ::tiff::tags::{CompressionMethod, Tag};

use super::RgbImage;
use super::decode::{Admitted, Limits, admit, cannot_decode, damaged, rgb, with_room};
use super::jpeg::cmyk_to_rgb;
use super::orientation::Metadata;
use crate::error::{Error, Result};
use crate::limits::IMAGE_SIDE;

const PHOTOMETRIC: u16 = 262;
const XMP: u16 = 700;
/// The most samples per pixel that Pillow reads.
const MAX_SAMPLES: usize = 6;

const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const CMYK: u16 = 5;
const YCBCR: u16 = 6;

/// Values of the extra-samples tag.
const PREMULTIPLIED: u16 = 1;

pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    let heads: [&[u8]; 4] = [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"];
    heads.iter().any(|head| bytes.starts_with(head))
}

fn refused(error: TiffError) -> Error {
    cannot_decode("TIFF", error)
}

fn unsupported(what: &str) -> Error {
    damaged(format!("{what} TIFF files are not supported"))
        .hint("save the image as an RGB TIFF with LZW or Deflate, or as PNG")
}

/// The tags that describe a pixel.
struct Pixel {
    photometric: u16,
    bits: u16,
    samples: usize,
    /// 1 for unsigned integers, 2 for signed integers, 3 for floats.
    sample_format: u16,
    extra: Vec<u16>,
    is_big_endian: bool,
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted, Metadata)> {
    let (at, photometric) =
        photometric(bytes).ok_or_else(|| damaged("a TIFF file without colours"))?;
    let is_big_endian = bytes.starts_with(b"MM");
    let gray =
        if is_big_endian { BLACK_IS_ZERO.to_be_bytes() } else { BLACK_IS_ZERO.to_le_bytes() };
    // Declared as gray, the samples come raw: the decoder neither inverts nor drops any.
    let file = AsGray { file: Cursor::new(bytes), at: at as u64, gray };
    let mut decoder = Decoder::new(file).map_err(refused)?;
    let (width, height) = decoder.dimensions().map_err(refused)?;
    let admitted = admit(u64::from(width), u64::from(height), limits)?;
    let (width, height) = (width as usize, height as usize);
    // The decoder buffers one row of a tile, which may be far wider than the image.
    let (tile, _) = decoder.chunk_dimensions();
    if u64::from(tile) > IMAGE_SIDE {
        return Err(damaged(format!("a TIFF file with tiles of {tile} pixels in width")));
    }

    let mut number = |tag: Tag, default: u16| {
        Ok::<u16, Error>(decoder.find_tag_unsigned(tag).map_err(refused)?.unwrap_or(default))
    };
    let compression = CompressionMethod::from_u16_exhaustive(number(Tag::Compression, 1)?);
    let samples = usize::from(number(Tag::SamplesPerPixel, 1)?);
    let is_reversed = number(Tag::FillOrder, 1)? == 2;
    let is_planar = number(Tag::PlanarConfiguration, 1)? == 2 && samples > 1;
    let orientation = number(Tag::Orientation, 0)?;
    let mut numbers = |tag: Tag| {
        Ok::<Vec<u16>, Error>(
            decoder.find_tag_unsigned_vec(tag).map_err(refused)?.unwrap_or_default(),
        )
    };
    let pixel = Pixel {
        photometric,
        bits: numbers(Tag::BitsPerSample)?.first().copied().unwrap_or(1),
        samples,
        sample_format: numbers(Tag::SampleFormat)?.first().copied().unwrap_or(1),
        extra: numbers(Tag::ExtraSamples)?,
        is_big_endian,
    };
    let colors = if photometric == PALETTE { numbers(Tag::ColorMap)? } else { Vec::new() };
    check_compression(compression, is_reversed)?;
    pixel.check()?;

    // `find_tag` respects the decoder's limits; a tag may claim any number of values.
    let xmp = decoder.find_tag(Tag::from_u16_exhaustive(XMP)).ok().flatten();
    let xmp = xmp.and_then(|value| value.into_u8_vec().ok());
    // The pixels were admitted above.
    let mut inside = DecoderLimits::default();
    (inside.decoding_buffer_size, inside.intermediate_buffer_size) = (usize::MAX, usize::MAX);
    let mut decoder = decoder.with_limits(inside);
    let mut read = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut read).map_err(refused)?;
    // By now samples have at most 8 bits, and rows are byte-aligned.
    let bits = usize::from(pixel.bits.min(8));
    let stride = (width * bits * if is_planar { 1 } else { samples }).div_ceil(8);
    let mut values = pixel.bytes(read)?;
    let planes = if is_planar { samples } else { 1 };
    if values.len() < stride * height * planes {
        return Err(damaged("the TIFF file is truncated"));
    }
    if is_reversed {
        values.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    if pixel.bits < 8 {
        values = unpacked(&values, stride, width, pixel.bits)?;
    }
    if is_planar {
        let mut mixed = with_room(values.len())?;
        let plane = width * height;
        for place in 0..plane {
            mixed.extend((0..samples).map(|sample| values[sample * plane + place]));
        }
        values = mixed;
    }
    let pixels = pixel.rgb(values, &colors)?;
    let orientation = (orientation > 0).then_some(u32::from(orientation));
    let metadata = Metadata { orientation, xmp, ..Metadata::default() };
    Ok((RgbImage::new(width, height, pixels), admitted, metadata))
}

fn check_compression(compression: CompressionMethod, is_reversed: bool) -> Result<()> {
    match compression {
        CompressionMethod::None => Ok(()),
        _ if is_reversed => Err(unsupported("compressed, bit-reversed")),
        CompressionMethod::LZW
        | CompressionMethod::Deflate
        | CompressionMethod::OldDeflate
        | CompressionMethod::PackBits
        | CompressionMethod::Fax4 => Ok(()),
        CompressionMethod::JPEG | CompressionMethod::ModernJPEG => {
            Err(unsupported("JPEG-compressed"))
        }
        other => Err(unsupported(&format!("{other:?}-compressed"))),
    }
}

impl Pixel {
    /// Fails for layouts that Pillow does not open, or that are not supported here.
    fn check(&self) -> Result<()> {
        let Self { photometric, bits, samples, sample_format, .. } = *self;
        if samples == 0 || samples > MAX_SAMPLES {
            return Err(unsupported(&format!("{samples}-band")));
        }
        let is_known = match (photometric, samples, bits, sample_format) {
            (WHITE_IS_ZERO | BLACK_IS_ZERO, 1, 1 | 2 | 4 | 8, 1) => true,
            (BLACK_IS_ZERO, 1, 8, 2) => true,
            (WHITE_IS_ZERO, 1, 16, 1) => !self.is_big_endian,
            (BLACK_IS_ZERO, 1, 16, 1 | 2) => true,
            (BLACK_IS_ZERO, 1, 32, 1) => !self.is_big_endian,
            (BLACK_IS_ZERO, 1, 32, 2 | 3) | (WHITE_IS_ZERO, 1, 32, 3) => true,
            (BLACK_IS_ZERO, 2, 8, 1) => matches!(self.extra[..], [0 | 2]),
            (RGB, 3.., 8 | 16, 1) => true,
            (PALETTE, 1, 1 | 2 | 4 | 8, 1) => true,
            (PALETTE, 2, 8, 1) => matches!(self.extra[..], [0 | 2]),
            (CMYK, 4.., 8 | 16, 1) => true,
            (YCBCR, 1, 8, 1) => true,
            _ => false,
        };
        if is_known {
            return Ok(());
        }
        let colors = match photometric {
            WHITE_IS_ZERO | BLACK_IS_ZERO => "gray".to_owned(),
            RGB => "RGB".to_owned(),
            PALETTE => "palette".to_owned(),
            CMYK => "CMYK".to_owned(),
            YCBCR => "YCbCr".to_owned(),
            8 => "Lab".to_owned(),
            other => format!("photometric {other}"),
        };
        Err(unsupported(&format!(
            "{bits}-bit {colors} ({samples} samples of format {sample_format})"
        )))
    }

    /// Samples as bytes: unchanged if they fit, else the high byte for colours; gray is clamped to 0..=255.
    fn bytes(&self, read: DecodingResult) -> Result<Vec<u8>> {
        let is_gray = matches!(self.photometric, WHITE_IS_ZERO | BLACK_IS_ZERO);
        Ok(match read {
            DecodingResult::U8(values) => values,
            DecodingResult::I8(values) => values.into_iter().map(|value| value as u8).collect(),
            DecodingResult::U16(values) if is_gray => {
                values.into_iter().map(|value| value.min(255) as u8).collect()
            }
            DecodingResult::U16(values) => {
                values.into_iter().map(|value| (value >> 8) as u8).collect()
            }
            DecodingResult::I16(values) => {
                values.into_iter().map(|value| value.clamp(0, 255) as u8).collect()
            }
            // Pillow's 32-bit integers are signed.
            DecodingResult::U32(values) => {
                values.into_iter().map(|value| (value as i32).clamp(0, 255) as u8).collect()
            }
            DecodingResult::I32(values) => {
                values.into_iter().map(|value| value.clamp(0, 255) as u8).collect()
            }
            DecodingResult::F32(values) => values.into_iter().map(|value| value as u8).collect(),
            _ => return Err(unsupported("64-bit and half-precision")),
        })
    }

    /// Colour samples, one byte each.
    fn rgb(&self, mut values: Vec<u8>, colors: &[u16]) -> Result<Vec<u8>> {
        let Self { photometric, samples, .. } = *self;
        match photometric {
            WHITE_IS_ZERO | BLACK_IS_ZERO | YCBCR => {
                // Pillow leaves wider values unchanged.
                let most = match self.bits {
                    1 | 2 | 4 => (1 << self.bits) - 1,
                    _ => 255,
                };
                let is_inverted = photometric == WHITE_IS_ZERO && self.bits <= 8;
                values.iter_mut().step_by(samples).for_each(|value| {
                    *value *= 255 / most;
                    *value = if is_inverted { 255 - *value } else { *value };
                });
                rgb(values, samples, true)
            }
            PALETTE => {
                let length = colors.len() / 3;
                let color = |index: u8| {
                    let place = usize::from(index);
                    [0, 1, 2].map(|channel| match colors.get(channel * length + place) {
                        Some(value) if place < length => (value >> 8) as u8,
                        _ => 0,
                    })
                };
                let mut pixels = with_room(values.len() / samples * 3)?;
                values.iter().step_by(samples).for_each(|index| pixels.extend(color(*index)));
                Ok(pixels)
            }
            CMYK => {
                let mut pixels = with_room(values.len() / samples * 3)?;
                for value in values.chunks_exact(samples) {
                    // `cmyk_to_rgb` expects inverted channels, as JPEG files store them.
                    let [c, m, y, k] = [0, 1, 2, 3].map(|channel| 255 - value[channel]);
                    pixels.extend(cmyk_to_rgb([c, m, y], k));
                }
                Ok(pixels)
            }
            _ => {
                if samples > 3 && self.extra.first() == Some(&PREMULTIPLIED) {
                    for value in values.chunks_exact_mut(samples) {
                        let alpha = u32::from(value[3]);
                        for channel in &mut value[..3] {
                            let whole = (u32::from(*channel) * 255).checked_div(alpha);
                            *channel = whole.map_or(0, |whole| whole.min(255) as u8);
                        }
                    }
                }
                rgb(values, samples, false)
            }
        }
    }
}

/// Unpacks samples of a few bits, in byte-aligned rows, to bytes.
fn unpacked(packed: &[u8], stride: usize, width: usize, bits: u16) -> Result<Vec<u8>> {
    let (bits, per_byte) = (usize::from(bits), 8 / usize::from(bits));
    let mask = ((1u32 << bits) - 1) as u8;
    let mut values = with_room(packed.len() / stride * width)?;
    for row in packed.chunks_exact(stride) {
        let value = |x: usize| row[x / per_byte] >> ((per_byte - 1 - x % per_byte) * bits) & mask;
        values.extend((0..width).map(value));
    }
    Ok(values)
}

/// The offset and values of the entries in the first directory that describe the samples.
fn photometric(bytes: &[u8]) -> Option<(usize, u16)> {
    let is_big_endian = bytes.starts_with(b"MM");
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(length)?)?.iter();
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if is_big_endian { bytes.fold(0, add) } else { bytes.rev().fold(0, add) })
    };
    // BigTIFF has 8 bytes where TIFF has 4.
    let (head, count, entry, value) =
        if number(2, 2)? == 43 { ((8, 8), 8, 20, 12) } else { ((4, 4), 2, 12, 8) };
    let directory = usize::try_from(number(head.0, head.1)?).ok()?;
    let entries = usize::try_from(number(directory, count)?).ok()?;
    let first = directory.checked_add(count)?;
    for place in 0..entries {
        let at = first.checked_add(entry * place)?;
        if number(at, 2)? == u64::from(PHOTOMETRIC) {
            let at = at + value;
            return Some((at, number(at, 2)? as u16));
        }
    }
    None
}

/// The file, with its samples declared as gray.
struct AsGray<'a> {
    file: Cursor<&'a [u8]>,
    at: u64,
    gray: [u8; 2],
}

impl Read for AsGray<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = self.file.position();
        let read = self.file.read(buffer)?;
        for (place, byte) in (self.at..).zip(self.gray) {
            if let Some(offset) = place.checked_sub(start).filter(|offset| *offset < read as u64) {
                buffer[offset as usize] = byte;
            }
        }
        Ok(read)
    }
}

impl Seek for AsGray<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
