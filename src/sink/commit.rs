//! How an output becomes visible: all or nothing, also when the machine stops in between.
//!
//! ```text
//! out/_hfauto/lock                  held by the one run that writes; the system frees it if it dies
//! out/_hfauto/tmp/run-x/data/…      parts while they are written, each fsynced when it is whole
//! out/_hfauto/tmp/run-x/plan.json   the decision to commit, once all parts are whole
//! out/_hfauto/staged/…              parts of finished units (module `units`), instead of data/
//! out/_hfauto/units/….json          their manifests
//! out/part-00000.parquet            renamed from data/
//! out/_hfauto/MANIFEST.json         files, rows, bytes, hashes, schema, lineage
//! out/_SUCCESS                      last
//! ```
//!
//! Until `plan.json` is there, nothing has happened: the next run throws the folder away. Once it is
//! there, the next run finishes the renames. A reader that waits for `_SUCCESS` never sees a mixture:
//! it is removed before the first rename. Not here: what is in the files, and what a rename is (`storage`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::storage::{Hold, Lock, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

pub(super) const META: &str = "_hfauto";
const TMP: &str = "_hfauto/tmp";
const MANIFEST: &str = "_hfauto/MANIFEST.json";
const SUCCESS: &str = "_SUCCESS";
/// Parts of finished units that are not published yet.
pub(super) const STAGED: &str = "_hfauto/staged";
/// Manifests of finished units.
pub(super) const UNITS: &str = "_hfauto/units";
const PLAN: &str = "plan.json";

/// A run in progress on an output.
#[derive(Debug)]
pub(super) struct Run {
    storage: Arc<dyn Storage>,
    /// Its folder.
    dir: String,
    lock: Box<dyn Lock>,
}

impl Run {
    /// Locks the output, and makes room for this run. One that is alone finishes or throws away what dead
    /// runs left.
    pub(super) fn start(storage: &Arc<dyn Storage>, hold: Hold) -> Result<Self> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let lock = storage.lock(hold)?;
        failpoint("lock.taken");
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let now = chrono::Utc::now().format("%Y%m%dT%H%M%S%f");
        let dir = format!("{TMP}/run-{now}-{}-{number}", std::process::id());
        let run = Self { storage: Arc::clone(storage), dir, lock };
        if hold == Hold::Alone
            && let Err(error) = recover(storage.as_ref())
        {
            run.clean();
            return Err(error);
        }
        Ok(run)
    }

    /// Where a part is written before the commit; its folder is made.
    pub(super) fn part(&self, relative: &str) -> io::Result<PathBuf> {
        self.storage.spool(&self.data(relative))
    }

    fn data(&self, relative: &str) -> String {
        format!("{}/data/{relative}", self.dir)
    }

    /// Says for others to read what this run is.
    pub(super) fn say(&self, name: &str, content: &Value) -> Result<()> {
        write_json(self.storage.as_ref(), &format!("{}/{name}", self.dir), content)
    }

    /// Where a unit's parts are written before they are staged.
    pub(super) fn unit(&self, id: &str) -> io::Result<PathBuf> {
        self.storage.spool(&format!("{}/units/{id}", self.dir))
    }

    /// Fails when the output may be another run's by now.
    pub(super) fn check_lock(&self) -> Result<()> {
        self.lock.check()
    }

    /// Publishes the staged parts: `manifest` names all files of the output, `replaced` are files that it had
    /// before; the manifests of units are kept for a later run, save those of `obsolete` ones, or not at all.
    pub(super) fn commit_staged(
        &self,
        manifest: Value,
        replaced: &[String],
        obsolete: &[String],
        keep_units: bool,
    ) -> Result<()> {
        failpoint("publish.begun");
        let plan = json!({
            "version": 1,
            "replaced": replaced,
            "manifest": manifest,
            "units": {"obsolete": obsolete, "keep": keep_units},
        });
        self.decide(&plan)
    }

    /// Publishes the parts, which are `names`, replacing `replaced`.
    pub(super) fn commit(
        &self,
        manifest: Value,
        names: &[String],
        replaced: &[String],
    ) -> Result<()> {
        let parts = names.iter().map(|name| Ok((self.part(name)?, self.data(name))));
        let kept = parts
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| super::disk::write_error(&self.storage.shown(""), error));
        let plan = json!({"version": 1, "replaced": replaced, "manifest": manifest});
        if let Err(error) = kept.and_then(|parts| self.storage.keep(&parts)) {
            self.discard();
            return Err(error);
        }
        self.decide(&plan)
    }

    /// From `plan.json` on, a failure keeps what the next run needs to finish the commit.
    fn decide(&self, plan: &Value) -> Result<()> {
        self.check_lock()?;
        write_json(self.storage.as_ref(), &format!("{}/{PLAN}", self.dir), plan)?;
        failpoint("publish.planned");
        apply(self.storage.as_ref(), &self.dir)?;
        failpoint("publish.cleaned");
        self.clean();
        Ok(())
    }

    /// Throws the run away, and the folders that it made for itself.
    pub(super) fn discard(&self) {
        // Best effort: what stays is in `_hfauto/tmp`, and the next run removes it.
        let _ = self.storage.remove_folder(&self.dir);
        self.clean();
    }

    fn clean(&self) {
        self.lock.release();
        self.storage.prune();
    }
}

