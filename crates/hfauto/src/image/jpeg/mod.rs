//! Decodes JPEG bit-exactly as libjpeg-turbo does for Pillow, including its IDCT, chroma upsampling and colour
//! conversion. Other decoders differ by a few levels, which changes a model's output.
//!
//! Supports sequential and progressive files of 8 bits with one, three or four components. Refuses by name: arithmetic
//! coding, 12 and 16 bits, lossless and hierarchical files. Damaged files are errors; nothing is guessed.
//!
//! # Source
//! ITU-T T.81; `jdmarker.c`, `jdapimin.c`, `jdphuff.c`, `jdsample.c`, `jdcolor.c` of libjpeg-turbo 3.

mod color;
mod huffman;
mod idct;
mod scan;

pub(super) use color::cmyk_to_rgb;

use super::RgbImage;
use super::decode::{Admitted, Limits, admit, damaged, filled};
use crate::error::{Error, Result};
use crate::limits::JPEG_PASSES;
use huffman::HuffmanTable;
use idct::BLOCK;
use scan::{Scan, Tables, ZIGZAG};

/// A decoded file.
pub(super) struct Jpeg {
    pub(super) image: RgbImage,
    pub(super) admitted: Admitted,
    /// The EXIF block without its prefix.
    pub(super) exif: Option<Vec<u8>>,
    pub(super) xmp: Option<Vec<u8>>,
}

fn cut_off() -> Error {
    damaged("the JPEG file is truncated")
}

fn unsupported(what: &str) -> Error {
    damaged(format!("{what} JPEG files are not supported"))
        .hint("save the image as a JPEG of 8 bits with Huffman codes, or as PNG or WebP")
}

/// The frame header (SOF), and the coefficients read so far.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    /// The largest sampling factors.
    max_h: usize,
    max_v: usize,
    /// Groups of blocks of all components (minimum coded units).
    mcus_x: usize,
    mcus_y: usize,
}

impl Frame {
    fn coefficients(&self) -> u64 {
        let blocks = |component: &Component| component.coefficients.len() as u64;
        self.components.iter().map(blocks).sum::<u64>() * BLOCK as u64
    }
}

struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    table: usize,
    /// Samples that belong to the image.
    width: usize,
    height: usize,
    /// Blocks per row, including padding blocks.
    blocks_x: usize,
    coefficients: Vec<[i16; BLOCK]>,
    /// The quantization table in force when the component's first scan began, row by row.
    steps: Option<[u16; BLOCK]>,
}

/// Decodes a file.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Jpeg> {
    let mut decoder = Decoder { bytes, ..Decoder::default() };
    decoder.run(limits)?;
    let (frame, admitted) = decoder.frame.zip(decoder.admitted).ok_or_else(cut_off)?;
    let image = color::decode(frame, decoder.jfif, decoder.adobe_transform)?;
    Ok(Jpeg { image, admitted, exif: decoder.exif, xmp: decoder.xmp })
}

/// The next marker from `position` on, and the position after it.
fn next_marker(bytes: &[u8], mut position: usize) -> Option<(u8, usize)> {
    loop {
        let found = bytes.get(position..)?.iter().position(|byte| *byte == 0xff)?;
        position += found + 1;
        // 0xff bytes may precede a marker as fill; 0xff 0 is data.
        match bytes.get(position)? {
            0 | 0xff => {}
            marker => return Some((*marker, position + 1)),
        }
    }
}

#[derive(Default)]
struct Decoder<'a> {
    bytes: &'a [u8],
    frame: Option<Frame>,
    admitted: Option<Admitted>,
    /// The cost of the scans so far, in coefficients visited.
    work: u64,
    steps: [Option<[u16; BLOCK]>; 4],
    tables: Tables,
    restart_interval: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
}

