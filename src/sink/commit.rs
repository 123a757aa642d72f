//! Publishes an output atomically: all of it or nothing, also if the machine crashes in between.
//!
//! ```text
//! out/_hfauto/lock                  held by the one run that writes; the system releases it if the run dies
//! out/_hfauto/tmp/run-x/data/…      parts in progress, each fsynced once it is complete
//! out/_hfauto/tmp/run-x/plan.json   the decision to commit, once all parts are complete
//! out/_hfauto/staged/9f8e…/…        parts of finished units (module `units`), by their hash, instead of data/
//! out/_hfauto/units/….json          their manifests
//! out/part-00000.parquet            renamed from data/
//! out/_hfauto/MANIFEST.json         files, rows, bytes, hashes, schema, lineage
//! out/_SUCCESS                      last
//! ```
//!
//! Before `plan.json` exists, the output is unchanged, and the next run removes the folder of a dead one. Once it exists,
//! the next run finishes the renames. `_SUCCESS` is removed before the first rename: a consumer that waits for it never
//! reads a half-replaced output. Not here: the contents of the files, and the rename itself (`storage`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::WrittenPart;
use super::manifest::{self, Manifest, Plan, PlanSummary, PlannedUnits, Rewritten, Summary};
use super::storage::{Guard, Hold, Lock, Storage};
use crate::error::Result;
use crate::failpoint::failpoint;

const TMP: &str = "_hfauto/tmp";
pub(super) const MANIFEST: &str = "_hfauto/MANIFEST.json";
const SUCCESS: &str = "_SUCCESS";
/// Parts of finished units that are not published yet.
pub(super) const STAGED: &str = "_hfauto/staged";
/// Manifests of finished units.
pub(super) const UNITS: &str = "_hfauto/units";
/// Attempts at units that have not ended (module `attempts`).
pub(super) const ATTEMPTS: &str = "_hfauto/attempts";
/// The units that joined processes compute (module `claims`).
pub(super) const CLAIMS: &str = "_hfauto/claims";
const PLAN: &str = "plan.json";

/// A run in progress on an output.
#[derive(Debug)]
pub(super) struct Run {
    storage: Arc<dyn Storage>,
    /// Its folder.
    dir: String,
    lock: Box<dyn Lock>,
    /// When the lock was last found to be held.
    checked: Mutex<Instant>,
}

