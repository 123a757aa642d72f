//! Matrices of numbers in blocks, as GGUF files store them: each block has its own scales, and a row is a whole number of
//! blocks. Not here: the files (`crate::hub`), products with such matrices (`crate::nn`). The entry is
//! [`BlockFormat::widen`].
//!
//! Numbers are those of gguf-py, bit for bit: the same operations in f32, in the same order.

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

/// Numbers of a block with two levels of scales: `QK_K` of ggml.
const SUPER_BLOCK: usize = 256;

/// How numbers are stored: a type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFormat {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 2 bits, with scales and minimums of 4 bits.
    Q2K,
    /// 3 bits, with scales of 6 bits.
    Q3K,
    /// 4 bits, with scales and minimums of 6 bits.
    Q4K,
    /// 5 bits, with scales and minimums of 6 bits.
    Q5K,
    /// 6 bits, with scales of 8 bits.
    Q6K,
}

/// Every format: the number of its type in ggml, its name there, numbers and bytes of a block.
const FORMATS: [(BlockFormat, u32, &str, usize, usize); 13] = [
    (BlockFormat::F32, 0, "F32", 1, 4),
    (BlockFormat::F16, 1, "F16", 1, 2),
    (BlockFormat::Q4_0, 2, "Q4_0", 32, 18),
    (BlockFormat::Q4_1, 3, "Q4_1", 32, 20),
    (BlockFormat::Q5_0, 6, "Q5_0", 32, 22),
    (BlockFormat::Q5_1, 7, "Q5_1", 32, 24),
    (BlockFormat::Q8_0, 8, "Q8_0", 32, 34),
    (BlockFormat::Q2K, 10, "Q2_K", SUPER_BLOCK, 84),
    (BlockFormat::Q3K, 11, "Q3_K", SUPER_BLOCK, 110),
    (BlockFormat::Q4K, 12, "Q4_K", SUPER_BLOCK, 144),
    (BlockFormat::Q5K, 13, "Q5_K", SUPER_BLOCK, 176),
    (BlockFormat::Q6K, 14, "Q6_K", SUPER_BLOCK, 210),
    (BlockFormat::BF16, 30, "BF16", 1, 2),
];

impl BlockFormat {
    /// The format with this number in ggml; `None` if it is not implemented.
    pub fn of_ggml_type(number: u32) -> Option<Self> {
        FORMATS.iter().find(|(_, known, ..)| *known == number).map(|(format, ..)| *format)
    }

    /// The names of all formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|(_, _, name, ..)| *name)
    }

    fn row(self) -> (&'static str, usize, usize) {
        let row = FORMATS.iter().find(|(format, ..)| *format == self);
        row.map_or(("", 1, 1), |(_, _, name, numbers, bytes)| (*name, *numbers, *bytes))
    }

    /// Its name in ggml.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The numbers of a block.
    pub fn block_len(self) -> usize {
        self.row().1
    }

    /// The bytes of `count` numbers; `None` if they are not whole blocks, or too many.
    pub fn bytes_of(self, count: usize) -> Option<usize> {
        let (_, numbers, bytes) = self.row();
        count.is_multiple_of(numbers).then(|| (count / numbers).checked_mul(bytes)).flatten()
    }

    /// Widens whole blocks to f32.
    ///
    /// # Panics
    /// When `numbers` has another length than the blocks: a bug of the caller.
    pub fn widen(self, blocks: &[u8], numbers: &mut [f32]) {
        assert_eq!(self.bytes_of(numbers.len()), Some(blocks.len()), "bug: numbers without blocks");
        Arch::new().dispatch(Widened { format: self, blocks, numbers });
    }
}

/// Blocks and the numbers in them, for the instruction set of this processor.
struct Widened<'a> {
    format: BlockFormat,
    blocks: &'a [u8],
    numbers: &'a mut [f32],
}

