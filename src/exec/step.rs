//! A model step: its task, settings, weights once loaded, and counters. The logical node, the operator and the report
//! share it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::DataType;
use candle_core::Device;

use super::metrics::StepMetrics;
use super::results::SharedResults;
use super::row_error::{RowErrors, output_type};
use super::workers::{Job, Replicas, SharedBatch, WorkerPool};
use crate::config::pipeline::RunSpec;
use crate::error::Result;
use crate::tasks::{Batching, Sequence, Task, TaskModel, memory};

/// How batches are formed and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// The maximum number of tokens per forward pass, including padding; `None` chooses it for the device.
    pub max_batch_tokens: Option<usize>,
    /// Rows that are sorted by length together.
    pub sort_window_rows: usize,
    /// The number of CPU workers.
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

impl Default for BatchSettings {
    /// The settings of a pipeline without `run`.
    fn default() -> Self {
        RunSpec::default().into()
    }
}

/// The number of cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One model step of a plan.
pub struct ModelStep {
    task: Arc<dyn Task>,
    settings: BatchSettings,
    row_errors: RowErrors,
    workers: Arc<WorkerPool>,
    models: OnceLock<Replicas>,
    metrics: Arc<StepMetrics>,
    results: Arc<SharedResults>,
    name: String,
    place: String,
    /// The effective maximum, which depends on the model's device.
    max_batch_tokens: OnceLock<usize>,
}

impl ModelStep {
    /// A step for `task`, computed by `workers`. `place` identifies it in errors (``step at embed.yaml:12:5``).
    pub fn new(
        task: Arc<dyn Task>,
        settings: BatchSettings,
        workers: Arc<WorkerPool>,
        place: String,
    ) -> Self {
        let (name, metrics) = (task.field().name().clone(), Arc::default());
        let (row_errors, models) = (RowErrors::Fail, OnceLock::new());
        let results = Arc::new(SharedResults::new());
        let max_batch_tokens = OnceLock::new();
        Self {
            task,
            settings,
            row_errors,
            workers,
            models,
            metrics,
            results,
            name,
            place,
            max_batch_tokens,
        }
    }

    /// Shares results with another step, in both directions: for nodes of one plan that make the same call.
    #[must_use]
    pub(crate) fn sharing_results(mut self, other: &Self) -> Self {
        if Arc::ptr_eq(&self.task, &other.task) && self.row_errors == other.row_errors {
            self.results = Arc::clone(&other.results);
        }
        self
    }

    /// The results that windows share.
    pub(super) fn results(&self) -> &SharedResults {
        &self.results
    }

    /// Sets a name other than the column's.
    #[must_use]
    pub fn with_name(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    /// The step's name in reports and lineage: its column, or its call in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the handling of failed rows.
    #[must_use]
    pub fn with_row_errors(mut self, row_errors: RowErrors) -> Self {
        self.row_errors = row_errors;
        self
    }

    /// The handling of failed rows.
    pub fn row_errors(&self) -> RowErrors {
        self.row_errors
    }

    /// The type of the column: the task's, or a struct of it and the error.
    pub fn data_type(&self) -> DataType {
        output_type(self.task.field(), self.row_errors)
    }

    /// One line of a plan, with the step's inputs and output.
    pub(crate) fn line<T: fmt::Display>(&self, inputs: &[T], output: &str) -> String {
        let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        let summary = self.task.summary();
        let (task, inputs) = (summary.task, inputs.join(", "));
        format!("{task}({inputs}) -> {output}, model={}", summary.name)
    }

    /// Queues a batch of a window: `batch` holds numbers into its sequences.
    ///
    /// # Errors
    /// As [`WorkerPool::submit`].
    pub(super) fn submit(
        &self,
        models: &Replicas,
        sequences: &Arc<Vec<Sequence>>,
        batch: Vec<usize>,
    ) -> Result<SharedBatch> {
        self.workers.submit(Job {
            task: Arc::clone(&self.task),
            models: Arc::clone(models),
            sequences: Arc::clone(sequences),
            batch,
            max_batch_tokens: self.max_batch_tokens(),
            row_errors: self.row_errors,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// The task.
    pub fn task(&self) -> &Arc<dyn Task> {
        &self.task
    }

    /// How batches are formed.
    pub fn settings(&self) -> BatchSettings {
        self.settings
    }

    /// The maximum number of tokens per forward pass, including padding.
    pub fn max_batch_tokens(&self) -> usize {
        // The GPU's memory is queried once, so that all batches of a run are formed alike.
        *self.max_batch_tokens.get_or_init(|| {
            self.settings.max_batch_tokens.unwrap_or_else(|| {
                let generates = self.task.batching() == Batching::Share;
                memory::batch_tokens(self.task.dimensions(), self.devices(), generates)
            })
        })
    }

    /// The number of threads that compute its batches.
    pub fn num_workers(&self) -> usize {
        self.workers.workers_of(self.devices())
    }

    /// The number of workers that share a window's rows. GPU workers all take full batches: a GPU computes one batch at
    /// a time, and a small one takes as long as launching its operations.
    pub(crate) fn num_sharing(&self) -> usize {
        match self.task.batching() {
            Batching::TokenBudget if self.on_gpus() => 1,
            Batching::TokenBudget | Batching::Share | Batching::Rows => self.num_workers(),
        }
    }

    /// The devices that compute its batches, all of one kind; at least one.
    pub(crate) fn devices(&self) -> &[Device] {
        self.task.devices()
    }

    /// Whether the devices are GPUs.
    pub(crate) fn on_gpus(&self) -> bool {
        self.devices().iter().any(Device::is_cuda)
    }

    /// The step's place, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<StepMetrics> {
        &self.metrics
    }

    /// The loaded model, if any.
    pub fn loaded(&self) -> Option<&[Arc<dyn TaskModel>]> {
        self.models.get().map(|models| &**models)
    }

    /// The model with its weights, loaded onto every device at the first call.
    ///
    /// # Errors
    /// As [`Task::load`].
    pub fn models(&self) -> Result<Replicas> {
        if let Some(models) = self.models.get() {
            return Ok(Arc::clone(models));
        }
        let load = |device| self.task.load(device).map(Arc::from).map_err(|e| e.at(&self.place));
        let models = self.devices().iter().map(load).collect::<Result<_>>()?;
        Ok(Arc::clone(self.models.get_or_init(|| models)))
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
        f.write_str(&self.line(&self.task.inputs(), self.task.field().name()))
    }
}
