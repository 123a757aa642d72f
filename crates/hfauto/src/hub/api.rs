//! Resolves a revision with one request to the hub's API. The response is bounded in size and time. Not here: files
//! ([`super::transfer`]).

use std::time::Duration;

use hf_hub::repository::ModelInfo;
use reqwest::Method;
use tokio::time::timeout;

use super::http::{Failure, UNCONNECTED_RETRIES};
use super::refusal::{shown, unreachable_host};
use super::transfer::Transfer;
use crate::error::Error;

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
                    let error = unreachable_host(&shown(&self.http.settings));
                    Err(Failure::Network { error, received: 0, pause: None, connected: false })
                })
            } else {
                attempt.await
            };
            match answer {
                Ok(info) => return Ok(info),
                Err(Failure::Fatal(error) | Failure::Missing(error) | Failure::Stale(error)) => {
                    return Err((error, false));
                }
                Err(Failure::Network { error, pause, connected, .. }) => {
                    let most = self.http.settings.retries;
                    let most = if connected { most } else { most.min(UNCONNECTED_RETRIES) };
                    if is_cached || retries >= most {
                        return Err((error, true));
                    }
                    let pause = self.http.pause(retries, pause);
                    retries += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn info_once(&self, revision: &str) -> Result<ModelInfo, Failure> {
        let http = &self.http;
        let url = http.api_url(&["revision", revision])?;
        let request = http.request(Method::GET, &url);
        let (_, body) = http.answer(request, &url, revision, None).await?;
        serde_json::from_slice(&body).map_err(|e| http.no_hub(e).into())
    }
}
