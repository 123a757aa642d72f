//! An output that is made in units, each durable once it is done, all published together. A run that dies loses the
//! units in progress; the next one resumes from what is staged. A consumer that waits for `_SUCCESS` sees the previous
//! output or the new one, never a mixture.
//!
//! ```text
//! out/_hfauto/tmp/run-x/units/<unit>/…   parts while they are written
//! out/_hfauto/staged/9f8e…/part-….parquet  renamed from there once fsynced
//! out/_hfauto/units/<unit>.json          then its manifest: the unit is done
//! ```
//!
//! The manifest alone says that a unit is done. It is created only if there is none: of several attempts at a unit, one
//! commits. Parts are staged below their hash, so that two attempts never write different bytes to one name. The next run
//! removes whatever no manifest names. Publishing is that of the module `commit`. Not here: what a unit is
//! (`crate::source`, `crate::job`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use serde_json::Value;

use super::adopt::adopted;
use super::attempts::{self, Attempts};
use super::claims::{self, Claim};
use super::commit::{self, Run, STAGED, UNITS, staged_name};
use super::compact::unshare;
use super::disk::{LocalDisk, write_error};
use super::manifest::{self, Manifest};
use super::records::{
    Kept, Record, Records, RowErrorCounts, VERSION, manifest_of, record, records,
};
use super::results;
use super::state::{STARTED, Started};
use super::storage::{Hold, Storage, lease_time};
use super::target::Target;
use super::unit::{Committed, Done, Finished, Sharing, UnitKey, UnitMode, Vanished, job_of, short};
use super::{Sink, SinkOptions, Staging, Written, WrittenFile, WrittenPart};
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

/// The time that a shard waits for a lock which another run may hold briefly, at its start and end.
const LOCK_TRIES: u32 = 12;
const LOCK_WAIT: Duration = Duration::from_millis(250);

