//! Rotates an image by its EXIF orientation, else its XMP orientation, as Pillow's `exif_transpose` does.
//!
//! # Source
//! `Image.getexif` in `src/PIL/Image.py`, `exif_transpose` in `src/PIL/ImageOps.py` of Pillow 13.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::RgbImage;
use crate::limits::PNG_TEXT_BYTES;

const EXIF_PREFIX: &[u8] = b"Exif\0\0";
const ORIENTATION: u16 = 0x0112;

/// A file's metadata beside the pixels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The orientation in the format's own tags, apart from EXIF.
    pub(super) orientation: Option<u32>,
    pub(super) exif: Option<Vec<u8>>,
    pub(super) xmp: Option<Vec<u8>>,
}

impl Metadata {
    /// Rotates and mirrors the image.
    pub(super) fn turn(&self, image: RgbImage) -> RgbImage {
        let exif = || self.exif.as_deref().and_then(exif_orientation);
        let orientation = self
            .orientation
            .or_else(exif)
            .or_else(|| self.xmp.as_deref().and_then(xmp_orientation));
        turned(image, orientation.unwrap_or(1))
    }
}

fn turned(image: RgbImage, orientation: u32) -> RgbImage {
    let (width, height) = (image.width, image.height);
    let (right, bottom) = (width - 1, height - 1);
    match orientation {
        2 => image.rearranged(width, height, |x, y| (right - x, y)),
        3 => image.rearranged(width, height, |x, y| (right - x, bottom - y)),
        4 => image.rearranged(width, height, |x, y| (x, bottom - y)),
        5 => image.rearranged(height, width, |x, y| (y, x)),
        6 => image.rearranged(height, width, |x, y| (y, bottom - x)),
        7 => image.rearranged(height, width, |x, y| (right - y, bottom - x)),
        8 => image.rearranged(height, width, |x, y| (right - y, x)),
        _ => image,
    }
}

/// The orientation in an EXIF block (a TIFF directory); `None` when it has none.
fn exif_orientation(mut exif: &[u8]) -> Option<u32> {
    while let Some(rest) = exif.strip_prefix(EXIF_PREFIX) {
        exif = rest;
    }
    let big = match exif.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let number = |at: usize, length: usize| -> Option<u32> {
        let bytes = exif.get(at..at.checked_add(length)?)?.iter();
        let add = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        Some(if big { bytes.fold(0, add) } else { bytes.rev().fold(0, add) })
    };
    let directory = number(4, 4)? as usize;
    let count = number(directory, 2)? as usize;
    let entries = (0..count).map(|entry| directory + 2 + 12 * entry);
    for entry in entries {
        if number(entry, 2)? == u32::from(ORIENTATION) {
            return match number(entry + 2, 2)? {
                1 => number(entry + 8, 1),
                3 => number(entry + 8, 2),
                4 => number(entry + 8, 4),
                // Present but of another type, so there is no orientation.
                _ => Some(1),
            };
        }
    }
    None
}

/// The digit after `tiff:Orientation="` or `tiff:Orientation>`.
fn xmp_orientation(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let rest = &xmp[at + NAME.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        let digit = rest.first().filter(|byte| byte.is_ascii_digit())?;
        Some(u32::from(digit - b'0'))
    })
}

/// EXIF and XMP of a PNG file, wherever they are. Pixel decoders stop before the end of the file.
pub(super) fn png_metadata(bytes: &[u8]) -> Metadata {
    let mut metadata = Metadata::default();
    let mut raw_profile = None;
    let mut room = PNG_TEXT_BYTES;
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [l3, l2, l1, l0, kind @ ..] = *head;
        let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        let Some(content) = after.get(..length) else { break };
        match &kind {
            b"eXIf" => metadata.exif = Some(content.to_vec()),
            b"iTXt" | b"tEXt" | b"zTXt" => match png_text(&kind, content, &mut room) {
                Some((b"XML:com.adobe.xmp", text)) if kind == *b"iTXt" => {
                    metadata.xmp = Some(text);
                }
                Some((b"Raw profile type exif", text)) => raw_profile = raw_exif(&text),
                _ => {}
            },
            _ => {}
        }
        rest = after.get(length + 4..).unwrap_or_default();
    }
    if metadata.exif.is_none() {
        metadata.exif = raw_profile;
    }
    metadata
}

/// The keyword and text of a chunk that may contain metadata. `room` is the remaining decompression budget.
fn png_text<'a>(kind: &[u8; 4], content: &'a [u8], room: &mut u64) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, rest) = until_zero(content)?;
    if ![&b"XML:com.adobe.xmp"[..], b"Raw profile type exif"].contains(&keyword) {
        return None;
    }
    let (compressed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.get(1..)?),
        _ => {
            let (flags, rest) = rest.split_at_checked(2)?;
            let (_language, rest) = until_zero(rest)?;
            let (_keyword, text) = until_zero(rest)?;
            (flags[0] != 0, text)
        }
    };
    if !compressed {
        return Some((keyword, text.to_vec()));
    }
    let mut out = Vec::new();
    ZlibDecoder::new(text).take(*room).read_to_end(&mut out).ok()?;
    *room -= out.len() as u64;
    Some((keyword, out))
}

fn until_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// ImageMagick's form: three header lines, then lines of hexadecimal digits.
fn raw_exif(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|byte| *byte == b'\n').skip(3);
    let digits: Vec<u8> = lines.flatten().copied().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect()
}
