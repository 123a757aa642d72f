//! Matrices of numbers in blocks, as GGUF files store them: each block has its own scales, and a row is a whole number of
//! blocks. Not here: the files (`crate::hub`), products with such matrices (`crate::nn`). The entry is
//! [`BlockFormat::widen`].
//!
//! Numbers are those of gguf-py, bit for bit: the same operations in f32, in the same order.

use half::bf16;
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
        self.widen_rows::<1>(blocks.as_chunks().0, numbers.as_chunks_mut().0);
    }

    /// Widens whole blocks of `N` rows: `blocks` has the first byte of each row, then the second of each, and `numbers` gets
    /// the numbers of the rows in the same order.
    ///
    /// # Panics
    /// As [`BlockFormat::widen`].
    pub fn widen_rows<const N: usize>(self, blocks: &[[u8; N]], numbers: &mut [[f32; N]]) {
        assert_eq!(self.bytes_of(numbers.len()), Some(blocks.len()), "bug: numbers without blocks");
        Arch::new().dispatch(Widened { format: self, blocks, numbers });
    }
}

/// Blocks of `N` rows and the numbers in them, for the instruction set of this processor. All rows need the same operations
/// at the same places, which a vector does for several rows.
struct Widened<'a, const N: usize> {
    format: BlockFormat,
    blocks: &'a [[u8; N]],
    numbers: &'a mut [[f32; N]],
}

impl<const N: usize> WithSimd for Widened<'_, N> {
    type Output = ();

    /// Everything below is inlined here, so that the compiler uses vectors of this instruction set.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { format, blocks, numbers } = self;
        match format {
            BlockFormat::F32 => plain(blocks, numbers, f32::from_le_bytes),
            BlockFormat::F16 => plain(blocks, numbers, |bytes| widened(u16::from_le_bytes(bytes))),
            BlockFormat::BF16 => {
                plain(blocks, numbers, |bytes| bf16::from_le_bytes(bytes).to_f32());
            }
            BlockFormat::Q4_0 => q4_0(blocks, numbers),
            BlockFormat::Q4_1 => q4_1(blocks, numbers),
            BlockFormat::Q5_0 => q5_0(blocks, numbers),
            BlockFormat::Q5_1 => q5_1(blocks, numbers),
            BlockFormat::Q8_0 => q8_0(blocks, numbers),
            BlockFormat::Q2K => q2_k(blocks, numbers),
            BlockFormat::Q3K => q3_k(blocks, numbers),
            BlockFormat::Q4K => q4_k(blocks, numbers),
            BlockFormat::Q5K => q5_k(blocks, numbers),
            BlockFormat::Q6K => q6_k(blocks, numbers),
        }
    }
}

/// The numbers at one place of `N` rows.
type Floats<const N: usize> = [f32; N];

/// The blocks and their numbers. Functions of formats are not arguments: a call through one would leave the instruction set
/// of this processor.
#[inline(always)]
fn each<'a, const N: usize, const BYTES: usize, const LEN: usize>(
    blocks: &'a [[u8; N]],
    numbers: &'a mut [Floats<N>],
) -> impl Iterator<Item = (&'a [[u8; N]; BYTES], &'a mut [Floats<N>; LEN])> {
    blocks.as_chunks().0.iter().zip(numbers.as_chunks_mut().0)
}

/// Numbers without scales.
#[inline(always)]
fn plain<const N: usize, const BYTES: usize>(
    stored: &[[u8; N]],
    numbers: &mut [Floats<N>],
    widen: impl Fn([u8; BYTES]) -> f32,
) {
    let (stored, _) = stored.as_chunks::<BYTES>();
    for (numbers, bytes) in numbers.iter_mut().zip(stored) {
        for (row, number) in numbers.iter_mut().enumerate() {
            let mut own = [0; BYTES];
            for (own, bytes) in own.iter_mut().zip(bytes) {
                *own = bytes[row];
            }
            *number = widen(own);
        }
    }
}

