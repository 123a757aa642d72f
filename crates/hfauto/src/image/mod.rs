//! Images: decodes files to the pixels that transformers' pipelines see, and resizes them as Pillow does. Not here: a
//! checkpoint's preprocessing (`AutoImageProcessor` in `crate::auto`), and tensors. The entries are
//! [`RgbImage::decode`] and [`RgbImage::resize`].

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

/// An image with 8 bits per channel: red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    /// Rows from top to bottom, pixels from left to right, three bytes each.
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image from its pixels: rows from the top, three bytes per pixel.
    ///
    /// # Panics
    /// When `pixels` does not have `width * height * 3` bytes, or a side is 0.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "bug: an image without pixels");
        assert_eq!(pixels.len(), width * height * 3, "bug: pixels do not fill the image");
        Self { width, height, pixels }
    }

    /// Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF file as transformers' pipelines do: the first image, rotated by its
    /// EXIF or XMP orientation, converted to RGB. It drops alpha and applies no colour profiles.
    ///
    /// # Errors
    /// `Data` when the file has an unsupported format or variant, is damaged or truncated, or exceeds
    /// [`RgbImage::MAX_PIXELS`].
    ///
    /// # Source
    /// `load_image` in `src/transformers/image_utils.py` at v4.57, with Pillow.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_with(bytes, Self::MAX_PIXELS, Ok)
    }

    /// The default limit on pixels, at which Pillow raises an error.
    pub const MAX_PIXELS: u64 = limits::IMAGE_PIXELS;

    /// Like [`RgbImage::decode`], with a limit of `max_pixels`. The process decodes large images one at a time, and
    /// waits with the next one until `use_image` returns.
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

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Rows from top to bottom, pixels from left to right, three bytes each.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The image resized as Pillow's `Image.resize` does, byte for byte.
    ///
    /// # Panics
    /// When a side is 0.
    #[must_use]
    pub fn resize(&self, width: usize, height: usize, resample: Resampling) -> Self {
        Self::new(width, height, resample::resize(self, width, height, resample))
    }

    /// An image whose pixel at `(x, y)` is this image's pixel at `source(x, y)`.
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
