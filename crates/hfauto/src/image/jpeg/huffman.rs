//! Reads the bits of a scan and decodes Huffman codes.

use super::{Result, damaged};

/// Codes of at most this length are decoded with one table lookup.
const LOOK_BITS: u32 = 9;
const MAX_BITS: usize = 16;

/// A Huffman table (DHT).
#[derive(Clone)]
pub(super) struct HuffmanTable {
    /// Indexed by the next `LOOK_BITS` bits: the length and symbol of a code; length 0 for longer codes.
    look: Vec<(u8, u8)>,
    /// For each length, the end of its codes and the offset from a code to the index of its symbol.
    ends: [(u32, i64); MAX_BITS + 1],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// Builds the table from the number of codes of each length, and their symbols.
    pub(super) fn new(counts: &[u8; MAX_BITS], symbols: &[u8]) -> Result<Self> {
        let mut look = vec![(0, 0); 1 << LOOK_BITS];
        let mut ends = [(0, 0); MAX_BITS + 1];
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=MAX_BITS {
            let count = usize::from(counts[length - 1]);
            ends[length] = (code + count as u32, place as i64 - i64::from(code));
            for symbol in &symbols[place..place + count] {
                if code >> length != 0 {
                    return Err(damaged("a Huffman table has too many codes"));
                }
                if let Some(rest) = LOOK_BITS.checked_sub(length as u32) {
                    let first = (code << rest) as usize;
                    look[first..first + (1 << rest)].fill((length as u8, *symbol));
                }
                code += 1;
            }
            place += count;
            code <<= 1;
        }
        Ok(Self { look, ends, symbols: symbols.to_vec() })
    }
}

/// Reads bits up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to load into `buffer`.
    position: usize,
    buffer: u64,
    /// The number of unread low bits of `buffer`.
    available: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position, buffer: 0, available: 0 }
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The position from which to search for the next marker.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Resumes at `position`. The remaining bits of the last byte are padding.
    pub(super) fn restart(&mut self, position: usize) {
        *self = Self::new(self.bytes, position);
    }

    fn fill(&mut self) {
        while self.available <= 56 {
            let Some(&byte) = self.bytes.get(self.position) else { return };
            if byte == 0xff {
                if self.bytes.get(self.position + 1) != Some(&0) {
                    return;
                }
                self.position += 1;
            }
            self.position += 1;
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.available += 8;
        }
    }

    /// The next `count` bits; those past the end are 0.
    fn peek(&mut self, count: u32) -> u32 {
        if self.available < count {
            self.fill();
        }
        let bits = if self.available >= count {
            self.buffer >> (self.available - count)
        } else {
            self.buffer << (count - self.available)
        };
        (bits & ((1 << count) - 1)) as u32
    }

    fn skip(&mut self, count: u32) -> Result<()> {
        match self.available.checked_sub(count) {
            Some(available) => {
                self.available = available;
                Ok(())
            }
            None => Err(damaged("the data of a scan is truncated")),
        }
    }

    /// The next `count` bits, at most 16.
    pub(super) fn read(&mut self, count: u32) -> Result<u32> {
        let bits = self.peek(count);
        self.skip(count)?;
        Ok(bits)
    }

    /// The next bit.
    pub(super) fn bit(&mut self) -> Result<bool> {
        Ok(self.read(1)? == 1)
    }

    /// A signed number of `count` bits; the highest bit is 0 for negative numbers.
    pub(super) fn signed(&mut self, count: u32) -> Result<i32> {
        if count == 0 {
            return Ok(0);
        }
        let bits = self.read(count)? as i32;
        let negative = bits < 1 << (count - 1);
        Ok(if negative { bits - (1 << count) + 1 } else { bits })
    }

    /// The next symbol.
    pub(super) fn symbol(&mut self, table: &HuffmanTable) -> Result<u8> {
        let code = self.peek(LOOK_BITS);
        let (length, symbol) = table.look[code as usize];
        if length > 0 {
            self.skip(u32::from(length))?;
            return Ok(symbol);
        }
        let code = self.peek(MAX_BITS as u32);
        for length in LOOK_BITS as usize + 1..=MAX_BITS {
            let code = code >> (MAX_BITS - length);
            let (end, offset) = table.ends[length];
            if code < end {
                self.skip(length as u32)?;
                let place = usize::try_from(i64::from(code) + offset).ok();
                let symbol = place.and_then(|place| table.symbols.get(place));
                return symbol
                    .copied()
                    .ok_or_else(|| damaged("a scan has a code that is not in its table"));
            }
        }
        Err(damaged("a scan has a code that is not in its table"))
    }
}
