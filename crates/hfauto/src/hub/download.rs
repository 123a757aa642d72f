//! From a model's name to its files: the local directory, the cache, the hub. Not here: downloads (`super::online`), and
//! which files make a model ([`super::files`]).

use std::path::Path;

use super::cache::{RepoCache, RepoId, is_commit};
use super::files::{Has, Need, Plan, is_plain};
use super::settings::HubSettings;
use super::snapshot::Snapshot;
use crate::error::{Error, ErrorKind, Result};

const DEFAULT_REVISION: &str = "main";

/// How far the transfer of one file is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubProgress {
    /// The file, relative to the repository.
    pub file: String,
    /// What has arrived, with what earlier runs had received.
    pub received_bytes: u64,
    /// The file's size, when the hub tells it. The file is done when this much has arrived.
    pub total_bytes: Option<u64>,
}

/// The place where models come from: local directories, the Hugging Face cache, the hub.
///
/// Its functions block, and may be called inside and outside of a tokio runtime.
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: HubSettings,
    /// What the hub answered, for the rest of the run.
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

    /// A hub with the settings of the environment.
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The files of `repo`, a directory or a hub id, at `revision` (a branch, a tag or a full commit
    /// hash; `main` by default); what is not in the cache is downloaded.
    ///
    /// Offline, or with a commit whose files are all cached, nothing touches the network. When the hub
    /// cannot be reached, a cached copy is used with a warning. `progress` is called on this thread.
    ///
    /// # Errors
    /// `Hub` when the files cannot be had; `Model` when `modules.json` or a weight index is damaged.
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
                format!(
                    "there is no folder to keep model `{}` in: `HOME` is not set",
                    repo.as_str()
                ),
            )
            .hint("set `HF_HOME` to a folder of yours"));
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
    #[expect(clippy::unused_self, reason = "with the feature, its settings say how to download")]
    fn online(&self, request: &Request, _progress: &dyn Fn(HubProgress)) -> Result<Snapshot> {
        request.cached("this program cannot download (it was built without the feature `hub`)")
    }
}

/// What is asked for.
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

    /// The files that are in the cache; `why` nothing can be fetched.
    pub(super) fn cached(&self, why: &str) -> Result<Snapshot> {
        let (repo, revision) = (self.repo.as_str(), &self.revision);
        let not_cached = |what: String| {
            Error::new(ErrorKind::Hub, what)
                .at(format!("cache `{}`", self.cache.dir().display()))
                .hint(format!("fetch it once with network: `hfauto-pipe fetch {repo}`"))
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
        // Whether there is one decides how the model pools, and so its results.
        if plan.unknown.iter().any(|file| file == "modules.json") {
            tracing::warn!(
                model = repo,
                "the cache does not tell whether the repository has a `modules.json`; it is taken to have none"
            );
        }
        Ok(self.snapshot(&commit))
    }
}