impl Run {
    /// Locks the output and names this run's folder. A run that is alone also finishes the commits of dead runs, or removes
    /// their files.
    pub(super) fn start(storage: &Arc<dyn Storage>, hold: Hold) -> Result<Self> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let is_alone = hold == Hold::Alone;
        let lock = storage.lock(hold)?;
        failpoint("lock.taken");
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let now = chrono::Utc::now().format("%Y%m%dT%H%M%S%f");
        // Runs on several machines share the folder.
        let token = lock.token().get(..8).unwrap_or_default();
        let dir = format!("{TMP}/run-{now}-{}-{number}-{token}", std::process::id());
        let checked = Mutex::new(Instant::now());
        let run = Self { storage: Arc::clone(storage), dir, lock, checked };
        if is_alone && let Err(error) = recover(storage.as_ref()) {
            run.clean();
            return Err(error);
        }
        Ok(run)
    }

    /// The path of a part before the commit; creates its folder.
    pub(super) fn part(&self, relative: &str) -> io::Result<PathBuf> {
        self.storage.spool(&self.data(relative))
    }

    fn data(&self, relative: &str) -> String {
        format!("{}/data/{relative}", self.dir)
    }

    /// Writes a file that describes this run to other processes.
    pub(super) fn say(&self, name: &str, content: &impl Serialize) -> Result<()> {
        manifest::put(self.storage.as_ref(), &format!("{}/{name}", self.dir), content)
    }

    /// The path of a unit's parts before they are staged; another one for each attempt.
    pub(super) fn unit(&self, id: &str) -> io::Result<PathBuf> {
        static ATTEMPT: AtomicU64 = AtomicU64::new(0);
        let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
        self.storage.spool(&format!("{}/units/{id}-{attempt}", self.dir))
    }

    /// Fails if another run may hold the output by now, or may take it before the guard is dropped.
    pub(super) fn check_lock(&self) -> Result<Guard> {
        let asked = Instant::now();
        let guard = self.lock.check()?;
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(guard)
    }

    /// Like [`Run::check_lock`], unless the lock was held less than `age` ago: saves work, but does not fence.
    pub(super) fn check_lock_since(&self, age: Duration) -> Result<()> {
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.elapsed() < age { Ok(()) } else { self.check_lock().map(drop) }
    }

    /// Identifies this run to its guests.
    pub(super) fn token(&self) -> &str {
        self.lock.token()
    }

    /// The name of its lock.
    pub(super) fn lock_name(&self) -> &str {
        self.lock.name()
    }

    /// Removes the folders of units that are done, so that a guest leaves nothing behind.
    pub(super) fn tidy(&self) {
        for folder in [&format!("{}/units", self.dir), &self.dir, TMP] {
            self.storage.remove_if_empty(folder);
        }
    }

    /// Publishes the staged parts. `manifest` has all files of the output, and `replaced` its earlier files. The manifests of
    /// units stay for a later run, except those of `obsolete` units; `records` replace some of them.
    pub(super) fn commit_staged(
        &self,
        manifest: Manifest,
        replaced: Vec<String>,
        obsolete: Vec<String>,
        records: Vec<Rewritten>,
    ) -> Result<Manifest> {
        failpoint("publish.begun");
        let units = Some(PlannedUnits { obsolete, keep: true, records });
        self.decide(Plan { replaced, units, manifest })
    }

    /// Publishes the parts in `manifest`, which replace the files `replaced`.
    pub(super) fn commit(&self, manifest: Manifest, replaced: Vec<String>) -> Result<()> {
        let parts = manifest.files.iter();
        let parts = parts.map(|file| Ok((self.part(&file.name)?, self.data(&file.name))));
        let kept = parts
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| super::disk::write_error(&self.storage.shown(""), error));
        if let Err(error) = kept.and_then(|parts| self.storage.keep(&parts)) {
            self.discard();
            return Err(error);
        }
        self.decide(Plan { replaced, units: None, manifest }).map(drop)
    }

    /// Writes the plan and carries it out. A failure after `plan.json` keeps what the next run needs to finish the commit.
    fn decide(&self, plan: Plan) -> Result<Manifest> {
        let _guard = self.check_lock()?;
        plan.put(self.storage.as_ref(), &format!("{}/{PLAN}", self.dir))?;
        failpoint("publish.planned");
        apply(self.storage.as_ref(), &self.dir, &plan)?;
        failpoint("publish.cleaned");
        self.clean();
        Ok(plan.manifest)
    }

    /// Discards the run and the folders that it created.
    pub(super) fn discard(&self) {
        // Best effort: the next run removes leftovers in `_hfauto/tmp`.
        let _ = self.storage.remove_folder(&self.dir);
        self.clean();
    }

    fn clean(&self) {
        self.lock.release();
        self.storage.prune();
    }
}

/// Whether the output is marked as complete.
pub(super) fn is_marked(storage: &dyn Storage) -> Result<bool> {
    Ok(storage.read(SUCCESS)?.is_some())
}

/// The time when the output was marked as complete.
pub(super) fn marked_at(storage: &dyn Storage) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
    storage.modified(SUCCESS)
}

/// Whether the folder is marked as an output.
pub(super) fn is_committed(storage: &dyn Storage) -> Result<bool> {
    Ok(storage.is_file(MANIFEST)?.is_some() || is_marked(storage)?)
}

