//! A dataset repository on the hub: the commit of a revision, its files, and ranges of their bytes. Not here: tables,
//! and commits of new files ([`super::commit`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{CONTENT_RANGE, LINK, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::http::{Failure, Http, Located, NO_HUB, header, parse_content_range};
use super::repo::{RepoId, is_commit};
use super::settings::HubSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// An attempt that received this many bytes resets the retry count.
const RENEWING_BYTES: u64 = 8 << 20;

/// A dataset repository on the hub. Its functions are asynchronous and need a runtime of tokio.
#[derive(Debug)]
pub struct Dataset {
    pub(super) http: Http,
    /// By commit and file.
    located: Mutex<BTreeMap<(String, String), Located>>,
}

/// A file of a dataset at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFile {
    /// The path in the repository.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The hash of its content: SHA-256 of a file in large file storage, git's hash of any other.
    pub etag: String,
}

/// The answer for a revision, as far as it is used.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// An entry of a listing.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fatal(error)
            | Failure::Missing(error)
            | Failure::Stale(error)
            | Failure::Network { error, .. } => error,
        }
    }
}

impl Dataset {
    /// The dataset `owner/name`. Makes no request.
    ///
    /// # Errors
    /// `Config` when `id` is not one; `Hub` when the hub is switched off, or its endpoint is not an address.
    pub fn new(settings: HubSettings, id: &str) -> Result<Self> {
        let repo = RepoId::dataset(id)?;
        if settings.offline {
            let message = format!("{repo} cannot be reached: the hub is switched off");
            return Err(Error::new(ErrorKind::Hub, message).hint(
                "unset `HF_HUB_OFFLINE`, leave out `--offline`, or copy the files to a local folder",
            ));
        }
        Ok(Self { http: Http::new(settings, repo)?, located: Mutex::default() })
    }

    /// The id: `owner/name`.
    pub fn id(&self) -> &str {
        self.http.repo.as_str()
    }

    /// The address of the dataset's page.
    pub fn page(&self) -> String {
        let host = super::refusal::shown(&self.http.settings);
        format!("{host}/{}", self.http.repo.path())
    }

    /// The commit of a revision: a branch, a tag or a full commit hash.
    ///
    /// # Errors
    /// `Hub` when there is no such dataset or revision, or the hub refuses or is unreachable.
    pub async fn commit_of(&self, revision: &str) -> Result<String> {
        if is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let url = self.http.api_url(&["revision", revision])?;
        let ask = || async {
            let request = self.http.request(Method::GET, &url);
            let (_, body) = self.http.answer(request, &url, revision, None).await?;
            let found: Revision = serde_json::from_slice(&body).map_err(|e| self.http.no_hub(e))?;
            if !is_commit(&found.sha) {
                let message = format!("the hub reports no commit for {}", self.http.repo);
                return Err(Error::new(ErrorKind::Hub, message).hint(NO_HUB).into());
            }
            Ok(found.sha)
        };
        Ok(self.http.retried(ask).await?)
    }

