//! The pipeline as used: defaults filled in, aliases resolved, variables interpolated, every value checked. Not here: the
//! pipeline as written (`raw`), and its execution (`crate::job`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

pub use super::format::{Compression, FileFormat, TableFormat, TableMode};
use crate::limits::{MAX_LINE_SIZE_BYTES, MAX_TEXT_COLUMNS};
pub use crate::tasks::{DeviceSpec, Dtype, ImagesSpec, ModelSpec, TaskStep};

/// A pipeline, ready to run. Relative paths are joined to the pipeline file's folder.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The pipeline file.
    pub file: PathBuf,
    /// The folder that relative paths start from.
    pub dir: PathBuf,
    /// `name`, by default the file's stem.
    pub name: String,
    /// The aliases of `models`, in the order of their names.
    pub models: BTreeMap<String, ModelSpec>,
    /// Where rows come from.
    pub source: SourceSpec,
    /// The limits on images.
    pub images: ImagesSpec,
    /// The steps in order; without steps, rows are copied.
    pub steps: Vec<Step>,
    /// The handling of rows that fail.
    pub on_error: OnErrorSpec,
    /// Where rows go.
    pub sink: SinkSpec,
    /// Settings of the run.
    pub run: RunSpec,
    /// The output whose results are reused by row; results of this run are then kept, too.
    pub reuse: Option<PathBuf>,
    /// What a run tells other systems.
    pub notices: NoticesSpec,
    /// The schedule, if it has one.
    pub schedule: Option<ScheduleSpec>,
    /// Tests of the pipeline.
    pub tests: Vec<TestSpec>,
    /// The file as written.
    pub written: Written,
}

/// A pipeline as written: enough to load the same pipeline in another process.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The text of the file.
    pub text: String,
    /// The overrides, as in [`LoadOptions::set`](super::LoadOptions::set).
    pub set: Vec<(String, String)>,
    /// The values of the variables that it uses; they may be secrets.
    pub variables: BTreeMap<String, String>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.variables.keys().collect();
        f.debug_struct("Written").field("variables", &names).finish_non_exhaustive()
    }
}

/// What a run tells other systems.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NoticesSpec {
    /// The collector of OpenLineage events.
    pub openlineage: Option<OpenLineageSpec>,
    /// Where the report of a run that failed or was stopped is posted.
    pub on_failure: Option<AddressSpec>,
    /// Where the report of a run that succeeded is posted.
    pub on_success: Option<AddressSpec>,
}

/// A collector of OpenLineage events.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenLineageSpec {
    /// Where events are posted.
    pub address: AddressSpec,
    /// The namespace of the job.
    pub namespace: String,
}

/// An address that JSON is posted to. Both the address and the headers may be secrets.
#[derive(Clone, PartialEq)]
pub struct AddressSpec {
    /// The address, with the scheme `http` or `https`.
    pub url: Url,
    /// Headers of the request: names and values.
    pub headers: Vec<(String, String)>,
    /// The address in messages: scheme, host and port, or as it is written if it contains a variable.
    pub shown: String,
}

impl fmt::Debug for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpec").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// When a pipeline is due.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    /// The cron expression as it is written.
    pub expression: String,
    /// The same, parsed: five fields.
    pub cron: croner::Cron,
    /// The time zone of the expression.
    pub timezone: chrono_tz::Tz,
    /// The start is delayed by less than this.
    pub jitter: Duration,
    /// Whether missed times are run late.
    pub catch_up: bool,
}

/// The handling of rows that a step refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct OnErrorSpec {
    /// The policy.
    pub rows: OnErrorRows,
    /// The column of a row's error.
    pub column: String,
    /// The absolute folder of dead letters.
    pub dead_letter: PathBuf,
    /// The share of failed rows, from 0 to 1, above which the run fails.
    pub max_fraction: f64,
    /// `file:line:col` of the key, for errors.
    pub location: String,
}

/// The handling of a row that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnErrorRows {
    /// The row ends the run.
    #[default]
    Fail,
    /// The row stays, with a null result and its error.
    Null,
    /// The row is left out, and kept as a dead letter.
    Skip,
}

