//! Writes rows to files, which are published atomically: all of them or none. The entry is [`Sink::create`];
//! [`Sink::check`] reports the same refusals before any work is done. All calls block. Not here: the meaning of the rows
//! and the contents of the lineage.
//!
//! - **A folder**, local or below a URL (module `storage`), gets parts `part-00000.parquet` and so on, each of about
//!   `target_file_size_bytes`; then `_hfauto/MANIFEST.json` and, last, `_SUCCESS`. The module `commit` describes the state
//!   after a crash at each step.
//! - **A single file**, if the path ends in the format's extension, is written under a hidden name beside its path and
//!   renamed. It is not split. If its job has several units, the module `joined` stages them.
//! - **`partition_by`** creates hive folders; the columns are in the folder names and not in the files. Rows of a folder
//!   keep their order. At most [`MAX_OPEN_FILES`] files are open: beyond that, the least recently used one is closed, and
//!   its folder continues with the next part. Without rows, there are no folders and no files.
//! - **An existing output** is an error, unless it may be overwritten. Then the files of the earlier manifest are
//!   replaced once the new ones are complete; a folder with any other file is refused.
//!
//! # Units
//! A job in units (module `units`) stages each unit durably; `commit` publishes all of them at the end: a plan, renames,
//! removals, MANIFEST, `_SUCCESS`. Each step is idempotent. Manifests of units are read one by one, and the MANIFEST, with
//! one file per line, is read as a stream (`manifest`). Reading the state of an output therefore takes constant memory;
//! publishing it takes a few hundred bytes per unit. The manifests stay: a later run that is incremental does not compute a
//! unit with the same id again. The module `adopt` finds the units of outputs without manifests,
//! and `compact` puts small parts together.
//!
//! In an object store (`storage`), a put is atomic, and a move is a copy and a delete. The lock is an object with a lease.
//! Runs take it by conditional puts; its entity tag is the fencing token, which is checked before each commit of a unit or
//! of the output. Shards share the lock; the last one to finish takes it exclusively, and publishes if every unit exists.
//!
//! The kill tests (`crate::failpoint`) kill the process at every step of this protocol.

mod adopt;
mod attempts;
mod claims;
mod commit;
mod compact;
mod dead_letter;
mod disk;
mod encode;
mod joined;
mod manifest;
mod outlook;
mod partition;
mod records;
mod results;
mod staged;
mod state;
mod storage;
mod target;
mod types;
mod unit;
mod units;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, SchemaRef};
use serde_json::{Map, Value, json};

use self::adopt::OnlyUnit;
pub use self::attempts::MAX_ATTEMPTS;
pub(crate) use self::claims::Claim;
use self::commit::Run;
pub use self::compact::{Compacted, compact};
pub(crate) use self::dead_letter::{check_letters, publish_letters, write_letters};
use self::disk::{Disk, Gauge, LocalDisk, OutFile, sync_folder, write_error};
use self::encode::{Boxed, Encoder, Encoding, schema_json};
pub use self::encode::{check_text, nested_as_text};
use self::manifest::Manifest;
use self::partition::Partitioner;
pub use self::records::RowErrorCounts;
pub(crate) use self::results::{Kept, KeptWriter, Place, ResultFolder, RowKey};
pub(crate) use self::staged::{
    Held, JOB, MANIFEST, Published, create_version, discard, hold, is_staged, keep_card, kept_card,
    move_to_table, nonce, published, staging_folder,
};
pub use self::state::OutputState;
pub(crate) use self::state::{is_remote, keep_report, kept_report};
pub use self::storage::Shard;
use self::storage::{Hold, Lock, Storage};
use self::target::Target;
pub(crate) use self::target::staging_of;
pub use self::unit::{Committed, Done, Finished, Sharing, UnitKey, UnitMode, UnitStatus, Vanished};
pub use self::units::UnitOutput;
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

/// Files that a partitioned sink keeps open.
pub const MAX_OPEN_FILES: usize = 64;

/// The rows to encode between two checks of a file's size.
const ROWS_PER_SLICE: usize = 1024;

/// The most bytes that all open files buffer together.
const BUFFERED_BYTES: usize = 256 << 20;

/// The caller's options.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// Key-values for the footers and the manifest: `hfauto.*`.
    pub lineage: Vec<(String, String)>,
    /// The columns that models computed: no dictionary and no statistics in Parquet.
    pub model_columns: Vec<String>,
    /// Whether to replace the files of an earlier run.
    pub overwrite: bool,
}

