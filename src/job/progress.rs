//! The progress of a running job: counters and times, written by the job and read by other threads. Not here: the
//! counters of a model step (`metrics`), the reports (`report`, `crate::cli`).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::samples::Samples;
use crate::exec::ModelStep;
use crate::exec::StepMetrics;
use crate::report::{OutputFile, RowErrorTotals, Sample, UnitCounts};

/// The current stage of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Loading weights.
    Loading,
    /// Processing rows.
    Running,
    /// Closing and publishing files.
    Committing,
}

/// The input of a job.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// The number of output rows, if files and plan determine it.
    pub(super) rows: Option<u64>,
    /// Differences between the table and its files.
    pub(super) notes: Vec<String>,
}

/// The counters of a running job, for other threads to read.
#[derive(Debug)]
pub struct Progress {
    pipeline: String,
    pub(super) input: Input,
    /// Counts rows that fail before the first step.
    pub(super) source: Arc<StepMetrics>,
    steps: Vec<Arc<ModelStep>>,
    stage: AtomicU8,
    begun: OnceLock<(String, Instant)>,
    running_since: OnceLock<Instant>,
    committing_since: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    rows_written: AtomicU64,
    skipped_rows: AtomicU64,
    sink_nanos: AtomicU64,
    ledger: Mutex<Ledger>,
}

/// State other than sums.
#[derive(Debug, Default)]
struct Ledger {
    units: Option<UnitCounts>,
    row_errors: Option<RowErrorTotals>,
    output: Vec<OutputFile>,
    samples: Samples,
}

/// Wall times in seconds.
pub(super) struct Times {
    pub(super) wall: f64,
    pub(super) load: f64,
    pub(super) run: f64,
    pub(super) commit: f64,
}

impl Progress {
    pub(super) fn new(
        pipeline: &str,
        input: Input,
        steps: Vec<Arc<ModelStep>>,
        source: Arc<StepMetrics>,
    ) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            input,
            source,
            steps,
            stage: AtomicU8::new(Stage::Loading as u8),
            begun: OnceLock::new(),
            running_since: OnceLock::new(),
            committing_since: OnceLock::new(),
            ended: OnceLock::new(),
            rows_written: AtomicU64::new(0),
            skipped_rows: AtomicU64::new(0),
            sink_nanos: AtomicU64::new(0),
            ledger: Mutex::default(),
        }
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The current stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Loading,
            1 => Stage::Running,
            _ => Stage::Committing,
        }
    }

    /// The time since row processing started.
    pub fn running(&self) -> Duration {
        self.running_since.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    pub(super) fn enter(&self, stage: Stage) {
        match stage {
            Stage::Loading => {}
            Stage::Running => drop(self.running_since.get_or_init(Instant::now)),
            Stage::Committing => drop(self.committing_since.get_or_init(Instant::now)),
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// The rows passed to the sink.
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }

    /// The rows computed or written. Rows reach the sink one window at a time, but the models' counters advance
    /// with every batch.
    pub fn rows(&self) -> u64 {
        let computed = self.steps.iter().map(|step| step.metrics().counts().computed_rows).min();
        let computed = computed.unwrap_or(0).min(self.total_rows().unwrap_or(u64::MAX));
        self.rows_written().max(computed)
    }

    /// The rows that this run will write, if files and plan determine the number.
    pub fn total_rows(&self) -> Option<u64> {
        let skipped = self.skipped_rows.load(Ordering::Relaxed);
        self.input.rows.map(|rows| rows.saturating_sub(skipped))
    }

    /// The model steps in plan order.
    pub fn steps(&self) -> &[Arc<ModelStep>] {
        &self.steps
    }

    /// The start time of the run; before the run, the current time.
    pub(super) fn started_at(&self) -> String {
        self.begun.get().map_or_else(now, |(at, _)| at.clone())
    }

    pub(super) fn times(&self) -> Times {
        let end = self.ended.get().copied().unwrap_or_else(Instant::now);
        let begun = self.begun.get().map_or(end, |(_, begun)| *begun);
        let running = self.running_since.get().copied().unwrap_or(end);
        let committing = self.committing_since.get().copied().unwrap_or(end);
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        Times {
            wall: seconds(begun, end),
            load: seconds(begun, running),
            run: seconds(running, committing.max(running)),
            commit: seconds(committing, end),
        }
    }

    pub(super) fn wrote(&self, rows: u64, elapsed: Duration) {
        self.rows_written.fetch_add(rows, Ordering::Relaxed);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.sink_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn sink_seconds(&self) -> f64 {
        self.sink_nanos.load(Ordering::Relaxed) as f64 / 1e9
    }

    pub(super) fn skips(&self, rows: u64) {
        self.skipped_rows.store(rows, Ordering::Relaxed);
    }

    /// The unit counts so far; `None` for a job without units.
    pub fn units(&self) -> Option<UnitCounts> {
        self.ledger().units.clone()
    }

    /// Updates the unit counts.
    pub(super) fn with_units<T>(&self, change: impl FnOnce(&mut UnitCounts) -> T) -> T {
        change(self.ledger().units.get_or_insert_default())
    }

    pub(super) fn row_errors(&self) -> Option<RowErrorTotals> {
        self.ledger().row_errors
    }

    pub(super) fn set_row_errors(&self, errors: RowErrorTotals) {
        self.ledger().row_errors = Some(errors);
    }

    pub(super) fn output(&self) -> Vec<OutputFile> {
        self.ledger().output.clone()
    }

    pub(super) fn set_output(&self, output: Vec<OutputFile>) {
        self.ledger().output = output;
    }

    /// The samples so far, and a current one.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut samples = self.ledger().samples.all().to_vec();
        samples.push(self.sample());
        samples
    }

    fn sample(&self) -> Sample {
        let tokens = self.steps.iter().map(|step| step.metrics().counts().computed_tokens);
        Sample { seconds: self.times().wall, rows: self.rows(), tokens: tokens.sum() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures the run from construction to drop. A thread of its own takes samples.
pub(super) struct Clock {
    progress: Arc<Progress>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    pub(super) fn start(progress: &Arc<Progress>) -> Self {
        progress.begun.get_or_init(|| (now(), Instant::now()));
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("samples".to_owned()).spawn({
            let progress = Arc::clone(progress);
            move || {
                let mut interval = Duration::ZERO;
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    let sample = progress.sample();
                    interval = progress.ledger().samples.push(sample);
                }
            }
        });
        // If the thread cannot be started, the report only has fewer samples.
        Self { progress: Arc::clone(progress), stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.progress.ended.get_or_init(Instant::now);
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