/// Whether an output was published in units, or has a plan to be. [`UnitOutput`](super::UnitOutput) then identifies the job.
pub(super) fn is_of_units(storage: &dyn Storage) -> Result<bool> {
    if summary(storage).is_ok_and(|summary| summary.is_some_and(|summary| summary.job.is_some())) {
        return Ok(true);
    }
    for dir in run_dirs(storage)? {
        let plan = manifest::read::<PlanSummary>(storage, &format!("{dir}/{PLAN}"));
        if plan.is_ok_and(|plan| plan.is_some_and(|plan| plan.units.is_some())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The manifest of an output that is marked as complete.
pub(super) fn summary(storage: &dyn Storage) -> Result<Option<Summary>> {
    if is_marked(storage)? { manifest::read(storage, MANIFEST) } else { Ok(None) }
}

/// The manifest of an output; `None` if it does not exist.
pub(super) fn manifest(storage: &dyn Storage) -> Result<Option<Manifest>> {
    manifest::read(storage, MANIFEST)
}

/// The files that earlier runs wrote into the folder, by its manifest and by interrupted commits.
pub(super) fn known_files(storage: &dyn Storage) -> Result<Vec<String>> {
    let mut known = manifest::files_of_manifest(storage, MANIFEST)?;
    for dir in run_dirs(storage)? {
        known.extend(manifest::files_of_plan(storage, &format!("{dir}/{PLAN}"))?);
    }
    Ok(known)
}

/// Finishes the commits of dead runs, or removes their files. The caller holds the lock alone.
fn recover(storage: &dyn Storage) -> Result<()> {
    for dir in run_dirs(storage)? {
        match Plan::read(storage, &format!("{dir}/{PLAN}"))? {
            Some(plan) => apply(storage, &dir, &plan)?,
            // Without a plan, the output is unchanged.
            None => storage.remove_folder(&dir)?,
        }
    }
    Ok(())
}

/// The folders of runs, in the order of their starts.
pub(super) fn run_dirs(storage: &dyn Storage) -> Result<Vec<String>> {
    let folders = storage.folders(TMP)?.into_iter();
    Ok(folders
        .filter(|name| name.starts_with("run-"))
        .map(|name| format!("{TMP}/{name}"))
        .collect())
}

/// The name of a part below [`STAGED`]. Attempts that write the same name therefore write the same bytes.
pub(super) fn staged_name(part: &WrittenPart) -> String {
    match part.blake3.get(..16).filter(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(hash) => format!("{hash}/{}", part.name),
        None => part.name.clone(),
    }
}

/// The place of a part in a listing of [`STAGED`].
pub(super) fn find_staged(staged: &BTreeMap<String, u64>, part: &WrittenPart) -> Option<String> {
    // Earlier versions staged parts under their own names.
    let mut names = [staged_name(part), part.name.clone()].into_iter();
    names.find(|name| staged.get(name) == Some(&part.bytes))
}

/// The moves from [`STAGED`] that have not been made.
fn staged_moves(storage: &dyn Storage, parts: &[WrittenPart]) -> Result<Vec<(String, String)>> {
    let staged = storage.files(STAGED)?;
    let moves =
        parts.iter().filter_map(|part| Some((find_staged(&staged, part)?, part.name.clone())));
    Ok(moves.collect())
}

/// Carries out the plan of a run. Every step is idempotent.
fn apply(storage: &dyn Storage, dir: &str, plan: &Plan) -> Result<()> {
    let Plan { replaced, units, manifest } = plan;
    let (data, moves) = if units.is_some() {
        (STAGED.to_owned(), staged_moves(storage, &manifest.files)?)
    } else {
        let names = manifest.files.iter().map(|file| &file.name);
        (format!("{dir}/data"), names.map(|name| (name.clone(), name.clone())).collect())
    };
    storage.remove_all(&[SUCCESS.to_owned(), MANIFEST.to_owned()])?;
    failpoint("publish.unmarked");
    storage.publish(&data, &moves)?;
    failpoint("publish.renamed");
    let files: BTreeSet<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    let gone = replaced.iter().filter(|file| !files.contains(file.as_str())).cloned();
    storage.remove_all(&gone.collect::<Vec<_>>())?;
    failpoint("publish.removed");
    for record in units.iter().flat_map(|units| &units.records) {
        manifest::put(storage, &format!("{UNITS}/{}.json", record.unit), &record.manifest)?;
    }
    manifest.put(storage, MANIFEST)?;
    failpoint("publish.manifest");
    storage.write(SUCCESS, b"")?;
    failpoint("publish.marked");
    let obsolete = units.iter().flat_map(|units| &units.obsolete);
    let obsolete: Vec<_> = obsolete.map(|id| format!("{UNITS}/{id}.json")).collect();
    storage.remove_all(&obsolete)?;
    // Also removes the units of an earlier output.
    if !units.as_ref().is_some_and(|units| units.keep) {
        storage.remove_folder(UNITS)?;
    }
    for folder in [ATTEMPTS, CLAIMS, STAGED] {
        storage.remove_folder(folder)?;
    }
    storage.remove_folder(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::WrittenPart;
    use super::super::storage::{LocalStorage, Shard};
    use super::*;
    use crate::error::ErrorKind;

    fn tree(root: &Path) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, found);
                } else {
                    found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let mut found = Vec::new();
        walk(root, root, &mut found);
        found.sort();
        found
    }

    fn manifest(files: &[&str]) -> Manifest {
        let part = |name: &&str| WrittenPart {
            name: (*name).to_owned(),
            rows: 0,
            bytes: 0,
            blake3: String::new(),
            within: None,
        };
        Manifest { files: files.iter().map(part).collect(), ..Manifest::default() }
    }

    fn local(root: &Path) -> Arc<dyn Storage> {
        Arc::new(LocalStorage::new(root))
    }

    fn start(root: &Path) -> Result<Run> {
        Run::start(&local(root), Hold::Alone)
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_commit_that_was_cut_short_is_finished_by_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        let first = start(&root).unwrap();
        for part in ["a/old", "b/both"] {
            fs::write(first.part(part).unwrap(), "1").unwrap();
        }
        let parts = names_of(&["a/old", "b/both"]);
        first.commit(manifest(&["a/old", "b/both"]), Vec::new()).unwrap();
        assert_eq!(tree(&root), ["_SUCCESS", "_hfauto/MANIFEST.json", "a/old", "b/both"]);
        drop(first);

        let second = start(&root).unwrap();
        for part in ["b/both", "c/new"] {
            fs::write(second.part(part).unwrap(), "2").unwrap();
        }
        let plan = Plan { replaced: parts, units: None, manifest: manifest(&["b/both", "c/new"]) };
        plan.put(second.storage.as_ref(), &format!("{}/{PLAN}", second.dir)).unwrap();
        // The process dies after the first rename: it discards nothing, and its lock is released.
        fs::remove_file(root.join(SUCCESS)).unwrap();
        fs::rename(root.join(second.data("b/both")), root.join("b/both")).unwrap();
        drop(second);
        let mut known = known_files(local(&root).as_ref()).unwrap();
        known.sort();
        known.dedup();
        assert_eq!(known, ["a/old", "b/both", "c/new"]);

        let third = start(&root).unwrap();
        third.discard();
        assert_eq!(tree(&root), ["_SUCCESS", "_hfauto/MANIFEST.json", "b/both", "c/new"]);
        assert!(!root.join("a").exists());
        assert_eq!(fs::read_to_string(root.join("b/both")).unwrap(), "2");
    }

    #[test]
    fn parts_without_a_plan_are_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/out");
        let dead = start(&root).unwrap();
        fs::write(dead.part("part").unwrap(), "1").unwrap();
        drop(dead);
        let next = start(&root).unwrap();
        assert_eq!(run_dirs(next.storage.as_ref()).unwrap(), [""; 0]);
        next.discard();
        assert!(!root.join(super::super::storage::META).exists());
    }

    #[test]
    fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = start(folder.path()).unwrap();
        let error = start(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resources);
        let who = format!("process {} on", std::process::id());
        assert!(error.message().contains(&who), "{error}");
        run.discard();
        start(folder.path()).unwrap().discard();
        assert_eq!(tree(folder.path()), [""; 0]);
    }

    #[test]
    fn shards_are_beside_each_other_and_not_beside_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let storage = local(folder.path());
        let shard = |index| Hold::Shard(Shard { index, count: 2 });
        let first = Run::start(&storage, shard(0)).unwrap();
        let second = Run::start(&storage, shard(1)).unwrap();
        for hold in [shard(0), Hold::Alone] {
            let error = Run::start(&storage, hold.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Resources, "{hold:?}");
        }
        first.discard();
        drop(first);
        Run::start(&storage, Hold::Alone).unwrap_err();
        second.discard();
        drop(second);
        let alone = Run::start(&storage, Hold::Alone).unwrap();
        Run::start(&storage, shard(0)).unwrap_err();
        alone.discard();
        drop(alone);
        assert_eq!(tree(folder.path()), [""; 0]);
    }
}
