//! Detects a file's format, decodes its first image, and converts it as Pillow's `convert("RGB")` does.

use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::image::codecs::png::PngDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::error::ImageError;
use ::image::{ColorType, ImageDecoder, Limits as DecoderLimits};

use super::orientation::{Metadata, png_metadata};
use super::{RgbImage, bmp, gif, jpeg, tiff};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::guard::guarded;
use crate::limits;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The offsets of a PNG file's width and colour type, and the colour type of gray.
const PNG_WIDTH: usize = 16;
const PNG_COLOR_TYPE: (usize, u8) = (25, 0);

/// The limits on an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_pixels: u64,
}

/// A permit to decode an image. Large images are decoded one at a time, while their permit is held.
#[derive(Debug)]
pub(super) struct Admitted {
    _alone: Option<MutexGuard<'static, ()>>,
}

/// Fails for an image with no pixels or too many.
pub(super) fn admit(width: u64, height: u64, limits: &Limits) -> Result<Admitted> {
    static ALONE: Mutex<()> = Mutex::new(());
    let pixels = width.checked_mul(height).filter(|pixels| *pixels <= limits.max_pixels);
    let Some(pixels @ 1..) = pixels else {
        let most = limits.max_pixels;
        let message = format!("an image of {width} by {height} pixels, expected at most {most}");
        return Err(damaged(message).hint("raise the limit with `images.max_pixels`"));
    };
    let most = limits::IMAGE_SIDE;
    if width.max(height) > most {
        let message =
            format!("an image of {width} by {height} pixels, expected at most {most} on each side");
        return Err(damaged(message));
    }
    let is_large = pixels > limits::LARGE_IMAGE_PIXELS;
    let alone = is_large.then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Admitted { _alone: alone })
}

/// Decodes a file. The caller holds the permit until it is done with the image.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted)> {
    // Decoders index, slice and add with numbers from the file, so they may panic.
    guarded(ErrorKind::Data, "the image", || decode_by_format(bytes, limits))
        .map_err(|error| error.row(RowErrorKind::ImageDecode))
}

fn decode_by_format(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted)> {
    let (image, admitted, metadata) = if bytes.starts_with(b"\xff\xd8\xff") {
        let jpeg = jpeg::decode(bytes, limits)?;
        (jpeg.image, jpeg.admitted, Metadata { exif: jpeg.exif, xmp: jpeg.xmp, orientation: None })
    } else if bytes.starts_with(PNG_SIGNATURE) {
        let (image, admitted) = png(bytes, limits)?;
        (image, admitted, png_metadata(bytes))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        webp(bytes, limits)?
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        let (image, admitted) = gif::decode(bytes, limits)?;
        (image, admitted, Metadata::default())
    } else if bytes.starts_with(b"BM") {
        let (image, admitted) = bmp::decode(bytes, limits)?;
        (image, admitted, Metadata::default())
    } else if tiff::is_tiff(bytes) {
        tiff::decode(bytes, limits)?
    } else {
        let what = match ::image::guess_format(bytes) {
            _ if bytes.is_empty() => "no bytes".to_owned(),
            Ok(format) => {
                let name = format.extensions_str().first().unwrap_or(&"").to_uppercase();
                format!("a file in the format {name}, expected JPEG, PNG, WebP, GIF, BMP or TIFF")
            }
            Err(_) => "not a JPEG, PNG, WebP, GIF, BMP or TIFF file".to_owned(),
        };
        return Err(damaged(what));
    };
    Ok((metadata.turn(image), admitted))
}

pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::of_row(RowErrorKind::ImageDecode, what)
}

pub(super) fn cannot_decode(
    format: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    damaged(format!("cannot decode the {format} file")).source(error)
}

fn no_memory<E>(_: E) -> Error {
    damaged("out of memory for an image of this size")
}

