//! An executor of a cluster: asks the scheduler for tasks, computes their units, and reports the results. It opens no
//! port. Not here: what a unit is (`crate::job`).
//!
//! The loop is our own rather than Ballista's: it keeps a report until the scheduler has it, takes no task while it
//! shuts down, ends the units of a cancelled job, and computes on threads of the program's priority.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::{
    ExecutionError, ExecutorOperatingSystemSpecification, ExecutorRegistration, ExecutorResource,
    ExecutorSpecification, FailedTask, GetJobStatusParams, IoError, PollWorkParams,
    ShuffleWritePartition, SuccessfulTask, TaskDefinition, TaskKilled, TaskStatus,
    executor_resource, job_status, task_status,
};
use futures::FutureExt;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::codec::Tasks;
use super::failure;
use super::security::{Address, Client, Credentials, refused, scheduler, unreachable};
use super::timing::Timing;
use super::units::{UnitDone, Units, may_pass};
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::job::Cancel;

/// How long an executor that has ended its units tries to report them.
const LAST_REPORT: Duration = Duration::from_secs(10);

/// The time between two looks whether the jobs of running tasks still want them.
const JOB_INTERVAL: Duration = Duration::from_secs(2);

/// The options of an executor.
pub(crate) struct ExecutorOptions {
    /// The scheduler.
    pub(crate) address: Address,
    /// The credentials for calls to the scheduler.
    pub(crate) credentials: Credentials,
    /// Tasks at a time.
    pub(crate) slots: usize,
    /// The time for running units to end after a signal.
    pub(crate) grace: Duration,
    /// The intervals.
    pub(crate) timing: Timing,
}

/// The counters of an executor, for other threads to read.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    done: AtomicU64,
    failed: AtomicU64,
    rows: AtomicU64,
    in_flight: AtomicU64,
    is_connected: AtomicBool,
}

impl Counters {
    /// The counters in Prometheus' text format.
    pub(crate) fn prometheus(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (done, failed, rows) = (of(&self.done), of(&self.failed), of(&self.rows));
        let in_flight = of(&self.in_flight);
        let connected = u8::from(self.is_connected.load(Ordering::Relaxed));
        format!(
            "# HELP hfauto_pipe_executor_units_total Units since the start of the executor.\n\
             # TYPE hfauto_pipe_executor_units_total counter\n\
             hfauto_pipe_executor_units_total{{result=\"done\"}} {done}\n\
             hfauto_pipe_executor_units_total{{result=\"failed\"}} {failed}\n\
             # HELP hfauto_pipe_executor_rows_total Output rows of the units that are done.\n\
             # TYPE hfauto_pipe_executor_rows_total counter\n\
             hfauto_pipe_executor_rows_total {rows}\n\
             # HELP hfauto_pipe_executor_tasks_in_flight Tasks that the executor computes now.\n\
             # TYPE hfauto_pipe_executor_tasks_in_flight gauge\n\
             hfauto_pipe_executor_tasks_in_flight {in_flight}\n\
             # HELP hfauto_pipe_executor_connected Whether the scheduler answered the last poll.\n\
             # TYPE hfauto_pipe_executor_connected gauge\n\
             hfauto_pipe_executor_connected {connected}\n"
        )
    }
}

/// An executor.
pub(crate) struct Executor {
    id: String,
    options: ExecutorOptions,
    client: Client,
    units: Arc<dyn Units>,
    counters: Arc<Counters>,
    running: JoinSet<TaskStatus>,
    /// Results that the scheduler does not have yet.
    reports: Vec<TaskStatus>,
    /// The jobs of running tasks.
    jobs: BTreeMap<String, RunningJob>,
    jobs_seen: Instant,
    /// When a task was last taken or ended.
    last_task: Instant,
    /// Whether the last poll failed: the first failure of several is logged.
    is_silent: bool,
    /// Whether the answer to a poll was lost, perhaps with tasks; see [`Self::rename`].
    may_have_lost_tasks: bool,
    names: u32,
}

/// A job with running tasks.
#[derive(Default)]
struct RunningJob {
    tasks: usize,
    is_cancelled: bool,
    cancel: Cancel,
}

