//! The pipeline file as written, version 1: one type per mapping, every key typed. The doc comments are
//! the descriptions of the JSON Schema. Not here: defaults and meaning (`resolve`); the keys of tasks (`crate::tasks`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::format::{Compression, FileFormat};

use super::pipeline::{ColumnType, SchemaMode};
use crate::document::{StringOrList, written_in_several_ways};
use crate::tasks::{self, Dtype, RawTaskStep};

/// A pipeline of hfauto-pipe: where rows come from, what models do with them, where they go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPipeline {
    /// The version of the file format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The pipeline's name. Default: the file's name without its extension.
    pub name: Option<String>,
    /// Aliases for models, shared by steps and SQL.
    pub models: Option<BTreeMap<String, RawModel>>,
    /// Where rows come from.
    pub source: RawSource,
    /// Which images steps may read.
    pub images: Option<RawImages>,
    /// The steps applied to the rows, in order. Without steps, rows are copied.
    pub steps: Option<Vec<RawStep>>,
    /// How rows that fail are handled.
    pub on_error: Option<RawOnError>,
    /// Where rows go.
    pub sink: RawSink,
    /// Settings of a run.
    pub run: Option<RawRun>,
    /// When the pipeline is due.
    pub schedule: Option<RawSchedule>,
    /// Tests of the pipeline, run by `hfauto-pipe test`.
    pub tests: Option<Vec<RawTest>>,
}

/// A model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawModel {
    /// A hub id (`org/name`), or a local directory, relative to this file.
    pub repo: String,
    /// A branch, tag or commit. The commit that it names goes into the lineage. Default: `main`.
    pub revision: Option<String>,
    /// The dtype to compute in. Default: `auto`, which is f32 on a CPU.
    pub dtype: Option<Dtype>,
    /// Where to compute: `auto` (every GPU of this machine, each with a copy of the model, where the program has CUDA;
    /// else the CPU), `cpu`, `cuda` (the first GPU) or `cuda:N`. Default: `auto`.
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]+)?)$"))]
    pub device: Option<String>,
    /// Overrides of the model's `config.json`, as in `from_pretrained(..., config=...)`.
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Where rows come from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSource {
    /// Files, folders (with hive partitions) or globs, relative to this file; one or a list.
    pub path: StringOrList,
    /// The file format. Default: by the extension; compressed forms such as `.csv.gz` and
    /// `.jsonl.zst` are known.
    pub format: Option<FileFormat>,
    /// How CSV files are written.
    pub csv: Option<RawCsv>,
    /// The types of columns of CSV and JSONL files that are not to be inferred: `{sku: string}`.
    pub types: Option<BTreeMap<String, ColumnType>>,
    /// How files with different columns are combined: `union` matches columns by name, widens types and fills
    /// missing columns with null; `strict` refuses such files. Default: `union`.
    pub schema: Option<SchemaMode>,
    /// The longest row of a CSV or JSONL file: bytes, or `64MB`, `1GiB`. Default: 64MB.
    pub max_line_size: Option<Size>,
    /// The most columns of CSV and JSONL files, fields inside of objects counted. Default: 4096.
    pub max_columns: Option<NonZeroU64>,
    /// The columns to read, in this order. Default: every column.
    pub select: Option<Vec<String>>,
    /// A SQL predicate on the columns, such as `lang = 'en'`; pushed into the scan.
    #[serde(rename = "where")]
    pub predicate: Option<String>,
    /// Read at most this many rows.
    pub limit: Option<u64>,
}

/// How CSV files are written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCsv {
    /// The delimiter between fields, one byte: `","`, `";"`, `"\t"`. Default: a comma.
    pub delimiter: Option<String>,
    /// Whether the first line names the columns. Default: true.
    pub has_header: Option<bool>,
    /// The quote character around fields that contain delimiters or line breaks, one byte; `""` for none. Default: `"\""`.
    pub quote: Option<String>,
    /// The escape character in quoted fields, one byte, such as `"\\"`: the character after it is literal. A doubled
    /// quote is always one quote. Default: none.
    pub escape: Option<String>,
    /// The byte that starts a comment line, such as `"#"`. Comment lines are skipped. Default: none.
    pub comment: Option<String>,
    /// Values that are null, beside the empty field: `["NA", "-"]`.
    pub null_values: Option<Vec<String>>,
    /// The encoding: `utf-8`, `latin1`, `windows-1252`, `utf-16` and others of the WHATWG's Encoding Standard. Default:
    /// `utf-8`; files with a byte order mark of UTF-16 are read as UTF-16.
    pub encoding: Option<String>,
}

