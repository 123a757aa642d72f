//! Queries on a cluster: the client plans a query, and executors run the parts of its plan that read files and run models,
//! unit by unit. Not here: units of pipelines (`cluster::pipelines`), the transport of tasks, planning (`crate::sql`).
//!
//! ```text
//! client      plan       divides the physical plan: stages, and what it does with their rows
//!             operator   the stages as operators of the client's plan
//!             client     submits the units of a stage, fetches their results in order
//! scheduler   results    keeps one result per unit, whichever attempt is first
//! executor    stage      runs the plan of a stage over a unit
//! ```
//!
//! A stage is one Ballista job of independent tasks: the client does what Ballista's later stages would do. It has no
//! shuffles, after which a lost executor takes the results of finished tasks with it or gives their rows twice.

mod client;
mod codec;
mod operator;
mod plan;
mod results;
mod stage;
mod wire;

pub(crate) use operator::QueryCluster;
pub(super) use results::{Results, ResultsServer};
pub(crate) use stage::QueryUnits;
pub(crate) use wire::ResultsClient;
