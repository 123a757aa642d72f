//! A pipeline or a query on more than one machine: a scheduler and executors that run as services, and clients that submit
//! units to them. Scheduling and transport are Ballista's; what makes lost and repeated tasks harmless are the manifests of
//! units (`crate::sink`). Not here: the unit itself (`crate::job`), the command line (`crate::cli`).
//!
//! ```text
//! client      opens the output, submits open units, publishes          run --cluster
//!   │ UnitExec ← one row per unit
//! scheduler   hands out tasks, repeats those of lost executors         cluster scheduler
//!   ▲ polls
//! executor    computes a unit, commits its manifest, reports           cluster executor
//! ```

mod allow;
mod client;
mod codec;
mod executor;
mod failure;
mod gate;
mod pipelines;
mod query;
mod scheduler;
mod security;
mod status;
#[cfg(test)]
mod tests;
mod timing;
mod units;
mod work;

pub(crate) use allow::Allow;
pub(crate) use client::Cluster;
pub(crate) use executor::{Counters, Executor, ExecutorOptions};
pub(crate) use pipelines::run_on_cluster;
pub(crate) use query::QueryCluster;
pub(crate) use scheduler::Scheduler;
pub(crate) use security::{Address, CredentialFiles, Credentials, PORT};
pub(crate) use status::ClusterStatus;
pub(crate) use timing::Timing;
pub(crate) use work::Work;
