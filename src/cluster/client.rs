//! The client of a cluster: submits the open units of a job, follows them by their manifests, and submits the rest again
//! until all are done. It fetches no result: rows are in the output. Not here: opening and publishing the output
//! (`crate::job`).

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
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
use tokio::sync::watch;
use tonic::Status;

use super::codec::Tasks;
use super::failure;
use super::security::{Address, Client, Credentials, refused, scheduler, unreachable};
use super::status::{self, ClusterStatus};
use super::timing::Timing;
use super::units::{OpenUnits, may_pass};
use crate::error::{Error, ErrorKind, Result};

/// Tasks of one submission: the scheduler sends each with its own plan, and looks through all of them for each poll. Further
/// units share tasks.
const TASKS: usize = 1000;

/// The descriptions of units in one submission, in bytes: some hundreds of units. While it is encoded and sent, there are
/// several copies of it, and of Ballista's part of each task.
const SUBMISSION_BYTES: usize = 256 << 10;

/// The most submissions at a time, each of which the scheduler is asked for.
const SUBMISSIONS: usize = 32;

/// The submitted units for each slot of the cluster below which the next ones are submitted.
const UNITS_PER_SLOT: usize = 4;

/// The client looks for the end of a submission after this share of the submission's age: it waits no longer in vain.
const PAUSE_SHARE: u32 = 64;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

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

    /// The descriptions of the units from the position `from` on that were not done at the last look: all of them, or as many
    /// as have `most_bytes` together and one more.
    ///
    /// # Errors
    /// `Internal` if they cannot be written.
    fn open_units(&self, from: usize, most_bytes: usize) -> Result<OpenUnits>;

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

/// How submissions ended.
enum Ended {
    /// All their units are done, or said to be.
    Done,
    /// The scheduler has lost one; it is submitted again.
    Lost(Error),
    /// A unit failed in every attempt, with an error that may pass.
    Failed(Error),
}

/// A part of the units that the scheduler has, and that a client which ends must cancel.
struct Submission {
    job: String,
    session: String,
    units: usize,
    since: Instant,
}

/// One round through all units of a job, which submits each open one once.
struct Round {
    /// The position of the next unit.
    next: usize,
    /// Whether all units have been looked at.
    is_all: bool,
    /// The units that were submitted.
    units: usize,
    /// The units of the last submission.
    last: usize,
    /// The units of the job that were done before.
    done: usize,
}