/// The number whose bits these are in f16. The one of `half` is a call, which keeps the compiler from using vectors.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    /// What the exponents of f32 are greater by than those of f16.
    const SCALE: f32 = f32::from_bits((127 + 127 - 15) << 23);
    /// The sign, and the exponent and the fraction where f32 has them.
    const PLACES: u32 = 0x8fff_e000;
    const EXPONENT: u32 = 0x0f80_0000;
    let placed = (i32::from(bits.cast_signed()) << 13).cast_unsigned() & PLACES;
    let number = (f32::from_bits(placed) * SCALE).to_bits();
    // Infinity and NaN keep the largest exponent.
    let special = if placed & EXPONENT == EXPONENT { f32::INFINITY.to_bits() } else { 0 };
    f32::from_bits(number | special)
}

/// The f16 at `place` of the blocks.
#[inline(always)]
fn half_at<const N: usize>(block: &[[u8; N]], place: usize) -> Floats<N> {
    let (low, high) = (&block[place], &block[place + 1]);
    let mut numbers = [0.0; N];
    for row in 0..N {
        numbers[row] = widened(u16::from_le_bytes([low[row], high[row]]));
    }
    numbers
}

/// Writes the numbers of one place: `number` gets a row and its byte.
#[inline(always)]
fn fill<const N: usize>(
    numbers: &mut Floats<N>,
    bytes: &[u8; N],
    number: impl Fn(usize, u8) -> f32,
) {
    for row in 0..N {
        numbers[row] = number(row, bytes[row]);
    }
}

/// The low halves of `bytes` are the first numbers, the high halves the last ones.
#[inline(always)]
fn halves<const N: usize>(
    bytes: &[[u8; N]],
    numbers: &mut [Floats<N>],
    number: impl Fn(usize, u8) -> f32,
) {
    let (low, high) = numbers.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        fill(
            low,
            byte,
            #[inline(always)]
            |row, byte| number(row, byte & 15),
        );
        fill(
            high,
            byte,
            #[inline(always)]
            |row, byte| number(row, byte >> 4),
        );
    }
}

#[inline(always)]
fn q4_0<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 18, 32>(blocks, numbers) {
        let scale = half_at(block, 0);
        halves(
            &block[2..18],
            numbers,
            #[inline(always)]
            |row, q| scale[row] * f32::from(i16::from(q) - 8),
        );
    }
}

#[inline(always)]
fn q4_1<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 20, 32>(blocks, numbers) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        halves(
            &block[4..20],
            numbers,
            #[inline(always)]
            |row, q| scale[row] * f32::from(q) + minimum[row],
        );
    }
}

/// As [`halves`], with fifth bits in `high`.
#[inline(always)]
fn five_bits<const N: usize>(
    high: &[[u8; N]],
    low: &[[u8; N]],
    numbers: &mut [Floats<N>],
    number: impl Fn(usize, u8) -> f32,
) {
    let (first, last) = numbers.split_at_mut(16);
    for (place, ((byte, first), last)) in low.iter().zip(first).zip(last).enumerate() {
        let (fifths, last_fifths) = (&high[place / 8], &high[2 + place / 8]);
        let fifth = |bits: u8| (bits >> (place % 8) & 1) << 4;
        fill(
            first,
            byte,
            #[inline(always)]
            |row, byte| number(row, byte & 15 | fifth(fifths[row])),
        );
        fill(
            last,
            byte,
            #[inline(always)]
            |row, byte| number(row, byte >> 4 | fifth(last_fifths[row])),
        );
    }
}

#[inline(always)]
fn q5_0<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 22, 32>(blocks, numbers) {
        let scale = half_at(block, 0);
        five_bits(
            &block[2..6],
            &block[6..22],
            numbers,
            #[inline(always)]
            |row, q| scale[row] * f32::from(i16::from(q) - 16),
        );
    }
}

#[inline(always)]
fn q5_1<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 24, 32>(blocks, numbers) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        five_bits(
            &block[4..8],
            &block[8..24],
            numbers,
            #[inline(always)]
            |row, q| scale[row] * f32::from(q) + minimum[row],
        );
    }
}

