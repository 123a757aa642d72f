//! Reads and counts the manifests of units, and checks them against their files. Only a manifest marks a unit as done. Not
//! here: writing them (`units`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::WrittenPart;
use super::commit::{STAGED, UNITS, find_staged, staged_name};
use super::manifest::stays_inside;
use super::storage::Storage;
use crate::error::{Error, ErrorKind, Result};

/// The version of unit manifests that this program writes and reads.
pub(super) const VERSION: u32 = 1;

/// The version of those whose parts have rows of other units, too.
pub(super) const SHARED_VERSION: u32 = 2;

/// Rows that failed, of this run and of units that were done before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowErrorCounts {
    /// Rows that came to the first model step.
    pub rows: u64,
    /// Rows among them that a step refused.
    pub failed: u64,
}

impl RowErrorCounts {
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.failed += other.failed;
    }
}

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

/// The part of a finished unit's manifest that publishing needs, which is kept in memory.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) input: Arc<str>,
    pub(super) plan: Arc<str>,
    pub(super) rows: u64,
    pub(super) errors: RowErrorCounts,
    pub(super) files: Box<[WrittenPart]>,
}

/// The finished units by id. Texts that several units share are stored once.
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

    /// The ids, with what is kept of each unit.
    pub(super) fn into_all(self) -> impl Iterator<Item = (Box<str>, Kept)> {
        self.units.into_iter()
    }
}

/// The finished units: those with a complete manifest whose files exist. If this run is `alone`, removes all other files
/// of units.
pub(super) fn records(storage: &dyn Storage, alone: bool) -> Result<Records> {
    let (mut staged, published) = (storage.files(STAGED)?, storage.files("")?);
    let mut records = Records::default();
    let mut damaged = Vec::new();
    for_each_record(storage, &mut |name, record| {
        let is_there = |part: &WrittenPart| {
            find_staged(&staged, part).is_some() || published.get(&part.name) == Some(&part.bytes)
        };
        match record {
            Some(record) if record.files.iter().all(is_there) => {
                // A staged file belongs to one unit: those that remain at the end are orphans.
                for part in &record.files {
                    if let Some(name) = find_staged(&staged, part) {
                        staged.remove(&name);
                    }
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
        tracing::warn!(manifest = %manifest.display(), "a damaged manifest: its unit is computed again");
    }
    storage.remove_all(&damaged)?;
    let orphans: Vec<String> = staged.keys().map(|name| format!("{STAGED}/{name}")).collect();
    storage.remove_all(&orphans)?;
    Ok(records)
}

/// The manifest of a unit, if it is complete and its files exist.
pub(super) fn record(storage: &dyn Storage, unit: &str) -> Result<Option<Record>> {
    let Some(record) = manifest_of(storage, unit)? else { return Ok(None) };
    for part in &record.files {
        let staged = format!("{STAGED}/{}", staged_name(part));
        if storage.is_file(&staged)?.is_none() && storage.is_file(&part.name)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(record))
}

/// The manifest of a unit, if it is complete.
pub(super) fn manifest_of(storage: &dyn Storage, unit: &str) -> Result<Option<Record>> {
    let file = format!("{unit}.json");
    let name = format!("{UNITS}/{file}");
    let Some(text) = storage.read(&name)? else { return Ok(None) };
    parse(&storage.shown(&name), &file, &text)
}

/// Visits the manifests of units in any order, by name; `None` stands for one that is truncated or does not match its
/// name. Keeps no manifest in memory.
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
        && version > u64::from(SHARED_VERSION)
    {
        return Err(Error::new(
            ErrorKind::Sink,
            format!(
                "`{}` is of version {version}, this program knows {SHARED_VERSION}",
                path.display()
            ),
        )
        .hint(
            "use the newer hfauto-pipe that wrote it, or compute everything again with `--fresh`",
        ));
    }
    let Ok(record) = serde_json::from_value::<Record>(value) else { return Ok(None) };
    let is_named_so = *file == format!("{}.json", record.unit);
    let is_whole = |part: &WrittenPart| stays_inside(&part.name) && !part.blake3.is_empty();
    Ok((is_named_so && record.files.iter().all(is_whole)).then_some(record))
}

/// The number of finished units, and their rows.
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
