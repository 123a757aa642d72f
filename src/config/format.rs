//! The file formats of sources and sinks, one row each: names, extensions, compressions. Not here: reading
//! (`crate::source`) and writing (`crate::sink`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file format of sources and sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Arrow IPC.
    Arrow,
}

/// What `format` names: the format of files, or of a table of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Arrow IPC.
    Arrow,
    /// A table of Delta Lake: Parquet files, and a log of its versions.
    Delta,
}

impl TableFormat {
    /// The format of files; `None` for a table.
    pub fn of_files(self) -> Option<FileFormat> {
        match self {
            Self::Parquet => Some(FileFormat::Parquet),
            Self::Csv => Some(FileFormat::Csv),
            Self::Jsonl => Some(FileFormat::Jsonl),
            Self::Arrow => Some(FileFormat::Arrow),
            Self::Delta => None,
        }
    }
}

/// What is written to a table that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableMode {
    /// Nothing: it is an error.
    #[default]
    Error,
    /// The rows, beside those that are there.
    Append,
    /// The rows, in place of those that are there.
    Overwrite,
}

/// The compression of output files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// Snappy.
    Snappy,
    /// Gzip.
    Gzip,
    /// LZ4.
    Lz4,
    /// No compression.
    #[serde(rename = "none")]
    Uncompressed,
}

use Compression::{Gzip, Lz4, Snappy, Uncompressed, Zstd};

/// What is known of a format.
#[derive(Debug)]
struct Row {
    format: FileFormat,
    /// The name in pipeline files.
    name: &'static str,
    /// The name in messages.
    title: &'static str,
    /// The name that `STORED AS` of SQL has for it.
    stored_as: &'static str,
    /// The extensions of its files; part files have the first.
    extensions: &'static [&'static str],
    /// Extensions of files that are read as this format, but may be another for other programs: a sink of such a name
    /// needs `format`.
    ambiguous: &'static [&'static str],
    /// Whether files are compressed as a whole, and then have a second extension (`.csv.gz`).
    is_text: bool,
    /// The compressions of output files.
    compressions: &'static [Compression],
    /// The compression of output files by default.
    compression: Compression,
}

/// Every format.
const FORMATS: [Row; 4] = [
    Row {
        format: FileFormat::Parquet,
        name: "parquet",
        title: "Parquet",
        stored_as: "parquet",
        extensions: &["parquet", "pq"],
        ambiguous: &[],
        is_text: false,
        compressions: &[Zstd, Snappy, Gzip, Lz4, Uncompressed],
        compression: Zstd,
    },
    Row {
        format: FileFormat::Csv,
        name: "csv",
        title: "CSV",
        stored_as: "csv",
        extensions: &["csv"],
        ambiguous: &[],
        is_text: true,
        compressions: &[Gzip, Zstd, Uncompressed],
        compression: Uncompressed,
    },
    Row {
        format: FileFormat::Jsonl,
        name: "jsonl",
        title: "JSONL",
        stored_as: "json",
        extensions: &["jsonl", "ndjson"],
        // One array of objects, elsewhere.
        ambiguous: &["json"],
        is_text: true,
        compressions: &[Gzip, Zstd, Uncompressed],
        compression: Uncompressed,
    },
    Row {
        format: FileFormat::Arrow,
        name: "arrow",
        title: "Arrow IPC",
        stored_as: "arrow",
        extensions: &["arrow", "feather", "ipc"],
        // The stream format, which is only read.
        ambiguous: &["arrows"],
        is_text: false,
        compressions: &[Zstd, Lz4, Uncompressed],
        compression: Uncompressed,
    },
];

/// The extensions of compressed text files that are written.
const COMPRESSED: [(&str, Compression); 2] = [("gz", Gzip), ("zst", Zstd)];

