//! A parser for Thrift's compact protocol, with just enough to check a Parquet footer or page header before the
//! `parquet` crate reads it: the crate allocates memory for the counts and lengths it finds, and recurses into schemas.
//! Not here: the meaning of other fields, which the crate reads.

use crate::limits::PARQUET_NESTING;

/// The nesting depth of structs; Parquet's own have fewer than ten.
const DEPTH: u8 = 32;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// The page type of dictionaries.
const DICTIONARY_PAGE: i64 = 2;
/// The encoding of values that share their beginnings.
const DELTA_BYTE_ARRAY: i64 = 7;

/// Reads a sequence of values; `None` means damage.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn pass(&mut self, bytes: usize) -> Option<()> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.bytes.len())?;
        self.at = end;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn int(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The count and type of a list's elements; each element takes at least one byte.
    fn list(&mut self) -> Option<(usize, u8)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            count => usize::from(count),
        };
        (count <= self.bytes.len() - self.at).then_some((count, header & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.pass(1),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.pass(8),
            UUID => self.pass(16),
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.pass(length)
            }
            LIST | SET => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, depth))
            }
            MAP => {
                let count = usize::try_from(self.varint()?).ok()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)
                })
            }
            STRUCT => self.fields(|reader, _, kind| reader.skip(kind, depth)),
            _ => None,
        }
    }

    /// In a list, a boolean is a byte of its own.
    fn skip_element(&mut self, kind: u8, depth: u8) -> Option<()> {
        if matches!(kind, TRUE | FALSE) { self.pass(1) } else { self.skip(kind, depth) }
    }

    /// Visits the fields of a struct; `visit` gets each number and type, and reads the value.
    fn fields(&mut self, mut visit: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut number = 0_i64;
        loop {
            let header = self.byte()?;
            let kind = header & 0x0f;
            if kind == 0 {
                return Some(());
            }
            let delta = i64::from(header >> 4);
            number = if delta == 0 { self.int()? } else { number.checked_add(delta)? };
            visit(self, number, kind)?;
        }
    }
}

/// The contents of a page header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// The length of the header itself, in bytes.
    pub(super) header_bytes: usize,
    pub(super) uncompressed_bytes: i64,
    pub(super) compressed_bytes: i64,
    /// The value count of a data page; 0 for other pages.
    pub(super) values: i64,
    pub(super) is_dictionary: bool,
    /// Whether a data page holds values as the differences from those before.
    pub(super) is_delta: bool,
}

/// Reads the page header at the start of `bytes`; `None` if it is damaged.
pub(super) fn page_header(bytes: &[u8]) -> Option<PageHeader> {
    let mut reader = Reader::new(bytes);
    let (mut page_type, mut uncompressed, mut compressed) = (0, None, None);
    let (mut values, mut encoding) = (0, 0);
    reader.fields(|reader, number, kind| {
        match (number, kind) {
            (1, I32) => page_type = reader.int()?,
            (2, I32) => uncompressed = Some(reader.int()?),
            (3, I32) => compressed = Some(reader.int()?),
            (5 | 8, STRUCT) => {
                let encoding_number = if number == 5 { 2 } else { 4 };
                reader.fields(|reader, number, kind| {
                    match (number, kind) {
                        (1, I32) => values = reader.int()?,
                        (number, I32) if number == encoding_number => encoding = reader.int()?,
                        _ => reader.skip(kind, DEPTH)?,
                    }
                    Some(())
                })?;
            }
            _ => reader.skip(kind, DEPTH)?,
        }
        Some(())
    })?;
    Some(PageHeader {
        header_bytes: reader.at,
        uncompressed_bytes: uncompressed?,
        compressed_bytes: compressed?,
        values,
        is_dictionary: page_type == DICTIONARY_PAGE,
        is_delta: encoding == DELTA_BYTE_ARRAY,
    })
}

/// Whether `bytes` start with a complete struct, whose lists are as long as they claim.
pub(super) fn is_whole_struct(bytes: &[u8]) -> bool {
    Reader::new(bytes).skip(STRUCT, DEPTH).is_some()
}

