//! Scheduler, executors and client in one process, with units that only count. Real units and processes are in
//! `tests/it/cluster.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::{ExecuteQueryParams, PollWorkParams, RegisterExecutorParams};
use datafusion::common::runtime::SpawnedTask;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::Code;

use super::client::OpenJob;
use super::units::{OpenUnits, UnitDone, Units, first_units};
use super::*;
use crate::cluster::security::scheduler;
use crate::error::{Error, ErrorKind, Result};
use crate::job::Cancel;

/// The storage of an output, and what happens to its units.
#[derive(Default)]
struct Output {
    units: usize,
    time: Duration,
    done: Mutex<BTreeSet<usize>>,
    starts: Mutex<BTreeMap<usize, usize>>,
    /// Errors of a unit's attempts, the next one last.
    errors: Mutex<BTreeMap<usize, Vec<ErrorKind>>>,
    cancelled: Mutex<usize>,
}

impl Output {
    fn new(units: usize, millis: u64) -> Arc<Self> {
        Arc::new(Self { units, time: Duration::from_millis(millis), ..Self::default() })
    }

    fn done(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    fn starts(&self) -> usize {
        self.starts.lock().unwrap().values().sum()
    }
}

#[async_trait::async_trait]
impl Units for Output {
    async fn run(&self, job: &[u8], unit: &[u8], cancel: &Cancel) -> Result<UnitDone> {
        assert_eq!(job, b"the job");
        let number: usize = std::str::from_utf8(unit).unwrap().parse().unwrap();
        let done = UnitDone { unit: number.to_string(), rows: Some(1), was_done: false };
        if self.done.lock().unwrap().contains(&number) {
            return Ok(done);
        }
        *self.starts.lock().unwrap().entry(number).or_default() += 1;
        if let Ok(kind) = tokio::time::timeout(self.time, cancel.cancelled()).await {
            *self.cancelled.lock().unwrap() += 1;
            return Err(Error::new(kind, "cancelled"));
        }
        if let Some(kind) = self.errors.lock().unwrap().get_mut(&number).and_then(Vec::pop) {
            let error = Error::new(kind, format!("unit {number} is \"broken\""));
            return Err(error.at("rows 1 to 2 of `x`").hint("repair it"));
        }
        self.done.lock().unwrap().insert(number);
        Ok(done)
    }
}

impl OpenJob for Output {
    fn name(&self) -> &'static str {
        "test"
    }

    fn job(&self) -> Result<Vec<u8>> {
        Ok(b"the job".to_vec())
    }

    fn open_units(&self, from: usize, most_bytes: usize) -> Result<OpenUnits> {
        let done = self.done.lock().unwrap();
        let open = (from..self.units).filter(|unit| !done.contains(unit));
        first_units(most_bytes, open.map(|unit| (unit, Ok(unit.to_string().into_bytes()))))
    }

