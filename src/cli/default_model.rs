//! The models that tasks use if none is named, and the embedding model that is part of the program. Not here: what it
//! is (`examples/models/mini-embedder/README.md`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::tasks::TaskDefinition;

/// The model that a task uses if none is named: the folder of the program's own, or the one of the hub that the task's
/// template names. `None` if there is neither.
///
/// # Errors
/// `Sink` if the program's model cannot be written to the user's cache.
pub fn default_model(task: &TaskDefinition) -> Result<Option<String>> {
    if task.function.name == FUNCTION {
        return folder().map(|folder| Some(folder.display().to_string()));
    }
    Ok(task.hub_model().map(str::to_owned))
}

/// The SQL function of the task that it is for.
pub(super) const FUNCTION: &str = "embed";

/// The name of its folder.
const NAME: &str = "mini-embedder";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../examples/models/mini-embedder/", $path)))),*]
    };
}

/// Its files: paths and contents.
static FILES: &[(&str, &[u8])] = files![
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

/// The folder of the model, which is written to the user's cache once.
///
/// # Errors
/// `Sink` if there is no cache, or if it cannot be written.
fn folder() -> Result<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let Some(cache) = cache else {
        return Err(Error::new(ErrorKind::Sink, "there is no cache for the model of the program")
            .hint("set HOME or XDG_CACHE_HOME, or name a model with `--model`"));
    };
    write_once(&cache.join("hfauto-pipe")).map_err(|(path, e)| {
        Error::new(ErrorKind::Sink, format!("cannot write the model to `{}`", path.display()))
            .source(e)
            .hint("set XDG_CACHE_HOME to a writable folder, or name a model with `--model`")
    })
}

/// Writes the files below `cache`, unless they are there. Other processes see all of them or none.
fn write_once(cache: &Path) -> std::result::Result<PathBuf, (PathBuf, io::Error)> {
    let mut hash = blake3::Hasher::new();
    for (path, content) in FILES {
        hash.update(path.as_bytes()).update(content);
    }
    let folder = cache.join(format!("{NAME}-{}", &hash.finalize().to_hex()[..8]));
    let is_complete = FILES.iter().all(|(path, content)| {
        fs::metadata(folder.join(path)).is_ok_and(|found| found.len() == content.len() as u64)
    });
    if is_complete {
        return Ok(folder);
    }
    let at = |path: &Path, e| (path.to_owned(), e);
    fs::create_dir_all(cache).map_err(|e| at(cache, e))?;
    let staged = tempfile::tempdir_in(cache).map_err(|e| at(cache, e))?;
    for (path, content) in FILES {
        let file = staged.path().join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(|e| at(parent, e))?;
        }
        fs::write(&file, content).map_err(|e| at(&file, e))?;
    }
    let staged = staged.keep();
    let renamed = fs::rename(&staged, &folder).or_else(|e| {
        // Another process was faster, or the folder is damaged.
        let aside = tempfile::tempdir_in(cache)?;
        fs::rename(&folder, aside.path().join(NAME)).map_err(|_| e)?;
        fs::rename(&staged, &folder)
    });
    renamed.map_err(|e| at(&folder, e))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_written_once_and_repaired() {
        let cache = tempfile::tempdir().unwrap();
        let folder = write_once(cache.path()).unwrap();
        let weights = folder.join("model.safetensors");
        let written = fs::metadata(&weights).unwrap().modified().unwrap();
        assert_eq!(write_once(cache.path()).unwrap(), folder);
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written);
        fs::write(&weights, "cut").unwrap();
        assert_eq!(write_once(cache.path()).unwrap(), folder);
        assert_eq!(fs::read(&weights).unwrap(), FILES[3].1);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_files_are_those_of_the_example() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(NAME);
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let inner = path.is_dir().then(|| fs::read_dir(&path).unwrap());
            match inner {
                Some(inner) => names.extend(inner.map(|file| {
                    let file = file.unwrap().path();
                    file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned()
                })),
                None => {
                    names.push(path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.retain(|name| name != "README.md");
        names.sort();
        assert_eq!(names, FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    }
}
