//! An output that is made in units, each durable once it is done, all published together. A run that dies loses the
//! units in progress; the next one resumes from what is staged. A consumer that waits for `_SUCCESS` sees the previous
//! output or the new one, never a mixture.
//!
//! ```text
//! out/_hfauto/tmp/run-x/units/<unit>/…   parts while they are written
//! out/_hfauto/staged/part-00007-….parquet  renamed from there once fsynced
//! out/_hfauto/units/<unit>.json          then its manifest: the unit is done
//! ```
//!
//! The manifest alone says that a unit is done. The next run removes whatever no manifest names. Publishing is that of
//! the module `commit`. Not here: what a unit is (`crate::source`, `crate::job`).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde_json::Value;

use super::commit::{self, Run, STAGED, UNITS};
use super::disk::{LocalDisk, write_error};
use super::manifest::{self, Manifest};
use super::records::{Kept, Record, Records, RowErrorCounts, VERSION, for_each_record, records};
use super::state::{STARTED, Started};
use super::storage::{Hold, Shard, Storage};
use super::target::Target;
use super::{Sink, SinkOptions, Staging, Written, WrittenFile, WrittenPart};
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

/// The time that a shard waits for a lock which another run may hold briefly, at its start and end.
const LOCK_TRIES: u32 = 12;
const LOCK_WAIT: Duration = Duration::from_millis(250);

/// A unit, as identified in its manifest and file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitKey {
    /// A hash of everything that its rows depend on, in hex.
    pub id: String,
    /// Its index among the units of the job; part files sort by it.
    pub sequence: usize,
    /// The input file.
    pub input: String,
    /// The size and modification time of the file.
    pub file: String,
    /// A hash of everything that all units depend on: models, options, SQL.
    pub plan: String,
}

/// The planned action for a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitStatus {
    /// Nothing: the unit is done.
    Done,
    /// Compute it for the first time.
    New,
    /// Compute it again, because the file has changed.
    FileChanged,
    /// Compute it again, because a model, an option or the SQL has changed.
    PlanChanged,
}

impl UnitKey {
    /// The stem of the unit's file names: sorts by its index, and is unique for its id.
    pub fn stem(&self) -> String {
        format!("{:05}-{}", self.sequence, self.short())
    }

    /// The prefix of the id that file names contain.
    pub fn short(&self) -> &str {
        short(&self.id)
    }
}

/// A unit that an earlier run completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its output rows.
    pub rows: u64,
    /// Its failed rows.
    pub errors: RowErrorCounts,
}

/// The treatment of an existing output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitMode {
    /// Continues an interrupted run of the same job, and finds nothing to do after a completed one. Refuses the
    /// output of another job, unless it may be overwritten.
    Resume,
    /// Computes new and changed units, and keeps the others.
    Incremental {
        /// Whether to remove the rows of inputs that no longer exist.
        prune: bool,
    },
}

/// Inputs of an output that no longer exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Their paths.
    pub inputs: Vec<String>,
    /// Whether their rows were removed.
    pub removed: bool,
}

/// An output that is being written.
pub struct UnitOutput {
    spec: SinkSpec,
    schema: SchemaRef,
    options: SinkOptions,
    mode: UnitMode,
    shard: Option<Shard>,
    target: Target,
    storage: Arc<dyn Storage>,
    run: Run,
    /// The units that are done.
    records: Records,
    /// The files of the existing output.
    published: Vec<String>,
    /// The identity of this job: a hash of its units.
    job: String,
    /// The rows of the output, if this job has already published it.
    complete: Option<u64>,
    is_finished: bool,
}

/// The result of a run that has computed all its units.
pub enum Finished {
    /// The output is published.
    Published {
        /// Its files.
        written: Written,
        /// Its inputs that no longer exist.
        vanished: Vanished,
        /// The id prefixes of its units.
        units: BTreeSet<String>,
    },
    /// Other shards still have units to compute; the last shard publishes.
    Left {
        /// The number of missing units.
        missing: usize,
    },
}

