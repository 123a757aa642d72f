//! The pipeline file as written, version 1: one type per mapping, every key typed. The doc comments are
//! the descriptions of the JSON Schema. Not here: defaults and meaning (`resolve`); tasks (`raw_tasks`).
//!
//! Neither `untagged` nor `flatten`: a value that may be written in two ways has a type of its own
//! whose schema tells the ways apart by YAML type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};

use super::format::{Compression, FileFormat};

pub use super::raw_tasks::*;

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
    pub dtype: Option<RawDtype>,
    /// Where to compute: `auto` (every GPU of this machine, each with a copy of the model, where the program has CUDA;
    /// else the CPU), `cpu`, `cuda` (the first GPU) or `cuda:N`. Default: `auto`.
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]+)?)$"))]
    pub device: Option<String>,
    /// Overrides of the model's `config.json`, as in `from_pretrained(..., config=...)`.
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The dtype that a model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawDtype {
    /// f32 on a CPU, bf16 on a GPU (f16 where the card lacks it).
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats, on a GPU.
    F16,
    /// 16-bit brain floats, on a GPU.
    Bf16,
    /// 8-bit integers in the linear layers of an encoder, rounded while it runs: faster, close to f32.
    Int8,
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
    pub types: Option<BTreeMap<String, RawColumnType>>,
    /// How files with different columns are combined: `union` matches columns by name, widens types and fills
    /// missing columns with null; `strict` refuses such files. Default: `union`.
    pub schema: Option<RawSchemaMode>,
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

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawColumnType {
    /// Text, as written.
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

/// How files with different columns are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawSchemaMode {
    /// Columns are matched by name, types widened; what a file lacks is null.
    Union,
    /// The files are refused.
    Strict,
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

/// A string, or a list of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringOrList {
    /// One string.
    One(String),
    /// A list.
    Many(Vec<String>),
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

/// How many results to keep: a number, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// Every result.
    All,
    /// The best so many.
    Number(NonZeroU64),
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawEarlyStopping {
    /// As soon as there are enough finished beams.
    True,
    /// When no better one is likely.
    False,
    /// When there can be no better one.
    Never,
}

/// One token id, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds(pub Vec<u32>);

/// The input of a task: one column, or a mapping that names several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnOr<T> {
    /// One column.
    Column(String),
    /// Several columns, by their part.
    Columns(T),
}

/// `Deserialize` for a value that may be written in several ways, by the visitor's methods, and
/// `JsonSchema` with those ways side by side.
macro_rules! written_in_several_ways {
    ($type:ident $name:literal $expecting:literal { $($visit:item)* } $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Ways;
                impl<'de> Visitor<'de> for Ways {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    $($visit)*
                }
                deserializer.deserialize_any(Ways)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

written_in_several_ways! { StringOrList "StringOrList" "a string or a list of strings" {
    fn visit_str<E: de::Error>(self, text: &str) -> Result<StringOrList, E> {
        Ok(StringOrList::One(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<StringOrList, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(StringOrList::Many(list))
    }
} json_schema!({
    "description": "A string, or a list of strings.",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ],
}) }

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

written_in_several_ways! { RawEarlyStopping "RawEarlyStopping" "`true`, `false` or `never`" {
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RawEarlyStopping, E> {
        Ok(if value { RawEarlyStopping::True } else { RawEarlyStopping::False })
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<RawEarlyStopping, E> {
        match text {
            "never" => Ok(RawEarlyStopping::Never),
            _ => Err(E::unknown_variant(text, &["true", "false", "never"])),
        }
    }
} json_schema!({
    "description": "When a beam search ends.",
    "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["never"]}],
}) }

written_in_several_ways! { TokenIds "TokenIds" "a token id or a list of token ids" {
    fn visit_u64<E: de::Error>(self, id: u64) -> Result<TokenIds, E> {
        let id = u32::try_from(id).map_err(|_| E::custom("a token id"))?;
        Ok(TokenIds(vec![id]))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TokenIds, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(TokenIds(list))
    }
} json_schema!({
    "description": "A token id, or a list of them.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32},
            "minItems": 1,
        },
    ],
}) }

written_in_several_ways! { TopK "TopK" "a number or `all`" {
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<TopK, E> {
        NonZeroU64::new(number).map(TopK::Number).ok_or_else(|| E::custom("at least 1"))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<TopK, E> {
        if text == "all" { Ok(TopK::All) } else { Err(E::unknown_variant(text, &["all"])) }
    }
} json_schema!({
    "description": "How many results to keep: a number, or `all`.",
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": ["all"]}],
}) }

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ColumnOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ways<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Ways<T> {
            type Value = ColumnOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column, or a mapping of columns")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ColumnOr<T>, E> {
                Ok(ColumnOr::Column(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(ColumnOr::Columns)
            }
        }
        deserializer.deserialize_any(Ways(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for ColumnOr<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("ColumnOr{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let columns = generator.subschema_for::<T>();
        json_schema!({"anyOf": [{"type": "string"}, columns]})
    }
}
