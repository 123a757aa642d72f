//! A run's report as JSON, text, an HTML page, and Prometheus metrics. The types are those of the report; every other
//! form is derived from them. Not here: computing the figures (`crate::job`), and writing reports (`crate::cli`).

mod html;
mod metrics;
mod page;
mod plot;
mod text;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::secret;

pub use metrics::{Kept, prometheus};
pub use page::{FirstRows, page, page_with_rows};
pub(crate) use text::{bytes, count, counted, duration, rate};

/// The version of the report format. New fields may be added, and existing ones keep their meaning. A change of meaning
/// is a new version.
pub const VERSION: u32 = 1;

/// Bounds of the histogram of token lengths, inclusive; an additional bucket counts longer rows.
pub const TOKEN_BOUNDS: [u64; 20] =
    [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384];

/// The status of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The run is in progress.
    Running,
    /// The run succeeded, possibly with nothing to do.
    #[default]
    Done,
    /// The run failed.
    Failed,
    /// A signal ended the run.
    Interrupted,
}

impl Status {
    /// The status as a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The report of one `hfauto-pipe run`, as `--report` writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The version of the format: [`VERSION`].
    pub version: u32,
    /// The status of the run.
    pub status: Status,
    /// The exit code; `None` while it is running.
    pub exit_code: Option<u8>,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The pipeline file.
    pub file: Option<PathBuf>,
    /// Where rows go: the folder or file of the sink.
    pub sink: Option<PathBuf>,
    /// The command line of the process.
    pub command: Option<String>,
    /// The machine of the process.
    pub machine: Option<String>,
    /// When the run started, RFC 3339, UTC.
    pub started_at: String,
    /// The process and its host while the run is in progress: `4711 on host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When the run ended; `None` while it is running.
    pub ended_at: Option<String>,
    /// Why it failed or was interrupted.
    pub error: Option<ErrorReport>,
    /// The work done; `None` when the run ended before the job was ready.
    pub run: Option<RunReport>,
    /// The id of the run in its events of OpenLineage; `None` if it tells other systems nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Events and webhooks that were not delivered, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undelivered: Vec<String>,
}

/// An error, as in reports and logs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorReport {
    /// Whose fault the error is.
    pub kind: String,
    /// The kind of the row's error, if a row ended the run.
    pub row_error: Option<String>,
    /// The message alone.
    pub message: String,
    /// The places, from the inside out.
    pub at: Vec<String>,
    /// The remedy.
    pub hint: Option<String>,
    /// The complete text, as the program prints it.
    pub text: String,
}

/// The work of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// Version of hfauto-pipe.
    pub version: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// When the run started, RFC 3339, UTC.
    pub started_at: String,
    /// The last stage: `loading`, `running`, `committing`.
    pub stage: String,
    /// Wall time, including loading models and committing files.
    pub wall_seconds: f64,
    /// Wall time until models were loaded.
    pub load_seconds: f64,
    /// Wall time of the stage `running`.
    pub run_seconds: f64,
    /// Wall time to close and publish files.
    pub commit_seconds: f64,
    /// Time that the sink took to encode and write rows, concurrently with the models.
    pub sink_seconds: f64,
    /// Input files.
    pub input_files: usize,
    /// Bytes of the input files.
    pub input_bytes: u64,
    /// Differences between the table and its files: columns that are widened, renamed, or null in some files.
    pub source_notes: Vec<String>,
    /// Rows written.
    pub rows_written: u64,
    /// Rows that the run will write, if files and plan determine the number.
    pub total_rows: Option<u64>,
    /// The units of the job; `None` for a job without units.
    pub units: Option<UnitCounts>,
    /// Failed rows, including those of units done earlier; `None` if the first one ends the run.
    pub row_errors: Option<RowErrorTotals>,
    /// Rows that failed before the first step, by kind: text that is not UTF-8.
    pub source_errors: Vec<RowErrorReport>,
    /// One entry per model step.
    pub steps: Vec<StepReport>,
    /// Rows and tokens over time: at most 200 samples, evenly spaced except for the last.
    pub throughput: Vec<Sample>,
    /// The written files.
    pub output: Vec<OutputFile>,
    /// The current resident size of the process, if the system reports it.
    pub memory_bytes: Option<u64>,
    /// The peak resident size so far.
    pub peak_memory_bytes: Option<u64>,
}

