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
//! it is removed before the first rename. Not here: what is in the files.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::disk::{remove_file, sync_folder, write_error};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;

pub(super) const META: &str = "_hfauto";
const SUCCESS: &str = "_SUCCESS";
/// Parts of finished units that are not published yet.
pub(super) const STAGED: &str = "staged";
/// Manifests of finished units.
pub(super) const UNITS: &str = "units";
const PLAN: &str = "plan.json";

/// Takes a lock file, or says that another run has it.
pub(super) fn lock(path: &Path, output: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| write_error(output, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Resources,
                    format!("another run is writing `{}`", output.display()),
                )
                .hint("wait for it, or choose another `sink.path`"));
            }
            Err(TryLockError::Error(error)) => return Err(write_error(path, error)),
        }
        // The run before may have removed the file between our open and our lock.
        let ours = file.metadata().map_err(|error| write_error(path, error))?.ino();
        if fs::metadata(path).is_ok_and(|current| current.ino() == ours) {
            return Ok(file);
        }
    }
}

/// A folder's run in progress.
#[derive(Debug)]
pub(super) struct Run {
    root: PathBuf,
    dir: PathBuf,
    _lock: File,
    created: Vec<PathBuf>,
}

impl Run {
    /// Locks the folder, finishes or throws away what dead runs left, and makes room for this one.
    pub(super) fn start(root: &Path) -> Result<Self> {
        let mut created = Vec::new();
        let meta = root.join(META);
        let tmp = meta.join("tmp");
        make_folders(&tmp, &mut created).map_err(|error| write_error(root, error))?;
        let started = lock(&meta.join("lock"), root).and_then(|lock| {
            failpoint("lock.taken");
            recover(root)?;
            let dir = tempfile::Builder::new()
                .prefix("run-")
                .tempdir_in(&tmp)
                .map_err(|error| write_error(root, error))?
                .keep();
            Ok((dir, lock))
        });
        match started {
            Ok((dir, lock)) => {
                let run = Self { root: root.to_owned(), dir, _lock: lock, created };
                let data = run.dir.join("data");
                fs::create_dir(&data).map_err(|error| write_error(root, error))?;
                Ok(run)
            }
            Err(error) => {
                remove_created(&created);
                Err(error)
            }
        }
    }

    /// Where a part is written before the commit; its folder is made.
    pub(super) fn part(&self, relative: &str) -> io::Result<PathBuf> {
        place(&self.dir.join("data"), relative)
    }

    /// Says for others to read what this run is.
    pub(super) fn say(&self, name: &str, content: &Value) -> Result<()> {
        write_atomically(&self.dir.join(name), content, &self.root)
    }

    /// Where a unit's parts are written before they are staged.
    pub(super) fn unit(&self, id: &str) -> PathBuf {
        self.dir.join(UNITS).join(id)
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
        write_atomically(&self.dir.join(PLAN), &plan, &self.root)?;
        failpoint("publish.planned");
        apply(&self.root, &self.dir)?;
        failpoint("publish.cleaned");
        self.clean();
        Ok(())
    }

    /// Publishes the parts, replacing `replaced`.
    pub(super) fn commit(&self, manifest: Value, replaced: &[String]) -> Result<()> {
        if let Err(error) = self.plan(manifest, replaced) {
            if !self.dir.join(PLAN).exists() {
                self.discard();
            }
            return Err(error);
        }
        apply(&self.root, &self.dir)?;
        self.clean();
        Ok(())
    }

    fn plan(&self, manifest: Value, replaced: &[String]) -> Result<()> {
        let plan = json!({"version": 1, "replaced": replaced, "manifest": manifest});
        sync_tree(&self.dir.join("data"))?;
        write_atomically(&self.dir.join(PLAN), &plan, &self.root)
    }

    /// Throws the run away, and the folders that it made for itself.
    pub(super) fn discard(&self) {
        // Best effort: what stays is in `_hfauto/tmp`, and the next run removes it.
        let _ = fs::remove_dir_all(&self.dir);
        self.clean();
    }

    fn clean(&self) {
        let meta = self.root.join(META);
        let _ = fs::remove_file(meta.join("lock"));
        // Fails, rightly, while something is inside.
        let _ = fs::remove_dir(meta.join("tmp"));
        let _ = fs::remove_dir(&meta);
        remove_created(&self.created);
    }
}

/// Whether the output is marked as whole.
pub(super) fn is_marked(root: &Path) -> bool {
    root.join(SUCCESS).exists()
}

/// Whether the folder says of itself that it is an output.
pub(super) fn is_committed(root: &Path) -> bool {
    root.join(META).join("MANIFEST.json").exists() || root.join(SUCCESS).exists()
}

