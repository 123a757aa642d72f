//! Resolves paths to absolute ones: relative to the pipeline file, `~`, `file://`. URLs of object stores stay unchanged.

use std::path::{Path, PathBuf};

use super::{Cursor, Resolver};
use crate::document::Diagnostic;
use crate::hub_store::{self, DatasetUrl};
use crate::store;

/// The scheme of a URL: the part before `://`.
pub(super) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte);
    let is_scheme =
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(word);
    is_scheme.then_some(scheme)
}

impl Resolver<'_> {
    /// The absolute path that `text` names; reports anything else.
    pub(super) fn path(&mut self, text: &str, at: Cursor<'_>, what: &str) -> Option<PathBuf> {
        if !self.not_empty(text, at, what) {
            return None;
        }
        match self.local_path(text, at) {
            Ok(path) => Some(path),
            Err(problem) => {
                self.report.push(*problem);
                None
            }
        }
    }

    fn local_path(&self, text: &str, at: Cursor<'_>) -> Result<PathBuf, Box<Diagnostic>> {
        let refuse = |message: String, hint: &str| {
            Err(Box::new(Diagnostic::new(at.value, message).hint(hint)))
        };
        let shown = at.shown(text);
        if text.contains('\0') {
            return refuse(format!("`{shown}` contains a null character"), "remove it");
        }
        match scheme(text) {
            None => {}
            Some(name) if name.eq_ignore_ascii_case("file") => {
                let Some(path) = file_url(&text[name.len() + "://".len()..]) else {
                    let message = format!("`{shown}` is not the URL of a local file");
                    return refuse(message, "write `file:///` and an absolute path");
                };
                return Ok(PathBuf::from(path));
            }
            Some(hub_store::SCHEME) => {
                return match DatasetUrl::parse(text) {
                    Ok(_) => Ok(PathBuf::from(text)),
                    Err(error) => refuse(
                        format!("`{shown}` names no dataset"),
                        error.remedy().unwrap_or_default(),
                    ),
                };
            }
            Some(name) if store::SCHEMES.contains(&name) => return Ok(PathBuf::from(text)),
            // The scheme of a variable's value is no secret, but the rest of it may be.
            Some(name) => {
                let message = format!("unknown scheme `{name}://`");
                let known = store::SCHEMES.join("://, ");
                return refuse(message, &format!("known are local paths, file://, {known}://"));
            }
        }
        if let Some(rest) = text.strip_prefix('~') {
            let home = (self.variables)("HOME").filter(|home| !home.is_empty());
            if !rest.is_empty() && !rest.starts_with('/') {
                let message =
                    format!("`{shown}`: the home folders of other users are not supported");
                return refuse(
                    message,
                    "write the absolute path, or `./~…` for a name with a tilde",
                );
            }
            let Some(home) = home else {
                return refuse(format!("`{shown}`: the variable `HOME` is not set"), "set `HOME`");
            };
            return Ok(PathBuf::from(format!("{}{rest}", home.trim_end_matches('/'))));
        }
        let text = text.strip_prefix("./").unwrap_or(text);
        if text == "." {
            return Ok(self.dir.clone());
        }
        // Removes `..`, to shorten reports. Not through a symbolic link, where `..` leads elsewhere, and not beside wildcards,
        // where the folder's name must stay complete.
        let plain = self.dir.canonicalize().is_ok_and(|real| real == self.dir);
        let (mut dir, mut text) = (self.dir.as_path(), text);
        while plain && !self.dir.to_str().is_none_or(is_glob) {
            let (Some(parent), Some(rest)) = (dir.parent(), text.strip_prefix("../")) else {
                break;
            };
            (dir, text) = (parent, rest);
        }
        Ok(dir.join(text))
    }

    /// Like [`Self::path`], but as text: for sources and models, whose paths may also be globs or hub ids.
    pub(super) fn path_text(&mut self, text: &str, at: Cursor<'_>, what: &str) -> Option<String> {
        let path = self.path(text, at, what)?;
        let path = match (is_glob(text), self.dir.to_str(), path.strip_prefix(&self.dir)) {
            // The name of the folder that a glob starts from must not be read as wildcards.
            (true, Some(dir), Ok(rest)) if is_glob(dir) => {
                Path::new(&glob::Pattern::escape(dir)).join(rest)
            }
            _ => path,
        };
        let text = path.to_str().map(str::to_owned);
        if text.is_none() {
            let message = "the path of the pipeline file's folder is not UTF-8";
            self.report.push(Diagnostic::new(at.value, message));
        }
        text
    }
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The path after `file://`: percent-decoded, without a host other than `localhost`.
fn file_url(rest: &str) -> Option<String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls() {
        let check = |rest: &str, expected: Option<&str>| {
            assert_eq!(file_url(rest).as_deref(), expected, "{rest}");
        };
        check("/a/b.parquet", Some("/a/b.parquet"));
        check("localhost/a", Some("/a"));
        check("/a%20b/%C3%A9?.csv", Some("/a b/é?.csv"));
        check("host/a", None);
        check("a", None);
        check("/a%2", None);
        check("/a%zz", None);
        check("/a%é", None);
        check("/%ff", None);
    }

    #[test]
    fn schemes() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(scheme(text), expected, "{text}");
        check("s3://bucket/a", Some("s3"));
        check("a/b", None);
        check("./s3://x", None);
        check("://x", None);
        check("C:/x", None);
    }
}
