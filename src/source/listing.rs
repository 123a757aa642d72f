//! From the paths of a pipeline to a list of files in the order that their rows are read. Not here:
//! what is inside the files.
//!
//! - The order of `source.path` is kept; inside a folder or glob, files are sorted by path.
//! - Entries whose name starts with `.` or `_` are skipped in folders and globs: by convention they
//!   are not data (`_SUCCESS`, `_hfauto`, `.crc` files).
//! - A file that is listed twice is read once, where it comes first.
//! - Objects of a store are listed as files of folders are; all are of one bucket.
//! - `key=value` folders directly above a file are its hive partitions, however the path was written:
//!   `data/`, `data/lang=*/*.parquet` and `data/lang=en/part.parquet` give the same columns.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

use datafusion::common::parsers::CompressionTypeVariant as Codec;

use super::remote::{self, RemoteFile};
use super::stamp::FileStamp;
use crate::config::pipeline::{FileFormat, SourceSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Place;

/// The folder value that means null.
pub(super) const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// How a file is written, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) format: FileFormat,
    pub(super) codec: Codec,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.format {
            FileFormat::Parquet => "Parquet",
            FileFormat::Csv => "CSV",
            FileFormat::Jsonl => "JSONL",
            FileFormat::Arrow => "Arrow IPC",
        })?;
        let codec = match self.codec {
            Codec::UNCOMPRESSED => return Ok(()),
            Codec::GZIP => "gzip",
            Codec::BZIP2 => "bzip2",
            Codec::XZ => "xz",
            Codec::ZSTD => "zstd",
        };
        write!(f, " in {codec}")
    }
}

/// One file to read.
#[derive(Clone, Debug)]
pub(super) struct ListedFile {
    /// The path; of an object its URL.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) stamp: FileStamp,
    pub(super) form: Form,
    /// The object, if it is one.
    pub(super) remote: Option<RemoteFile>,
    /// Hive partitions from the outermost folder; `None` is null.
    pub(super) partitions: Vec<(String, Option<String>)>,
}

const EXTENSIONS: &str = ".parquet, .csv, .jsonl, .ndjson, .json, .arrow, and of CSV and JSONL .gz, \
                          .bz2, .xz, .zst";

/// The format and compression that a file name tells.
fn form_of(path: &Path, format: Option<FileFormat>) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let (stem, codec) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Codec::GZIP),
        Some((stem, "bz2")) => (stem, Codec::BZIP2),
        Some((stem, "xz")) => (stem, Codec::XZ),
        Some((stem, "zst")) => (stem, Codec::ZSTD),
        _ => (name.as_str(), Codec::UNCOMPRESSED),
    };
    let by_name = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("parquet" | "pq") => Some(FileFormat::Parquet),
        Some("csv") => Some(FileFormat::Csv),
        Some("jsonl" | "ndjson" | "json") => Some(FileFormat::Jsonl),
        Some("arrow" | "arrows" | "ipc" | "feather") => Some(FileFormat::Arrow),
        _ => None,
    };
    Some(Form { format: format.or(by_name)?, codec })
}

/// Lists the files of `spec`; never empty.
pub(super) fn list(spec: &SourceSpec) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &spec.paths {
        let found = list_one(path, spec.format).map_err(|error| error.at(&spec.location))?;
        files.extend(found.into_iter().filter(|file| seen.insert(file.path.clone())));
    }
    let Some(first) = files.first() else {
        return Err(Error::new(ErrorKind::Config, "`source.path` names no path").at(&spec.location));
    };
    let store = |file: &ListedFile| file.remote.as_ref().map(|remote| remote.place.url.clone());
    let first_store = store(first);
    if let Some(other) = files.iter().find(|file| store(file) != first_store) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "one source reads files of one bucket, or local ones: `{}` and `{}` are apart",
                first.path.display(),
                other.path.display()
            ),
        )
        .hint("run one pipeline for each, or copy the files together")
        .at(&spec.location));
    }
    if let Some(other) = files.iter().find(|file| file.form != first.form) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "one source reads files of one format and compression: `{}` is {}, `{}` is {}",
                first.path.display(),
                first.form,
                other.path.display(),
                other.form
            ),
        )
        .hint("name the files of one kind with a glob, such as `*.parquet`")
        .at(&spec.location));
    }
    if let Codec::GZIP | Codec::BZIP2 | Codec::XZ | Codec::ZSTD = first.form.codec
        && matches!(first.form.format, FileFormat::Parquet | FileFormat::Arrow)
    {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "`{}`: {} is not read from a compressed file; it has its own compression inside",
                first.path.display(),
                first.form.format_name()
            ),
        )
        .hint("decompress the file first")
        .at(&spec.location));
    }
    let keys = |file: &ListedFile| -> Vec<String> {
        file.partitions.iter().map(|(key, _)| key.clone()).collect()
    };
    let first_keys = keys(first);
    if let Some(other) = files.iter().find(|file| keys(file) != first_keys) {
        let words = |keys: Vec<String>| {
            if keys.is_empty() { "none".to_owned() } else { format!("`{}`", keys.join("`, `")) }
        };
        return Err(Error::new(
            ErrorKind::Data,
            format!(
                "files differ in their hive partitions: `{}` has {}, `{}` has {}",
                first.path.display(),
                words(first_keys),
                other.path.display(),
                words(keys(other))
            ),
        )
        .at(&spec.location));
    }
    Ok(files)
}

