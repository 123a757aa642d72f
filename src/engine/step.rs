//! A model step: the task, its settings, its weights once they are loaded, its counters. Shared by the
//! logical node, the operator and the report.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::metrics::StepMetrics;
use crate::config::pipeline::RunSpec;
use crate::error::Result;
use crate::tasks::{Task, TaskModel};

/// How batches are made and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Tokens of one forward pass, padding counted.
    pub max_batch_tokens: usize,
    /// Rows that are sorted by length together.
    pub sort_window_rows: usize,
    /// Model workers.
    pub workers: usize,
}

impl From<RunSpec> for BatchSettings {
    fn from(run: RunSpec) -> Self {
        Self {
            max_batch_tokens: run.max_batch_tokens,
            sort_window_rows: run.sort_window_rows,
            workers: run.workers.unwrap_or_else(cores),
        }
    }
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One model step of a plan.
pub struct ModelStep {
    task: Arc<dyn Task>,
    settings: BatchSettings,
    model: OnceLock<Arc<dyn TaskModel>>,
    metrics: Arc<StepMetrics>,
    location: String,
}

impl ModelStep {
    /// A step of `task`; `location` says where it is written (`embed.yaml:12:5`).
    pub fn new(task: Arc<dyn Task>, settings: BatchSettings, location: String) -> Self {
        Self { task, settings, model: OnceLock::new(), metrics: Arc::default(), location }
    }

    /// The task.
    pub fn task(&self) -> &Arc<dyn Task> {
        &self.task
    }

    /// How batches are made.
    pub fn settings(&self) -> BatchSettings {
        self.settings
    }

    /// Where the step is written.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<StepMetrics> {
        &self.metrics
    }

    /// The model with its weights, loaded at the first call.
    ///
    /// # Errors
    /// As [`Task::load`].
    pub fn model(&self) -> Result<Arc<dyn TaskModel>> {
        if let Some(model) = self.model.get() {
            return Ok(Arc::clone(model));
        }
        let model: Arc<dyn TaskModel> =
            Arc::from(self.task.load().map_err(|e| e.at(format!("step at {}", self.location)))?);
        Ok(Arc::clone(self.model.get_or_init(|| model)))
    }
}

impl fmt::Debug for ModelStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelStep")
            .field("task", &self.task)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ModelStep {
    /// One line of a plan: `feature-extraction(text) -> embedding, model=minilm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = self.task.summary();
        write!(
            f,
            "{}({}) -> {}, model={}",
            summary.task,
            self.task.inputs().join(", "),
            self.task.field().name(),
            summary.name
        )
    }
}
