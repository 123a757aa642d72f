//! Lists the files of a pipeline's paths in the order that their rows are read. Not here: the contents of the files.
//!
//! - The order of `source.path` is kept; inside a folder or glob, files are sorted by path.
//! - Folders and globs skip entries whose name starts with `.` or `_`: by convention they are not data (`_SUCCESS`,
//!   `_hfauto`, `.crc` files).
//! - A file that several paths or links lead to is read once, at its first position (`walk`).
//! - A pipe, socket or device with the name of a data file is an error, and is never opened.
//! - Objects in a store are listed like files in folders; all must be in one bucket.
//! - `key=value` folders directly above a file are its hive partitions, independent of how the path is written:
//!   `data/`, `data/lang=*/*.parquet` and `data/lang=en/part.parquet` give the same columns.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::parsers::CompressionTypeVariant as Codec;

use super::remote::{self, RemoteFile};
use super::stamp::FileStamp;
use super::walk::{self, GLOB, Way, is_hidden};
use crate::config::pipeline::{FileFormat, SourceSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hub_store::DatasetUrl;
use crate::store::Place;

/// The folder value that means null.
pub(super) const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The format and compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) format: FileFormat,
    pub(super) codec: Codec,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.title())?;
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
    /// The path, or the URL of an object.
    pub(super) path: Arc<Path>,
    /// The path without links; the same memory if it is the same path.
    pub(super) real: Arc<Path>,
    pub(super) bytes: u64,
    pub(super) stamp: FileStamp,
    pub(super) form: Form,
    /// The object, if it is one.
    pub(super) remote: Option<Arc<RemoteFile>>,
    /// Hive partitions from the outermost folder; `None` is null.
    pub(super) partitions: Vec<(String, Option<String>)>,
}

/// The extensions of compressed text files.
const COMPRESSED: [(&str, Codec); 4] =
    [("gz", Codec::GZIP), ("bz2", Codec::BZIP2), ("xz", Codec::XZ), ("zst", Codec::ZSTD)];

/// The format and compression by a file's name.
pub(super) fn form_of(path: &Path, format: Option<FileFormat>) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let (stem, codec) = match without_compression(&name) {
        Some((stem, codec)) => (stem, codec),
        None => (name.as_str(), Codec::UNCOMPRESSED),
    };
    let extension = stem.rsplit_once('.').map(|(_, extension)| extension);
    let by_name = extension.and_then(FileFormat::of_extension);
    Some(Form { format: format.or(by_name)?, codec })
}

/// The name without its compression extension, if it has one.
fn without_compression(name: &str) -> Option<(&str, Codec)> {
    let (stem, last) = name.rsplit_once('.')?;
    let known = COMPRESSED.iter().find(|(extension, _)| *extension == last);
    known.map(|(_, codec)| (stem, *codec))
}

/// Lists the files of `spec`; never empty.
pub(super) fn list(spec: &SourceSpec) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &spec.paths {
        let found = list_one(path, spec.format).map_err(|error| error.at(&spec.location))?;
        files.extend(found.into_iter().filter(|file| seen.insert(Arc::clone(&file.real))));
    }
    let Some(first) = files.first() else {
        return Err(Error::new(ErrorKind::Config, "`source.path` is empty").at(&spec.location));
    };
    let store = |file: &ListedFile| file.remote.as_ref().map(|remote| remote.place.url.clone());
    let first_store = store(first);
    if let Some(other) = files.iter().find(|file| store(file) != first_store) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "a source reads either local files or one bucket, but has `{}` and `{}`",
                first.path.display(),
                other.path.display()
            ),
        )
        .hint("run one pipeline for each, or copy the files to one place")
        .at(&spec.location));
    }
    if let Some(other) = files.iter().find(|file| file.form.format != first.form.format) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "a source reads files of one format: `{}` is {}, `{}` is {}",
                first.path.display(),
                first.form,
                other.path.display(),
                other.form
            ),
        )
        .hint("select the files of one format with a glob, such as `*.parquet`")
        .at(&spec.location));
    }
    let is_packed = |file: &&ListedFile| file.form.codec != Codec::UNCOMPRESSED;
    if let FileFormat::Parquet | FileFormat::Arrow = first.form.format
        && let Some(packed) = files.iter().find(is_packed)
    {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "`{}`: {} files must not be compressed as a whole; the format has its own compression",
                packed.path.display(),
                packed.form.format_name()
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

/// A file found by a listing, which may not be data.
enum Found {
    Local(Way),
    Remote(RemoteFile, FileStamp),
}

impl Found {
    fn path(&self) -> PathBuf {
        match self {
            Self::Local(way) => way.path.clone(),
            Self::Remote(file, _) => file.url().into(),
        }
    }

    fn listed(self, form: Form) -> Result<ListedFile> {
        let path = self.path();
        let partitions = partitions_of(&path);
        let (real, bytes, stamp, remote) = match self {
            Self::Local(way) => {
                let metadata = std::fs::metadata(&path).map_err(|error| unopened(&path, error))?;
                if !metadata.is_file() {
                    return Err(not_a_file(&path.display().to_string())
                        .hint("remove it, or name the files with a glob"));
                }
                let stamp =
                    FileStamp::of_file(&metadata).map_err(|error| unopened(&path, error))?;
                (Some(way.real), metadata.len(), stamp, None)
            }
            Self::Remote(file, stamp) => (None, file.bytes(), stamp, Some(Arc::new(file))),
        };
        let real = real.filter(|real| *real != path).map(Arc::from);
        let path: Arc<Path> = path.into();
        let real = real.unwrap_or_else(|| Arc::clone(&path));
        Ok(ListedFile { path, real, bytes, stamp, form, remote, partitions })
    }
}

fn not_a_file(path: &str) -> Error {
    Error::new(ErrorKind::NoInput, format!("`{path}` is neither a file nor a folder"))
}

fn unopened(path: &Path, error: io::Error) -> Error {
    let wrong = Error::new(ErrorKind::NoInput, format!("cannot open `{}`", path.display()));
    match std::fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => wrong
            .source(error)
            .hint(format!("it is a link to `{}`, which does not exist", target.display())),
        _ => wrong.source(error),
    }
}

