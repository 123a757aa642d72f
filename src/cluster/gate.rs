//! The calls that a scheduler accepts. Ballista alone accepts any plan, and a plan may read every file of an executor;
//! this program accepts units of pipelines and queries only. It also keeps the state for [`ClusterStatus`]. Not here: tokens and
//! certificates (`security`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult,
    CreateUpdateSessionParams, CreateUpdateSessionResult, ExecuteQueryParams, ExecuteQueryResult,
    ExecutorRegistration, ExecutorStoppedParams, ExecutorStoppedResult, GetJobMetricsParams,
    GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult,
    PollWorkParams, PollWorkResult, RegisterExecutorParams, RegisterExecutorResult,
    RemoveSessionParams, RemoveSessionResult, UpdateTaskStatusParams, UpdateTaskStatusResult,
    execute_query_result, executor_resource, job_status,
};
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::common::runtime::SpawnedTask;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tonic::{Request, Response, Status};

use super::codec::Tasks;
use super::status::{ClusterStatus, ExecutorState, JobState};

/// Ballista's scheduler.
pub(super) type Server = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Jobs to keep for the status.
const JOBS: usize = 100;

/// The states of a job that does not change any more.
const FAILED: &str = "failed";
const DONE: &str = "done";

/// Whether Ballista need not be asked for the state of a job, of which it copies every task.
fn has_ended(job: &JobState) -> bool {
    job.state == FAILED || job.state == DONE
}

/// Accepts units and nothing else.
#[derive(Clone)]
pub(super) struct Gate {
    server: Server,
    address: String,
    started_at: String,
    /// An executor that has not polled for this long is not shown.
    timeout: Duration,
    seen: Arc<Mutex<Seen>>,
}

/// What callers have done.
#[derive(Default)]
struct Seen {
    executors: BTreeMap<String, (ExecutorState, Instant)>,
    jobs: VecDeque<JobState>,
}

impl Seen {
    fn expire(&mut self, timeout: Duration) {
        self.executors.retain(|executor, (_, polled)| {
            let is_alive = polled.elapsed() < timeout;
            if !is_alive {
                tracing::info!(executor, "executor left");
            }
            is_alive
        });
    }
}

impl Gate {
    pub(super) fn new(server: Server, address: String, timeout: Duration) -> Self {
        let started_at = now();
        Self { server, address, started_at, timeout, seen: Arc::default() }
    }