impl UnitOutput {
    /// Locks the output and loads what earlier runs have completed. With a `shard`, other processes may work on the
    /// same job at the same time.
    ///
    /// # Errors
    /// - `Sink`: the output exists and may not be replaced, or cannot be written or read.
    /// - `Config`: as [`Sink::check`].
    /// - `Resources`: another run is writing it.
    /// - `Usage`: overwriting was requested for a shard.
    pub fn open(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        mode: UnitMode,
        shard: Option<Shard>,
        units: &[UnitKey],
    ) -> Result<Self> {
        let open = || {
            if shard.is_some() && options.overwrite {
                let message = "a shard cannot overwrite: it would remove the units of others";
                return Err(Error::new(ErrorKind::Usage, message));
            }
            let target = Target::of(spec)?;
            let storage = Arc::clone(&target.storage);
            let may_replace = options.overwrite || matches!(mode, UnitMode::Incremental { .. });
            target.replaced(may_replace || commit::is_of_units(storage.as_ref())?)?;
            let run = match shard {
                Some(shard) => start_shard(&storage, shard)?,
                None => Run::start(&storage, Hold::Alone)?,
            };
            let mut output = Self {
                spec: spec.clone(),
                schema,
                options,
                mode,
                shard,
                target,
                storage,
                run,
                records: Records::default(),
                published: Vec::new(),
                job: job_of(units),
                complete: None,
                is_finished: false,
            };
            output.take_up(may_replace, units)?;
            Ok(output)
        };
        open().map_err(|error: Error| error.at(&spec.location))
    }

    /// Loads what earlier runs have completed, under the lock, and records what this run will do.
    fn take_up(&mut self, may_replace: bool, units: &[UnitKey]) -> Result<()> {
        let storage = self.storage.as_ref();
        // Read again under the lock, after a pending commit was completed.
        let published = commit::summary(storage)?.filter(|_| !may_replace);
        if let Some(published) = published.filter(|output| output.job.as_ref() == Some(&self.job)) {
            self.complete = Some(published.rows);
            return Ok(());
        }
        self.published = self.target.replaced(may_replace)?;
        if self.options.overwrite {
            storage.remove_folder(UNITS)?;
            storage.remove_folder(STAGED)?;
        }
        self.records = records(storage, self.shard.is_none())?;
        if self.mode == (UnitMode::Incremental { prune: false }) {
            refuse_foreign(&self.records, units)?;
        }
        let started = self.started(units);
        if self.shard.is_some() {
            refuse_other_jobs(storage, &started)?;
        }
        self.run.say(STARTED, &started)?;
        if !self.options.overwrite && !self.published.is_empty() && self.records.len() == 0 {
            let output = self.target.path.display();
            let message = format!("the output `{output}` was not written in units");
            return Err(Error::new(ErrorKind::Sink, message)
                .hint("`--fresh` computes it again; later runs are then incremental"));
        }
        Ok(())
    }

    fn started(&self, units: &[UnitKey]) -> Started {
        let is_own = |unit: &&UnitKey| self.shard.is_none_or(|shard| shard.has(unit.sequence));
        let own = units.iter().filter(is_own);
        let done = own.clone().filter(|unit| self.records.has(&unit.id)).count();
        Started {
            at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            units: own.count(),
            done,
            pid: std::process::id(),
            job: self.job.clone(),
            others: self.records.len() - done,
            rows: self.records.all().map(|record| record.rows).sum(),
        }
    }