/// Checks the metadata of a Parquet file: it must be complete, and its schema a tree that readers can recurse into.
///
/// # Errors
/// The problem found.
pub(super) fn check_footer(bytes: &[u8]) -> Result<(), String> {
    let mut schema = Schema::default();
    let read = Reader::new(bytes).fields(|reader, number, kind| {
        if (number, kind) != (2, LIST) {
            return reader.skip(kind, DEPTH);
        }
        let (count, kind) = reader.list()?;
        for left in (0..count).rev() {
            if kind != STRUCT {
                return None;
            }
            let mut children = 0;
            reader.fields(|reader, number, kind| {
                if (number, kind) == (5, I32) {
                    children = reader.int()?;
                    return Some(());
                }
                reader.skip(kind, DEPTH)
            })?;
            schema.push(children, left);
        }
        Some(())
    });
    match (read, schema.problem) {
        (_, Some(problem)) => Err(problem),
        (None, None) => Err("its metadata is damaged".to_owned()),
        (Some(()), None) => Ok(()),
    }
}

/// The open groups of a schema that is written in depth-first order.
#[derive(Default)]
struct Schema {
    /// The number of children that each open group still lacks.
    open: Vec<u64>,
    problem: Option<String>,
}

impl Schema {
    /// Adds an element with `children`; `left` elements follow it.
    fn push(&mut self, children: i64, left: usize) {
        if let Some(missing) = self.open.last_mut() {
            *missing = missing.saturating_sub(1);
        }
        match u64::try_from(children).ok().filter(|children| *children <= left as u64) {
            Some(0) => {}
            Some(children) => self.open.push(children),
            None => self.problem = Some("its schema is damaged".to_owned()),
        }
        if self.open.len() > PARQUET_NESTING {
            self.problem = Some(format!("its schema has more than {PARQUET_NESTING} levels"));
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema element with a name and children.
    fn element(children: u8) -> Vec<u8> {
        // Field 4, a binary of one byte; field 5, an i32, zigzag.
        let mut bytes = vec![0x48, 1, b'a'];
        if children > 0 {
            bytes.extend([0x15, children << 1]);
        }
        bytes.push(0);
        bytes
    }

    /// A footer whose field 2 has these elements.
    fn footer(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0x29, 0xfc];
        let mut count = elements.len();
        while count >= 0x80 {
            bytes.push((count & 0x7f) as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        bytes.extend(elements.concat());
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_page_header_is_read() {
        // type 0, uncompressed 100, compressed 50, data page header of 7 values with an encoding.
        let bytes = [0x15, 0, 0x15, 0xc8, 0x01, 0x15, 100, 0x2c, 0x15, 14, 0x15, 0, 0, 0, 0xff];
        let header = page_header(&bytes).unwrap();
        let expected = PageHeader {
            header_bytes: 14,
            uncompressed_bytes: 100,
            compressed_bytes: 50,
            values: 7,
            is_dictionary: false,
            is_delta: false,
        };
        assert_eq!(header, expected);
        assert!((0..14).all(|end| page_header(&bytes[..end]).is_none()));
    }

    #[test]
    fn counts_and_lengths_are_those_of_what_follows() {
        assert!(is_whole_struct(&[0x18, 2, 1, 1, 0]));
        // A binary of 2^62 bytes, a list of 2^30 elements.
        assert!(!is_whole_struct(&[
            0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 0, 0
        ]));
        assert!(!is_whole_struct(&[0x19, 0xfc, 0x80, 0x80, 0x80, 0x80, 4, 0, 0]));
        // Endlessly nested structs.
        assert!(!is_whole_struct(&vec![0x1c; 100_000]));
    }

    #[test]
    fn deep_schemas_are_refused() {
        let chain = |levels: usize| {
            let mut elements = vec![element(1); levels];
            elements.push(element(0));
            check_footer(&footer(&elements))
        };
        chain(100).unwrap();
        assert_eq!(chain(50_000).unwrap_err(), "its schema has more than 128 levels");
        assert_eq!(check_footer(&footer(&[element(60)])).unwrap_err(), "its schema is damaged");
        assert_eq!(check_footer(&[0x15]).unwrap_err(), "its metadata is damaged");
        // Sibling groups do not add to the depth.
        let wide = [vec![element(60)], vec![element(0); 60]].concat();
        check_footer(&footer(&wide)).unwrap();
    }
}
