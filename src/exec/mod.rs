//! The operator that runs a model step between other operators of DataFusion: windows, workers, row errors. Not here:
//! the computation of a model (`crate::tasks`), calls in SQL (`crate::sql`), whole pipelines (`crate::job`). The entry
//! is [`ModelExec`].
//!
//! # A model step
//! A `ModelNode` in the logical plan needs the config and tokenizer of its model, but no weights, so its column type is
//! known before anything runs. DataFusion pushes predicates and limits below it and drops unused columns. `ModelExec`
//! then runs three stages concurrently, with two windows in flight:
//!
//! - **gather** reads batches, tokenizes them on all cores, removes repeated rows, closes the window at a dozen batches
//!   per worker (or at `sort_window_rows`, or at a size in bytes), and queues its batches. A job of a few thousand rows
//!   thus has several windows, and one is written while the next is computed.
//! - **workers** run forward passes: one thread per core, or three per GPU, shared by all models of a run.
//! - **emit** awaits the results of the oldest window and restores the order of rows.
//!
//! A batch takes at most one worker's share of the rest of its window (`crate::batch`), to keep every core busy until
//! the window ends. A generation task takes the whole share and makes its own batches. A row may consist of several
//! sequences: windows of a long text, or a text with each candidate label. They are sorted and batched independently;
//! `Task::finish` merges a row's results. Dropping the stream drops the queue, and workers stop after their current
//! batch.
//!
//! A task without batches ([`Batching::Rows`](crate::tasks::Batching)), as static embeddings, skips all of this: the rows
//! of a batch are tokenized and computed on every core, straight into the column (`rows`). Repeated texts are computed
//! again, because finding them would cost more.
//!
//! A window shares results with earlier windows, and with other nodes that make the same call (`results`). Within a
//! memory bound, a query computes each text once.
//!
//! A step that divides texts gives a list; an `Explode` node after it (`explode`) makes a row of each item. It comes after the
//! node for failed rows, which thus still sees input rows.
//!
//! With `run.reuse`, a step looks up each row by its inputs before it tokenizes it (`reuse`). Rows with a result of an earlier
//! run are null rows of their window; their results are put in when the window is assembled.
//!
//! # Failed rows
//! If `on_error` keeps failed rows, model steps return `Struct<value, error>`. A `RowErrors` node after each step
//! (`row_errors`) splits it into a value and an error, or removes the row. A node before the first step does the same
//! for text that is not UTF-8 (`invalid_text`); it is not part of a unit's identity. Dead letters of a unit are written
//! before it is committed, under the unit's name, so that a second attempt replaces them.

mod blocking;
mod emit;
mod explode;
mod gather;
pub(crate) mod invalid_text;
mod metrics;
mod node;
mod operator;
mod results;
mod reuse;
mod row_error;
mod row_errors;
mod rows;
mod step;
mod unit_results;
mod window;
mod workers;

pub(crate) use explode::ExplodeNode;
pub(crate) use gather::encode;
pub use metrics::StepMetrics;
pub use node::{ModelNode, ModelPlanner};
pub use operator::ModelExec;
pub use row_error::RowErrors;
pub(crate) use row_error::output_type;
pub(crate) use row_errors::{FailedRows, Letters, RowErrorsNode};
pub use step::{BatchSettings, ModelStep};
pub(crate) use unit_results::{EarlierResults, UnitResults, identity};
pub use workers::WorkerPool;

pub use crate::report::StepCounts;
