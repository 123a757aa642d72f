//! Resolves what a run tells other systems: the collector of OpenLineage events, and webhooks. Not here: sending
//! (`crate::notify`).

use std::collections::BTreeMap;

use url::Url;

use super::path::scheme;
use super::{Cursor, Resolver};
use crate::config::pipeline::{AddressSpec, NoticesSpec, OpenLineageSpec};
use crate::config::raw::{RawOpenLineage, RawRun, RawWebhook};
use crate::document::Diagnostic;
use crate::secret;

/// Where collectors take events, unless the address has a path.
const EVENTS_PATH: &str = "/api/v1/lineage";

/// The namespace of jobs that OpenLineage's own clients default to.
const NAMESPACE: &str = "default";

/// Headers that describe the connection or the body.
const OWN_HEADERS: [&str; 4] = ["connection", "content-length", "host", "transfer-encoding"];

/// Parts of header names whose values grant access.
const SECRET_HEADERS: [&str; 7] =
    ["auth", "cookie", "credential", "key", "password", "secret", "token"];

impl Resolver<'_> {
    /// What a run tells other systems. Leaves out what has a problem.
    pub(super) fn notices(&mut self, raw: Option<&RawRun>, at: Cursor<'_>) -> NoticesSpec {
        let Some(raw) = raw else { return NoticesSpec::default() };
        let openlineage = raw.openlineage.as_ref();
        NoticesSpec {
            openlineage: openlineage.and_then(|raw| self.openlineage(raw, at.key("openlineage"))),
            on_failure: self.webhook(raw.on_failure.as_ref(), at.key("on_failure")),
            on_success: self.webhook(raw.on_success.as_ref(), at.key("on_success")),
        }
    }

    fn openlineage(&mut self, raw: &RawOpenLineage, at: Cursor<'_>) -> Option<OpenLineageSpec> {
        let address = self.address(&raw.url, at.key("url"), "run.openlineage.url");
        let namespace = raw.namespace.as_deref().unwrap_or(NAMESPACE);
        let is_named = self.not_empty(namespace, at.key("namespace"), "namespace");
        let mut headers = Vec::new();
        if let Some(key) = &raw.api_key {
            let here = at.key("api_key");
            if !self.not_empty(key, here, "api_key") || !self.is_line(key, here, "`api_key`") {
                return None;
            }
            secret::remember_value(key);
            headers.push(("Authorization".to_owned(), format!("Bearer {}", key.trim())));
        }
        let mut address = address.filter(|_| is_named)?;
        if address.url.path() == "/" {
            address.url.set_path(EVENTS_PATH);
        }
        address.headers = headers;
        Some(OpenLineageSpec { address, namespace: namespace.to_owned() })
    }

    fn webhook(&mut self, raw: Option<&RawWebhook>, at: Cursor<'_>) -> Option<AddressSpec> {
        let (url, url_at, headers) = match raw? {
            RawWebhook::Url(url) => (url, at, None),
            RawWebhook::Request(request) => (&request.url, at.key("url"), request.headers.as_ref()),
        };
        let address = self.address(url, url_at, "url");
        let headers = self.headers(headers, at.key("headers"));
        Some(AddressSpec { headers: headers?, ..address? })
    }

    /// The address that `text` names; reports anything else.
    fn address(&mut self, text: &str, at: Cursor<'_>, what: &str) -> Option<AddressSpec> {
        if !self.not_empty(text, at, what) {
            return None;
        }
        let shown = at.shown(text);
        let hint = "write `http://` or `https://`, the host, and the path if there is one";
        let is_http = scheme(text).is_some_and(|scheme| {
            ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        });
        if !is_http {
            let message = format!("`{shown}` has neither the scheme `http://` nor `https://`");
            self.report.push(Diagnostic::new(at.value, message).hint(hint));
            return None;
        }
        // The parser's message may contain a part of a variable's value.
        let Some(url) = Url::parse(text).ok().filter(Url::has_host) else {
            let message = format!("`{shown}` is not a URL");
            self.report.push(Diagnostic::new(at.value, message).hint(hint));
            return None;
        };
        secret::remember_credentials(text);
        let is_written = shown == text;
        let shown = if is_written { url.origin().ascii_serialization() } else { shown.to_owned() };
        Some(AddressSpec { url, headers: Vec::new(), shown })
    }

    /// The headers of a request; `None` if one has a problem.
    fn headers(
        &mut self,
        headers: Option<&BTreeMap<String, String>>,
        at: Cursor<'_>,
    ) -> Option<Vec<(String, String)>> {
        let mut resolved = Some(Vec::new());
        for (name, value) in headers.into_iter().flatten() {
            let here = at.key(name);
            let lower = name.to_ascii_lowercase();
            let problem = if !is_header_name(name) {
                let hint = "a name has letters, digits and hyphens, such as `X-Api-Key`";
                Some((format!("`{name}` is not the name of a header"), hint))
            } else if OWN_HEADERS.contains(&lower.as_str()) {
                let hint = "remove it: it follows from the address and the report";
                Some((format!("the header `{name}` cannot be set"), hint))
            } else {
                None
            };
            let is_valid = problem.is_none();
            if let Some((message, hint)) = problem {
                self.report.push(Diagnostic::new(here.key, message).hint(hint));
            }
            if !is_valid || !self.is_line(value, here, &format!("the header `{name}`")) {
                resolved = None;
                continue;
            }
            if SECRET_HEADERS.iter().any(|part| lower.contains(part)) {
                secret::remember_value(value);
                // `Bearer TOKEN`, `Basic TOKEN`
                value.split_whitespace().skip(1).for_each(secret::remember_value);
            }
            if let Some(resolved) = &mut resolved {
                resolved.push((name.clone(), value.trim().to_owned()));
            }
        }
        resolved
    }

    /// Reports a text that is not one line, and thus not the value of a header.
    fn is_line(&mut self, text: &str, at: Cursor<'_>, what: &str) -> bool {
        let is_line = !text.trim().chars().any(char::is_control);
        if !is_line {
            let message = format!("{what} has line breaks or other control characters");
            self.report.push(Diagnostic::new(at.value, message).hint("write it on one line"));
        }
        is_line
    }
}

/// Whether a text is a token of RFC 9110.
fn is_header_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part)
}
