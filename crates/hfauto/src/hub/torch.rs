//! The two file formats of `torch.save`: a zip archive (torch 1.6 and later) and the legacy stream of pickles. Both
//! contain one pickle that names storages, and the bytes of the storages. Not here: the pickle itself
//! ([`super::pickle`], [`super::unpickler`]).

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::layout::{Fault, Stored};
use super::pickle::{Id, Pickle, StorageRef, Value};
use super::source::WeightFile;
use super::unpickler;
use crate::limits;

/// The first pickle of the legacy format: the number 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL_VERSION: i64 = 1001;
/// The keys under which training programs save the tensors beside other state.
const STATE_DICT_KEYS: &[&str] = &["state_dict", "model_state_dict", "model"];
const BIG_ENDIAN: &str = "was saved on a big-endian machine, which is not supported";

type Tensors = BTreeMap<String, Stored>;

/// The tensors of a zip archive.
pub(super) fn read_zip(file: &WeightFile) -> Result<Tensors, Fault> {
    let damaged = |e: zip::result::ZipError| {
        Fault::new(format!("is truncated or damaged: {e}")).hint("download the file again")
    };
    let unread = |e: std::io::Error| Fault::unread(&e);
    let stream = BufReader::new(file.stream().map_err(unread)?);
    let mut archive = ZipArchive::new(stream).map_err(damaged)?;
    let mut records = BTreeMap::new();
    for index in 0..archive.len() {
        let record = archive.by_index_raw(index).map_err(damaged)?;
        let name = record.name().map_err(damaged)?.into_owned();
        if record.compression() != CompressionMethod::Stored || record.encrypted() {
            return Err(Fault::new(format!(
                "has a compressed record `{name}`; torch.save compresses none"
            )));
        }
        let bytes = record
            .data_start()
            .and_then(|start| {
                let start = usize::try_from(start).ok()?;
                let end = start.checked_add(usize::try_from(record.size()).ok()?)?;
                (end <= file.len()).then_some(start..end)
            })
            .ok_or_else(|| Fault::new(format!("is damaged: record `{name}` is missing")))?;
        records.insert(name, bytes);
    }
    let pickles: Vec<_> =
        records.keys().filter(|name| is_named(name, "data.pkl")).cloned().collect();
    let [name] = pickles.as_slice() else {
        return Err(Fault::new(format!(
            "is a zip archive, but not a checkpoint: expected one `data.pkl`, found {}",
            pickles.len()
        )));
    };
    // The records are in a folder named after the saved file.
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some(order) = records.get(&format!("{folder}byteorder"))
        && !file.read(order.start..order.end.min(order.start + 6)).map_err(unread)?.eq(b"little")
    {
        return Err(Fault::new(BIG_ENDIAN));
    }
    // Reading the pickle through the archive verifies its checksum.
    let mut pickle = Vec::new();
    let record = archive.by_name(name).map_err(damaged)?;
    if record.size() > limits::PICKLE_BYTES as u64 {
        return Err(Fault::new(format!(
            "is damaged: its pickle has {} bytes, expected at most {}",
            record.size(),
            limits::PICKLE_BYTES
        )));
    }
    record
        .take(limits::PICKLE_BYTES as u64)
        .read_to_end(&mut pickle)
        .map_err(|e| damaged(zip::result::ZipError::Io(e)))?;
    let (pickle, top) = unpickler::read(&pickle, &mut 0)?;
    tensors(&pickle, top, |storage| {
        let key = &storage.key;
        let bytes = records.get(&format!("{folder}data/{key}")).cloned();
        let bytes =
            bytes.ok_or_else(|| Fault::new(format!("lacks the record of storage `{key}`")))?;
        expect_len(storage, bytes.len())?;
        Ok(bytes)
    })
}

/// The tensors of the legacy format (before torch 1.6): four pickles, a list of storages, the storages.
pub(super) fn read_legacy(file: &WeightFile) -> Result<Tensors, Fault> {
    // No header gives the total length of the pickles, so the read grows until they fit.
    let mut count = FIRST_READ;
    loop {
        let head = file.head(count).map_err(|e| Fault::unread(&e))?;
        let all = head.len() == file.len() || count >= limits::PICKLE_BYTES;
        match read_legacy_with(file, &head) {
            Err(_) if !all => count = (count * 16).min(limits::PICKLE_BYTES),
            result => return result,
        }
    }
}

/// The first bytes of a file, which usually contain all its pickles.
const FIRST_READ: usize = 1 << 20;

