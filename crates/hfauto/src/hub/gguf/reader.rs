//! The container of GGUF: metadata by key, and the table of tensors. Not here: what keys and names mean (`super`).
//!
//! The file is not trusted: every count, length and offset is checked against the bytes that it has, and only then takes
//! memory.
//!
//! # Source
//! `docs/gguf.md` of ggml; `gguf_reader.py` of gguf-py 0.19.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;

use crate::blocks::BlockFormat;
use crate::hub::layout::Fault;
use crate::hub::source::WeightFile;
use crate::limits;

/// The first bytes of a file.
pub(in crate::hub) const MAGIC: &[u8] = b"GGUF";

const AGAIN: &str = "download the file again";
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most dimensions of a tensor: `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;

/// Types of ggml that have no [`BlockFormat`].
const OTHER_TYPES: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Texts),
    Numbers(Numbers),
}

/// Many texts in little memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    text: String,
    ends: Vec<u32>,
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<&str> {
        let end = *self.ends.get(place)? as usize;
        let start = place.checked_sub(1).map_or(0, |last| self.ends[last] as usize);
        self.text.get(start..end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|place| self.get(place))
    }
}

/// An array of numbers, as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    kind: Scalar,
    pub(super) bytes: Vec<u8>,
}

impl Numbers {
    pub(super) fn iter(&self) -> impl Iterator<Item = f64> {
        self.bytes.chunks_exact(self.kind.size()).map(|bytes| match self.kind.value(bytes) {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            Value::Bool(flag) => f64::from(u8::from(flag)),
            Value::Text(_) | Value::Texts(_) | Value::Numbers(_) => f64::NAN,
        })
    }
}

/// The type of a number in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The number in as many bytes as its size.
    fn value(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Integer(i128::from(bits)),
            Self::I8 => Value::Integer(i128::from(bits as i8)),
            Self::I16 => Value::Integer(i128::from(bits as i16)),
            Self::I32 => Value::Integer(i128::from(bits as i32)),
            Self::I64 => Value::Integer(i128::from(bits as i64)),
            Self::Bool => Value::Bool(bits != 0),
            Self::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Value::Float(f64::from_bits(bits)),
        }
    }
}

/// A tensor of the table.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// In the order of torch: rows first.
    pub(super) shape: Vec<usize>,
    pub(super) format: BlockFormat,
    /// The bytes of the file.
    pub(super) bytes: Range<usize>,
}

/// Everything before the tensors.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header of a file.
    pub(super) fn read(file: &WeightFile) -> Result<Self, Fault> {
        let source = BufReader::new(file.stream().map_err(|e| Fault::unread(&e))?);
        let mut reader = Reader { source, place: 0, len: file.len() };
        if reader.bytes(4)? != MAGIC {
            return Err(Fault::new("is not a GGUF file").hint(AGAIN));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            let big_endian = (1..=3).contains(&version.swap_bytes());
            return Err(Fault::unsupported(if big_endian {
                "is a big-endian GGUF file, which is not implemented".to_owned()
            } else {
                format!("is GGUF of version {version}: 2 and 3 are implemented")
            })
            .hint("convert the model again, with a current llama.cpp"));
        }
        let (tensors, keys) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = reader.text()?;
            let value = reader.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(damaged(&format!("it has the key `{key}` twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(number)) => u64::try_from(*number)
                .ok()
                .filter(|number| number.is_power_of_two() && *number <= 1 << 20)
                .ok_or_else(|| damaged("`general.alignment` is no power of two up to 2^20"))?,
            Some(_) => return Err(damaged("`general.alignment` is not a number")),
        };
        let mut infos = Vec::new();
        for _ in 0..tensors {
            infos.push(reader.tensor()?);
        }
        let start = (reader.place as u64).next_multiple_of(alignment);
        let tensors = located(infos, start, alignment, file.len())?;
        Ok(Self { metadata, tensors })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The text of a key, if it is one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The flag of a key, if it is one.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The number of a key, if it is a number from 0 to the largest of a `u32`.
    pub(super) fn id(&self, key: &str) -> Option<u32> {
        match self.get(key)? {
            Value::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }
}

/// A tensor of the table before its place is known.
struct RawInfo {
    name: String,
    shape: Vec<usize>,
    format: BlockFormat,
    size: u64,
    offset: u64,
}

/// Places the tensors behind `start`, in a file of `len` bytes.
fn located(
    infos: Vec<RawInfo>,
    start: u64,
    alignment: u64,
    len: usize,
) -> Result<BTreeMap<String, TensorInfo>, Fault> {
    let mut tensors = BTreeMap::new();
    let mut sum = 0u64;
    for RawInfo { name, shape, format, size, offset } in infos {
        if !offset.is_multiple_of(alignment) {
            return Err(damaged(&format!(
                "tensor `{name}` begins at {offset}, which {alignment} does not divide"
            )));
        }
        let first = start.checked_add(offset);
        let end = first.and_then(|first| first.checked_add(size));
        let range = first.zip(end).filter(|(_, end)| *end <= len as u64);
        let Some((first, end)) = range else {
            let end = end.map_or("more".to_owned(), |end| end.to_string());
            return Err(Fault::new(format!(
                "is truncated or damaged: tensor `{name}` needs {end} bytes, it has {len}"
            ))
            .hint(AGAIN));
        };
        sum = sum.saturating_add(size);
        let info = TensorInfo { shape, format, bytes: first as usize..end as usize };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(damaged(&format!("it has tensor `{name}` twice")));
        }
    }
    if sum > len as u64 {
        return Err(damaged("its tensors share bytes"));
    }
    Ok(tensors)
}

fn damaged(what: &str) -> Fault {
    Fault::new(format!("is damaged: {what}")).hint(AGAIN)
}

struct Reader {
    source: BufReader<File>,
    place: usize,
    len: usize,
}

impl Reader {
    /// Checks that the header may have this many more bytes.
    fn reserve(&self, count: u64) -> Result<usize, Fault> {
        let end = usize::try_from(count).ok().and_then(|count| self.place.checked_add(count));
        let Some(end) = end.filter(|end| *end <= self.len) else {
            return Err(Fault::new(format!(
                "is truncated or damaged: {count} bytes should follow byte {} of its header, it has {}",
                self.place, self.len
            ))
            .hint(AGAIN));
        };
        if end > limits::GGUF_HEADER_BYTES {
            let most = limits::GGUF_HEADER_BYTES;
            return Err(damaged(&format!("its header has more than {most} bytes")));
        }
        Ok(count as usize)
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; self.reserve(count)?];
        self.source.read_exact(&mut bytes).map_err(|e| Fault::unread(&e))?;
        self.place += bytes.len();
        Ok(bytes)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], Fault> {
        self.reserve(SIZE as u64)?;
        let mut bytes = [0; SIZE];
        self.source.read_exact(&mut bytes).map_err(|e| Fault::unread(&e))?;
        self.place += SIZE;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, Fault> {
        let len = self.u64()?;
        let place = self.place;
        String::from_utf8(self.bytes(len)?)
            .map_err(|_| damaged(&format!("the text at byte {place} is not UTF-8")))
    }

    fn value(&mut self, key: &str) -> Result<Value, Fault> {
        const TEXT: u32 = 8;
        const ARRAY: u32 = 9;
        let unknown = |number: u32| damaged(&format!("`{key}` has a value of type {number}"));
        match self.u32()? {
            TEXT => Ok(Value::Text(self.text()?)),
            ARRAY => {
                let (number, count) = (self.u32()?, self.u64()?);
                if number == TEXT {
                    return self.texts(count).map(Value::Texts);
                }
                let kind = Scalar::of(number).ok_or_else(|| unknown(number))?;
                let bytes = self.bytes(count.saturating_mul(kind.size() as u64))?;
                Ok(Value::Numbers(Numbers { kind, bytes }))
            }
            number => {
                let kind = Scalar::of(number).ok_or_else(|| unknown(number))?;
                let bytes = self.bytes(kind.size() as u64)?;
                Ok(kind.value(&bytes))
            }
        }
    }

    fn texts(&mut self, count: u64) -> Result<Texts, Fault> {
        // Each text has its length before it.
        self.reserve(count.saturating_mul(8))?;
        let mut texts = Texts::default();
        for _ in 0..count {
            texts.text += &self.text()?;
            // The limit on headers is below the numbers of a `u32`.
            texts.ends.push(texts.text.len() as u32);
        }
        Ok(texts)
    }

    fn tensor(&mut self) -> Result<RawInfo, Fault> {
        let name = self.text()?;
        let dims = self.u32()?;
        if dims == 0 || dims > MAX_DIMS {
            return Err(damaged(&format!("tensor `{name}` has {dims} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(self.u64()?);
        }
        let number = self.u32()?;
        let offset = self.u64()?;
        let Some(format) = BlockFormat::of_ggml_type(number) else {
            let known = OTHER_TYPES.iter().find(|(other, _)| *other == number);
            let kind = known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned());
            return Err(Fault::unsupported(format!(
                "stores tensor `{name}` as {kind}, which is not implemented: {} are",
                BlockFormat::names().collect::<Vec<_>>().join(", ")
            ))
            .hint("use a file of the same model in one of these types, such as Q8_0 or Q4_K_M"));
        };
        let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        let columns = shape.first().and_then(|columns| usize::try_from(*columns).ok());
        let size = columns.and_then(|columns| {
            let row = format.bytes_of(columns)? as u64;
            let rows = elements?.checked_div(columns as u64).unwrap_or(0);
            row.checked_mul(rows)
        });
        let shape: Option<Vec<usize>> =
            shape.iter().rev().map(|dim| usize::try_from(*dim).ok()).collect();
        let (Some(size), Some(shape)) = (size, shape) else {
            return Err(damaged(&format!(
                "tensor `{name}` has a shape that does not fit {}",
                format.name()
            )));
        };
        Ok(RawInfo { name, shape, format, size, offset })
    }
}
