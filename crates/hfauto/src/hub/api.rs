//! Resolves a revision with one request to the hub's API. The response is bounded in size and time. Not here: files
//! ([`super::transfer`]).

use std::time::Duration;

use hf_hub::repository::ModelInfo;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, Response};
use tokio::time::timeout;

use super::refusal::{Refusal, shown, unreachable_host};
use super::transfer::{Failure, MAX_PAUSE, Transfer, header};
use crate::error::{Error, ErrorKind};
use crate::limits;

/// The most retries without a connection: a machine without a network learns it in seconds.
const UNCONNECTED_RETRIES: u32 = 1;

/// How long the hub may take to respond if the cache has a copy.
const CACHED_TIMEOUT: Duration = Duration::from_secs(4);

impl Transfer {
    /// Requests the commit and the files of `revision`. With `is_cached`, a copy makes do: one short attempt. The flag
    /// beside an error is true for network failures.
    pub(super) async fn info(
        &self,
        revision: &str,
        is_cached: bool,
    ) -> Result<ModelInfo, (Error, bool)> {
        let mut retries = 0;
        loop {
            let attempt = self.info_once(revision);
            let answer = if is_cached {
                timeout(CACHED_TIMEOUT, attempt).await.unwrap_or_else(|_| {
                    let error = unreachable_host(&shown(&self.settings));
                    Err(Failure::Network { error, received: 0, pause: None, connected: false })
                })
            } else {
                attempt.await
            };
            match answer {
                Ok(info) => return Ok(info),
                Err(Failure::Fatal(error) | Failure::Stale(error)) => return Err((error, false)),
                Err(Failure::Network { error, pause, connected, .. }) => {
                    let most = self.settings.retries;
                    let most = if connected { most } else { most.min(UNCONNECTED_RETRIES) };
                    if is_cached || retries >= most {
                        return Err((error, true));
                    }
                    let backoff = self.settings.retry_delay.saturating_mul(1 << retries.min(6));
                    let pause = backoff.max(pause.unwrap_or_default()).min(MAX_PAUSE);
                    retries += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn info_once(&self, revision: &str) -> Result<ModelInfo, Failure> {
        let mut url = self.endpoint.clone();
        {
            let segments = url.path_segments_mut();
            let mut path = segments.map_err(|()| self.error("malformed `HF_ENDPOINT`"))?;
            path.pop_if_empty().extend(["api", "models"]).extend(self.repo.as_str().split('/'));
            path.extend(["revision", revision]);
        }
        let response =
            self.send(&self.client, Method::GET, &url, None).await.map_err(|failure| {
                match failure {
                    // The message names the configured endpoint, because this request goes to the hub itself.
                    Failure::Network { error, received, pause, connected } => {
                        let mut named = unreachable_host(&shown(&self.settings));
                        if let Some(source) = std::error::Error::source(&error) {
                            named = named.source(source.to_string());
                        }
                        Failure::Network { error: named, received, pause, connected }
                    }
                    other => other,
                }
            })?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.info_refused(response, revision).await);
        }
        let body = self.small_body(response, limits::HUB_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(|e| {
            let what = format!("{} does not respond like a hub", shown(&self.settings));
            let error = Error::new(ErrorKind::Hub, what).source(e);
            error.hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?").into()
        })
    }

    async fn info_refused(&self, response: Response, revision: &str) -> Failure {
        let status = response.status();
        let text = |name: &str| header(response.headers(), name).map(str::to_owned);
        let (code, pause) = (text("x-error-code"), text(RETRY_AFTER.as_str()));
        let mut message = text("x-error-message");
        if let Ok(body) = self.small_body(response, limits::HUB_REFUSAL_BYTES).await
            && let Ok(body) = serde_json::from_slice::<serde_json::Value>(&body)
            && let Some(said) = body.get("error").and_then(|error| error.as_str())
        {
            message = Some(said.to_owned());
        }
        let (code, message) = (code.as_deref(), message.as_deref());
        let refusal = Refusal { status, code, message };
        let error = refusal.error(&self.settings, &self.repo, revision, None);
        if refusal.is_transient() {
            let pause = pause.and_then(|text| text.parse().ok()).map(Duration::from_secs);
            return Failure::Network { error, received: 0, pause, connected: true };
        }
        Failure::Fatal(error)
    }

    /// Reads a whole response within the limits on size and time.
    async fn small_body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let read = async {
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                        let what =
                            format!("{} sends more than {limit} bytes", shown(&self.settings));
                        return Err(Error::new(ErrorKind::Hub, what)
                            .hint("is `HF_ENDPOINT` a Hugging Face hub or a mirror of one?")
                            .into());
                    }
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => return Ok(()),
                    Err(e) => {
                        let error = unreachable_host(&shown(&self.settings));
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
}