impl FileFormat {
    fn row(self) -> &'static Row {
        // Every format has its row, in the order of the variants.
        &FORMATS[self as usize]
    }

    /// The format's name in pipeline files.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The format's name in messages.
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// The name that `STORED AS` of SQL has for it.
    pub fn stored_as(self) -> &'static str {
        self.row().stored_as
    }

    /// The format that `STORED AS` of SQL names.
    pub fn of_stored_as(name: &str) -> Option<Self> {
        FORMATS.iter().find(|row| row.stored_as == name).map(|row| row.format)
    }

    /// Whether its files are text, which is compressed as a whole.
    pub fn is_text(self) -> bool {
        self.row().is_text
    }

    /// The extension of output files, without that of a compression.
    pub fn extension(self) -> &'static str {
        self.row().extensions[0]
    }

    /// The compressions of output files.
    pub fn compressions(self) -> &'static [Compression] {
        self.row().compressions
    }

    /// The compression of output files by default.
    pub fn default_compression(self) -> Compression {
        self.row().compression
    }

    /// The format and compression of one output file, by its extension, such as `.csv.gz`; none for
    /// folders, which end in `/` or have no extension of a format.
    pub fn of_path(path: &str) -> Option<(Self, Option<Compression>)> {
        Self::named(path, None)
    }

    /// As [`FileFormat::of_path`], if `format` is given beside the path: then `out.json` is a file, too.
    pub fn of_sink(path: &str, format: Option<Self>) -> Option<(Self, Option<Compression>)> {
        Self::named(path, format)
    }

    fn named(path: &str, format: Option<Self>) -> Option<(Self, Option<Compression>)> {
        let name = path.rsplit('/').next()?.to_ascii_lowercase();
        let (stem, last) = name.rsplit_once('.')?;
        let compression = COMPRESSED.iter().find(|(extension, _)| *extension == last);
        let extension = match compression {
            Some(_) => stem.rsplit_once('.')?.1,
            None => last,
        };
        let row = FORMATS.iter().find(|row| {
            row.extensions.contains(&extension)
                || (format == Some(row.format) && row.ambiguous.contains(&extension))
        })?;
        // Parquet and Arrow are compressed inside of the file.
        let compression = compression.map(|(_, compression)| *compression);
        (row.is_text || compression.is_none()).then_some((row.format, compression))
    }

    /// The format of files with an extension, among those that are read.
    pub fn of_extension(extension: &str) -> Option<Self> {
        let is_its =
            |row: &&Row| row.extensions.contains(&extension) || row.ambiguous.contains(&extension);
        FORMATS.iter().find(is_its).map(|row| row.format)
    }

    /// The extensions of files that are read, for messages.
    pub fn known_extensions() -> String {
        let extensions = FORMATS.iter().flat_map(|row| row.extensions.iter().chain(row.ambiguous));
        extensions.map(|extension| format!(".{extension}")).collect::<Vec<_>>().join(", ")
    }

    /// The extension of output files of each format, for messages.
    pub fn written_extensions() -> impl Iterator<Item = String> {
        FORMATS.iter().map(|row| format!(".{}", row.extensions[0]))
    }

    /// Whether a path ends as a table in a file that a sink does not write under that name: as the name of a folder it
    /// would surprise.
    pub fn is_other_table(path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        extension.is_some_and(|extension| {
            FORMATS.iter().any(|row| row.ambiguous.contains(&extension))
                || ["tsv", "txt", "xlsx"].contains(&extension)
        })
    }
}

impl Compression {
    /// The compression's name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Zstd => "zstd",
            Snappy => "snappy",
            Gzip => "gzip",
            Lz4 => "lz4",
            Uncompressed => "none",
        }
    }

    /// The extension of text files in it, with its dot; empty where there is none.
    pub fn suffix(self) -> String {
        let known = COMPRESSED.iter().find(|(_, compression)| *compression == self);
        known.map_or_else(String::new, |(extension, _)| format!(".{extension}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_row() {
        for row in &FORMATS {
            assert_eq!(row.format.row().format, row.format);
            assert!(row.compressions.contains(&row.compression), "{}", row.name);
            for extension in row.extensions.iter().chain(row.ambiguous) {
                assert_eq!(FileFormat::of_extension(extension), Some(row.format));
            }
        }
    }

    #[test]
    fn formats_of_paths() {
        let check =
            |path: &str, expected| assert_eq!(FileFormat::of_path(path), expected, "{path}");
        check("out/a.parquet", Some((FileFormat::Parquet, None)));
        check("A.CSV.GZ", Some((FileFormat::Csv, Some(Gzip))));
        check("a.b.jsonl.zst", Some((FileFormat::Jsonl, Some(Zstd))));
        check("a.ndjson", Some((FileFormat::Jsonl, None)));
        check("x/.arrow", Some((FileFormat::Arrow, None)));
        check("a.pq", Some((FileFormat::Parquet, None)));
        check("a.ipc", Some((FileFormat::Arrow, None)));
        for folder in ["out", "out/", "out.parquet/", "a.parquet.gz", "a.gz", "v1.2", "", "a.txt"] {
            check(folder, None);
        }
        // Ambiguous names, unless the format is given.
        let of_sink = |path: &str, format| FileFormat::of_sink(path, Some(format));
        for (path, format) in [("a.json", FileFormat::Jsonl), ("a.arrows", FileFormat::Arrow)] {
            check(path, None);
            assert!(FileFormat::is_other_table(path));
            assert_eq!(of_sink(path, format), Some((format, None)));
            assert_eq!(of_sink(path, FileFormat::Csv), None);
        }
    }
}
