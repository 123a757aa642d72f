//! The pipeline files of a folder, read again when they change. Not here: when they are due.

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

/// A folder of pipeline files, as it was last looked at.
pub struct Folder {
    path: PathBuf,
    options: LoadOptions,
    files: BTreeMap<String, Entry>,
}

/// A pipeline file.
pub struct Entry {
    stamp: Stamp,
    /// The pipeline, or what is wrong with its file.
    pub pipeline: Result<Pipeline>,
}

impl Entry {
    /// When the file was put here, as far as its file system says.
    pub fn changed_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.stamp.changed.0, 0)
    }
}

/// What tells a file from the one that was there before. The change time also tells a file that was moved here
/// with its old times.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there for the first time.
    Added,
    /// It is not what it was.
    Changed,
    /// It is gone.
    Removed,
}

impl Folder {
    /// A folder that was not looked at yet.
    pub fn new(path: &Path, options: LoadOptions) -> Self {
        Self { path: path.to_path_buf(), options, files: BTreeMap::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can be read at all.
    ///
    /// # Errors
    /// `NoInput` when it cannot.
    pub fn check(&self) -> Result<()> {
        fs::read_dir(&self.path).map(drop).map_err(|error| self.unreadable(error))
    }

    /// The files, by their names.
    pub fn files(&self) -> &BTreeMap<String, Entry> {
        &self.files
    }

    /// Looks at the folder, reads what is new or has changed, and says what that is, by name.
    ///
    /// # Errors
    /// `NoInput` when the folder cannot be read; what is known of it stays.
    pub fn look(&mut self) -> Result<Vec<(String, Change)>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(|error| self.unreadable(error))? {
            let entry = entry.map_err(|error| self.unreadable(error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Editors keep their own files beside a file, under a point.
            if name.starts_with('.') || !(name.ends_with(".yaml") || name.ends_with(".yml")) {
                continue;
            }
            // Through links: a ConfigMap of Kubernetes exchanges what they point at. A file that has gone
            // since is seen as gone.
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
            .hint("name a folder of pipeline files")
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
        // Exchanged for one of the same size and time.
        let path = dir.path().join("c.yaml");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        write("new", &good.replace("a.csv", "b.csv"));
        let new = fs::File::options().write(true).open(dir.path().join("new")).unwrap();
        new.set_modified(modified).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(folder.look().unwrap(), [named("c.yaml", Change::Changed)]);

        // A folder that is away for a while takes nothing with it.
        let away = dir.path().with_extension("away");
        fs::rename(dir.path(), &away).unwrap();
        assert_eq!(folder.look().unwrap_err().kind(), ErrorKind::NoInput);
        fs::rename(&away, dir.path()).unwrap();
        assert_eq!(folder.look().unwrap(), []);
    }
}
