//! Manifests of units for an output that was published without them, so that a later run computes only what is new or has
//! changed. Earlier versions removed them, and a job that is a single unit keeps its own in the MANIFEST. Not here: reading
//! manifests (`records`).

use serde::{Deserialize, Serialize};

use super::commit;
use super::manifest::{self, Manifest};
use super::records::{Record, RowErrorCounts, VERSION};
use super::storage::Storage;
use super::{UnitKey, WrittenPart};
use crate::error::Result;

/// The key of [`OnlyUnit`] in a MANIFEST.
pub(super) const UNIT: &str = "unit";

/// The only unit of an output that was not written in units.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OnlyUnit {
    unit: String,
    input: String,
    file: String,
    plan: String,
    errors: RowErrorCounts,
}

impl OnlyUnit {
    pub(super) fn new(key: &UnitKey, errors: RowErrorCounts) -> Self {
        Self {
            unit: key.id.to_string(),
            input: key.input.to_string(),
            file: key.file.to_string(),
            plan: key.plan.to_string(),
            errors,
        }
    }
}

/// The manifests of units that the published output consists of, as far as its MANIFEST tells. Parts name their units by a
/// prefix of the id and the position: a part of another job does not match. The rows that failed are not known for these.
///
/// # Errors
/// `Sink` if the MANIFEST cannot be read.
pub(super) fn adopted(storage: &dyn Storage, units: &[UnitKey]) -> Result<Vec<Record>> {
    if !commit::is_marked(storage)? {
        return Ok(Vec::new());
    }
    let Some(Manifest { head, files }) = commit::manifest(storage)? else { return Ok(Vec::new()) };
    let is_whole =
        |part: &WrittenPart| manifest::stays_inside(&part.name) && !part.blake3.is_empty();
    if !files.iter().all(is_whole) {
        return Ok(Vec::new());
    }
    let record = |only: OnlyUnit, files: Vec<WrittenPart>| Record {
        version: VERSION,
        unit: only.unit,
        input: only.input,
        file: only.file,
        plan: only.plan,
        rows: files.iter().map(|part| part.rows).sum(),
        errors: only.errors,
        files,
    };
    if let Some(only) = head.get(UNIT) {
        let only = serde_json::from_value::<OnlyUnit>(only.clone());
        return Ok(only.map(|only| record(only, files)).into_iter().collect());
    }
    if !head.contains_key("job") {
        return Ok(Vec::new());
    }
    let mut records = Vec::new();
    for unit in units {
        let stem = format!("part-{}", unit.stem());
        let is_own = |part: &&WrittenPart| {
            let name = part.name.rsplit('/').next().unwrap_or_default();
            name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(['.', '-']))
        };
        let own: Vec<WrittenPart> = files.iter().filter(is_own).cloned().collect();
        if !own.is_empty() {
            let rows = own.iter().map(|part| part.rows).sum();
            let errors = RowErrorCounts { rows, failed: 0 };
            records.push(record(OnlyUnit::new(unit, errors), own));
        }
    }
    Ok(records)
}
