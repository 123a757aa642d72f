//! A model's files at one commit, in one local folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapter::Adapter;
use super::chosen::{Chosen, is_gguf, listing};
use super::files::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, Has, Need, Plan, WEIGHT_FILES, is_plain, join,
};
use super::gguf::Gguf;
use super::shards::ShardIndex;
use super::source::read_file;
use super::weights::Weights;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// A model's files at one commit.
#[derive(Clone, Debug)]
pub struct Snapshot {
    name: String,
    commit: Option<String>,
    dir: PathBuf,
    /// The GGUF file that is all of the model, and its name in `dir`.
    gguf: Option<(String, Arc<Gguf>)>,
    adapter: Option<Box<Snapshot>>,
}

impl Snapshot {
    /// The files of a local directory, or a GGUF file: its path, or that of a directory without other weights.
    ///
    /// # Errors
    /// `Hub` when the directory does not exist, or has several GGUF files; `Model` for a damaged GGUF file.
    pub fn local(dir: &Path) -> Result<Self> {
        let name = dir.display().to_string();
        if let (true, Some(file)) =
            (is_gguf_file(dir), dir.file_name().and_then(|file| file.to_str()))
        {
            let folder = dir.parent().unwrap_or(Path::new(""));
            return Self::of_gguf(name, None, folder.to_path_buf(), file);
        }
        if !dir.is_dir() {
            return Err(Error::new(
                ErrorKind::Hub,
                format!("model directory `{}` does not exist", dir.display()),
            ));
        }
        let files = listing(dir, 1);
        if let Some(file) = Chosen::Model.file(&name, files.iter().map(String::as_str))? {
            return Self::of_gguf(name, None, dir.to_path_buf(), &file);
        }
        Ok(Self { name, commit: None, dir: dir.to_path_buf(), gguf: None, adapter: None })
    }

    /// The GGUF file `file` in `dir`.
    ///
    /// # Errors
    /// `Model` when it cannot be read or is damaged.
    pub(super) fn of_gguf(
        name: String,
        commit: Option<&str>,
        dir: PathBuf,
        file: &str,
    ) -> Result<Self> {
        let gguf = Arc::new(Gguf::open(&dir.join(file))?);
        let commit = commit.map(str::to_owned);
        Ok(Self { name, commit, dir, gguf: Some((file.to_owned(), gguf)), adapter: None })
    }

    /// The files of a hub model in the cache.
    pub(super) fn cached(name: &str, commit: &str, dir: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            commit: Some(commit.to_owned()),
            dir,
            gguf: None,
            adapter: None,
        }
    }

    /// The directory of a LoRA adapter, as PEFT writes it.
    ///
    /// # Errors
    /// `Hub` when the directory does not exist or has no adapter.
    pub fn local_adapter(dir: &Path) -> Result<Self> {
        let name = dir.display().to_string();
        if !dir.join(ADAPTER_CONFIG).is_file() {
            let message = format!("`{name}` is not an adapter: it has no {ADAPTER_CONFIG}");
            return Err(Error::new(ErrorKind::Hub, message)
                .hint("an adapter is a directory that `save_pretrained` of peft writes"));
        }
        Ok(Self { name, commit: None, dir: dir.to_path_buf(), gguf: None, adapter: None })
    }

    /// The model with a LoRA adapter, which is merged into its weights when they are read.
    #[must_use]
    pub fn with_adapter(self, adapter: Self) -> Self {
        Self { adapter: Some(Box::new(adapter)), ..self }
    }

    /// The files of the adapter of [`Snapshot::with_adapter`].
    pub fn adapter(&self) -> Option<&Self> {
        self.adapter.as_deref()
    }

    /// The tensors of [`Snapshot::weight_files`], with those of the adapter.
    ///
    /// # Errors
    /// As [`Weights::open`]; `Unsupported` for an adapter that is not a plain LoRA, `Model` for one of another model.
    pub fn weights(&self) -> Result<Weights> {
        let weights = Weights::open(&self.weight_files()?)?;
        match &self.adapter {
            None => Ok(weights),
            Some(adapter) => Adapter::read(adapter.dir())?.apply(weights),
        }
    }

    /// The tensors of a module of sentence-transformers, for example of `2_Dense`. A GGUF file has them all.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn module_weights(&self, folder: &str) -> Result<Weights> {
        if self.is_gguf() {
            return Ok(Weights::open(&self.weight_files()?)?.below(folder));
        }
        Weights::open(&self.weight_files_in(folder)?)
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
        // What stands beside a GGUF file does not belong to its model.
        let is_of_model = self.gguf.as_ref().is_none_or(|(own, _)| own == file);
        (is_of_model && is_plain(file) && path.is_file()).then_some(path)
    }

    /// The content of `file`, at most `limit` bytes, if the snapshot has it, or its GGUF file says the same.
    ///
    /// # Errors
    /// `Model` when the file cannot be read, is longer, or is damaged; `Unsupported` for a GGUF file with an architecture, a
    /// tokenizer or a setting that is not implemented.
    pub(crate) fn read(&self, file: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if let Some((_, gguf)) = &self.gguf {
            return gguf.file(file);
        }
        self.path(file).map(|path| read_file(&path, limit)).transpose()
    }

    /// Whether the model is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// Parses `file` as JSON; `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// `Model` when the file cannot be read or is not JSON.
    pub fn json(&self, file: &str) -> Result<Option<serde_json::Value>> {
        let Some(bytes) = self.read(file, limits::MODEL_JSON_BYTES)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let path = self.dir.join(file);
            Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(e)
        })
    }

    /// The model's files that the snapshot has: configuration, tokenizer, weights, and the folders named in
    /// `modules.json`. Sorted.
    ///
    /// # Errors
    /// `Model` when `modules.json` or the index of sharded weights is damaged.
    pub fn files(&self) -> Result<Vec<String>> {
        if let Some((file, _)) = &self.gguf {
            return Ok(vec![file.clone()]);
        }
        let is_adapter = self.path(ADAPTER_CONFIG).is_some() && self.path("config.json").is_none();
        if is_adapter {
            return Ok(vec![ADAPTER_CONFIG.to_owned(), ADAPTER_WEIGHTS.to_owned()]);
        }
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

    /// The weight files: the GGUF file, `model.safetensors` or its shard index and shards, else the same for `pytorch_model.bin`.
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
        if let (Some((file, _)), "") = (&self.gguf, folder) {
            return Ok(vec![self.dir.join(file)]);
        }
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
            Some(other) if is_gguf(&other) => {
                format!("it has `{other}`: name this file as the model")
            }
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

/// Whether a path is that of a GGUF file.
pub fn is_gguf_file(path: &Path) -> bool {
    path.to_str().is_some_and(is_gguf) && path.is_file()
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
