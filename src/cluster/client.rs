//! The client of a cluster: submits the open units of a job, follows them by their manifests, and submits the rest again
//! until all are done. It fetches no result: rows are in the output. Not here: opening and publishing the output
//! (`crate::job`).

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::config::{BALLISTA_JOB_NAME, BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK};
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::{
    CancelJobParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair, RemoveSessionParams,
    execute_query_result, job_status,
};
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use tonic::Status;

use super::codec::Tasks;
use super::failure;
use super::security::{Address, Client, Credentials, refused, scheduler, unreachable};
use super::status::{self, ClusterStatus};
use super::timing::Timing;
use super::units::may_pass;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::CLUSTER_MESSAGE_BYTES;

/// Tasks of one submission: the scheduler sends each with its own plan, and looks through all of them for each poll.
const TASKS: usize = 4000;

/// The descriptions of units in one submission, in bytes. While it is encoded and sent, there are several copies of it. The
/// rest is submitted next.
const SUBMISSION_BYTES: usize = 2 << 20;

/// The most bytes of a submission as it is sent, with what Ballista adds to each task: well below what a scheduler takes.
const MESSAGE_BYTES: usize = CLUSTER_MESSAGE_BYTES / 4;

/// Ballista's bytes for a partition of a plan, rounded up.
const PARTITION_BYTES: usize = 1024;

/// The time before a job is submitted again, which doubles each time without a new unit.
const BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Submissions in a row that may fail because of a unit: each has tried it several times.
const FAILURES: usize = 2;

/// The time to cancel a job when the client ends.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

/// A job with an open output.
pub(crate) trait OpenJob: Send + Sync + 'static {
    /// The pipeline's name.
    fn name(&self) -> &str;

    /// The description of the job, for [`Units`](super::Units).
    ///
    /// # Errors
    /// `Internal` if it cannot be written.
    fn job(&self) -> Result<Vec<u8>>;

    /// The descriptions of the first units that were not done at the last look: all of them, or as many as have `most_bytes`
    /// together and one more.
    ///
    /// # Errors
    /// `Internal` if they cannot be written.
    fn open_units(&self, most_bytes: usize) -> Result<Vec<Vec<u8>>>;

    /// Looks for new manifests, updates the progress, and returns the number of units that are done.
    ///
    /// # Errors
    /// `Sink` if the storage cannot be read; `Resources` if another run has taken the output.
    fn done(&self) -> Result<usize>;

    /// Fails if there are open units that are not tried again.
    ///
    /// # Errors
    /// `Data` with their rows.
    fn check(&self) -> Result<()>;

    /// The longest time between two looks at the job, for a caller that waits for its end.
    fn pause(&self) -> Duration {
        Duration::MAX
    }
}

/// A cluster, seen by a client.
pub(crate) struct Cluster {
    address: Address,
    client: Client,
    timing: Timing,
    wait: Duration,
}

/// How one submission ended.
enum Ended {
    /// All its units are done, or said to be.
    Done,
    /// The scheduler has lost it; it is submitted again.
    Lost(Error),
    /// A unit failed in every attempt, with an error that may pass.
    Failed(Error),
}

/// A submission that a client which ends must cancel.
#[derive(Default)]
struct Submitted {
    job: Option<String>,
    session: Option<String>,
}

/// The signs of life by which a client waits or gives up.
struct Patience {
    /// The units that are done.
    done: usize,
    /// When their number last grew.
    progress: Instant,
    /// When the scheduler last said that there is an executor.
    executors: Instant,
    /// Submissions that failed since then.
    failures: usize,
    backoff: Duration,
    says_waiting: bool,
    /// The time of the next look.
    next: Instant,
    /// The time of the next look at the executors.
    next_status: Instant,
}

impl Cluster {
    /// A cluster that has not been contacted. `wait` is the longest time without a scheduler or without executors.
    ///
    /// # Errors
    /// `Usage` for damaged certificates, or another machine without TLS and a token.
    pub(crate) fn new(
        address: Address,
        credentials: &Credentials,
        timing: Timing,
        wait: Duration,
    ) -> Result<Self> {
        let client = credentials.client(&address)?;
        Ok(Self { address, client, timing, wait })
    }

    /// The connection to the scheduler, and its address.
    pub(super) fn connection(&self) -> (Client, Address) {
        (self.client.clone(), self.address.clone())
    }

    /// The state of the cluster.
    ///
    /// # Errors
    /// `Resources` if the scheduler does not answer; `Usage` or `Config` if it refuses the call.
    pub(crate) async fn status(&self) -> Result<ClusterStatus> {
        status::ask(&self.client).await.map_err(|status| self.error(&status))
    }

    fn error(&self, status: &Status) -> Error {
        refused(status, &self.address).unwrap_or_else(|| unreachable(status, &self.address))
    }

