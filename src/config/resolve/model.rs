//! Resolves models: aliases, hub ids, directories.

use std::collections::BTreeMap;

use super::{Cursor, Resolver, path::scheme};
use crate::config::pipeline::{DeviceSpec, ModelSpec};
use crate::config::raw::RawModel;
use crate::document::Diagnostic;

/// The longest hub id (`org/name`) that the Hugging Face hub accepts.
const MAX_ID_CHARS: usize = 96;

impl Resolver<'_> {
    pub(super) fn models(
        &mut self,
        raw: Option<&BTreeMap<String, RawModel>>,
        at: Cursor<'_>,
    ) -> BTreeMap<String, ModelSpec> {
        let mut models = BTreeMap::new();
        for (alias, raw) in raw.into_iter().flatten() {
            let here = at.key(alias);
            if alias.is_empty() || alias.contains('/') || alias.starts_with(['.', '~']) {
                let message = format!("`{alias}` cannot be an alias");
                self.report.push(
                    Diagnostic::new(here.key, message)
                        .hint("an alias has no `/` and does not start with `.` or `~`, which mark directories and hub ids"),
                );
            }
            let revision = raw.revision.clone();
            if let Some(revision) = &revision {
                self.not_empty(revision, here.key("revision"), "revision");
            }
            let spec = ModelSpec {
                repo: self.repo(&raw.repo, here.key("repo")),
                revision,
                adapter: raw
                    .adapter
                    .as_ref()
                    .map(|adapter| self.repo(adapter, here.key("adapter"))),
                dtype: raw.dtype.unwrap_or_default(),
                device: self.device(raw.device.as_deref(), here.key("device")),
                config: raw.config.clone().unwrap_or_default(),
            };
            models.insert(alias.clone(), spec);
        }
        models
    }

    /// The model that a step names: an alias, or else a hub id or directory.
    pub(super) fn model(
        &mut self,
        name: &str,
        at: Cursor<'_>,
        models: &BTreeMap<String, ModelSpec>,
    ) -> ModelSpec {
        if let Some(model) = models.get(name) {
            return model.clone();
        }
        if !name.contains('/') && !self.is_directory(name) {
            let aliases: Vec<String> = models.keys().cloned().collect();
            if let Some(alias) = at.nearest(name, &aliases).filter(|alias| is_slip(name, alias)) {
                let message = format!("`{name}` is not an alias of `models`");
                self.report.push(
                    Diagnostic::new(at.value, message)
                        .nearest(Some(&alias))
                        .choices("aliases", aliases)
                        .hint(format!("to use the hub's model `{name}`, give it an alias")),
                );
            }
        }
        ModelSpec::of_repo(self.repo(name, at))
    }

    fn is_directory(&self, text: &str) -> bool {
        let place = self.dir.join(text);
        text.starts_with(['.', '/', '~'])
            || scheme(text).is_some()
            || place.is_dir()
            || (text.ends_with(".gguf") && place.is_file())
    }

    /// A hub id unchanged, or the absolute path of a directory or a GGUF file.
    fn repo(&mut self, text: &str, at: Cursor<'_>) -> String {
        if let Some(id) = text.strip_prefix("https://huggingface.co/") {
            let problem = Diagnostic::new(at.value, "expected the id of a model, found its URL");
            let hint = format!("write the id: `{}`", id.trim_end_matches('/'));
            let known = at.shown(text) == text;
            self.report.push(if known { problem.hint(hint) } else { problem });
            return text.to_owned();
        }
        if crate::store::is_url(text) {
            let message = format!("`{}`: models are not read from object stores", at.shown(text));
            self.report.push(
                Diagnostic::new(at.value, message)
                    .hint("write a hub id (`org/name`), or copy the files to a local directory"),
            );
            return text.to_owned();
        }
        if text.trim().is_empty() || self.is_directory(text) {
            return self.path_text(text, at, "model").unwrap_or_default();
        }
        if !is_hub_id(text) {
            let message = format!("`{}` is not the name of a model", at.shown(text));
            self.report.push(Diagnostic::new(at.value, message).hint(
                "write a hub id (`org/name`, for a GGUF file `org/name:Q4_K_M` or `org/name/file.gguf`), or a directory or GGUF file that starts with `.`, `/` or `~`",
            ));
        }
        text.to_owned()
    }

    fn device(&mut self, text: Option<&str>, at: Cursor<'_>) -> DeviceSpec {
        match text {
            None | Some("auto") => DeviceSpec::Auto,
            Some("cpu") => DeviceSpec::Cpu,
            Some(text) => {
                if let Some(ordinal) = DeviceSpec::cuda_ordinal(text) {
                    return DeviceSpec::Cuda(ordinal);
                }
                let names = ["auto", "cpu", "cuda"].map(str::to_owned);
                let near = at.nearest(text, &names);
                let message = format!("`device`: unknown value `{}`", at.shown(text));
                self.report.push(
                    Diagnostic::new(at.value, message)
                        .nearest(near.as_deref())
                        .choices("valid values", ["auto", "cpu", "cuda", "cuda:N"]),
                );
                DeviceSpec::Auto
            }
        }
    }
}

/// Whether `name` is a misspelling of `alias`: one letter differs, or two of a long name. A hub id that only resembles an
/// alias must not be refused.
fn is_slip(name: &str, alias: &str) -> bool {
    let allowed = if alias.chars().count() >= 8 { 2 } else { 1 };
    strsim::damerau_levenshtein(name, alias) <= allowed
}

/// Whether a text follows the hub's rule: one or two parts of letters, digits, `-`, `_` and `.`, without `--` and `..`.
/// No part starts or ends with `-` or `.`.
/// A GGUF file of the repository may follow: its name, or `:` and its quantization.
fn is_hub_id(text: &str) -> bool {
    let text = match text.split_once(':') {
        Some((repo, quantization)) => {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if quantization.is_empty() || !quantization.bytes().all(word) {
                return false;
            }
            repo
        }
        None => match text.match_indices('/').nth(1) {
            Some((place, _)) if text.ends_with(".gguf") && !text.contains("..") => &text[..place],
            _ => text,
        },
    };
    let part = |part: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty()
            && part.bytes().all(word)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 2
        && text.len() <= MAX_ID_CHARS
        && parts.iter().all(|text| part(text))
        && !text.contains("--")
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids() {
        for id in [
            "bert-base-uncased",
            "org/name",
            "org/name:Q4_K_M",
            "org/name/q/a.gguf",
            "intfloat/e5-base_v2.1",
            "a",
        ] {
            assert!(is_hub_id(id), "{id}");
        }
        for text in [
            "a/b/c",
            "a/b:",
            "a/b:c/d",
            "a/b/../c.gguf",
            "a b",
            "/a",
            "a/",
            "-a",
            "a--b",
            "a..b",
            "é",
            "a.",
            &"x".repeat(97),
        ] {
            assert!(!is_hub_id(text), "{text}");
        }
    }

    #[test]
    fn devices() {
        let ordinals = ["cuda", "cuda:0", "cuda:12", "cuda:", "cuda:a", "cuda:+1", "gpu"];
        let ordinals = ordinals.map(DeviceSpec::cuda_ordinal);
        assert_eq!(ordinals, [Some(0), Some(0), Some(12), None, None, None, None]);
    }
}
