//! An output that is made in units, each durable once it is done, all published together. A run that dies
//! loses the units that it was on: the next one takes up what is staged. Who waits for `_SUCCESS` sees the
//! output before or the output after.
//!
//! ```text
//! out/_hfauto/tmp/run-x/units/<unit>/…   parts while they are written
//! out/_hfauto/staged/part-00007-….parquet  renamed from there once fsynced
//! out/_hfauto/units/<unit>.json          then its manifest: the unit is done
//! ```
//!
//! What no manifest names is removed by the next run. Publishing is that of the module `commit`. Not here: what
//! a unit is (`crate::source`, `crate::engine`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::commit::{self, META, Run, STAGED, UNITS, remove_folder};
use super::disk::{LocalDisk, remove_file, sync_folder, write_error};
use super::state::{STARTED, Started};
use super::target::{self, Target};
use super::{Sink, SinkOptions, Staging, Written, WrittenFile, WrittenPart};
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

/// The version of unit manifests that this program writes and reads.
const VERSION: u32 = 1;

/// A unit, as its manifest and its files name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitKey {
    /// A hash of all that its rows depend on, in hex.
    pub id: String,
    /// Its place among the units of the job; part files sort by it.
    pub sequence: usize,
    /// The input file.
    pub input: String,
    /// The file as it is: its size and time.
    pub file: String,
    /// A hash of what all units depend on: models, options, SQL.
    pub plan: String,
}

/// What a run would do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitStatus {
    /// It is done: nothing.
    Done,
    /// Compute it: no run has.
    New,
    /// Compute it again: the file is another.
    FileChanged,
    /// Compute it again: a model, an option or the SQL is another.
    PlanChanged,
}

impl UnitKey {
    /// What the unit's files are called: they sort by its place, and differ where its id does.
    pub fn stem(&self) -> String {
        format!("{:05}-{}", self.sequence, self.short())
    }

    /// The part of the id that is in the names of files.
    pub fn short(&self) -> &str {
        short(&self.id)
    }
}

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

/// A unit that was done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its rows in the output.
    pub rows: u64,
    /// Its rows that failed.
    pub errors: RowErrorCounts,
}

/// What is done with an output that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitMode {
    /// An output that another job published is refused, unless it may be overwritten; a run that was cut
    /// off is gone on with, and one that has published all is done.
    Resume,
    /// Units that are new or have changed are computed, the others stay.
    Incremental {
        /// Whether rows of inputs that are no longer there are removed.
        prune: bool,
    },
}

/// The manifest of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    unit: String,
    input: String,
    file: String,
    plan: String,
    rows: u64,
    errors: RowErrorCounts,
    files: Vec<WrittenPart>,
}

/// Inputs of an output that are no longer there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Their paths.
    pub inputs: Vec<String>,
    /// Whether their rows were removed.
    pub removed: bool,
}

/// An output in the making.
pub struct UnitOutput {
    spec: SinkSpec,
    schema: SchemaRef,
    options: SinkOptions,
    mode: UnitMode,
    root: PathBuf,
    run: Run,
    /// The units that are done, by id.
    records: BTreeMap<String, Record>,
    /// The files of the output that is there.
    published: Vec<String>,
    /// What tells this job from others: its units.
    job: String,
    /// The rows of the output, when this job has published it already.
    complete: Option<u64>,
    is_finished: bool,
}

impl UnitOutput {
    /// Locks the output and takes up what earlier runs have done.
    ///
    /// # Errors
    /// - `Sink`: the output exists and may not be replaced, or cannot be written or read.
    /// - `Config`: as [`Sink::check`].
    /// - `Resources`: another run is writing it.
    pub fn open(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        mode: UnitMode,
        units: &[UnitKey],
    ) -> Result<Self> {
        Self::start(spec, schema, options, mode, units).map_err(|error| error.at(&spec.location))
    }

