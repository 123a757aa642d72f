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
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commit::{self, Run, STAGED, UNITS};
use super::disk::{LocalDisk, write_error};
use super::manifest::{self, Manifest};
use super::records::{Kept, Record, Records, VERSION, for_each_record, records};
use super::state::{STARTED, Started};
use super::storage::{Hold, Shard, Storage};
use super::target::Target;
use super::{Sink, SinkOptions, Staging, Written, WrittenFile, WrittenPart};
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

/// How long a shard waits for a lock that another may have for a moment: at its start and its end.
const LOCK_TRIES: u32 = 12;
const LOCK_WAIT: Duration = Duration::from_millis(250);

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
    shard: Option<Shard>,
    target: Target,
    storage: Arc<dyn Storage>,
    run: Run,
    /// The units that are done.
    records: Records,
    /// The files of the output that is there.
    published: Vec<String>,
    /// What tells this job from others: its units.
    job: String,
    /// The rows of the output, when this job has published it already.
    complete: Option<u64>,
    is_finished: bool,
}

/// What became of an output whose units, as far as they are this run's, are done.
pub enum Finished {
    /// It is whole.
    Published {
        /// Its files.
        written: Written,
        /// Its inputs that are gone.
        vanished: Vanished,
        /// The beginnings of the ids of the units that are in it.
        units: BTreeSet<String>,
    },
    /// Other shards have units to do; the last of them publishes.
    Left {
        /// How many units are missing.
        missing: usize,
    },
}