impl RunReport {
    /// Failed rows by place and kind. The place is the source, or a step's column.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&str, &RowErrorReport)> {
        let of_source = self.source_errors.iter().map(|error| ("source", error));
        let of_steps = self.steps.iter().flat_map(|step| {
            let place = step.output.as_str();
            step.errors.iter().map(move |error| (place, error))
        });
        of_source.chain(of_steps)
    }
}

/// A sample of a run's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Seconds since the run started.
    pub seconds: f64,
    /// Rows computed by all models, or written, so far.
    pub rows: u64,
    /// Tokens computed by all models so far.
    pub tokens: u64,
}

/// The counts of a job's units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitCounts {
    /// Units of the input, or of the shard.
    pub total: usize,
    /// The shard of `--shard`, `1/4`.
    #[serde(default)]
    pub shard: Option<String>,
    /// Units that other shards must compute before the output is published.
    #[serde(default)]
    pub left_to_shards: usize,
    /// Units computed by this run.
    pub computed: usize,
    /// Units done earlier, or by other processes.
    pub skipped: usize,
    /// Units among them that other joined processes computed during this run.
    #[serde(skip_serializing_if = "is_zero")]
    pub by_others: usize,
    /// Rows of the units done earlier.
    pub skipped_rows: u64,
    /// Inputs of the output that no longer exist.
    pub vanished: Vec<String>,
    /// Whether their rows were removed.
    pub pruned: bool,
    /// The slowest units, at most [`SLOWEST`], the slowest first.
    pub slowest: Vec<UnitTime>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The number of units that a report lists with their times.
pub const SLOWEST: usize = 10;

impl UnitCounts {
    /// Counts a unit that this run has computed.
    pub(crate) fn add(&mut self, unit: UnitTime) {
        self.computed += 1;
        let place = self.slowest.partition_point(|other| other.seconds >= unit.seconds);
        self.slowest.insert(place, unit);
        self.slowest.truncate(SLOWEST);
    }
}

/// A unit and its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitTime {
    /// Its input file, and its rows in that file.
    pub unit: String,
    /// Rows written.
    pub rows: u64,
    /// Wall time from its first row to its commit; two units are in progress at once.
    pub seconds: f64,
}

/// Rows that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowErrorTotals {
    /// Rows that reached the first model step.
    pub rows: u64,
    /// Rows among them that a step refused.
    pub failed: u64,
}

/// Rows of one kind of error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowErrorReport {
    /// The kind's name.
    pub kind: String,
    /// Rows of this run.
    pub rows: u64,
    /// A few distinct messages.
    pub examples: Vec<String>,
}

/// A report of one model step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepReport {
    /// The step's column.
    pub output: String,
    /// The model.
    pub model: ModelReport,
    /// Parameters of the model.
    pub parameters: usize,
    /// Counters.
    pub counts: StepCounts,
    /// Padding as a share of padded tokens, 0 to 1.
    pub padding_share: f64,
    /// Rows per second while the pipeline ran.
    pub rows_per_second: f64,
    /// Computed tokens per second while the pipeline ran.
    pub tokens_per_second: f64,
    /// Generated tokens per second while the pipeline ran.
    pub generated_tokens_per_second: f64,
    /// Computed images per second while the pipeline ran.
    pub images_per_second: f64,
    /// The stage that the step waited for longest: `input`, `tokenizer`, `model` or `output`.
    pub bottleneck: Option<String>,
    /// Rows by their number of tokens.
    pub token_lengths: Histogram,
    /// Rows that failed, by kind; empty where the first one ends the run.
    pub errors: Vec<RowErrorReport>,
}