    /// The planned action for each unit. Locks and changes nothing.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn status(spec: &SinkSpec, units: &[UnitKey]) -> Result<Vec<UnitStatus>> {
        let storage = Target::of(spec)?.storage;
        let published = commit::summary(storage.as_ref())?;
        if published.is_some_and(|published| published.job == Some(job_of(units))) {
            return Ok(vec![UnitStatus::Done; units.len()]);
        }
        // Holds one entry per unit and per input, but not the manifests: there may be many more of them.
        let ids: HashMap<&str, usize> =
            units.iter().enumerate().map(|(index, unit)| (unit.id.as_str(), index)).collect();
        let mut done = vec![false; units.len()];
        let mut seen: HashMap<&str, (&UnitKey, UnitStatus)> =
            units.iter().map(|unit| (unit.input.as_str(), (unit, UnitStatus::New))).collect();
        for_each_record(storage.as_ref(), &mut |_, record| {
            let Some(record) = record else { return Ok(()) };
            if let Some(index) = ids.get(record.unit.as_str()) {
                done[*index] = true;
            }
            if let Some((unit, status)) = seen.get_mut(record.input.as_str()) {
                *status = match *status {
                    // These units have another position in the file.
                    _ if record.file == unit.file && record.plan == unit.plan => UnitStatus::Done,
                    UnitStatus::Done => UnitStatus::Done,
                    _ if record.file == unit.file => UnitStatus::PlanChanged,
                    UnitStatus::New => UnitStatus::FileChanged,
                    other => other,
                };
            }
            Ok(())
        })?;
        let status = |(unit, is_done): (&UnitKey, bool)| {
            let of_input = seen.get(unit.input.as_str()).map(|(_, status)| *status);
            match of_input.filter(|status| *status != UnitStatus::Done) {
                _ if is_done => UnitStatus::Done,
                Some(status) => status,
                None => UnitStatus::New,
            }
        };
        Ok(units.iter().zip(done).map(status).collect())
    }

    /// Whether a run without `overwrite` would continue from this one.
    pub fn can_go_on(&self) -> bool {
        self.mode != UnitMode::Resume || self.published.is_empty()
    }

    /// The rows of the output, if this job has already published it and nothing is left to do.
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
        let create = || {
            let mut sink = self.unstaged()?;
            let dir = self.run.unit(&unit.id);
            let dir = dir.map_err(|error| write_error(&self.target.path, error))?;
            sink.staging = Some(Staging::Unit { dir });
            sink.stem = Some(unit.stem());
            // One file holds the columns even if no unit has rows.
            if unit.sequence == 0 && sink.partitioner.is_none() {
                sink.part("")?;
            }
            Ok(sink)
        };
        create().map_err(|error: Error| error.at(&self.spec.location))
    }

    /// A sink for rows of this output, without a folder for its files yet.
    fn unstaged(&self) -> Result<Sink> {
        let (target, schema) = (self.target.clone(), SchemaRef::clone(&self.schema));
        Sink::unstaged(target, &self.spec, schema, self.options.clone(), Box::new(LocalDisk))
    }

    /// Makes the rows of a unit durable: no later run computes them again. Pass the result to [`UnitOutput::add`].
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub fn commit(&self, unit: &UnitKey, sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        self.stage(unit, sink, errors).map_err(|error| error.at(&self.spec.location))
    }

    fn stage(&self, unit: &UnitKey, mut sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        sink.close_all()?;
        failpoint("unit.written");
        let Some(Staging::Unit { dir }) = &sink.staging else {
            return Err(Error::new(ErrorKind::Internal, "the sink of a unit is closed"));
        };
        let parts = sink.closed.iter();
        let parts = parts.map(|part| (dir.join(&part.name), format!("{STAGED}/{}", part.name)));
        self.storage.keep(&parts.collect::<Vec<_>>())?;
        let _ = fs::remove_dir_all(dir);
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
        failpoint("unit.manifest");
        self.run.check_lock()?;
        let name = format!("{UNITS}/{}.json", record.unit);
        manifest::put(self.storage.as_ref(), &name, &record)?;
        failpoint("unit.committed");
        Ok(Committed(record))
    }

    /// Counts a committed unit.
    pub fn add(&mut self, committed: Committed) {
        self.records.insert(committed.0);
    }

    /// Publishes the output once all `units` are done. A shard publishes only if it is the last one. `check` may
    /// reject the total of failed rows.
    ///
    /// # Errors
    /// `Sink` if the disk fails; the next run then continues from here. The error of `check`.
    pub fn finish(
        mut self,
        units: &[UnitKey],
        check: &dyn Fn(RowErrorCounts) -> Result<()>,
    ) -> Result<Finished> {
        self.is_finished = true;
        let mut finish = || {
            if self.shard.is_some()
                && let Some(missing) = self.take_over(units)?
            {
                return Ok(Finished::Left { missing });
            }
            let mut errors = RowErrorCounts::default();
            units
                .iter()
                .filter_map(|unit| self.done(&unit.id))
                .for_each(|done| errors.add(done.errors));
            if let Err(error) = check(errors) {
                self.run.discard();
                return Err(error);
            }
            self.publish(units)
        };
        let finished: Result<Finished> = finish();
        finished.map_err(|error| error.at(&self.spec.location))
    }

    /// Takes the exclusive lock once no other shard is active, and counts the units of all shards. Returns the number
    /// of missing units if this run cannot publish the output.
    fn take_over(&mut self, units: &[UnitKey]) -> Result<Option<usize>> {
        // Released before the exclusive lock is requested, so that of shards that end together the last one gets it.
        self.run.discard();
        let missing =
            |records: &Records| units.iter().filter(|unit| !records.has(&unit.id)).count();
        let mut tries = 0..LOCK_TRIES;
        self.run = loop {
            match Run::start(&self.storage, Hold::Alone) {
                Ok(run) => break run,
                Err(error) if error.kind() == ErrorKind::Resources => {}
                Err(error) => return Err(error),
            }
            if tries.next().is_none() {
                return Ok(Some(missing(&records(self.storage.as_ref(), false)?)));
            }
            std::thread::sleep(LOCK_WAIT);
        };
        self.read_again().inspect_err(|_| self.run.discard())?;
        let missing = missing(&self.records);
        if missing > 0 {
            self.run.discard();
            return Ok(Some(missing));
        }
        Ok(None)
    }

    /// Reloads what all shards have completed, under the lock.
    fn read_again(&mut self) -> Result<()> {
        let is_incremental = matches!(self.mode, UnitMode::Incremental { .. });
        let published = commit::summary(self.storage.as_ref())?;
        let is_ours = published.and_then(|published| published.job).as_ref() == Some(&self.job);
        self.published = self.target.replaced(is_incremental || is_ours)?;
        self.records = records(self.storage.as_ref(), true)?;
        Ok(())
    }

    fn publish(&mut self, units: &[UnitKey]) -> Result<Finished> {
        let missing = units.iter().find(|unit| !self.records.has(&unit.id));
        if let Some(unit) = missing {
            let message = format!("a unit of `{}` was not computed", unit.input);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let current: BTreeSet<&str> = units.iter().map(|unit| unit.id.as_str()).collect();
        let inputs: BTreeSet<&str> = units.iter().map(|unit| unit.input.as_str()).collect();
        let prune = self.mode == UnitMode::Incremental { prune: true };
        let is_incremental = self.mode != UnitMode::Resume;
        let (mut parts, mut kept, mut obsolete) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut vanished = BTreeSet::new();
        for (id, record) in std::mem::take(&mut self.records).into_all() {
            let has_vanished = !inputs.contains(&*record.input);
            if is_incremental && has_vanished && !vanished.contains(&*record.input) {
                vanished.insert(record.input.to_string());
            }
            let stays = self.mode == UnitMode::Incremental { prune: false };
            if current.contains(&*id) || stays && has_vanished {
                parts.extend(record.files);
                kept.insert(short(&id).to_owned());
            } else {
                obsolete.push(id.into_string());
            }
        }
        let vanished = Vanished { inputs: vanished.into_iter().collect(), removed: prune };

        parts.sort_by(|a: &WrittenPart, b| a.name.cmp(&b.name));
        let rows = parts.iter().map(|part| part.rows).sum();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let is_published = commit::is_marked(self.storage.as_ref())?
            && self.published.iter().eq(parts.iter().map(|part| &part.name));
        let staged = self.storage.files(STAGED)?;
        if is_published && obsolete.is_empty() && staged.is_empty() {
            self.run.discard();
        } else {
            let mut head = self.unstaged()?.manifest_head(rows, bytes);
            head.insert("job".to_owned(), Value::from(self.job.as_str()));
            let manifest = Manifest { head, files: parts };
            let published = std::mem::take(&mut self.published);
            let manifest = self.run.commit_staged(manifest, published, obsolete, is_incremental)?;
            parts = manifest.files;
        }
        let files = parts.into_iter().map(|part| WrittenFile {
            path: self.storage.shown(&part.name),
            rows: part.rows,
            bytes: part.bytes,
            blake3: part.blake3,
        });
        let written = Written { files: files.collect(), rows, bytes };
        Ok(Finished::Published { written, vanished, units: kept })
    }
}