/// Whether an output was published in units, or is about to be: whoever opens it finds out by which job.
pub(super) fn is_of_units(root: &Path) -> bool {
    let is_planned =
        |dir: PathBuf| read_json(&dir.join(PLAN)).is_ok_and(|plan| plan.get("units").is_some());
    job(root).is_ok_and(|job| job.is_some())
        || run_dirs(root).is_ok_and(|dirs| dirs.into_iter().any(is_planned))
}

/// The job in units that published the output.
pub(super) fn job(root: &Path) -> Result<Option<String>> {
    let manifest = root.join(META).join("MANIFEST.json");
    if !manifest.exists() || !root.join(SUCCESS).exists() {
        return Ok(None);
    }
    Ok(read_json(&manifest)?["job"].as_str().map(str::to_owned))
}

/// The rows of the output.
pub(super) fn rows(root: &Path) -> Result<u64> {
    let manifest = root.join(META).join("MANIFEST.json");
    Ok(read_json(&manifest)?["rows"].as_u64().unwrap_or_default())
}

/// The files that earlier runs wrote into the folder: its manifest, and commits cut short.
pub(super) fn known_files(root: &Path) -> Result<Vec<String>> {
    let mut known = Vec::new();
    let manifest = root.join(META).join("MANIFEST.json");
    if manifest.exists() {
        known.extend(manifest_files(&read_json(&manifest)?, &manifest)?);
    }
    for dir in run_dirs(root)? {
        let plan = dir.join(PLAN);
        if plan.exists() {
            let read = read_json(&plan)?;
            known.extend(manifest_files(&read["manifest"], &plan)?);
            known.extend(names(&read["replaced"], &plan)?);
        }
    }
    Ok(known)
}

/// Finishes or removes what dead runs left; the caller holds the lock.
fn recover(root: &Path) -> Result<()> {
    for dir in run_dirs(root)? {
        if dir.join(PLAN).exists() {
            apply(root, &dir)?;
        } else {
            fs::remove_dir_all(&dir).map_err(|error| write_error(root, error))?;
        }
    }
    Ok(())
}

pub(super) fn run_dirs(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root.join(META).join("tmp")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(write_error(root, error)),
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| write_error(root, error))?;
        if entry.file_name().to_string_lossy().starts_with("run-") {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// Carries out the plan of a run. Every step may be repeated.
fn apply(root: &Path, dir: &Path) -> Result<()> {
    let plan_path = dir.join(PLAN);
    let plan = read_json(&plan_path)?;
    let manifest = &plan["manifest"];
    let files = manifest_files(manifest, &plan_path)?;
    let manifest_path = root.join(META).join("MANIFEST.json");
    let staged = root.join(META).join(STAGED);
    let units = plan.get("units");
    let data = if units.is_some() { staged.clone() } else { dir.join("data") };
    remove_file(&root.join(SUCCESS))?;
    remove_file(&manifest_path)?;
    sync_folder(root)?;
    failpoint("publish.unmarked");
    let mut folders = BTreeSet::from([root.to_owned()]);
    for file in &files {
        let from = data.join(file);
        let to = root.join(file);
        if from.exists() {
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(|error| write_error(&to, error))?;
                folders.extend(
                    folder.ancestors().take_while(|f| f.starts_with(root)).map(Path::to_owned),
                );
            }
            fs::rename(&from, &to).map_err(|error| write_error(&to, error))?;
        }
    }
    failpoint("publish.renamed");
    let files: BTreeSet<String> = files.into_iter().collect();
    for file in names(&plan["replaced"], &plan_path)? {
        if !files.contains(&file) {
            remove_file(&root.join(&file))?;
            // Folders of partitions that are no more.
            for folder in Path::new(&file).ancestors().skip(1) {
                if folder.as_os_str().is_empty() || fs::remove_dir(root.join(folder)).is_err() {
                    break;
                }
                folders.remove(&root.join(folder));
            }
        }
    }
    for folder in folders.iter().rev() {
        sync_folder(folder)?;
    }
    failpoint("publish.removed");
    write_atomically(&manifest_path, manifest, root)?;
    failpoint("publish.manifest");
    let success = root.join(SUCCESS);
    File::create(&success)
        .and_then(|file| file.sync_all())
        .map_err(|error| write_error(&success, error))?;
    sync_folder(root)?;
    failpoint("publish.marked");
    if let Some(units) = units {
        let folder = root.join(META).join(UNITS);
        for id in names(&units["obsolete"], &plan_path)? {
            remove_file(&folder.join(format!("{id}.json")))?;
        }
        if units["keep"] != Value::Bool(true) {
            remove_folder(&folder)?;
        }
        remove_folder(&staged)?;
    }
    fs::remove_dir_all(dir).map_err(|error| write_error(dir, error))
}

/// Removes a folder that may be gone already.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(folder, error)),
        _ => Ok(()),
    }
}

