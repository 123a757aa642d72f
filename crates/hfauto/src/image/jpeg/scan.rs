//! Reads one scan: the coefficients of some components, or some of their bits.

use super::huffman::{Bits, HuffmanTable};
use super::idct::BLOCK;
use super::{Component, Frame, Result, damaged, next_marker};

/// The row-major index in a block of each coefficient in zigzag order.
pub(super) const ZIGZAG: [usize; BLOCK] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The scan header (SOS).
pub(super) struct Scan {
    /// Components by their index in the frame, with the numbers of their DC and AC tables.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// The range of coefficients in the scan, in zigzag order.
    pub(super) spectrum: std::ops::RangeInclusive<usize>,
    /// The lowest bit that earlier scans contain (successive approximation); 0 in the first scan.
    pub(super) high_bit: u32,
    /// The lowest bit in this scan.
    pub(super) low_bit: u32,
}

impl Scan {
    /// The scan's cost: the coefficients that it visits, plus a constant per block.
    pub(super) fn work(&self, frame: &Frame) -> u64 {
        const BLOCK_ITSELF: u64 = 8;
        let (mcus_x, mcus_y) = self.mcus(frame);
        let blocks: usize = match self.components.len() {
            1 => 1,
            _ => self
                .components
                .iter()
                .map(|(index, ..)| &frame.components[*index])
                .map(|c| c.h * c.v)
                .sum(),
        };
        let (start, end) = self.spectrum.clone().into_inner();
        (mcus_x * mcus_y * blocks) as u64 * (BLOCK_ITSELF + (end - start) as u64 + 1)
    }

    /// The number of MCUs, across and down.
    fn mcus(&self, frame: &Frame) -> (usize, usize) {
        match self.components[..] {
            // A scan of a single component has no padding blocks.
            [(only, ..)] => {
                let component = &frame.components[only];
                (component.width.div_ceil(8), component.height.div_ceil(8))
            }
            _ => (frame.mcus_x, frame.mcus_y),
        }
    }
}

/// Huffman tables, by class and number.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) dc: [Option<HuffmanTable>; 4],
    pub(super) ac: [Option<HuffmanTable>; 4],
}

/// Reads the scan's data at `position` of `bytes`. Returns the end of the data.
pub(super) fn read(
    scan: &Scan,
    frame: &mut Frame,
    tables: &Tables,
    restart_interval: usize,
    bytes: &[u8],
    position: usize,
) -> Result<usize> {
    let mut coder = Coder { bits: Bits::new(bytes, position), scan, eob_run: 0 };
    let mut predictions = [0i32; 4];
    let (mcus_x, mcus_y) = scan.mcus(frame);
    for mcu in 0..mcus_x * mcus_y {
        if restart_interval > 0 && mcu > 0 && mcu.is_multiple_of(restart_interval) {
            let expected = 0xd0 + ((mcu / restart_interval - 1) % 8) as u8;
            coder.restart(expected)?;
            predictions = [0; 4];
        }
        let (mcu_x, mcu_y) = (mcu % mcus_x, mcu / mcus_x);
        for (&(index, dc, ac), prediction) in scan.components.iter().zip(&mut predictions) {
            let component = &mut frame.components[index];
            let (across, down) = match scan.components.len() {
                1 => (1, 1),
                _ => (component.h, component.v),
            };
            let tables = (tables.dc[dc].as_ref(), tables.ac[ac].as_ref());
            for block in 0..across * down {
                let x = mcu_x * across + block % across;
                let y = mcu_y * down + block / across;
                let block = component.block_mut(x, y);
                coder.block(block, frame.progressive, tables, prediction)?;
            }
        }
    }
    Ok(coder.bits.position())
}

impl Component {
    fn block_mut(&mut self, x: usize, y: usize) -> &mut [i16; BLOCK] {
        &mut self.coefficients[y * self.blocks_x + x]
    }
}

struct Coder<'a> {
    bits: Bits<'a>,
    scan: &'a Scan,
    /// Remaining blocks without further coefficients.
    eob_run: u32,
}

type CodeTables<'a> = (Option<&'a HuffmanTable>, Option<&'a HuffmanTable>);

