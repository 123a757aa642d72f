//! Units of pipelines: what this program's executors run and its clients submit. Not here: the transport, queries.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::Instrument;

use super::allow::Allow;
use super::client::{Cluster, OpenJob};
use super::units::{OpenUnits, UnitDone, Units, first_units};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::job::{Cancel, Coordinator, Job, JobSpec, RunReport, UnitSpec, Worker, WorkerOptions};

/// Computes units of pipelines, and writes only below the allowed places.
pub(super) struct PipelineUnits {
    hub: Arc<Hub>,
    allow: Allow,
}

impl PipelineUnits {
    pub(super) fn new(hub: Arc<Hub>, allow: Allow) -> Self {
        Self { hub, allow }
    }
}

#[async_trait]
impl Units for PipelineUnits {
    async fn run(&self, job: &[u8], unit: &[u8], cancel: &Cancel) -> Result<UnitDone> {
        let (job, unit) = (JobSpec::from_bytes(job)?, UnitSpec::from_bytes(unit)?);
        // Before anything is read or written.
        self.allow.check(job.sink_url())?;
        if let Some(folder) = job.dead_letter_url() {
            self.allow.check(folder)?;
        }
        let span = tracing::error_span!("run", run = job.run_id());
        let options = WorkerOptions { hub: Some(Arc::clone(&self.hub)) };
        let run = async {
            let worker = tokio::task::block_in_place(|| Worker::open(job, options))?;
            let record = worker.attempt(&unit, cancel).await?.ok();
            let (unit, was_done) =
                (unit.id().to_owned(), record.as_ref().is_some_and(|r| r.was_done));
            Ok(UnitDone { unit, rows: record.map(|record| record.rows), was_done })
        };
        run.instrument(span).await
    }
}

/// Has the units of a prepared job computed on a cluster, and publishes the output. `stop` ends it early with an error of
/// the returned kind.
///
/// # Errors
/// As [`Job::run`]; `Resources` if the cluster does not answer or has no executor.
pub(crate) async fn run_on_cluster(
    job: Job,
    cluster: &Cluster,
    stop: impl Future<Output = ErrorKind>,
) -> Result<RunReport> {
    let span = tracing::error_span!("run", pipeline = job.pipeline().name.as_str());
    let run = async {
        let coordinator = Arc::new(Coordinator::open(job).await?);
        tracing::info!(run = coordinator.spec().run_id(), units = coordinator.total(), "run begun");
        let open = Arc::clone(&coordinator) as Arc<dyn OpenJob>;
        let computed = cluster.compute(open, stop).await;
        computed.map_err(|error| coordinator.with_remedy(error))?;
        let Some(coordinator) = Arc::into_inner(coordinator) else {
            return Err(Error::new(ErrorKind::Internal, "the job is still in use"));
        };
        let report = tokio::task::block_in_place(|| coordinator.publish())?;
        tracing::info!(rows = report.rows_written, seconds = report.wall_seconds, "run done");
        Ok(report)
    };
    run.instrument(span).await
}

impl OpenJob for Coordinator {
    fn name(&self) -> &str {
        Coordinator::name(self)
    }

    fn job(&self) -> Result<Vec<u8>> {
        self.spec().to_bytes()
    }

    fn open_units(&self, from: usize, most_bytes: usize) -> Result<OpenUnits> {
        let units = Coordinator::open_units(self, from);
        first_units(most_bytes, units.map(|unit| (unit.sequence(), unit.to_bytes())))
    }

    fn done(&self) -> Result<usize> {
        Coordinator::done(self)
    }

    fn check(&self) -> Result<()> {
        self.check_deadly()
    }
}
