//! Outputs that are published elsewhere: in datasets on the hub, and as versions of Delta tables. A run makes them in a
//! folder, like any other output, and the job pushes the finished output from there, all at once. The folder is removed
//! after that. Not here: the push (`crate::job`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::commit;
use super::disk::write_error;
use super::manifest::{Manifest, stays_inside};
pub(crate) use super::storage::nonce;
use super::storage::{Lock, Storage, storage_of};
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::hub_store::{self, DatasetUrl};

/// The name of an output's manifest.
pub(crate) const MANIFEST: &str = commit::MANIFEST;

/// What a push needs later, in the folder of an output: the text about it in the card, or the name of its files in a table.
const CARD: &str = "_hfauto/card.md";

/// The lineage that names the job of an output on the hub.
pub(crate) const JOB: &str = "hfauto.job";

/// A finished output, by its manifest.
#[derive(Debug)]
pub(crate) struct Published {
    /// Everything in the manifest except the files.
    pub(crate) head: Map<String, Value>,
    /// The names of the data files, and their sizes.
    pub(crate) files: Vec<(String, u64)>,
    /// The rows of each.
    pub(crate) file_rows: Vec<u64>,
}

impl Published {
    fn of(manifest: Manifest) -> Self {
        let file_rows = manifest.files.iter().map(|file| file.rows).collect();
        let files = manifest.files.into_iter().map(|file| (file.name, file.bytes));
        Self { head: manifest.head, files: files.collect(), file_rows }
    }

    /// Reads the manifest of an output that may be anyone's; `None` if it is none of ours.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let found = Self::of(serde_json::from_slice(text).ok()?);
        found.files.iter().all(|(name, _)| stays_inside(name)).then_some(found)
    }

    /// The rows of all files.
    pub(crate) fn rows(&self) -> u64 {
        self.head.get("rows").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The identity of the job that made it.
    pub(crate) fn job(&self) -> Option<&str> {
        self.head.get("lineage")?.get(JOB)?.as_str()
    }
}

/// Whether an output is pushed: to a dataset, or into a Delta table.
pub(crate) fn is_staged(spec: &SinkSpec) -> bool {
    spec.delta.is_some() || hub_store::is_hub(&spec.path.to_string_lossy())
}

/// The folder in which an output is made.
///
/// # Errors
/// `Config` if its path names no dataset, `Sink` if there is no place for it.
pub(crate) fn staging_folder(spec: &SinkSpec) -> Result<PathBuf> {
    hub_store::staging(&DatasetUrl::parse(&spec.path.to_string_lossy())?)
}

/// The output in its folder, if it is finished.
///
/// # Errors
/// `Sink` if it cannot be read.
pub(crate) fn published(spec: &SinkSpec) -> Result<Option<Published>> {
    let storage = storage_of(&spec.path)?;
    if !commit::is_marked(storage.as_ref())? {
        return Ok(None);
    }
    Ok(commit::manifest(storage.as_ref())?.map(Published::of))
}

/// Keeps the text about the output until it is pushed.
///
/// # Errors
/// `Sink` if it cannot be written.
pub(crate) fn keep_card(spec: &SinkSpec, text: &str) -> Result<()> {
    storage_of(&spec.path)?.write(CARD, text.as_bytes())
}

/// The text that [`keep_card`] kept.
///
/// # Errors
/// `Sink` if it cannot be read.
pub(crate) fn kept_card(spec: &SinkSpec) -> Result<Option<String>> {
    let text = storage_of(&spec.path)?.read(CARD)?;
    Ok(text.and_then(|text| String::from_utf8(text).ok()))
}

/// Removes the output from its folder.
///
/// # Errors
/// `Sink` if it cannot be removed.
pub(crate) fn discard(spec: &SinkSpec) -> Result<()> {
    if spec.delta.is_some() {
        let (storage, name) = beside(spec)?;
        return storage.remove_folder(&name);
    }
    let folder = staging_folder(spec)?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(&folder, error)),
        _ => Ok(()),
    }
}

/// Keeps other runs of this machine from the folder of an output.
#[derive(Debug)]
pub(crate) struct Held {
    storage: Arc<dyn Storage>,
    lock: Box<dyn Lock>,
    /// The table that the folder is in.
    table: Option<Arc<dyn Storage>>,
}

/// Locks the folder of an output until the push is done.
///
/// # Errors
/// `Resources` if another run holds it.
pub(crate) fn hold(spec: &SinkSpec) -> Result<Held> {
    let (storage, name) = beside(spec)?;
    let table = spec.delta.as_ref().map(|delta| storage_of(&delta.table)).transpose()?;
    let lock = storage.lock_of(&name)?;
    Ok(Held { storage, lock, table })
}

/// The folder of the folder of an output, and its name.
fn beside(spec: &SinkSpec) -> Result<(Arc<dyn Storage>, String)> {
    let name = spec.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(parent), Some(name)) = (spec.path.parent(), name) else {
        let message = format!("`{}` names no folder", spec.path.display());
        return Err(Error::new(ErrorKind::Internal, message));
    };
    Ok((storage_of(parent)?, name))
}

/// Moves the files of an output from its folder into its table, under their names there. A second call moves what is left.
///
/// # Errors
/// `Sink` if the storage fails.
pub(crate) fn move_to_table(spec: &SinkSpec, moves: &[(String, String)]) -> Result<()> {
    let (table, storage) = table_of(spec)?;
    let from = spec.path.strip_prefix(table).unwrap_or(&spec.path).to_string_lossy().into_owned();
    storage.publish(&from, moves)
}

/// Creates a version of the table of an output. Returns whether this call did: another process may have.
///
/// # Errors
/// `Sink` if the storage fails.
pub(crate) fn create_version(spec: &SinkSpec, name: &str, text: &str) -> Result<bool> {
    table_of(spec)?.1.create(name, text.as_bytes())
}

fn table_of(spec: &SinkSpec) -> Result<(&Path, Arc<dyn Storage>)> {
    let table = spec.delta.as_ref().map(|delta| delta.table.as_path());
    let table = table.ok_or_else(|| Error::new(ErrorKind::Internal, "the output is no table"))?;
    Ok((table, storage_of(table)?))
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lock.release();
        self.storage.prune();
        // A dead run may have created them.
        for folder in ["_hfauto/delta", "_hfauto"] {
            self.table.iter().for_each(|table| table.remove_if_empty(folder));
        }
    }
}
