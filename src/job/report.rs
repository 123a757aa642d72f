//! Builds the numbers of a run's report from its counters, at any moment. Not here: its formats
//! (`crate::report`).

use super::progress::{Progress, Stage};
use crate::exec::ModelStep;
use crate::report::{ModelReport, RunReport, StepReport};
use crate::tasks::ModelSummary;

impl Progress {
    /// The report of the run so far.
    pub fn report(&self) -> RunReport {
        let times = self.times();
        let (memory_bytes, peak_memory_bytes) = memory();
        // The rates exclude loading and include closing files, as in earlier versions.
        let running = (times.wall - times.load).max(f64::EPSILON);
        RunReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.pipeline().to_owned(),
            started_at: self.started_at(),
            stage: self.stage().name().to_owned(),
            wall_seconds: times.wall,
            load_seconds: times.load,
            run_seconds: times.run,
            commit_seconds: times.commit,
            sink_seconds: self.sink_seconds(),
            input_files: self.input.files,
            input_bytes: self.input.bytes,
            source_notes: self.input.notes.clone(),
            rows_written: self.rows_written(),
            total_rows: self.total_rows(),
            units: self.units(),
            row_errors: self.row_errors(),
            source_errors: self.source.errors(),
            steps: self.steps().iter().map(|step| of_step(step, running)).collect(),
            throughput: self.samples(),
            output: self.output(),
            memory_bytes,
            peak_memory_bytes,
        }
    }
}

impl Stage {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Running => "running",
            Self::Committing => "committing",
        }
    }
}

fn of_step(step: &ModelStep, seconds: f64) -> StepReport {
    let counts = step.metrics().counts();
    StepReport {
        output: step.name().to_owned(),
        model: of_model(step.task().summary()),
        parameters: step.loaded().map_or(0, |models| models[0].weights().parameters),
        counts,
        padding_share: counts.padding_share(),
        rows_per_second: counts.rows as f64 / seconds,
        tokens_per_second: counts.computed_tokens as f64 / seconds,
        generated_tokens_per_second: counts.generated_tokens as f64 / seconds,
        images_per_second: counts.images as f64 / seconds,
        bottleneck: counts.bottleneck().map(str::to_owned),
        token_lengths: step.metrics().token_lengths(),
        errors: step.metrics().errors(),
    }
}

fn of_model(model: &ModelSummary) -> ModelReport {
    ModelReport {
        task: model.task.to_owned(),
        name: model.name.clone(),
        repo: model.repo.clone(),
        commit: model.commit.clone(),
        model_type: model.model_type.clone(),
        dtype: model.dtype.to_owned(),
        device: model.device.to_owned(),
        tokenizer: model.tokenizer.clone(),
        options: model.options.clone(),
    }
}

/// The current resident size of this process in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    memory().0
}

/// The current resident size of this process (`VmRSS`) and its peak (`VmHWM`), if the system reports them.
fn memory() -> (Option<u64>, Option<u64>) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return (None, None) };
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    (bytes("VmRSS:"), bytes("VmHWM:"))
}
