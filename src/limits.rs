//! All limits on untrusted input: pipelines, queries, files of rows. Each comment says what the limit bounds, the reason
//! for its value, and the key that changes it, if any. SECURITY.md lists them for users, with those of the library
//! (models, texts, images, answers of a hub).
//!
//! Every limit exceeds what occurs in practice: it stops only damaged or hostile input.

use std::time::Duration;

/// The longest SQL query, in bytes: ample for an `IN` list of a hundred thousand values.
pub(crate) const SQL_BYTES: usize = 32 << 20;

/// The deepest nesting of SQL operators, as in `a OR b OR c`: each adds a level to the tree that the planner and the
/// operators recurse into. DuckDB stops at 1000.
pub(crate) const SQL_DEPTH: usize = 2000;

/// The stack size of the thread that plans and runs, in bytes: enough for expressions of depth [`SQL_DEPTH`]. Only
/// touched pages take memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// The stack size of a run's other threads, in bytes: they evaluate expressions but plan nothing.
pub(crate) const THREAD_STACK_BYTES: usize = 16 << 20;

/// The longest description of a job or unit, in bytes once it is decompressed: it contains a pipeline file, the columns
/// of its source, and the invalid texts of one unit.
pub(crate) const JOB_SPEC_BYTES: u64 = 64 << 20;

/// The longest pipeline file, in bytes.
pub(crate) const PIPELINE_BYTES: u64 = 16 << 20;

/// Values in a pipeline file; every use of an alias (`*name`) counts the values that it expands to.
pub(crate) const PIPELINE_VALUES: usize = 100_000;

/// The largest message between the processes of a cluster, in bytes: the description of some tens of thousands of units.
#[cfg(feature = "cluster")]
pub(crate) const CLUSTER_MESSAGE_BYTES: usize = 64 << 20;

/// The largest token or certificate file, in bytes: chains of certificates take a few kilobytes.
#[cfg(feature = "cluster")]
pub(crate) const CLUSTER_SECRET_BYTES: u64 = 64 << 10;

/// Problems of a pipeline file that are reported in full; the rest are only counted.
pub(crate) const PIPELINE_PROBLEMS: usize = 100;

/// The longest misspelled word to search suggestions for, in characters.
pub(crate) const SPELLING_CHARS: usize = 64;

/// Grace period for a run to shut down after a signal, before the process exits anyway. Kubernetes and systemd wait
/// longer before they kill.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(20);

/// The time for a collector of lineage or a webhook to answer. The run does not wait for the first messages.
pub(crate) const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that a process waits for the delivery of its last messages, once its run has ended: with [`STOP_GRACE`], as long
/// as Kubernetes waits before it kills.
pub(crate) const NOTICE_GRACE: Duration = Duration::from_secs(10);

/// The longest row of a CSV or JSONL file, in bytes: memory holds several copies of a row. Documents of real corpora
/// stay below a few megabytes. Key: `source.max_line_size`.
pub(crate) const MAX_LINE_SIZE_BYTES: u64 = 64_000_000;

/// Columns of a CSV or JSONL table, including nested fields. Every column costs memory in each batch, and DataFusion's
/// planning time for a `sql` step grows with the square of their number: some seconds at this limit.
/// Key: `source.max_columns`.
pub(crate) const MAX_TEXT_COLUMNS: usize = 4_096;

/// Nesting depth of arrays and objects in a JSONL row, including the row itself. The Arrow type is as deep, and Arrow's
/// readers refuse schemas of more than 64 levels: a deeper one could be written but not read back.
pub(crate) const MAX_JSON_DEPTH: usize = 56;

/// Nesting depth of groups in a Parquet schema; a list takes two. Readers recurse into them. Schemas rarely exceed five
/// levels.
pub(crate) const PARQUET_NESTING: usize = 128;

/// The largest decompression ratio of a page or buffer: zstd reaches 32,768, the other codecs stay below. Decoders
/// allocate the size that a header claims before they look at the content.
pub(crate) const DECOMPRESSION_RATIO: u64 = 32_768;

/// The decompressed size allowed beyond [`DECOMPRESSION_RATIO`]: a typical page is one MiB, and brotli can exceed
/// zstd's ratio.
pub(crate) const DECOMPRESSION_SLACK: u64 = 64 << 20;

/// The largest Parquet file whose page headers are all checked before the run: reading such a file whole is cheap.
pub(crate) const PARQUET_CHECKED_WHOLE: u64 = 1 << 20;

/// Rows of a Parquet file of any size. A page of nulls may truthfully hold 2^31 rows in twenty bytes: reading it takes
/// no memory, but unbounded time.
pub(crate) const PARQUET_ROWS: u64 = 1 << 28;

/// Rows of a Parquet file per byte, beyond [`PARQUET_ROWS`]. Pages of a single value hold some thousand rows per byte.
pub(crate) const PARQUET_FILE_ROWS_PER_BYTE: u64 = 1 << 16;

/// Rows per byte of a column above which a Parquet row group is suspicious, and its pages are counted before the run.
/// Columns of a single value exceed it and pass the count.
pub(crate) const PARQUET_ROWS_PER_BYTE: u64 = 256;

/// Rows of an Arrow IPC record batch whose columns have no buffers, such as those of type null.
pub(crate) const ARROW_ROWS_WITHOUT_BYTES: u64 = 1 << 24;

/// Units of a Parquet file. Where [`crate::source`] would cut a file into more, units become larger, which keeps the
/// list of units small whatever a footer claims.
pub(crate) const PARQUET_UNITS: u64 = 1 << 17;

/// The deepest folder that a source descends into: deeper than any path can name.
pub(crate) const FOLDER_DEPTH: usize = 256;
/// The longest folder name of `sink.partition_by`, in bytes: the limit of file systems. A longer value is free text,
/// not a partition key.
pub(crate) const FOLDER_NAME_BYTES: usize = 255;

/// Bytes of an image file; photos and scans have a tenth of that. Key: `images.max_file_size`.
pub(crate) const IMAGE_FILE_BYTES: u64 = 256 << 20;

/// The largest card of a dataset that an output is added to, in bytes. The hub renders less.
pub(crate) const CARD_BYTES: u64 = 4 << 20;

/// The largest manifest of an earlier output in a dataset, in bytes: some hundred thousand files.
pub(crate) const PUSHED_MANIFEST_BYTES: u64 = 64 << 20;

/// The largest file in the log of a Delta table, in bytes: a checkpoint of some million files.
pub(crate) const DELTA_LOG_FILE_BYTES: u64 = 512 << 20;

/// How often a run tries to add a version to a Delta table while others do the same.
pub(crate) const DELTA_ATTEMPTS: usize = 64;