impl Form {
    fn format_name(self) -> String {
        Self { codec: Codec::UNCOMPRESSED, ..self }.to_string()
    }
}

/// A file that was found, before it is known whether it is data.
enum Found {
    Local(PathBuf),
    Remote(RemoteFile, FileStamp),
}

impl Found {
    fn path(&self) -> PathBuf {
        match self {
            Self::Local(path) => path.clone(),
            Self::Remote(file, _) => file.url().into(),
        }
    }

    fn listed(self, form: Form) -> Result<ListedFile> {
        let path = self.path();
        let partitions = partitions_of(&path);
        let (bytes, stamp, remote) = match self {
            Self::Local(path) => {
                let looked_at = std::fs::metadata(&path)
                    .and_then(|metadata| Ok((metadata.len(), FileStamp::of_file(&metadata)?)));
                let (bytes, stamp) = looked_at.map_err(|error| {
                    Error::new(ErrorKind::NoInput, format!("cannot open `{}`", path.display()))
                        .source(error)
                })?;
                (bytes, stamp, None)
            }
            Self::Remote(file, stamp) => (file.bytes(), stamp, Some(file)),
        };
        Ok(ListedFile { path, bytes, stamp, form, remote, partitions })
    }
}

/// A file that is named is read whatever it is called.
fn named(found: Found, written: &str, format: Option<FileFormat>) -> Result<Vec<ListedFile>> {
    let form = form_of(&found.path(), format).ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!("cannot tell the format of `{written}` from its name"),
        )
        .hint("set `source.format` to parquet, csv, jsonl or arrow")
    })?;
    Ok(vec![found.listed(form)?])
}

fn list_one(written: &str, format: Option<FileFormat>) -> Result<Vec<ListedFile>> {
    if crate::store::is_url(written) {
        return list_remote(written, format);
    }
    let path = local_path(written)?;
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            let mut paths = Vec::new();
            walk(&path, &mut paths)?;
            let found = paths.into_iter().map(Found::Local).collect();
            known(found, format, || format!("the folder `{written}`"))
        }
        Ok(metadata) if metadata.is_file() => named(Found::Local(path), written, format),
        Ok(_) => Err(Error::new(
            ErrorKind::NoInput,
            format!("`{written}` is neither a file nor a folder"),
        )),
        Err(_) if written.contains(['*', '?', '[']) => expand(&path, written, format),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NoInput, format!("`{written}` does not exist"))
                .hint(nearest_existing(&path)))
        }
        Err(error) => {
            Err(Error::new(ErrorKind::NoInput, format!("cannot open `{written}`")).source(error))
        }
    }
}

