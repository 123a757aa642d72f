//! Decodes the first frame of a GIF file as Pillow does: over a screen filled with its transparent colour, or with
//! colour 0.
//!
//! # Source
//! `GifImageFile` in `src/PIL/GifImagePlugin.py` of Pillow 13.

use std::io::{Cursor, Read};

use super::RgbImage;
use super::decode::{Admitted, Limits, admit, cannot_decode, damaged, filled, with_room};
use crate::error::Result;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Admitted)> {
    let refused = |error: ::gif::DecodingError| cannot_decode("GIF", error);
    let mut options = ::gif::DecodeOptions::new();
    // `admit` already bounds the size of the frame and of the screen.
    options.set_memory_limit(::gif::MemoryLimit::Unlimited);
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(with_palette(bytes)).map_err(refused)?;
    let screen = [decoder.width(), decoder.height()].map(usize::from);
    let frame = decoder.next_frame_info().map_err(refused)?;
    let frame = frame.ok_or_else(|| damaged("a GIF file without a frame"))?.clone();
    let [left, top, columns, rows] =
        [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let (width, height) = (screen[0].max(left + columns), screen[1].max(top + rows));
    let admitted = admit(width as u64, height as u64, limits)?;

    let mut indices = filled(0, decoder.buffer_size())?;
    decoder.read_into_buffer(&mut indices).map_err(refused)?;
    let palette = match &frame.palette {
        Some(palette) => Some(&palette[..]),
        None => decoder.global_palette(),
    };
    let palette = palette.unwrap_or_default();
    // Pillow ignores a palette that is a gray ramp, whatever its length.
    let mut shades = palette.chunks_exact(3).enumerate();
    let is_gray = shades.all(|(shade, color)| *color == [shade as u8; 3]);
    let color = |index: u8| {
        let place = usize::from(index) * 3;
        match palette.get(place..place + 3) {
            Some(color) => [color[0], color[1], color[2]],
            None if is_gray => [index; 3],
            None => [0; 3],
        }
    };
    let around = color(frame.transparent.unwrap_or(0));
    let mut pixels = with_room(width * height * 3)?;
    let blank = |pixels: &mut Vec<u8>, count: usize| {
        pixels.extend(std::iter::repeat_n(around, count).flatten());
    };
    blank(&mut pixels, top * width);
    for row in indices.chunks_exact(columns.max(1)).take(rows) {
        blank(&mut pixels, left);
        row.iter().for_each(|index| pixels.extend(color(*index)));
        blank(&mut pixels, width - left - columns);
    }
    let rest = width * height - pixels.len() / 3;
    blank(&mut pixels, rest);
    Ok((RgbImage::new(width, height, pixels), admitted))
}

/// The file, with a gray ramp in place of a missing palette.
fn with_palette(bytes: &[u8]) -> impl Read {
    /// The signature and the screen descriptor.
    const HEAD: usize = 13;
    const FLAGS: usize = 10;
    const HAS_PALETTE: u8 = 0x80;
    let (head, rest) = bytes.split_at(HEAD.min(bytes.len()));
    let (mut head, mut palette) = (head.to_vec(), Vec::new());
    if let Some(flags) = head.get_mut(FLAGS).filter(|flags| **flags & HAS_PALETTE == 0) {
        // The palette has 2^(7 + 1) colours.
        *flags |= HAS_PALETTE | 7;
        palette = (0..=255_u8).flat_map(|shade| [shade; 3]).collect();
    }
    Cursor::new(head).chain(Cursor::new(palette)).chain(rest)
}