/// Whether the output is marked as whole.
pub(super) fn is_marked(storage: &dyn Storage) -> Result<bool> {
    Ok(storage.read(SUCCESS)?.is_some())
}

/// When the output was marked as whole.
pub(super) fn marked_at(storage: &dyn Storage) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
    storage.modified(SUCCESS)
}

/// Whether the output says of itself that it is one.
pub(super) fn is_committed(storage: &dyn Storage) -> Result<bool> {
    Ok(storage.read(MANIFEST)?.is_some() || is_marked(storage)?)
}

/// Whether an output was published in units, or is about to be: whoever opens it finds out by which job.
pub(super) fn is_of_units(storage: &dyn Storage) -> Result<bool> {
    if summary(storage).is_ok_and(|summary| summary.is_some_and(|summary| summary.job.is_some())) {
        return Ok(true);
    }
    for dir in run_dirs(storage)? {
        let plan = read_json(storage, &format!("{dir}/{PLAN}"));
        if plan.is_ok_and(|plan| plan.is_some_and(|plan| plan.get("units").is_some())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a manifest says of the whole; of its files nothing is kept.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Summary {
    /// The job in units that published the output.
    #[serde(default)]
    pub(super) job: Option<String>,
    #[serde(default)]
    pub(super) rows: u64,
}

/// The manifest of an output that is marked as whole.
pub(super) fn summary(storage: &dyn Storage) -> Result<Option<Summary>> {
    match storage.read(MANIFEST)? {
        Some(text) if is_marked(storage)? => {
            serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(storage, MANIFEST, e))
        }
        _ => Ok(None),
    }
}

/// The files that earlier runs wrote into the folder: its manifest, and commits cut short.
pub(super) fn known_files(storage: &dyn Storage) -> Result<Vec<String>> {
    let mut known = Vec::new();
    if let Some(manifest) = read_json(storage, MANIFEST)? {
        known.extend(manifest_files(storage, &manifest, MANIFEST)?);
    }
    for dir in run_dirs(storage)? {
        let plan = format!("{dir}/{PLAN}");
        if let Some(read) = read_json(storage, &plan)? {
            known.extend(manifest_files(storage, &read["manifest"], &plan)?);
            known.extend(names(storage, &read["replaced"], &plan)?);
        }
    }
    Ok(known)
}

/// Finishes or removes what dead runs left; the caller holds the lock alone.
fn recover(storage: &dyn Storage) -> Result<()> {
    for dir in run_dirs(storage)? {
        if storage.read(&format!("{dir}/{PLAN}"))?.is_some() {
            apply(storage, &dir)?;
        } else {
            storage.remove_folder(&dir)?;
        }
    }
    Ok(())
}

/// The folders of runs, in the order of their beginnings.
pub(super) fn run_dirs(storage: &dyn Storage) -> Result<Vec<String>> {
    let folders = storage.folders(TMP)?.into_iter();
    Ok(folders
        .filter(|name| name.starts_with("run-"))
        .map(|name| format!("{TMP}/{name}"))
        .collect())
}

/// Carries out the plan of a run. Every step may be repeated.
fn apply(storage: &dyn Storage, dir: &str) -> Result<()> {
    let plan_path = format!("{dir}/{PLAN}");
    // Without a plan nothing was decided.
    let Some(plan) = read_json(storage, &plan_path)? else { return Ok(()) };
    let manifest = &plan["manifest"];
    let files = manifest_files(storage, manifest, &plan_path)?;
    let replaced = names(storage, &plan["replaced"], &plan_path)?;
    let units = plan.get("units");
    let data = if units.is_some() { STAGED.to_owned() } else { format!("{dir}/data") };
    storage.remove_all(&[SUCCESS.to_owned(), MANIFEST.to_owned()])?;
    failpoint("publish.unmarked");
    storage.publish(&data, &files)?;
    failpoint("publish.renamed");
    let files: BTreeSet<String> = files.into_iter().collect();
    let gone: Vec<String> = replaced.into_iter().filter(|file| !files.contains(file)).collect();
    storage.remove_all(&gone)?;
    failpoint("publish.removed");
    write_json(storage, MANIFEST, manifest)?;
    failpoint("publish.manifest");
    storage.write(SUCCESS, b"")?;
    failpoint("publish.marked");
    if let Some(units) = units {
        let obsolete = names(storage, &units["obsolete"], &plan_path)?;
        let obsolete = obsolete.into_iter().map(|id| format!("{UNITS}/{id}.json"));
        storage.remove_all(&obsolete.collect::<Vec<_>>())?;
        if units["keep"] != Value::Bool(true) {
            storage.remove_folder(UNITS)?;
        }
        storage.remove_folder(STAGED)?;
    }
    storage.remove_folder(dir)
}

pub(super) fn write_json(storage: &dyn Storage, name: &str, content: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the manifest").source(error)
    })?;
    text.push(b'\n');
    storage.write(name, &text)
}