    fn done(&self) -> Result<usize> {
        Ok(Output::done(self))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// A scheduler or executor with its own runtime, which dies with it like a process.
struct Running {
    stop: watch::Sender<Option<ErrorKind>>,
    task: Option<SpawnedTask<Result<()>>>,
    runtime: Option<Runtime>,
}

impl Running {
    fn start<F>(work: impl FnOnce(watch::Receiver<Option<ErrorKind>>) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (stop, asked) = watch::channel(None);
        let _entered = runtime.enter();
        let task = Some(SpawnedTask::spawn(work(asked)));
        Self { stop, task, runtime: Some(runtime) }
    }

    /// Stops it as a signal does.
    async fn stop(self) -> Result<()> {
        self.stop.send_replace(Some(ErrorKind::Terminated));
        self.end().await
    }

    /// Waits for its end.
    async fn end(mut self) -> Result<()> {
        self.task.take().unwrap().join().await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn stopped(mut stop: watch::Receiver<Option<ErrorKind>>) -> ErrorKind {
    stop.wait_for(Option::is_some).await.unwrap().unwrap()
}

fn timing() -> Timing {
    Timing::of(Duration::from_secs(2))
}

async fn start_scheduler(bind: &str, credentials: Credentials) -> (Address, Running) {
    let bind: SocketAddr = bind.parse().unwrap();
    let (bound, address) = tokio::sync::oneshot::channel();
    let running = Running::start(|stop| async move {
        let scheduler = Scheduler::bind(bind, credentials, false, timing()).await?;
        bound.send(scheduler.address().clone()).unwrap();
        scheduler.serve(stopped(stop), None).await
    });
    (address.await.unwrap(), running)
}

fn executor(address: &Address, credentials: &Credentials, output: &Arc<Output>) -> Running {
    let options = ExecutorOptions {
        address: address.clone(),
        credentials: credentials.clone(),
        slots: 2,
        grace: Duration::from_secs(5),
        timing: timing(),
    };
    let units = Arc::clone(output) as Arc<dyn Units>;
    Running::start(|stop| async move { Executor::new(options, units)?.run(stopped(stop)).await })
}

fn cluster(address: &Address, credentials: &Credentials) -> Cluster {
    Cluster::new(address.clone(), credentials, timing(), Duration::from_secs(3)).unwrap()
}

async fn compute(address: &Address, output: &Arc<Output>) -> Result<()> {
    let job = Arc::clone(output) as Arc<dyn OpenJob>;
    cluster(address, &Credentials::default()).compute(job, std::future::pending()).await
}

const LOOPBACK: &str = "127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn every_unit_is_computed_once() {
    let (address, scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(20, 20);
    let none = Credentials::default();
    let executors = [executor(&address, &none, &output), executor(&address, &none, &output)];
    compute(&address, &output).await.unwrap();
    assert_eq!((output.done(), output.starts()), (20, 20));
    let status = cluster(&address, &none).status().await.unwrap();
    assert_eq!(status.executors.iter().map(|executor| executor.slots).collect::<Vec<_>>(), [2, 2]);
    let job = &status.jobs[0];
    assert_eq!((job.name.as_str(), job.units, job.state.as_str()), ("test", 20, "done"));
    // Nothing is left to do.
    compute(&address, &output).await.unwrap();
    assert_eq!(output.starts(), 20);
    for executor in executors {
        executor.stop().await.unwrap();
    }
    scheduler.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_may_pass_is_tried_again_and_another_is_not() {
    let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(6, 10);
    let _executor = executor(&address, &Credentials::default(), &output);
    output.errors.lock().unwrap().insert(2, vec![ErrorKind::Sink, ErrorKind::Resources]);
    compute(&address, &output).await.unwrap();
    assert_eq!((output.done(), output.starts()), (6, 8));

    for (kind, starts) in [(ErrorKind::Data, 1), (ErrorKind::Sink, 6)] {
        let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
        let output = Output::new(1, 10);
        let _executor = executor(&address, &Credentials::default(), &output);
        output.errors.lock().unwrap().insert(0, vec![kind; 100]);
        let error = compute(&address, &output).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (kind, "unit 0 is \"broken\""));
        assert_eq!(
            (error.places(), error.remedy()),
            (&["rows 1 to 2 of `x`".to_owned()][..], Some("repair it"))
        );
        assert_eq!(output.starts(), starts, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_its_units() {
    let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(8, 60_000);
    let _executor = executor(&address, &Credentials::default(), &output);
    let job = Arc::clone(&output) as Arc<dyn OpenJob>;
    let started = Arc::clone(&output);
    let stop = async move {
        while started.starts() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ErrorKind::Interrupted
    };
    let error = cluster(&address, &Credentials::default()).compute(job, stop).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let begun = Instant::now();
    while *output.cancelled.lock().unwrap() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "units of a cancelled job run on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(output.starts(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_stops_ends_its_units_and_takes_no_more() {
    let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(12, 300);
    let none = Credentials::default();
    let first = executor(&address, &none, &output);
    let job = Arc::clone(&output);
    let of_client = address.clone();
    let client = SpawnedTask::spawn(async move { compute(&of_client, &job).await });
    while output.starts() < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.stop().await.unwrap();
    let (done, starts) = (output.done(), output.starts());
    assert_eq!(done, starts, "a unit was cut off");
    assert!(done < 12);
    let _second = executor(&address, &none, &output);
    client.join().await.unwrap().unwrap();
    assert_eq!((output.done(), output.starts()), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_lost_executor_are_given_to_others() {
    let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(10, 200);
    let none = Credentials::default();
    let lost = executor(&address, &none, &output);
    let job = Arc::clone(&output);
    let of_client = address.clone();
    let client = SpawnedTask::spawn(async move { compute(&of_client, &job).await });
    while output.starts() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As SIGKILL: it polls no more. Its units end, because threads cannot be killed.
    drop(lost);
    let _other = executor(&address, &none, &output);
    client.join().await.unwrap().unwrap();
    assert_eq!(output.done(), 10);
    assert!(output.starts() <= 12, "{}", output.starts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_may_be_started_again() {
    let (address, first) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let output = Output::new(12, 150);
    let _executor = executor(&address, &Credentials::default(), &output);
    let job = Arc::clone(&output);
    let of_client = address.clone();
    let client = SpawnedTask::spawn(async move { compute(&of_client, &job).await });
    while output.starts() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(first);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let bind = address.to_string().replace("df://", "");
    let (_, _second) = start_scheduler(&bind, Credentials::default()).await;
    client.join().await.unwrap().unwrap();
    assert_eq!((output.done(), output.starts()), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_only_so_long() {
    let output = Output::new(1, 10);
    let (address, scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let error = compute(&address, &output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resources);
    assert!(error.message().contains("has had no executor for 3s"), "{error}");
    scheduler.stop().await.unwrap();
    let error = compute(&address, &output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resources);
    assert!(error.message().contains("does not answer"), "{error}");
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name)
}

fn credentials(token: Option<&Path>, identity: Option<&str>, ca: Option<&str>) -> Credentials {
    let of = |end: &str| identity.map(|name| pem(&format!("{name}.{end}")));
    let files = CredentialFiles {
        token: token.map(Path::to_owned),
        cert: of("pem"),
        key: of("key"),
        ca: ca.map(|name| pem(&format!("{name}.pem"))),
    };
    Credentials::read(&files).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_need_the_token_a_certificate_and_the_same_build() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    std::fs::write(&right, "a-token-for-tests\n").unwrap();
    std::fs::write(&wrong, "another-token").unwrap();
    let (right, wrong) = (Some(right.as_path()), Some(wrong.as_path()));
    let of_server = credentials(right, Some("server"), Some("ca"));
    let (address, _scheduler) = start_scheduler(LOOPBACK, of_server).await;
    let output = Output::new(4, 10);

    let own = credentials(right, Some("client"), Some("ca"));
    let _executor = executor(&address, &own, &output);
    let job = || Arc::clone(&output) as Arc<dyn OpenJob>;
    cluster(&address, &own).compute(job(), std::future::pending()).await.unwrap();
    assert_eq!(output.done(), 4);
    output.done.lock().unwrap().clear();

    for (token, identity, ca, kind) in [
        (None, Some("client"), Some("ca"), ErrorKind::Usage),
        (wrong, Some("client"), Some("ca"), ErrorKind::Usage),
        (right, Some("client"), Some("other"), ErrorKind::Usage),
        // What TLS says to a caller without a certificate, or without TLS, differs by timing.
        (right, None, Some("ca"), ErrorKind::Resources),
        (right, None, None, ErrorKind::Resources),
    ] {
        let credentials = credentials(token, identity, ca);
        let computed = cluster(&address, &credentials).compute(job(), std::future::pending()).await;
        let error = computed.unwrap_err();
        let is_expected =
            error.kind() == kind || identity.is_none() && error.kind() == ErrorKind::Usage;
        assert!(is_expected, "{:?} for {identity:?} {ca:?}: {error}", error.kind());
        if token != right {
            let refused = executor(&address, &credentials, &output).end().await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Usage);
        }
    }
    let client = own.client_of(&address, "0.0.1").unwrap();
    let status = scheduler(&client).poll_work(PollWorkParams::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("the caller hfauto-pipe 0.0.1"), "{status}");
    assert_eq!(output.starts(), 4, "a refused client had a unit computed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_takes_units_only() {
    let (address, _scheduler) = start_scheduler(LOOPBACK, Credentials::default()).await;
    let client = Credentials::default().client(&address).unwrap();
    let submit = async |query: Option<Query>| {
        let query = ExecuteQueryParams { query, ..ExecuteQueryParams::default() };
        scheduler(&client).execute_query(query).await.unwrap_err().code()
    };
    assert_eq!(submit(None).await, Code::InvalidArgument);
    for bytes in [Vec::new(), b"x".to_vec()] {
        assert_eq!(submit(Some(Query::LogicalPlan(bytes.clone()))).await, Code::InvalidArgument);
        assert_eq!(submit(Some(Query::SubstraitPlan(bytes.clone()))).await, Code::InvalidArgument);
        assert_eq!(submit(Some(Query::PhysicalPlan(bytes))).await, Code::InvalidArgument);
    }
    let polled = scheduler(&client).poll_work(PollWorkParams::default()).await;
    assert_eq!(polled.unwrap_err().code(), Code::InvalidArgument);
    let registered = scheduler(&client).register_executor(RegisterExecutorParams::default()).await;
    assert_eq!(registered.unwrap_err().code(), Code::Unimplemented);
}
