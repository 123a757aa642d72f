//! The name of a repository on the hub, and the names of its revisions. Not here: where its files are.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// What a repository holds. The paths of the hub's API depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepoKind {
    Model,
    #[cfg(feature = "hub")]
    Dataset,
}

/// The name of a repository on the hub: `org/name`, or `name` for the oldest models. `Display` also says its kind.
#[derive(Clone, Debug)]
pub(super) struct RepoId {
    kind: RepoKind,
    id: String,
}

impl RepoId {
    /// The id of a model.
    ///
    /// # Errors
    /// `Hub` when `text` cannot be a hub id; it may be a mistyped directory.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if !is_id(text, 1..=2) {
            return Err(Error::new(
                ErrorKind::Hub,
                format!("`{text}` is neither an existing directory nor a hub id"),
            )
            .hint("a hub id is `org/name`; a directory is relative to the working directory"));
        }
        Ok(Self { kind: RepoKind::Model, id: text.to_owned() })
    }

    /// The id of a dataset, `owner/name`.
    ///
    /// # Errors
    /// `Config` when `text` cannot be one.
    #[cfg(feature = "hub")]
    pub(super) fn dataset(text: &str) -> Result<Self> {
        if !is_id(text, 2..=2) {
            let message = format!("`{text}` is not the id of a dataset");
            return Err(Error::new(ErrorKind::Config, message)
                .hint("an id is `owner/name`, as on the page of the dataset"));
        }
        Ok(Self { kind: RepoKind::Dataset, id: text.to_owned() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.id
    }

    #[cfg(feature = "hub")]
    pub(super) fn kind(&self) -> RepoKind {
        self.kind
    }

    /// The path of its page and its files on the hub.
    #[cfg(feature = "hub")]
    pub(super) fn path(&self) -> String {
        match self.kind {
            RepoKind::Model => self.id.clone(),
            RepoKind::Dataset => format!("datasets/{}", self.id),
        }
    }

    /// The path of its API, below `/api`.
    #[cfg(feature = "hub")]
    pub(super) fn api(&self) -> String {
        match self.kind {
            RepoKind::Model => format!("models/{}", self.id),
            RepoKind::Dataset => format!("datasets/{}", self.id),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RepoKind::Model => "model",
            #[cfg(feature = "hub")]
            RepoKind::Dataset => "dataset",
        };
        write!(f, "{kind} `{}`", self.id)
    }
}

fn is_id(text: &str, parts: std::ops::RangeInclusive<usize>) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    parts.contains(&text.split('/').count()) && text.len() <= 96 && text.split('/').all(word)
}

/// Whether `revision` is a full commit hash and needs no request.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_hub_ids_from_paths() {
        for id in ["gpt2", "org/name", "sentence-transformers/all-MiniLM-L6-v2", "a_b/c.d"] {
            assert!(RepoId::parse(id).is_ok(), "{id}");
        }
        for path in ["", "./m", "../m", "/m", "a/b/c", "a//b", "a b", "a--b", "-a", "ä", "a/.b"] {
            assert!(RepoId::parse(path).is_err(), "{path}");
        }
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(is_commit(commit) && !is_commit("main") && !is_commit(&commit[1..]));
    }

    #[cfg(feature = "hub")]
    #[test]
    fn a_dataset_has_an_owner() {
        let dataset = RepoId::dataset("ada/reviews").unwrap();
        assert_eq!(dataset.to_string(), "dataset `ada/reviews`");
        assert_eq!(dataset.path(), "datasets/ada/reviews");
        assert!(RepoId::dataset("reviews").is_err());
    }
}
