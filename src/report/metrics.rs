//! Formats the report as Prometheus metrics, in the text format 0.0.4, for the textfile collector of node_exporter.
//!
//! Counters count one run and restart at zero with the next. Values of the previous run, and of the last successful
//! one, come from the file that is replaced. Not here: when and where the file is written.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, Utc};

use super::{Histogram, Report, RunReport, Status, StepReport, UnitCounts};
use crate::secret;

/// The values of past runs in a metrics file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kept {
    /// Whether the last run succeeded, 1 or 0.
    pub success: Option<f64>,
    /// Its exit code.
    pub exit_code: Option<f64>,
    /// When it ended, in seconds of Unix time.
    pub ended_at: Option<f64>,
    /// Its duration.
    pub seconds: Option<f64>,
    /// When the last successful run ended.
    pub last_success: Option<f64>,
}

const RUNNING: &str = "hfauto_pipe_run_running";
const UPDATE: &str = "hfauto_pipe_last_update_timestamp_seconds";
const SUCCESS: &str = "hfauto_pipe_last_run_success";
const EXIT_CODE: &str = "hfauto_pipe_last_run_exit_code";
const END: &str = "hfauto_pipe_last_run_end_timestamp_seconds";
const DURATION: &str = "hfauto_pipe_last_run_duration_seconds";
const LAST_SUCCESS: &str = "hfauto_pipe_last_success_timestamp_seconds";

impl Kept {
    /// The values that an earlier file has for `pipeline`; empty if it is another file.
    pub fn of(text: &str, pipeline: &str) -> Self {
        let label = format!("{{pipeline=\"{}\"}} ", escape(pipeline));
        let value = |name: &str| {
            let rest = |line: &str| line.strip_prefix(name)?.strip_prefix(&label)?.parse().ok();
            text.lines().find_map(rest).filter(|value: &f64| value.is_finite())
        };
        // A file that says "running" is from a run that crashed without a report.
        let died = value(RUNNING) == Some(1.0);
        Self {
            success: if died { Some(0.0) } else { value(SUCCESS) },
            exit_code: value(EXIT_CODE).filter(|_| !died),
            ended_at: if died { value(UPDATE) } else { value(END) },
            seconds: value(DURATION).filter(|_| !died),
            last_success: value(LAST_SUCCESS),
        }
    }

    /// Whether a file says that its run is in progress.
    pub fn is_running(text: &str) -> bool {
        text.lines().any(|line| {
            line.strip_prefix(RUNNING)
                .is_some_and(|rest| rest.starts_with('{') && rest.ends_with(" 1"))
        })
    }

    /// The pipeline of an earlier file.
    pub fn pipeline(text: &str) -> Option<String> {
        let begin = format!("{RUNNING}{{pipeline=\"");
        let label = text.lines().find_map(|line| line.strip_prefix(&begin)?.rsplit_once("\"} "))?.0;
        let mut chars = label.chars();
        let mut name = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next()? {
                    'n' => name.push('\n'),
                    c => name.push(c),
                },
                c => name.push(c),
            }
        }
        Some(name)
    }

    /// The values after `report`, if its run has ended.
    fn after(self, report: &Report) -> Self {
        let Some(exit_code) = report.exit_code else { return self };
        let ended_at = report.ended_at.as_deref().and_then(unix_seconds);
        let started_at = unix_seconds(&report.started_at);
        let wall = report.run.as_ref().map(|run| run.wall_seconds);
        let is_success = report.status == Status::Done;
        Self {
            success: Some(f64::from(u8::from(is_success))),
            exit_code: Some(f64::from(exit_code)),
            ended_at,
            seconds: wall.or_else(|| Some((ended_at? - started_at?).max(0.0))),
            last_success: if is_success { ended_at } else { self.last_success },
        }
    }
}

