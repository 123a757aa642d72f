//! The manifests of units: read, checked against the files that they name, counted. A manifest alone says that its
//! unit is done. Not here: how it comes there (`units`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commit::{self, STAGED, UNITS};
use super::storage::Storage;
use super::{RowErrorCounts, WrittenPart};
use crate::error::{Error, ErrorKind, Result};

/// The version of unit manifests that this program writes and reads.
pub(super) const VERSION: u32 = 1;

/// The manifest of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) unit: String,
    pub(super) input: String,
    pub(super) file: String,
    pub(super) plan: String,
    pub(super) rows: u64,
    pub(super) errors: RowErrorCounts,
    pub(super) files: Vec<WrittenPart>,
}

/// The units that are done: those whose manifest is whole and whose files are there. Everything else of
/// units is removed, if this run is `alone`.
pub(super) fn records(storage: &dyn Storage, alone: bool) -> Result<BTreeMap<String, Record>> {
    let (staged, published) = (storage.files(STAGED)?, storage.files("")?);
    let mut records = BTreeMap::new();
    let mut damaged = Vec::new();
    let is_there = |part: &WrittenPart| {
        [&staged, &published].iter().any(|files| files.get(&part.name) == Some(&part.bytes))
    };
    for_each_record(storage, &mut |name, record| {
        match record {
            Some(record) if record.files.iter().all(is_there) => {
                records.insert(record.unit.clone(), record);
            }
            _ => damaged.push(name),
        }
        Ok(())
    })?;
    if !alone {
        return Ok(records);
    }
    for name in &damaged {
        let manifest = storage.shown(name);
        tracing::warn!(manifest = %manifest.display(), "damaged: its unit is computed again");
    }
    storage.remove_all(&damaged)?;
    let named: BTreeSet<&str> = records
        .values()
        .flat_map(|record: &Record| record.files.iter().map(|part| part.name.as_str()))
        .collect();
    let orphans = staged.keys().filter(|name| !named.contains(name.as_str()));
    let orphans: Vec<String> = orphans.map(|name| format!("{STAGED}/{name}")).collect();
    storage.remove_all(&orphans)?;
    Ok(records)
}

/// Reads the manifests of units one after another: names, and what they say; `None` for one that is cut off
/// or is not the one of its name.
pub(super) fn for_each_record(
    storage: &dyn Storage,
    found: &mut dyn FnMut(String, Option<Record>) -> Result<()>,
) -> Result<()> {
    let names: Vec<String> = storage.files(UNITS)?.into_keys().collect();
    storage.read_each(UNITS, names, &mut |file, text| {
        let name = format!("{UNITS}/{file}");
        let record = parse(&storage.shown(&name), &file, &text)?;
        found(name, record)
    })
}

fn parse(path: &Path, file: &str, text: &[u8]) -> Result<Option<Record>> {
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return Ok(None) };
    if let Some(version) = value["version"].as_u64()
        && version > u64::from(VERSION)
    {
        return Err(Error::new(
            ErrorKind::Sink,
            format!("`{}` is of version {version}, this program knows {VERSION}", path.display()),
        )
        .hint("use the newer hfauto-pipe that wrote it, or compute all again with `--fresh`"));
    }
    let Ok(record) = serde_json::from_value::<Record>(value) else { return Ok(None) };
    let is_named_so = *file == format!("{}.json", record.unit);
    let stays_inside = record.files.iter().all(|part| commit::stays_inside(&part.name));
    Ok((is_named_so && stays_inside).then_some(record))
}

/// Units that are done, and their rows.
pub(super) fn count(storage: &dyn Storage) -> Result<(usize, u64)> {
    let (mut units, mut rows) = (0, 0);
    for_each_record(storage, &mut |_, record| {
        if let Some(record) = record {
            (units, rows) = (units + 1, rows + record.rows);
        }
        Ok(())
    })?;
    Ok((units, rows))
}
