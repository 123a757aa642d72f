//! The pipeline files of a folder, reloaded when they change. Not here: when they are due.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use crate::config::pipeline::Pipeline;
use crate::config::{self, LoadOptions};
use crate::error::{Error, ErrorKind, Result};

/// A folder of pipeline files, as of the last scan.
pub struct Folder {
    path: PathBuf,
    options: LoadOptions,
    files: BTreeMap<String, Entry>,
}

/// A pipeline file.
pub struct Entry {
    stamp: Stamp,
    /// The pipeline, or the errors in its file.
    pub pipeline: Result<Pipeline>,
}

impl Entry {
    /// When the file was last changed or moved here, according to its file system.
    pub fn changed_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.stamp.changed.0, 0)
    }
}

/// Identifies a version of a file. The change time also detects a file that was moved here with its old modification
/// time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

/// How a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file is new.
    Added,
    /// The file has other content.
    Changed,
    /// The file was removed.
    Removed,
}

impl Folder {
    /// A folder that has not been scanned yet.
    pub fn new(path: &Path, options: LoadOptions) -> Self {
        Self { path: path.to_path_buf(), options, files: BTreeMap::new() }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the folder can be read.
    ///
    /// # Errors
    /// `NoInput` when it cannot.
    pub fn check(&self) -> Result<()> {
        fs::read_dir(&self.path).map(drop).map_err(|error| self.unreadable(error))
    }

    /// The files, by name.
    pub fn files(&self) -> &BTreeMap<String, Entry> {
        &self.files
    }

    /// Scans the folder, reloads new and changed files, and returns the changes by name.
    ///
    /// # Errors
    /// `NoInput` when the folder cannot be read; the known files are kept.
    pub fn look(&mut self) -> Result<Vec<(String, Change)>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(|error| self.unreadable(error))? {
            let entry = entry.map_err(|error| self.unreadable(error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Editors keep temporary files beside a file, with a leading dot.
            if name.starts_with('.') || !(name.ends_with(".yaml") || name.ends_with(".yml")) {
                continue;
            }
            // Follows links, because a ConfigMap of Kubernetes swaps their targets. A file that vanished meanwhile
            // counts as removed.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_file() {
                found.insert(name, Stamp::of(&metadata));
            }
        }
        let gone = self.files.keys().filter(|name| !found.contains_key(*name));
        let mut changes: Vec<_> = gone.map(|name| (name.clone(), Change::Removed)).collect();
        self.files.retain(|name, _| found.contains_key(name));
        for (name, stamp) in found {
            let change = match self.files.get(&name) {
                None => Change::Added,
                Some(entry) if entry.stamp != stamp => Change::Changed,
                Some(_) => continue,
            };
            let pipeline = config::load(&self.path.join(&name), &self.options);
            self.files
                .insert(name.clone(), Entry { stamp, pipeline: pipeline.map_err(Error::from) });
            changes.push((name, change));
        }
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(changes)
    }

    fn unreadable(&self, error: io::Error) -> Error {
        Error::new(ErrorKind::NoInput, format!("cannot read the folder `{}`", self.path.display()))
            .source(error)
            .hint("set it to a folder of pipeline files")
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_and_only_changes() {
        let dir = tempfile::tempdir().unwrap();
        let good = "version: 1\nsource: {path: a.csv}\nsink: {path: out/}\n";
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", good);
        write("a.yml", "version: 1\n");
        write(".a.yaml", good);
        write("schema.json", "{}");
        fs::create_dir(dir.path().join("folder.yaml")).unwrap();
        let mut folder = Folder::new(dir.path(), LoadOptions::default());
        let named = |name: &str, change| (name.to_owned(), change);
        assert_eq!(
            folder.look().unwrap(),
            [named("a.yml", Change::Added), named("b.yaml", Change::Added)]
        );
        assert!(folder.files()["a.yml"].pipeline.is_err());
        assert_eq!(folder.look().unwrap(), []);
        write("a.yml", good);
        write("c.yaml", good);
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        assert_eq!(
            folder.look().unwrap(),
            [
                named("a.yml", Change::Changed),
                named("b.yaml", Change::Removed),
                named("c.yaml", Change::Added),
            ]
        );
        assert!(folder.files()["a.yml"].pipeline.is_ok());
        // Replaced by a file of the same size and time.
        let path = dir.path().join("c.yaml");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        write("new", &good.replace("a.csv", "b.csv"));
        let new = fs::File::options().write(true).open(dir.path().join("new")).unwrap();
        new.set_modified(modified).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(folder.look().unwrap(), [named("c.yaml", Change::Changed)]);

        // A folder that is missing for a while loses no files.
        let away = dir.path().with_extension("away");
        fs::rename(dir.path(), &away).unwrap();
        assert_eq!(folder.look().unwrap_err().kind(), ErrorKind::NoInput);
        fs::rename(&away, dir.path()).unwrap();
        assert_eq!(folder.look().unwrap(), []);
    }
}
