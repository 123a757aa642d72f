//! What a run says of itself: the report as JSON, as text, as an HTML page, and as Prometheus metrics. The types
//! are the report's; all else is made from them. Not here: how the figures come about (`crate::job`), and
//! where reports are written (`crate::cli`).

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
pub use page::page;
pub(crate) use text::{bytes, count, files};

/// The version of the report's form that this program writes: fields may come, the ones that are there keep
/// their meaning. A change of meaning is a new version.
pub const VERSION: u32 = 1;

/// Bounds of the histogram of token lengths, inclusive; what is longer than the last is counted beyond it.
pub const TOKEN_BOUNDS: [u64; 20] =
    [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384];

/// How a run stands, or ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is on its way.
    Running,
    /// It came to its end, also when there was nothing to do.
    #[default]
    Done,
    /// It ended in an error.
    Failed,
    /// A signal ended it.
    Interrupted,
}

impl Status {
    /// The word.
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
    /// The version of this form: [`VERSION`].
    pub version: u32,
    /// How it ended.
    pub status: Status,
    /// The exit code; `None` while it is running.
    pub exit_code: Option<u8>,
    /// Name of the pipeline.
    pub pipeline: String,
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// The process and its host, while it runs: `4711 on host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When it ended; `None` while it is running.
    pub ended_at: Option<String>,
    /// Why it failed or was interrupted.
    pub error: Option<ErrorReport>,
    /// What was done until then; `None` when it ended before the job was ready to run.
    pub run: Option<RunReport>,
}

/// An error as reports and logs have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorReport {
    /// Whose fault it is.
    pub kind: String,
    /// What is wrong with the row, where a row ended the run.
    pub row_error: Option<String>,
    /// The message alone.
    pub message: String,
    /// Where, from the inside out.
    pub at: Vec<String>,
    /// What can be done about it.
    pub hint: Option<String>,
    /// All of it, as the program shows it.
    pub text: String,
}

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// Version of hfauto-pipe.
    pub version: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// When the run began, RFC 3339, UTC.
    pub started_at: String,
    /// What it was doing at last: `loading`, `running`, `committing`.
    pub stage: String,
    /// Wall time, loading of models and commit of files included.
    pub wall_seconds: f64,
    /// Wall time until models were loaded.
    pub load_seconds: f64,
    /// Wall time while rows were on their way.
    pub run_seconds: f64,
    /// Wall time to close and publish files.
    pub commit_seconds: f64,
    /// Time that the sink took to encode and write rows, beside the models.
    pub sink_seconds: f64,
    /// Input files.
    pub input_files: usize,
    /// Bytes of the input files.
    pub input_bytes: u64,
    /// Differences between the table and its files: columns that are widened, renamed, or null in some files.
    pub source_notes: Vec<String>,
    /// Rows written.
    pub rows_written: u64,
    /// Rows that the run was to write, where files and plan tell.
    pub total_rows: Option<u64>,
    /// The units of the job; `None` for a job that is not cut into units.
    pub units: Option<UnitCounts>,
    /// Rows that failed, those of units that were done before included; `None` where the first one ends the run.
    pub row_errors: Option<RowErrorTotals>,
    /// Rows that failed before the first step, by kind: with text that is not UTF-8.
    pub source_errors: Vec<RowErrorReport>,
    /// One entry a model step.
    pub steps: Vec<StepReport>,
    /// Rows and tokens over time, at most 200 moments, evenly apart but for the last.
    pub throughput: Vec<Sample>,
    /// Where the rows are.
    pub output: Vec<OutputFile>,
    /// Resident size of the process now, where the system tells.
    pub memory_bytes: Option<u64>,
    /// Its largest resident size so far.
    pub peak_memory_bytes: Option<u64>,
}

impl RunReport {
    /// Rows that failed, by where and kind: in the source, in a step, which its column names.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&str, &RowErrorReport)> {
        let of_source = self.source_errors.iter().map(|error| ("source", error));
        let of_steps = self.steps.iter().flat_map(|step| {
            let place = step.output.as_str();
            step.errors.iter().map(move |error| (place, error))
        });
        of_source.chain(of_steps)
    }
}

/// The counters of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Rows until then: those that all models have computed, or that are written.
    pub rows: u64,
    /// Tokens that all models have computed until then.
    pub tokens: u64,
}

/// What became of the units of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitCounts {
    /// Units of the input; of a shard its own.
    pub total: usize,
    /// The shard of `--shard`, `1/4`.
    #[serde(default)]
    pub shard: Option<String>,
    /// Units that other shards have to do before the output is published.
    #[serde(default)]
    pub left_to_shards: usize,
    /// Units that this run computed.
    pub computed: usize,
    /// Units that were done before.
    pub skipped: usize,
    /// Rows of these.
    pub skipped_rows: u64,
    /// Inputs of the output that are no longer there.
    pub vanished: Vec<String>,
    /// Whether their rows were removed.
    pub pruned: bool,
    /// The units that took longest, at most [`SLOWEST`], the slowest first.
    pub slowest: Vec<UnitTime>,
}

/// Units that a report names with their times.
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
    /// Its input file, and which rows of it.
    pub unit: String,
    /// Rows written.
    pub rows: u64,
    /// Wall time from its first row to its commit; two units are on their way at once.
    pub seconds: f64,
}

