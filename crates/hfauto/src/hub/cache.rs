//! One model's folder in the Hugging Face cache, in the layout that Python's `huggingface_hub` reads
//! and writes: `models--org--name/{blobs,refs,snapshots,.no_exist}`, with locks in `.locks`. Not here:
//! the transfer of a blob ([`super::transfer`]).

use std::fs;
use std::path::{Path, PathBuf};

use super::files::Has;
use super::repo::{RepoId, is_commit};

/// One model's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    /// `models--org--name`
    dir: PathBuf,
    #[cfg(feature = "hub")]
    pub(super) locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &RepoId) -> Self {
        let folder = format!("models--{}", repo.as_str().replace('/', "--"));
        Self {
            dir: cache_dir.join(&folder),
            #[cfg(feature = "hub")]
            locks: cache_dir.join(".locks").join(folder),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the files at `commit`.
    pub(super) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The commit that `revision` last resolved to.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.dir.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Whether the cache has `file` at `commit`.
    pub(super) fn has(&self, commit: &str, file: &str) -> Has {
        if self.snapshot_dir(commit).join(file).is_file() {
            Has::Yes
        } else if self.no_exist(commit, file).exists() {
            Has::No
        } else {
            Has::Unknown
        }
    }

    /// The marker file which records that the repository has no `file` at `commit`.
    pub(super) fn no_exist(&self, commit: &str, file: &str) -> PathBuf {
        self.dir.join(".no_exist").join(commit).join(file)
    }
}
