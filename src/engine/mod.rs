//! Runs a pipeline: resolves its models, plans it with DataFusion, runs the model operator between source and sink,
//! counts. Not here: what a model computes (`crate::tasks`), what files look like (`crate::source`, `crate::sink`).
//! The entry is [`Job`].
//!
//! # A model step
//! `Job::prepare` resolves the config and tokenizer of each model, without weights: every column type is known before
//! anything runs. It puts a `ModelNode` on the logical plan. DataFusion pushes predicates and limits below it and
//! drops columns that nobody reads. `ModelExec` then runs three stages concurrently, two windows in flight:
//!
//! - **gather** reads batches, tokenises them on all cores, removes repeated rows, closes the window at a dozen
//!   batches per worker (or at `sort_window_rows`, or at a bound of bytes), and queues its batches. A job of a few
//!   thousand rows thus has several windows, and one is written while the next is computed.
//! - **workers** run forward passes: one thread per core, or three per card, shared by all models of a run.
//! - **emit** awaits the results of the oldest window and restores the order of rows.
//!
//! A batch takes no more than a worker's share of what is left of its window (`crate::batch`), to keep every core busy
//! until the window ends. A generating task takes the whole share and makes its own batches. A row may be several
//! sequences: windows of a long text, a text with each candidate label. They are sorted and batched independently;
//! `Task::finish` puts a row's results together. Dropping the stream drops the queue, and workers stop after their
//! current batch.
//!
//! A window shares results with earlier windows and with other nodes that make the same call (`results`), so that a
//! text is computed once per query, within a memory bound.
//!
//! # Units
//! If every output row comes from one input row (`units`), the source is cut into units (`crate::source`). The plan of
//! a unit is the plan of the job over another table; steps, weights and shared results belong to the job. Two units
//! are in flight, to keep the workers busy between them. A unit's id is a hash of the plan, the models (commit, or
//! files of a local directory), the options, the path, size and time of its file, and its rows.
//!
//! # Failed rows
//! Where `on_error` keeps failed rows, model steps return `Struct<value, error>`. A `RowErrors` node behind each
//! (`row_errors`) splits it into a value and an error, or removes the row. A node in front of the first step does the
//! same for text that is not UTF-8 (`invalid_text`); it is not part of a unit's identity. Dead letters of a unit are
//! written before it is committed, under its name, so that a second attempt replaces them.

mod emit;
mod exec;
mod gather;
mod invalid_text;
mod job;
mod metrics;
mod node;
mod progress;
mod report;
mod results;
mod row_errors;
mod run;
mod samples;
mod step;
mod units;
mod window;
mod workers;
mod write;

pub use exec::ModelExec;
pub use job::{Job, JobOptions, TokenSample};
pub(crate) use job::{check_outputs, lineage, model_steps};
pub use metrics::StepMetrics;
pub use node::{ModelNode, ModelPlanner};
pub use progress::{Progress, Stage};
pub(crate) use step::output_type;
pub use step::{BatchSettings, ModelStep, RowErrors};
pub use workers::WorkerPool;
pub(crate) use write::write_stream;

pub use crate::report::{OutputFile, RunReport, StepCounts, StepReport, UnitCounts};
pub(crate) use crate::report::{bytes, count, files};
