//! Which GGUF file of a directory or a repository is meant: repositories often have a model in many quantizations. Not here: the
//! file itself (`super::gguf`). The entry is [`Chosen`].

use std::path::Path;

use super::files::{WEIGHT_FILES, is_plain, join};
use crate::error::{Error, ErrorKind, Result};

/// The most names that an error lists.
const LISTED: usize = 30;
/// How deep a repository is searched for files: those of a quantization may stand in a folder.
pub(super) const DEPTH: usize = 3;

/// The files that the name of a model selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Nothing: the model's own files, or its only GGUF file.
    Model,
    /// A GGUF file: `org/name/file.gguf`.
    File(String),
    /// The GGUF file of a quantization: `org/name:Q4_K_M`.
    Quantization(String),
}

/// Whether a file has the extension of GGUF.
pub(super) fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

impl Chosen {
    /// The repository of a name, and what it says about files.
    pub(super) fn split(name: &str) -> (&str, Self) {
        if is_gguf(name)
            && let Some((place, _)) = name.match_indices('/').nth(1)
        {
            return (&name[..place], Self::File(name[place + 1..].to_owned()));
        }
        match name.split_once(':') {
            Some((repo, quantization)) => (repo, Self::Quantization(quantization.to_owned())),
            None => (name, Self::Model),
        }
    }

    /// The GGUF file among `files`, those of `repo`; `None` if the model has files of its own.
    ///
    /// # Errors
    /// `Hub` if no GGUF file matches, or more than one does.
    pub(super) fn file<'f>(
        &self,
        repo: &str,
        files: impl Iterator<Item = &'f str> + Clone,
    ) -> Result<Option<String>> {
        let known: Vec<&str> = files.clone().filter(|file| is_gguf(file)).collect();
        let list = || {
            let names: Vec<String> =
                known.iter().take(LISTED).map(|file| format!("`{file}`")).collect();
            let more = known.len().saturating_sub(LISTED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            if known.is_empty() { "none".to_owned() } else { format!("{}{more}", names.join(", ")) }
        };
        let missing = |what: &str| {
            let message = format!("`{repo}` has no {what}; its GGUF files are {}", list());
            Error::new(ErrorKind::Hub, message)
        };
        match self {
            Self::File(file) => {
                if !is_plain(file) || !known.contains(&file.as_str()) {
                    return Err(missing(&format!("file `{file}`")));
                }
                Ok(Some(file.clone()))
            }
            Self::Quantization(name) => {
                let found: Vec<&str> =
                    known.iter().copied().filter(|file| is_of(file, name)).collect();
                match found.as_slice() {
                    [file] => Ok(Some((*file).to_owned())),
                    [] => Err(missing(&format!("GGUF file of the quantization `{name}`"))),
                    several => {
                        let message = format!(
                            "`{repo}` has {} GGUF files of the quantization `{name}`: {}",
                            several.len(),
                            several.join(", ")
                        );
                        Err(Error::new(ErrorKind::Hub, message)
                            .hint(format!("name one of them: `{repo}/{}`", several[0])))
                    }
                }
            }
            Self::Model => {
                let own = |file: &str| {
                    WEIGHT_FILES.iter().any(|(whole, index)| file == *whole || file == *index)
                        || matches!(file, "modules.json" | "adapter_config.json")
                };
                if known.is_empty() || files.clone().any(own) {
                    return Ok(None);
                }
                let [file] = known.as_slice() else {
                    let message = format!("`{repo}` has several GGUF files: {}", list());
                    return Err(Error::new(ErrorKind::Hub, message)
                        .hint(format!("name one of them: `{repo}/{}`", known[0])));
                };
                Ok(Some((*file).to_owned()))
            }
        }
    }
}

/// Whether a file's name ends with the name of a quantization: `model-Q4_K_M.gguf`.
fn is_of(file: &str, quantization: &str) -> bool {
    let stem = &file[..file.len() - ".gguf".len()];
    let stem = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
    stem.strip_suffix(&quantization.to_ascii_lowercase())
        .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
        && !quantization.is_empty()
}

/// The files below `dir`, relative to it, sorted; with a depth of 1, those in it.
pub(super) fn listing(dir: &Path, most_depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(dir.join(&folder)) else { continue };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = join(&folder, &name);
            let path = dir.join(&name);
            if path.is_file() {
                found.push(name);
            } else if depth + 1 < most_depth && path.is_dir() {
                folders.push((name, depth + 1));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_file_is_meant() {
        for (name, repo, chosen) in [
            ("org/name", "org/name", Chosen::Model),
            ("org/name:Q4_K_M", "org/name", Chosen::Quantization("Q4_K_M".into())),
            ("org/name/a.gguf", "org/name", Chosen::File("a.gguf".into())),
            ("org/name/b/a.GGUF", "org/name", Chosen::File("b/a.GGUF".into())),
            ("org/a.gguf", "org/a.gguf", Chosen::Model),
        ] {
            assert_eq!(Chosen::split(name), (repo, chosen));
        }
    }

    #[test]
    fn one_file_is_chosen_or_all_are_listed() {
        let many = ["README.md", "m-Q4_0.gguf", "m.Q8_0.gguf", "q/m-IQ4_0.gguf"];
        let of = |chosen: Chosen, files: &[&'static str]| {
            chosen.file("r", files.iter().copied()).map_err(|error| error.to_string())
        };
        let quantization = |name: &str| Chosen::Quantization(name.into());
        assert_eq!(of(quantization("q4_0"), &many), Ok(Some("m-Q4_0.gguf".into())));
        assert_eq!(of(quantization("Q8_0"), &many), Ok(Some("m.Q8_0.gguf".into())));
        let file = Chosen::File("q/m-IQ4_0.gguf".into());
        assert_eq!(of(file, &many), Ok(Some("q/m-IQ4_0.gguf".into())));
        assert_eq!(of(Chosen::Model, &many[..2]), Ok(Some("m-Q4_0.gguf".into())));
        assert_eq!(of(Chosen::Model, &["config.json"]), Ok(None));
        assert_eq!(of(Chosen::Model, &["model.safetensors", "m.gguf"]), Ok(None));
        for (chosen, files, expected) in [
            (Chosen::Model, &many[..], "`m-Q4_0.gguf`, `m.Q8_0.gguf`, `q/m-IQ4_0.gguf`"),
            (quantization("Q5_K"), &many, "no GGUF file of the quantization `Q5_K`"),
            (quantization(""), &many, "no GGUF file"),
            (quantization("Q4_0"), &["a-Q4_0.gguf", "b-Q4_0.gguf"], "a-Q4_0.gguf, b-Q4_0.gguf"),
            (Chosen::File("../m.gguf".into()), &many, "no file `../m.gguf`"),
            (Chosen::File("x.gguf".into()), &["a"], "its GGUF files are none"),
        ] {
            let text = of(chosen, files).unwrap_err();
            assert!(text.contains(expected), "{text}");
        }
    }
}
