//! GIF, BMP and TIFF files as Pillow opens them, byte for byte; files whose claimed size or cost exceeds their content.

use std::path::PathBuf;
use std::time::Instant;

use hfauto_pipe::RowErrorKind;
use hfauto_pipe::error::ErrorKind;
use hfauto_pipe::image::RgbImage;
use safetensors::SafeTensors;

use super::support::repository;

fn golden(case: &str, name: &str) -> PathBuf {
    repository().join("tests/golden").join(case).join(name)
}

fn file(case: &str, name: &str) -> Vec<u8> {
    std::fs::read(golden(case, name)).unwrap()
}

/// The images that Pillow decoded: names, height, width and pixels.
fn pictures(case: &str) -> Vec<(String, [usize; 2], Vec<u8>)> {
    let bytes = file(case, "golden.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut pictures: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let [height, width, 3] = tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
            (name.to_owned(), [*height, *width], tensor.data().to_vec())
        })
        .collect();
    pictures.sort();
    pictures
}

/// The difference between an image and Pillow's.
fn difference(image: &RgbImage, size: [usize; 2], pixels: &[u8]) -> Option<String> {
    if [image.height(), image.width()] != size {
        return Some(format!("{} by {} instead of {size:?}", image.height(), image.width()));
    }
    let off = |(ours, theirs): (&u8, &u8)| ours.abs_diff(*theirs);
    let differences: Vec<u8> = image.pixels().iter().zip(pixels).map(off).collect();
    let worst = differences.iter().max().copied().unwrap_or(0);
    let count = differences.iter().filter(|off| **off > 0).count();
    (worst > 0).then(|| format!("{count} of {} bytes differ, by up to {worst}", pixels.len()))
}

#[test]
fn bitmaps_have_the_pixels_that_pillow_sees() {
    let mut wrong = Vec::new();
    let expected = pictures("bitmaps");
    assert!(expected.len() > 90);
    for (name, size, pixels) in &expected {
        match RgbImage::decode(&file("bitmaps", name)) {
            Ok(image) => {
                let difference = difference(&image, *size, pixels);
                wrong.extend(difference.map(|what| format!("{name}: {what}")));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} files:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn damaged_bitmaps_are_errors_and_never_panic() {
    for (name, size, pixels) in pictures("bitmaps") {
        let bytes = file("bitmaps", &name);
        for length in (0..bytes.len() - 4).step_by(1 + bytes.len() / 100) {
            match RgbImage::decode(&bytes[..length]) {
                Ok(image) => {
                    let difference = difference(&image, size, &pixels);
                    assert_eq!(difference, None, "{name} of {length} bytes");
                }
                Err(error) => {
                    assert_eq!(
                        error.row_kind(),
                        Some(RowErrorKind::ImageDecode),
                        "{name}: {error}"
                    );
                }
            }
        }
        for place in (0..bytes.len()).step_by(1 + bytes.len() / 100) {
            let mut bytes = bytes.clone();
            bytes[place] ^= 0x5a;
            let _ = RgbImage::decode_with(&bytes, 1 << 20, Ok);
        }
    }
}

/// A golden file with some bytes replaced.
fn changed(case: &str, name: &str, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = file(case, name);
    for (at, new) in changes {
        bytes[*at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

#[test]
fn sizes_that_files_claim_cost_nothing() {
    let start = Instant::now();
    for bytes in [
        changed("pictures", "png-rgba.png", &[(16, b"\0\x01\0\0\0\x01\0\0")]),
        changed("bitmaps", "gif-palette.gif", &[(6, b"\xff\xff\xff\xff")]),
        changed("bitmaps", "bmp-24.bmp", &[(18, b"\xff\xff\xff\x7f\xff\xff\xff\x7f")]),
        changed("bitmaps", "bmp-rle8.bmp", &[(18, b"\0\0\x10\0\0\0\x10\0")]),
    ] {
        let error = RgbImage::decode(&bytes).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("an image of") || text.contains("cannot decode"), "{text}");
        assert_eq!(error.row_kind(), Some(RowErrorKind::ImageDecode));
    }
    // Tiles wider than the limit on images; a predictor would buffer rows of them.
    let tiles = file("bitmaps", "tiff-tiles.tiff");
    let tag = tiles.windows(4).position(|entry| entry == [66, 1, 4, 0]).unwrap();
    let wide = changed("bitmaps", "tiff-tiles.tiff", &[(tag + 8, b"\xf0\xff\xff\xff")]);
    let error = RgbImage::decode(&wide).unwrap_err();
    assert!(error.to_string().contains("TIFF"), "{error}");
    let error = RgbImage::decode_with(&file("pictures", "png-rgba.png"), 100, Ok).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.message(), "an image of 22 by 16 pixels, expected at most 100");
    assert_eq!(error.remedy(), Some("raise the limit with `images.max_pixels`"));
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn scans_without_end_are_refused() {
    let jpeg = file("pictures", "jpeg-420-progressive.jpg");
    // A repeated first scan is valid: it sets the same values again.
    let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let next = |pair: &[u8]| pair[0] == 0xff && pair[1] != 0;
    let end = scan + 2 + jpeg[scan + 2..].windows(2).position(next).unwrap();
    let (first, whole) = (&jpeg[scan..end], &jpeg[..jpeg.len() - 2]);
    let bytes = [whole, &first.repeat(20), &[0xff, 0xd9]].concat();
    RgbImage::decode(&bytes).unwrap();
    let bytes = [whole, &first.repeat(3000), &[0xff, 0xd9]].concat();
    let error = RgbImage::decode(&bytes).unwrap_err();
    assert!(error.message().contains("more scans"), "{error}");
}
