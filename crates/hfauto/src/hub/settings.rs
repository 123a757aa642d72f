//! The hub's address, the cache's location and the token, from the same environment variables as Python's
//! `huggingface_hub`. Not here: their use ([`super::Hub`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The default of `HF_HUB_DOWNLOAD_TIMEOUT` in `huggingface_hub`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of `http_get` in `huggingface_hub`.
const DEFAULT_RETRIES: u32 = 5;
const DEFAULT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A token that `Debug` does not print.
#[derive(Clone, PartialEq)]
pub(super) struct Token(String);

impl Token {
    /// The token in clear, for the `Authorization` header.
    #[cfg(any(test, feature = "hub"))]
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Settings of a [`Hub`](super::Hub).
///
/// | variable | meaning |
/// |---|---|
/// | `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `TRANSFORMERS_CACHE`, else `$HF_HOME/hub` | the cache |
/// | `HF_HOME`, else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` | the home folder |
/// | `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token` | the token |
/// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | send no token from the environment |
/// | `HF_ENDPOINT` | a mirror in place of `https://huggingface.co` |
/// | `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE` | use the cache only |
/// | `HF_HUB_DOWNLOAD_TIMEOUT` | connection timeout: seconds without a response |
///
/// Switches are on for `1`, `ON`, `YES` or `TRUE`, in any case. `Debug` never prints the token.
#[derive(Clone, Debug, PartialEq)]
pub struct HubSettings {
    pub(super) cache_dir: PathBuf,
    /// False without a home folder and without a variable for the cache.
    pub(super) has_cache: bool,
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    pub(super) offline: bool,
    pub(super) timeout: Duration,
    pub(super) retries: u32,
    pub(super) retry_delay: Duration,
}

impl HubSettings {
    /// The settings from the process's environment.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var(name).ok())
    }

    /// The settings from the variables of `var`. An empty variable counts as unset.
    pub(super) fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        // Never the temporary folder, where another user may have planted a cache or a token.
        let user = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| {
            var(name).and_then(|value| match value.strip_prefix("~/") {
                Some(rest) => user.as_ref().map(|user| user.join(rest)),
                None => Some(PathBuf::from(value)),
            })
        };
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache_dir = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            // The name before transformers 5.
            .or_else(|| folder("TRANSFORMERS_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let switch = |name: &str| var(name).is_some_and(|value| is_on(&value));
        let token = if switch("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
                let path = folder("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
                std::fs::read_to_string(path?).ok()
            })
        };
        let offline = match var("HF_HUB_OFFLINE") {
            Some(value) => is_on(&value),
            None => switch("TRANSFORMERS_OFFLINE"),
        };
        let timeout = var("HF_HUB_DOWNLOAD_TIMEOUT")
            .and_then(|value| value.trim().parse().ok())
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        Self {
            has_cache: cache_dir.is_some(),
            cache_dir: cache_dir.unwrap_or_default(),
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline,
            timeout,
            retries: DEFAULT_RETRIES,
            retry_delay: DEFAULT_RETRY_DELAY,
        }
        .with_endpoint(var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()))
        .with_token(token)
    }

    /// Sets the cache folder, which holds `models--org--name`.
    #[must_use]
    pub fn with_cache_dir(mut self, cache_dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = cache_dir.into();
        self.has_cache = true;
        self
    }

    /// Sets the hub's address.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        endpoint.into().trim().trim_end_matches('/').clone_into(&mut self.endpoint);
        self
    }

    /// Sets the token; `None` sends none.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        // Token files, and many copied tokens, end with a line break.
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        self.token = token.map(Token);
        self
    }

    /// Uses the cache only.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the connection timeout: the longest time without a response.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the number of retries after a network failure.
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the delay before the first retry; it doubles with each retry.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// The cache folder.
    pub fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// The hub's address, without a trailing slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether only the cache is used.
    pub fn offline(&self) -> bool {
        self.offline
    }
}

fn is_on(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_vars(&|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn finds_the_cache_as_python_does() {
        let check = |vars: &[(&str, &str)], expected: &str| {
            assert_eq!(settings(vars).cache_dir(), Path::new(expected), "{vars:?}");
        };
        let user = ("HOME", "/home/ada");
        check(&[user], "/home/ada/.cache/huggingface/hub");
        check(&[user, ("XDG_CACHE_HOME", "/var/cache")], "/var/cache/huggingface/hub");
        check(&[user, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], "/home/ada/hf/hub");
        check(&[user, ("HF_HOME", "")], "/home/ada/.cache/huggingface/hub");
        check(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old");
        check(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new");
        for without in [&[][..], &[("HF_HOME", "~/hf")]] {
            assert!(!settings(without).has_cache, "{without:?}");
        }
        assert!(settings(&[("XDG_CACHE_HOME", "/x")]).has_cache);
        check(&[("HF_HOME", "/hf"), ("TRANSFORMERS_CACHE", "/older")], "/older");
        check(&[("TRANSFORMERS_CACHE", "/older"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old");
    }

    #[test]
    fn reads_switches_and_endpoint() {
        for on in ["1", "on", "Yes", "TRUE"] {
            assert!(settings(&[("HF_HUB_OFFLINE", on)]).offline(), "{on}");
        }
        for off in ["0", "off", "no", "2", ""] {
            assert!(!settings(&[("HF_HUB_OFFLINE", off)]).offline(), "{off}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline());
        let mirror = settings(&[("HF_ENDPOINT", "https://mirror.example/hf/")]);
        assert_eq!(mirror.endpoint(), "https://mirror.example/hf");
        assert_eq!(settings(&[]).endpoint(), DEFAULT_ENDPOINT);
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "42")]).timeout.as_secs(), 42);
    }

    #[test]
    fn finds_the_token_and_never_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_from_file\n").unwrap();
        let token = |vars: &[(&str, &str)]| {
            let settings = settings(vars);
            let shown = format!("{settings:?}");
            assert!(!shown.contains("hf_"), "{shown}");
            settings.token.map(|token| token.reveal().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_from_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN", " hf_from_env\n")]).as_deref(),
            Some("hf_from_env")
        );
        let path = folder.path().join("token");
        assert_eq!(
            token(&[("HF_HOME", "/none"), ("HF_TOKEN_PATH", path.to_str().unwrap())]).as_deref(),
            Some("hf_from_file")
        );
        assert_eq!(token(&[("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_HOME", "/none")]), None);
    }
}
