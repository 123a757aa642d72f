//! Writes to the cache: blobs, links to them, locks, and what the hub reported. Python's `huggingface_hub` may use the
//! same folder concurrently. Not here: the layout, and reading (`cache`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::RepoCache;
use super::repo::is_commit;

impl RepoCache {
    /// Records that `revision` resolved to `commit`.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> io::Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir().join("refs").join(revision);
        let temporary = beside(&path)?;
        fs::write(&temporary, commit)?;
        fs::rename(&temporary, &path)
    }

    /// Records that the repository has no `file` at `commit`, to save later requests.
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

    /// The path of the blob with this etag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    /// Makes `file` visible at `commit`, as a link to its blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> io::Result<()> {
        let pointer = self.snapshot_dir(commit).join(file);
        if pointer.is_file() {
            return Ok(());
        }
        let temporary = beside(&pointer)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let linked = symlink(Path::new(&format!("{up}blobs/{etag}")), &temporary);
        if linked.is_err() {
            // The file system has no symbolic links. A copy costs space but serves as well.
            fs::copy(self.blob(etag), &temporary)?;
        }
        fs::rename(&temporary, &pointer)
    }

    /// Waits until no other process, including Python's, downloads the blob with this etag.
    pub(super) async fn lock(&self, etag: &str) -> io::Result<Lock> {
        fs::create_dir_all(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let mut told = false;
        loop {
            // Never truncated: another process may hold the lock and have written to the file.
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            match file.try_lock() {
                // The previous holder may have removed the file; the lock would then be on an unlinked file.
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

/// An exclusive lock on one blob, released on drop.
#[derive(Debug)]
pub(super) struct Lock(Option<File>);

impl Lock {
    /// Whether the lock excludes other writers. False on file systems without locks.
    pub(super) fn is_exclusive(&self) -> bool {
        self.0.is_some()
    }

    /// The path of the partial download. The next writer resumes from this name; without locks, each writer gets a
    /// unique name instead.
    pub(super) fn incomplete(&self, blob: &Path) -> PathBuf {
        let mut name = blob.as_os_str().to_owned();
        if !self.is_exclusive() {
            name.push(format!(".{}", unique()));
        }
        name.push(".incomplete");
        PathBuf::from(name)
    }
}

/// A text that is unique across calls and processes.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An unused temporary name in the folder of `path`. Creates the folder if it is missing.
fn beside(path: &Path) -> io::Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", unique()));
    let free = path.with_file_name(name);
    // Left by a killed process with the same process id.
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
    use super::super::files::Has;
    use super::super::repo::RepoId;
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
