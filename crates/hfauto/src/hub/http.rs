//! Requests to the hub for one repository: clients, addresses, the token, retries, bounded answers, and where a file
//! is. Not here: what is done with files ([`super::transfer`], [`super::dataset`]).

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::refusal::{Refusal, endpoint, is_loopback, shown, unreachable_host};
use super::repo::{RepoId, RepoKind};
use super::settings::HubSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

pub(super) const MAX_REDIRECTS: usize = 10;
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The most retries without a connection: a machine without a network learns it in seconds.
pub(super) const UNCONNECTED_RETRIES: u32 = 1;

/// HTTP clients and the context of every request.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) settings: HubSettings,
    pub(super) endpoint: Url,
    pub(super) repo: RepoId,
    /// Follows redirects. Sends the token to the hub's host only.
    pub(super) client: Client,
    /// Follows no redirects: the hub's headers describe the file.
    head_client: Client,
}

/// The hub's description of a file.
#[derive(Clone, Debug)]
pub(super) struct Located {
    /// The address of its bytes, at the hub or in the storage behind it.
    pub(super) url: Url,
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

/// Why an attempt failed, and whether to retry.
pub(super) enum Failure {
    /// Retrying cannot help.
    Fatal(Error),
    /// The repository has no such file or folder at this commit.
    Missing(Error),
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

impl Http {
    /// # Errors
    /// `Hub` when the endpoint is not an address, or the HTTP client cannot be built.
    pub(super) fn new(settings: HubSettings, repo: RepoId) -> Result<Self> {
        let endpoint = endpoint(&settings)?;
        let client = |redirects| {
            let builder = builder(&settings, &endpoint).read_timeout(settings.timeout);
            build(builder.redirect(redirects))
        };
        Ok(Self {
            client: client(Policy::limited(MAX_REDIRECTS))?,
            head_client: client(Policy::none())?,
            settings,
            endpoint,
            repo,
        })
    }

    /// A client for uploads, which may take longer than any silence allowed.
    pub(super) fn upload_client(&self) -> Result<Client> {
        build(builder(&self.settings, &self.endpoint).redirect(Policy::none()))
    }

    /// A request with the token, if it goes to the hub.
    pub(super) fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        self.request_by(&self.client, method, url)
    }

