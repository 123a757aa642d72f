//! A model step: the task, its settings, its weights once they are loaded, its counters. Shared by the
//! logical node, the operator and the report.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Device;

use super::metrics::StepMetrics;
use super::results::SharedResults;
use super::workers::WorkerPool;
use crate::config::pipeline::RunSpec;
use crate::error::Result;
use crate::tasks::{Batching, Task, TaskModel, memory};

/// How batches are made and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Most tokens of one forward pass, padding counted; `None` means what suits the device.
    pub max_batch_tokens: Option<usize>,
    /// Rows that are sorted by length together.
    pub sort_window_rows: usize,
    /// Model workers of the CPU.
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
    /// As of a pipeline without `run`.
    fn default() -> Self {
        RunSpec::default().into()
    }
}

/// What becomes of a row that the task or the model refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowErrors {
    /// It ends the run.
    #[default]
    Fail,
    /// Its text stands beside the value: the column is a Struct<value, error>.
    Keep,
    /// Its text and its kind stand beside the value: Struct<value, error, kind>.
    KeepKind,
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The loaded model, once for each device of its task.
pub(crate) type Replicas = Arc<[Arc<dyn TaskModel>]>;

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
    /// Of a batch, on the device of the model.
    max_batch_tokens: OnceLock<usize>,
}

impl ModelStep {
    /// A step of `task`, computed by `workers`; `place` says which it is, for errors (``step at
    /// embed.yaml:12:5``).
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

    /// Takes results of another step, and gives its own to it: for nodes of one plan that make the same
    /// call.
    #[must_use]
    pub(crate) fn sharing_results(mut self, other: &Self) -> Self {
        if Arc::ptr_eq(&self.task, &other.task) && self.row_errors == other.row_errors {
            self.results = Arc::clone(&other.results);
        }
        self
    }

    /// Results that more than one window reads.
    pub(super) fn results(&self) -> &SharedResults {
        &self.results
    }

    /// Names the step otherwise than by its column.
    #[must_use]
    pub fn with_name(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    /// What reports and lineage call the step: its column, or the call that it is in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what becomes of rows that fail.
    #[must_use]
    pub fn with_row_errors(mut self, row_errors: RowErrors) -> Self {
        self.row_errors = row_errors;
        self
    }

    /// What becomes of rows that fail.
    pub fn row_errors(&self) -> RowErrors {
        self.row_errors
    }

    /// The type of the column: the task's, or a struct of it and the errors.
    pub fn data_type(&self) -> DataType {
        output_type(self.task.field(), self.row_errors)
    }

    /// One line of a plan, for what the step reads and makes there.
    pub(crate) fn line<T: fmt::Display>(&self, inputs: &[T], output: &str) -> String {
        let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        let summary = self.task.summary();
        let (task, inputs) = (summary.task, inputs.join(", "));
        format!("{task}({inputs}) -> {output}, model={}", summary.name)
    }

    /// The threads that compute.
    pub(crate) fn workers(&self) -> &WorkerPool {
        &self.workers
    }

    /// The task.
    pub fn task(&self) -> &Arc<dyn Task> {
        &self.task
    }

    /// How batches are made.
    pub fn settings(&self) -> BatchSettings {
        self.settings
    }

    /// Most tokens of one forward pass, padding counted.
    pub fn max_batch_tokens(&self) -> usize {
        // The memory of a card is asked for once: batches of a run are made alike.
        *self.max_batch_tokens.get_or_init(|| {
            self.settings.max_batch_tokens.unwrap_or_else(|| {
                let generates = self.task.batching() == Batching::Share;
                memory::batch_tokens(self.task.dimensions(), self.devices(), generates)
            })
        })
    }

    /// Threads that compute its batches.
    pub fn num_workers(&self) -> usize {
        self.workers.workers_of(self.devices())
    }

    /// Workers that a window's rows are shared out to. Those of cards all work on full batches: a card computes
    /// one at a time, and a small one takes as long as it has operations to start.
    pub(crate) fn num_sharing(&self) -> usize {
        match self.task.batching() {
            Batching::TokenBudget if self.on_cards() => 1,
            Batching::TokenBudget | Batching::Share => self.num_workers(),
        }
    }

    /// The devices that its batches are computed on, of one kind; at least one.
    pub(crate) fn devices(&self) -> &[Device] {
        self.task.devices()
    }

    /// Whether these are cards.
    pub(crate) fn on_cards(&self) -> bool {
        self.devices().iter().any(Device::is_cuda)
    }

    /// Which step it is, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<StepMetrics> {
        &self.metrics
    }

    /// The model, if it is loaded.
    pub fn loaded(&self) -> Option<&[Arc<dyn TaskModel>]> {
        self.models.get().map(|models| &**models)
    }

    /// The model with its weights, loaded to every device at the first call.
    ///
    /// # Errors
    /// As [`Task::load`].
    pub fn models(&self) -> Result<Arc<[Arc<dyn TaskModel>]>> {
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

/// The fields of a column that keeps the errors of rows.
pub(crate) fn error_parts(value: &DataType, row_errors: RowErrors) -> Fields {
    let mut fields =
        vec![Field::new("value", value.clone(), true), Field::new("error", DataType::Utf8, true)];
    if row_errors == RowErrors::KeepKind {
        fields.push(Field::new("kind", DataType::Utf8, true));
    }
    fields.into()
}

/// The type of a step's column whose task gives `field`.
pub(crate) fn output_type(field: &Field, row_errors: RowErrors) -> DataType {
    match row_errors {
        RowErrors::Fail => field.data_type().clone(),
        RowErrors::Keep | RowErrors::KeepKind => {
            DataType::Struct(error_parts(field.data_type(), row_errors))
        }
    }
}