    /// Has all open units of a job computed. `stop` cancels the job.
    ///
    /// # Errors
    /// The first error of a unit that another attempt cannot repair; those of [`OpenJob`]; `Resources` if nothing
    /// happens for the time to wait; the kind of `stop`.
    pub(crate) async fn compute(
        &self,
        job: Arc<dyn OpenJob>,
        stop: impl Future<Output = ErrorKind>,
    ) -> Result<()> {
        let mut submitted = Submitted::default();
        let computed = tokio::select! {
            computed = self.submit_until_done(job, &mut submitted) => computed,
            kind = stop => Err(Error::new(kind, "stopped by a signal")),
        };
        if computed.is_err()
            && let Some(job_id) = submitted.job.take()
        {
            let mut scheduler = scheduler(&self.client);
            let cancelled = scheduler.cancel_job(CancelJobParams { job_id });
            // Without a scheduler, the lost lock of the output ends the units.
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancelled).await;
        }
        self.forget(&mut submitted).await;
        computed
    }

    async fn submit_until_done(
        &self,
        job: Arc<dyn OpenJob>,
        submitted: &mut Submitted,
    ) -> Result<()> {
        let description = Bytes::from(job.job()?);
        let now = Instant::now();
        let mut patience = Patience {
            done: 0,
            progress: now,
            executors: now,
            failures: 0,
            backoff: BACKOFF,
            says_waiting: false,
            next: now,
            next_status: now,
        };
        loop {
            let open = blocking(&job, |job| job.open_units(SUBMISSION_BYTES)).await?;
            if open.is_empty() {
                return Ok(());
            }
            self.forget(submitted).await;
            let tasks = Tasks { job: description.clone(), partitions: partitions(open) };
            let ended = match self.submit(&*job, tasks, submitted).await? {
                Ended::Done => self.follow(&job, submitted, &mut patience).await?,
                ended => ended,
            };
            patience.look(&job).await?;
            let (error, is_last) = match ended {
                Ended::Done => {
                    blocking(&job, OpenJob::check).await?;
                    continue;
                }
                Ended::Lost(error) => (error, patience.progress.elapsed() > self.wait),
                Ended::Failed(error) => {
                    patience.failures += 1;
                    (error, patience.failures == FAILURES)
                }
            };
            if is_last {
                return Err(error);
            }
            tracing::warn!(%error, "the rest of the job is submitted again");
            tokio::time::sleep(patience.backoff).await;
            patience.backoff = (patience.backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Submits tasks. `Done` says only that the scheduler has them.
    async fn submit(
        &self,
        job: &dyn OpenJob,
        tasks: Tasks,
        submitted: &mut Submitted,
    ) -> Result<Ended> {
        let units: usize = tasks.partitions.iter().map(Vec::len).sum();
        let plan = tasks.encode().map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot describe the job to the cluster").source(e)
        })?;
        let nonce = || RandomState::new().hash_one(std::process::id());
        let session_id = format!("{:016x}{:016x}", nonce(), nonce());
        let setting = |key: &str, value: &str| KeyValuePair {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        let request = ExecuteQueryParams {
            session_id: session_id.clone(),
            settings: vec![
                setting(BALLISTA_JOB_NAME, job.name()),
                // Otherwise a task has as many units as an executor has slots, and ends with the last of them.
                setting(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, "1"),
            ],
            operation_id: session_id.clone(),
            query: Some(Query::PhysicalPlan(plan.into())),
        };
        submitted.session = Some(session_id);
        let answer = match scheduler(&self.client).execute_query(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let refused = refused(&status, &self.address);
                return refused.map_or_else(|| Ok(Ended::Lost(self.error(&status))), Err);
            }
        };
        match answer.result {
            Some(execute_query_result::Result::Success(success)) => {
                tracing::info!(job = success.job_id, units, "submitted");
                submitted.job = Some(success.job_id);
                Ok(Ended::Done)
            }
            other => {
                let message = format!("`{}` does not take the job: {other:?}", self.address);
                Err(Error::new(ErrorKind::Internal, message))
            }
        }
    }

    /// Waits for the end of a submission.
    ///
    /// # Errors
    /// The error of a unit that another attempt cannot repair.
    async fn follow(
        &self,
        job: &Arc<dyn OpenJob>,
        submitted: &mut Submitted,
        patience: &mut Patience,
    ) -> Result<Ended> {
        let job_id = submitted.job.clone().unwrap_or_default();
        loop {
            tokio::time::sleep(self.timing.progress.min(job.pause())).await;
            if Instant::now() >= patience.next {
                patience.look(job).await?;
            }
            let request = GetJobStatusParams { job_id: job_id.clone() };
            let status = match scheduler(&self.client).get_job_status(request).await {
                Ok(status) => status.into_inner().status.and_then(|status| status.status),
                Err(status) => {
                    let refused = refused(&status, &self.address);
                    return refused.map_or_else(|| Ok(Ended::Lost(self.error(&status))), Err);
                }
            };
            match status {
                Some(job_status::Status::Successful(_)) => {
                    submitted.job = None;
                    return Ok(Ended::Done);
                }
                Some(job_status::Status::Failed(failed)) => {
                    submitted.job = None;
                    return ended(&failed.error);
                }
                Some(_) if patience.next_status <= Instant::now() => {
                    patience.next_status = Instant::now() + self.timing.progress;
                    self.check_executors(patience).await?;
                }
                Some(_) => {}
                None => {
                    submitted.job = None;
                    let message =
                        format!("`{}` was started again and has forgotten the job", self.address);
                    return Ok(Ended::Lost(Error::new(ErrorKind::Resources, message)));
                }
            }
        }
    }

    /// Fails if there has been no executor for the time to wait.
    async fn check_executors(&self, patience: &mut Patience) -> Result<()> {
        // The scheduler is asked for the job anyway; an answer that is lost here is no news.
        let Ok(status) = self.status().await else { return Ok(()) };
        if !status.executors.is_empty() {
            patience.executors = Instant::now();
            patience.says_waiting = false;
            return Ok(());
        }
        if patience.executors.elapsed() > self.wait {
            let message = format!("`{}` has had no executor for {:?}", self.address, self.wait);
            return Err(Error::new(ErrorKind::Resources, message).hint(
                "start `hfauto-pipe cluster executor`, or wait longer with `--cluster-wait`",
            ));
        }
        if !std::mem::replace(&mut patience.says_waiting, true) {
            tracing::warn!(scheduler = %self.address, "waiting for an executor");
        }
        Ok(())
    }

    /// Removes the session of a submission from the scheduler.
    async fn forget(&self, submitted: &mut Submitted) {
        let Some(session_id) = submitted.session.take() else { return };
        let mut scheduler = scheduler(&self.client);
        let removed = scheduler.remove_session(RemoveSessionParams { session_id });
        // A scheduler that was started again has no session.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, removed).await;
    }
}