impl WithSimd for Widened<'_> {
    type Output = ();

    /// Everything below is inlined here, so that the compiler uses vectors of this instruction set.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { format, blocks, numbers } = self;
        match format {
            BlockFormat::F32 => plain(blocks, numbers, f32::from_le_bytes),
            BlockFormat::F16 => plain(blocks, numbers, |bytes| f16::from_le_bytes(bytes).to_f32()),
            BlockFormat::BF16 => {
                plain(blocks, numbers, |bytes| bf16::from_le_bytes(bytes).to_f32());
            }
            BlockFormat::Q4_0 => each(blocks, numbers, q4_0),
            BlockFormat::Q4_1 => each(blocks, numbers, q4_1),
            BlockFormat::Q5_0 => each(blocks, numbers, q5_0),
            BlockFormat::Q5_1 => each(blocks, numbers, q5_1),
            BlockFormat::Q8_0 => each(blocks, numbers, q8_0),
            BlockFormat::Q2K => each(blocks, numbers, q2_k),
            BlockFormat::Q3K => each(blocks, numbers, q3_k),
            BlockFormat::Q4K => each(blocks, numbers, q4_k),
            BlockFormat::Q5K => each(blocks, numbers, q5_k),
            BlockFormat::Q6K => each(blocks, numbers, q6_k),
        }
    }
}

/// Widens block by block.
#[inline(always)]
fn each<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    numbers: &mut [f32],
    widen: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = blocks.as_chunks::<BYTES>();
    let (numbers, _) = numbers.as_chunks_mut::<LEN>();
    for (block, numbers) in blocks.iter().zip(numbers) {
        widen(block, numbers);
    }
}

/// Numbers without scales.
#[inline(always)]
fn plain<const BYTES: usize>(
    stored: &[u8],
    numbers: &mut [f32],
    widen: impl Fn([u8; BYTES]) -> f32,
) {
    let (stored, _) = stored.as_chunks::<BYTES>();
    for (number, bytes) in numbers.iter_mut().zip(stored) {
        *number = widen(*bytes);
    }
}

/// The f16 at `place` of a block.
#[inline(always)]
fn half_at(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}

/// The low halves of `bytes` are the first numbers, the high halves the last ones.
#[inline(always)]
fn halves(bytes: &[u8], numbers: &mut [f32], number: impl Fn(u8) -> f32) {
    let (low, high) = numbers.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = number(byte & 15);
        *high = number(byte >> 4);
    }
}

#[inline(always)]
fn q4_0(block: &[u8; 18], numbers: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    halves(&block[2..18], numbers, |q| scale * f32::from(i16::from(q) - 8));
}

#[inline(always)]
fn q4_1(block: &[u8; 20], numbers: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    halves(&block[4..20], numbers, |q| scale * f32::from(q) + minimum);
}

/// As [`halves`], with fifth bits in `high`.
#[inline(always)]
fn five_bits(high: &[u8], low: &[u8], numbers: &mut [f32], number: impl Fn(u8) -> f32) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let fifth = |place: usize| ((high >> place & 1) as u8) << 4;
    let (first, last) = numbers.split_at_mut(16);
    for (place, ((byte, first), last)) in low.iter().zip(first).zip(last).enumerate() {
        *first = number(byte & 15 | fifth(place));
        *last = number(byte >> 4 | fifth(place + 16));
    }
}

#[inline(always)]
fn q5_0(block: &[u8; 22], numbers: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    five_bits(&block[2..6], &block[6..22], numbers, |q| scale * f32::from(i16::from(q) - 16));
}

#[inline(always)]
fn q5_1(block: &[u8; 24], numbers: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..8], &block[8..24], numbers, |q| scale * f32::from(q) + minimum);
}

#[inline(always)]
fn q8_0(block: &[u8; 34], numbers: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (number, q) in numbers.iter_mut().zip(&block[2..34]) {
        *number = f32::from(q.cast_signed()) * scale;
    }
}

#[inline(always)]
fn q2_k(block: &[u8; 84], numbers: &mut [f32; SUPER_BLOCK]) {
    let (scales, quants) = block.split_at(16);
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (group, (numbers, scales)) in numbers.chunks_exact_mut(16).zip(scales).enumerate() {
        // 32 bytes hold four planes of 2 bits, each of two groups.
        let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
        let quants = &quants[half * 32 + part * 16..][..16];
        let (scale, minimum) = (scale * f32::from(scales & 15), minimum * f32::from(scales >> 4));
        for (number, q) in numbers.iter_mut().zip(quants) {
            *number = scale * f32::from(q >> (2 * plane) & 3) - minimum;
        }
    }
}

