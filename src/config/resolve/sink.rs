//! Resolves `sink`: path, format, compression, file size.

use std::path::{Path, PathBuf};

use super::{Cursor, Resolver};
use crate::config::pipeline::{Compression, DeltaSink, FileFormat, SinkSpec, TableFormat};
use crate::config::raw::{RawSink, Size};
use crate::document::Diagnostic;
use crate::hub_store::DatasetUrl;

/// The default size of output files.
const TARGET_FILE_SIZE_BYTES: u64 = 256_000_000;

impl Resolver<'_> {
    pub(super) fn sink(&mut self, raw: &RawSink, name: &str, at: Cursor<'_>) -> SinkSpec {
        let path_at = at.key("path");
        let path = self.path(&raw.path, path_at, "path");
        if raw.path.starts_with("http://") || raw.path.starts_with("https://") {
            let message = format!("`{}`: HTTP is read-only", path_at.shown(&raw.path));
            self.report.push(
                Diagnostic::new(path_at.value, message)
                    .hint("write to a local folder, or to s3://, gs://, az:// or hf://"),
            );
        }
        let is_delta = raw.format == Some(TableFormat::Delta);
        let asked = raw.format.map(|format| format.of_files().unwrap_or(FileFormat::Parquet));
        // A table is a folder, whatever its name.
        let by_path = if is_delta { None } else { FileFormat::of_sink(&raw.path, asked) };
        self.table(raw, is_delta, at);
        let names_no_folder = |url: &DatasetUrl| url.path.is_empty() || by_path.is_some();
        if DatasetUrl::parse(&raw.path).is_ok_and(|url| names_no_folder(&url)) {
            let message = "an output on the hub is a folder of a dataset";
            self.report.push(
                Diagnostic::new(path_at.value, message)
                    .hint("name one, such as `hf://datasets/owner/name/data/`"),
            );
        }
        let format = match (asked, by_path) {
            (Some(format), Some((other, _))) if format != other => {
                let message = format!(
                    "the format is {}, but the path has the extension of a {} file",
                    format.name(),
                    other.name()
                );
                self.report.push(
                    Diagnostic::new(at.key("format").value, message)
                        .related(path_at.value, "the path")
                        .hint("remove `format`, or name a folder"),
                );
                format
            }
            (Some(format), _) => format,
            (None, Some((format, _))) => format,
            (None, None) => FileFormat::Parquet,
        };
        if by_path.is_none() && !is_delta {
            self.other_extension(&raw.path, path_at);
        }

        let by_extension = by_path.and_then(|(_, compression)| compression);
        if let Some(compression) = raw.compression {
            self.compression(compression, format, by_extension, at);
        }
        let partition_by = raw.partition_by.clone().unwrap_or_default();
        self.columns(&partition_by, at.key("partition_by"), "partition_by");
        if by_path.is_some() {
            let several_files = [
                ("partition_by", !partition_by.is_empty()),
                ("target_file_size", raw.target_file_size.is_some()),
            ];
            for (key, _) in several_files.into_iter().filter(|(_, given)| *given) {
                let message = format!("`{key}` needs a folder, but the path names a single file");
                self.report.push(
                    Diagnostic::new(at.key(key).key, message)
                        .related(path_at.value, "a single file")
                        .hint("name a folder, such as `out/`"),
                );
            }
        }
        let path = path.unwrap_or_default();
        let table = is_delta.then(|| path.clone());
        SinkSpec {
            path: table.as_deref().map_or(path, |table| staging(table, name)),
            delta: table.map(|table| DeltaSink { table, mode: raw.mode.unwrap_or_default() }),
            format,
            compression: raw.compression.or(by_extension),
            partition_by,
            target_file_size_bytes: self.size(
                raw.target_file_size.as_ref(),
                at.key("target_file_size"),
                "target_file_size",
                TARGET_FILE_SIZE_BYTES,
            ),
            location: self.report.location(at.key),
        }
    }

    /// Checks what only a Delta table has, and what it cannot have.
    fn table(&mut self, raw: &RawSink, is_delta: bool, at: Cursor<'_>) {
        if raw.mode.is_some() && !is_delta {
            self.report.push(
                Diagnostic::new(at.key("mode").key, "`mode` is for Delta tables")
                    .hint("add `format: delta`, or remove it"),
            );
        }
        if is_delta && DatasetUrl::parse(&raw.path).is_ok() {
            self.report.push(
                Diagnostic::new(at.key("path").value, "a Delta table is not written to the hub")
                    .hint("write to a local folder, or to s3://, gs:// or az://"),
            );
        }
    }

    fn other_extension(&mut self, path: &str, at: Cursor<'_>) {
        if FileFormat::is_other_table(path) {
            self.report.push(
                Diagnostic::new(at.value, "the path has the extension of another format")
                    .choices("known", FileFormat::written_extensions())
                    .hint("if this is a folder, end the path with `/`"),
            );
        }
    }

    fn compression(
        &mut self,
        compression: Compression,
        format: FileFormat,
        by_extension: Option<Compression>,
        at: Cursor<'_>,
    ) {
        let here = at.key("compression");
        let valid = format.compressions();
        if !valid.contains(&compression) {
            let message =
                format!("{} files have no `{}` compression", format.name(), compression.name());
            let choices = valid.iter().map(|compression| compression.name());
            self.report.push(Diagnostic::new(here.value, message).choices("valid values", choices));
        } else if by_extension.is_some_and(|other| other != compression) {
            let message = "the compression differs from that of the path's extension";
            self.report.push(
                Diagnostic::new(here.value, message)
                    .related(at.key("path").value, "the path")
                    .hint("remove `compression`, or change the extension"),
            );
        }
    }

    /// The size in bytes, or `default` if none is written.
    pub(super) fn size(
        &mut self,
        raw: Option<&Size>,
        here: Cursor<'_>,
        key: &str,
        default: u64,
    ) -> u64 {
        let text = match raw {
            None => return default,
            Some(Size::Bytes(bytes)) => return *bytes,
            Some(Size::Text(text)) => text,
        };
        size_bytes(text).unwrap_or_else(|| {
            let message = format!("`{key}`: `{}` is not a size", here.shown(text).escape_debug());
            self.report.push(
                Diagnostic::new(here.value, message)
                    .hint("write bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB"),
            );
            default
        })
    }
}

