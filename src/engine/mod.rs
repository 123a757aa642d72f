//! Runs a pipeline: resolves its models, plans it with DataFusion, runs the model operator between
//! source and sink, counts, reports. Not here: what a model computes (`crate::tasks`), what files look
//! like (`crate::source`, `crate::sink`). The entry is [`Job`].

mod emit;
mod exec;
mod gather;
mod job;
mod metrics;
mod node;
mod report;
mod results;
mod row_errors;
mod run;
mod step;
mod units;
mod window;
mod workers;
mod write;

pub use exec::ModelExec;
pub use job::{Job, JobOptions, Progress, Stage, TokenSample};
pub(crate) use job::{lineage, model_steps};
pub use metrics::{StepCounts, StepMetrics};
pub use node::{ModelNode, ModelPlanner};
pub use report::{OutputFile, RunReport, StepReport, UnitCounts};
pub(crate) use report::{bytes, count, files};
pub(crate) use step::output_type;
pub use step::{BatchSettings, ModelStep, RowErrors};
pub use workers::WorkerPool;
pub(crate) use write::write_stream;
