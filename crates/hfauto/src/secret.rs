//! Keeps secrets out of messages, logs, reports and files: values of variables, and credentials in URLs. Entries:
//! [`hide`] filters all output except the rows; [`remember`] registers a secret. Not here: the rows themselves, which
//! stay unchanged.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use serde_json::Value;

/// The replacement for credentials.
const HIDDEN: &str = "***";

/// A shorter value is no secret, and would match within ordinary words.
const MIN_CHARS: usize = 4;

/// A shorter number is a count.
const MIN_DIGITS: usize = 8;

/// A shorter value is replaced only as a whole word.
const WORD_CHARS: usize = 6;

/// The most values to remember: pipelines have a few, a long-running scheduler sees many.
const MAX_VALUES: usize = 10_000;

/// Environment variables that hold credentials, even if no pipeline names them.
const CREDENTIALS: &[&str] = &[
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "OPENLINEAGE_API_KEY",
];

/// Query parameters of URLs, or suffixes of their names, whose values grant access.
const SECRET_KEYS: &[&str] = &[
    "sig",
    "signature",
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "accesskey",
    "credential",
    "credentials",
    "auth",
    "key",
];

#[derive(Default)]
struct Known {
    /// Each secret and its replacement, longest first.
    values: Vec<(String, String)>,
    seen: HashSet<String>,
}

static KNOWN: RwLock<Option<Known>> = RwLock::new(None);
static ANY: AtomicBool = AtomicBool::new(false);

/// Remembers the value of a variable, to be shown as `${name}`.
pub fn remember(name: &str, value: &str) {
    let value = value.trim();
    if is_plain(value) {
        return;
    }
    let mut spellings = spellings(value);
    // A multi-line value is shown line by line.
    for line in value.lines().map(str::trim) {
        if line.chars().count() >= WORD_CHARS {
            spellings.push(line.to_owned());
        }
    }
    // The user and the password of a URL are also secrets separately.
    if let Some(credentials) = userinfo(value) {
        let parts = credentials.split(':').filter(|part| part.chars().count() >= MIN_CHARS);
        spellings.extend(parts.flat_map(self::spellings));
    }
    add(spellings, &format!("${{{name}}}"));
}

/// Remembers a secret that has no name, to be shown as `***`: a token that is written in a file.
pub fn remember_value(value: &str) {
    let value = value.trim();
    if !is_plain(value) {
        add(spellings(value), HIDDEN);
    }
}

/// Whether a value reveals nothing and occurs everywhere: numbers, YAML keywords.
fn is_plain(value: &str) -> bool {
    value.chars().count() < MIN_CHARS
        || (value.len() < MIN_DIGITS && value.parse::<f64>().is_ok())
        || matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "none")
}

/// Remembers a URL's password, or its user if it has none, for messages that show the URL in another form.
pub fn remember_credentials(url: &str) {
    let Some(credentials) = userinfo(url) else { return };
    let secret = credentials.split_once(':').map_or(credentials, |(_, password)| password);
    if secret.chars().count() >= MIN_CHARS {
        add(spellings(secret), HIDDEN);
    }
}

fn add(spellings: Vec<String>, shown: &str) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if known.values.len() >= MAX_VALUES {
        return;
    }
    for spelling in spellings {
        if known.seen.insert(spelling.clone()) {
            known.values.push((spelling, shown.to_owned()));
        }
    }
    known.values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    ANY.store(true, Ordering::Release);
}

/// Remembers the credentials in the environment.
pub fn remember_environment() {
    for name in CREDENTIALS {
        if let Ok(value) = std::env::var(name) {
            remember(name, &value);
        }
    }
}