impl Patience {
    /// Looks at the manifests.
    async fn look(&mut self, job: &Arc<dyn OpenJob>) -> Result<()> {
        let begun = Instant::now();
        let done = blocking(job, OpenJob::done).await?;
        // Listing very many units takes a while: it may take a twentieth of the time.
        self.next = Instant::now() + begun.elapsed() * 20;
        if done > self.done {
            self.done = done;
            self.progress = Instant::now();
            self.failures = 0;
            self.backoff = BACKOFF;
        }
        Ok(())
    }
}

/// Decides from the error of a failed job whether to submit the rest again.
fn ended(text: &str) -> Result<Ended> {
    let Some(error) = failure::decode(text) else {
        let message = format!("the cluster ended the job: {text}");
        return Ok(Ended::Lost(Error::new(ErrorKind::Resources, message)));
    };
    if may_pass(error.kind()) { Ok(Ended::Failed(error)) } else { Err(error) }
}

/// The units of each task of a submission: all of them, or as many as fit in a message. The rest is submitted next.
fn partitions(open: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let units_per_task = open.len().div_ceil(TASKS);
    let (mut partitions, mut bytes) = (Vec::<Vec<Vec<u8>>>::new(), 0);
    for unit in open {
        let is_new = partitions.last().is_none_or(|units| units.len() == units_per_task);
        bytes += unit.len() + if is_new { PARTITION_BYTES } else { 16 };
        if bytes > MESSAGE_BYTES && !partitions.is_empty() {
            break;
        }
        if is_new {
            partitions.push(Vec::with_capacity(units_per_task));
        }
        if let Some(units) = partitions.last_mut() {
            units.push(unit);
        }
    }
    partitions
}

async fn blocking<T: Send + 'static>(
    job: &Arc<dyn OpenJob>,
    work: impl FnOnce(&dyn OpenJob) -> Result<T> + Send + 'static,
) -> Result<T> {
    let job = Arc::clone(job);
    let work = SpawnedTask::spawn_blocking(move || work(&*job));
    work.join().await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "reading the output's state panicked").source(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_divided_among_tasks() {
        let open = |count: usize, size: usize| vec![vec![0_u8; size]; count];
        let check = |count, size, tasks, of_first| {
            let partitions = partitions(open(count, size));
            assert_eq!((partitions.len(), partitions[0].len()), (tasks, of_first));
            partitions.iter().map(Vec::len).sum::<usize>()
        };
        assert_eq!(check(1, 300, 1, 1), 1);
        assert_eq!(check(4000, 300, 4000, 1), 4000);
        assert_eq!(check(4001, 300, 2001, 2), 4001);
        assert_eq!(check(50_000, 200, 3847, 13), 50_000);
        // As many as fit; at least one.
        assert!(check(100, 1 << 20, 15, 1) < 100);
        assert_eq!(check(2, 64 << 20, 1, 1), 1);
    }
}
