//! What `sink` asks for, checked: a file or a folder, its format and compression, and what is there
//! already. Nothing is written here.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::commit;
use super::disk::write_error;
use crate::config::pipeline::{Compression, FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};

/// A checked sink.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// One file, or a folder of parts.
    pub(super) single_file: bool,
    pub(super) format: FileFormat,
    pub(super) compression: Compression,
}

impl Target {
    /// Checks what can be checked without looking at the disk.
    pub(super) fn of(spec: &SinkSpec) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message).at(&spec.location);
        // `out.parquet/` is a folder.
        let written = spec.path.as_os_str().to_string_lossy();
        let by_name = if written.ends_with('/') { None } else { by_name(&spec.path) };
        if let Some((format, _)) = by_name
            && format != spec.format
        {
            return Err(wrong(format!(
                "`sink.path` ends like a {} file, but `sink.format` is {}",
                word(format),
                word(spec.format)
            ))
            .hint("end the path with `/` for a folder"));
        }
        let text = matches!(spec.format, FileFormat::Csv | FileFormat::Jsonl);
        let named = by_name.map(|(_, compression)| compression).filter(|_| text);
        if let (Some(named), Some(asked)) = (named, spec.compression)
            && named != asked
        {
            let plain = written.trim_end_matches(".gz").trim_end_matches(".zst");
            return Err(wrong(format!("`sink.compression` does not fit the name of `{written}`"))
                .hint(format!("name the file `{plain}{}`", suffix(asked))));
        }
        let default = match spec.format {
            FileFormat::Parquet => Compression::Zstd,
            _ => Compression::Uncompressed,
        };
        let compression = spec.compression.or(named).unwrap_or(default);
        let choices: &[Compression] = match spec.format {
            FileFormat::Parquet => &[
                Compression::Uncompressed,
                Compression::Zstd,
                Compression::Snappy,
                Compression::Gzip,
                Compression::Lz4,
            ],
            FileFormat::Csv | FileFormat::Jsonl => {
                &[Compression::Uncompressed, Compression::Zstd, Compression::Gzip]
            }
            FileFormat::Arrow => &[Compression::Uncompressed, Compression::Zstd, Compression::Lz4],
        };
        if !choices.contains(&compression) {
            let names: Vec<_> = choices.iter().map(|choice| compression_word(*choice)).collect();
            return Err(wrong(format!(
                "{} files are not compressed with {}",
                word(spec.format),
                compression_word(compression)
            ))
            .hint(format!("choose {}", names.join(", "))));
        }
        let single_file = by_name.is_some();
        if single_file && !spec.partition_by.is_empty() {
            return Err(wrong(format!(
                "`sink.partition_by` needs a folder, `{written}` is a file"
            ))
            .hint("end the path with `/` for a folder"));
        }
        // Without the slash at the end, which the system takes for a demand.
        let path = spec.path.components().collect();
        Ok(Self { path, single_file, format: spec.format, compression })
    }

    /// The ending of part files.
    pub(super) fn extension(&self) -> String {
        match self.format {
            FileFormat::Parquet => "parquet".to_owned(),
            FileFormat::Arrow => "arrow".to_owned(),
            FileFormat::Csv => format!("csv{}", suffix(self.compression)),
            FileFormat::Jsonl => format!("jsonl{}", suffix(self.compression)),
        }
    }

    /// The earlier files that a run replaces, relative to the folder.
    pub(super) fn replaced(&self, overwrite: bool) -> Result<Vec<String>> {
        let path = &self.path;
        let refuse = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::Sink, message).hint(hint.to_owned()))
        };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(write_error(path, error)),
        };
        let exists = || {
            refuse(
                format!("the output `{}` exists", path.display()),
                "`--fresh` replaces it; or choose another `sink.path`",
            )
        };
        if self.single_file {
            return match (metadata.is_file(), overwrite) {
                (true, true) => Ok(Vec::new()),
                (true, false) => exists(),
                (false, _) => refuse(
                    format!("the output `{}` is to be a file, but is none", path.display()),
                    "choose another `sink.path`; a path that ends with `/` is a folder",
                ),
            };
        }
        if !metadata.is_dir() {
            return refuse(
                format!("the output `{}` is to be a folder, but is a file", path.display()),
                "choose another `sink.path`",
            );
        }
        let found = data_files(path)?;
        if found.is_empty() && !commit::is_committed(path) {
            return Ok(Vec::new());
        }
        if !overwrite {
            return exists();
        }
        let known: BTreeSet<String> = commit::known_files(path)?.into_iter().collect();
        if let Some(foreign) = found.iter().find(|file| !known.contains(file.as_str())) {
            return refuse(
                format!(
                    "the output `{}` holds `{foreign}`, which no run of hfauto-pipe wrote",
                    path.display()
                ),
                "move it away or choose another `sink.path`",
            );
        }
        Ok(found)
    }

    /// Fails when the output's folder cannot be made or written to.
    pub(super) fn check_writable(&self) -> Result<()> {
        let start = if self.single_file { self.path.parent() } else { Some(self.path.as_path()) };
        let nearest = start
            .into_iter()
            .flat_map(Path::ancestors)
            .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .find_map(|folder| match fs::metadata(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => Some(Err(error)),
                Ok(_) => Some(Ok(folder)),
            });
        let probe = match nearest {
            Some(Ok(folder)) => tempfile::tempfile_in(folder).map(drop),
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        probe.map_err(|error| write_error(&self.path, error))
    }
}

fn by_name(path: &Path) -> Option<(FileFormat, Compression)> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Compression::Gzip),
        (stem, "zst") => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::Uncompressed),
    };
    let format = match stem.rsplit_once('.')?.1 {
        "csv" => FileFormat::Csv,
        "jsonl" | "ndjson" | "json" => FileFormat::Jsonl,
        "parquet" | "pq" if stem == name => FileFormat::Parquet,
        "arrow" | "ipc" | "feather" if stem == name => FileFormat::Arrow,
        _ => return None,
    };
    Some((format, compression))
}

fn suffix(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
        _ => "",
    }
}

/// The format's name in pipelines.
pub(super) fn word(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Parquet => "parquet",
        FileFormat::Csv => "csv",
        FileFormat::Jsonl => "jsonl",
        FileFormat::Arrow => "arrow",
    }
}

fn compression_word(compression: Compression) -> &'static str {
    match compression {
        Compression::Uncompressed => "none",
        Compression::Zstd => "zstd",
        Compression::Snappy => "snappy",
        Compression::Gzip => "gzip",
        Compression::Lz4 => "lz4",
    }
}

/// [`data_files`] of a folder that need not be there.
pub(super) fn files_of(folder: &Path) -> Result<Vec<String>> {
    if folder.exists() { data_files(folder) } else { Ok(Vec::new()) }
}

/// All files below `folder` that a reader would take for data, relative and in order.
fn data_files(folder: &Path) -> Result<Vec<String>> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &format!("{prefix}{name}/"), found)?;
            } else {
                found.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found).map_err(|error| write_error(folder, error))?;
    found.sort();
    Ok(found)
}
