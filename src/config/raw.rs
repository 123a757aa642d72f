//! The pipeline file as written, version 1: one type per mapping, every key typed. The doc comments are
//! the descriptions of the JSON Schema. Not here: defaults and meaning (`resolve`); the keys of tasks (`crate::tasks`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::format::{Compression, TableFormat, TableMode};

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
    /// Limits on the images that steps read.
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
    /// A hub id (`org/name`), or a local directory, relative to this file. A GGUF file: its path, `org/name/file.gguf` on the
    /// hub, or `org/name:Q4_K_M`.
    pub repo: String,
    /// A branch, tag or commit. The lineage records the commit that it resolves to. Default: `main`.
    pub revision: Option<String>,
    /// A LoRA adapter of PEFT, merged into the weights when they are loaded: a hub id, or a local directory, relative to
    /// this file. Default: none.
    pub adapter: Option<String>,
    /// The dtype to compute in. Default: `auto`, which is f32 on a CPU.
    pub dtype: Option<Dtype>,
    /// The device: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`. `auto` uses every GPU of the machine, each with a
    /// copy of the model; without a GPU, or in a build without CUDA, it uses the CPU. Default: `auto`.
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]+)?)$"))]
    pub device: Option<String>,
    /// Overrides of the model's `config.json`, as in `from_pretrained(..., config=...)`.
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Where rows come from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSource {
    /// A file, folder (with hive partitions) or glob, or a list of them; relative to this file.
    pub path: StringOrList,
    /// The file format, or `delta` for a table of Delta Lake. Default: by the extension, also of compressed files such as
    /// `.csv.gz` and `.jsonl.zst`; a folder with `_delta_log` is a Delta table.
    pub format: Option<TableFormat>,
    /// The version of a Delta table to read. Default: the last one.
    pub version: Option<u64>,
    /// The CSV dialect.
    pub csv: Option<RawCsv>,
    /// Types of CSV and JSONL columns, instead of the inferred ones: `{sku: string}`.
    pub types: Option<BTreeMap<String, ColumnType>>,
    /// How files with different columns are combined: `union` matches columns by name, widens types and fills
    /// missing columns with null; `strict` refuses such files. Default: `union`.
    pub schema: Option<SchemaMode>,
    /// The longest row of a CSV or JSONL file: bytes, or `64MB`, `1GiB`. Default: 64MB.
    pub max_line_size: Option<Size>,
    /// The most columns of CSV and JSONL files, including nested fields. Default: 4096.
    pub max_columns: Option<NonZeroU64>,
    /// The columns to read, in this order. Default: every column.
    pub select: Option<Vec<String>>,
    /// A SQL predicate on the columns, such as `lang = 'en'`; pushed into the scan.
    #[serde(rename = "where")]
    pub predicate: Option<String>,
    /// Read at most this many rows.
    pub limit: Option<u64>,
}

/// The CSV dialect.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCsv {
    /// The delimiter between fields, one byte: `","`, `";"`, `"\t"`. Default: a comma.
    pub delimiter: Option<String>,
    /// Whether the first line names the columns. Default: true.
    pub has_header: Option<bool>,
    /// The quote character around fields that contain delimiters or line breaks, one byte; `""` disables quoting. Default:
    /// `"\""`.
    pub quote: Option<String>,
    /// The escape character in quoted fields, one byte, such as `"\\"`: the character after it is literal. A doubled
    /// quote is always one quote. Default: none.
    pub escape: Option<String>,
    /// The byte that starts a comment line, such as `"#"`. Comment lines are skipped. Default: none.
    pub comment: Option<String>,
    /// Values that are read as null, in addition to the empty field: `["NA", "-"]`.
    pub null_values: Option<Vec<String>>,
    /// The encoding: `utf-8`, `latin1`, `windows-1252`, `utf-16` or another one of the WHATWG Encoding Standard. Default:
    /// `utf-8`. A UTF-16 byte order mark overrides it.
    pub encoding: Option<String>,
}