impl UnitOutput {
    /// Locks the output and takes up what earlier runs have done. With a `shard`, others may work on the same
    /// job beside this run.
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
        shard: Option<Shard>,
        units: &[UnitKey],
    ) -> Result<Self> {
        Self::start(spec, schema, options, mode, shard, units)
            .map_err(|error| error.at(&spec.location))
    }

    fn start(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        mode: UnitMode,
        shard: Option<Shard>,
        units: &[UnitKey],
    ) -> Result<Self> {
        let target = Target::of(spec)?;
        let storage = Arc::clone(&target.storage);
        let may_replace = options.overwrite || matches!(mode, UnitMode::Incremental { .. });
        target.replaced(may_replace || commit::is_of_units(storage.as_ref())?)?;
        let job = job_of(units);
        let hold = shard.map_or(Hold::Alone, Hold::Shard);
        if shard.is_some() {
            // Who comes first cleans up after runs that died.
            match Run::start(&storage, Hold::Alone) {
                Ok(run) => {
                    let cleaned = records(storage.as_ref(), true);
                    run.discard();
                    cleaned?;
                }
                Err(error) if error.kind() == ErrorKind::Resources => {}
                Err(error) => return Err(error),
            }
        }
        let mut tries = if shard.is_some() { 0..LOCK_TRIES } else { 0..0 };
        let run = loop {
            match Run::start(&storage, hold) {
                // Another shard may be cleaning up.
                Err(error) if error.kind() == ErrorKind::Resources && tries.next().is_some() => {
                    std::thread::sleep(LOCK_WAIT);
                }
                started => break started?,
            }
        };
        let mut complete = None;
        let opened = (|| {
            let storage = storage.as_ref();
            // Looked at again under the lock, after a commit cut short has been finished.
            let published = commit::summary(storage)?;
            if let Some(published) = published.filter(|_| !may_replace)
                && published.job.as_deref() == Some(&job)
            {
                complete = Some(published.rows);
                return Ok((Vec::new(), Records::default()));
            }
            let published = target.replaced(may_replace)?;
            if options.overwrite {
                storage.remove_folder(UNITS)?;
                storage.remove_folder(STAGED)?;
            }
            let records = records(storage, hold == Hold::Alone)?;
            if mode == (UnitMode::Incremental { prune: false }) {
                refuse_foreign(&records, units)?;
            }
            let own =
                units.iter().filter(|unit| shard.is_none_or(|shard| shard.has(unit.sequence)));
            let done = own.clone().filter(|unit| records.has(&unit.id)).count();
            let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let started = Started {
                at,
                units: own.count(),
                done,
                pid: std::process::id(),
                job: job.clone(),
                others: records.len() - done,
                rows: records.all().map(|record| record.rows).sum(),
            };
            if shard.is_some() {
                refuse_other_jobs(storage, &started)?;
            }
            run.say(STARTED, &started)?;
            if !options.overwrite && !published.is_empty() && records.len() == 0 {
                return Err(Error::new(
                    ErrorKind::Sink,
                    format!("the output `{}` was not written in units", target.path.display()),
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
            shard,
            target,
            storage,
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
        let storage = Target::of(spec)?.storage;
        let published = commit::summary(storage.as_ref())?;
        if published.is_some_and(|published| published.job == Some(job_of(units))) {
            return Ok(vec![UnitStatus::Done; units.len()]);
        }
        // Of each unit whether it is done, of each input what units of it were: not the manifests, which may be more.
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
                    // Its units are of another place in the file.
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
        let create = || {
            let mut sink = self.unstaged()?;
            let dir = self.run.unit(&unit.id);
            let dir = dir.map_err(|error| write_error(&self.target.path, error))?;
            sink.staging = Some(Staging::Unit { dir });
            sink.stem = Some(unit.stem());
            // One file has the columns, also when no unit has rows.
            if unit.sequence == 0 && sink.partitioner.is_none() {
                sink.part("")?;
            }
            Ok(sink)
        };
        create().map_err(|error: Error| error.at(&self.spec.location))
    }

    /// A sink for rows of this output that has no place for its files yet.
    fn unstaged(&self) -> Result<Sink> {
        let (target, schema) = (self.target.clone(), SchemaRef::clone(&self.schema));
        Sink::unstaged(target, &self.spec, schema, self.options.clone(), Box::new(LocalDisk))
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

    /// Counts a unit that was committed.
    pub fn add(&mut self, committed: Committed) {
        self.records.insert(committed.0);
    }

    /// Publishes the output of all `units`, which are done. A shard does so if it is the last: otherwise
    /// it leaves the output to the others. `check` may refuse the rows that failed in all of them.
    ///
    /// # Errors
    /// `Sink` when the disk fails; the next run then goes on from here. What `check` says.
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

    /// Takes the lock alone, if no shard is there any more, and counts what all have done. Returns how many
    /// units are missing if the output is not this run's to publish.
    fn take_over(&mut self, units: &[UnitKey]) -> Result<Option<usize>> {
        // Freed before the other is asked for: of shards that end together, the last one gets it.
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
        let may_replace = matches!(self.mode, UnitMode::Incremental { .. });
        let found = (|| {
            let published = commit::summary(self.storage.as_ref())?;
            let is_ours = published.and_then(|published| published.job).as_ref() == Some(&self.job);
            let published = self.target.replaced(may_replace || is_ours)?;
            Ok((published, records(self.storage.as_ref(), true)?))
        })();
        match found {
            Ok((published, records)) => (self.published, self.records) = (published, records),
            Err(error) => {
                self.run.discard();
                return Err(error);
            }
        }
        let missing = missing(&self.records);
        if missing > 0 {
            self.run.discard();
            return Ok(Some(missing));
        }
        Ok(None)
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
    id.get(..8).unwrap_or(id)
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
                "`{}` is gone, and its rows were made with another model, option, SQL or column types",
                record.input
            ),
        )
        .hint("bring the file back, or remove its rows with `--prune`")),
    }
}

/// Shards of one output work on one job: what one publishes, the others do not find missing.
fn refuse_other_jobs(storage: &dyn Storage, ours: &Started) -> Result<()> {
    for dir in commit::run_dirs(storage)? {
        // Of another version, or damaged: nothing can be said of it.
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