/// Allocates room for `length` values. A size from a file must not abort the process when memory runs out.
pub(super) fn with_room<T>(length: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(length).map_err(no_memory)?;
    Ok(room)
}

/// A vector of `length` equal values.
pub(super) fn filled<T: Clone>(value: T, length: usize) -> Result<Vec<T>> {
    /// Up to this size, `vec!` uses zeroed pages of the system, which take memory only when touched.
    const ORDINARY_BYTES: usize = 256 << 20;
    if length.saturating_mul(size_of::<T>()) <= ORDINARY_BYTES {
        return Ok(vec![value; length]);
    }
    let mut values = with_room(length)?;
    values.resize(length, value);
    Ok(values)
}

fn png(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted)> {
    let refused = |e: ImageError| cannot_decode("PNG", e);
    // Pillow clamps 16-bit gray to 255, but takes the high byte of 16-bit colours.
    let number = bytes.get(PNG_COLOR_TYPE.0) == Some(&PNG_COLOR_TYPE.1);
    let width = bytes.get(PNG_WIDTH..PNG_WIDTH + 4).unwrap_or_default();
    let width = width.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    let mut inside = DecoderLimits::no_limits();
    // Two rows of four 16-bit channels.
    inside.max_alloc = Some(limits::PNG_DECODER_BYTES + 16 * width.min(limits.max_pixels));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), inside).map_err(refused)?;
    let admitted = admit_of(&decoder, limits)?;
    Ok((read(decoder, number, "PNG")?, admitted))
}

fn webp(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted, Metadata)> {
    let refused = |e: ImageError| cannot_decode("WebP", e);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    let admitted = admit_of(&decoder, limits)?;
    let metadata = Metadata {
        exif: decoder.exif_metadata().map_err(refused)?,
        xmp: decoder.xmp_metadata().map_err(refused)?,
        orientation: None,
    };
    Ok((read(decoder, false, "WebP")?, admitted, metadata))
}

fn admit_of(decoder: &impl ImageDecoder, limits: &Limits) -> Result<Admitted> {
    let (width, height) = decoder.dimensions();
    admit(u64::from(width), u64::from(height), limits)
}

/// Reads the pixels and converts them to RGB. `number` clamps 16-bit gray instead of taking its high byte.
fn read(decoder: impl ImageDecoder, number: bool, format: &str) -> Result<RgbImage> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let color_type = decoder.color_type();
    let length = usize::try_from(decoder.total_bytes()).map_err(no_memory)?;
    let mut samples = filled(0, length)?;
    decoder.read_image(&mut samples).map_err(|e| cannot_decode(format, e))?;
    let bytes_per_pixel = usize::from(color_type.bytes_per_pixel());
    let channels = usize::from(color_type.channel_count());
    if bytes_per_pixel == 2 * channels {
        // In place, because 16-bit images are the largest.
        for place in 0..samples.len() / 2 {
            let value = u16::from_ne_bytes([samples[2 * place], samples[2 * place + 1]]);
            samples[place] = if number { value.min(255) as u8 } else { (value >> 8) as u8 };
        }
        samples.truncate(length / 2);
    }
    let is_gray =
        matches!(color_type, ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16);
    Ok(RgbImage::new(width, height, rgb(samples, channels, is_gray)?))
}

/// Converts 8-bit samples to RGB: gray, or the first three channels.
pub(super) fn rgb(mut samples: Vec<u8>, channels: usize, is_gray: bool) -> Result<Vec<u8>> {
    if is_gray {
        let mut pixels = with_room(samples.len() / channels * 3)?;
        samples.chunks_exact(channels).for_each(|pixel| pixels.extend([pixel[0]; 3]));
        return Ok(pixels);
    }
    let count = samples.len() / channels;
    if channels > 3 {
        for pixel in 1..count {
            for channel in 0..3 {
                samples[pixel * 3 + channel] = samples[pixel * channels + channel];
            }
        }
        samples.truncate(count * 3);
    }
    Ok(samples)
}