/// A file of JSON; `None` when it is not there.
pub(super) fn read_json(storage: &dyn Storage, name: &str) -> Result<Option<Value>> {
    let text = storage.read(name)?;
    text.map(|text| serde_json::from_slice(&text).map_err(|e| unreadable(storage, name, e)))
        .transpose()
}

fn unreadable(storage: &dyn Storage, name: &str, error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot read `{}`", storage.shown(name).display()))
        .source(error)
        .hint("move the folder away or choose another `sink.path`")
}

fn manifest_files(storage: &dyn Storage, manifest: &Value, name: &str) -> Result<Vec<String>> {
    let files = manifest["files"].as_array().map_or(&[][..], Vec::as_slice);
    let listed = files.iter().map(|file| file["path"].clone()).collect();
    names(storage, &Value::Array(listed), name)
}

/// Relative paths that stay inside the folder; anything else is no manifest of ours.
pub(super) fn names(storage: &dyn Storage, list: &Value, name: &str) -> Result<Vec<String>> {
    let names = list
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|name| name.as_str().filter(|name| stays_inside(name)));
    names.map(|name| name.map(str::to_owned)).collect::<Option<_>>().ok_or_else(|| {
        let shown = storage.shown(name);
        Error::new(ErrorKind::Sink, format!("`{}` is not a manifest", shown.display()))
            .hint("move the folder away or choose another `sink.path`")
    })
}

pub(super) fn stays_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::storage::{LocalStorage, Shard};
    use super::*;

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

    fn manifest(files: &[&str]) -> Value {
        json!({"files": files.iter().map(|file| json!({"path": file})).collect::<Vec<_>>()})
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
        first.commit(manifest(&["a/old", "b/both"]), &parts, &[]).unwrap();
        assert_eq!(tree(&root), ["_SUCCESS", "_hfauto/MANIFEST.json", "a/old", "b/both"]);
        drop(first);

        let second = start(&root).unwrap();
        for part in ["b/both", "c/new"] {
            fs::write(second.part(part).unwrap(), "2").unwrap();
        }
        let plan = json!({
            "version": 1, "replaced": parts, "manifest": manifest(&["b/both", "c/new"])
        });
        write_json(second.storage.as_ref(), &format!("{}/{PLAN}", second.dir), &plan).unwrap();
        // The process dies after the first rename: no discard runs, the lock is freed.
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
        assert!(!root.join(META).exists());
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
            let error = Run::start(&storage, hold).unwrap_err();
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

    #[test]
    fn a_manifest_cannot_point_outside() {
        let storage = local(Path::new("out"));
        for name in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(names(storage.as_ref(), &json!([name]), "m").is_err(), "{name}");
        }
        assert_eq!(names(storage.as_ref(), &json!(["a=b/c"]), "m").unwrap(), ["a=b/c"]);
    }
}