/// The end of an executor.
struct Drain {
    deadline: Instant,
    /// When the last unit ended.
    ended: Option<Instant>,
    /// The reason, unless a signal asked for it.
    error: Option<Error>,
}

impl Executor {
    /// An executor that has not contacted its scheduler.
    ///
    /// # Errors
    /// `Usage` for damaged certificates.
    pub(crate) fn new(options: ExecutorOptions, units: Arc<dyn Units>) -> Result<Self> {
        let client = options.credentials.client(&options.address)?;
        let nonce = RandomState::new().hash_one(std::process::id());
        let host = host().replace('.', "-");
        let id = format!("{host}-{}-{:08x}", std::process::id(), nonce & 0xffff_ffff);
        Ok(Self {
            id,
            options,
            client,
            units,
            counters: Arc::default(),
            running: JoinSet::new(),
            reports: Vec::new(),
            jobs: BTreeMap::new(),
            jobs_seen: Instant::now(),
            last_task: Instant::now(),
            is_silent: false,
            may_have_lost_tasks: false,
            names: 1,
        })
    }

    /// The counters, which stay valid.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The executor's name in logs and in the status of the cluster.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Computes tasks until `stop`, then ends the running ones within the grace time, reports them and returns.
    ///
    /// # Errors
    /// `Usage` or `Config` if the scheduler refuses this executor. The kind of `stop` if units had to be cut off.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ErrorKind>) -> Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut drain: Option<Drain> = None;
        tracing::info!(executor = self.id, scheduler = %self.options.address, "executor started");
        loop {
            self.rename();
            let takes = drain.is_none() && !self.may_have_lost_tasks;
            let free = if takes { self.options.slots - self.running.len() } else { 0 };
            match self.poll(free).await {
                Ok(tasks) => tasks.into_iter().for_each(|task| self.take(task, takes)),
                Err(error) if drain.is_none() => drain = Some(self.drain(Some(error))),
                Err(_) => self.reports.clear(),
            }
            self.watch_jobs().await;
            if let Some(drain) = drain.as_mut().filter(|_| self.running.is_empty()) {
                let ended = *drain.ended.get_or_insert_with(Instant::now);
                if self.reports.is_empty() || ended.elapsed() > LAST_REPORT {
                    break;
                }
            }
            let is_full = self.running.len() == self.options.slots;
            let timing = self.options.timing;
            let pause =
                if is_full { timing.heartbeat } else { timing.idle_for(self.last_task.elapsed()) };
            let deadline = drain.as_ref().map_or(Instant::now() + pause, |drain| drain.deadline);
            tokio::select! {
                Some(ended) = self.running.join_next() => self.ended(ended),
                () = tokio::time::sleep(pause) => {}
                _ = stop.as_mut(), if drain.is_none() => {
                    tracing::info!(running = self.running.len(), "executor ends its units");
                    drain = Some(self.drain(None));
                }
                () = tokio::time::sleep_until(deadline.into()),
                    if drain.is_some() && !self.running.is_empty() =>
                {
                    return Err(self.cut_off().await);
                }
            }
        }
        tracing::info!(executor = self.id, "executor stopped");
        match drain.and_then(|drain| drain.error) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Takes another id after an answer was lost: tasks in it would wait for ever for an executor that polls on. The
    /// scheduler gives the tasks of an id that polls no longer to others. Waits until the running tasks are reported, as
    /// they would otherwise be computed twice.
    fn rename(&mut self) {
        if self.may_have_lost_tasks && self.running.is_empty() && self.reports.is_empty() {
            self.may_have_lost_tasks = false;
            self.names += 1;
            let name = self.id.split('.').next().unwrap_or_default();
            self.id = format!("{name}.{}", self.names);
        }
    }

    fn drain(&self, error: Option<Error>) -> Drain {
        Drain { deadline: Instant::now() + self.options.grace, ended: None, error }
    }