    fn start(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        mode: UnitMode,
        units: &[UnitKey],
    ) -> Result<Self> {
        let target = Target::of(spec)?;
        let root = target.path.clone();
        let may_replace = options.overwrite || matches!(mode, UnitMode::Incremental { .. });
        target.replaced(may_replace || commit::is_of_units(&root))?;
        let job = job_of(units);
        let run = Run::start(&root)?;
        let mut complete = None;
        let opened = (|| {
            // Looked at again under the lock, after a commit cut short has been finished.
            if !may_replace && commit::job(&root)?.as_deref() == Some(&job) {
                complete = Some(commit::rows(&root)?);
                return Ok((Vec::new(), BTreeMap::new()));
            }
            let published = target.replaced(may_replace)?;
            let meta = root.join(META);
            if options.overwrite {
                remove_folder(&meta.join(UNITS))?;
                remove_folder(&meta.join(STAGED))?;
            }
            let records = records(&root)?;
            if mode == (UnitMode::Incremental { prune: false }) {
                refuse_foreign(&records, units)?;
            }
            let current = units.iter().filter(|unit| records.contains_key(&unit.id)).count();
            let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let (units, pid) = (units.len(), std::process::id());
            let rows = records.values().map(|record| record.rows).sum();
            let others = records.len() - current;
            let started = json!(Started { at, units, done: current, pid, others, rows });
            run.say(STARTED, &started)?;
            if !options.overwrite && !published.is_empty() && records.is_empty() {
                return Err(Error::new(
                    ErrorKind::Sink,
                    format!("the output `{}` was not written in units", root.display()),
                )
                .hint("`--fresh` computes it once more; later runs are then incremental"));
            }
            Ok((published, records))
        })();
        let (published, records) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                run.discard();
                return Err(error);
            }
        };
        Ok(Self {
            spec: spec.clone(),
            schema,
            options,
            mode,
            root,
            run,
            records,
            published,
            job,
            complete,
            is_finished: false,
        })
    }

    /// What a run would do with each unit. Nothing is locked or changed.
    ///
    /// # Errors
    /// `Sink` when the output cannot be read.
    pub fn status(spec: &SinkSpec, units: &[UnitKey]) -> Result<Vec<UnitStatus>> {
        let root = Target::of(spec)?.path;
        if commit::job(&root)? == Some(job_of(units)) {
            return Ok(vec![UnitStatus::Done; units.len()]);
        }
        let folder = root.join(META).join(UNITS);
        let mut records = Vec::new();
        for name in target::files_of(&folder)? {
            records.extend(read(&folder.join(name))?);
        }
        let done: BTreeSet<&str> = records.iter().map(|record| record.unit.as_str()).collect();
        let by_input: BTreeMap<&str, &Record> =
            records.iter().map(|record| (record.input.as_str(), record)).collect();
        let status = |unit: &UnitKey| {
            if done.contains(unit.id.as_str()) {
                return UnitStatus::Done;
            }
            match by_input.get(unit.input.as_str()) {
                Some(record) if record.file != unit.file => UnitStatus::FileChanged,
                Some(record) if record.plan != unit.plan => UnitStatus::PlanChanged,
                _ => UnitStatus::New,
            }
        };
        Ok(units.iter().map(status).collect())
    }

    /// Whether a run without `overwrite` would take up what this one has done.
    pub fn can_go_on(&self) -> bool {
        self.mode != UnitMode::Resume || self.published.is_empty()
    }

    /// The rows of the output, when this job has published it already: there is nothing to do.
    pub fn complete(&self) -> Option<u64> {
        self.complete
    }

    /// A unit, if it is done.
    pub fn done(&self, id: &str) -> Option<Done> {
        let record = self.records.get(id)?;
        Some(Done { rows: record.rows, errors: record.errors })
    }

    /// A sink for the rows of a unit; [`UnitOutput::commit`] makes them durable.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn sink(&self, unit: &UnitKey) -> Result<Sink> {
        let (schema, options) = (SchemaRef::clone(&self.schema), self.options.clone());
        let create = || {
            let mut sink = Sink::unstaged(&self.spec, schema, options, Box::new(LocalDisk))?;
            sink.staging = Some(Staging::Unit { dir: self.run.unit(&unit.id) });
            sink.stem = Some(unit.stem());
            // One file has the columns, also when no unit has rows.
            if unit.sequence == 0 && sink.partitioner.is_none() {
                sink.part("")?;
            }
            Ok(sink)
        };
        create().map_err(|error: Error| error.at(&self.spec.location))
    }

    /// Makes the rows of a unit durable: after this, no run computes them again. What is returned,
    /// [`UnitOutput::add`] takes.
    ///
    /// # Errors
    /// `Sink` when the disk is full or fails.
    pub fn commit(&self, unit: &UnitKey, sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        self.stage(unit, sink, errors).map_err(|error| error.at(&self.spec.location))
    }

    fn stage(&self, unit: &UnitKey, mut sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        sink.close_all()?;
        failpoint("unit.written");
        let Some(Staging::Unit { dir }) = &sink.staging else {
            return Err(Error::new(ErrorKind::Internal, "the sink of a unit is closed"));
        };
        let staged = self.root.join(META).join(STAGED);
        let mut folders = BTreeSet::from([staged.clone()]);
        fs::create_dir_all(&staged).map_err(|error| write_error(&staged, error))?;
        for part in &sink.closed {
            let to = commit::place(&staged, &part.name).map_err(|e| write_error(&staged, e))?;
            fs::rename(dir.join(&part.name), &to).map_err(|error| write_error(&to, error))?;
            let parents = to.ancestors().skip(1).take_while(|folder| folder.starts_with(&staged));
            folders.extend(parents.map(Path::to_owned));
        }
        failpoint("unit.renamed");
        for folder in folders.iter().rev() {
            sync_folder(folder)?;
        }
        failpoint("unit.synced");
        let record = Record {
            version: VERSION,
            unit: unit.id.clone(),
            input: unit.input.clone(),
            file: unit.file.clone(),
            plan: unit.plan.clone(),
            rows: sink.closed.iter().map(|part| part.rows).sum(),
            errors,
            files: std::mem::take(&mut sink.closed),
        };
        let units = self.root.join(META).join(UNITS);
        fs::create_dir_all(&units).map_err(|error| write_error(&units, error))?;
        let content = serde_json::to_value(&record).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write the manifest of a unit").source(error)
        })?;
        failpoint("unit.manifest");
        let path = units.join(format!("{}.json", record.unit));
        commit::write_atomically(&path, &content, &self.root)?;
        failpoint("unit.committed");
        Ok(Committed(record))
    }

    /// Counts a unit that was committed.
    pub fn add(&mut self, committed: Committed) {
        self.records.insert(committed.0.unit.clone(), committed.0);
    }

    /// Publishes the output of all `units`, which are done. Returns the beginnings of the ids of the units
    /// that are in it, too.
    ///
    /// # Errors
    /// `Sink` when the disk fails; the next run then goes on from here.
    pub fn finish(mut self, units: &[UnitKey]) -> Result<(Written, Vanished, BTreeSet<String>)> {
        self.is_finished = true;
        self.publish(units).map_err(|error| error.at(&self.spec.location))
    }

    fn publish(&self, units: &[UnitKey]) -> Result<(Written, Vanished, BTreeSet<String>)> {
        let current: BTreeSet<&str> = units.iter().map(|unit| unit.id.as_str()).collect();
        let inputs: BTreeSet<&str> = units.iter().map(|unit| unit.input.as_str()).collect();
        let prune = self.mode == UnitMode::Incremental { prune: true };
        let has_vanished = |record: &Record| !inputs.contains(record.input.as_str());
        let (kept, obsolete): (Vec<&Record>, Vec<&Record>) =
            self.records.values().partition(|record| {
                let stays = self.mode == UnitMode::Incremental { prune: false };
                current.contains(record.unit.as_str()) || stays && has_vanished(record)
            });
        let missing = units.iter().find(|unit| !self.records.contains_key(&unit.id));
        if let Some(unit) = missing {
            let message = format!("a unit of `{}` was not computed", unit.input);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let is_incremental = self.mode != UnitMode::Resume;
        let vanished =
            self.records.values().filter(|record| is_incremental && has_vanished(record));
        let vanished: BTreeSet<String> = vanished.map(|record| record.input.clone()).collect();
        let vanished = Vanished { inputs: vanished.into_iter().collect(), removed: prune };

        let mut parts: Vec<WrittenPart> =
            kept.iter().flat_map(|record| record.files.iter().cloned()).collect();
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        let rows = parts.iter().map(|part| part.rows).sum();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let is_published = commit::is_marked(&self.root)
            && self.published.iter().map(String::as_str).eq(names.iter().copied());
        let staged = target::files_of(&self.root.join(META).join(STAGED))?;
        if is_published && obsolete.is_empty() && staged.is_empty() {
            self.run.discard();
        } else {
            let (schema, options) = (SchemaRef::clone(&self.schema), self.options.clone());
            let sink = Sink::unstaged(&self.spec, schema, options, Box::new(LocalDisk))?;
            let mut manifest = sink.manifest_of(&parts, rows, bytes);
            manifest["job"] = Value::from(self.job.as_str());
            let obsolete: Vec<String> = obsolete.iter().map(|record| record.unit.clone()).collect();
            self.run.commit_staged(manifest, &self.published, &obsolete, is_incremental)?;
        }
        let files = parts.into_iter().map(|part| WrittenFile {
            path: self.root.join(part.name),
            rows: part.rows,
            bytes: part.bytes,
            blake3: part.blake3,
        });
        let kept = kept.iter().map(|record| short(&record.unit).to_owned()).collect();
        Ok((Written { files: files.collect(), rows, bytes }, vanished, kept))
    }
}

