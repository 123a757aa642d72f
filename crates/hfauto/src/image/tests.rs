//! Compares decoded and resized images with Pillow's, byte for byte.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;
use crate::error::ErrorKind;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

/// The images of a golden by name.
fn pictures(case: &str) -> Vec<(String, RgbImage)> {
    let bytes = std::fs::read(golden(case).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut pictures: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let [height, width, 3] = tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
            (name.to_owned(), RgbImage::new(*width, *height, tensor.data().to_vec()))
        })
        .collect();
    pictures.sort_by(|a, b| a.0.cmp(&b.0));
    pictures
}

/// Describes the difference between two images.
fn difference(ours: &RgbImage, expected: &RgbImage) -> Option<String> {
    if (ours.width, ours.height) != (expected.width, expected.height) {
        let (ours, expected) = ((ours.width, ours.height), (expected.width, expected.height));
        return Some(format!("{ours:?} instead of {expected:?}"));
    }
    let off = |(a, b): (&u8, &u8)| a.abs_diff(*b);
    let differences: Vec<u8> = ours.pixels.iter().zip(&expected.pixels).map(off).collect();
    let worst = differences.iter().max().copied().unwrap_or(0);
    let count = differences.iter().filter(|off| **off > 0).count();
    (worst > 0).then(|| format!("{count} of {} bytes differ, by up to {worst}", ours.pixels.len()))
}

#[test]
fn files_have_the_pixels_that_pillow_sees() {
    let mut wrong = Vec::new();
    let expected = pictures("pictures");
    assert!(expected.len() > 70);
    for (name, expected) in &expected {
        let bytes = std::fs::read(golden("pictures").join(name)).unwrap();
        match RgbImage::decode(&bytes) {
            Ok(ours) => wrong.extend(difference(&ours, expected).map(|d| format!("{name}: {d}"))),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} files:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn resized_images_equal_pillows() {
    let mut wrong = Vec::new();
    let tensors = pictures("resampling");
    let picture = |name: &str| &tensors.iter().find(|(other, _)| other == name).unwrap().1;
    let mut count = 0;
    for (name, expected) in &tensors {
        let Some(rest) = name.strip_prefix("resized.") else { continue };
        let [from, _, filter] = rest.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let filter = Resampling::ALL.into_iter().find(|f| f.name() == filter).unwrap();
        let ours = picture(&format!("from.{from}")).resize(expected.width, expected.height, filter);
        wrong.extend(difference(&ours, expected).map(|d| format!("{name}: {d}")));
        count += 1;
    }
    assert_eq!(count, 5 * 7 * 8);
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn filter_codes_equal_pillows() {
    for (code, filter) in Resampling::ALL.into_iter().enumerate() {
        assert_eq!(filter as usize, code);
        assert_eq!(Resampling::from_code(code as u64), Some(filter));
    }
    assert_eq!(Resampling::from_code(8), None);
}

#[test]
fn damaged_files_are_errors_and_never_panic() {
    for (name, whole) in pictures("pictures") {
        let bytes = std::fs::read(golden("pictures").join(&name)).unwrap();
        // Truncated anywhere. A file with trailing bytes may still decode to the whole image.
        for length in (0..bytes.len() - 4).step_by(1 + bytes.len() / 150) {
            match RgbImage::decode(&bytes[..length]) {
                Ok(ours) => assert_eq!(difference(&ours, &whole), None, "{name} of {length} bytes"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}"),
            }
        }
        // Any byte changed: a different image or an error.
        for place in (0..bytes.len()).step_by(1 + bytes.len() / 150) {
            let mut bytes = bytes.clone();
            bytes[place] ^= 0x5a;
            let _ = RgbImage::decode(&bytes);
        }
    }
}

#[test]
fn unsupported_formats_are_refused_by_name() {
    let jpeg = std::fs::read(golden("pictures").join("jpeg-444.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let refused = |marker: u8, bits: u8| {
        let mut bytes = jpeg.clone();
        (bytes[frame + 1], bytes[frame + 4]) = (marker, bits);
        RgbImage::decode(&bytes).unwrap_err().to_string()
    };
    assert!(refused(0xc9, 8).starts_with("arithmetically coded JPEG files are not supported"));
    assert!(refused(0xc3, 8).starts_with("lossless JPEG"));
    assert!(refused(0xc1, 12).starts_with("12-bit JPEG"));
    let mut bytes = jpeg.clone();
    bytes[frame + 5..frame + 9].fill(0xff);
    let error = RgbImage::decode(&bytes).unwrap_err();
    assert_eq!(error.message(), "an image of 65535 by 65535 pixels, expected at most 178956970");
    assert_eq!(
        RgbImage::decode(b"qoif").unwrap_err().to_string(),
        "a file in the format QOI, expected JPEG, PNG, WebP, GIF, BMP or TIFF"
    );
    assert_eq!(
        RgbImage::decode(b"a text").unwrap_err().to_string(),
        "not a JPEG, PNG, WebP, GIF, BMP or TIFF file"
    );
    assert_eq!(RgbImage::decode(b"").unwrap_err().to_string(), "no bytes");
}

#[test]
fn decompressed_png_text_is_bounded() {
    use std::io::Write;
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b'0'; 64 << 20]).unwrap();
    let text = [b"Raw profile type exif\0\0".as_slice(), &bomb.finish().unwrap()].concat();
    let chunk = [&(text.len() as u32).to_be_bytes()[..], b"zTXt", &text, b"\0\0\0\0"].concat();
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &chunk.repeat(200)].concat();
    let start = std::time::Instant::now();
    assert_eq!(orientation::png_metadata(&png).xmp, None);
    assert!(start.elapsed().as_secs() < 5);
}

/// XMP that claims 2^31 values. Without limits, the decoder would reserve memory for all of them.
#[test]
fn a_tiff_tag_that_claims_many_values_costs_no_memory() {
    let tag = |number: u16, kind: u16, count: u32, value: u32| {
        let (number, kind) = (number.to_le_bytes(), kind.to_le_bytes());
        [&number[..], &kind, &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let (byte, short, long) = (1, 3, 4);
    for kind in [byte, short, long] {
        let tags = [
            tag(256, short, 1, 1),
            tag(257, short, 1, 1),
            tag(258, short, 1, 8),
            tag(259, short, 1, 1),
            tag(262, short, 1, 1),
            tag(273, long, 1, 8 + 2 + 10 * 12 + 4),
            tag(277, short, 1, 1),
            tag(278, short, 1, 1),
            tag(279, long, 1, 1),
            tag(700, kind, 1 << 31, 8),
        ];
        let mut file = b"II*\0\x08\0\0\0".to_vec();
        file.extend((tags.len() as u16).to_le_bytes());
        file.extend(tags.concat());
        file.extend([0, 0, 0, 0, 7]);
        let image = RgbImage::decode(&file).unwrap();
        assert_eq!(image.pixels(), [7, 7, 7]);
    }
}