/// An output that is being written.
pub struct UnitOutput {
    spec: SinkSpec,
    schema: SchemaRef,
    options: SinkOptions,
    mode: UnitMode,
    sharing: Sharing,
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

impl UnitOutput {
    /// Locks the output and loads what earlier runs have completed. `sharing` says which other processes may work on
    /// the same job at the same time.
    ///
    /// # Errors
    /// - `Sink`: the output exists and may not be replaced, or cannot be written or read.
    /// - `Config`: as [`Sink::check`].
    /// - `Resources`: another run is writing it.
    /// - `Usage`: overwriting was requested beside other processes.
    pub fn open(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        mode: UnitMode,
        sharing: Sharing,
        units: &[UnitKey],
    ) -> Result<Self> {
        let open = || {
            if matches!(sharing, Sharing::Shard(_) | Sharing::Joined) && options.overwrite {
                let message = "a shard cannot overwrite: it would remove the units of others";
                return Err(Error::new(ErrorKind::Usage, message));
            }
            let target = Target::of(spec)?;
            let storage = Arc::clone(&target.storage);
            let may_replace = options.overwrite || matches!(mode, UnitMode::Incremental { .. });
            target.replaced(may_replace || commit::is_of_units(storage.as_ref())?)?;
            let run = match sharing {
                Sharing::Shard(shard) => start_shared(&storage, &Hold::Shard(shard))?,
                Sharing::Joined => start_shared(&storage, &Hold::Joined)?,
                Sharing::Alone | Sharing::Guests | Sharing::Guest => {
                    Run::start(&storage, Hold::Alone)?
                }
            };
            let mut output = Self {
                spec: spec.clone(),
                schema,
                options,
                mode,
                sharing,
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

    /// Joins the run that holds the output under the token `owner`, to commit units for it. Everything else is the
    /// owner's part.
    ///
    /// # Errors
    /// `Resources` if no run holds the output under this token; otherwise as [`UnitOutput::open`].
    pub fn guest(
        spec: &SinkSpec,
        schema: SchemaRef,
        options: SinkOptions,
        owner: &str,
    ) -> Result<Self> {
        let open = || {
            let target = Target::of(spec)?;
            let storage = Arc::clone(&target.storage);
            let run = Run::start(&storage, Hold::Guest(owner.to_owned()))?;
            run.check_lock()?;
            Ok(Self {
                spec: spec.clone(),
                schema,
                options,
                mode: UnitMode::Resume,
                sharing: Sharing::Guest,
                target,
                storage,
                run,
                records: Records::default(),
                published: Vec::new(),
                job: String::new(),
                complete: None,
                is_finished: false,
            })
        };
        open().map_err(|error: Error| error.at(&spec.location))
    }

    /// The token under which this run holds the output, for [`UnitOutput::guest`].
    pub fn token(&self) -> &str {
        self.run.token()
    }

    /// Fails if another run may have taken the output over. Looks at the lock only if the last look is older than half of
    /// [`UnitOutput::check_interval`].
    ///
    /// # Errors
    /// `Resources`.
    pub fn check_held(&self) -> Result<()> {
        let checked = self.run.check_lock_since(Self::check_interval() / 2);
        checked.map_err(|error| error.at(&self.spec.location))
    }

    /// How often a run checks that it still holds the output.
    pub fn check_interval() -> Duration {
        lease_time() / 4
    }

    /// Loads what earlier runs have completed, under the lock, and records what this run will do.
    fn take_up(&mut self, may_replace: bool, units: &[UnitKey]) -> Result<()> {
        let storage = Arc::clone(&self.storage);
        let storage = storage.as_ref();
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
        let is_alone = matches!(self.sharing, Sharing::Alone | Sharing::Guests);
        if self.options.overwrite {
            storage.remove_folder(commit::ATTEMPTS)?;
        } else if is_alone {
            attempts::forget_reported(storage)?;
        }
        self.records = records(storage, is_alone)?;
        let is_new = self.options.overwrite || self.mode == UnitMode::Resume;
        if !is_new && self.records.len() == 0 {
            self.adopt(units)?;
        }
        if self.mode == (UnitMode::Incremental { prune: false }) {
            refuse_foreign(&self.records, units)?;
        }
        let started = self.started(units);
        if !is_alone {
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

    /// Writes the manifests of units that the published output consists of.
    fn adopt(&mut self, units: &[UnitKey]) -> Result<()> {
        let storage = self.storage.as_ref();
        for record in adopted(storage, units)? {
            manifest::create(storage, &format!("{UNITS}/{}.json", record.unit), &record)?;
            self.records.insert(record);
        }
        let parts: usize = self.records.all().map(|record| record.files.len()).sum();
        let others = self.published.len().saturating_sub(parts);
        if self.records.len() > 0 && others > 0 {
            tracing::warn!(
                parts = others,
                "files of the output belong to no unit of this job: they will be replaced"
            );
        }
        Ok(())
    }

    fn started(&self, units: &[UnitKey]) -> Started {
        let is_own = |unit: &&UnitKey| match self.sharing {
            Sharing::Shard(shard) => shard.has(unit.sequence),
            _ => true,
        };
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

    /// Whether a run without `overwrite` would continue from this one.
    pub fn can_go_on(&self) -> bool {
        self.mode != UnitMode::Resume || self.published.is_empty()
    }

    /// The rows of the output, if this job has already published it and nothing is left to do.
    pub fn complete(&self) -> Option<u64> {
        self.complete
    }

    /// The files of a unit, if it is done.
    pub(super) fn files_of(&self, id: &str) -> Option<&[WrittenPart]> {
        self.records.get(id).map(|record| &*record.files)
    }

    /// The storage of the output.
    pub(super) fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// The columns of the rows.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Releases the lock; staged files stay.
    pub(super) fn end(&mut self) {
        self.is_finished = true;
        self.run.discard();
    }

    /// A unit, if it is done.
    pub fn done(&self, id: &str) -> Option<Done> {
        let record = self.records.get(id)?;
        Some(Done { rows: record.rows, errors: record.errors })
    }

    /// The attempts at a unit that have not ended.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub(crate) fn attempts(&self, unit: &UnitKey) -> Result<Attempts> {
        Attempts::at(&self.storage, &unit.id)
    }

    /// Records that this run ends with an error because of a unit: the next run tries it again.
    ///
    /// # Errors
    /// `Sink` if the output cannot be written.
    pub(crate) fn report_attempts(&self, unit: &UnitKey) -> Result<()> {
        attempts::report(self.storage.as_ref(), &unit.id)
    }

    /// Claims a unit for this joined process; `None` if the claim with this number exists.
    ///
    /// # Errors
    /// `Sink` if the output cannot be written.
    pub(crate) fn claim(&self, unit: &UnitKey, number: u32) -> Result<Option<Claim>> {
        claims::claim(&self.storage, &unit.id, number, self.run.lock_name())
    }

    /// The index of `units` at which this process starts to claim; another one for each process.
    pub(crate) fn starts_at(&self, units: usize) -> usize {
        let hash = blake3::hash(self.run.token().as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d]) as usize % units.max(1)
    }

    /// The numbers of the claims on each unit, in ascending order: a listing.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub(crate) fn claims(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        claims::numbers(self.storage.as_ref())
    }

    /// Whether the process that made a claim is alive. A process that stopped renewing its lock is not.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub(crate) fn is_claimed(&self, unit: &UnitKey, number: u32) -> Result<bool> {
        match claims::lock_of(self.storage.as_ref(), &unit.id, number)? {
            Some(lock) if !lock.is_empty() => self.storage.is_live(&lock),
            _ => Ok(false),
        }
    }

    /// The rows of a unit, if any process has committed it. Reads its manifest only.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn committed_rows(&self, unit: &UnitKey) -> Result<Option<u64>> {
        Ok(manifest_of(self.storage.as_ref(), &unit.id)?.map(|record| record.rows))
    }

    /// A unit that any process has committed.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn committed(&self, unit: &UnitKey) -> Result<Option<Committed>> {
        Ok(record(self.storage.as_ref(), &unit.id)?.map(Committed))
    }

