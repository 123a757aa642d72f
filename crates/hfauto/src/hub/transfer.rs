//! Transfers one file over HTTP into the cache: requests its etag and size, downloads to a partial file beside the
//! blob, verifies it, and links it. Not here: which files ([`super::files`]) at which commit ([`super::download`]).
//!
//! This replaces the download of the `hf-hub` crate, which does not resume an interrupted transfer and verifies neither
//! size nor hash. It also stores the body of an error page as the file, and bounds no response ([`super::api`]).

use std::fs;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION,
    RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode};
use url::Url;

use super::HubProgress;
use super::cache::{RepoCache, RepoId};
use super::part::{Part, disk};
use super::refusal::{Refusal, endpoint, is_loopback, unreachable_host};
use super::settings::HubSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// An attempt that received this many bytes resets the retry count, so that a long download over a bad connection
/// completes.
const RENEWING_BYTES: u64 = 8 << 20;
/// The approximate interval between progress reports.
const REPORT_BYTES: u64 = 1 << 20;
const MAX_REDIRECTS: usize = 10;
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// HTTP clients and the context of every request.
pub(super) struct Transfer {
    pub(super) settings: HubSettings,
    pub(super) endpoint: Url,
    pub(super) repo: RepoId,
    pub(super) cache: RepoCache,
    pub(super) progress: Sender<HubProgress>,
    /// Follows redirects. Sends the token to the hub's host only.
    pub(super) client: Client,
    /// Follows no redirects: the hub's headers describe the file.
    head_client: Client,
}

/// The hub's description of a file.
struct Remote {
    url: Url,
    etag: String,
    size: Option<u64>,
}