/// [`read_legacy`], given the first bytes of the file.
fn read_legacy_with(file: &WeightFile, head: &[u8]) -> Result<Tensors, Fault> {
    let mut position = 0;
    let (pickle, top) = unpickler::read(head, &mut position)?;
    if !matches!(pickle.get(top), Value::Long(number) if *number == MAGIC) {
        return Err(Fault::new("is a pickle, but not one of torch.save"));
    }
    let (pickle, top) = unpickler::read(head, &mut position)?;
    match pickle.get(top) {
        Value::Int(PROTOCOL_VERSION) => {}
        other => {
            let what = format!("has version {other:?} of the format, expected {PROTOCOL_VERSION}");
            return Err(Fault::new(what));
        }
    }
    let (pickle, top) = unpickler::read(head, &mut position)?;
    if matches!(lookup(&pickle, top, "little_endian"), Some(Value::Bool(false))) {
        return Err(Fault::new(BIG_ENDIAN));
    }
    let (content, content_top) = unpickler::read(head, &mut position)?;
    let (keys, keys_top) = unpickler::read(head, &mut position)?;
    let Value::List(keys_list) = keys.get(keys_top) else {
        return Err(Fault::new("is damaged: it has no list of storages"));
    };
    let mut storages = BTreeMap::new();
    for key in keys_list {
        let key = match keys.get(*key) {
            Value::Text(key) => key.clone(),
            Value::Int(key) => key.to_string(),
            _ => return Err(Fault::new("is damaged: its list of storages contains other values")),
        };
        let storage = content.storages.get(&key).ok_or_else(|| {
            Fault::new(format!("is damaged: storage `{key}` is of an unknown type"))
        })?;
        let truncated = || {
            Fault::new(format!(
                "is truncated: storage `{key}` of {} elements begins at byte {position}, the file ends at {}",
                storage.len,
                file.len()
            ))
            .hint("download the file again")
        };
        let length = position
            .checked_add(8)
            .and_then(|end| file.read(position..end).ok())
            .and_then(|bytes| bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)))
            .ok_or_else(truncated)?;
        let size = storage.element.bits() / 8;
        let bytes = usize::try_from(length).ok().and_then(|length| {
            let start = position + 8;
            let end = start.checked_add(length.checked_mul(size)?)?;
            (end <= file.len()).then_some(start..end)
        });
        let bytes = bytes.ok_or_else(truncated)?;
        expect_len(storage, bytes.len())?;
        position = bytes.end;
        storages.insert(key, bytes);
    }
    tensors(&content, content_top, |storage| {
        let bytes = storages.get(&storage.key).cloned();
        bytes.ok_or_else(|| Fault::new(format!("lacks storage `{}`", storage.key)))
    })
}

fn expect_len(storage: &StorageRef, found: usize) -> Result<(), Fault> {
    let expected = storage.len.checked_mul(storage.element.bits() / 8);
    if expected == Some(found) {
        return Ok(());
    }
    let StorageRef { key, element, len, .. } = storage;
    Err(Fault::new(format!(
        "is damaged: storage `{key}` should hold {len} elements of {element:?}, and has {found} bytes"
    )))
}

fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
}

fn lookup<'a>(pickle: &'a Pickle, dict: Id, key: &str) -> Option<&'a Value> {
    let Value::Dict(items) = pickle.get(dict) else { return None };
    let found = items.iter().rev().find(|(name, _)| pickle.text(*name) == Some(key))?;
    Some(pickle.get(found.1))
}

/// The tensors of the dictionary `top`, or of the nested dictionary that holds the model.
fn tensors(
    pickle: &Pickle,
    top: Id,
    place: impl Fn(&StorageRef) -> Result<Range<usize>, Fault>,
) -> Result<Tensors, Fault> {
    let Value::Dict(items) = pickle.get(top) else {
        return Err(Fault::new("is not a state dict: expected a dictionary of tensors by name"));
    };
    let is_tensor = |item: &(Id, Id)| matches!(pickle.get(item.1), Value::Tensor(_));
    let items = if items.iter().any(is_tensor) {
        items
    } else {
        let inner = STATE_DICT_KEYS.iter().find_map(|key| match lookup(pickle, top, key)? {
            Value::Dict(items) if items.iter().any(is_tensor) => Some(items),
            _ => None,
        });
        inner.ok_or_else(|| {
            let keys: Vec<_> =
                items.iter().filter_map(|item| pickle.text(item.0)).take(8).collect();
            Fault::new(format!("holds no tensors by name; its first keys are {keys:?}"))
        })?
    };
    let mut tensors = Tensors::new();
    for (name, value) in items {
        let (Some(name), Value::Tensor(tensor)) = (pickle.text(*name), pickle.get(*value)) else {
            continue;
        };
        let storage = place(&tensor.storage)?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        let element = tensor.storage.element;
        let stored = Stored::view(element, shape, strides, storage, tensor.offset)
            .map_err(|fault| Fault::new(format!("is damaged: tensor `{name}` {}", fault.what)))?;
        tensors.insert(name.to_owned(), stored);
    }
    Ok(tensors)
}
