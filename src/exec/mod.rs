//! The operator that runs a model step between other operators of DataFusion: windows, workers, row errors. Not here: what
//! a model computes (`crate::tasks`), calls in SQL (`crate::sql`), whole pipelines (`crate::job`). The entry is
//! [`ModelExec`].
//!
//! # A model step
//! A `ModelNode` on the logical plan needs the config and tokenizer of its model, but no weights: the type of its column is
//! known before anything runs. DataFusion pushes predicates and limits below it and
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
//! # Failed rows
//! Where `on_error` keeps failed rows, model steps return `Struct<value, error>`. A `RowErrors` node behind each
//! (`row_errors`) splits it into a value and an error, or removes the row. A node in front of the first step does the
//! same for text that is not UTF-8 (`invalid_text`); it is not part of a unit's identity. Dead letters of a unit are
//! written before it is committed, under its name, so that a second attempt replaces them.

mod emit;
mod operator;
mod gather;
pub(crate) mod invalid_text;
mod metrics;
mod node;
mod results;
mod row_errors;
mod step;
mod window;
mod workers;

pub(crate) use gather::encode;
pub use metrics::StepMetrics;
pub use node::{ModelNode, ModelPlanner};
pub use operator::ModelExec;
pub(crate) use row_errors::{FailedRows, Letters, RowErrorsNode};
pub(crate) use step::output_type;
pub use step::{BatchSettings, ModelStep, RowErrors};
pub use workers::WorkerPool;

pub use crate::report::StepCounts;