/// The files that a run wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The files, sorted by path.
    pub files: Vec<WrittenFile>,
    /// The rows of all files.
    pub rows: u64,
    /// The bytes of all files.
    pub bytes: u64,
}

/// A file that a run wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its path.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its BLAKE3 hash, in hex.
    pub blake3: String,
}

/// An output in progress. If it is dropped without [`Sink::finish`], it leaves nothing behind.
pub struct Sink {
    target: Target,
    location: String,
    target_file_size_bytes: u64,
    partition_by: Vec<String>,
    /// The columns of batches, partition columns included.
    schema: SchemaRef,
    encoding: Encoding,
    partitioner: Option<Partitioner>,
    lineage: Vec<(String, String)>,
    disk: Box<dyn Disk>,
    /// `None` once there is nothing left to discard.
    staging: Option<Staging>,
    /// The open files, the least recently used first.
    open: Vec<Part>,
    closed: Vec<WrittenPart>,
    /// The next part number of each folder.
    next_part: BTreeMap<String, u32>,
    /// The stem of a unit's part files.
    stem: Option<String>,
    /// The unit that the whole output is, for a later incremental run.
    unit: Option<OnlyUnit>,
}

/// The place of files until they are published.
enum Staging {
    File {
        temporary: PathBuf,
        storage: Arc<dyn Storage>,
        lock: Box<dyn Lock>,
        overwrite: bool,
    },
    /// A single object: its local file is uploaded at the end.
    Object {
        temporary: PathBuf,
        overwrite: bool,
        /// `None` if the caller holds the lock of the output that it belongs to.
        lock: Option<Box<dyn Lock>>,
    },
    Folder {
        run: Run,
        replaced: Vec<String>,
    },
    /// A unit of an output: [`UnitOutput`] commits its parts.
    Unit {
        dir: PathBuf,
    },
}

/// An open file.
struct Part {
    folder: String,
    /// The name relative to the output folder; the path of a single file.
    name: String,
    encoder: Encoder,
    gauge: Gauge,
    rows: u64,
}