/// The spellings of a value: unchanged, percent-encoded, percent-decoded, and escaped as in JSON or Rust.
fn spellings(value: &str) -> Vec<String> {
    let mut spellings = vec![value.to_owned()];
    let mut add = |spelling: String| {
        if spelling.chars().count() >= MIN_CHARS && !spellings.contains(&spelling) {
            spellings.push(spelling);
        }
    };
    add(percent_encoded(value, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
    // The `url` crate's encoding of paths, queries and users.
    add(percent_encoded(value, |byte| {
        byte.is_ascii_graphic() && !b"\"#<>?`{}/:;=@[\\]^|".contains(&byte)
    }));
    add(percent_encoded(value, |byte| byte.is_ascii_graphic() && !b"\"#<>?`{}".contains(&byte)));
    add(percent_decoded(value));
    add(Value::from(value).to_string().trim_matches('"').to_owned());
    add(value.escape_debug().to_string());
    spellings
}

fn percent_encoded(text: &str, keeps: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keeps(byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'%', [high, low, ..]) => char::from(*high)
                .to_digit(16)
                .zip(char::from(*low).to_digit(16))
                .map(|(high, low)| (high * 16 + low) as u8),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The user and password of a URL.
fn userinfo(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    authority.rsplit_once('@').map(|(credentials, _)| credentials)
}

/// Replaces secrets in `text`: values of variables with `${NAME}`, credentials in URLs with `***`.
pub fn hide(text: &str) -> Cow<'_, str> {
    let mut hidden = Cow::Borrowed(text);
    if ANY.load(Ordering::Acquire) {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        for (value, shown) in known.iter().flat_map(|known| &known.values) {
            if hidden.contains(value.as_str())
                && let Some(replaced) = replaced(&hidden, value, shown)
            {
                hidden = Cow::Owned(replaced);
            }
        }
    }
    if hidden.contains("://")
        && let Some(replaced) = without_credentials(&hidden)
    {
        hidden = Cow::Owned(replaced);
    }
    hidden
}

/// Like [`hide`], for every string value in a JSON value; keys are unchanged.
pub fn hide_json(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(hidden) = hide(text) {
                *text = hidden;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_json),
        Value::Object(entries) => entries.values_mut().for_each(hide_json),
        _ => {}
    }
}

/// Replaces each `value` with `shown`. Short values are replaced only as whole words.
fn replaced(text: &str, value: &str, shown: &str) -> Option<String> {
    let is_word = value.chars().count() < WORD_CHARS;
    let mut result = String::new();
    let mut done = 0;
    for (start, _) in text.match_indices(value) {
        let end = start + value.len();
        let joins = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
        let ends_in_word = joins(value.chars().next_back()) && joins(text[end..].chars().next());
        let begins_in_word =
            joins(value.chars().next()) && joins(text[..start].chars().next_back());
        if is_word && (begins_in_word || ends_in_word) {
            continue;
        }
        result.push_str(&text[done..start]);
        result.push_str(shown);
        done = end;
    }
    (done > 0).then(|| result + &text[done..])
}

/// Removes user names and passwords from URLs, and the values of secret keys from their queries.
fn without_credentials(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        result.push_str(before);
        rest = after;
        let is_scheme = before[..before.len() - 3]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_ascii_alphanumeric());
        if !is_scheme {
            continue;
        }
        let url = &rest[..rest.find(ends_url).unwrap_or(rest.len())];
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        let user = authority.rfind('@').map_or(0, |at| at + 1);
        // Azure URLs have the container in the position of the user.
        let is_container = before.ends_with("abfs://") || before.ends_with("abfss://");
        if user > 1 && !is_container && authority[..user - 1] != *HIDDEN {
            result.push_str(HIDDEN);
            result.push('@');
            changed = true;
        } else {
            result.push_str(&url[..user]);
        }
        let tail = &url[user..];
        let query = tail.find('?').map_or(tail.len(), |at| at + 1);
        result.push_str(&tail[..query]);
        let (query, fragment) =
            tail[query..].split_at(tail[query..].find('#').unwrap_or(tail.len() - query));
        for (index, pair) in query.split('&').enumerate() {
            if index > 0 {
                result.push('&');
            }
            match pair.split_once('=') {
                Some((key, value))
                    if is_secret_key(key) && !value.is_empty() && value != HIDDEN =>
                {
                    result.push_str(key);
                    result.push('=');
                    result.push_str(HIDDEN);
                    changed = true;
                }
                _ => result.push_str(pair),
            }
        }
        result.push_str(fragment);
        rest = &rest[url.len()..];
    }
    changed.then(|| result + rest)
}

/// Whether a character ends a URL within a text.
fn ends_url(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "\"'`<>()|\\".contains(character)
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| {
        key.strip_suffix(secret)
            .is_some_and(|before| before.is_empty() || before.ends_with(['-', '_', '.']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_addresses_are_hidden() {
        let check = |text: &str, expected: &str| assert_eq!(hide(text), expected);
        check("cannot open `http://u:swordfish@h:1/x`", "cannot open `http://***@h:1/x`");
        check("s3://key@bucket/a b", "s3://***@bucket/a b");
        check(
            "https://h/x?a=1&X-Amz-Signature=0af&b=2#t",
            "https://h/x?a=1&X-Amz-Signature=***&b=2#t",
        );
        check("https://h/x?sv=1&sig=a%2Fb", "https://h/x?sv=1&sig=***");
        check("https://h/x?keyword=a", "https://h/x?keyword=a");
        check("(http://a:b@c) and http://d/e@f", "(http://***@c) and http://d/e@f");
        check("http://a:p@ss@c/d", "http://***@c/d");
        check("a://b", "a://b");
        check("http://***@h/", "http://***@h/");
        check("no address: a@b", "no address: a@b");
        check("abfss://container@account/x", "abfss://container@account/x");
        check("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x");
    }

    #[test]
    fn values_of_variables_are_shown_by_their_names() {
        remember("SECRET_OF_A_TEST", "s3cr3t/w ör\"d");
        let check = |text: &str, expected: &str| assert_eq!(hide(text), expected);
        check("at s3cr3t/w ör\"d!", "at ${SECRET_OF_A_TEST}!");
        check("at s3cr3t%2Fw%20%C3%B6r%22d", "at ${SECRET_OF_A_TEST}");
        check("at s3cr3t/w%20%C3%B6r%22d", "at ${SECRET_OF_A_TEST}");
        check(r#"{"a": "s3cr3t/w ör\"d"}"#, r#"{"a": "${SECRET_OF_A_TEST}"}"#);
        remember("WORD_OF_A_TEST", "zwqxy");
        check(
            "zwqxyz azwqxy zwqxy_ (zwqxy)",
            "zwqxyz azwqxy ${WORD_OF_A_TEST}_ (${WORD_OF_A_TEST})",
        );
        remember("URL_OF_A_TEST", "http://jane:tr%40mpoline@host/x");
        check("tr@mpoline for jane", "${URL_OF_A_TEST} for ${URL_OF_A_TEST}");
        remember_credentials("https://bob:kl%C3%BCngel@host/x");
        check("password: Some(\"klüngel\") of bob", "password: Some(\"***\") of bob");
        remember_value(" t0ken-of-a-test ");
        check("Bearer t0ken-of-a-test.", "Bearer ***.");
        for plain in ["10", "abc", "true", "12345"] {
            remember("PLAIN_OF_A_TEST", plain);
            check(plain, plain);
        }
        let mut json = serde_json::json!({"zwqxy": ["zwqxy", 1]});
        hide_json(&mut json);
        assert_eq!(json, serde_json::json!({"zwqxy": ["${WORD_OF_A_TEST}", 1]}));
    }
}