    /// The ids of the units that any process has committed: a listing.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn committed_ids(&self) -> Result<BTreeSet<String>> {
        let names = self.storage.files(UNITS)?.into_keys();
        let id = |mut name: String| {
            name.truncate(name.strip_suffix(".json")?.len());
            Some(name)
        };
        Ok(names.filter_map(id).collect())
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

    /// Makes the rows of a unit durable: no later run computes them again. If another attempt was faster, its rows
    /// stay. Pass the result to [`UnitOutput::add`].
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails, `Resources` if another run may hold the output.
    pub fn commit(&self, unit: &UnitKey, sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        self.stage(unit, sink, errors).map_err(|error| error.at(&self.spec.location))
    }

    fn stage(&self, unit: &UnitKey, mut sink: Sink, errors: RowErrorCounts) -> Result<Committed> {
        sink.close_all()?;
        failpoint("unit.written");
        let Some(Staging::Unit { dir }) = &sink.staging else {
            return Err(Error::new(ErrorKind::Internal, "the sink of a unit is closed"));
        };
        // Parts that come after the output is published would stay there.
        if self.sharing != Sharing::Alone {
            self.run.check_lock_since(Self::check_interval())?;
        }
        let parts = sink.closed.iter();
        let parts =
            parts.map(|part| (dir.join(&part.name), format!("{STAGED}/{}", staged_name(part))));
        self.storage.keep(&parts.collect::<Vec<_>>())?;
        let _ = fs::remove_dir_all(dir);
        if self.sharing == Sharing::Guest {
            self.run.tidy();
        }
        failpoint("unit.synced");
        let record = Record {
            version: VERSION,
            unit: unit.id.to_string(),
            input: unit.input.to_string(),
            file: unit.file.to_string(),
            plan: unit.plan.to_string(),
            rows: sink.closed.iter().map(|part| part.rows).sum(),
            errors,
            files: std::mem::take(&mut sink.closed),
        };
        failpoint("unit.manifest");
        let guard = self.run.check_lock()?;
        let committed = self.put_record(record)?;
        drop(guard);
        failpoint("unit.committed");
        Ok(Committed(committed))
    }

