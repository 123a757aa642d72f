//! Progress of a run on stderr: a bar, plain lines, JSON lines, or nothing.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::log::{self, Verbosity};
use crate::exec::StepCounts;
use crate::hub::HubProgress;
use crate::job::{Progress, Stage, count, rate};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressMode {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line every ten seconds.
    Plain,
    /// A JSON object every second.
    Json,
    /// Nothing.
    None,
}

/// The time between plain lines, which a person may read.
const RARELY: Duration = Duration::from_secs(10);

/// Below this many columns there is no room for a bar beside the numbers.
const NARROW: usize = 60;

/// A thread that shows the counters of a job until it is finished.
pub(super) struct Reporter {
    stop: mpsc::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    pub(super) fn start(mode: ProgressMode, progress: Arc<Progress>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (mode, interval) = match mode {
            ProgressMode::Auto if log::verbosity() == Verbosity::Quiet => {
                (ProgressMode::None, RARELY)
            }
            ProgressMode::Auto if log::is_json() => (ProgressMode::Json, RARELY),
            ProgressMode::Auto if std::io::stderr().is_terminal() => {
                (ProgressMode::Bar, Duration::from_millis(100))
            }
            ProgressMode::Bar => (mode, Duration::from_millis(100)),
            ProgressMode::Json => (mode, Duration::from_secs(1)),
            ProgressMode::Auto | ProgressMode::Plain => (ProgressMode::Plain, RARELY),
            ProgressMode::None => (mode, RARELY),
        };
        let thread = (mode != ProgressMode::None)
            .then(|| std::thread::spawn(move || show(mode, interval, &progress, &stopped)));
        Self { stop, thread }
    }

