//! Which format a file has, its first picture, and its colours as Pillow's `convert("RGB")` makes them.

use std::io::Cursor;

use ::image::codecs::png::PngDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::error::ImageError;
use ::image::{ColorType, ImageDecoder, Limits};

use super::orientation::{Metadata, png_metadata};
use super::{RgbImage, jpeg};
use crate::error::{Error, Result, RowErrorKind};

/// Pictures of more pixels are refused, as by Pillow (`Image.MAX_IMAGE_PIXELS`, twice): a small file may
/// claim any size.
pub(super) const MAX_PIXELS: usize = 178_956_970;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Where a PNG file says its colour type, and the one for gray.
const PNG_COLOR_TYPE: (usize, u8) = (25, 0);

pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let (image, metadata) = if bytes.starts_with(b"\xff\xd8\xff") {
        let jpeg = jpeg::decode(bytes)?;
        (jpeg.image, Metadata { exif: jpeg.exif, xmp: jpeg.xmp })
    } else if bytes.starts_with(PNG_SIGNATURE) {
        (png(bytes)?, png_metadata(bytes))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        webp(bytes)?
    } else {
        let what = match ::image::guess_format(bytes) {
            _ if bytes.is_empty() => "no bytes".to_owned(),
            Ok(format) => {
                let name = format.extensions_str().first().unwrap_or(&"").to_uppercase();
                format!("a {name} file; JPEG, PNG and WebP are read")
            }
            Err(_) => "not a JPEG, PNG or WebP file".to_owned(),
        };
        return Err(Error::of_row(RowErrorKind::ImageDecode, what));
    };
    Ok(metadata.turn(image))
}

fn png(bytes: &[u8]) -> Result<RgbImage> {
    let refused = |e: ImageError| cannot_decode("PNG", e);
    // Pillow takes 16 bits of gray for a number, and cuts what is above 255; of colours it takes the
    // higher byte.
    let number = bytes.get(PNG_COLOR_TYPE.0) == Some(&PNG_COLOR_TYPE.1);
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits()).map_err(refused)?;
    check_size(&decoder)?;
    read(decoder, number).map_err(refused)
}

fn webp(bytes: &[u8]) -> Result<(RgbImage, Metadata)> {
    let refused = |e: ImageError| cannot_decode("WebP", e);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    check_size(&decoder)?;
    let metadata = Metadata {
        exif: decoder.exif_metadata().map_err(refused)?,
        xmp: decoder.xmp_metadata().map_err(refused)?,
    };
    Ok((read(decoder, false).map_err(refused)?, metadata))
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    // Four channels of two bytes.
    limits.max_alloc = Some(MAX_PIXELS as u64 * 8);
    limits
}

fn check_size(decoder: &impl ImageDecoder) -> Result<()> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MAX_PIXELS as u64 {
        return Err(Error::of_row(
            RowErrorKind::ImageDecode,
            format!("a picture of {width} by {height} pixels, at most {MAX_PIXELS} may be"),
        ));
    }
    Ok(())
}

fn cannot_decode(format: &str, error: ImageError) -> Error {
    Error::of_row(RowErrorKind::ImageDecode, format!("cannot decode the {format} file"))
        .source(error)
}

/// Reads the pixels and makes them RGB; `number` says that gray of 16 bits is a number.
fn read(decoder: impl ImageDecoder, number: bool) -> Result<RgbImage, ImageError> {
    let (width, height) = decoder.dimensions();
    let color_type = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples)?;
    let bytes_per_pixel = usize::from(color_type.bytes_per_pixel());
    let channels = usize::from(color_type.channel_count());
    if bytes_per_pixel == 2 * channels {
        let values = samples.chunks_exact(2).map(|value| u16::from_ne_bytes([value[0], value[1]]));
        samples = values
            .map(|value| if number { value.min(255) as u8 } else { (value >> 8) as u8 })
            .collect();
    }
    let pixels = samples.chunks_exact(channels);
    let pixels = match color_type {
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => {
            pixels.flat_map(|pixel| [pixel[0]; 3]).collect()
        }
        _ => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    Ok(RgbImage::new(width as usize, height as usize, pixels))
}
