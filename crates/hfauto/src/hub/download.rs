//! Finds a model's files by its name: in a local directory, the cache or the hub. Not here: downloads
//! (`super::online`), and which files make up a model ([`super::files`]).

use std::path::Path;

use super::cache::RepoCache;
use super::chosen::{Chosen, DEPTH, listing};
use super::files::{Has, Need, Plan, is_plain};
use super::repo::{RepoId, is_commit};
use super::settings::HubSettings;
use super::snapshot::{Snapshot, is_gguf_file};
use crate::error::{Error, ErrorKind, Result};

const DEFAULT_REVISION: &str = "main";

/// The progress of one file's transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubProgress {
    /// The file, relative to the repository.
    pub file: String,
    /// Bytes received so far, including those of earlier runs.
    pub received_bytes: u64,
    /// The file's size, if the hub declares it. The transfer ends when `received_bytes` reaches it.
    pub total_bytes: Option<u64>,
}

/// Finds and downloads models: in local directories, the Hugging Face cache and the hub.
///
/// Its functions block. They may be called inside and outside of a tokio runtime.
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: HubSettings,
    /// Resolved revisions, kept for the rest of the run.
    #[cfg(feature = "hub")]
    pub(super) resolved: super::online::Answers,
}

impl Hub {
    /// A hub with these settings. Touches neither disk nor network.
    pub fn new(settings: HubSettings) -> Self {
        Self {
            settings,
            #[cfg(feature = "hub")]
            resolved: super::online::Answers::default(),
        }
    }

    /// A hub with the settings from the environment.
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The files of `repo`, a directory, a GGUF file or a hub id, at `revision`: a branch, a tag or a full commit hash; `main`
    /// by default. Files that the cache lacks are downloaded. A hub id may name a GGUF file (`org/name/file.gguf`), or its
    /// quantization (`org/name:Q4_K_M`).
    ///
    /// Makes no request when offline, or for a commit with all its files cached. If the hub is unreachable, it uses a
    /// cached copy and warns. `progress` is called on this thread.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; `Model` when `modules.json` or a weight index is damaged.
    pub fn snapshot(
        &self,
        repo: &str,
        revision: Option<&str>,
        need: Need,
        progress: &dyn Fn(HubProgress),
    ) -> Result<Snapshot> {
        let dir = Path::new(repo);
        if dir.is_dir() || is_gguf_file(dir) {
            if let Some(revision) = revision {
                tracing::warn!(model = repo, revision, "a local directory has no revisions");
            }
            return Snapshot::local(dir);
        }
        let (name, (repo, chosen)) = (repo, Chosen::split(repo));
        let repo = RepoId::parse(repo)?;
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        if !is_plain(revision) || revision.len() > 255 || revision.contains(char::is_whitespace) {
            return Err(Error::new(ErrorKind::Hub, format!("`{revision}` is not a revision"))
                .hint("a revision is a branch, a tag or a full commit hash"));
        }
        if !self.settings.has_cache {
            return Err(Error::new(
                ErrorKind::Hub,
                format!("no cache folder for model `{}`: `HOME` is not set", repo.as_str()),
            )
            .hint("set `HF_HOME` to a folder that you own"));
        }
        let request = Request {
            cache: RepoCache::new(&self.settings.cache_dir, &repo),
            repo,
            name: name.to_owned(),
            chosen,
            revision: revision.to_owned(),
            need,
        };
        if self.settings.offline {
            return request.cached("the hub is switched off (`HF_HUB_OFFLINE`, `--offline`)");
        }
        if is_commit(revision) {
            if let Ok(Some(file)) = request.cached_gguf(revision) {
                return request.gguf(revision, &file);
            }
            let plan = request.plan(revision, &|file| request.cache.has(revision, file))?;
            let is_complete = plan.unknown.is_empty() && plan.lacking.is_empty();
            if is_complete && request.chosen == Chosen::Model {
                return Ok(request.snapshot(revision));
            }
        }
        self.online(&request, progress)
    }

