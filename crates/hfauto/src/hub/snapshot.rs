//! A model's files at one commit, in one local folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::{Has, Need, Plan, WEIGHT_FILES, is_plain, join};
use super::shards::ShardIndex;
use super::source::read_file;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// A model's files at one commit.
#[derive(Clone, Debug)]
pub struct Snapshot {
    name: String,
    commit: Option<String>,
    dir: PathBuf,
}

impl Snapshot {
    /// The files of a local directory.
    ///
    /// # Errors
    /// `Hub` when the directory does not exist.
    pub fn local(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::new(
                ErrorKind::Hub,
                format!("model directory `{}` does not exist", dir.display()),
            ));
        }
        Ok(Self { name: dir.display().to_string(), commit: None, dir: dir.to_path_buf() })
    }

    /// The files of a hub model in the cache.
    pub(super) fn cached(name: &str, commit: &str, dir: PathBuf) -> Self {
        Self { name: name.to_owned(), commit: Some(commit.to_owned()), dir }
    }

    /// Hub id, or the directory's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit that the revision was resolved to; `None` for a local directory.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The folder of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of `file`, relative like `1_Pooling/config.json`, if the snapshot has it.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let path = self.dir.join(file);
        (is_plain(file) && path.is_file()).then_some(path)
    }

    /// Parses `file` as JSON; `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// `Model` when the file cannot be read or is not JSON.
    pub fn json(&self, file: &str) -> Result<Option<serde_json::Value>> {
        let Some(path) = self.path(file) else { return Ok(None) };
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(source)
        };
        let bytes = read_file(&path, limits::MODEL_JSON_BYTES)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| broken(e.into()))
    }

    /// The model's files that the snapshot has: configuration, tokenizer, weights, and the folders named in
    /// `modules.json`. Sorted.
    ///
    /// # Errors
    /// `Model` when `modules.json` or the index of sharded weights is damaged.
    pub fn files(&self) -> Result<Vec<String>> {
        let has = |file: &str| if self.path(file).is_some() { Has::Yes } else { Has::No };
        let plan = Plan::new(Need::Weights, &self.dir, &has)?;
        Ok(plan.files.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The BLAKE3 hash of `file`, in hexadecimal; `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// `Model` when the file cannot be read.
    pub fn digest(&self, file: &str) -> Result<Option<String>> {
        let Some(path) = self.path(file) else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        std::fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(drop)).map_err(
            |e| Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(e),
        )?;
        Ok(Some(hasher.finalize().to_hex().to_string()))
    }

    /// The weight files: `model.safetensors` or its shard index and shards, else the same for `pytorch_model.bin`.
    /// [`Weights::open`](super::Weights::open) reads them.
    ///
    /// # Errors
    /// `Model` when there are none, or the index is damaged.
    pub fn weight_files(&self) -> Result<Vec<PathBuf>> {
        self.weight_files_in("")
    }

    /// The weight files in a module's folder, for example `2_Dense`; see [`Snapshot::weight_files`].
    ///
    /// # Errors
    /// `Model` when there are none, or the index is damaged.
    pub fn weight_files_in(&self, folder: &str) -> Result<Vec<PathBuf>> {
        for (whole, index) in WEIGHT_FILES {
            if let Some(path) = self.path(&join(folder, whole)) {
                return Ok(vec![path]);
            }
            if let Some(path) = self.path(&join(folder, index)) {
                let shards = ShardIndex::read(&path)?;
                let parent = path.parent().unwrap_or(&self.dir).to_path_buf();
                let shards = shards.shards().into_iter().map(|shard| parent.join(shard));
                return Ok(std::iter::once(path.clone()).chain(shards).collect());
            }
        }
        let place = if folder.is_empty() { String::new() } else { format!(" in `{folder}`") };
        let expected: Vec<_> = WEIGHT_FILES
            .iter()
            .flat_map(|(whole, index)| [format!("`{whole}`"), format!("`{index}`")])
            .collect();
        Err(Error::new(
            ErrorKind::Model,
            format!("`{}` has no weights{place}: expected {}", self.name, expected.join(" or ")),
        )
        .hint(match self.other_weights(folder) {
            Some(other) => format!("it has `{other}`, an unsupported format"),
            None => "download the model again, with its weights".to_owned(),
        }))
    }

    /// The name of a weight file of another framework, for the error message.
    fn other_weights(&self, folder: &str) -> Option<String> {
        let dir = if folder.is_empty() { self.dir.clone() } else { self.dir.join(folder) };
        let names: BTreeSet<String> = std::fs::read_dir(dir)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let known = ["h5", "msgpack", "onnx", "ot", "gguf", "ckpt", "safetensors", "bin", "pt"];
        names.into_iter().find(|name| {
            let end = name.rsplit_once('.').map_or("", |(_, end)| end);
            known.contains(&end) && name != "training_args.bin"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_digests_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        write("config.json", "{}");
        write("README.md", "");
        write("tf_model.h5", "");
        write("training_args.bin", "");
        let snapshot = Snapshot::local(dir.path()).unwrap();
        assert_eq!(snapshot.files().unwrap(), ["config.json"]);
        assert_eq!(
            snapshot.digest("config.json").unwrap().unwrap(),
            blake3::hash(b"{}").to_hex().to_string()
        );
        assert_eq!(snapshot.digest("vocab.txt").unwrap(), None);
        let error = snapshot.weight_files().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.remedy().unwrap().contains("`tf_model.h5`"), "{error}");

        write(
            "model.safetensors.index.json",
            r#"{"weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}"#,
        );
        let files = snapshot.weight_files().unwrap();
        let names: Vec<_> =
            files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["model.safetensors.index.json", "1.safetensors", "2.safetensors"]);
    }

    #[test]
    fn stays_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let snapshot = Snapshot::local(&dir.path().join("model")).unwrap();
        assert_eq!(snapshot.path("../secret"), None);
        assert_eq!(snapshot.path(dir.path().join("secret").to_str().unwrap()), None);
    }
}