/// The model of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelReport {
    /// The task's Hugging Face id.
    pub task: String,
    /// The model as the pipeline names it.
    pub name: String,
    /// Hub id or directory.
    pub repo: String,
    /// The commit that the revision was resolved to; `None` for a local directory.
    pub commit: Option<String>,
    /// `model_type` of its `config.json`.
    pub model_type: String,
    /// The dtype of the computation.
    pub dtype: String,
    /// The device of the computation.
    pub device: String,
    /// The blake3 hash of the tokenizer's files, or of the image processor's settings.
    pub tokenizer: String,
    /// The step's options.
    pub options: serde_json::Value,
}

/// A histogram: `counts[i]` is the number of values above `bounds[i - 1]` and up to `bounds[i]`; the last count is for
/// values above all bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: Vec<u64>,
    /// One more count than bounds.
    pub counts: Vec<u64>,
    /// The sum of the values.
    pub sum: u64,
    /// The largest value.
    pub max: u64,
}

/// A snapshot of a step's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepCounts {
    /// Emitted rows.
    pub rows: u64,
    /// Emitted rows that were null.
    pub null_rows: u64,
    /// Rows that went through the model: not null, and not a repetition of a row with a known result.
    pub computed_rows: u64,
    /// Computed rows that are images.
    pub images: u64,
    /// Rows that were truncated to the model's maximum length.
    pub truncated_rows: u64,
    /// Rows whose text was longer than the model reads and was split into parts.
    pub split_rows: u64,
    /// Tokenized rows; more than `rows` while some are in progress.
    pub tokenized_rows: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Tokens that went through the model.
    pub computed_tokens: u64,
    /// Computed tokens, with each batch padded to its longest row.
    pub padded_tokens: u64,
    /// Prompt tokens that were not computed, because the row shares them with the beginning of other rows' prompts.
    pub cached_tokens: u64,
    /// Tokens that were generated, those of the best sequence of each row.
    pub generated_tokens: u64,
    /// Forward passes.
    pub batches: u64,
    /// Failed rows, if their errors are kept.
    pub failed_rows: u64,
    /// Rows whose results an earlier run has kept (`run.reuse`).
    pub reused_rows: u64,
    /// Time that the step waited for rows from its input.
    pub input_seconds: f64,
    /// Wall time of tokenization.
    pub tokenize_seconds: f64,
    /// Time that tokenized windows waited for the model, one after another.
    pub results_seconds: f64,
    /// Time that batches waited for a worker, summed over batches.
    pub queue_seconds: f64,
    /// Time in the model, summed over workers; for images, their reading, decoding and scaling included.
    pub model_seconds: f64,
    /// The part of it in which images were read, decoded and scaled.
    pub image_seconds: f64,
    /// Time that the step waited for its consumer.
    pub output_seconds: f64,
}

impl StepCounts {
    /// The bottleneck, whose speed-up would make the run faster: `input`, `tokenizer`, `model` or `output`; `None`
    /// before the step has waited. The stages run concurrently, so the slowest one waits least, and the others wait for
    /// it.
    pub fn bottleneck(&self) -> Option<&'static str> {
        [
            ("input", self.input_seconds),
            ("tokenizer", self.tokenize_seconds),
            ("model", self.results_seconds),
            ("output", self.output_seconds),
        ]
        .into_iter()
        .filter(|(_, seconds)| *seconds > 0.0)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(name, _)| name)
    }

    /// The share of padded tokens that are padding, 0 to 1.
    pub fn padding_share(&self) -> f64 {
        if self.padded_tokens == 0 {
            return 0.0;
        }
        1.0 - self.computed_tokens as f64 / self.padded_tokens as f64
    }
}

/// A written file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputFile {
    /// Its path.
    pub path: PathBuf,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().name().to_owned(),
            row_error: error.row_kind().map(|kind| kind.name().to_owned()),
            message: error.message().to_owned(),
            at: error.places().to_vec(),
            hint: error.remedy().map(str::to_owned),
            text: error.to_string(),
        }
    }
}

