//! One file over HTTP into the cache: ask for its etag and size, receive it beside its blob, verify,
//! let it appear. Not here: which files ([`super::files`]) at which commit ([`super::download`]).
//!
//! The `hf-hub` crate has a download of its own, which this replaces: it keeps no part of a cut
//! transfer, compares neither size nor hash, and stores the body of an error page as the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION,
    RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode};
use sha2::{Digest, Sha256};
use url::Url;

use super::HubProgress;
use super::cache::{RepoCache, RepoId};
use super::settings::HubSettings;
use crate::error::{Error, ErrorKind, Result};

/// A try that brought this much renews the retries, so that a long download over a bad line ends.
const RENEWING_BYTES: u64 = 8 << 20;
/// Progress is reported about this often.
const REPORT_BYTES: u64 = 1 << 20;
const MAX_REDIRECTS: usize = 10;
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// HTTP clients and everything a request needs to know.
pub(super) struct Transfer {
    pub(super) settings: HubSettings,
    pub(super) endpoint: Url,
    pub(super) repo: RepoId,
    pub(super) cache: RepoCache,
    pub(super) progress: Sender<HubProgress>,
    /// Follows redirects, and sends the token to no other host.
    pub(super) client: Client,
    /// Follows none: the headers on the way tell what the file is.
    head_client: Client,
}

/// What the hub says of a file.
struct Remote {
    url: Url,
    etag: String,
    size: Option<u64>,
}

/// Why a try failed, and whether another may do better.
enum Failure {
    /// No other try will.
    Fatal(Error),
    /// What was kept of an earlier download is not of this file. It is removed.
    Stale(Error),
    /// The network: try again, not before the pause that the server asks for.
    Network { error: Error, received: u64, pause: Option<Duration> },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl Transfer {
    /// # Errors
    /// `Hub` when the endpoint is not an address, or no HTTP client can be made.
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
                // A body that was packed on the way has another length than the file.
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd();
            if is_loopback(&endpoint) {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|e| {
                Error::new(ErrorKind::Hub, "cannot make an HTTP client").source(e.without_url())
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

    /// Brings `file` at `commit` into the cache.
    ///
    /// # Errors
    /// `Hub`: refused, unreachable, cut too often, not of the declared size or hash, disk full.
    pub(super) async fn fetch(&self, commit: &str, file: &str) -> Result<()> {
        let mut retries = 0;
        let mut was_stale = false;
        loop {
            match self.try_once(commit, file).await {
                Ok(()) => return Ok(()),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Stale(error)) if was_stale => return Err(error),
                Err(Failure::Stale(_)) => was_stale = true,
                Err(Failure::Network { error, received, pause }) => {
                    if received >= RENEWING_BYTES {
                        retries = 0;
                    }
                    if retries == self.settings.retries {
                        return Err(error
                            .at(format!("after {} tries", retries + 1))
                            .hint("run again: the download goes on where it stopped"));
                    }
                    let backoff = self.settings.retry_delay.saturating_mul(1 << retries.min(6));
                    let pause = backoff.max(pause.unwrap_or_default()).min(MAX_PAUSE);
                    retries += 1;
                    tracing::warn!(model = self.repo.as_str(), file, retries, %error, "download interrupted, trying again");
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
            self.receive(file, &remote, &incomplete).await?;
            fs::rename(&incomplete, &blob).map_err(write)?;
        }
        self.cache.link(commit, file, &remote.etag).map_err(write)?;
        Ok(())
    }

    /// Asks the hub for the file's etag, size and place.
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
                self.error(format!("the hub sent a broken redirect for `{file}`")).source(e)
            })?;
            // A renamed repository redirects within the hub, and that answer knows nothing of the
            // file; one to the storage behind it does.
            let within = Url::parse(location).is_err();
            if !within && etag.is_some() {
                return self.remote(file, next, etag, header(headers, "x-linked-size"));
            }
            url = next;
        }
        Err(self.error(format!("the hub redirects `{file}` in a circle")).into())
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

    /// Receives the rest of the file into `incomplete` and verifies the whole.
    async fn receive(&self, file: &str, remote: &Remote, incomplete: &Path) -> Result<(), Failure> {
        let mut part = Part::open(incomplete, remote)?;
        let resumed = part.len > 0;
        if part.len == 0 || remote.size != Some(part.len) {
            let range = resumed.then_some(part.len);
            let response = self.send(&self.client, Method::GET, &remote.url, range).await?;
            self.body(file, remote, response, &mut part).await?;
        }
        self.report(file, part.len, Some(part.len));
        let Some(found) = part.sha256() else { return part.keep().map_err(Failure::from) };
        if found == remote.etag {
            return part.keep().map_err(Failure::from);
        }
        part.remove();
        let error = self
            .error(format!(
                "`{file}` arrived damaged: its sha256 should be {} and is {found}",
                remote.etag
            ))
            .hint("run again; if it stays, the server or a proxy on the way changes files");
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
                    let error = self.error(format!("the server sent another part of `{file}`"));
                    return Err(Failure::Stale(error));
                }
            }
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            part.remove();
            let error = self.error(format!("the server cannot go on with `{file}`"));
            return Err(Failure::Stale(error));
        } else if status.is_success() {
            // The server does not do ranges: the whole file comes again.
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
        let before = part.len;
        let mut reported = part.len;
        self.report(file, part.len, size);
        loop {
            let received = part.len - before;
            match response.chunk().await {
                Ok(Some(chunk)) => {
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
                        "the connection was cut: `{file}` has {}{of} bytes",
                        part.len
                    ));
                    if let Err(e) = end {
                        error = error.source(e.without_url());
                    }
                    return Err(Failure::Network { error, received, pause: None });
                }
            }
        }
    }

    /// Sends one request. The token goes to the hub only.
    async fn send(
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
        request.send().await.map_err(|e| {
            let host = url.host_str().unwrap_or("?");
            let error = if e.is_builder() {
                self.error("cannot send a request: is the token plain text?")
            } else {
                unreachable_host(host)
            };
            let fatal = e.is_builder() || e.is_redirect();
            let error = error.source(e.without_url());
            if fatal {
                Failure::Fatal(error)
            } else {
                Failure::Network { error, received: 0, pause: None }
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
            return Failure::Network { error, received: 0, pause };
        }
        Failure::Fatal(error)
    }

    fn wrong_size(&self, file: &str, size: u64, found: &str) -> Failure {
        self.error(format!("`{file}` has the wrong size: the hub declares {size} bytes, {found}"))
            .hint("a proxy or a broken mirror may stand between here and the hub")
            .into()
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Hub, message).at(format!("model `{}`", self.repo.as_str()))
    }

    fn report(&self, file: &str, received_bytes: u64, total_bytes: Option<u64>) {
        // The receiver is gone only when its own thread is unwinding.
        let _ =
            self.progress.send(HubProgress { file: file.to_owned(), received_bytes, total_bytes });
    }

    fn url(&self, commit: &str, file: &str) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let mut path = url.path_segments_mut().map_err(|()| self.error("broken `HF_ENDPOINT`"))?;
        path.pop_if_empty().extend(self.repo.as_str().split('/'));
        path.extend(["resolve", commit]).extend(file.split('/'));
        drop(path);
        Ok(url)
    }
}