/// Which images steps may read. A row whose image is beyond it fails.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawImages {
    /// A folder, relative to this file: the paths of images must lie within it, symbolic links followed. Paths stay
    /// relative to this file. Default: any path is read.
    pub root: Option<String>,
    /// Most pixels of an image, before it is resized. Default: 178956970, as in Pillow.
    pub max_pixels: Option<NonZeroU64>,
    /// The largest file that is read as an image: bytes, or `64MB`, `1GiB`. Default: 256MiB.
    pub max_file_size: Option<Size>,
}

/// A step: one key, a task id of Hugging Face or `sql`.
#[derive(Clone, Debug)]
pub enum RawStep {
    /// A SQL query over the table `input`, the rows of the step before.
    Sql(String),
    /// A task of a model.
    Task(RawTaskStep),
}

impl<'de> Deserialize<'de> for RawStep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let step = serde_json::Map::deserialize(deserializer)?;
        match step.iter().next() {
            Some((key, query)) if key == "sql" => String::deserialize(query).map(Self::Sql),
            Some((task_id, step)) => RawTaskStep::read(task_id, step).map(Self::Task),
            None => Err(de::Error::custom("a step without a key")),
        }
        .map_err(de::Error::custom)
    }
}

impl JsonSchema for RawStep {
    fn schema_name() -> Cow<'static, str> {
        "RawStep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let step = |key: &str, description: &str, value: Schema| {
            json_schema!({
                "description": description,
                "type": "object",
                "properties": {key: value},
                "additionalProperties": false,
                "required": [key],
            })
        };
        let sql = "A SQL query over the table `input`, the rows of the step before.";
        let mut steps = vec![step("sql", sql, json_schema!({"type": "string"}))];
        steps.extend(
            tasks::TASKS.iter().map(|task| step(task.id, task.summary, task.schema(generator))),
        );
        json_schema!({
            "description": "A step: one key, a task id of Hugging Face or `sql`.",
            "oneOf": steps,
        })
    }
}

/// How rows that fail are handled.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOnError {
    /// `fail` stops the run, `null` keeps the row with a null result, `skip` leaves it out. Default:
    /// `fail`.
    // Not an `Option`: a YAML null is the word `null` here.
    #[serde(default)]
    pub rows: RawRows,
    /// The column that holds a row's error.
    pub column: Option<String>,
    /// A folder for the rows that failed.
    pub dead_letter: Option<String>,
    /// The share of failed rows, from 0 to 1, above which the run fails.
    #[schemars(range(min = 0, max = 1))]
    pub max_fraction: Option<f64>,
}

/// How a row that fails is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RawRows {
    /// The run stops.
    #[default]
    Fail,
    /// The row stays, its result is null.
    Null,
    /// The row is left out.
    Skip,
}

/// Where rows go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSink {
    /// A folder, or one file when the path ends in the format's extension; relative to this file.
    pub path: String,
    /// The file format. Default: by the path's extension, else parquet.
    pub format: Option<FileFormat>,
    /// The compression. Parquet takes all, Arrow zstd, lz4 and none, CSV and JSONL gzip, zstd and
    /// none. Default: zstd for Parquet, none elsewhere.
    pub compression: Option<Compression>,
    /// Columns that become folders: `lang=en/`.
    pub partition_by: Option<Vec<String>>,
    /// Start a new file at about this size: bytes, or `256MB`, `1GiB`. Default: 256MB.
    pub target_file_size: Option<Size>,
}