impl Coder<'_> {
    fn restart(&mut self, expected: u8) -> Result<()> {
        match next_marker(self.bits.bytes(), self.bits.position()) {
            Some((marker, position)) if marker == expected => {
                self.bits.restart(position);
                self.eob_run = 0;
                Ok(())
            }
            _ => Err(damaged("a restart marker is missing")),
        }
    }

    fn block(
        &mut self,
        block: &mut [i16; BLOCK],
        progressive: bool,
        (dc, ac): CodeTables<'_>,
        prediction: &mut i32,
    ) -> Result<()> {
        let no_table = || damaged("a scan names a Huffman table that does not exist");
        if *self.scan.spectrum.start() == 0 {
            if self.scan.high_bit == 0 {
                self.dc_first(block, dc.ok_or_else(no_table)?, prediction)?;
            } else if self.bits.bit()? {
                block[0] |= 1 << self.scan.low_bit;
            }
        }
        if *self.scan.spectrum.end() == 0 {
            return Ok(());
        }
        let ac = ac.ok_or_else(no_table)?;
        match (progressive, self.scan.high_bit) {
            (false, _) => self.ac_sequential(block, ac),
            (true, 0) => self.ac_first(block, ac),
            (true, _) => self.ac_refine(block, ac),
        }
    }

    fn dc_first(
        &mut self,
        block: &mut [i16; BLOCK],
        table: &HuffmanTable,
        prediction: &mut i32,
    ) -> Result<()> {
        let size = u32::from(self.bits.symbol(table)?);
        if size > 15 {
            return Err(damaged("a scan has a coefficient of too many bits"));
        }
        *prediction = prediction.wrapping_add(self.bits.signed(size)?);
        block[0] = (*prediction << self.scan.low_bit) as i16;
        Ok(())
    }

    fn ac_sequential(&mut self, block: &mut [i16; BLOCK], table: &HuffmanTable) -> Result<()> {
        let mut k = 1;
        while k < BLOCK {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if run != 15 {
                    break;
                }
            } else {
                *number(block, k + run, BLOCK - 1)? = self.bits.signed(size)? as i16;
            }
            k += run + 1;
        }
        Ok(())
    }

    fn ac_first(&mut self, block: &mut [i16; BLOCK], table: &HuffmanTable) -> Result<()> {
        if self.eob_run > 0 {
            self.eob_run -= 1;
            return Ok(());
        }
        let (mut k, end) = self.scan.spectrum.clone().into_inner();
        while k <= end {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if run != 15 {
                    self.eob_run = (1 << run) + self.bits.read(run as u32)? - 1;
                    break;
                }
            } else {
                let value = self.bits.signed(size)? << self.scan.low_bit;
                *number(block, k + run, end)? = value as i16;
            }
            k += run + 1;
        }
        Ok(())
    }

    fn ac_refine(&mut self, block: &mut [i16; BLOCK], table: &HuffmanTable) -> Result<()> {
        let (mut k, end) = self.scan.spectrum.clone().into_inner();
        while self.eob_run == 0 && k <= end {
            let symbol = self.bits.symbol(table)?;
            let (mut zeros, size) = (usize::from(symbol >> 4), symbol & 15);
            let mut new = 0;
            if size != 0 {
                new = if self.bits.bit()? { 1 } else { -1 } << self.scan.low_bit;
            } else if zeros != 15 {
                // The run includes this block.
                self.eob_run = (1 << zeros) + self.bits.read(zeros as u32)?;
                break;
            }
            while k <= end {
                let value = &mut block[ZIGZAG[k]];
                if *value != 0 {
                    self.refine(value)?;
                } else if zeros == 0 {
                    *value = new;
                    k += 1;
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
        }
        if self.eob_run > 0 {
            for place in ZIGZAG[k..=end].iter().copied() {
                if block[place] != 0 {
                    self.refine(&mut block[place])?;
                }
            }
            self.eob_run -= 1;
        }
        Ok(())
    }

    /// Adds one bit to a coefficient from earlier scans.
    fn refine(&mut self, value: &mut i16) -> Result<()> {
        let bit = 1 << self.scan.low_bit;
        if self.bits.bit()? && *value & bit == 0 {
            *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
        }
        Ok(())
    }
}

/// The coefficient at zigzag index `k`.
fn number(block: &mut [i16; BLOCK], k: usize, end: usize) -> Result<&mut i16> {
    if k > end {
        return Err(damaged("a block has too many coefficients"));
    }
    Ok(&mut block[ZIGZAG[k]])
}