#[inline(always)]
fn q8_0<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 34, 32>(blocks, numbers) {
        let scale = half_at(block, 0);
        for (numbers, bytes) in numbers.iter_mut().zip(&block[2..34]) {
            fill(
                numbers,
                bytes,
                #[inline(always)]
                |row, q| f32::from(q.cast_signed()) * scale[row],
            );
        }
    }
}

/// Multiplies the scales of all rows by their scales of a group.
#[inline(always)]
fn scaled<const N: usize>(scale: &Floats<N>, own: impl Fn(usize) -> f32) -> Floats<N> {
    let mut numbers = [0.0; N];
    for row in 0..N {
        numbers[row] = scale[row] * own(row);
    }
    numbers
}

#[inline(always)]
fn q2_k<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 84, SUPER_BLOCK>(blocks, numbers) {
        let (scales, quants) = block.split_at(16);
        let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
        for (group, (numbers, scales)) in numbers.chunks_exact_mut(16).zip(scales).enumerate() {
            // 32 bytes hold four planes of 2 bits, each of two groups.
            let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
            let quants = &quants[half * 32 + part * 16..][..16];
            let scale = scaled(
                &scale,
                #[inline(always)]
                |row| f32::from(scales[row] & 15),
            );
            let minimum = scaled(
                &minimum,
                #[inline(always)]
                |row| f32::from(scales[row] >> 4),
            );
            for (numbers, bytes) in numbers.iter_mut().zip(quants) {
                fill(
                    numbers,
                    bytes,
                    #[inline(always)]
                    |row, q| scale[row] * f32::from(q >> (2 * plane) & 3) - minimum[row],
                );
            }
        }
    }
}

#[inline(always)]
fn q3_k<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 110, SUPER_BLOCK>(blocks, numbers) {
        let (mask, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
        let scale = half_at(block, 108);
        for (group, numbers) in numbers.chunks_exact_mut(16).enumerate() {
            let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
            let (low, high) = (&scales[group % 8], &scales[8 + group % 4]);
            let scale = scaled(
                &scale,
                #[inline(always)]
                |row| {
                    let low = low[row] >> (4 * (group / 8)) & 15;
                    let high = high[row] >> (2 * (group / 4)) & 3;
                    f32::from(i16::from(low | high << 4) - 32)
                },
            );
            let (quants, masks) =
                (&quants[half * 32 + part * 16..][..16], &mask[part * 16..][..16]);
            for ((numbers, bytes), mask) in numbers.iter_mut().zip(quants).zip(masks) {
                fill(
                    numbers,
                    bytes,
                    #[inline(always)]
                    |row, q| {
                        // The offset counts where the bit of the mask is clear.
                        let offset = (mask[row] >> (4 * half + plane) & 1 ^ 1) << 2;
                        scale[row] * f32::from(i16::from(q >> (2 * plane) & 3) - i16::from(offset))
                    },
                );
            }
        }
    }
}

/// The scale and the minimum of a group in [`q4_k`] and [`q5_k`]: 6 bits each, in 12 bytes for eight groups.
#[inline(always)]
fn scale_and_minimum<const N: usize>(
    bytes: &[[u8; N]],
    group: usize,
    scale: &Floats<N>,
    minimum: &Floats<N>,
) -> (Floats<N>, Floats<N>) {
    if group < 4 {
        let (scales, minimums) = (&bytes[group], &bytes[group + 4]);
        return (
            scaled(
                scale,
                #[inline(always)]
                |row| f32::from(scales[row] & 63),
            ),
            scaled(
                minimum,
                #[inline(always)]
                |row| f32::from(minimums[row] & 63),
            ),
        );
    }
    let (last, scales, minimums) = (&bytes[group + 4], &bytes[group - 4], &bytes[group]);
    (
        scaled(
            scale,
            #[inline(always)]
            |row| f32::from(last[row] & 0xf | scales[row] >> 2 & 0x30),
        ),
        scaled(
            minimum,
            #[inline(always)]
            |row| f32::from(last[row] >> 4 | minimums[row] >> 2 & 0x30),
        ),
    )
}