/// Why an attempt failed, and whether to retry.
pub(super) enum Failure {
    /// Retrying cannot help.
    Fatal(Error),
    /// The partial download belongs to another file. It is removed.
    Stale(Error),
    /// A network failure: retry, after at least the delay that the server requests.
    Network {
        error: Error,
        received: u64,
        pause: Option<Duration>,
        /// False without a connection to the host: no network, no such name, a closed port.
        connected: bool,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
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
        let endpoint = endpoint(&settings)?;
        let client = |redirects| {
            let mut builder = Client::builder()
                .user_agent(concat!("hfauto-pipe/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.timeout)
                .read_timeout(settings.timeout)
                .redirect(redirects)
                // The length of a compressed body differs from the file's.
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd();
            if is_loopback(&endpoint) {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|e| {
                Error::new(ErrorKind::Hub, "cannot build an HTTP client").source(e.without_url())
            })
        };
        Ok(Self {
            client: client(reqwest::redirect::Policy::limited(MAX_REDIRECTS))?,
            head_client: client(reqwest::redirect::Policy::none())?,
            settings,
            endpoint,
            repo,
            cache,
            progress,
        })
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
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Stale(error)) if was_stale => return Err(error),
                Err(Failure::Stale(_)) => was_stale = true,
                Err(Failure::Network { error, received, pause, .. }) => {
                    if received >= RENEWING_BYTES {
                        retries = 0;
                    }
                    if retries == self.settings.retries {
                        return Err(error
                            .at(format!("attempt {0} of {0}", retries + 1))
                            .hint("run again: the download resumes"));
                    }
                    let backoff = self.settings.retry_delay.saturating_mul(1 << retries.min(6));
                    let pause = backoff.max(pause.unwrap_or_default()).min(MAX_PAUSE);
                    retries += 1;
                    tracing::warn!(model = self.repo.as_str(), file, retries, %error, "download interrupted, retrying");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn try_once(&self, commit: &str, file: &str) -> Result<(), Failure> {
        let remote = self.head(commit, file).await?;
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

    /// Requests the file's etag, size and location.
    async fn head(&self, commit: &str, file: &str) -> Result<Remote, Failure> {
        let mut url = self.url(commit, file)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&self.head_client, Method::HEAD, &url, None).await?;
            let headers = response.headers();
            let status = response.status();
            let etag = header(headers, "x-linked-etag").or_else(|| header(headers, ETAG.as_str()));
            let location = status.is_redirection().then(|| header(headers, LOCATION.as_str()));
            let Some(location) = location.flatten() else {
                if !status.is_success() {
                    return Err(self.refused(&response, commit, file));
                }
                let size = header(headers, "x-linked-size")
                    .or_else(|| header(headers, CONTENT_LENGTH.as_str()));
                return self.remote(file, url, etag, size);
            };
            let next = url.join(location).map_err(|e| {
                self.error(format!("the hub sent a malformed redirect for `{file}`")).source(e)
            })?;
            // A renamed repository redirects within the hub, and that response does not describe the file. A redirect
            // to the storage behind the hub does.
            let within = Url::parse(location).is_err();
            if !within && etag.is_some() {
                return self.remote(file, next, etag, header(headers, "x-linked-size"));
            }
            url = next;
        }
        Err(self.error(format!("the hub redirects `{file}` in a loop")).into())
    }

    fn remote(
        &self,
        file: &str,
        url: Url,
        etag: Option<&str>,
        size: Option<&str>,
    ) -> Result<Remote, Failure> {
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let etag = etag.filter(|etag| {
            !etag.is_empty()
                && etag.len() <= 128
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        let Some(etag) = etag else {
            return Err(self
                .error(format!("the server gives no usable etag for `{file}`"))
                .hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?")
                .into());
        };
        Ok(Remote { url, etag: etag.to_owned(), size: size.and_then(|size| size.parse().ok()) })
    }

    /// Downloads the rest of the file into `incomplete` and verifies the whole file.
    async fn receive(&self, file: &str, remote: &Remote, incomplete: &Path) -> Result<(), Failure> {
        let mut part = Part::open(incomplete, &remote.etag, remote.size)?;
        let resumed = part.len > 0;
        if part.len == 0 || remote.size != Some(part.len) {
            let range = resumed.then_some(part.len);
            let response = self.send(&self.client, Method::GET, &remote.url, range).await?;
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
        remote: &Remote,
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
                    let error = self.error(format!("the server sent the wrong range of `{file}`"));
                    return Err(Failure::Stale(error));
                }
            }
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            part.remove();
            let error = self.error(format!("the server cannot resume `{file}`"));
            return Err(Failure::Stale(error));
        } else if status.is_success() {
            // The server ignores range requests and sends the whole file.
            part.restart()?;
            header(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok())
        } else {
            return Err(self.refused(&response, "", file));
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
            return Err(self.error(what).into());
        }
        let window = self.settings.timeout.saturating_mul(limits::HUB_PACE_TIMEOUTS);
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
                        return Err(self
                            .error(what)
                            .hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?")
                            .into());
                    }
                    let len = part.len + chunk.len() as u64;
                    if pace.is_too_slow(len) && size != Some(len) {
                        return Err(self.too_slow(&format!("`{file}`")).into());
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
                    let mut error = self.error(format!(
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

    /// Sends one request. The token is sent to the hub only.
    pub(super) async fn send(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        from: Option<u64>,
    ) -> Result<Response, Failure> {
        let mut request = client.request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.settings.token
            && url.origin() == self.endpoint.origin()
        {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let sent = tokio::time::timeout(self.answer_time(), request.send()).await;
        sent.map_err(|_| self.too_slow("its headers"))?.map_err(|e| {
            let host = url.host_str().unwrap_or("?");
            let error = if e.is_builder() {
                self.error("cannot send a request: is the token plain text?")
            } else {
                unreachable_host(host)
            };
            let (fatal, connected) = (e.is_builder() || e.is_redirect(), !e.is_connect());
            let error = error.source(e.without_url());
            if fatal {
                Failure::Fatal(error)
            } else {
                Failure::Network { error, received: 0, pause: None, connected }
            }
        })
    }

    fn refused(&self, response: &Response, commit: &str, file: &str) -> Failure {
        let headers = response.headers();
        let refusal = Refusal {
            status: response.status(),
            code: header(headers, "x-error-code"),
            message: header(headers, "x-error-message"),
        };
        let error = refusal.error(&self.settings, &self.repo, commit, Some(file));
        if refusal.is_transient() {
            let pause = header(headers, RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
            let pause = pause.map(Duration::from_secs);
            return Failure::Network { error, received: 0, pause, connected: true };
        }
        Failure::Fatal(error)
    }

    fn wrong_size(&self, file: &str, size: u64, found: &str) -> Failure {
        self.error(format!("`{file}` has the wrong size: the hub declares {size} bytes, {found}"))
            .hint("a proxy or a faulty mirror may have changed the file")
            .into()
    }

    /// The timeout of a short response.
    pub(super) fn answer_time(&self) -> Duration {
        self.settings.timeout.saturating_mul(limits::HUB_ANSWER_TIMEOUTS)
    }

    /// The error for a response that arrives too slowly to finish.
    pub(super) fn too_slow(&self, what: &str) -> Error {
        self.error(format!("the server sends {what} too slowly"))
            .hint("run again: the download resumes; or use another mirror")
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Hub, message).at(format!("model `{}`", self.repo.as_str()))
    }

    fn report(&self, file: &str, received_bytes: u64, total_bytes: Option<u64>) {
        // The receiver is dropped only if its thread panicked.
        let _ =
            self.progress.send(HubProgress { file: file.to_owned(), received_bytes, total_bytes });
    }

    fn url(&self, commit: &str, file: &str) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let mut path =
            url.path_segments_mut().map_err(|()| self.error("malformed `HF_ENDPOINT`"))?;
        path.pop_if_empty().extend(self.repo.as_str().split('/'));
        path.extend(["resolve", commit]).extend(file.split('/'));
        drop(path);
        Ok(url)
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
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

/// The first byte and, if known, the total length of `bytes 5-9/10`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_content_range("bytes */10"), None);
        assert_eq!(parse_content_range("5-9/10"), None);
    }
}