/// Settings of a run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRun {
    /// Most tokens of one forward pass, padding counted. Default: 1024 on a CPU, so that a batch stays in
    /// its caches, and up to 4096 where text is generated; up to 32768 on a GPU, as its memory allows.
    pub max_batch_tokens: Option<NonZeroU64>,
    /// Most rows that are sorted by length together. Default: 65536. A dozen batches for each worker are enough.
    pub sort_window_rows: Option<NonZeroU64>,
    /// Model workers of the CPU, a number or `auto`. Default: `auto`, one a core.
    pub workers: Option<Workers>,
    /// Compute only what is new or has changed since the last run.
    pub incremental: Option<RawIncremental>,
}

/// The work that a run computes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawIncremental {
    /// Inputs that are new, or whose content, model or options changed.
    NewOrChanged,
}

/// When a pipeline is due: `hfauto-pipe schedule` and `hfauto-pipe run --due` run it then.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSchedule {
    /// A cron expression of five fields, minute, hour, day of the month, month, day of the week:
    /// `0 3 * * *`; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// The time zone of `cron`, such as `Europe/Berlin`. Default: UTC.
    pub timezone: Option<String>,
    /// Start up to this much later, so that pipelines of the same time do not start at once: `60s`,
    /// `5m`, `1h`, at most a day. How much is settled by the file's name and the due time, and so the
    /// same after a restart. Default: no delay.
    pub jitter: Option<String>,
    /// Whether a time that passed while nothing was there to run the pipeline is run late. However
    /// many passed, it runs once. With false, times that are more than an hour past are left out.
    /// Default: true.
    pub catch_up: Option<bool>,
}

/// A test of the pipeline: rows in, expectations of the rows that come out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTest {
    /// The test's name.
    pub name: String,
    /// The rows that are read instead of the source.
    pub rows: Vec<serde_json::Map<String, serde_json::Value>>,
    /// The expectations of the result.
    pub expect: Vec<RawExpectation>,
}

/// An expectation of a column.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawExpectation {
    /// The column; `sentiment.label` is a field of a struct, `entities.0.word` of a struct in a list.
    pub column: String,
    /// The row, from 0. Default: every row.
    pub row: Option<u64>,
    /// The value, as JSON: structs are mappings. Numbers may be `tolerance` away.
    pub equals: Option<serde_json::Value>,
    /// How far a number of `equals` may be away. Default: 0.0001.
    #[schemars(range(min = 0))]
    pub tolerance: Option<f64>,
    /// The length of a list, such as the dimensions of an embedding, or the characters of a text.
    pub length: Option<u64>,
    /// A part of a text, or an entry of a list.
    pub contains: Option<serde_json::Value>,
    /// Whether the value is null.
    pub is_null: Option<bool>,
}

/// A size: bytes, or a number with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A number with a unit, such as `256MB`; checked by `resolve`.
    Text(String),
}

/// A number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One a core.
    Auto,
    /// This many.
    Number(NonZeroU64),
}

written_in_several_ways! { RawRows "RawRows" "`fail`, `null` or `skip`" {
    fn visit_unit<E: de::Error>(self) -> Result<RawRows, E> {
        Ok(RawRows::Null)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<RawRows, E> {
        match text {
            "fail" => Ok(RawRows::Fail),
            "null" => Ok(RawRows::Null),
            "skip" => Ok(RawRows::Skip),
            _ => Err(E::unknown_variant(text, &["fail", "null", "skip"])),
        }
    }
} json_schema!({
    "description": "How a row that fails is handled.",
    "type": ["string", "null"],
    "enum": ["fail", "null", "skip", null],
}) }

written_in_several_ways! { Size "Size" "a number of bytes, or a size such as `256MB`" {
    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size::Bytes(bytes))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        Ok(Size::Text(text.to_owned()))
    }
} json_schema!({
    "description": "Bytes, or a number with a unit: kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, \
                    TiB (powers of 1024).",
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *([kKmMgGtT]i?)?[bB]?$"},
    ],
}) }

written_in_several_ways! { Workers "Workers" "a number or `auto`" {
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Workers, E> {
        NonZeroU64::new(number).map(Workers::Number).ok_or_else(|| E::custom("at least 1"))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
        if text == "auto" { Ok(Workers::Auto) } else { Err(E::unknown_variant(text, &["auto"])) }
    }
} json_schema!({
    "description": "A number of workers, or `auto`: one a core.",
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": ["auto"]}],
}) }