/// The text of a metrics file written at `now`. `kept` are the values of the file that it replaces.
pub fn prometheus(report: &Report, kept: Kept, now: DateTime<Utc>) -> String {
    let mut text = Exposition { text: String::new(), pipeline: escape(&report.pipeline) };
    let running = f64::from(u8::from(report.status == Status::Running));
    let help = "Whether a run is in progress. Stays 1 after a run that was killed: trust it only while \
                hfauto_pipe_last_update_timestamp_seconds is less than a minute old.";
    text.gauge(RUNNING, help, running);
    text.gauge(
        UPDATE,
        "When this file was written, in Unix time: every two seconds while a run is in progress.",
        now.timestamp_millis() as f64 / 1000.0,
    );
    text.optional(
        "hfauto_pipe_run_start_timestamp_seconds",
        "When the run started, in Unix time.",
        unix_seconds(&report.started_at),
    );
    let kept = kept.after(report);
    text.optional(SUCCESS, "Whether the last completed run succeeded.", kept.success);
    text.optional(EXIT_CODE, "Exit code of the last completed run.", kept.exit_code);
    text.optional(END, "When the last completed run ended, in Unix time.", kept.ended_at);
    text.optional(DURATION, "Wall time of the last completed run.", kept.seconds);
    let help = "When the last successful run ended, in Unix time.";
    text.optional(LAST_SUCCESS, help, kept.last_success);
    if let Some(run) = &report.run {
        of_run(&mut text, run);
    }
    secret::hide(&text.text).into_owned()
}

fn of_run(text: &mut Exposition, run: &RunReport) {
    text.family("hfauto_pipe_run_info", "gauge", "Labels that describe the run; always 1.");
    text.sample("hfauto_pipe_run_info", &[("version", &run.version)], 1.0);
    text.gauge(
        "hfauto_pipe_run_duration_seconds",
        "Wall time of the run so far.",
        run.wall_seconds,
    );
    let name = "hfauto_pipe_run_stage_seconds";
    text.family(name, "gauge", "Wall time of the run so far, by stage.");
    for (stage, seconds) in
        [("load", run.load_seconds), ("run", run.run_seconds), ("commit", run.commit_seconds)]
    {
        text.sample(name, &[("stage", stage)], seconds);
    }
    text.counter(
        "hfauto_pipe_sink_seconds_total",
        "Time in which the sink encoded and wrote rows.",
        run.sink_seconds,
    );
    text.gauge("hfauto_pipe_input_files", "Input files.", run.input_files as f64);
    text.gauge("hfauto_pipe_input_bytes", "Bytes of the input files.", run.input_bytes as f64);
    text.counter("hfauto_pipe_rows_total", "Rows written by this run.", run.rows_written as f64);
    let rows = run.total_rows.map(|rows| rows as f64);
    text.optional("hfauto_pipe_rows_expected", "Rows that the run will write.", rows);
    if let Some(errors) = run.row_errors {
        let help = "Rows of the output that a step refused, including those of earlier runs.";
        text.gauge("hfauto_pipe_failed_rows", help, errors.failed as f64);
    }
    if let Some(UnitCounts { total, computed, skipped, .. }) = run.units {
        let name = "hfauto_pipe_units";
        text.family(name, "gauge", "Units of the job: computed by this run, done before, open.");
        let open = total.saturating_sub(computed + skipped);
        for (state, units) in [("computed", computed), ("skipped", skipped), ("open", open)] {
            text.sample(name, &[("state", state)], units as f64);
        }
    }
    of_steps(text, run);
    let memory = run.memory_bytes.map(|bytes| bytes as f64);
    text.optional("hfauto_pipe_memory_bytes", "Resident size of the process.", memory);
    let peak = run.peak_memory_bytes.map(|bytes| bytes as f64);
    text.optional("hfauto_pipe_memory_peak_bytes", "Peak resident size of the process.", peak);
}

/// The label for rows that failed before the first step.
const SOURCE: &str = "source";

/// A counter of a step.
type Counter = fn(&StepReport) -> u64;