/// The 32 bytes with the quants of a group of 32 numbers, and the shift to them.
#[inline(always)]
fn nibbles<const N: usize>(quants: &[[u8; N]], group: usize) -> (&[[u8; N]], usize) {
    (&quants[group / 2 * 32..][..32], 4 * (group % 2))
}

#[inline(always)]
fn q4_k<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 144, SUPER_BLOCK>(blocks, numbers) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        for (group, numbers) in numbers.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], group, &scale, &minimum);
            let (quants, shift) = nibbles(&block[16..], group);
            for (numbers, bytes) in numbers.iter_mut().zip(quants) {
                fill(
                    numbers,
                    bytes,
                    #[inline(always)]
                    |row, q| scale[row] * f32::from(q >> shift & 15) - minimum[row],
                );
            }
        }
    }
}

#[inline(always)]
fn q5_k<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 176, SUPER_BLOCK>(blocks, numbers) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        for (group, numbers) in numbers.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], group, &scale, &minimum);
            let (quants, shift) = nibbles(&block[48..], group);
            for ((numbers, bytes), high) in numbers.iter_mut().zip(quants).zip(&block[16..48]) {
                fill(
                    numbers,
                    bytes,
                    #[inline(always)]
                    |row, q| {
                        let q = q >> shift & 15 | (high[row] >> group & 1) << 4;
                        scale[row] * f32::from(q) - minimum[row]
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn q6_k<const N: usize>(blocks: &[[u8; N]], numbers: &mut [Floats<N>]) {
    for (block, numbers) in each::<N, 210, SUPER_BLOCK>(blocks, numbers) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let scale = half_at(block, 208);
        for (group, (numbers, own)) in numbers.chunks_exact_mut(16).zip(scales).enumerate() {
            // 64 bytes of low halves and 32 of high bits hold four planes, each of two groups.
            let (half, plane, part) = (group / 8, group % 8 / 2, group % 2);
            let low = &low[half * 64 + plane % 2 * 32 + part * 16..][..16];
            let high = &high[half * 32 + part * 16..][..16];
            let scale = scaled(
                &scale,
                #[inline(always)]
                |row| f32::from(own[row].cast_signed()),
            );
            for ((numbers, low), high) in numbers.iter_mut().zip(low).zip(high) {
                fill(
                    numbers,
                    low,
                    #[inline(always)]
                    |row, low| {
                        let q = low >> (4 * (plane / 2)) & 15 | (high[row] >> (2 * plane) & 3) << 4;
                        scale[row] * f32::from(i16::from(q) - 32)
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, number) = (widened(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == number.to_bits() || ours.is_nan() && number.is_nan());
        }
    }

    /// A vector over rows, and the plain code for one row.
    #[test]
    fn rows_that_are_widened_together_are_as_alone() {
        const ROWS: usize = 5;
        for (format, _, name, numbers, bytes) in FORMATS {
            let mut random = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
            let mut blocks = vec![[0; ROWS]; 3 * bytes];
            random.fill(blocks.as_flattened_mut());
            let mut together = vec![[0.0; ROWS]; 3 * numbers];
            format.widen_rows(&blocks, &mut together);
            for row in 0..ROWS {
                let own: Vec<u8> = blocks.iter().map(|bytes| bytes[row]).collect();
                let (mut alone, mut plain) = (vec![0.0; 3 * numbers], vec![[0.0]; 3 * numbers]);
                format.widen(&own, &mut alone);
                let blocks = own.as_chunks().0;
                Widened { format, blocks, numbers: &mut plain }.with_simd(pulp::Scalar::new());
                for (place, number) in alone.iter().map(|number| number.to_bits()).enumerate() {
                    assert_eq!(together[place][row].to_bits(), number, "{name}");
                    assert_eq!(plain[place][0].to_bits(), number, "{name}");
                }
            }
        }
    }

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