    /// Creates the manifest of a unit. Returns that of a faster attempt, if there is one, and removes the parts of this
    /// one.
    fn put_record(&self, own: Record) -> Result<Record> {
        let storage = self.storage.as_ref();
        let name = format!("{UNITS}/{}.json", own.unit);
        if manifest::create(storage, &name, &own)? {
            return Ok(own);
        }
        let Some(first) = record(storage, &own.unit)? else {
            // Damaged, or without its parts.
            manifest::put(storage, &name, &own)?;
            return Ok(own);
        };
        let kept: BTreeSet<String> = first.files.iter().map(staged_name).collect();
        let parts = own.files.iter().map(staged_name).filter(|part| !kept.contains(part));
        storage.remove_all(&parts.map(|part| format!("{STAGED}/{part}")).collect::<Vec<_>>())?;
        Ok(first)
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
            if self.sharing != Sharing::Alone
                && let Some(finished) = self.take_over(units)?
            {
                return Ok(finished);
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

    /// Takes the exclusive lock once no other process is active, and counts the units of all. Returns the state of the
    /// output if this run cannot publish it. A joined process waits for the others, a shard only briefly.
    fn take_over(&mut self, units: &[UnitKey]) -> Result<Option<Finished>> {
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
            if self.is_complete()? {
                return Ok(Some(Finished::Complete));
            }
            if tries.next().is_none() && self.sharing != Sharing::Joined {
                let missing = missing(&records(self.storage.as_ref(), false)?);
                return Ok(Some(Finished::Left { missing }));
            }
            std::thread::sleep(LOCK_WAIT);
        };
        let left = if self.is_complete()? {
            Ok(Some(Finished::Complete))
        } else {
            self.read_again().map(|()| {
                let missing = missing(&self.records);
                (missing > 0).then_some(Finished::Left { missing })
            })
        };
        if !matches!(left, Ok(None)) {
            self.run.discard();
        }
        left
    }

    /// Whether this job has published the output, and keeps no manifests of units to compare with.
    fn is_complete(&self) -> Result<bool> {
        let published = commit::summary(self.storage.as_ref())?;
        let is_ours = published.and_then(|published| published.job).as_ref() == Some(&self.job);
        Ok(is_ours && self.mode == UnitMode::Resume)
    }

    /// Reloads what all shards have completed, under the lock.
    fn read_again(&mut self) -> Result<()> {
        let is_incremental = matches!(self.mode, UnitMode::Incremental { .. });
        self.published = self.target.replaced(is_incremental)?;
        self.records = records(self.storage.as_ref(), true)?;
        Ok(())
    }

    fn publish(&mut self, units: &[UnitKey]) -> Result<Finished> {
        let missing = units.iter().find(|unit| !self.records.has(&unit.id));
        if let Some(unit) = missing {
            let message = format!("a unit of `{}` was not computed", unit.input);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let current: BTreeSet<&str> = units.iter().map(|unit| &*unit.id).collect();
        let inputs: BTreeSet<&str> = units.iter().map(|unit| &*unit.input).collect();
        let prune = self.mode == UnitMode::Incremental { prune: true };
        let is_incremental = self.mode != UnitMode::Resume;
        let (mut keeps, mut drops) = (Vec::new(), Vec::new());
        let mut vanished = BTreeSet::new();
        for (id, record) in std::mem::take(&mut self.records).into_all() {
            let has_vanished = !inputs.contains(&*record.input);
            if is_incremental && has_vanished && !vanished.contains(&*record.input) {
                vanished.insert(record.input.to_string());
            }
            let stays = self.mode == UnitMode::Incremental { prune: false };
            let is_kept = current.contains(&*id) || stays && has_vanished;
            if is_kept { keeps.push((id, record)) } else { drops.push((id, record)) }
        }
        let sink = || self.unstaged();
        let records = unshare(&self.run, self.storage.as_ref(), &sink, &mut keeps, &drops)?;
        let kept: BTreeSet<String> = keeps.iter().map(|(id, _)| short(id).to_owned()).collect();
        let mut parts: Vec<WrittenPart> = keeps
            .into_iter()
            .flat_map(|(_, unit)| unit.files)
            .map(|part| WrittenPart { within: None, ..part })
            .collect();
        let obsolete: Vec<String> = drops.into_iter().map(|(id, _)| id.into_string()).collect();
        let vanished = Vanished { inputs: vanished.into_iter().collect(), removed: prune };

        parts.sort_by(|a, b| a.name.cmp(&b.name));
        // Several units may share a part.
        parts.dedup_by(|a, b| a.name == b.name);
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
            let manifest = self.run.commit_staged(manifest, published, obsolete, records)?;
            parts = manifest.files;
        }
        results::retain(self.storage.as_ref(), &kept)?;
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

impl Drop for UnitOutput {
    fn drop(&mut self) {
        if !self.is_finished {
            // Staged files stay.
            self.run.discard();
        }
    }
}

/// Locks the output together with other processes. The first one cleans up after crashed runs.
fn start_shared(storage: &Arc<dyn Storage>, hold: &Hold) -> Result<Run> {
    match Run::start(storage, Hold::Alone) {
        Ok(run) => {
            let cleaned = records(storage.as_ref(), true)
                .and_then(|_| attempts::forget_reported(storage.as_ref()))
                .and_then(|()| storage.remove_folder(commit::CLAIMS));
            run.discard();
            cleaned?;
        }
        Err(error) if error.kind() == ErrorKind::Resources => {}
        Err(error) => return Err(error),
    }
    let begun = Instant::now();
    // The first joined process may have many manifests to read.
    let patience = match hold {
        Hold::Joined => (LOCK_WAIT * LOCK_TRIES).max(lease_time() / 2),
        _ => LOCK_WAIT * LOCK_TRIES,
    };
    loop {
        match Run::start(storage, hold.clone()) {
            // Another process may be cleaning up.
            Err(error) if error.kind() == ErrorKind::Resources && begun.elapsed() < patience => {
                std::thread::sleep(LOCK_WAIT);
            }
            started => return started,
        }
    }
}

/// Refuses to keep rows of missing inputs beside rows that were computed differently: they would be inconsistent, and
/// cannot be computed again.
fn refuse_foreign(records: &Records, units: &[UnitKey]) -> Result<()> {
    let Some(unit) = units.first() else { return Ok(()) };
    let inputs: BTreeSet<&str> = units.iter().map(|unit| &*unit.input).collect();
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
