//! Finds a model's files by its name: in a local directory, the cache or the hub. Not here: downloads
//! (`super::online`), and which files make up a model ([`super::files`]).

use std::path::Path;

use super::cache::{RepoCache, RepoId, is_commit};
use super::files::{Has, Need, Plan, is_plain};
use super::settings::HubSettings;
use super::snapshot::Snapshot;
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

    /// The files of `repo`, a directory or a hub id, at `revision`: a branch, a tag or a full commit hash; `main` by
    /// default. Files that the cache lacks are downloaded.
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
        if dir.is_dir() {
            if let Some(revision) = revision {
                tracing::warn!(model = repo, revision, "a local directory has no revisions");
            }
            return Snapshot::local(dir);
        }
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
            revision: revision.to_owned(),
            need,
        };
        if self.settings.offline {
            return request.cached("the hub is switched off (`HF_HUB_OFFLINE`, `--offline`)");
        }
        if is_commit(revision) {
            let plan = request.plan(revision, &|file| request.cache.has(revision, file))?;
            if plan.unknown.is_empty() && plan.lacking.is_empty() {
                return Ok(request.snapshot(revision));
            }
        }
        self.online(&request, progress)
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
    pub(super) revision: String,
    need: Need,
    pub(super) cache: RepoCache,
}

impl Request {
    pub(super) fn plan(&self, commit: &str, has: &dyn Fn(&str) -> Has) -> Result<Plan> {
        Plan::new(self.need, &self.cache.snapshot_dir(commit), has)
    }

    pub(super) fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot::cached(self.repo.as_str(), commit, self.cache.snapshot_dir(commit))
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