/// The part of a file that has arrived, on disk and in the hash.
struct Part {
    path: std::path::PathBuf,
    file: File,
    len: u64,
    /// For files whose etag is the hash of their content: those in large file storage.
    sha256: Option<Sha256>,
}

impl Part {
    fn open(path: &Path, remote: &Remote) -> Result<Self> {
        let write = |e| disk(path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(write)?;
        let len = file.metadata().map_err(write)?.len();
        let is_sha256 =
            remote.etag.len() == 64 && remote.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let mut part = Self {
            path: path.to_path_buf(),
            len,
            sha256: is_sha256.then(Sha256::new),
            file: file.try_clone().map_err(write)?,
        };
        // Without a hash nothing can tell whether what was kept is of this file; a longer one is not.
        if part.sha256.is_none() || remote.size.is_some_and(|size| len > size) {
            part.restart()?;
        } else if let Some(hasher) = &mut part.sha256
            && len > 0
        {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = file.read(&mut buffer).map_err(write)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
        }
        Ok(part)
    }

    fn restart(&mut self) -> Result<()> {
        if self.len > 0 {
            let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
            emptied.map_err(|e| disk(&self.path, e))?;
            self.len = 0;
            self.sha256 = self.sha256.as_ref().map(|_| Sha256::new());
        }
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(|e| disk(&self.path, e))?;
        self.len += chunk.len() as u64;
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(chunk);
        }
        Ok(())
    }

    fn sha256(&mut self) -> Option<String> {
        let hasher = self.sha256.take()?;
        Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The content is on disk, whatever happens to the machine.
    fn keep(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| disk(&self.path, e))
    }

    fn remove(&self) {
        // What cannot be removed is found to be wrong again by the next download.
        let _ = fs::remove_file(&self.path);
    }
}

/// A status that is not success, with the hub's reason.
pub(super) struct Refusal<'a> {
    pub(super) status: StatusCode,
    pub(super) code: Option<&'a str>,
    pub(super) message: Option<&'a str>,
}

