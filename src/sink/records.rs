//! The manifests of units: read, checked against the files that they name, counted. A manifest alone says that its
//! unit is done. Not here: how it is written (`units`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commit::{STAGED, UNITS};
use super::manifest::stays_inside;
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

/// What is kept in memory of a unit that is done: what it takes to publish it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) input: Arc<str>,
    pub(super) plan: Arc<str>,
    pub(super) rows: u64,
    pub(super) errors: RowErrorCounts,
    pub(super) files: Box<[WrittenPart]>,
}

/// The units that are done, by id. Of texts that many have in common, one is kept.
#[derive(Debug, Default)]
pub(super) struct Records {
    units: BTreeMap<Box<str>, Kept>,
    texts: BTreeSet<Arc<str>>,
}

impl Records {
    pub(super) fn insert(&mut self, record: Record) {
        let Record { unit, input, plan, rows, errors, files, .. } = record;
        let (input, plan) = (self.shared(input), self.shared(plan));
        let kept = Kept { input, plan, rows, errors, files: files.into() };
        self.units.insert(unit.into(), kept);
    }

    fn shared(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.texts.get(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    pub(super) fn get(&self, unit: &str) -> Option<&Kept> {
        self.units.get(unit)
    }

    pub(super) fn has(&self, unit: &str) -> bool {
        self.units.contains_key(unit)
    }

    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Kept> {
        self.units.values()
    }

    /// Ids and what is kept of them.
    pub(super) fn into_all(self) -> impl Iterator<Item = (Box<str>, Kept)> {
        self.units.into_iter()
    }
}

/// The units that are done: those whose manifest is whole and whose files are there. Everything else of
/// units is removed, if this run is `alone`.
pub(super) fn records(storage: &dyn Storage, alone: bool) -> Result<Records> {
    let (mut staged, published) = (storage.files(STAGED)?, storage.files("")?);
    let mut records = Records::default();
    let mut damaged = Vec::new();
    for_each_record(storage, &mut |name, record| {
        let is_there = |part: &WrittenPart| {
            [&staged, &published].iter().any(|files| files.get(&part.name) == Some(&part.bytes))
        };
        match record {
            Some(record) if record.files.iter().all(is_there) => {
                // A file is of one unit: what is left of the staged ones at the end is nobody's.
                for part in &record.files {
                    staged.remove(&part.name);
                }
                records.insert(record);
            }
            _ => damaged.push(name),
        }
        Ok(())
    })?;
    if !alone {
        return Ok(records);
    }
    damaged.sort_unstable();
    for name in &damaged {
        let manifest = storage.shown(name);
        tracing::warn!(manifest = %manifest.display(), "damaged: its unit is computed again");
    }
    storage.remove_all(&damaged)?;
    let orphans: Vec<String> = staged.keys().map(|name| format!("{STAGED}/{name}")).collect();
    storage.remove_all(&orphans)?;
    Ok(records)
}

/// Reads the manifests of units one after another, in any order: names, and what they say; `None` for one that is
/// cut off or is not the one of its name. Of those that were read nothing stays in memory.
pub(super) fn for_each_record(
    storage: &dyn Storage,
    found: &mut dyn FnMut(String, Option<Record>) -> Result<()>,
) -> Result<()> {
    storage.read_each(UNITS, &mut |file, text| {
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
    let is_whole = |part: &WrittenPart| stays_inside(&part.name) && !part.blake3.is_empty();
    Ok((is_named_so && record.files.iter().all(is_whole)).then_some(record))
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