    /// All files below a folder at a commit; an empty `folder` is the whole repository. A missing folder has none.
    ///
    /// # Errors
    /// `Hub` as [`Dataset::commit_of`], or when there are more files than a limit.
    pub async fn files(&self, commit: &str, folder: &str) -> Result<Vec<DatasetFile>> {
        let folder = folder.trim_matches('/');
        let mut path = vec!["tree", commit];
        path.extend(folder.split('/').filter(|part| !part.is_empty()));
        let mut url = self.http.api_url(&path)?;
        url.set_query(Some("recursive=true&expand=false"));
        let mut files = Vec::new();
        loop {
            let page = || async {
                let request = self.http.request(Method::GET, &url);
                self.http.answer(request, &url, commit, Some(folder)).await
            };
            let (headers, body) = match self.http.retried(page).await {
                Ok(answer) => answer,
                Err(Failure::Missing(_)) => return Ok(Vec::new()),
                Err(failure) => return Err(failure.into()),
            };
            let entries: Vec<Entry> =
                serde_json::from_slice(&body).map_err(|e| self.http.no_hub(e))?;
            let is_last = entries.is_empty();
            files.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| {
                let Entry { path, size, oid, lfs, .. } = entry;
                let (etag, size) = lfs.map_or((oid, size), |lfs| (lfs.oid, lfs.size));
                DatasetFile { path, size, etag }
            }));
            if files.len() > limits::DATASET_FILES {
                let most = limits::DATASET_FILES;
                let message = format!("{} has more than {most} files", self.http.repo);
                return Err(Error::new(ErrorKind::Hub, message).hint("name a folder of it"));
            }
            match header(&headers, LINK.as_str()).and_then(next_query).filter(|_| !is_last) {
                Some(query) => url.set_query(Some(&query)),
                None => return Ok(files),
            }
        }
    }

    /// A file at a commit; `None` if there is none.
    ///
    /// # Errors
    /// `Hub` as [`Dataset::commit_of`]; a gated dataset is refused.
    pub async fn file(&self, commit: &str, path: &str) -> Result<Option<DatasetFile>> {
        match self.located(commit, path).await {
            Ok(Located { etag, size: Some(size), .. }) => {
                Ok(Some(DatasetFile { path: path.to_owned(), size, etag }))
            }
            Ok(_) => {
                let message = format!("the hub does not say the size of `{path}`");
                Err(self.http.error(message).hint(NO_HUB))
            }
            Err(Failure::Missing(_)) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Where a file is, asked once.
    async fn located(&self, commit: &str, path: &str) -> Result<Located, Failure> {
        let key = (commit.to_owned(), path.to_owned());
        let known = self.located.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.http.retried(|| self.http.locate(commit, path)).await?;
        let mut all = self.located.lock().unwrap_or_else(PoisonError::into_inner);
        // Addresses in the storage expire in any case; a few files are read at a time.
        if all.len() >= limits::DATASET_LOCATED {
            all.clear();
        }
        Ok(all.entry(key).or_insert(found).clone())
    }

    fn forget(&self, commit: &str, path: &str) {
        let key = (commit.to_owned(), path.to_owned());
        self.located.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Reads a range of a file at a commit.
    pub fn read(self: &Arc<Self>, commit: &str, path: &str, range: Range<u64>) -> Pieces {
        Pieces {
            dataset: Arc::clone(self),
            commit: commit.to_owned(),
            path: path.to_owned(),
            at: range.start,
            end: range.end,
            response: None,
            received: 0,
            retries: 0,
        }
    }

    /// The content of a small file at a commit; `None` if there is none.
    ///
    /// # Errors
    /// As [`Dataset::file`]; `Hub` when it has more than `limit` bytes.
    pub async fn content(
        self: &Arc<Self>,
        commit: &str,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(commit, path).await? else { return Ok(None) };
        if file.size > limit {
            let message = format!("`{path}` has {} bytes, expected at most {limit}", file.size);
            return Err(self.http.error(message));
        }
        let mut pieces = self.read(commit, path, 0..file.size);
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await? {
            content.extend_from_slice(&piece);
        }
        Ok(Some(content))
    }
}

/// The bytes of a range, piece by piece. An interrupted connection is resumed.
#[derive(Debug)]
pub struct Pieces {
    dataset: Arc<Dataset>,
    commit: String,
    path: String,
    at: u64,
    end: u64,
    response: Option<Response>,
    /// The bytes since the last retry.
    received: u64,
    retries: u32,
}

impl Pieces {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `Hub` when the hub or the storage refuses, sends other bytes than those asked for, or fails too often.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            match self.attempt().await {
                Ok(piece) => return Ok(Some(piece)),
                Err(Failure::Network { error, pause, .. }) => {
                    if self.received >= RENEWING_BYTES {
                        self.retries = 0;
                    }
                    self.received = 0;
                    let http = &self.dataset.http;
                    if self.retries >= http.settings.retries {
                        return Err(error.at(format!("`{}`, byte {}", self.path, self.at)));
                    }
                    let pause = http.pause(self.retries, pause);
                    self.retries += 1;
                    tracing::warn!(repo = self.dataset.id(), file = self.path, %error, "retrying");
                    tokio::time::sleep(pause).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Vec<u8>, Failure> {
        let mut response = match self.response.take() {
            Some(response) => response,
            None => self.open().await?,
        };
        let http = &self.dataset.http;
        let cut = match response.chunk().await {
            Ok(Some(chunk)) => {
                let len = chunk.len() as u64;
                if len > self.end - self.at {
                    let message = format!("the server sends more of `{}` than asked", self.path);
                    return Err(http.error(message).hint(NO_HUB).into());
                }
                self.at += len;
                self.received += len;
                self.response = Some(response);
                return Ok(chunk.to_vec());
            }
            Ok(None) => None,
            Err(error) => Some(error.without_url()),
        };
        let mut error = http.error(format!("the connection was interrupted in `{}`", self.path));
        if let Some(cut) = cut {
            error = error.source(cut);
        }
        Err(Failure::Network { error, received: self.received, pause: None, connected: true })
    }

    /// Asks for the rest of the range. An address in the storage that is no longer valid is asked for again, once.
    async fn open(&self) -> Result<Response, Failure> {
        let dataset = &self.dataset;
        let http = &dataset.http;
        let range = format!("bytes={}-{}", self.at, self.end - 1);
        let mut is_again = false;
        loop {
            let located = dataset.located(&self.commit, &self.path).await?;
            let request = http.request(Method::GET, &located.url).header(RANGE, &range);
            let response = http.send(request, &located.url).await?;
            let status = response.status();
            let is_old = matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410);
            let is_elsewhere = located.url.origin() != http.endpoint.origin();
            if is_old && is_elsewhere && !is_again {
                dataset.forget(&self.commit, &self.path);
                is_again = true;
                continue;
            }
            let begins = header(response.headers(), CONTENT_RANGE.as_str());
            let begins = begins.and_then(parse_content_range).map(|(start, _)| start);
            let is_whole = self.at == 0 && located.size == Some(self.end);
            return match status {
                StatusCode::PARTIAL_CONTENT if begins == Some(self.at) => Ok(response),
                StatusCode::OK if is_whole => Ok(response),
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    let message = format!("the server does not send ranges of `{}`", self.path);
                    Err(http.error(message).hint("use another mirror").into())
                }
                _ => Err(http.refused(&response, &self.commit, &self.path)),
            };
        }
    }
}

/// The query of the next page in a `Link` header. Its host may be that of the hub behind a mirror.
fn next_query(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let (_, url) = next.split_once('<')?;
    let (url, _) = url.split_once('>')?;
    let base = Url::parse("http://hub.invalid/").ok()?;
    base.join(url.trim()).ok()?.query().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_the_link() {
        let link = "<https://huggingface.co/api/datasets/a/b/tree/c?recursive=true&cursor=ab%3D>; rel=\"next\"";
        assert_eq!(next_query(link).as_deref(), Some("recursive=true&cursor=ab%3D"));
        assert_eq!(
            next_query("</x?limit=1>; rel=\"prev\", </x?cursor=2>; rel=\"next\"").as_deref(),
            Some("cursor=2")
        );
        assert_eq!(next_query("<x>; rel=\"prev\""), None);
        assert_eq!(next_query("rel=\"next\""), None);
    }
}
