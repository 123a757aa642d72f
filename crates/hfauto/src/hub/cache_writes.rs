//! Writing to the cache: blobs, the links to them, locks, and notes of what the hub answered. Python's `huggingface_hub`
//! may use the same folder at the same time. Not here: the layout, and reading (`cache`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::{RepoCache, is_commit};

impl RepoCache {
    /// Remembers that `revision` is `commit`.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> io::Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir().join("refs").join(revision);
        let temporary = beside(&path)?;
        fs::write(&temporary, commit)?;
        fs::rename(&temporary, &path)
    }

    /// Remembers that the repository has no `file` at `commit`, so that nobody asks again.
    pub(super) fn set_absent(&self, commit: &str, file: &str) -> io::Result<()> {
        let marker = self.no_exist(commit, file);
        if marker.exists() {
            return Ok(());
        }
        if let Some(parent) = marker.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new().create(true).append(true).open(&marker).map(drop)
    }

    /// Where the content with this etag lies.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    /// Lets `file` at `commit` appear, as a link to its blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> io::Result<()> {
        let pointer = self.snapshot_dir(commit).join(file);
        if pointer.is_file() {
            return Ok(());
        }
        let temporary = beside(&pointer)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let linked = symlink(Path::new(&format!("{up}blobs/{etag}")), &temporary);
        if linked.is_err() {
            // The file system knows no links: a copy takes space, but is as good.
            fs::copy(self.blob(etag), &temporary)?;
        }
        fs::rename(&temporary, &pointer)
    }

    /// Waits until no other process, Python's included, transfers the blob with this etag.
    pub(super) async fn lock(&self, etag: &str) -> io::Result<Lock> {
        fs::create_dir_all(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let mut told = false;
        loop {
            // Never truncated: the file may be the content of another holder's lock.
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            match file.try_lock() {
                // The holder before us may have removed the file: then our lock is on no name.
                Ok(()) if is_named(&file) => return Ok(Lock(Some(file))),
                Ok(()) => {}
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Lock(None));
                }
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!(lock = %path.display(), "another download holds the lock");
                        told = true;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The right to write one blob, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(Option<File>);

impl Lock {
    /// Whether nobody else writes the blob. Not so where the file system has no locks.
    pub(super) fn is_exclusive(&self) -> bool {
        self.0.is_some()
    }

    /// Where the blob grows: under the name that the next writer continues, or, where there are no
    /// locks, under one that nobody else has.
    pub(super) fn incomplete(&self, blob: &Path) -> PathBuf {
        let mut name = blob.as_os_str().to_owned();
        if !self.is_exclusive() {
            name.push(format!(".{}", unique()));
        }
        name.push(".incomplete");
        PathBuf::from(name)
    }
}

/// A text that no other call and no other process has.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A free name in the folder of `path`, which is made if it is missing.
fn beside(path: &Path) -> io::Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", unique()));
    let free = path.with_file_name(name);
    // Left by a process that had our number and was killed.
    if free.symlink_metadata().is_ok() {
        fs::remove_file(&free)?;
    }
    Ok(free)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_named(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

#[cfg(not(unix))]
fn is_named(_file: &File) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::super::cache::RepoId;
    use super::super::files::Has;
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache() -> (tempfile::TempDir, RepoCache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &RepoId::parse("org/name").unwrap());
        (dir, cache)
    }

    #[test]
    fn keeps_pythons_layout() {
        let (dir, cache) = cache();
        fs::create_dir_all(dir.path().join("models--org--name/blobs")).unwrap();
        fs::write(cache.blob("etag"), "content").unwrap();
        cache.link(COMMIT, "1_Pooling/config.json", "etag").unwrap();
        cache.link(COMMIT, "1_Pooling/config.json", "etag").unwrap();
        let pointer = cache.snapshot_dir(COMMIT).join("1_Pooling/config.json");
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
        #[cfg(unix)]
        assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../../blobs/etag"));
        assert_eq!(fs::read_dir(pointer.parent().unwrap()).unwrap().count(), 1);

        assert_eq!(cache.commit("main"), None);
        cache.set_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("refs/pr/1").as_deref(), Some(COMMIT));
        let written = dir.path().join("models--org--name/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(written).unwrap(), COMMIT);

        assert_eq!(cache.has(COMMIT, "1_Pooling/config.json"), Has::Yes);
        assert_eq!(cache.has(COMMIT, "modules.json"), Has::Unknown);
        cache.set_absent(COMMIT, "modules.json").unwrap();
        assert_eq!(cache.has(COMMIT, "modules.json"), Has::No);
    }

    #[test]
    fn without_locks_every_writer_has_its_own_file() {
        let (_dir, cache) = cache();
        let blob = cache.blob("etag");
        let names = [Lock(None).incomplete(&blob), Lock(None).incomplete(&blob)];
        assert_ne!(names[0], names[1]);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Lock(Some(file)).incomplete(&blob), blob.with_file_name("etag.incomplete"));
    }

    #[test]
    fn one_writer_at_a_time() {
        let (_dir, cache) = cache();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let held = cache.lock("etag").await.unwrap();
            let short = Duration::from_millis(150);
            assert!(tokio::time::timeout(short, cache.lock("etag")).await.is_err());
            assert!(tokio::time::timeout(short, cache.lock("other")).await.is_ok());
            drop(held);
            assert!(tokio::time::timeout(short, cache.lock("etag")).await.unwrap().is_ok());
        });
    }
}