/// Objects: one, all below a folder, or those that a glob names. Stores of the web are not listed.
fn list_remote(written: &str, format: Option<FileFormat>) -> Result<Vec<ListedFile>> {
    let place = Place::open(written)?;
    if let Some((file, stamp)) = remote::object(&place)? {
        return named(Found::Remote(file, stamp), written, format);
    }
    let missing = || Error::new(ErrorKind::NoInput, format!("`{written}` does not exist"));
    if written.starts_with("http") {
        return Err(missing().hint("over HTTP, files are named one by one"));
    }
    let pattern = place.path.as_ref();
    let base = match pattern.find(['*', '?', '[']) {
        Some(wildcard) => &pattern[..pattern[..wildcard].rfind('/').unwrap_or(0)],
        None => pattern,
    };
    // As it is written: encoded names are not encoded once more.
    let path = object_store::path::Path::parse(base).unwrap_or_else(|_| base.into());
    let folder = Place { path, ..place.clone() };
    let found = remote::objects_below(&folder)?.into_iter();
    let found =
        found.map(|(file, stamp)| (file.place.path.to_string(), Found::Remote(file, stamp)));
    let below = |name: &str| name[base.len()..].trim_start_matches('/').to_owned();
    if base == pattern {
        let shown = found.filter(|(name, _)| !below(name).split('/').any(is_hidden));
        let shown: Vec<Found> = shown.map(|(_, found)| found).collect();
        if shown.is_empty() {
            return Err(missing().hint("no object has this name, or begins with it and a `/`"));
        }
        return known(shown, format, || format!("the folder `{written}`"));
    }
    let glob = glob::Pattern::new(pattern).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{written}` is not a glob: {}", error.msg))
    })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..GLOB };
    let names_hidden = below(pattern).split('/').any(is_hidden);
    // As on a disk, what a folder that matches holds is meant too.
    let matches = |name: &str| {
        let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
        ends.filter(|end| *end > base.len()).any(|end| glob.matches_with(&name[..end], options))
    };
    let found = found.filter(|(name, _)| {
        matches(name) && (names_hidden || !below(name).split('/').any(is_hidden))
    });
    of_glob(found.map(|(_, found)| found).collect(), written, format)
}

fn local_path(written: &str) -> Result<PathBuf> {
    if let Some((scheme, _)) = written.split_once("://") {
        if scheme != "file" {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{written}`: the scheme `{scheme}://` is not known"),
            )
            .hint(format!("known are a local path and {}", crate::store::SCHEMES.join(", "))));
        }
        return url::Url::parse(written).ok().and_then(|url| url.to_file_path().ok()).ok_or_else(
            || {
                Error::new(ErrorKind::Config, format!("`{written}` is not a local file URL"))
                    .hint("write it as a path, or as `file:///absolute/path`")
            },
        );
    }
    Ok(PathBuf::from(written))
}

