//! Pictures: from the bytes of a file to the pixels that transformers' pipelines see, and to another size
//! as Pillow gives it. Not here: what a checkpoint wants of them (`AutoImageProcessor` in `crate::auto`),
//! tensors. The entries are [`RgbImage::decode`] and [`RgbImage::resize`].

mod bmp;
mod decode;
mod gif;
mod jpeg;
mod orientation;
mod resample;
#[cfg(test)]
mod tests;
mod tiff;

pub use resample::Resampling;

use crate::error::Result;
use crate::limits;

/// A picture of 8 bits a channel: red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    /// Rows from the top, pixels from the left, three bytes each.
    pixels: Vec<u8>,
}

impl RgbImage {
    /// From pixels: rows from the top, three bytes a pixel.
    ///
    /// # Panics
    /// When there are not `width * height * 3` bytes, or a side is 0.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "bug: a picture without pixels");
        assert_eq!(pixels.len(), width * height * 3, "bug: pixels do not fill the picture");
        Self { width, height, pixels }
    }

    /// Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF file as transformers' pipelines do: the first picture, rotated by
    /// its EXIF or XMP orientation, converted to RGB. Alpha is dropped; colour profiles are not applied.
    ///
    /// # Errors
    /// `Data` when the file is of no supported format or variant, is damaged or truncated, or exceeds
    /// [`RgbImage::MAX_PIXELS`].
    ///
    /// # Source
    /// `load_image` in `src/transformers/image_utils.py` at v4.57, with Pillow.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_with(bytes, Self::MAX_PIXELS, Ok)
    }

    /// The default limit of pixels, where Pillow raises an error.
    pub const MAX_PIXELS: u64 = limits::IMAGE_PIXELS;

    /// Like [`RgbImage::decode`], for a picture of at most `max_pixels`. The process decodes large ones one at a time,
    /// and holds the next until `use_image` returns.
    ///
    /// # Errors
    /// As [`RgbImage::decode`], and those of `use_image`.
    pub fn decode_with<T>(
        bytes: &[u8],
        max_pixels: u64,
        use_image: impl FnOnce(Self) -> Result<T>,
    ) -> Result<T> {
        let (image, _admitted) = decode::decode(bytes, &decode::Limits { max_pixels })?;
        use_image(image)
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Rows from the top, pixels from the left, three bytes each.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The same picture in another size, as `Image.resize` of Pillow gives it, byte for byte.
    ///
    /// # Panics
    /// When a side is 0.
    #[must_use]
    pub fn resize(&self, width: usize, height: usize, resample: Resampling) -> Self {
        Self::new(width, height, resample::resize(self, width, height, resample))
    }

    /// The picture whose pixel at `(x, y)` is this one's at `source(x, y)`.
    fn rearranged(
        &self,
        width: usize,
        height: usize,
        source: impl Fn(usize, usize) -> (usize, usize),
    ) -> Self {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (x, y) = source(x, y);
                let start = (y * self.width + x) * 3;
                pixels.extend_from_slice(&self.pixels[start..start + 3]);
            }
        }
        Self { width, height, pixels }
    }
}