    /// The state of the cluster.
    pub(super) async fn status(&self) -> ClusterStatus {
        let (executors, mut jobs) = {
            let mut seen = self.seen();
            seen.expire(self.timeout);
            let executors = seen.executors.values().map(|(state, polled)| {
                let seconds_since_poll = polled.elapsed().as_secs_f64();
                ExecutorState { seconds_since_poll, ..state.clone() }
            });
            (executors.collect(), seen.jobs.iter().cloned().collect::<Vec<_>>())
        };
        for job in jobs.iter_mut().filter(|job| !has_ended(job)) {
            let request = Request::new(GetJobStatusParams { job_id: job.id.clone() });
            let status = SchedulerGrpc::get_job_status(&self.server, request).await;
            let status = status.ok().and_then(|status| status.into_inner().status);
            let state = match status.and_then(|status| status.status) {
                Some(job_status::Status::Queued(_)) => "queued",
                Some(job_status::Status::Running(_)) => "running",
                Some(job_status::Status::Failed(_)) => FAILED,
                Some(job_status::Status::Successful(_)) => DONE,
                None => "forgotten",
            };
            state.clone_into(&mut job.state);
            if has_ended(job)
                && let Some(seen) = self.seen().jobs.iter_mut().find(|seen| seen.id == job.id)
            {
                seen.state.clone_from(&job.state);
            }
        }
        ClusterStatus {
            address: self.address.clone(),
            started_at: self.started_at.clone(),
            executors,
            jobs,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn polled(&self, executor: &ExecutorRegistration, free: u32) {
        let resources = executor.specification.iter().flat_map(|spec| &spec.resources);
        let slots = resources.filter_map(|resource| {
            resource.resource.map(|executor_resource::Resource::Vcores(vcores)| vcores as usize)
        });
        let state = ExecutorState {
            id: executor.id.clone(),
            slots: slots.sum(),
            free: free as usize,
            seconds_since_poll: 0.0,
        };
        let mut seen = self.seen();
        seen.expire(self.timeout);
        if seen.executors.insert(executor.id.clone(), (state, Instant::now())).is_none() {
            tracing::info!(executor = executor.id, "executor joined");
        }
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn unused<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not part of a cluster of hfauto-pipe")))
}

#[tonic::async_trait]
impl SchedulerGrpc for Gate {
    type ExecuteQueryPushStream = <Server as SchedulerGrpc>::ExecuteQueryPushStream;

    async fn poll_work(
        &self,
        request: Request<PollWorkParams>,
    ) -> Result<Response<PollWorkResult>, Status> {
        let params = request.get_ref();
        // Ballista takes these fields for granted.
        let executor = params.metadata.as_ref().filter(|executor| {
            executor.host.is_some()
                && executor.specification.is_some()
                && executor.os_info.is_some()
        });
        let Some(executor) = executor else {
            return Err(Status::invalid_argument("the executor does not describe itself"));
        };
        self.polled(executor, params.num_free_vcores);
        SchedulerGrpc::poll_work(&self.server, request).await
    }

    async fn execute_query(
        &self,
        request: Request<ExecuteQueryParams>,
    ) -> Result<Response<ExecuteQueryResult>, Status> {
        let params = request.get_ref();
        let Some(Query::PhysicalPlan(plan)) = params.query.clone() else {
            return Err(Status::invalid_argument("a job is a physical plan of units"));
        };
        let name = params.settings.iter().find(|setting| setting.key == BALLISTA_JOB_NAME);
        let name = name.and_then(|setting| setting.value.clone()).unwrap_or_default();
        // Tens of thousands of units take some time, during which executors poll.
        let tasks = SpawnedTask::spawn_blocking(move || Tasks::decode(&plan)).join().await;
        let tasks = tasks.map_err(|e| Status::internal(e.to_string()))?;
        let tasks = tasks.map_err(|e| Status::invalid_argument(e.strip_backtrace()))?;
        let units = tasks.partitions.iter().map(Vec::len).sum();
        let answer = SchedulerGrpc::execute_query(&self.server, request).await?;
        if let Some(execute_query_result::Result::Success(job)) = &answer.get_ref().result {
            tracing::info!(job = job.job_id, pipeline = name, units, "job submitted");
            let mut seen = self.seen();
            let id = job.job_id.clone();
            seen.jobs.push_front(JobState {
                id,
                name,
                units,
                submitted_at: now(),
                ..JobState::default()
            });
            seen.jobs.truncate(JOBS);
        }
        Ok(answer)
    }

    async fn get_job_status(
        &self,
        request: Request<GetJobStatusParams>,
    ) -> Result<Response<GetJobStatusResult>, Status> {
        SchedulerGrpc::get_job_status(&self.server, request).await
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobParams>,
    ) -> Result<Response<CancelJobResult>, Status> {
        SchedulerGrpc::cancel_job(&self.server, request).await
    }

    async fn remove_session(
        &self,
        request: Request<RemoveSessionParams>,
    ) -> Result<Response<RemoveSessionResult>, Status> {
        SchedulerGrpc::remove_session(&self.server, request).await
    }

    async fn register_executor(
        &self,
        _: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        unused("an executor that is sent tasks")
    }

    async fn heart_beat_from_executor(
        &self,
        _: Request<HeartBeatParams>,
    ) -> Result<Response<HeartBeatResult>, Status> {
        unused("an executor that is sent tasks")
    }

    async fn update_task_status(
        &self,
        _: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        unused("an executor that is sent tasks")
    }

    async fn create_update_session(
        &self,
        _: Request<CreateUpdateSessionParams>,
    ) -> Result<Response<CreateUpdateSessionResult>, Status> {
        unused("a session")
    }

    async fn execute_query_push(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<Self::ExecuteQueryPushStream>, Status> {
        unused("a stream of statuses")
    }

    async fn get_job_metrics(
        &self,
        _: Request<GetJobMetricsParams>,
    ) -> Result<Response<GetJobMetricsResult>, Status> {
        unused("a job's metrics")
    }

    async fn executor_stopped(
        &self,
        _: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        unused("a stopped executor")
    }

    async fn clean_job_data(
        &self,
        _: Request<CleanJobDataParams>,
    ) -> Result<Response<CleanJobDataResult>, Status> {
        unused("a job's data")
    }
}