impl Decoder<'_> {
    fn run(&mut self, limits: &Limits) -> Result<()> {
        let mut position = 2;
        loop {
            let (marker, after) = next_marker(self.bytes, position).ok_or_else(cut_off)?;
            position = after;
            match marker {
                // EOI
                0xd9 => return self.end(),
                // TEM, RST and SOI have no content.
                0x01 | 0xd0..=0xd8 => continue,
                _ => {}
            }
            let length = self.bytes.get(position..position + 2).ok_or_else(cut_off)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let Some(end) = (length >= 2).then_some(position + length) else {
                return Err(damaged("a JPEG segment is too short"));
            };
            let content = self.bytes.get(position + 2..end).ok_or_else(cut_off)?;
            position = end;
            match marker {
                0xc0..=0xc2 => self.frame(content, marker == 0xc2, limits)?,
                0xc3 | 0xc7 | 0xcb | 0xcf => return Err(unsupported("lossless")),
                0xc5 | 0xc6 | 0xcd | 0xce => return Err(unsupported("hierarchical")),
                0xc9 | 0xca | 0xcc => return Err(unsupported("arithmetically coded")),
                0xc4 => self.huffman_tables(content)?,
                0xdb => self.quantization_tables(content)?,
                0xdd => {
                    let [high, low] = content[..] else {
                        return Err(damaged("the restart interval has the wrong length"));
                    };
                    self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                }
                0xda => position = self.scan(content, position)?,
                0xe0 if content.starts_with(b"JFIF\0") => self.jfif = true,
                0xe1 => self.app1(content),
                0xee if content.starts_with(b"Adobe") && content.len() >= 12 => {
                    self.adobe_transform = Some(content[11]);
                }
                _ => {}
            }
        }
    }

    fn app1(&mut self, content: &[u8]) {
        if let Some(exif) = content.strip_prefix(b"Exif\0\0") {
            // Long EXIF blocks span several segments.
            self.exif.get_or_insert_default().extend_from_slice(exif);
        } else if let Some(xmp) = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            self.xmp = Some(xmp.to_vec());
        }
    }

    fn end(&self) -> Result<()> {
        match &self.frame {
            Some(frame) if frame.components.iter().all(|c| c.steps.is_some()) => Ok(()),
            _ => Err(cut_off()),
        }
    }

    fn frame(&mut self, content: &[u8], progressive: bool, limits: &Limits) -> Result<()> {
        if self.frame.is_some() {
            return Err(damaged("the JPEG file has two frames"));
        }
        let [bits, h1, h0, w1, w0, count, rest @ ..] = content else { return Err(cut_off()) };
        if *bits != 8 {
            return Err(unsupported(&format!("{bits}-bit")));
        }
        let height = usize::from(u16::from_be_bytes([*h1, *h0]));
        let width = usize::from(u16::from_be_bytes([*w1, *w0]));
        self.admitted = Some(admit(width as u64, height as u64, limits)?);
        if !matches!(count, 1 | 3 | 4) || rest.len() != usize::from(*count) * 3 {
            return Err(damaged(format!("a JPEG frame of {count} components")));
        }
        let factors: Vec<_> = rest
            .chunks_exact(3)
            .map(|c| (usize::from(c[1] >> 4), usize::from(c[1] & 15)))
            .collect();
        if factors.iter().any(|(h, v)| !(1..=4).contains(h) || !(1..=4).contains(v)) {
            return Err(damaged("a JPEG component has an impossible sampling factor"));
        }
        let max_h = factors.iter().map(|(h, _)| *h).max().unwrap_or(1);
        let max_v = factors.iter().map(|(_, v)| *v).max().unwrap_or(1);
        if factors.iter().any(|(h, v)| max_h % h != 0 || max_v % v != 0) {
            return Err(unsupported("fractionally sampled"));
        }
        let (mcus_x, mcus_y) = (width.div_ceil(8 * max_h), height.div_ceil(8 * max_v));
        let components = rest.chunks_exact(3).zip(factors).map(|(content, (h, v))| {
            Ok(Component {
                id: content[0],
                h,
                v,
                table: usize::from(content[2]),
                width: (width * h).div_ceil(max_h),
                height: (height * v).div_ceil(max_v),
                blocks_x: mcus_x * h,
                coefficients: filled([0; BLOCK], mcus_x * h * mcus_y * v)?,
                steps: None,
            })
        });
        let components = components.collect::<Result<Vec<_>>>()?;
        let frame = Frame { width, height, progressive, components, max_h, max_v, mcus_x, mcus_y };
        self.frame = Some(frame);
        Ok(())
    }

    fn quantization_tables(&mut self, mut content: &[u8]) -> Result<()> {
        while let [head, rest @ ..] = content {
            let (wide, number) = (head >> 4 != 0, usize::from(head & 15));
            let length = if wide { 2 * BLOCK } else { BLOCK };
            let (values, rest) = rest.split_at_checked(length).ok_or_else(cut_off)?;
            content = rest;
            let slot = self.steps.get_mut(number);
            let slot = slot.ok_or_else(|| damaged("a quantization table has an invalid number"))?;
            let steps = slot.insert([0; BLOCK]);
            for (k, place) in ZIGZAG.into_iter().enumerate() {
                steps[place] = if wide {
                    u16::from_be_bytes([values[2 * k], values[2 * k + 1]])
                } else {
                    u16::from(values[k])
                };
            }
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut content: &[u8]) -> Result<()> {
        while let [head, rest @ ..] = content {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(cut_off)?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or_else(cut_off)?;
            content = rest;
            let class = if head >> 4 == 0 { &mut self.tables.dc } else { &mut self.tables.ac };
            let slot = class.get_mut(usize::from(head & 15));
            let slot = slot.ok_or_else(|| damaged("a Huffman table has an invalid number"))?;
            *slot = Some(HuffmanTable::new(counts, symbols)?);
        }
        Ok(())
    }

    /// Reads a scan with header `content` and data from `position` on. Returns the end of the data.
    fn scan(&mut self, content: &[u8], position: usize) -> Result<usize> {
        let wrong = || damaged("a JPEG scan has an invalid header");
        let frame = self.frame.as_mut().ok_or_else(wrong)?;
        let [count, rest @ ..] = content else { return Err(wrong()) };
        let (selectors, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or_else(wrong)?;
        let [start, end, bits, ..] = rest else { return Err(wrong()) };
        let mut components: Vec<(usize, usize, usize)> = Vec::new();
        for selector in selectors.chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == selector[0]);
            let index = index.ok_or_else(wrong)?;
            let (dc, ac) = (usize::from(selector[1] >> 4), usize::from(selector[1] & 15));
            if dc > 3 || ac > 3 || components.iter().any(|(other, ..)| *other == index) {
                return Err(wrong());
            }
            components.push((index, dc, ac));
            let component = &mut frame.components[index];
            if component.steps.is_none() {
                let steps = self.steps.get(component.table).copied().flatten();
                let missing =
                    || damaged("a JPEG component names a quantization table that does not exist");
                component.steps = Some(steps.ok_or_else(missing)?);
            }
        }
        if components.is_empty() {
            return Err(wrong());
        }
        let (start, end) = (usize::from(*start), usize::from(*end));
        let (high_bit, low_bit) = (u32::from(bits >> 4), u32::from(bits & 15));
        let scan = if frame.progressive {
            let of_dc = start == 0 && end == 0;
            let of_ac = start > 0 && start <= end && end < BLOCK && components.len() == 1;
            let refines = high_bit == 0 || high_bit == low_bit + 1;
            if !(of_dc || of_ac) || !refines || low_bit > 13 {
                return Err(wrong());
            }
            Scan { components, spectrum: start..=end, high_bit, low_bit }
        } else {
            // A sequential scan contains all coefficients, whatever its header says.
            Scan { components, spectrum: 0..=BLOCK - 1, high_bit: 0, low_bit: 0 }
        };
        self.work += scan.work(frame);
        if self.work > JPEG_PASSES * frame.coefficients() {
            return Err(damaged("the JPEG file has more scans than an image of its size can have"));
        }
        scan::read(&scan, frame, &self.tables, self.restart_interval, self.bytes, position)
    }
}
