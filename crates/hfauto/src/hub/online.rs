//! Downloads: the hub's answer to what a revision is, then the files that the cache lacks. Not here: the transfer of one
//! file ([`super::transfer`]).
//!
//! The hub is asked once which commit a revision is; from then on everything is read at that commit,
//! so that a branch that moves during a run changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::cache::is_commit;
use super::download::{Hub, HubProgress, Request};
use super::files::{Has, listed};
use super::snapshot::Snapshot;
use super::transfer::Transfer;
use crate::error::{Error, ErrorKind, Result};

const PARALLEL_TRANSFERS: usize = 4;
/// modules.json names folders, whose indexes name shards; one more finds that all is there.
const MAX_ROUNDS: usize = 4;

/// (repository, revision) → what the hub answered.
pub(super) type Answers = Mutex<BTreeMap<(String, String), Resolved>>;

/// What a revision is.
#[derive(Clone, Debug)]
pub(super) enum Resolved {
    /// The hub's answer: the commit, and all files of the repository at it.
    Online { commit: String, files: BTreeSet<String> },
    /// The hub did not answer, the cache did.
    Cached,
}

impl Hub {
    pub(super) fn online(
        &self,
        request: &Request,
        progress: &dyn Fn(HubProgress),
    ) -> Result<Snapshot> {
        on_own_thread(progress, |events| self.resolve_and_download(request, events))
    }

    /// Runs on a thread of its own, where a runtime may be started.
    fn resolve_and_download(
        &self,
        request: &Request,
        events: Sender<HubProgress>,
    ) -> Result<Snapshot> {
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

impl Request {
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