/// A part of an output, as recorded in manifests.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct WrittenPart {
    #[serde(rename = "path")]
    name: String,
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    blake3: String,
    /// The rows that belong to the unit whose manifest names the part, if they are not all; first and end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<(u64, u64)>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Sink {
    /// Fails if [`Sink::create`] would fail because of the state of the disk or a contradiction in the pipeline. Ignores an
    /// output in units, which [`UnitOutput::open`] checks. Leaves nothing on the disk.
    ///
    /// # Errors
    /// - `Sink`: the output exists, or cannot be written.
    /// - `Config`: format, compression, path and partitions contradict each other.
    pub fn check(spec: &SinkSpec, overwrite: bool) -> Result<()> {
        let target = Target::of(spec)?;
        let check = || {
            let is_of_units = !target.is_file() && commit::is_of_units(target.storage.as_ref())?;
            // One that is not pushed yet is pushed, or made again.
            target.replaced(overwrite || is_of_units || is_staged(spec))?;
            target.storage.check_writable(&target.part(""))
        };
        check().map_err(|error: Error| error.at(&spec.location))
    }

    /// Fails if [`Sink::create`] would fail for the columns. Inspects types only.
    ///
    /// # Errors
    /// `Config` when the format cannot hold a column, or a column cannot partition folders.
    pub fn check_columns(spec: &SinkSpec, schema: SchemaRef) -> Result<()> {
        let target = Target::of(spec)?;
        let sink =
            Self::unstaged(target, spec, schema, SinkOptions::default(), Box::new(LocalDisk));
        sink.map(drop).map_err(|error| error.at(&spec.location))
    }

    /// Fails if the format cannot hold a column.
    ///
    /// # Errors
    /// `Config`.
    pub fn check_column(spec: &SinkSpec, field: &FieldRef) -> Result<()> {
        let target = Target::of(spec)?;
        types::stored(target.format, field).map(drop).map_err(|error| error.at(&spec.location))
    }

    /// Whether the output is a single file rather than a folder.
    pub fn is_file(spec: &SinkSpec) -> bool {
        Target::of(spec).is_ok_and(|target| target.is_file())
    }

    /// Starts an output for batches with `schema`.
    ///
    /// # Errors
    /// Like [`Sink::check`]; also `Config` if the format cannot hold a column, and `Resources` if another run holds the
    /// output.
    pub fn create(spec: &SinkSpec, schema: SchemaRef, options: SinkOptions) -> Result<Self> {
        Self::create_on(spec, schema, options, Box::new(LocalDisk))
    }

    /// Like [`Sink::create`], for a file of an output whose lock the caller holds.
    pub(crate) fn create_held(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
    ) -> Result<Self> {
        Self::prepare(spec, schema, options, Box::new(LocalDisk), false)
            .map_err(|error| error.at(&spec.location))
    }

    fn create_on(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        disk: Box<dyn Disk>,
    ) -> Result<Self> {
        Self::prepare(spec, schema, options, disk, true).map_err(|error| error.at(&spec.location))
    }

    fn prepare(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        disk: Box<dyn Disk>,
        locks: bool,
    ) -> Result<Self> {
        let target = Target::of(spec)?;
        let overwrite = options.overwrite;
        let mut sink = Self::unstaged(target.clone(), spec, schema, options, disk)?;
        target.replaced(overwrite)?;
        let staging = if let Some(file) = &target.file {
            if crate::store::is_url(&target.path.to_string_lossy()) {
                let temporary = target.storage.spool(file);
                let temporary = temporary.map_err(|error| write_error(&target.path, error))?;
                let lock = locks.then(|| target.storage.lock_of(file)).transpose()?;
                let staging = Staging::Object { temporary, overwrite, lock };
                // Checked again under the lock: the previous holder may have written the file.
                if let Err(error) = target.replaced(overwrite) {
                    staging.discard();
                    return Err(error);
                }
                staging
            } else {
                let staging = Staging::file(&target, file, overwrite)?;
                // Checked again under the lock, as above.
                if let Err(error) = target.replaced(overwrite) {
                    staging.discard();
                    return Err(error);
                }
                staging
            }
        } else {
            let run = Run::start(&target.storage, Hold::Alone)?;
            // Checked again under the lock, once an interrupted commit is finished.
            match target.replaced(overwrite) {
                Ok(replaced) => Staging::Folder { run, replaced },
                Err(error) => {
                    run.discard();
                    return Err(error);
                }
            }
        };
        sink.staging = Some(staging);
        if sink.partitioner.is_none() {
            sink.part("")?;
        }
        Ok(sink)
    }

    /// A sink without a staging place.
    fn unstaged(
        target: Target,
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        disk: Box<dyn Disk>,
    ) -> Result<Self> {
        let SinkOptions { lineage, model_columns, .. } = options;
        let partitioner = if spec.partition_by.is_empty() {
            None
        } else {
            Some(Partitioner::new(&spec.partition_by, &schema)?)
        };
        let file_schema = match &partitioner {
            None => schema.as_ref().clone(),
            Some(partitioner) => partitioner.file_schema(&schema).map_err(|error| {
                Error::new(ErrorKind::Internal, "cannot split the schema").source(error)
            })?,
        };
        let encoding = Encoding::new(
            target.format,
            target.compression,
            &file_schema,
            &lineage,
            &model_columns,
        )?;
        Ok(Self {
            target,
            location: spec.location.clone(),
            target_file_size_bytes: spec.target_file_size_bytes.max(1),
            partition_by: spec.partition_by.clone(),
            schema,
            encoding,
            partitioner,
            lineage,
            disk,
            staging: None,
            open: Vec::new(),
            closed: Vec::new(),
            next_part: BTreeMap::new(),
            stem: None,
            unit: None,
        })
    }

    /// Appends rows. An error discards the output.
    ///
    /// # Errors
    /// `Sink` when the disk is full or fails.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let result = self.write_rows(batch);
        result.map_err(|error| {
            self.discard();
            error.at(&self.location)
        })
    }

    fn write_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        // Names and metadata inside nested types may differ; `Encoding::prepare` unifies them.
        let fits = batch.num_columns() == self.schema.fields().len()
            && batch
                .columns()
                .iter()
                .zip(self.schema.fields())
                .all(|(column, field)| column.data_type().equals_datatype(field.data_type()));
        if self.staging.is_none() || !fits {
            return Err(Error::new(
                ErrorKind::Internal,
                "rows were given to a sink that is closed or has other columns",
            ));
        }
        let split = match &self.partitioner {
            None => Ok(vec![(String::new(), batch.clone())]),
            Some(partitioner) => partitioner.split(batch),
        };
        for (folder, rows) in split? {
            let rows = self.encoding.prepare(&rows)?;
            for start in (0..rows.num_rows()).step_by(ROWS_PER_SLICE) {
                let length = ROWS_PER_SLICE.min(rows.num_rows() - start);
                self.write_slice(&folder, &rows.slice(start, length))?;
            }
        }
        Ok(())
    }

    fn write_slice(&mut self, folder: &str, rows: &RecordBatch) -> Result<()> {
        let index = self.part(folder)?;
        let part = &mut self.open[index];
        let result = part.encoder.write(rows);
        part.rows += rows.num_rows() as u64;
        let size = part.gauge.bytes() + part.encoder.buffered_bytes() as u64;
        if let Err(error) = result {
            let (name, gauge) = (part.name.clone(), part.gauge.clone());
            return Err(self.encode_error(&name, Some(&gauge), error));
        }
        if size >= self.target_file_size_bytes && !self.target.is_file() {
            let part = self.open.remove(index);
            self.close(part)?;
        }
        let buffered: usize = self.open.iter().map(|part| part.encoder.memory_bytes()).sum();
        if buffered > BUFFERED_BYTES
            && let Some(largest) = self.open.iter_mut().max_by_key(|p| p.encoder.memory_bytes())
            && let Err(error) = largest.encoder.release()
        {
            let (name, gauge) = (largest.name.clone(), largest.gauge.clone());
            return Err(self.encode_error(&name, Some(&gauge), error));
        }
        Ok(())
    }

    /// The index of the folder's open file, which becomes the last one.
    fn part(&mut self, folder: &str) -> Result<usize> {
        if let Some(index) = self.open.iter().position(|part| part.folder == folder) {
            let part = self.open.remove(index);
            self.open.push(part);
            return Ok(self.open.len() - 1);
        }
        if self.open.len() >= MAX_OPEN_FILES {
            let part = self.open.remove(0);
            self.close(part)?;
        }
        let number = self.next_part.entry(folder.to_owned()).or_default();
        let slash = if folder.is_empty() { "" } else { "/" };
        let extension = self.target.extension();
        let name = match (&self.stem, *number) {
            (None, number) => format!("{folder}{slash}part-{number:05}.{extension}"),
            (Some(stem), 0) => format!("{folder}{slash}part-{stem}.{extension}"),
            (Some(stem), number) => format!("{folder}{slash}part-{stem}-{number}.{extension}"),
        };
        *number += 1;
        let path = match &self.staging {
            Some(Staging::File { temporary, .. } | Staging::Object { temporary, .. }) => {
                Ok(temporary.clone())
            }
            Some(Staging::Folder { run, .. }) => run.part(&name),
            Some(Staging::Unit { dir }) => place(dir, &name),
            None => Err(std::io::Error::other("the sink is closed")),
        };
        let opened = path.and_then(|path| OutFile::create(self.disk.as_ref(), &path));
        let (file, gauge) = opened.map_err(|error| write_error(&self.target.path, error))?;
        let encoder = self
            .encoding
            .start(file)
            .map_err(|error| self.encode_error(&name, Some(&gauge), error))?;
        self.open.push(Part { folder: folder.to_owned(), name, encoder, gauge, rows: 0 });
        Ok(self.open.len() - 1)
    }

    fn close(&mut self, part: Part) -> Result<()> {
        let Part { name, encoder, gauge, rows, .. } = part;
        let closed = encoder.finish().and_then(|file| Ok(file.close()?));
        match closed {
            Ok(blake3) => {
                let bytes = gauge.bytes();
                self.closed.push(WrittenPart { name, rows, bytes, blake3, within: None });
                Ok(())
            }
            Err(error) => Err(self.encode_error(&name, Some(&gauge), error)),
        }
    }

    /// The error for a failed encoding: the disk's, if it has one; otherwise our own.
    fn encode_error(&self, name: &str, gauge: Option<&Gauge>, error: Boxed) -> Error {
        let path = self.target.part(name);
        if let Some(fault) = gauge.and_then(Gauge::take_fault) {
            return write_error(&path, fault);
        }
        match error.downcast::<std::io::Error>() {
            Ok(fault) => write_error(&path, *fault),
            Err(error) => Error::new(
                ErrorKind::Internal,
                format!("cannot encode rows for `{}`", path.display()),
            )
            .source(error),
        }
    }

    /// Publishes the output: the files, the manifest, then `_SUCCESS`.
    ///
    /// # Errors
    /// `Sink` if the disk fails; nothing is published then.
    pub fn finish(mut self) -> Result<Written> {
        let result = self.publish();
        result.map_err(|error| {
            self.discard();
            error.at(&self.location)
        })
    }

    /// Like [`Sink::finish`], for the rows of one unit with these errors: an incremental run then knows it.
    ///
    /// # Errors
    /// As [`Sink::finish`].
    pub fn finish_unit(mut self, unit: &UnitKey, errors: RowErrorCounts) -> Result<Written> {
        self.unit = Some(OnlyUnit::new(unit, errors));
        self.finish()
    }

    /// Closes all files and makes them durable.
    fn close_all(&mut self) -> Result<()> {
        for part in std::mem::take(&mut self.open) {
            self.close(part)?;
        }
        self.closed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    fn publish(&mut self) -> Result<Written> {
        self.close_all()?;
        let rows = self.closed.iter().map(|part| part.rows).sum();
        let bytes = self.closed.iter().map(|part| part.bytes).sum();
        match self.staging.take() {
            Some(staging @ (Staging::File { .. } | Staging::Object { .. })) => {
                let renamed = staging.rename(&self.target);
                if renamed.is_err() {
                    staging.discard();
                }
                renamed?;
            }
            Some(Staging::Folder { run, replaced }) => {
                let mut head = self.manifest_head(rows, bytes);
                head.extend(self.unit.take().map(|unit| (adopt::UNIT.to_owned(), json!(unit))));
                run.commit(Manifest { head, files: self.closed.clone() }, replaced)?;
            }
            Some(Staging::Unit { .. }) | None => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the sink was finished after an error",
                ));
            }
        }
        let files = self.closed.drain(..).map(|part| WrittenFile {
            path: self.target.part(&part.name),
            rows: part.rows,
            bytes: part.bytes,
            blake3: part.blake3,
        });
        Ok(Written { files: files.collect(), rows, bytes })
    }

    /// The manifest of an output without its files.
    fn manifest_head(&self, rows: u64, bytes: u64) -> Map<String, Value> {
        let lineage: Map<_, _> =
            self.lineage.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let head = [
            ("version", json!(1)),
            ("format", json!(self.target.format.name())),
            ("rows", json!(rows)),
            ("bytes", json!(bytes)),
            ("partition_by", json!(self.partition_by)),
            ("schema", schema_json(self.encoding.schema())),
            ("lineage", json!(lineage)),
        ];
        head.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Discards the output, as dropping it does.
    pub fn abort(mut self) {
        self.discard();
    }

    fn discard(&mut self) {
        self.open.clear();
        if let Some(staging) = self.staging.take() {
            staging.discard();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.discard();
    }
}

impl Staging {
    /// A hidden temporary file beside the output. Its fixed name lets the next run remove the file of a killed run.
    fn file(target: &Target, name: &str, overwrite: bool) -> Result<Self> {
        let path = &target.path;
        let temporary = path.with_file_name(format!(".{name}.hfauto-tmp"));
        let storage = Arc::clone(&target.storage);
        let lock = storage.lock_of(name)?;
        Ok(Self::File { temporary, storage, lock, overwrite })
    }

    /// Renames the file to its final name.
    fn rename(&self, target: &Target) -> Result<()> {
        let (Self::File { temporary, overwrite, .. } | Self::Object { temporary, overwrite, .. }) =
            self
        else {
            return Ok(());
        };
        // Another process may have created the file in the meantime.
        target.replaced(*overwrite)?;
        if let (Self::Object { lock, .. }, Some(file)) = (self, &target.file) {
            failpoint("publish.begun");
            if let Some(lock) = lock {
                lock.check()?;
            }
            target.storage.keep(&[(temporary.clone(), file.clone())])?;
            if let Some(lock) = lock {
                lock.release();
            }
            return Ok(());
        }
        fs::rename(temporary, &target.path).map_err(|error| write_error(&target.path, error))?;
        if let Self::File { lock, .. } = self {
            lock.release();
        }
        match target.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
            _ => sync_folder(Path::new(".")),
        }
    }

    fn discard(&self) {
        match self {
            Self::File { temporary, storage, lock, .. } => {
                let _ = fs::remove_file(temporary);
                lock.release();
                storage.prune();
            }
            Self::Object { temporary, lock, .. } => {
                let _ = fs::remove_file(temporary);
                if let Some(lock) = lock {
                    lock.release();
                }
            }
            Self::Folder { run, .. } => run.discard(),
            Self::Unit { dir } => {
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
}

/// The path of `relative` in a local folder; creates its parent folders.
fn place(folder: &Path, relative: &str) -> std::io::Result<PathBuf> {
    let path = folder.join(relative);
    if let Some(parent) = path.parent() {
        storage::create_folders(parent)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