    pub(super) fn request_by(&self, client: &Client, method: Method, url: &Url) -> RequestBuilder {
        let request = client.request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
        match &self.settings.token {
            Some(token) if url.origin() == self.endpoint.origin() => {
                request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()))
            }
            _ => request,
        }
    }

    /// Requests `url` from the byte `from`.
    pub(super) async fn get(&self, url: &Url, from: Option<u64>) -> Result<Response, Failure> {
        let request = self.request(Method::GET, url);
        let request = match from {
            Some(from) => request.header(RANGE, format!("bytes={from}-")),
            None => request,
        };
        self.send(request, url).await
    }

    /// Sends a request to `url`, and waits for the headers of the response.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> Result<Response, Failure> {
        self.send_within(request, url, self.answer_time()).await
    }

    /// As [`Http::send`], with another timeout: a large body takes time.
    pub(super) async fn send_within(
        &self,
        request: RequestBuilder,
        url: &Url,
        time: Duration,
    ) -> Result<Response, Failure> {
        let sent = timeout(time, request.send()).await;
        sent.map_err(|_| self.too_slow("its headers"))?.map_err(|e| {
            let host = url.host_str().unwrap_or("?");
            let error = if e.is_builder() {
                self.error("cannot send a request: is the token plain text?")
            } else {
                self.unreachable(host)
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

    /// Sends a request to the hub itself, whose address a network failure then names.
    pub(super) async fn ask(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> Result<Response, Failure> {
        self.send(request, url).await.map_err(|failure| match failure {
            Failure::Network { error, received, pause, connected } => {
                let mut named = self.unreachable(&shown(&self.settings));
                if let Some(source) = std::error::Error::source(&error) {
                    named = named.source(source.to_string());
                }
                Failure::Network { error: named, received, pause, connected }
            }
            other => other,
        })
    }

    /// As [`Http::ask`]; returns the body of a successful response.
    pub(super) async fn answer(
        &self,
        request: RequestBuilder,
        url: &Url,
        revision: &str,
        file: Option<&str>,
    ) -> Result<(HeaderMap, Vec<u8>), Failure> {
        let response = self.ask(request, url).await?;
        if !response.status().is_success() {
            return Err(self.refused_with_body(response, revision, file).await);
        }
        let headers = response.headers().clone();
        Ok((headers, self.small_body(response, limits::HUB_ANSWER_BYTES).await?))
    }

    /// Repeats an attempt after network failures, and after answers that may change.
    pub(super) async fn retried<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retries = 0;
        loop {
            match attempt().await {
                Err(Failure::Network { error, pause, connected, received }) => {
                    let most = self.settings.retries;
                    let most = if connected { most } else { most.min(UNCONNECTED_RETRIES) };
                    if retries >= most {
                        return Err(Failure::Network { error, pause, connected, received });
                    }
                    let pause = self.pause(retries, pause);
                    retries += 1;
                    tracing::warn!(repo = self.repo.as_str(), retries, %error, "retrying");
                    tokio::time::sleep(pause).await;
                }
                end => return end,
            }
        }
    }

    /// The time before retry number `retries`, from 0. `asked` is what the server asks for.
    pub(super) fn pause(&self, retries: u32, asked: Option<Duration>) -> Duration {
        let backoff = self.settings.retry_delay.saturating_mul(1 << retries.min(6));
        backoff.max(asked.unwrap_or_default()).min(MAX_PAUSE)
    }

    /// Requests the file's etag, size and location.
    pub(super) async fn locate(&self, commit: &str, file: &str) -> Result<Located, Failure> {
        let mut url = self.file_url(commit, file)?;
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request_by(&self.head_client, Method::HEAD, &url);
            let response = self.send(request, &url).await?;
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
                return self.located(file, url, etag, size);
            };
            let next = url.join(location).map_err(|e| {
                self.error(format!("the hub sent a malformed redirect for `{file}`")).source(e)
            })?;
            // A renamed repository redirects within the hub, and that response does not describe the file. A redirect
            // to the storage behind the hub does.
            let within = Url::parse(location).is_err();
            if !within && etag.is_some() {
                return self.located(file, next, etag, header(headers, "x-linked-size"));
            }
            url = next;
        }
        Err(self.error(format!("the hub redirects `{file}` in a loop")).into())
    }

    fn located(
        &self,
        file: &str,
        url: Url,
        etag: Option<&str>,
        size: Option<&str>,
    ) -> Result<Located, Failure> {
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let etag = etag.filter(|etag| {
            !etag.is_empty()
                && etag.len() <= 128
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        let Some(etag) = etag else {
            return Err(self
                .error(format!("the server gives no usable etag for `{file}`"))
                .hint(NO_HUB)
                .into());
        };
        Ok(Located { url, etag: etag.to_owned(), size: size.and_then(|size| size.parse().ok()) })
    }

    /// The failure that a refusal of a file is. Reads the headers only.
    pub(super) fn refused(&self, response: &Response, commit: &str, file: &str) -> Failure {
        let headers = response.headers();
        let message = header(headers, "x-error-message");
        self.failure(response.status(), headers, message, commit, Some(file))
    }

    /// The failure that a refusal is, with what its body says.
    pub(super) async fn refused_with_body(
        &self,
        response: Response,
        revision: &str,
        file: Option<&str>,
    ) -> Failure {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut message = header(&headers, "x-error-message").map(str::to_owned);
        if let Ok(body) = self.small_body(response, limits::HUB_REFUSAL_BYTES).await
            && let Ok(body) = serde_json::from_slice::<serde_json::Value>(&body)
            && let Some(said) = body.get("error").and_then(|error| error.as_str())
        {
            message = Some(said.to_owned());
        }
        self.failure(status, &headers, message.as_deref(), revision, file)
    }

    fn failure(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        message: Option<&str>,
        revision: &str,
        file: Option<&str>,
    ) -> Failure {
        let code = header(headers, "x-error-code");
        let refusal = Refusal { status, code, message };
        let error = refusal.error(&self.settings, &self.repo, revision, file);
        if refusal.is_transient() {
            let pause = header(headers, RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
            let pause = pause.map(Duration::from_secs);
            return Failure::Network { error, received: 0, pause, connected: true };
        }
        let is_repo = matches!(code, Some("RepoNotFound" | "RevisionNotFound"));
        if status == StatusCode::NOT_FOUND && file.is_some() && !is_repo {
            return Failure::Missing(error);
        }
        Failure::Fatal(error)
    }

    /// Reads a whole response within the limits on size and time.
    pub(super) async fn small_body(
        &self,
        mut response: Response,
        limit: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let read = async {
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                        let what =
                            format!("{} sends more than {limit} bytes", shown(&self.settings));
                        return Err(Error::new(ErrorKind::Hub, what).hint(NO_HUB).into());
                    }
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => return Ok(()),
                    Err(e) => {
                        let error = self.unreachable(&shown(&self.settings));
                        let error = error.source(e.without_url());
                        return Err(Failure::Network {
                            error,
                            received: 0,
                            pause: None,
                            connected: true,
                        });
                    }
                }
            }
        };
        let end = timeout(self.answer_time(), read).await;
        end.unwrap_or_else(|_| Err(self.too_slow("its response").into()))?;
        Ok(body)
    }

    fn unreachable(&self, host: &str) -> Error {
        match self.repo.kind() {
            RepoKind::Model => unreachable_host(host),
            // Nothing of a dataset is cached.
            RepoKind::Dataset => Error::new(ErrorKind::Hub, format!("cannot reach `{host}`"))
                .hint("check the network, proxy and `HF_ENDPOINT`"),
        }
    }

    /// The error for an answer that no hub gives.
    pub(super) fn no_hub(
        &self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let what = format!("{} does not respond like a hub", shown(&self.settings));
        Error::new(ErrorKind::Hub, what).source(cause).hint(NO_HUB)
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
        Error::new(ErrorKind::Hub, message).at(&self.repo)
    }

    /// The address of a file at a commit.
    pub(super) fn file_url(&self, commit: &str, file: &str) -> Result<Url> {
        let repo = self.repo.path();
        self.url(repo.split('/').chain(["resolve", commit]).chain(file.split('/')))
    }

    /// The address of a part of the repository's API, such as `["revision", "main"]`.
    pub(super) fn api_url(&self, path: &[&str]) -> Result<Url> {
        let repo = self.repo.api();
        let mut parts: Vec<&str> = vec!["api"];
        parts.extend(repo.split('/'));
        parts.extend_from_slice(path);
        self.url(parts)
    }

    /// The address of a path on the hub.
    pub(super) fn url<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let mut segments =
            url.path_segments_mut().map_err(|()| self.error("malformed `HF_ENDPOINT`"))?;
        segments.pop_if_empty().extend(path);
        drop(segments);
        Ok(url)
    }
}

fn builder(settings: &HubSettings, endpoint: &Url) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("hfauto-pipe/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.timeout)
        // The length of a compressed body differs from the file's.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd();
    if is_loopback(endpoint) { builder.no_proxy() } else { builder }
}

fn build(builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|e| {
        Error::new(ErrorKind::Hub, "cannot build an HTTP client").source(e.without_url())
    })
}

/// What to check when a server answers in a form that no hub has.
pub(super) const NO_HUB: &str = "is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?";

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The first byte and, if known, the total length of `bytes 5-9/10`.
pub(super) fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
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