impl Pipeline {
    /// The models of all steps, to change in place.
    pub fn models_mut(&mut self) -> impl Iterator<Item = &mut ModelSpec> {
        self.steps.iter_mut().filter_map(|step| match &mut step.kind {
            StepKind::Task(step) => Some(&mut step.model),
            StepKind::Sql(_) => None,
        })
    }
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Absolute local paths: files, folders (with hive partitions) or globs, in the order written.
    pub paths: Vec<String>,
    /// File format; `None` means by extension, or a Delta table.
    pub format: Option<FileFormat>,
    /// The Delta table to read.
    pub delta: DeltaSource,
    /// The CSV dialect.
    pub csv: CsvSpec,
    /// The declared types of CSV and JSONL columns, which are not inferred.
    pub types: BTreeMap<String, ColumnType>,
    /// The handling of files whose columns differ.
    pub schema: SchemaMode,
    /// The longest row of a CSV or JSONL file, in bytes.
    pub max_line_size_bytes: u64,
    /// The most columns of CSV and JSONL, including nested fields.
    pub max_columns: usize,
    /// The columns to read, in this order; `None` means all.
    pub select: Option<Vec<String>>,
    /// A SQL predicate on the source's columns.
    pub predicate: Option<String>,
    /// The most rows to read.
    pub limit: Option<usize>,
    /// The position of `source` in the pipeline file, for messages: `embed.yaml:4:1`.
    pub location: String,
}

/// How a Delta table is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeltaSource {
    /// Whether the source must be one; other folders are one if they have a log.
    pub is_asked: bool,
    /// Its version; `None` means the last one.
    pub version: Option<u64>,
}

impl SourceSpec {
    /// All rows at one path, with the format of its extension. `location` is the position of the path, for messages.
    pub fn of_path(path: impl Into<String>, location: impl Into<String>) -> Self {
        Self {
            paths: vec![path.into()],
            format: None,
            delta: DeltaSource::default(),
            csv: CsvSpec::default(),
            types: BTreeMap::new(),
            schema: SchemaMode::Union,
            max_line_size_bytes: MAX_LINE_SIZE_BYTES,
            max_columns: MAX_TEXT_COLUMNS,
            select: None,
            predicate: None,
            limit: None,
            location: location.into(),
        }
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// Utf8: text, as written.
    String,
    /// 64-bit integers.
    Int64,
    /// 64-bit floats, rounded where a number has more digits.
    Float64,
    /// `true` or `false`.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// `YYYY-MM-DD HH:MM:SS`, to the microsecond, without a time zone.
    Timestamp,
}

impl ColumnType {
    /// The name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }
}

/// How files with different columns are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemaMode {
    /// Matches columns by name, widens types and fills missing columns with null.
    #[default]
    Union,
    /// Refuses files whose columns differ.
    Strict,
}

/// The CSV dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvSpec {
    /// One byte between fields.
    pub delimiter: u8,
    /// Whether the first line names the columns.
    pub has_header: bool,
    /// The quote character; `None` disables quoting.
    pub quote: Option<u8>,
    /// The escape character in quoted fields, in addition to doubled quotes.
    pub escape: Option<u8>,
    /// The first character of a comment line.
    pub comment: Option<u8>,
    /// Values that are null, in addition to the empty field.
    pub null_values: Vec<String>,
    /// The encoding of the text.
    pub encoding: TextEncoding,
}

impl Default for CsvSpec {
    fn default() -> Self {
        Self {
            delimiter: b',',
            has_header: true,
            quote: Some(b'"'),
            escape: None,
            comment: None,
            null_values: Vec::new(),
            encoding: TextEncoding::Utf8,
        }
    }
}

/// The encoding of a text file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-8; a UTF-16 byte order mark overrides it.
    #[default]
    Utf8,
    /// ISO 8859-1: every byte is the code point of that number.
    Latin1,
    /// An encoding of the WHATWG Encoding Standard.
    Other(&'static encoding_rs::Encoding),
}

impl TextEncoding {
    /// A label of the encoding, for [`TextEncoding::of_label`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Latin1 => "latin1",
            Self::Other(encoding) => encoding.name(),
        }
    }

    /// The encoding for a label, ignoring case: Python's `latin1`, or a WHATWG label.
    pub fn of_label(label: &str) -> Option<Self> {
        // The WHATWG reads `latin1` as windows-1252; iconv and Python read it as ISO 8859-1.
        let latin1 = ["latin1", "latin-1", "l1", "iso-8859-1", "iso8859-1", "iso_8859-1"];
        let python = label.trim().to_ascii_lowercase().replace('_', "-");
        if latin1.contains(&python.as_str()) {
            return Some(Self::Latin1);
        }
        let label = match python.as_str() {
            "utf-8-sig" => "utf-8",
            "utf-16-le" => "utf-16le",
            "utf-16-be" => "utf-16be",
            name => match name.strip_prefix("cp125") {
                Some(digit) => return Self::of_label(&format!("windows-125{digit}")),
                None => name,
            },
        };
        let encoding = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())?;
        Some(if encoding == encoding_rs::UTF_8 { Self::Utf8 } else { Self::Other(encoding) })
    }
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// The step's kind.
    pub kind: StepKind,
    /// Its position in the pipeline file, for messages: `embed.yaml:12:5`.
    pub location: String,
}

