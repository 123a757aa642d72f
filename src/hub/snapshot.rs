//! A model's files at one commit, in one local folder.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

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

    /// Hub id, or the directory's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit that the revision was resolved to; `None` for a local directory.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The path of `file` (relative, as `1_Pooling/config.json`), if the snapshot has it.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let path = self.dir.join(file);
        path.is_file().then_some(path)
    }

    /// `file` parsed as JSON; `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// `Model` when the file cannot be read or is not JSON.
    pub fn json(&self, file: &str) -> Result<Option<serde_json::Value>> {
        let Some(path) = self.path(file) else { return Ok(None) };
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(source)
        };
        let text = std::fs::read_to_string(&path).map_err(|e| broken(e.into()))?;
        serde_json::from_str(&text).map(Some).map_err(|e| broken(e.into()))
    }

    /// The weight files: `model.safetensors`, its shards, or `pytorch_model.bin`.
    ///
    /// # Errors
    /// `Model` when there are none.
    pub fn weight_files(&self) -> Result<Vec<PathBuf>> {
        self.path("model.safetensors")
            .map(|p| vec![p])
            .ok_or_else(|| Error::new(ErrorKind::Model, format!("`{}` has no weights", self.name)))
    }
}
