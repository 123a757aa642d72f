//! Runs a pipeline: resolves its models, plans it with DataFusion, runs the model operator between
//! source and sink, counts. Not here: what a model computes (`crate::tasks`), what files look
//! like (`crate::source`, `crate::sink`). The entry is [`Job`].

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