/// A file given by its path. It is read whatever its name is.
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
            let found = walk::folder(&path)?.into_iter().map(Found::Local).collect();
            known(found, format, written, "folder")
        }
        Ok(metadata) if metadata.is_file() => {
            named(Found::Local(Way::to_file(&path)), written, format)
        }
        Ok(_) => Err(not_a_file(written)),
        Err(_) if is_glob(written) => {
            let found = walk::glob(written, &path)?.into_iter().map(Found::Local).collect();
            of_glob(found, written, format)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = braces(written).unwrap_or_else(|| nearest_existing(&path));
            Err(Error::new(ErrorKind::NoInput, format!("`{written}` does not exist")).hint(hint))
        }
        Err(error) => {
            Err(Error::new(ErrorKind::NoInput, format!("cannot open `{written}`")).source(error))
        }
    }
}

/// Lists objects: one, all below a folder, or the matches of a glob. HTTP has no listing.
fn list_remote(written: &str, format: Option<FileFormat>) -> Result<Vec<ListedFile>> {
    let place = Place::open(written)?;
    if let Some((file, stamp)) = remote::object(&place)? {
        return named(Found::Remote(file, stamp), written, format);
    }
    let missing = || Error::new(ErrorKind::NoInput, format!("`{written}` does not exist"));
    if written.starts_with("http") {
        return Err(missing().hint("HTTP has no listing: give the URL of each file"));
    }
    let pattern = place.path.as_ref();
    let base = match pattern.find(['*', '?', '[']) {
        Some(wildcard) => &pattern[..pattern[..wildcard].rfind('/').unwrap_or(0)],
        None => pattern,
    };
    // Keeps the name as written: percent-encoded names must not be encoded again.
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
            let hint = braces(written).unwrap_or_else(|| match DatasetUrl::parse(written) {
                Ok(DatasetUrl { id, revision, .. }) => format!(
                    "the dataset `{id}` has no file or folder of this name at revision `{revision}`"
                ),
                Err(_) => {
                    "no object has this name, or this name and a `/` as its prefix".to_owned()
                }
            });
            return Err(missing().hint(hint));
        }
        return known(shown, format, written, "folder");
    }
    let glob = glob::Pattern::new(pattern).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{written}` is not a glob: {}", error.msg))
    })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..GLOB };
    let names_hidden = below(pattern).split('/').any(is_hidden);
    // As on a disk, a matching folder includes its contents.
    let matches = |name: &str| {
        let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
        ends.filter(|end| *end > base.len()).any(|end| glob.matches_with(&name[..end], options))
    };
    let found = found.filter(|(name, _)| {
        matches(name) && (names_hidden || !below(name).split('/').any(is_hidden))
    });
    of_glob(found.map(|(_, found)| found).collect(), written, format)
}

/// Whether a path contains wildcards.
pub(super) fn is_glob(written: &str) -> bool {
    written.contains(['*', '?', '['])
}

/// A hint about braces, which shells expand.
fn braces(written: &str) -> Option<String> {
    let (before, rest) = written.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    let first = inside.split_once(',')?.0;
    let start = before.rsplit('/').next().unwrap_or_default();
    let after = after.split('/').next().unwrap_or_default();
    Some(format!(
        "`{{{inside}}}` is not a wildcard; wildcards are `*`, `**`, `?` and `[…]`: list the paths, \
         such as `path: [{start}{first}{after}, …]`"
    ))
}

/// The path of a local file or folder; a URL as it is written.
pub(super) fn local_path_of(written: &str) -> PathBuf {
    local_path(written).unwrap_or_else(|_| PathBuf::from(written))
}

pub(super) fn local_path(written: &str) -> Result<PathBuf> {
    if let Some((scheme, _)) = written.split_once("://") {
        if scheme != "file" {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{written}`: unknown scheme `{scheme}://`"),
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