    /// Ends running units at once. What they have not committed is computed elsewhere.
    async fn cut_off(&mut self) -> Error {
        let units = self.running.len();
        for job in self.jobs.values() {
            job.cancel.cancel(ErrorKind::Terminated);
        }
        let ending = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_REPORT, ending).await;
        let message = format!("{units} units did not end within the grace time");
        Error::new(ErrorKind::Terminated, message)
            .hint("other executors compute them again; `--grace` gives them more time")
    }

    /// Asks for tasks and delivers reports. An unreachable scheduler gives no tasks.
    ///
    /// # Errors
    /// If the scheduler refuses this executor.
    async fn poll(&mut self, free: usize) -> Result<Vec<TaskDefinition>> {
        let request = PollWorkParams {
            metadata: Some(self.registration()),
            num_free_vcores: u32::try_from(free).unwrap_or(u32::MAX),
            task_status: self.reports.clone(),
        };
        match scheduler(&self.client).poll_work(request).await {
            Ok(answer) => {
                if std::mem::take(&mut self.is_silent) {
                    tracing::info!(executor = self.id, "the scheduler answers again");
                }
                self.counters.is_connected.store(true, Ordering::Relaxed);
                self.reports.clear();
                Ok(answer.into_inner().tasks)
            }
            Err(status) => {
                self.counters.is_connected.store(false, Ordering::Relaxed);
                if let Some(error) = refused(&status, &self.options.address) {
                    return Err(error);
                }
                self.may_have_lost_tasks |= free > 0;
                if !std::mem::replace(&mut self.is_silent, true) {
                    let error = unreachable(&status, &self.options.address);
                    tracing::warn!(executor = self.id, %error, "waiting for the scheduler");
                }
                Ok(Vec::new())
            }
        }
    }

    fn registration(&self) -> ExecutorRegistration {
        let vcores = u32::try_from(self.options.slots).unwrap_or(u32::MAX);
        let resource = Some(executor_resource::Resource::Vcores(vcores));
        ExecutorRegistration {
            id: self.id.clone(),
            host: Some(host()),
            // Nothing listens: results are in the output's storage.
            port: 0,
            grpc_port: 0,
            specification: Some(ExecutorSpecification {
                resources: vec![ExecutorResource { resource }],
            }),
            os_info: Some(ExecutorOperatingSystemSpecification::default()),
            ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
        }
    }

    /// Starts a task, or returns it to the scheduler if this executor asked for none.
    fn take(&mut self, task: TaskDefinition, takes: bool) {
        if !takes {
            let reason = FailedReason::TaskKilled(TaskKilled {});
            let failed = failed("the executor takes no task".to_owned(), reason, true, false);
            return self.reports.push(report(&task, millis(), failed));
        }
        self.last_task = Instant::now();
        let job = self.jobs.entry(task.job_id.clone()).or_default();
        job.tasks += 1;
        let cancel = job.cancel.clone();
        let (units, counters, executor) =
            (Arc::clone(&self.units), Arc::clone(&self.counters), self.id.clone());
        let span = tracing::error_span!("executor", executor = self.id, job = task.job_id);
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let run = async move {
            let started = millis();
            let result = run_task(&task, units, &cancel, &counters).await;
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
            let status = match result {
                Ok(rows) => succeeded(&task, executor, rows),
                Err(error) => {
                    tracing::warn!(%error, "unit failed");
                    failure_of(&error)
                }
            };
            report(&task, started, status)
        };
        self.running.spawn(run.instrument(span));
    }

    fn ended(&mut self, ended: std::result::Result<TaskStatus, tokio::task::JoinError>) {
        let status = match ended {
            Ok(status) => status,
            // `run_task` turns panics into errors; the scheduler gives a task without a report to others in time.
            Err(error) => return tracing::error!(%error, "a task was lost"),
        };
        self.last_task = Instant::now();
        if let Some(job) = self.jobs.get_mut(&status.job_id) {
            job.tasks -= 1;
            if job.tasks == 0 {
                self.jobs.remove(&status.job_id);
            }
        }
        self.reports.push(status);
    }

    /// Ends the units of jobs that have ended: Ballista does not tell an executor that a job was cancelled.
    async fn watch_jobs(&mut self) {
        if self.jobs_seen.elapsed() < JOB_INTERVAL.min(self.options.timing.heartbeat) {
            return;
        }
        self.jobs_seen = Instant::now();
        for (job_id, job) in self.jobs.iter_mut().filter(|(_, job)| !job.is_cancelled) {
            let request = GetJobStatusParams { job_id: job_id.clone() };
            let answer = scheduler(&self.client).get_job_status(request).await;
            let status = answer.ok().and_then(|answer| answer.into_inner().status);
            let has_ended = matches!(
                status.and_then(|status| status.status),
                Some(job_status::Status::Failed(_) | job_status::Status::Successful(_))
            );
            // A job that the scheduler does not know was submitted to an earlier one; its client submits it again.
            if has_ended {
                tracing::info!(job = job_id, "the job has ended: its units are cancelled");
                job.cancel.cancel(ErrorKind::Interrupted);
                job.is_cancelled = true;
            }
        }
    }
}

