//! Downloads: resolves a revision on the hub, then transfers the files that the cache lacks. Not here: the transfer of
//! one file ([`super::transfer`]).
//!
//! Each revision is resolved to a commit once. All files are then read at that commit, even if the branch moves during
//! a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::download::{Hub, HubProgress, Request};
use super::files::{Has, Need, listed};
use super::repo::is_commit;
use super::snapshot::Snapshot;
use super::transfer::Transfer;
use crate::error::{Error, ErrorKind, Result};

const PARALLEL_TRANSFERS: usize = 4;
/// `config.json` says whether the rest is of use; `modules.json` names folders, whose indexes name shards. The last round
/// finds nothing left to download.
const MAX_ROUNDS: usize = 6;

/// (repository, revision) → resolved revision.
pub(super) type Answers = Mutex<BTreeMap<(String, String), Resolved>>;

/// A resolved revision.
#[derive(Clone, Debug)]
pub(super) enum Resolved {
    /// The hub responded: the commit, and all files of the repository at that commit.
    Online { commit: String, files: BTreeSet<String> },
    /// The hub was unreachable; the cache has a copy.
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

    /// Runs on a dedicated thread, where starting a runtime is allowed.
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

    /// Resolves the revision on the hub.
    async fn resolve(&self, request: &Request, transfer: &Transfer) -> Result<Resolved> {
        let (repo, revision) = (request.repo.as_str(), request.revision.as_str());
        let is_cached = request.cached("").is_ok();
        let info = match transfer.info(revision, is_cached).await {
            Ok(info) => info,
            Err((error, is_network)) => {
                if is_network && is_cached {
                    tracing::warn!(model = repo, revision, %error, "using the cached copy");
                    return Ok(Resolved::Cached);
                }
                return Err(error);
            }
        };
        let incomplete = |what| {
            Error::new(ErrorKind::Hub, format!("the hub reports no {what} for model `{repo}`"))
                .hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?")
        };
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| incomplete("commit"))?;
        let files = info.siblings.ok_or_else(|| incomplete("files"))?;
        Ok(Resolved::Online { commit, files: files.into_iter().map(|f| f.rfilename).collect() })
    }
}

impl Request {
    /// Downloads the files of `commit` that the cache lacks. The repository has `files`.
    async fn download(
        &self,
        transfer: &Transfer,
        commit: &str,
        files: &BTreeSet<String>,
    ) -> Result<Snapshot> {
        let names = files.iter().map(String::as_str);
        let gguf = match self.need {
            Need::Adapter => None,
            _ => self.chosen.file(self.repo.as_str(), names)?,
        };
        if let Some(file) = gguf {
            if self.cache.has(commit, &file) != Has::Yes {
                transfer.fetch(commit, &file).await?;
            }
            self.record(self.cache.set_commit(&self.revision, commit));
            return self.gguf(commit, &file);
        }
        for _ in 0..MAX_ROUNDS {
            // Downloaded files may name further ones: `modules.json`, and the indexes of shards.
            let plan = self.plan(commit, &listed(files))?;
            let missing: Vec<&str> = plan
                .files
                .iter()
                .map(String::as_str)
                .filter(|file| self.cache.has(commit, file) != Has::Yes)
                .collect();
            // That of the transformer.
            let first = missing.iter().position(|file| {
                *file == "config.json" || (file.starts_with("0_") && file.ends_with("/config.json"))
            });
            let missing = match first {
                Some(place) => vec![missing[place]],
                None => missing,
            };
            if !missing.is_empty() {
                futures::stream::iter(missing.into_iter().map(|file| transfer.fetch(commit, file)))
                    .buffer_unordered(PARALLEL_TRANSFERS)
                    .try_collect::<Vec<()>>()
                    .await?;
                continue;
            }
            // The downloaded files are complete without these records, so a failed write is only a warning.
            let absent = plan.absent.iter().try_for_each(|f| self.cache.set_absent(commit, f));
            self.record(absent.and_then(|()| self.cache.set_commit(&self.revision, commit)));
            return Ok(self.snapshot(commit));
        }
        Err(Error::new(ErrorKind::Internal, "bug: downloaded files do not appear in the cache"))
    }

    fn record(&self, recorded: std::io::Result<()>) {
        if let Err(error) = recorded {
            tracing::warn!(model = self.repo.as_str(), %error, "cannot record the commit in the cache");
        }
    }
}

/// Runs `work` on a dedicated thread and forwards its progress to this one. A runtime cannot start within another, and
/// `progress` need not be thread-safe.
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