/// Limits on the images that steps read. A row whose image exceeds them fails.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawImages {
    /// The folder, relative to this file, that image paths must lie in after links are resolved. Image paths stay relative
    /// to this file. Default: any path.
    pub root: Option<String>,
    /// The most pixels of an image, before it is resized. Default: 178956970, as in Pillow.
    pub max_pixels: Option<NonZeroU64>,
    /// The largest image file: bytes, or `64MB`, `1GiB`. Default: 256MiB.
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
        for task in tasks::TASKS {
            let description = format!("As `{}`.", task.id);
            let aliases = task.aliases.iter();
            steps.extend(aliases.map(|alias| step(alias, &description, task.schema(generator))));
        }
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
    /// `fail` ends the run, `null` keeps the row with a null result, `skip` leaves it out. Default: `fail`.
    // Not an `Option`: an unquoted `null` is this policy, not an absent key.
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
    /// The run ends.
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
    /// The file format, or `delta` for a table of Delta Lake. Default: by the path's extension, else parquet.
    pub format: Option<TableFormat>,
    /// What is done with a Delta table that exists: `error` refuses it, `append` keeps its rows, `overwrite` replaces
    /// them. Default: `error`.
    pub mode: Option<TableMode>,
    /// The compression. Parquet supports all; Arrow: zstd, lz4, none; CSV and JSONL: gzip, zstd, none. Default: zstd for
    /// Parquet, otherwise none.
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
    /// The most tokens of one forward pass, padding included. Default: 1024 on a CPU, which keeps a batch in the cache; up
    /// to 4096 for generation; up to 32768 on a GPU, as its memory allows.
    pub max_batch_tokens: Option<NonZeroU64>,
    /// The most rows that are sorted by length together. A window also ends at about a dozen batches per worker. Default:
    /// 65536.
    pub sort_window_rows: Option<NonZeroU64>,
    /// Threads that run forward passes on the CPU, a number or `auto`. Default: `auto`, one per core.
    pub workers: Option<Workers>,
    /// The rows of a unit: what a run that dies computes again. Default: about a minute of work, by the size of the model and
    /// the lengths of texts, at most 16384. Fewer rows lose less work; more rows have less overhead.
    pub unit_rows: Option<NonZeroU64>,
    /// Compute only units that are new or have changed since the last run.
    pub incremental: Option<RawIncremental>,
    /// An output that an earlier run with `reuse` wrote, for example that of `sink.path`: rows whose inputs, model and options
    /// are the same are not computed again, although their file has changed. The results of this run are kept beside its
    /// output, which takes their space a second time.
    pub reuse: Option<String>,
    /// The collector of OpenLineage events: one when a run begins, and one when it ends.
    pub openlineage: Option<RawOpenLineage>,
    /// Where the report of a run that failed or was stopped is posted, as JSON: a URL, or `{url, headers}`.
    pub on_failure: Option<RawWebhook>,
    /// Where the report of a run that succeeded is posted, as JSON: a URL, or `{url, headers}`.
    pub on_success: Option<RawWebhook>,
}

/// A collector of OpenLineage events.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOpenLineage {
    /// The collector's address, `http://` or `https://`. Without a path, events are posted to `/api/v1/lineage`.
    pub url: String,
    /// The namespace of the job. Default: `default`.
    pub namespace: Option<String>,
    /// The token that authorizes the events, such as `${LINEAGE_KEY}`. Default: the variable `OPENLINEAGE_API_KEY`, if it is
    /// set.
    pub api_key: Option<String>,
}

/// Where a report is posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawWebhook {
    /// An address.
    Url(String),
    /// An address, and headers of the request.
    Request(RawRequest),
}

/// An address, and headers of the request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRequest {
    /// The address, `http://` or `https://`.
    pub url: String,
    /// Headers of the request, such as `Authorization`.
    pub headers: Option<BTreeMap<String, String>>,
}

/// Which units an incremental run computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawIncremental {
    /// Units that are new, or whose file, model, options or SQL changed.
    NewOrChanged,
}

/// When a pipeline is due: `hfauto-pipe schedule` and `hfauto-pipe run --due` run it then.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSchedule {
    /// A cron expression of five fields (minute, hour, day of the month, month, day of the week), such as `0 3 * * *`; or
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// The time zone of `cron`, such as `Europe/Berlin`. Default: UTC.
    pub timezone: Option<String>,
    /// Delays the start by up to this much, to spread pipelines that are due at the same time: `60s`, `5m`, `1h`, at most a
    /// day. File name and due time determine the delay, so a restart keeps it. Default: no delay.
    pub jitter: Option<String>,
    /// Whether a due time that passed while no scheduler ran is run late; several missed times are one run. With `false`,
    /// times more than an hour past are skipped. Default: true.
    pub catch_up: Option<bool>,
}

/// A test of the pipeline: input rows, and expectations of the output rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTest {
    /// The test's name.
    pub name: String,
    /// The rows that replace those of the source.
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
    /// The expected value, as JSON: structs are mappings. Numbers may differ by `tolerance`.
    pub equals: Option<serde_json::Value>,
    /// The most that a number may differ from `equals`. Default: 0.0001.
    #[schemars(range(min = 0))]
    pub tolerance: Option<f64>,
    /// The length of a list, such as the dimensions of an embedding, or of a text in characters.
    pub length: Option<u64>,
    /// A substring of a text, or an item of a list.
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
    /// One per core.
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

written_in_several_ways! { RawWebhook "RawWebhook" "a URL, or a mapping with `url` and `headers`" {
    fn visit_str<E: de::Error>(self, url: &str) -> Result<RawWebhook, E> {
        Ok(RawWebhook::Url(url.to_owned()))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawWebhook, A::Error> {
        RawRequest::deserialize(MapAccessDeserializer::new(map)).map(RawWebhook::Request)
    }
} json_schema!({
    "description": "Where a report is posted: a URL, or a URL and headers of the request.",
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "url": {
                    "description": "The address, `http://` or `https://`.",
                    "type": "string",
                },
                "headers": {
                    "description": "Headers of the request, such as `Authorization`.",
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                },
            },
            "additionalProperties": false,
            "required": ["url"],
        },
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
    "description": "A number of workers, or `auto`: one per core.",
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": ["auto"]}],
}) }
