//! Checks the `sink` of a pipeline: file or folder, format, compression, and existing files. Writes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit;
use super::storage::{Storage, storage_of};
use crate::config::pipeline::{Compression, FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};

/// A checked sink.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Its folder; for a single file, the parent folder.
    pub(super) storage: Arc<dyn Storage>,
    /// The name of a single file; `None` for a folder of parts.
    pub(super) file: Option<String>,
    pub(super) format: FileFormat,
    pub(super) compression: Compression,
}

/// The output that stages the units of a single file; `None` for a folder.
pub(crate) fn staging_of(spec: &SinkSpec) -> Option<SinkSpec> {
    let name = Target::of(spec).ok()?.file?;
    let mut path = spec.path.clone();
    // The path may be a URL: only its end is replaced.
    path.set_file_name(format!(".{name}.hfauto-units"));
    Some(SinkSpec {
        delta: None,
        path,
        format: FileFormat::Arrow,
        compression: Some(Compression::Zstd),
        partition_by: Vec::new(),
        target_file_size_bytes: u64::MAX,
        location: spec.location.clone(),
    })
}

impl Target {
    /// Checks everything that does not need the disk.
    pub(super) fn of(spec: &SinkSpec) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message).at(&spec.location);
        let written = spec.path.as_os_str().to_string_lossy();
        // `out.parquet/` is a folder.
        let by_name = spec.file_form();
        if let Some((format, _)) = by_name
            && format != spec.format
        {
            return Err(wrong(format!(
                "`sink.path` has the extension of a {} file, but `sink.format` is {}",
                format.name(),
                spec.format.name()
            ))
            .hint("end the path with `/` for a folder"));
        }
        let named = by_name.filter(|_| spec.format.is_text());
        let named = named.map(|(_, compression)| compression.unwrap_or(Compression::Uncompressed));
        if let (Some(named), Some(asked)) = (named, spec.compression)
            && named != asked
        {
            let plain = written.trim_end_matches(".gz").trim_end_matches(".zst");
            return Err(wrong(format!("`sink.compression` contradicts the name of `{written}`"))
                .hint(format!("name the file `{plain}{}`", asked.suffix())));
        }
        let default = spec.format.default_compression();
        let compression = spec.compression.or(named).unwrap_or(default);
        let choices = spec.format.compressions();
        if !choices.contains(&compression) {
            let names: Vec<_> = choices.iter().map(|choice| choice.name()).collect();
            return Err(wrong(format!(
                "{} files cannot be compressed with {}",
                spec.format.name(),
                compression.name()
            ))
            .hint(format!("choose {}", names.join(", "))));
        }
        let single_file = by_name.is_some();
        if single_file && !spec.partition_by.is_empty() {
            return Err(wrong(format!(
                "`sink.partition_by` needs a folder, but `{written}` is a file"
            ))
            .hint("end the path with `/` for a folder"));
        }
        let (path, file) = (spec.path.clone(), spec.path.file_name());
        let file = file.filter(|_| single_file).map(|name| name.to_string_lossy().into_owned());
        let folder = if single_file { path.parent().unwrap_or(Path::new("")) } else { &path };
        let storage = storage_of(folder).map_err(|error| error.at(&spec.location))?;
        Ok(Self { path, storage, file, format: spec.format, compression })
    }

    /// The extension of part files.
    pub(super) fn extension(&self) -> String {
        let suffix = if self.format.is_text() { self.compression.suffix() } else { String::new() };
        format!("{}{suffix}", self.format.extension())
    }

    /// Whether the output is a single file.
    pub(super) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// The path of a part, for messages and reports.
    pub(super) fn part(&self, name: &str) -> PathBuf {
        if self.is_file() { self.path.clone() } else { self.storage.shown(name) }
    }

    /// The existing files that a run replaces, relative to the folder.
    pub(super) fn replaced(&self, overwrite: bool) -> Result<Vec<String>> {
        let storage = self.storage.as_ref();
        let shown = self.part("");
        let refuse = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::Sink, message).hint(hint.to_owned()))
        };
        let exists = || {
            refuse(
                format!("the output `{}` exists", shown.display()),
                if self.is_file() {
                    "`--fresh` replaces it; or choose another `sink.path`"
                } else {
                    "`--set run.incremental=new_or_changed` computes only what is new or has changed, `--fresh` \
                     replaces the output; or choose another `sink.path`"
                },
            )
        };
        if let Some(file) = &self.file {
            return match (storage.is_file(file)?, overwrite) {
                (None, _) | (Some(true), true) => Ok(Vec::new()),
                (Some(true), false) => exists(),
                (Some(false), _) => refuse(
                    format!("the output `{}` exists and is not a file", shown.display()),
                    "choose another `sink.path`; a path that ends with `/` is a folder",
                ),
            };
        }
        if !storage.exists()? {
            return Ok(Vec::new());
        }
        let found: Vec<String> = storage.files("")?.into_keys().collect();
        if found.is_empty() && !commit::is_committed(storage)? {
            return Ok(Vec::new());
        }
        if !overwrite {
            return exists();
        }
        let known: BTreeSet<String> = commit::known_files(storage)?.into_iter().collect();
        if let Some(foreign) = found.iter().find(|file| !known.contains(file.as_str())) {
            return refuse(
                format!(
                    "the output `{}` contains `{foreign}`, which hfauto-pipe did not write",
                    shown.display()
                ),
                "move it away or choose another `sink.path`",
            );
        }
        // Earlier versions wrote files in folders that readers, and the listing above, skip.
        let is_hidden = |name: &&String| name.split('/').any(|part| part.starts_with(['.', '_']));
        let mut found = found;
        for name in known.iter().filter(is_hidden) {
            if storage.is_file(name)?.is_some() {
                found.push(name.clone());
            }
        }
        Ok(found)
    }
}
