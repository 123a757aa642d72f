//! From a model's name to its files: the local directory, the cache, the hub. Not here: the transfer
//! of one file ([`super::transfer`]), and which files make a model ([`super::files`]).
//!
//! The hub is asked once which commit a revision is; from then on everything is read at that commit,
//! so that a branch that moves during a run changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::cache::{RepoCache, RepoId, is_commit};
use super::files::{Has, Need, Plan, is_plain, listed};
use super::settings::HubSettings;
use super::snapshot::Snapshot;
use super::transfer::Transfer;
use crate::error::{Error, ErrorKind, Result};

const DEFAULT_REVISION: &str = "main";
const PARALLEL_TRANSFERS: usize = 4;
/// modules.json names folders, whose indexes name shards; one more finds that all is there.
const MAX_ROUNDS: usize = 4;

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
    settings: HubSettings,
    /// (repository, revision) → what the hub answered, for the rest of the run.
    resolved: Mutex<BTreeMap<(String, String), Resolved>>,
}

/// What a revision is.
#[derive(Clone, Debug)]
enum Resolved {
    /// The hub's answer: the commit, and all files of the repository at it.
    Online { commit: String, files: BTreeSet<String> },
    /// The hub did not answer, the cache did.
    Cached,
}

impl Hub {
    /// A hub with these settings. Touches neither disk nor network.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings, resolved: Mutex::default() }
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
        on_own_thread(progress, |events| self.online(&request, events))
    }

    /// Runs on a thread of its own, where a runtime may be started.
    fn online(&self, request: &Request, events: Sender<HubProgress>) -> Result<Snapshot> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorKind::Resources, "cannot start a runtime").source(e))?;
        let transfer = Transfer::new(
            self.settings.clone(),
            request.repo.clone(),
            request.cache.clone(),
            events,
        )?;
        runtime.block_on(async {
            let key = (request.repo.as_str().to_owned(), request.revision.clone());
            let known =
                self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let resolved = if let Some(resolved) = known {
                resolved
            } else {
                let resolved = self.resolve(request, &transfer).await?;
                let mut all = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(key).or_insert(resolved).clone()
            };
            match resolved {
                Resolved::Online { commit, files } => {
                    request.download(&transfer, &commit, &files).await
                }
                Resolved::Cached => request.cached("the hub cannot be reached"),
            }
        })
    }

    /// Asks the hub what the revision is.
    async fn resolve(&self, request: &Request, transfer: &Transfer) -> Result<Resolved> {
        let (repo, revision) = (request.repo.as_str(), request.revision.as_str());
        let info = match transfer.info(revision).await {
            Ok(info) => info,
            Err((error, is_network)) => {
                if is_network && request.cached("").is_ok() {
                    tracing::warn!(model = repo, revision, %error, "using the cached copy");
                    return Ok(Resolved::Cached);
                }
                return Err(error);
            }
        };
        let incomplete = |what| {
            Error::new(ErrorKind::Hub, format!("the hub names no {what} for model `{repo}`"))
                .hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?")
        };
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| incomplete("commit"))?;
        let files = info.siblings.ok_or_else(|| incomplete("files"))?;
        Ok(Resolved::Online { commit, files: files.into_iter().map(|f| f.rfilename).collect() })
    }
}

/// What is asked for.
struct Request {
    repo: RepoId,
    revision: String,
    need: Need,
    cache: RepoCache,
}

impl Request {
    fn plan(&self, commit: &str, has: &dyn Fn(&str) -> Has) -> Result<Plan> {
        Plan::new(self.need, &self.cache.snapshot_dir(commit), has)
    }

    fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot::cached(self.repo.as_str(), commit, self.cache.snapshot_dir(commit))
    }

    /// The files that are in the cache; `why` nothing can be fetched.
    fn cached(&self, why: &str) -> Result<Snapshot> {
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

    /// Downloads what the cache lacks of `commit`, whose repository has `files`.
    async fn download(
        &self,
        transfer: &Transfer,
        commit: &str,
        files: &BTreeSet<String>,
    ) -> Result<Snapshot> {
        for _ in 0..MAX_ROUNDS {
            // What has arrived may name more files: modules.json, the indexes of shards.
            let plan = self.plan(commit, &listed(files))?;
            let missing: Vec<&str> = plan
                .files
                .iter()
                .map(String::as_str)
                .filter(|file| self.cache.has(commit, file) != Has::Yes)
                .collect();
            if !missing.is_empty() {
                futures::stream::iter(missing.into_iter().map(|file| transfer.fetch(commit, file)))
                    .buffer_unordered(PARALLEL_TRANSFERS)
                    .try_collect::<Vec<()>>()
                    .await?;
                continue;
            }
            // The files are whole without these notes: a cache that cannot be written is no error.
            let absent = plan.absent.iter().try_for_each(|f| self.cache.set_absent(commit, f));
            if let Err(error) = absent.and_then(|()| self.cache.set_commit(&self.revision, commit))
            {
                tracing::warn!(model = self.repo.as_str(), %error, "cannot note the commit in the cache");
            }
            return Ok(self.snapshot(commit));
        }
        Err(Error::new(ErrorKind::Internal, "bug: downloaded files do not appear in the cache"))
    }
}

/// Runs `work` on a thread of its own and passes on its progress here: a runtime cannot be started
/// within another, and `progress` need not be thread-safe.
fn on_own_thread<T: Send>(
    progress: &dyn Fn(HubProgress),
    work: impl FnOnce(Sender<HubProgress>) -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let worker = std::thread::Builder::new()
            .name("hub".to_owned())
            .spawn_scoped(scope, move || work(sender))
            .map_err(|e| Error::new(ErrorKind::Resources, "cannot start a thread").source(e))?;
        for event in receiver {
            progress(event);
        }
        worker.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "bug: the hub's thread panicked"))
        })
    })
}