impl Refusal<'_> {
    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        self.status.is_server_error()
            || matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
    }

    /// The refusal of `file` at `revision`, or of the whole revision.
    pub(super) fn error(
        &self,
        settings: &HubSettings,
        repo: &RepoId,
        revision: &str,
        file: Option<&str>,
    ) -> Error {
        let id = repo.as_str();
        let hub = |message: String| Error::new(ErrorKind::Hub, message);
        let has_token = settings.token.is_some();
        let set_token = "set `HF_TOKEN`, or run `hf auth login` once";
        let check_id = "check the spelling: a hub id is `org/name`";
        let error = match (self.status.as_u16(), self.code, file) {
            (401 | 403, Some("GatedRepo"), _) => hub(format!("model `{id}` is gated")).hint(
                if has_token {
                    format!("accept its conditions on {}/{id} with the account of the token", shown(settings))
                } else {
                    format!("accept its conditions on {}/{id}, then {set_token}", shown(settings))
                },
            ),
            // The hub does not tell strangers which private repositories exist.
            (401, _, _) if !has_token => {
                hub(format!("model `{id}` does not exist, or is private"))
                    .hint(format!("{check_id}; for a private one, {set_token}"))
            }
            (401, _, _) => hub(format!("the hub does not accept the token for model `{id}`"))
                .hint("the token may have expired or be mistyped: make one at https://huggingface.co/settings/tokens"),
            (403, _, _) => hub(format!("the hub forbids access to model `{id}`")).hint(if has_token {
                "the token may lack the right to read this repository".to_owned()
            } else {
                set_token.to_owned()
            }),
            (404, Some("RevisionNotFound"), _) => {
                hub(format!("model `{id}` has no revision `{revision}`"))
                    .hint("a revision is a branch, a tag or a full commit hash")
            }
            (404, Some("RepoNotFound"), _) => hub(format!("model `{id}` does not exist"))
                .hint(if has_token { check_id.to_owned() } else { format!("{check_id}; for a private one, {set_token}") }),
            (404, _, None) => hub(format!("model `{id}` or its revision `{revision}` does not exist"))
                .hint(check_id),
            (404, _, Some(file)) => hub(format!("model `{id}` lists `{file}`, but does not have it")),
            (429, _, _) => hub(format!("the hub asks to slow down ({})", self.status))
                .hint("try later, or set `HF_TOKEN`: known users may ask more often"),
            _ => hub(format!("the hub answered {} for model `{id}`", self.status))
                .hint("try later; https://status.huggingface.co tells of disturbances"),
        };
        match self.message.map(plain_line).filter(|message| !message.is_empty()) {
            Some(message) => error.at(format!("the hub says: {message}")),
            None => error,
        }
    }
}

/// What the hub is, for messages: without the credentials that an address may carry.
pub(super) fn shown(settings: &HubSettings) -> String {
    let Ok(mut url) = Url::parse(&settings.endpoint) else { return "`HF_ENDPOINT`".to_owned() };
    // Only an address without host has no place for them.
    let _ = (url.set_username(""), url.set_password(None));
    url.as_str().trim_end_matches('/').to_owned()
}

pub(super) fn unreachable_host(host: &str) -> Error {
    Error::new(ErrorKind::Hub, format!("cannot reach `{host}`")).hint(
        "check the network, proxy and `HF_ENDPOINT`, or set `HF_HUB_OFFLINE=1` to use what is cached",
    )
}

fn endpoint(settings: &HubSettings) -> Result<Url> {
    let broken = || {
        Error::new(ErrorKind::Hub, format!("{} is not the address of a hub", shown(settings)))
            .hint("`HF_ENDPOINT` should be like `https://huggingface.co`")
    };
    let url = Url::parse(&settings.endpoint).map_err(|e| broken().source(e))?;
    match (url.scheme(), url.host()) {
        ("http" | "https", Some(_)) => Ok(url),
        _ => Err(broken()),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn disk(path: &Path, e: io::Error) -> Error {
    let hint = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space, or set `HF_HOME` to a folder on a larger one"
        }
        _ => "the cache must be writable; set `HF_HOME` to have it elsewhere",
    };
    Error::new(ErrorKind::Hub, format!("cannot write `{}` in the cache", path.display()))
        .source(e)
        .hint(hint)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The first byte and the whole length, if it is told, of `bytes 5-9/10`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

/// A server's text as one short line that cannot steer a terminal.
fn plain_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(200).collect::<String>().trim().to_owned()
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

    #[test]
    fn shows_no_credentials() {
        let settings =
            HubSettings::from_vars(&|_| None).with_endpoint("https://ada:secret@mirror.example/hf");
        assert_eq!(shown(&settings), "https://mirror.example/hf");
        for broken in ["mirror.example", "ftp://x", "", "file:///tmp"] {
            let error = endpoint(&settings.clone().with_endpoint(broken)).unwrap_err();
            assert!(error.to_string().contains("is not the address of a hub"), "{error}");
        }
        assert_eq!(plain_line("a\u{1b}[31m\nb"), "a [31m b");
    }
}