/// The existing part of a missing path, for the hint.
fn nearest_existing(path: &Path) -> String {
    match path.ancestors().skip(1).find(|parent| parent.exists()) {
        Some(parent) if Some(parent) == path.parent() => {
            format!("the folder `{}` exists; check the file's name", parent.display())
        }
        Some(parent) => format!("`{}` is the part of the path that exists", parent.display()),
        None => "check the path; it is relative to the pipeline file".to_owned(),
    }
}

/// The files of a folder or glob in the requested format, by name. If a format is given, a name without an extension has
/// that format.
fn known(
    found: Vec<Found>,
    format: Option<FileFormat>,
    written: &str,
    what: &str,
) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let mut unknown = None;
    for found in found {
        let path = found.path();
        let by_name = form_of(&path, None);
        let form = match format {
            None => by_name,
            Some(format) => by_name
                .filter(|form| form.format == format)
                .or_else(|| form_of(&path, Some(format)).filter(|_| has_no_extension(&path))),
        };
        match form {
            Some(form) => files.push(found.listed(form)?),
            None => unknown = unknown.or(Some(path)),
        }
    }
    if !files.is_empty() {
        return Ok(files);
    }
    let looked_at = format!("the {what} `{written}`");
    let Some(unknown) = unknown else {
        return Err(Error::new(ErrorKind::NoInput, format!("{looked_at} has no files"))
            .hint("names that start with `.` or `_` are skipped"));
    };
    let there = format!("there is `{}`", unknown.display());
    Err(match format {
        None => {
            let message = format!("{looked_at} has no file of a known format, but {there}");
            Error::new(ErrorKind::NoInput, message).hint(format!(
                "known extensions are {}; those of CSV and JSONL may be followed by .gz, .bz2, .xz or .zst. With \
                 `source.format`, names without extension are read too",
                FileFormat::known_extensions()
            ))
        }
        Some(format) => {
            let message = format!(
                "{looked_at} has no file with the name of a {} file, but {there}",
                format.name()
            );
            Error::new(ErrorKind::NoInput, message).hint(format!(
                "`{}/*` reads every file as {}, whatever its name",
                written.trim_end_matches('/'),
                format.name()
            ))
        }
    })
}

/// Whether a name has no extension other than that of a compression: `part-00000`, `000000_0.gz`.
fn has_no_extension(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = without_compression(&name).map_or(&*name, |(stem, _)| stem);
    !stem.contains('.')
}

/// The files that a glob matches. If a format is given, their names do not matter.
fn of_glob(
    found: Vec<Found>,
    written: &str,
    format: Option<FileFormat>,
) -> Result<Vec<ListedFile>> {
    if found.is_empty() {
        let hint = braces(written).unwrap_or_else(|| {
            "names that start with `.` or `_` are skipped; `**` crosses folders".to_owned()
        });
        return Err(
            Error::new(ErrorKind::NoInput, format!("nothing matches `{written}`")).hint(hint)
        );
    }
    let Some(asked) = format else {
        return known(found, None, written, "glob");
    };
    let listed = found.into_iter().map(|found| {
        let form = form_of(&found.path(), format)
            .unwrap_or(Form { format: asked, codec: Codec::UNCOMPRESSED });
        found.listed(form)
    });
    listed.collect()
}

/// The consecutive `key=value` folders directly above the file, outermost first.
pub(crate) fn partitions_of(path: &Path) -> Vec<(String, Option<String>)> {
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

/// Decodes the percent-encoding of hive folder names; invalid sequences stay unchanged.
pub(super) fn unescape(text: &str) -> String {
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