/// Computes the units of a task one after another, and returns their rows.
async fn run_task(
    task: &TaskDefinition,
    units: Arc<dyn Units>,
    cancel: &Cancel,
    counters: &Counters,
) -> Result<u64> {
    let tasks = Tasks::decode(&task.plan).map_err(|e| {
        Error::new(ErrorKind::Config, "the executor cannot read the task").source(e)
    })?;
    let mut rows = 0;
    for unit in tasks.partitions.into_iter().flatten() {
        let ran = AssertUnwindSafe(units.run(&tasks.job, &unit, cancel)).catch_unwind().await;
        match ran.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            Ok(UnitDone { rows: Some(of_unit), was_done, .. }) => {
                if !was_done {
                    counters.done.fetch_add(1, Ordering::Relaxed);
                    counters.rows.fetch_add(of_unit, Ordering::Relaxed);
                }
                rows += of_unit;
            }
            // The client finds that it is missing, and says why.
            Ok(UnitDone { unit, rows: None, .. }) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    unit,
                    "unit not tried: earlier attempts have ended with their processes"
                );
            }
            Err(error) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
    Ok(rows)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = format!("a unit panicked: {}", guard::message(panic));
    Error::new(ErrorKind::Internal, message).hint("this is a bug of hfauto-pipe: please report it")
}

fn failure_of(error: &Error) -> task_status::Status {
    let text = failure::encode(error);
    match error.kind() {
        // Cut off here, or not wanted any more: no fault of the unit.
        ErrorKind::Interrupted | ErrorKind::Terminated => {
            failed(text, FailedReason::TaskKilled(TaskKilled {}), true, false)
        }
        kind if may_pass(kind) => failed(text, FailedReason::IoError(IoError {}), true, true),
        _ => failed(text, FailedReason::ExecutionError(ExecutionError {}), false, false),
    }
}

fn failed(
    error: String,
    reason: FailedReason,
    retryable: bool,
    count_to_failures: bool,
) -> task_status::Status {
    let failed_reason = Some(reason);
    task_status::Status::Failed(FailedTask { error, retryable, count_to_failures, failed_reason })
}

fn succeeded(task: &TaskDefinition, executor_id: String, rows: u64) -> task_status::Status {
    // Ballista wants a result for each partition; nobody fetches it.
    let partitions = task.global_output_partition_ids.iter().map(|id| ShuffleWritePartition {
        partition_id: u64::from(*id),
        num_rows: rows,
        ..ShuffleWritePartition::default()
    });
    let partitions = partitions.collect();
    task_status::Status::Successful(SuccessfulTask {
        executor_id,
        partitions,
        ..SuccessfulTask::default()
    })
}

fn report(task: &TaskDefinition, started: u64, status: task_status::Status) -> TaskStatus {
    TaskStatus {
        task_id: task.task_id,
        job_id: task.job_id.clone(),
        stage_id: task.stage_id,
        stage_attempt_num: task.stage_attempt_num,
        launch_time: task.launch_time,
        start_exec_time: started,
        end_exec_time: millis(),
        metrics: Vec::new(),
        status: Some(status),
    }
}

fn millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { "this-machine".to_owned() } else { host.trim().to_owned() }
}