/// The kind of a step.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// `sql`: a query over the table `input`.
    Sql(String),
    /// A task of a model.
    Task(TaskStep),
}

/// A Delta table as an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaSink {
    /// The folder or URL of the table.
    pub table: PathBuf,
    /// What is done with one that exists.
    pub mode: TableMode,
}

/// Where rows go.
#[derive(Clone, Debug)]
pub struct SinkSpec {
    /// A folder, or one file when the path ends in the format's extension. For a Delta table, the folder in it in which
    /// its files are made.
    pub path: PathBuf,
    /// The Delta table that the files become a version of.
    pub delta: Option<DeltaSink>,
    /// File format; by default that of the path's extension, else Parquet.
    pub format: FileFormat,
    /// Compression; `None` means the format's default (zstd for Parquet, none elsewhere).
    pub compression: Option<Compression>,
    /// Columns that become hive partitions.
    pub partition_by: Vec<String>,
    /// Start a new file once one has about this many bytes.
    pub target_file_size_bytes: u64,
    /// The position of `sink` in the pipeline file, for messages.
    pub location: String,
}

impl SinkSpec {
    /// What the pipeline file calls the output: the path, or the table.
    pub fn shown(&self) -> &std::path::Path {
        self.delta.as_ref().map_or(&self.path, |delta| &delta.table)
    }

    /// Whether the path names a single file rather than a folder.
    pub fn is_single_file(&self) -> bool {
        self.file_form().is_some()
    }

    /// The format and compression by the path's extension; `None` for a folder.
    pub fn file_form(&self) -> Option<(FileFormat, Option<Compression>)> {
        FileFormat::of_sink(self.path.to_str()?, Some(self.format))
    }
}

/// A test of the pipeline: input rows, and expectations of the output rows.
#[derive(Clone, Debug)]
pub struct TestSpec {
    /// Its name.
    pub name: String,
    /// The rows that replace those of the source.
    pub rows: Vec<serde_json::Map<String, serde_json::Value>>,
    /// The expectations of the result.
    pub expect: Vec<Expectation>,
    /// Its position in the pipeline file.
    pub location: String,
}

/// An expectation of a column.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The column, and the path to a part of its values.
    pub column: String,
    /// The row, from 0; `None` means every row.
    pub row: Option<usize>,
    /// The check of the value.
    pub check: Check,
}

/// A check of a value.
#[derive(Clone, Debug)]
pub enum Check {
    /// The value equals this; numbers may differ by the tolerance.
    Equals(serde_json::Value, f64),
    /// The value is a list or a text of this length.
    Length(usize),
    /// The value is a text or a list that contains this.
    Contains(serde_json::Value),
    /// The value is null, or it is not.
    IsNull(bool),
}

/// Settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// The most tokens of one forward pass, padding included; `None` means the device's default.
    pub max_batch_tokens: Option<usize>,
    /// The most rows that are sorted by length together.
    pub sort_window_rows: usize,
    /// The number of workers on a CPU; `None` means one per core.
    pub workers: Option<usize>,
    /// The rows of a unit; `None` means about a minute of work.
    pub unit_rows: Option<u64>,
    /// Whether only units that are new or have changed are computed.
    pub is_incremental: bool,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            max_batch_tokens: None,
            sort_window_rows: 65_536,
            workers: None,
            unit_rows: None,
            is_incremental: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_have_their_usual_names() {
        let name = |label: &str| match TextEncoding::of_label(label) {
            Some(TextEncoding::Other(encoding)) => encoding.name().to_owned(),
            other => format!("{other:?}"),
        };
        for (label, expected) in [
            ("UTF-8", "Some(Utf8)"),
            ("utf_8_sig", "Some(Utf8)"),
            ("latin1", "Some(Latin1)"),
            ("ISO-8859-1", "Some(Latin1)"),
            ("cp1252", "windows-1252"),
            ("Windows-1251", "windows-1251"),
            ("utf-16", "UTF-16LE"),
            ("utf_16_be", "UTF-16BE"),
            ("shift_jis", "Shift_JIS"),
            ("utf-32", "None"),
            ("latin 1", "None"),
        ] {
            assert_eq!(name(label), expected, "{label}");
        }
    }
}