/// The signs of life by which a client waits or gives up.
struct Patience {
    /// The units that are done.
    done: usize,
    /// When their number last grew.
    progress: Instant,
    /// When the scheduler last said that there is an executor.
    executors: Instant,
    /// The slots of all executors.
    slots: usize,
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
        let mut submitted = Vec::new();
        let (submitting, mut is_submitting) = watch::channel(false);
        let computed = {
            let mut computed = pin!(self.submit_until_done(job, &mut submitted, &submitting));
            tokio::select! {
                computed = &mut computed => computed,
                kind = stop => {
                    // What the scheduler has just taken can only be cancelled by the name in its answer.
                    tokio::select! {
                        _ = is_submitting.wait_for(|is_submitting| !is_submitting) => {}
                        _ = computed => {}
                        () = tokio::time::sleep(CANCEL_TIMEOUT) => {}
                    }
                    Err(Error::new(kind, "stopped by a signal"))
                }
            }
        };
        // Without a scheduler, the lost lock of the output ends the units.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, self.cancel(submitted)).await;
        computed
    }

    async fn submit_until_done(
        &self,
        job: Arc<dyn OpenJob>,
        submitted: &mut Vec<Submission>,
        submitting: &watch::Sender<bool>,
    ) -> Result<()> {
        let description = Bytes::from(job.job()?);
        let now = Instant::now();
        let mut patience = Patience {
            done: 0,
            progress: now,
            executors: now,
            slots: 0,
            failures: 0,
            backoff: BACKOFF,
            says_waiting: false,
            next: now,
            next_status: now,
        };
        patience.look(&job).await?;
        loop {
            let (units, ended) =
                self.submit_all(&job, &description, submitted, submitting, &mut patience).await?;
            let (error, is_last) = match ended {
                Ended::Done if units == 0 => return Ok(()),
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

    /// Submits each open unit once, in parts: the next one while executors still have units of the last ones. Returns the
    /// number of units, once none of them is submitted any more.
    ///
    /// # Errors
    /// The error of a unit that another attempt cannot repair; those of [`OpenJob`].
    async fn submit_all(
        &self,
        job: &Arc<dyn OpenJob>,
        description: &Bytes,
        submitted: &mut Vec<Submission>,
        submitting: &watch::Sender<bool>,
        patience: &mut Patience,
    ) -> Result<(usize, Ended)> {
        let mut ended = Ended::Done;
        let mut round = Round { next: 0, is_all: false, units: 0, last: 0, done: patience.done };
        loop {
            while matches!(ended, Ended::Done) && round.wants_more(submitted, patience) {
                let from = round.next;
                let open = blocking(job, move |job| job.open_units(from, SUBMISSION_BYTES)).await?;
                if open.units.is_empty() {
                    round.is_all = true;
                    break;
                }
                (round.next, round.last) = (open.next, open.units.len());
                submitting.send_replace(true);
                match self.submit(&**job, description.clone(), open.units).await? {
                    Ok(submission) => {
                        round.units += round.last;
                        submitted.push(submission);
                    }
                    Err(lost) => ended = Ended::Lost(lost),
                }
                submitting.send_replace(false);
            }
            let Some(oldest) = submitted.first() else {
                patience.look(job).await?;
                return Ok((round.units, ended));
            };
            let pause = (oldest.since.elapsed() / PAUSE_SHARE).max(SHORTEST_PAUSE);
            tokio::time::sleep(pause.min(self.timing.progress).min(job.pause())).await;
            if Instant::now() >= patience.next {
                patience.look(job).await?;
            }
            match self.follow(submitted).await? {
                Ended::Done => {}
                // Executors end what they have; the next round has the rest.
                first => {
                    if matches!(ended, Ended::Done) {
                        ended = first;
                    }
                }
            }
            if !submitted.is_empty() && patience.next_status <= Instant::now() {
                patience.next_status = Instant::now() + self.timing.progress;
                self.check_executors(patience).await?;
            }
        }
    }

    /// Submits units. The outer error is final.
    async fn submit(
        &self,
        job: &dyn OpenJob,
        description: Bytes,
        open: Vec<Vec<u8>>,
    ) -> Result<std::result::Result<Submission, Error>> {
        let units = open.len();
        let tasks = Tasks { job: description, partitions: partitions(open) };
        let plan = tasks.encode().map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot describe the job to the cluster").source(e)
        })?;
        drop(tasks);
        let nonce = || RandomState::new().hash_one(std::process::id());
        let session = format!("{:016x}{:016x}", nonce(), nonce());
        let setting = |key: &str, value: &str| KeyValuePair {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        let request = ExecuteQueryParams {
            session_id: session.clone(),
            settings: vec![
                setting(BALLISTA_JOB_NAME, job.name()),
                // Otherwise a task has as many units as an executor has slots, and ends with the last of them.
                setting(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, "1"),
            ],
            operation_id: session.clone(),
            query: Some(Query::PhysicalPlan(plan.into())),
        };
        let answer = match scheduler(&self.client).execute_query(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let refused = refused(&status, &self.address);
                return refused.map_or_else(|| Ok(Err(self.error(&status))), Err);
            }
        };
        match answer.result {
            Some(execute_query_result::Result::Success(success)) => {
                tracing::info!(job = success.job_id, units, "submitted");
                let (job, since) = (success.job_id, Instant::now());
                Ok(Ok(Submission { job, session, units, since }))
            }
            other => {
                let message = format!("`{}` does not take the job: {other:?}", self.address);
                Err(Error::new(ErrorKind::Internal, message))
            }
        }
    }

    /// Looks at each submission, and removes those that have ended. Returns how the first one ended that is not done.
    ///
    /// # Errors
    /// The error of a unit that another attempt cannot repair.
    async fn follow(&self, submitted: &mut Vec<Submission>) -> Result<Ended> {
        let mut first = Ended::Done;
        let mut index = 0;
        while let Some(submission) = submitted.get(index) {
            let request = GetJobStatusParams { job_id: submission.job.clone() };
            let status = match scheduler(&self.client).get_job_status(request).await {
                Ok(status) => status.into_inner().status.and_then(|status| status.status),
                Err(status) => {
                    if let Some(refused) = refused(&status, &self.address) {
                        return Err(refused);
                    }
                    submitted.clear();
                    return Ok(Ended::Lost(self.error(&status)));
                }
            };
            let ended = match status {
                Some(job_status::Status::Successful(_)) => Ok(Ended::Done),
                Some(job_status::Status::Failed(failed)) => ended(&failed.error),
                Some(_) => {
                    index += 1;
                    continue;
                }
                None => {
                    let message =
                        format!("`{}` was started again and has forgotten the job", self.address);
                    Ok(Ended::Lost(Error::new(ErrorKind::Resources, message)))
                }
            };
            self.forget(submitted.remove(index).session).await;
            let ended = ended?;
            if matches!(first, Ended::Done) {
                first = ended;
            }
        }
        Ok(first)
    }

    /// Fails if there has been no executor for the time to wait.
    async fn check_executors(&self, patience: &mut Patience) -> Result<()> {
        // The scheduler is asked for the job anyway; an answer that is lost here is no news.
        let Ok(status) = self.status().await else { return Ok(()) };
        if !status.executors.is_empty() {
            patience.executors = Instant::now();
            patience.slots = status.executors.iter().map(|executor| executor.slots).sum();
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

    /// Ends the units of submissions that have not ended.
    async fn cancel(&self, submitted: Vec<Submission>) {
        for Submission { job: job_id, .. } in &submitted {
            let mut scheduler = scheduler(&self.client);
            let _ = scheduler.cancel_job(CancelJobParams { job_id: job_id.clone() }).await;
        }
        for submission in submitted {
            self.forget(submission.session).await;
        }
    }

    /// Removes the session of a submission from the scheduler.
    async fn forget(&self, session_id: String) {
        let mut scheduler = scheduler(&self.client);
        let removed = scheduler.remove_session(RemoveSessionParams { session_id });
        // A scheduler that was started again has no session.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, removed).await;
    }
}

impl Round {
    /// Whether executors may run out of the units that were submitted. Those of one submission are in reserve: which units are
    /// done is known late, if listing the manifests takes long.
    fn wants_more(&self, submitted: &[Submission], patience: &Patience) -> bool {
        let done = patience.done.saturating_sub(self.done);
        let in_flight = submitted.iter().map(|submission| submission.units).sum();
        let left = self.units.saturating_sub(done).min(in_flight);
        let enough = (self.last + 1).max(patience.slots * UNITS_PER_SLOT);
        let wants = submitted.is_empty() || submitted.len() < SUBMISSIONS && left < enough;
        wants && !self.is_all
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

/// The units of each task of a submission.
fn partitions(open: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let units_per_task = open.len().div_ceil(TASKS).max(1);
    let mut open = open.into_iter();
    let next = || {
        let task: Vec<_> = open.by_ref().take(units_per_task).collect();
        (!task.is_empty()).then_some(task)
    };
    std::iter::from_fn(next).collect()
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
        for (count, tasks, of_first) in [(0, 0, 0), (1, 1, 1), (1000, 1000, 1), (1001, 501, 2)] {
            let partitions = partitions(vec![vec![0_u8; 300]; count]);
            assert_eq!(partitions.len(), tasks);
            assert_eq!(partitions.first().map_or(0, Vec::len), of_first);
            assert_eq!(partitions.iter().map(Vec::len).sum::<usize>(), count);
        }
    }

    #[test]
    fn the_next_units_are_submitted_while_executors_have_some() {
        let now = Instant::now();
        let patience = |done, slots| Patience {
            done,
            progress: now,
            executors: now,
            slots,
            failures: 0,
            backoff: BACKOFF,
            says_waiting: false,
            next: now,
            next_status: now,
        };
        let submitted = |units: &[usize]| -> Vec<Submission> {
            let (job, session) = (String::new, String::new);
            let of = |units: &usize| Submission {
                job: job(),
                session: session(),
                units: *units,
                since: now,
            };
            units.iter().map(of).collect()
        };
        let mut round = Round { next: 1600, is_all: false, units: 1600, last: 800, done: 10 };
        assert!(!round.wants_more(&submitted(&[800, 800]), &patience(10, 2)));
        assert!(!round.wants_more(&submitted(&[800, 800]), &patience(809, 2)));
        assert!(round.wants_more(&submitted(&[800, 800]), &patience(810, 2)));
        // The number of units that are done comes late.
        assert!(round.wants_more(&submitted(&[800]), &patience(10, 2)));
        assert!(round.wants_more(&submitted(&[]), &patience(10, 2)));
        // A cluster with many slots has several submissions.
        assert!(round.wants_more(&submitted(&[800, 800]), &patience(10, 1000)));
        assert!(!round.wants_more(&submitted(&[50; SUBMISSIONS]), &patience(10, 1000)));
        round.is_all = true;
        assert!(!round.wants_more(&submitted(&[]), &patience(10, 2)));
    }
}