impl ErrorReport {
    /// The error that was reported, with its causes as text.
    pub(crate) fn into_error(self) -> Error {
        let kind = ErrorKind::of_name(&self.kind).unwrap_or(ErrorKind::Internal);
        // The first line is the message with its causes.
        let message = self.text.lines().next().map_or(self.message, str::to_owned);
        let error = self.at.iter().fold(Error::new(kind, message), Error::at);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// This process, as named in reports.
fn this_process() -> String {
    format!("{} on {}", std::process::id(), machine())
}

/// The host name.
fn machine() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { "this machine".to_owned() } else { host.trim().to_owned() }
}

/// The command line, with quotes where a shell needs them.
fn command() -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    let words = std::env::args().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The host, its processor and its memory, as far as the system tells.
fn described_machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts = vec![machine(), counted(cores as u64, "core")];
    let value = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    parts.extend(value("/proc/cpuinfo", "model name"));
    let memory = value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
    parts.extend(memory.map(|kib| format!("{} of memory", bytes(kib * 1024))));
    parts.join(", ")
}

/// Whether a process of this host has ended. Processes of other hosts, and of systems without this information, count
/// as alive.
fn has_gone(process: &str) -> bool {
    let Some((pid, host)) = process.split_once(" on ") else { return false };
    let processes = std::path::Path::new("/proc");
    host == machine()
        && pid.parse::<u32>().is_ok()
        && processes.join("self").exists()
        && !processes.join(pid).exists()
}

impl Report {
    /// The report of a run of `pipeline` in progress.
    pub fn running(pipeline: impl Into<String>, started_at: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            status: Status::Running,
            pipeline: pipeline.into(),
            command: Some(command()),
            machine: Some(described_machine()),
            started_at: started_at.into(),
            process: Some(this_process()),
            ..Self::default()
        }
    }

    /// The report, turned into a failure if it says "running" but its process has been killed or has crashed.
    #[must_use]
    pub fn if_alive(self) -> Self {
        let is_gone =
            self.status == Status::Running && self.process.as_deref().is_some_and(has_gone);
        if !is_gone {
            return self;
        }
        let process = self.process.clone().unwrap_or_default();
        let error = Error::new(
            ErrorKind::Internal,
            format!("the run died without a report: process {process} no longer exists"),
        )
        .hint("it crashed or was killed, for example for lack of memory: see the system log");
        let error = ErrorReport::from(&error);
        Self { status: Status::Failed, error: Some(error), ..self }
    }

    /// The report after the end of the run.
    #[must_use]
    pub fn ended(mut self, ended_at: impl Into<String>, error: Option<&Error>) -> Self {
        self.ended_at = Some(ended_at.into());
        self.process = None;
        self.error = error.map(ErrorReport::from);
        self.exit_code = Some(error.map_or(0, |error| error.kind().exit_code()));
        self.status = match error.map(Error::kind) {
            None => Status::Done,
            Some(ErrorKind::Interrupted | ErrorKind::Terminated) => Status::Interrupted,
            Some(_) => Status::Failed,
        };
        self
    }

    /// The report as JSON.
    ///
    /// # Errors
    /// `Internal` when the report cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let no_form =
            |e| Error::new(ErrorKind::Internal, "the report cannot be written as JSON").source(e);
        let mut json = serde_json::to_value(self).map_err(no_form)?;
        secret::hide_json(&mut json);
        Ok(serde_json::to_string_pretty(&json).map_err(no_form)? + "\n")
    }

    /// Reads a report.
    ///
    /// # Errors
    /// `Data` when the text is not a report, or has a newer version.
    pub fn from_json(text: &str) -> Result<Self> {
        let no_report = |e: serde_json::Error| {
            Error::new(ErrorKind::Data, "not a report of hfauto-pipe")
                .source(e)
                .hint("reports are written by `hfauto-pipe run --report FILE`")
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(no_report)?;
        let version = match value["version"].as_u64() {
            Some(version) if value["status"].is_string() => version,
            _ => return Err(no_report(serde::de::Error::missing_field("version"))),
        };
        if version > u64::from(VERSION) {
            let message = format!("a report of version {version}, this program knows {VERSION}");
            return Err(Error::new(ErrorKind::Data, message)
                .hint("use the newer hfauto-pipe that wrote it"));
        }
        serde_json::from_value(value).map_err(no_report)
    }
}

#[cfg(test)]
pub(crate) mod tests;