fn of_steps(text: &mut Exposition, run: &RunReport) {
    // Two steps may have the same name (calls in SQL). Their samples would be the same series.
    let mut names = BTreeMap::new();
    if !run.source_errors.is_empty() {
        names.insert(SOURCE, 1);
    }
    let steps: Vec<(String, &StepReport)> = run
        .steps
        .iter()
        .map(|step| {
            let number: &mut usize = names.entry(step.output.as_str()).or_default();
            *number += 1;
            let name = step.output.clone();
            (if *number == 1 { name } else { format!("{name} ({number})") }, step)
        })
        .collect();
    let of_source = run.source_errors.iter().map(|error| (SOURCE, error));
    let of_steps = steps
        .iter()
        .flat_map(|(name, report)| report.errors.iter().map(move |error| (name.as_str(), error)));
    let mut errors = of_source.chain(of_steps).peekable();
    if errors.peek().is_some() {
        let name = "hfauto_pipe_row_errors_total";
        text.family(name, "counter", "Rows that failed and were kept, by kind of error.");
        for (step, error) in errors {
            text.sample(name, &[("step", step), ("kind", &error.kind)], error.rows as f64);
        }
    }
    if steps.is_empty() {
        return;
    }
    let counters: [(&str, &str, Counter); 14] = [
        ("rows", "Rows that the step has emitted.", |step| step.counts.rows),
        ("null_rows", "Rows that were null.", |step| step.counts.null_rows),
        ("computed_rows", "Rows that went through the model.", |step| step.counts.computed_rows),
        ("images", "Images that went through the model.", |step| step.counts.images),
        ("truncated_rows", "Rows that were truncated.", |step| step.counts.truncated_rows),
        ("split_rows", "Rows that were split into parts.", |step| step.counts.split_rows),
        ("failed_rows", "Rows that failed and were kept.", |step| step.counts.failed_rows),
        ("reused_rows", "Rows whose results an earlier run has kept.", |step| {
            step.counts.reused_rows
        }),
        ("tokens", "Tokens of all rows.", |step| step.counts.tokens),
        ("computed_tokens", "Tokens that went through the model.", |step| {
            step.counts.computed_tokens
        }),
        ("padded_tokens", "Computed tokens, including padding.", |step| step.counts.padded_tokens),
        ("cached_tokens", "Prompt tokens that were reused from prefixes of other rows.", |step| {
            step.counts.cached_tokens
        }),
        ("generated_tokens", "Tokens that were generated.", |step| step.counts.generated_tokens),
        ("batches", "Forward passes.", |step| step.counts.batches),
    ];
    for (name, help, value) in counters {
        let name = format!("hfauto_pipe_step_{name}_total");
        text.family(&name, "counter", help);
        for (step, report) in &steps {
            text.sample(&name, &[("step", step)], value(report) as f64);
        }
    }
    let name = "hfauto_pipe_step_padding_ratio";
    text.family(name, "gauge", "Padding as a share of padded tokens, 0 to 1.");
    for (step, report) in &steps {
        text.sample(name, &[("step", step)], report.padding_share);
    }
    let name = "hfauto_pipe_step_seconds_total";
    let help = "Time of the step: waiting for input, tokenizing, waiting for a worker, in the model, reading and \
                decoding images there, waiting for results, waiting for its rows to be taken. They overlap.";
    text.family(name, "counter", help);
    for (step, StepReport { counts, .. }) in &steps {
        for (stage, seconds) in [
            ("input", counts.input_seconds),
            ("tokenize", counts.tokenize_seconds),
            ("queue", counts.queue_seconds),
            ("model", counts.model_seconds),
            ("images", counts.image_seconds),
            ("results", counts.results_seconds),
            ("output", counts.output_seconds),
        ] {
            text.sample(name, &[("step", step), ("stage", stage)], seconds);
        }
    }
    of_lengths(text, &steps);
}

/// How many tokens rows have.
fn of_lengths(text: &mut Exposition, steps: &[(String, &StepReport)]) {
    let name = "hfauto_pipe_step_row_tokens";
    // A report written by another program may have none.
    let has_lengths = |report: &StepReport| {
        let Histogram { bounds, counts, .. } = &report.token_lengths;
        counts.len() == bounds.len() + 1 && bounds.is_sorted()
    };
    let steps: Vec<_> = steps.iter().filter(|(_, report)| has_lengths(report)).collect();
    if steps.is_empty() {
        return;
    }
    text.family(name, "histogram", "Rows by their number of tokens.");
    for (step, StepReport { token_lengths, .. }) in steps {
        let bucket = format!("{name}_bucket");
        let mut sum = 0u64;
        let bounds = token_lengths.bounds.iter().map(ToString::to_string);
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&token_lengths.counts) {
            sum = sum.saturating_add(*count);
            text.sample(&bucket, &[("step", step), ("le", &bound)], sum as f64);
        }
        text.sample(&format!("{name}_sum"), &[("step", step)], token_lengths.sum as f64);
        text.sample(&format!("{name}_count"), &[("step", step)], sum as f64);
    }
}

/// Lines of metrics; every sample has the label `pipeline`.
struct Exposition {
    text: String,
    /// Escaped.
    pipeline: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{name}{{pipeline=\"{}\"", self.pipeline);
        for (label, of) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escape(of));
        }
        // Rust writes all digits without an exponent, and 1.0 as 1.
        let _ = writeln!(self.text, "}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn optional(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }
}

/// Escapes a label value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn unix_seconds(rfc3339: &str) -> Option<f64> {
    let time = DateTime::parse_from_rfc3339(rfc3339).ok()?;
    Some(time.timestamp_millis() as f64 / 1000.0)
}