/// Rows that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowErrorTotals {
    /// Rows that came to the first model step.
    pub rows: u64,
    /// Rows among them that a step refused.
    pub failed: u64,
}

/// Rows of one kind of error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowErrorReport {
    /// The kind's word.
    pub kind: String,
    /// Rows of this run.
    pub rows: u64,
    /// A few different messages.
    pub examples: Vec<String>,
}

/// One model step of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepReport {
    /// The column it made.
    pub output: String,
    /// The model.
    pub model: ModelReport,
    /// Parameters of the model.
    pub parameters: usize,
    /// Counters.
    pub counts: StepCounts,
    /// Padding as a share of padded tokens, 0 to 1.
    pub padding_share: f64,
    /// Rows a second while the pipeline ran.
    pub rows_per_second: f64,
    /// Computed tokens a second while the pipeline ran.
    pub tokens_per_second: f64,
    /// What the step waited for longest: `input`, `tokenizer`, `model` or `output`.
    pub bottleneck: Option<String>,
    /// Rows by their number of tokens.
    pub token_lengths: Histogram,
    /// Rows that failed, by kind; empty where the first one ends the run.
    pub errors: Vec<RowErrorReport>,
}

/// The model of a step: what was computed with what.
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
    /// The dtype computed in.
    pub dtype: String,
    /// The device computed on.
    pub device: String,
    /// blake3 of the tokenizer's files, or of the image processor's settings.
    pub tokenizer: String,
    /// The step's options.
    pub options: serde_json::Value,
}

/// Rows by a number: `counts[i]` are those above `bounds[i - 1]` and up to `bounds[i]`, the last count those above
/// all bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: Vec<u64>,
    /// One more than bounds.
    pub counts: Vec<u64>,
    /// The sum of the numbers.
    pub sum: u64,
}

/// The counters of a step at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepCounts {
    /// Rows whose result has been handed on.
    pub rows: u64,
    /// Rows among them that were null.
    pub null_rows: u64,
    /// Rows that went through the model: neither null, nor the repetition of one whose result is at hand.
    pub computed_rows: u64,
    /// Rows that were cut to the model's maximum.
    pub truncated_rows: u64,
    /// Rows that have been tokenised; more than `rows` while they are on their way.
    pub tokenized_rows: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Tokens that went through the model.
    pub computed_tokens: u64,
    /// The same when each batch is padded to its longest row.
    pub padded_tokens: u64,
    /// Forward passes.
    pub batches: u64,
    /// Rows that failed, where their errors are kept.
    pub failed_rows: u64,
    /// Time that the step waited for rows of what is before it.
    pub input_seconds: f64,
    /// Time in tokenisation, wall time of its batches.
    pub tokenize_seconds: f64,
    /// Time that windows waited, one after another, for the model once they were tokenised.
    pub results_seconds: f64,
    /// Time that batches waited for a worker, summed over batches.
    pub queue_seconds: f64,
    /// Time in the model, summed over workers.
    pub model_seconds: f64,
    /// Time that the step waited for what is behind it to take its rows.
    pub output_seconds: f64,
}

impl StepCounts {
    /// What the step waited for longest, so that a faster one of it makes the run faster: `input`, `tokenizer`,
    /// `model` or `output`; `None` before it has waited for anything. They wait at the same time, so the one that
    /// holds up the others waits least, and is waited for most.
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

/// One file written.
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

/// This process, as named in reports.
fn this_process() -> String {
    format!("{} on {}", std::process::id(), machine())
}

/// The host name.
fn machine() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { "this machine".to_owned() } else { host.trim().to_owned() }
}

/// Whether a process of this host has died. Other hosts, and systems without the information, count as alive.
fn has_gone(process: &str) -> bool {
    let Some((pid, host)) = process.split_once(" on ") else { return false };
    let processes = std::path::Path::new("/proc");
    host == machine()
        && pid.parse::<u32>().is_ok()
        && processes.join("self").exists()
        && !processes.join(pid).exists()
}

impl Report {
    /// A report of a run of `pipeline` that is on its way.
    pub fn running(pipeline: impl Into<String>, started_at: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            status: Status::Running,
            pipeline: pipeline.into(),
            started_at: started_at.into(),
            process: Some(this_process()),
            ..Self::default()
        }
    }

    /// The same report, turned into a failure if it says "running" but its process has been killed or has crashed.
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
            format!("the run died without a word: process {process} is gone"),
        )
        .hint("it was killed, as for want of memory, or it crashed: the system's log may say why");
        let error = ErrorReport::from(&error);
        Self { status: Status::Failed, error: Some(error), ..self }
    }

    /// The same report of a run that has ended so.
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

    /// The report as JSON, for people and programs.
    ///
    /// # Errors
    /// `Internal` when a figure has no form in JSON.
    pub fn to_json(&self) -> Result<String> {
        let no_form =
            |e| Error::new(ErrorKind::Internal, "the report has no form in JSON").source(e);
        let mut json = serde_json::to_value(self).map_err(no_form)?;
        secret::hide_json(&mut json);
        Ok(serde_json::to_string_pretty(&json).map_err(no_form)? + "\n")
    }

    /// Reads a report.
    ///
    /// # Errors
    /// `Data` when the text is no report, or one of a newer version.
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