/// A unit that is durable.
pub struct Committed(Record);

impl Committed {
    /// Its rows that failed.
    pub fn errors(&self) -> RowErrorCounts {
        self.0.errors
    }
}

impl Drop for UnitOutput {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is staged stays.
            self.run.discard();
        }
    }
}

fn short(id: &str) -> &str {
    &id[..8]
}

/// What tells a job from others: its units.
fn job_of(units: &[UnitKey]) -> String {
    let mut hasher = blake3::Hasher::new();
    units.iter().for_each(|unit| {
        hasher.update(unit.id.as_bytes());
    });
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Refuses to keep rows of inputs that are gone beside rows that were made otherwise: they would not fit, and
/// cannot be made again.
fn refuse_foreign(records: &BTreeMap<String, Record>, units: &[UnitKey]) -> Result<()> {
    let Some(unit) = units.first() else { return Ok(()) };
    let inputs: BTreeSet<&str> = units.iter().map(|unit| unit.input.as_str()).collect();
    let is_foreign =
        |record: &&Record| record.plan != unit.plan && !inputs.contains(record.input.as_str());
    match records.values().find(is_foreign) {
        None => Ok(()),
        Some(record) => Err(Error::new(
            ErrorKind::Sink,
            format!(
                "`{}` is gone, and its rows were made with another model, option, SQL or column types",
                record.input
            ),
        )
        .hint("bring the file back, or remove its rows with `--prune`")),
    }
}

/// The units that are done: those whose manifest is whole and whose files are there. Everything else of
/// units is removed.
fn records(root: &Path) -> Result<BTreeMap<String, Record>> {
    let meta = root.join(META);
    let (units, staged) = (meta.join(UNITS), meta.join(STAGED));
    let mut records = BTreeMap::new();
    for name in target::files_of(&units)? {
        let path = units.join(&name);
        let record = match read(&path)? {
            Some(record) if has_files(&record, root, &staged) => record,
            _ => {
                tracing::warn!(manifest = %path.display(), "damaged: its unit is computed again");
                remove_file(&path)?;
                continue;
            }
        };
        records.insert(record.unit.clone(), record);
    }
    let named: BTreeSet<&str> = records
        .values()
        .flat_map(|record: &Record| record.files.iter().map(|part| part.name.as_str()))
        .collect();
    for name in target::files_of(&staged)? {
        if !named.contains(name.as_str()) {
            remove_file(&staged.join(name))?;
        }
    }
    Ok(records)
}

/// A manifest; `None` when it is cut off or is not the one of its name.
fn read(path: &Path) -> Result<Option<Record>> {
    let text = fs::read(path).map_err(|error| write_error(path, error))?;
    let Ok(value) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
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
    let is_named_so =
        path.file_name().is_some_and(|name| *name == *format!("{}.json", record.unit));
    let parts = record.files.iter().map(|part| part.name.clone().into()).collect();
    let stays_inside = commit::names(&Value::Array(parts), path).is_ok();
    Ok((is_named_so && stays_inside).then_some(record))
}

/// The rows of a unit, as its manifest has them.
pub(super) fn rows_of_manifest(path: &Path) -> u64 {
    read(path).ok().flatten().map_or(0, |record| record.rows)
}

fn has_files(record: &Record, root: &Path, staged: &Path) -> bool {
    record.files.iter().all(|part| {
        [staged, root].iter().any(|folder| {
            let found = fs::metadata(folder.join(&part.name));
            found.is_ok_and(|found| found.is_file() && found.len() == part.bytes)
        })
    })
}