/// What of a missing path is there, for the hint.
fn nearest_existing(path: &Path) -> String {
    match path.ancestors().skip(1).find(|parent| parent.exists()) {
        Some(parent) if Some(parent) == path.parent() => {
            format!("the folder `{}` exists; check the file's name", parent.display())
        }
        Some(parent) => format!("`{}` is the part of the path that exists", parent.display()),
        None => "check the path; it is relative to the pipeline file".to_owned(),
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |error: io::Error| {
        Error::new(ErrorKind::NoInput, format!("cannot list the folder `{}`", folder.display()))
            .source(error)
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !is_hidden(&entry.file_name().to_string_lossy()) {
            entries.push(entry.path());
        }
    }
    entries.sort();
    for path in entries {
        // Follows links; a dangling one is listed, so that it fails by name instead of vanishing.
        if path.is_dir() {
            walk(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// The files of a folder or glob whose names tell a format that is asked for.
fn known(
    found: Vec<Found>,
    format: Option<FileFormat>,
    looked_at: impl Fn() -> String,
) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let mut unknown = None;
    for found in found {
        match form_of(&found.path(), None) {
            Some(form) if format.is_none_or(|format| format == form.format) => {
                files.push(found.listed(form)?);
            }
            _ => unknown = unknown.or(Some(found.path())),
        }
    }
    if files.is_empty() {
        let error = match unknown {
            Some(path) => Error::new(
                ErrorKind::NoInput,
                format!(
                    "{} has no file of a known format; there is `{}`",
                    looked_at(),
                    path.display()
                ),
            )
            .hint(format!("known names end in {EXTENSIONS}")),
            None => Error::new(ErrorKind::NoInput, format!("{} has no files", looked_at()))
                .hint("names that start with `.` or `_` are skipped"),
        };
        return Err(error);
    }
    Ok(files)
}

const GLOB: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: true,
};

fn expand(path: &Path, written: &str, format: Option<FileFormat>) -> Result<Vec<ListedFile>> {
    let pattern = path.to_string_lossy();
    let matches = glob::glob_with(&pattern, GLOB).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{written}` is not a glob: {}", error.msg))
    })?;
    // Folders before the first wildcard were written on purpose, whatever their names.
    let is_glob =
        |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let base = path.components().take_while(|part| !is_glob(part)).count();
    let names_hidden =
        path.components().skip(base).any(|part| is_hidden(&part.as_os_str().to_string_lossy()));
    let mut paths = Vec::new();
    for found in matches {
        let found = found.map_err(|error| {
            Error::new(ErrorKind::NoInput, format!("cannot list `{}`", error.path().display()))
                .source(io::Error::from(error))
        })?;
        let hidden = found
            .components()
            .skip(base)
            .any(|part| is_hidden(&part.as_os_str().to_string_lossy()));
        if hidden && !names_hidden {
            continue;
        }
        if found.is_dir() {
            walk(&found, &mut paths)?;
        } else {
            paths.push(found);
        }
    }
    paths.sort();
    of_glob(paths.into_iter().map(Found::Local).collect(), written, format)
}

/// The files that a glob matches. With a format given, the glob says which are meant and their names do not
/// matter.
fn of_glob(
    found: Vec<Found>,
    written: &str,
    format: Option<FileFormat>,
) -> Result<Vec<ListedFile>> {
    if found.is_empty() {
        return Err(Error::new(ErrorKind::NoInput, format!("nothing matches `{written}`"))
            .hint("names that start with `.` or `_` are skipped; `**` crosses folders"));
    }
    let Some(asked) = format else {
        return known(found, None, || format!("the glob `{written}`"));
    };
    let listed = found.into_iter().map(|found| {
        let form = form_of(&found.path(), format)
            .unwrap_or(Form { format: asked, codec: Codec::UNCOMPRESSED });
        found.listed(form)
    });
    listed.collect()
}

/// The unbroken run of `key=value` folders directly above the file, outermost first.
fn partitions_of(path: &Path) -> Vec<(String, Option<String>)> {
    let mut partitions: Vec<_> = path
        .ancestors()
        .skip(1)
        .map_while(|folder| {
            let name = folder.file_name()?.to_str()?;
            let (key, value) = name.split_once('=').filter(|(key, _)| !key.is_empty())?;
            let value = (value != HIVE_NULL).then(|| unescape(value));
            Some((unescape(key), value))
        })
        .collect();
    partitions.reverse();
    partitions
}

/// Undoes the percent-encoding of hive folder names; what is not valid stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |byte: u8| (byte as char).to_digit(16);
        let code = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        if let Some(byte) = code.and_then(|code| u8::try_from(code).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_format_and_compression() {
        let check = |name: &str, expected: Option<&str>| {
            let form = form_of(Path::new(name), None).map(|form| form.to_string());
            assert_eq!(form.as_deref(), expected, "{name}");
        };
        check("a.parquet", Some("Parquet"));
        check("a.CSV", Some("CSV"));
        check("a.csv.gz", Some("CSV in gzip"));
        check("a.jsonl.zst", Some("JSONL in zstd"));
        check("a.ndjson.bz2", Some("JSONL in bzip2"));
        check("a.json.xz", Some("JSONL in xz"));
        check("a.arrow", Some("Arrow IPC"));
        check("README.md", None);
        check("a.gz", None);
        check("csv", None);
    }

    #[test]
    fn partitions_are_the_unbroken_run_above_the_file() {
        let check = |path: &str, expected: &[(&str, Option<&str>)]| {
            let expected: Vec<_> =
                expected.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
            assert_eq!(partitions_of(Path::new(path)), expected, "{path}");
        };
        check("/d/lang=en/p.parquet", &[("lang", Some("en"))]);
        check("/d/y=2024/m=01/p.csv", &[("y", Some("2024")), ("m", Some("01"))]);
        check("/run=3/data/p.csv", &[]);
        check("/d/lang=__HIVE_DEFAULT_PARTITION__/p.csv", &[("lang", None)]);
        check("/d/a=x%2Fy%20z=%/p.csv", &[("a", Some("x/y z=%"))]);
        check("/d/=x/p.csv", &[]);
    }
}
