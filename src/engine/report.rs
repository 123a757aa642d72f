//! What a run says when it is over: numbers for people and for JSON.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::metrics::StepCounts;
use crate::sink::RowErrorCounts;
use crate::tasks::ModelSummary;

/// The report of one run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Version of hfauto-pipe.
    pub version: &'static str,
    /// Name of the pipeline.
    pub pipeline: String,
    /// When the run began, RFC 3339, UTC.
    pub started_at: String,
    /// Wall time, loading of models and commit of files included.
    pub wall_seconds: f64,
    /// Wall time until models were loaded.
    pub load_seconds: f64,
    /// Input files.
    pub input_files: usize,
    /// Bytes of the input files.
    pub input_bytes: u64,
    /// Rows written.
    pub rows_written: u64,
    /// The units of the job; `None` for a job that is not cut into units.
    pub units: Option<UnitCounts>,
    /// Rows that failed; `None` where the first one ends the run.
    pub row_errors: Option<RowErrorCounts>,
    /// One entry a model step.
    pub steps: Vec<StepReport>,
    /// Where the rows are; empty for a dry run.
    pub output: Vec<OutputFile>,
    /// Largest resident size of this process so far, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// What became of the units of a job.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UnitCounts {
    /// Units of the input; of a shard its own.
    pub total: usize,
    /// The shard of `--shard`, `1/4`.
    pub shard: Option<String>,
    /// Units that other shards have to do before the output is published.
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
}

/// One model step of a report.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The column it made.
    pub output: String,
    /// The model.
    pub model: ModelSummary,
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
}

/// One file written.
#[derive(Clone, Debug, Serialize)]
pub struct OutputFile {
    /// Its path.
    pub path: PathBuf,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl StepReport {
    pub(super) fn new(
        output: String,
        model: ModelSummary,
        parameters: usize,
        counts: StepCounts,
        running: Duration,
    ) -> Self {
        let seconds = running.as_secs_f64().max(f64::EPSILON);
        Self {
            output,
            model,
            parameters,
            counts,
            padding_share: counts.padding_share(),
            rows_per_second: counts.rows as f64 / seconds,
            tokens_per_second: counts.computed_tokens as f64 / seconds,
        }
    }
}

impl RunReport {
    /// What a shard leaves to others.
    fn left_to_shards(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(units) = &self.units else { return Ok(()) };
        match (&units.shard, units.left_to_shards) {
            (Some(shard), 0) => {
                writeln!(f, "  shard    {shard}, the last one: the output is published")
            }
            (Some(shard), left) => writeln!(
                f,
                "  shard    {shard}: {} units are left to the others; the last of them publishes",
                count(left as u64)
            ),
            (None, _) => Ok(()),
        }
    }

    /// Inputs of the output that are no longer there.
    fn vanished(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(units) = &self.units {
            let fate = if units.pruned { "removed" } else { "kept; `--prune` removes them" };
            for input in &units.vanished {
                writeln!(f, "  vanished {input}: its rows are {fate}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = self.units.as_ref().filter(|units| units.computed == 0);
        if let Some(units) = nothing {
            writeln!(
                f,
                "{}: nothing to compute: all {} units were done before ({} rows)",
                self.pipeline,
                count(units.total as u64),
                count(units.skipped_rows)
            )?;
            self.left_to_shards(f)?;
            return self.vanished(f);
        }
        writeln!(
            f,
            "{}: {} rows in {:.1} s ({:.1} s of it to load models)",
            self.pipeline,
            count(self.rows_written),
            self.wall_seconds,
            self.load_seconds
        )?;
        writeln!(f, "  read     {}, {}", files(self.input_files), bytes(self.input_bytes))?;
        if let Some(units) = &self.units {
            writeln!(
                f,
                "  units    {} computed, {} done before ({} rows)",
                count(units.computed as u64),
                count(units.skipped as u64),
                count(units.skipped_rows)
            )?;
            self.left_to_shards(f)?;
            self.vanished(f)?;
        }
        if let Some(errors) = &self.row_errors {
            writeln!(f, "  failed   {} of {} rows", count(errors.failed), count(errors.rows))?;
        }
        for step in &self.steps {
            let StepReport { model, counts, .. } = step;
            writeln!(f, "  {}  {} -> {}", model.task, model.name, step.output)?;
            writeln!(
                f,
                "    model    {} {}, {} parameters, {} on {}",
                model.repo,
                model.commit.as_deref().unwrap_or("(local directory)"),
                count(step.parameters as u64),
                model.dtype,
                model.device
            )?;
            writeln!(
                f,
                "    rows     {} ({} null, {} computed, {} truncated), {} rows/s",
                count(counts.rows),
                count(counts.null_rows),
                count(counts.computed_rows),
                count(counts.truncated_rows),
                count(step.rows_per_second as u64),
            )?;
            writeln!(
                f,
                "    tokens   {} computed in {} batches, {} tokens/s, padding {:.1}%",
                count(counts.computed_tokens),
                count(counts.batches),
                count(step.tokens_per_second as u64),
                step.padding_share * 100.0
            )?;
        }
        if let [file] = self.output.as_slice() {
            writeln!(f, "  wrote    {}, {}", file.path.display(), bytes(file.bytes))?;
        } else if let Some(first) = self.output.first() {
            let total = self.output.iter().map(|file| file.bytes).sum();
            let shown = first.path.display();
            writeln!(
                f,
                "  wrote    {} from {shown} on, {}",
                files(self.output.len()),
                bytes(total)
            )?;
        }
        if let Some(peak) = self.peak_memory_bytes {
            writeln!(f, "  memory   {} at most", bytes(peak))?;
        }
        Ok(())
    }
}

pub(crate) fn files(number: usize) -> String {
    if number == 1 { "1 file".to_owned() } else { format!("{} files", count(number as u64)) }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `1.4 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < units.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The largest resident size of this process so far (`VmHWM`), where the system tells.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_sizes_have_units() {
        assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([bytes(12), bytes(1536), bytes(5 << 30)], ["12 B", "1.5 KiB", "5.0 GiB"]);
    }
}