/// The path of `relative` in `folder`; the folders that it needs are made.
pub(super) fn place(folder: &Path, relative: &str) -> io::Result<PathBuf> {
    let path = folder.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(path)
}

pub(super) fn write_atomically(path: &Path, content: &Value, output: &Path) -> Result<()> {
    let part = path.with_extension("part");
    let mut text = serde_json::to_vec_pretty(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the manifest").source(error)
    })?;
    text.push(b'\n');
    File::create(&part)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&part, path))
        .map_err(|error| write_error(output, error))?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| write_error(folder, error))? {
        let path = entry.map_err(|error| write_error(folder, error))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        }
    }
    sync_folder(folder)
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Sink, format!("cannot read `{}`", path.display()))
            .source(error)
            .hint("move the folder away or choose another `sink.path`")
    };
    let text = fs::read(path).map_err(|error| unreadable(error.into()))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(error.into()))
}

fn manifest_files(manifest: &Value, path: &Path) -> Result<Vec<String>> {
    let files = manifest["files"].as_array().map_or(&[][..], Vec::as_slice);
    let listed = files.iter().map(|file| file["path"].clone()).collect();
    names(&Value::Array(listed), path)
}

/// Relative paths that stay inside the folder; anything else is no manifest of ours.
pub(super) fn names(list: &Value, path: &Path) -> Result<Vec<String>> {
    let names = list.as_array().map_or(&[][..], Vec::as_slice).iter().map(|name| {
        name.as_str().filter(|name| {
            let mut parts = Path::new(name).components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        })
    });
    names.map(|name| name.map(str::to_owned)).collect::<Option<_>>().ok_or_else(|| {
        Error::new(ErrorKind::Sink, format!("`{}` is not a manifest", path.display()))
            .hint("move the folder away or choose another `sink.path`")
    })
}

/// Makes a folder and its parents, noting those that were not there.
pub(super) fn make_folders(folder: &Path, created: &mut Vec<PathBuf>) -> io::Result<()> {
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_owned)
        .collect();
    fs::create_dir_all(folder)?;
    created.extend(missing);
    Ok(())
}

/// Removes folders that [`make_folders`] made and that nothing was put in, innermost first.
pub(super) fn remove_created(created: &[PathBuf]) {
    for folder in created {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_commit_that_was_cut_short_is_finished_by_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        let first = Run::start(&root).unwrap();
        for part in ["a/old", "b/both"] {
            fs::write(first.part(part).unwrap(), "1").unwrap();
        }
        first.commit(manifest(&["a/old", "b/both"]), &[]).unwrap();
        assert_eq!(tree(&root), ["_SUCCESS", "_hfauto/MANIFEST.json", "a/old", "b/both"]);
        drop(first);

        let second = Run::start(&root).unwrap();
        for part in ["b/both", "c/new"] {
            fs::write(second.part(part).unwrap(), "2").unwrap();
        }
        let replaced = ["a/old".to_owned(), "b/both".to_owned()];
        second.plan(manifest(&["b/both", "c/new"]), &replaced).unwrap();
        // The process dies after the first rename: no discard runs, the lock is freed.
        remove_file(&root.join(SUCCESS)).unwrap();
        fs::rename(second.dir.join("data/b/both"), root.join("b/both")).unwrap();
        drop(second);
        let mut known = known_files(&root).unwrap();
        known.sort();
        known.dedup();
        assert_eq!(known, ["a/old", "b/both", "c/new"]);

        let third = Run::start(&root).unwrap();
        third.discard();
        assert_eq!(tree(&root), ["_SUCCESS", "_hfauto/MANIFEST.json", "b/both", "c/new"]);
        assert!(!root.join("a").exists());
        assert_eq!(fs::read_to_string(root.join("b/both")).unwrap(), "2");
    }

    #[test]
    fn parts_without_a_plan_are_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/out");
        let dead = Run::start(&root).unwrap();
        fs::write(dead.part("part").unwrap(), "1").unwrap();
        drop(dead);
        let next = Run::start(&root).unwrap();
        assert_eq!(run_dirs(&root).unwrap(), std::slice::from_ref(&next.dir));
        next.discard();
        assert!(!root.join(META).exists());
    }

    #[test]
    fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::start(folder.path()).unwrap();
        let error = Run::start(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resources);
        run.discard();
        Run::start(folder.path()).unwrap().discard();
        assert_eq!(tree(folder.path()), [""; 0]);
    }

    #[test]
    fn a_manifest_cannot_point_outside() {
        for name in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(names(&json!([name]), Path::new("m")).is_err(), "{name}");
        }
        assert_eq!(names(&json!(["a=b/c"]), Path::new("m")).unwrap(), ["a=b/c"]);
    }
}