/// The folder in a Delta table in which a pipeline makes its files. Readers skip it, and so does `VACUUM`.
fn staging(table: &Path, pipeline: &str) -> PathBuf {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let mut name = pipeline.replace(|c| !is_plain(c), "-");
    if name != pipeline {
        name = format!("{name}-{}", &blake3::hash(pipeline.as_bytes()).to_hex()[..8]);
    }
    table.join("_hfauto").join("delta").join(name)
}

/// The bytes of `256MB`, `1.5 GiB` or `1024`; `None` below one byte.
pub(crate) fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = match unit.strip_suffix('i') {
        Some(prefix) if !prefix.is_empty() => (prefix, 1024_u64),
        _ => (unit, 1000),
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == prefix)?;
    let factor = base.pow(u32::try_from(power).ok()?);
    let bytes = if let Ok(whole) = number.parse::<u64>() {
        whole.checked_mul(factor)?
    } else {
        let bytes = number.parse::<f64>().ok()? * factor as f64;
        // A float beyond 2^53 is not an exact number of bytes, and no file is that large.
        if bytes > 9e15 {
            return None;
        }
        bytes.round() as u64
    };
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(size_bytes(text), expected, "{text}");
        };
        check("256MB", Some(256_000_000));
        check("1GiB", Some(1 << 30));
        check("1024", Some(1024));
        check("10b", Some(10));
        check("64 KiB", Some(65_536));
        check("1.5kB", Some(1500));
        check("2g", Some(2_000_000_000));
        check("1tib", Some(1 << 40));
        for text in
            ["", "MB", "-1MB", "0", "0.1B", "1.2.3MB", "1XB", "1 M B", "99999999999TB", "1i", "."]
        {
            check(text, None);
        }
    }
}
