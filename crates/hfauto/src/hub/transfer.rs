//! Transfers one file over HTTP into the cache: requests its etag and size, downloads to a partial file beside the
//! blob, verifies it, and links it. Not here: which files ([`super::files`]) at which commit ([`super::download`]).
//!
//! This replaces the download of the `hf-hub` crate, which does not resume an interrupted transfer and verifies neither
//! size nor hash. It also stores the body of an error page as the file, and bounds no response ([`super::api`]).

use std::fs;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use super::HubProgress;
use super::cache::RepoCache;
use super::http::{Failure, Http, Located, NO_HUB, header, parse_content_range};
use super::part::{Part, disk};
use super::repo::RepoId;
use super::settings::HubSettings;
use crate::error::Result;
use crate::limits;

/// An attempt that received this many bytes resets the retry count, so that a long download over a bad connection
/// completes.
const RENEWING_BYTES: u64 = 8 << 20;
/// The approximate interval between progress reports.
const REPORT_BYTES: u64 = 1 << 20;

/// The transfers of one repository.
pub(super) struct Transfer {
    pub(super) http: Http,
    pub(super) cache: RepoCache,
    pub(super) progress: Sender<HubProgress>,
}

impl Transfer {
    /// # Errors
    /// `Hub` when the endpoint is not an address, or the HTTP client cannot be built.
    pub(super) fn new(
        settings: HubSettings,
        repo: RepoId,
        cache: RepoCache,
        progress: Sender<HubProgress>,
    ) -> Result<Self> {
        Ok(Self { http: Http::new(settings, repo)?, cache, progress })
    }