#[inline(always)]
fn q3_k(block: &[u8; 110], numbers: &mut [f32; SUPER_BLOCK]) {
    let (mask, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    for (group, numbers) in numbers.chunks_exact_mut(16).enumerate() {
        let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = scale * f32::from(i16::from(low | high << 4) - 32);
        let (quants, mask) = (&quants[half * 32 + part * 16..][..16], &mask[part * 16..][..16]);
        for ((number, q), mask) in numbers.iter_mut().zip(quants).zip(mask) {
            // The offset counts where the bit of the mask is clear.
            let offset = (mask >> (4 * half + plane) & 1 ^ 1) << 2;
            *number = scale * f32::from(i16::from(q >> (2 * plane) & 3) - i16::from(offset));
        }
    }
}

/// The scales and minimums of [`q4_k`] and [`q5_k`], of 6 bits each, in 12 bytes.
#[inline(always)]
fn scales_and_minimums(bytes: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|group| {
        let (scale, minimum) = if group < 4 {
            (bytes[group] & 63, bytes[group + 4] & 63)
        } else {
            let last = bytes[group + 4];
            (last & 0xf | bytes[group - 4] >> 2 & 0x30, last >> 4 | bytes[group] >> 2 & 0x30)
        };
        (f32::from(scale), f32::from(minimum))
    })
}

/// The 32 bytes with the quants of a group of 32 numbers, and the shift to them.
#[inline(always)]
fn nibbles(quants: &[u8], group: usize) -> (&[u8], usize) {
    (&quants[group / 2 * 32..][..32], 4 * (group % 2))
}

#[inline(always)]
fn q4_k(block: &[u8; 144], numbers: &mut [f32; SUPER_BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let scales = scales_and_minimums(&block[4..16]);
    for (group, (numbers, (own, least))) in numbers.chunks_exact_mut(32).zip(scales).enumerate() {
        let (scale, minimum) = (scale * own, minimum * least);
        let (quants, shift) = nibbles(&block[16..], group);
        for (number, q) in numbers.iter_mut().zip(quants) {
            *number = scale * f32::from(q >> shift & 15) - minimum;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], numbers: &mut [f32; SUPER_BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let scales = scales_and_minimums(&block[4..16]);
    for (group, (numbers, (own, least))) in numbers.chunks_exact_mut(32).zip(scales).enumerate() {
        let (scale, minimum) = (scale * own, minimum * least);
        let (quants, shift) = nibbles(&block[48..], group);
        for ((number, q), high) in numbers.iter_mut().zip(quants).zip(&block[16..48]) {
            let q = q >> shift & 15 | (high >> group & 1) << 4;
            *number = scale * f32::from(q) - minimum;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], numbers: &mut [f32; SUPER_BLOCK]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (group, (numbers, own)) in numbers.chunks_exact_mut(16).zip(scales).enumerate() {
        // 64 bytes of low halves and 32 of high bits hold four planes, each of two groups.
        let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
        let low = &low[half * 64 + plane % 2 * 32 + part * 16..][..16];
        let high = &high[half * 32 + part * 16..][..16];
        let scale = scale * f32::from(own.cast_signed());
        for (number, (low, high)) in numbers.iter_mut().zip(low.iter().zip(high)) {
            let q = low >> (4 * (plane / 2)) & 15 | (high >> (2 * plane) & 3) << 4;
            *number = scale * f32::from(i16::from(q) - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_type_once() {
        for (format, number, name, numbers, bytes) in FORMATS {
            assert_eq!(BlockFormat::of_ggml_type(number), Some(format));
            assert_eq!((format.name(), format.block_len()), (name, numbers));
            assert_eq!(format.bytes_of(2 * numbers), Some(2 * bytes));
            let mut widened = vec![1.0; 2 * numbers];
            format.widen(&vec![0; 2 * bytes], &mut widened);
            assert!(widened.iter().all(|number| *number == 0.0), "{name}");
        }
        assert_eq!(BlockFormat::of_ggml_type(20), None);
        assert_eq!(BlockFormat::Q8_0.bytes_of(33), None);
        assert_eq!(BlockFormat::F32.bytes_of(usize::MAX), None);
    }
}