/// A durable unit.
pub struct Committed(Record);

impl Committed {
    /// Its failed rows.
    pub fn errors(&self) -> RowErrorCounts {
        self.0.errors
    }
}

impl Drop for UnitOutput {
    fn drop(&mut self) {
        if !self.is_finished {
            // Staged files stay.
            self.run.discard();
        }
    }
}

/// Locks the output together with other shards. The first one cleans up after crashed runs.
fn start_shard(storage: &Arc<dyn Storage>, shard: Shard) -> Result<Run> {
    match Run::start(storage, Hold::Alone) {
        Ok(run) => {
            let cleaned = records(storage.as_ref(), true);
            run.discard();
            cleaned?;
        }
        Err(error) if error.kind() == ErrorKind::Resources => {}
        Err(error) => return Err(error),
    }
    let mut tries = 0..LOCK_TRIES;
    loop {
        match Run::start(storage, Hold::Shard(shard)) {
            // Another shard may be cleaning up.
            Err(error) if error.kind() == ErrorKind::Resources && tries.next().is_some() => {
                std::thread::sleep(LOCK_WAIT);
            }
            started => return started,
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// The identity of a job: a hash of its units.
fn job_of(units: &[UnitKey]) -> String {
    let mut hasher = blake3::Hasher::new();
    units.iter().for_each(|unit| {
        hasher.update(unit.id.as_bytes());
    });
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Refuses to keep rows of missing inputs beside rows that were computed differently: they would be inconsistent, and
/// cannot be computed again.
fn refuse_foreign(records: &Records, units: &[UnitKey]) -> Result<()> {
    let Some(unit) = units.first() else { return Ok(()) };
    let inputs: BTreeSet<&str> = units.iter().map(|unit| unit.input.as_str()).collect();
    let is_foreign =
        |record: &&Kept| *record.plan != *unit.plan && !inputs.contains(&*record.input);
    match records.all().find(is_foreign) {
        None => Ok(()),
        Some(record) => Err(Error::new(
            ErrorKind::Sink,
            format!(
                "`{}` no longer exists, and its rows were computed with another model, option, SQL or column type",
                record.input
            ),
        )
        .hint("restore the file, or remove its rows with `--prune`")),
    }
}

/// All shards of one output must run the same job: otherwise the units of one shard are missing for the others.
fn refuse_other_jobs(storage: &dyn Storage, ours: &Started) -> Result<()> {
    for dir in commit::run_dirs(storage)? {
        // Written by another version, or damaged: it cannot be compared.
        let Ok(Some(other)) = manifest::read::<Started>(storage, &format!("{dir}/{STARTED}"))
        else {
            continue;
        };
        if other.job != ours.job {
            return Err(Error::new(
                ErrorKind::Resources,
                format!(
                    "a shard of another job is writing `{}`: process {}, since {}",
                    storage.shown("").display(),
                    other.pid,
                    other.at
                ),
            )
            .hint("start all shards with the same pipeline, options, models and input files"));
        }
    }
    Ok(())
}
