//! One model's folder in the Hugging Face cache, in the layout that Python's `huggingface_hub` reads
//! and writes: `models--org--name/{blobs,refs,snapshots,.no_exist}`, with locks in `.locks`. Not here:
//! the transfer of a blob ([`super::transfer`]).

use std::fs;
use std::path::{Path, PathBuf};

use super::files::Has;
use crate::error::{Error, ErrorKind, Result};

/// A repository name on the hub: `org/name`, or `name` for the oldest models.
#[derive(Clone, Debug)]
pub(super) struct RepoId(String);

impl RepoId {
    /// # Errors
    /// `Hub` when `text` cannot be a hub id; it may be a mistyped directory.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("..")
                && !part.contains("--")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if parts.len() > 2 || text.len() > 96 || !parts.iter().all(word) {
            return Err(Error::new(
                ErrorKind::Hub,
                format!("`{text}` is neither an existing directory nor a hub id"),
            )
            .hint("a hub id is `org/name`; a directory is relative to the working directory"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `revision` is a full commit hash and needs no request.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn distinguishes_hub_ids_from_paths() {
        for id in ["gpt2", "org/name", "sentence-transformers/all-MiniLM-L6-v2", "a_b/c.d"] {
            assert!(RepoId::parse(id).is_ok(), "{id}");
        }
        for path in ["", "./m", "../m", "/m", "a/b/c", "a//b", "a b", "a--b", "-a", "ä", "a/.b"] {
            assert!(RepoId::parse(path).is_err(), "{path}");
        }
        assert!(is_commit(COMMIT) && !is_commit("main") && !is_commit(&COMMIT[1..]));
    }
}