    /// The files of a LoRA adapter of PEFT, a directory or a hub id, as [`Hub::snapshot`] those of a model.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable, or there is no adapter.
    pub fn adapter(
        &self,
        repo: &str,
        revision: Option<&str>,
        progress: &dyn Fn(HubProgress),
    ) -> Result<Snapshot> {
        if Path::new(repo).is_dir() {
            return Snapshot::local_adapter(Path::new(repo));
        }
        self.snapshot(repo, revision, Need::Adapter, progress)
    }

    #[cfg(not(feature = "hub"))]
    #[expect(clippy::unused_self, reason = "with the feature, its settings control downloads")]
    fn online(&self, request: &Request, _progress: &dyn Fn(HubProgress)) -> Result<Snapshot> {
        request.cached("this program cannot download (it was built without the feature `hub`)")
    }
}

/// A request for the files of one model.
pub(super) struct Request {
    pub(super) repo: RepoId,
    /// The model as it was named.
    name: String,
    pub(super) chosen: Chosen,
    pub(super) revision: String,
    pub(super) need: Need,
    pub(super) cache: RepoCache,
}

impl Request {
    pub(super) fn plan(&self, commit: &str, has: &dyn Fn(&str) -> Has) -> Result<Plan> {
        Plan::new(self.need, &self.cache.snapshot_dir(commit), has)
    }

    pub(super) fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot::cached(self.repo.as_str(), commit, self.cache.snapshot_dir(commit))
    }

    /// The GGUF file in `commit` that the request is for, if it is for one.
    pub(super) fn gguf(&self, commit: &str, file: &str) -> Result<Snapshot> {
        let dir = self.cache.snapshot_dir(commit);
        Snapshot::of_gguf(self.name.clone(), Some(commit), dir, file)
    }

    /// Its name among the cached files of `commit`.
    fn cached_gguf(&self, commit: &str) -> Result<Option<String>> {
        if self.need == Need::Adapter {
            return Ok(None);
        }
        let files = listing(&self.cache.snapshot_dir(commit), DEPTH);
        // The cache may have the files of a model only in part.
        if self.chosen == Chosen::Model && files.iter().any(|file| file == "config.json") {
            return Ok(None);
        }
        self.chosen.file(self.repo.as_str(), files.iter().map(String::as_str))
    }

    /// The cached files. `why` is the reason that nothing can be downloaded, for the error message.
    pub(super) fn cached(&self, why: &str) -> Result<Snapshot> {
        let (repo, revision) = (self.repo.as_str(), &self.revision);
        let not_cached = |what: String| {
            Error::new(ErrorKind::Hub, what)
                .at(format!("cache `{}`", self.cache.dir().display()))
                .hint(format!("fetch it once online: `hfauto-pipe fetch {repo}`"))
        };
        let commit = self.cache.commit(revision).ok_or_else(|| {
            not_cached(format!(
                "model `{repo}` at revision `{revision}` is not in the cache, and {why}"
            ))
        })?;
        let gguf = self
            .cached_gguf(&commit)
            .map_err(|error| not_cached(format!("{why}, and in the cache, {}", error.message())))?;
        if let Some(file) = gguf {
            return self.gguf(&commit, &file);
        }
        let plan = self.plan(&commit, &|file| self.cache.has(&commit, file))?;
        if !plan.lacking.is_empty() {
            let files: Vec<_> = plan.lacking.iter().map(|file| format!("`{file}`")).collect();
            let files = files.join(", ");
            return Err(not_cached(format!(
                "{why}, and the cache lacks {files} of model `{repo}` at revision `{revision}`"
            )));
        }
        // `modules.json` decides the pooling mode, and with it the results.
        if plan.unknown.iter().any(|file| file == "modules.json") {
            tracing::warn!(
                model = repo,
                "the cache does not record whether the repository has a `modules.json`; assuming that it has none"
            );
        }
        Ok(self.snapshot(&commit))
    }
}