    /// Shows the last state and waits until it is written.
    pub(super) fn finish(self, done: bool) {
        let _ = self.stop.send(done);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

/// The counters at one moment.
struct Snapshot {
    stage: Stage,
    rows: u64,
    total_rows: Option<u64>,
    rows_per_second: f64,
    tokens_per_second: f64,
    generated_tokens_per_second: f64,
    images_per_second: f64,
    padding_share: f64,
    eta: Option<Duration>,
}

impl Snapshot {
    /// Reads the counters; rates are means since rows began to flow.
    fn read(progress: &Progress) -> Self {
        let stage = progress.stage();
        let seconds = progress.running().as_secs_f64().max(f64::EPSILON);
        let counts: Vec<_> = progress.steps().iter().map(|step| step.metrics().counts()).collect();
        let rows = progress.rows();
        let tokens: u64 = counts.iter().map(|counts| counts.computed_tokens).sum();
        let generated: u64 = counts.iter().map(|counts| counts.generated_tokens).sum();
        let images: u64 = counts.iter().map(|counts| counts.images).sum();
        let padded: u64 = counts.iter().map(|counts| counts.padded_tokens).sum();
        let rows_per_second = rows as f64 / seconds;
        let eta = progress.total_rows().and_then(|total| remaining(total, &counts, seconds));
        Self {
            stage,
            rows,
            total_rows: progress.total_rows(),
            rows_per_second,
            tokens_per_second: tokens as f64 / seconds,
            generated_tokens_per_second: generated as f64 / seconds,
            images_per_second: images as f64 / seconds,
            padding_share: if padded == 0 { 0.0 } else { 1.0 - tokens as f64 / padded as f64 },
            eta,
        }
    }
}

/// The estimated time left, by tokens: long rows come first, so an estimate by rows would be too high. Repeated rows cost
/// nothing, so this is an upper bound.
fn remaining(total_rows: u64, steps: &[StepCounts], seconds: f64) -> Option<Duration> {
    let done: u64 = steps.iter().map(|step| step.computed_tokens + step.cached_tokens).sum();
    let expected: f64 = steps
        .iter()
        .map(|step| {
            let share = total_rows as f64 / step.tokenized_rows.max(1) as f64;
            // Rows of the windows so far that are not computed are repeated or in progress.
            step.tokens as f64 * share
        })
        .sum();
    let rest = (expected - done as f64).max(0.0);
    (done > 0).then(|| Duration::from_secs_f64(rest * seconds / done as f64))
}

fn show(
    mode: ProgressMode,
    interval: Duration,
    progress: &Progress,
    stopped: &mpsc::Receiver<bool>,
) {
    let bar = (mode == ProgressMode::Bar).then(|| bar(progress.total_rows()));
    loop {
        let done = match stopped.recv_timeout(interval) {
            Ok(done) => Some(done),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(false),
        };
        let now = Snapshot::read(progress);
        match &bar {
            Some(bar) => {
                bar.set_position(now.rows);
                bar.set_message(rates(&now));
            }
            None if mode == ProgressMode::Json => json_line(progress.pipeline(), &now),
            None => line(&plain_line(&now)),
        }
        if let Some(done) = done {
            if let Some(bar) = bar {
                if done { bar.finish_and_clear() } else { bar.abandon() }
            }
            return;
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let is_narrow = console_width() < NARROW;
    let template = match total {
        Some(_) if is_narrow => "{human_pos}/{human_len} rows {wide_msg}",
        Some(_) => "{bar:20} {human_pos}/{human_len} rows  {wide_msg}",
        None => "{spinner} {human_pos} rows  {wide_msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// The columns of the terminal at stderr.
fn console_width() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    size.map_or(80, |(width, _)| usize::from(width.0))
}

fn rates(now: &Snapshot) -> String {
    let what = match now.stage {
        Stage::Loading => return "loading models".to_owned(),
        Stage::Running => "",
        Stage::Committing => "  closing files",
    };
    // A narrow terminal cuts the end.
    let mut text = String::new();
    if let Some(eta) = now.eta.filter(|_| now.stage == Stage::Running) {
        text += &format!("ETA {}  ", clock(eta));
    }
    text += &format!("{} rows/s", count(now.rows_per_second.round() as u64));
    let tokens = count(now.tokens_per_second.round() as u64);
    if now.generated_tokens_per_second > 0.0 {
        let generated = count(now.generated_tokens_per_second.round() as u64);
        text += &format!("  {tokens} prompt + {generated} generated tokens/s");
    } else if now.tokens_per_second > 0.0 {
        text += &format!("  {tokens} tokens/s");
    }
    if now.images_per_second > 0.0 {
        text += &format!("  {} pictures/s", rate(now.images_per_second));
    }
    text + what
}

fn plain_line(now: &Snapshot) -> String {
    match now.total_rows {
        Some(1) => format!("{} of 1 row  {}", now.rows, rates(now)),
        Some(total) => format!("{} of {total} rows  {}", now.rows, rates(now)),
        None => format!("{} rows  {}", now.rows, rates(now)),
    }
}

fn json_line(pipeline: &str, now: &Snapshot) {
    let fields = json!({
        "pipeline": pipeline,
        "stage": now.stage.name(),
        "rows": now.rows,
        "total_rows": now.total_rows,
        "rows_per_second": now.rows_per_second,
        "tokens_per_second": now.tokens_per_second,
        "generated_tokens_per_second": now.generated_tokens_per_second,
        "images_per_second": now.images_per_second,
        "padding_share": now.padding_share,
        "eta_seconds": now.eta.map(|eta| eta.as_secs_f64()),
    });
    log::line("INFO", "progress", fields);
}

fn line(text: &str) {
    super::terminal::say(text);
}

/// `1:02:03`, or `2:03` below an hour.
pub(super) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// Prints a line on stderr for each downloaded file of a model.
pub(super) fn download(progress: HubProgress) {
    if progress.total_bytes == Some(progress.received_bytes) {
        let HubProgress { file, received_bytes: bytes, .. } = progress;
        if log::is_json() {
            log::line("INFO", "downloaded", json!({"file": file, "bytes": bytes}));
        } else {
            line(&format!("downloaded {file} ({bytes} bytes)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_shows_hours_only_when_there_are_some() {
        assert_eq!(clock(Duration::from_secs(63)), "1:03");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }
}
