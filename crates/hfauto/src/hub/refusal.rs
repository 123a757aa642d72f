//! Explains a hub's error response to the user, without showing credentials. Not here: the requests
//! ([`super::transfer`], [`super::download`]).

use reqwest::StatusCode;
use url::Url;

use super::repo::{RepoId, RepoKind};
use super::settings::HubSettings;
use crate::error::{Error, ErrorKind, Result};

/// An HTTP status other than success, with the hub's reason.
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

    /// The error for `file` at `revision`, or for the whole revision.
    pub(super) fn error(
        &self,
        settings: &HubSettings,
        repo: &RepoId,
        revision: &str,
        file: Option<&str>,
    ) -> Error {
        let path = repo.path();
        let is_model = repo.kind() == RepoKind::Model;
        let has_token = settings.token.is_some();
        let private = if has_token {
            String::new()
        } else {
            "; if it is private, set `HF_TOKEN`, or run `hf auth login` once".to_owned()
        };
        let either = if is_model { ": there is no such directory either" } else { "" };
        let spelling = format!("check the spelling{either}{private}");
        let (what, hint) = match (self.status.as_u16(), self.code, file) {
            (401 | 403, Some("GatedRepo"), _) => {
                let page = format!("accept its conditions on {}/{path}", shown(settings));
                let hint = if has_token {
                    format!("{page} with the account of the token")
                } else {
                    format!("{page}, then set `HF_TOKEN`, or run `hf auth login` once")
                };
                (format!("{repo} is gated"), hint)
            }
            // For anonymous requests, the hub hides which private repositories exist.
            (401, _, _) if !has_token => {
                (format!("{repo} does not exist, or is private"), spelling)
            }
            (401, _, _) => (
                format!("the hub does not accept the token for {repo}"),
                "it may have expired: see https://huggingface.co/settings/tokens".to_owned(),
            ),
            (403, _, _) => (
                format!("the hub forbids access to {repo}"),
                format!("the account may not read this repository{private}"),
            ),
            (404, Some("RevisionNotFound"), _) => (
                format!("{repo} has no revision `{revision}`"),
                "a revision is a branch, a tag or a full commit hash".to_owned(),
            ),
            (404, Some("RepoNotFound"), _) => (format!("{repo} does not exist"), spelling),
            (404, _, None) => {
                (format!("{repo} or its revision `{revision}` does not exist"), spelling)
            }
            (404, _, Some(file)) => (
                format!("{repo} lists `{file}`, but does not have it"),
                "is `HF_ENDPOINT` a mirror that is out of date?".to_owned(),
            ),
            (429, _, _) => (
                "the hub asks to slow down".to_owned(),
                "try later; with `HF_TOKEN` set, you may ask more often".to_owned(),
            ),
            _ => (
                format!("the hub answered {} for {repo}", self.status),
                "try later; https://status.huggingface.co reports outages".to_owned(),
            ),
        };
        let said = self.message.map(plain_line).filter(|message| !message.is_empty());
        let said = said.map_or(String::new(), |message| format!(" (it says: {message})"));
        Error::new(ErrorKind::Hub, what + &said).hint(hint)
    }
}

/// The hub's address for messages, without credentials.
pub(super) fn shown(settings: &HubSettings) -> String {
    let Ok(mut url) = Url::parse(&settings.endpoint) else { return "`HF_ENDPOINT`".to_owned() };
    // These calls fail only for an address without a host, which has no credentials.
    let _ = (url.set_username(""), url.set_password(None));
    url.as_str().trim_end_matches('/').to_owned()
}

pub(super) fn unreachable_host(host: &str) -> Error {
    Error::new(ErrorKind::Hub, format!("cannot reach `{host}`")).hint(
        "check the network, proxy and `HF_ENDPOINT`, or set `HF_HUB_OFFLINE=1` to use what is cached",
    )
}

pub(super) fn endpoint(settings: &HubSettings) -> Result<Url> {
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

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A server's text as one short line without control characters.
fn plain_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(200).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