    /// Downloads `file` at `commit` into the cache.
    ///
    /// # Errors
    /// `Hub`: refused, unreachable, interrupted too often, wrong size or hash, disk full.
    pub(super) async fn fetch(&self, commit: &str, file: &str) -> Result<()> {
        let mut retries = 0;
        let mut was_stale = false;
        loop {
            match self.try_once(commit, file).await {
                Ok(()) => return Ok(()),
                Err(Failure::Fatal(error) | Failure::Missing(error)) => return Err(error),
                Err(Failure::Stale(error)) if was_stale => return Err(error),
                Err(Failure::Stale(_)) => was_stale = true,
                Err(Failure::Network { error, received, pause, .. }) => {
                    if received >= RENEWING_BYTES {
                        retries = 0;
                    }
                    if retries == self.http.settings.retries {
                        return Err(error
                            .at(format!("attempt {0} of {0}", retries + 1))
                            .hint("run again: the download resumes"));
                    }
                    let pause = self.http.pause(retries, pause);
                    retries += 1;
                    tracing::warn!(model = self.http.repo.as_str(), file, retries, %error, "download interrupted, retrying");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn try_once(&self, commit: &str, file: &str) -> Result<(), Failure> {
        let remote = self.http.locate(commit, file).await?;
        let blob = self.cache.blob(&remote.etag);
        let write = |e| disk(&blob, e);
        fs::create_dir_all(blob.parent().unwrap_or(&blob)).map_err(write)?;
        let lock = self.cache.lock(&remote.etag).await.map_err(write)?;
        let whole = match fs::metadata(&blob) {
            Ok(metadata) => remote.size.is_none_or(|size| size == metadata.len()),
            Err(_) => false,
        };
        if !whole {
            let incomplete = lock.incomplete(&blob);
            let received = self.receive(file, &remote, &incomplete).await;
            if received.is_err() && !lock.is_exclusive() {
                // Without a lock, the name is unique and cannot be resumed.
                let _ = fs::remove_file(&incomplete);
            }
            received?;
            fs::rename(&incomplete, &blob).map_err(write)?;
        }
        self.cache.link(commit, file, &remote.etag).map_err(write)?;
        Ok(())
    }

    /// Downloads the rest of the file into `incomplete` and verifies the whole file.
    async fn receive(
        &self,
        file: &str,
        remote: &Located,
        incomplete: &Path,
    ) -> Result<(), Failure> {
        let mut part = Part::open(incomplete, &remote.etag, remote.size)?;
        let resumed = part.len > 0;
        if part.len == 0 || remote.size != Some(part.len) {
            let range = resumed.then_some(part.len);
            let response = self.http.get(&remote.url, range).await?;
            self.body(file, remote, response, &mut part).await?;
        }
        self.report(file, part.len, Some(part.len));
        let Some((kind, found)) = part.hash(&remote.etag)? else {
            return part.keep().map_err(Failure::from);
        };
        if found.eq_ignore_ascii_case(&remote.etag) {
            return part.keep().map_err(Failure::from);
        }
        part.remove();
        let error = self
            .http
            .error(format!(
                "`{file}` is corrupt after the download: its {kind} should be {} and is {found}",
                remote.etag
            ))
            .hint("run again; if this persists, the server or a proxy modifies files");
        Err(if resumed { Failure::Stale(error) } else { Failure::Fatal(error) })
    }

    async fn body(
        &self,
        file: &str,
        remote: &Located,
        mut response: Response,
        part: &mut Part,
    ) -> Result<(), Failure> {
        let status = response.status();
        let headers = response.headers();
        let declared = if status == StatusCode::PARTIAL_CONTENT {
            match header(headers, CONTENT_RANGE.as_str()).and_then(parse_content_range) {
                Some((start, total)) if start == part.len => total,
                _ => {
                    part.remove();
                    let error =
                        self.http.error(format!("the server sent the wrong range of `{file}`"));
                    return Err(Failure::Stale(error));
                }
            }
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            part.remove();
            let error = self.http.error(format!("the server cannot resume `{file}`"));
            return Err(Failure::Stale(error));
        } else if status.is_success() {
            // The server ignores range requests and sends the whole file.
            part.restart()?;
            header(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok())
        } else {
            return Err(self.http.refused(&response, "", file));
        };
        if let (Some(size), Some(declared)) = (remote.size, declared)
            && size != declared
        {
            return Err(self.wrong_size(file, size, &format!("the server sends {declared}")));
        }
        let size = remote.size.or(declared);
        let most = most_bytes(file, size);
        if let Some(size) = size.filter(|size| *size > most) {
            let what =
                format!("the hub declares {size} bytes for `{file}`, expected at most {most}");
            return Err(self.http.error(what).into());
        }
        let window = self.http.settings.timeout.saturating_mul(limits::HUB_PACE_TIMEOUTS);
        let mut pace = Pace { since: Instant::now(), len: part.len, window };
        let before = part.len;
        let mut reported = part.len;
        self.report(file, part.len, size);
        loop {
            let received = part.len - before;
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if part.len + chunk.len() as u64 > most {
                        part.remove();
                        let what = format!(
                            "the server does not declare the size of `{file}`, and sends more than {most} bytes"
                        );
                        return Err(self.http.error(what).hint(NO_HUB).into());
                    }
                    let len = part.len + chunk.len() as u64;
                    if pace.is_too_slow(len) && size != Some(len) {
                        return Err(self.http.too_slow(&format!("`{file}`")).into());
                    }
                    if size.is_some_and(|size| part.len + chunk.len() as u64 > size) {
                        part.remove();
                        return Err(self.wrong_size(file, size.unwrap_or(0), "more arrived"));
                    }
                    part.write(&chunk)?;
                    if part.len - reported >= REPORT_BYTES {
                        reported = part.len;
                        self.report(file, part.len, size);
                    }
                }
                Ok(None) if size.is_none_or(|size| size == part.len) => return Ok(()),
                end => {
                    let of = size.map_or(String::new(), |size| format!(" of {size}"));
                    let mut error = self.http.error(format!(
                        "the connection was interrupted: `{file}` has {}{of} bytes",
                        part.len
                    ));
                    if let Err(e) = end {
                        error = error.source(e.without_url());
                    }
                    return Err(Failure::Network { error, received, pause: None, connected: true });
                }
            }
        }
    }

    fn wrong_size(&self, file: &str, size: u64, found: &str) -> Failure {
        self.http
            .error(format!("`{file}` has the wrong size: the hub declares {size} bytes, {found}"))
            .hint("a proxy or a faulty mirror may have changed the file")
            .into()
    }

    fn report(&self, file: &str, received_bytes: u64, total_bytes: Option<u64>) {
        // The receiver is dropped only if its thread panicked.
        let _ =
            self.progress.send(HubProgress { file: file.to_owned(), received_bytes, total_bytes });
    }
}

/// The maximum size of `file`. Weights may have any size that the server declares.
fn most_bytes(file: &str, size: Option<u64>) -> u64 {
    let weights = [".safetensors", ".bin", ".gguf"].iter().any(|end| file.ends_with(end));
    if weights && size.is_some() {
        u64::MAX
    } else if file.ends_with(".json") && !file.ends_with("tokenizer.json") {
        limits::MODEL_JSON_BYTES
    } else {
        limits::HUB_FILE_BYTES
    }
}

/// Detects a stalled transfer.
struct Pace {
    since: Instant,
    /// Bytes received at that time.
    len: u64,
    window: Duration,
}

impl Pace {
    /// Records that `len` bytes have arrived. Returns whether the transfer is too slow.
    fn is_too_slow(&mut self, len: u64) -> bool {
        if self.since.elapsed() < self.window {
            return false;
        }
        let slow = len - self.len < limits::HUB_PACE_BYTES;
        (self.since, self.len) = (Instant::now(), len);
        slow
    }
}
