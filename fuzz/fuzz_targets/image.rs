//! Any bytes as an image: JPEG, PNG, WebP, GIF, BMP and TIFF. A decoded image must have as many pixels as its size
//! says, and cost no more than an image of that size may.
#![no_main]

use hfauto_pipe::image::{Resampling, RgbImage};
use libfuzzer_sys::fuzz_target;

/// 4 megapixels: an input of kilobytes may claim any size below this, and be decoded.
const MAX_PIXELS: u64 = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    let _ = RgbImage::decode_with(bytes, MAX_PIXELS, |image| {
        assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
        Ok(image.resize(8, 8, Resampling::Bilinear))
    });
});
