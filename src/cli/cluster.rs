//! `hfauto-pipe cluster`: the services that `run --cluster` and `sql --cluster` use, and their state. Not here: the services themselves
//! (`crate::cluster`), the client (`run`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::observe::replace;
use super::signals::{self, Stop};
use crate::cluster::{
    Address, Allow, Cluster, ClusterStatus, Counters, CredentialFiles, Credentials, Executor,
    ExecutorOptions, PORT, Scheduler, Timing, Work,
};
use crate::error::{Error, ErrorKind, Result};
use crate::job::counted;

/// The interval between updates of an executor's metrics.
const METRICS_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    service: Service,
}

#[derive(Subcommand, Debug)]
enum Service {
    /// Hand out the units of clients to executors. One per cluster.
    Scheduler(SchedulerArgs),
    /// Compute units for a scheduler, until a signal. As many as there are machines or GPUs.
    Executor(ExecutorArgs),
    /// Show the executors and jobs of a scheduler.
    Status(ClusterStatusArgs),
}

/// How to prove who we are, and whom to trust.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct CredentialArgs {
    /// The file with the token that scheduler, executors and clients share.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The certificate of this process (PEM). On a scheduler, turns on TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of `--tls-cert` (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The authority that signs the certificates of the other side (PEM). On executors and clients, turns on TLS; on a
    /// scheduler, callers then need a certificate.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Connect to or listen on other machines without TLS and a token. Whoever reaches the port can then run pipelines.
    #[arg(long)]
    insecure: bool,
}

impl CredentialArgs {
    fn read(&self) -> Result<Credentials> {
        let Self { token_file: token, tls_cert: cert, tls_key: key, tls_ca: ca, .. } = self.clone();
        Credentials::read(&CredentialFiles { token, cert, key, ca })
    }

    /// The credentials for calls to a scheduler.
    ///
    /// # Errors
    /// `Usage` as [`Credentials::read`], and for another machine without TLS and a token.
    pub(super) fn for_calls_to(&self, address: &Address) -> Result<Credentials> {
        let credentials = self.read()?;
        credentials.check_target(address, self.insecure)?;
        Ok(credentials)
    }
}

/// How a client talks to a cluster.
#[derive(Args, Debug)]
struct ClientArgs {
    /// How long `--cluster` waits for a scheduler or for executors before it gives up.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    cluster_wait: Duration,

    #[command(flatten)]
    credentials: CredentialArgs,
}

impl ClientArgs {
    /// The cluster of a scheduler, if one is named.
    fn cluster(&self, scheduler: Option<&Address>) -> Result<Option<Cluster>> {
        let Some(address) = scheduler else {
            let CredentialArgs { token_file, tls_cert, tls_key, tls_ca, insecure } =
                &self.credentials;
            let files = [token_file, tls_cert, tls_key, tls_ca];
            if files.iter().any(|file| file.is_some()) || *insecure {
                let message = "`--token-file`, `--tls-…` and `--insecure` require `--cluster`";
                return Err(Error::new(ErrorKind::Usage, message));
            }
            return Ok(None);
        };
        let credentials = self.credentials.for_calls_to(address)?;
        let timing = Timing::from_env();
        Cluster::new(address.clone(), &credentials, timing, self.cluster_wait).map(Some)
    }
}

/// Where `run` has its units computed.
#[derive(Args, Debug)]
pub(super) struct OnCluster {
    /// Compute the units on a cluster: the address of its scheduler, `df://host:50050`. Inputs, outputs and models must
    /// have the same paths on all machines.
    #[arg(long, value_name = "SCHEDULER", conflicts_with_all = ["shard", "join", "dry_run", "limit"])]
    cluster: Option<Address>,

    #[command(flatten)]
    client: ClientArgs,
}

impl OnCluster {
    /// The cluster, if one is named.
    ///
    /// # Errors
    /// `Usage` for wrong credentials, or credentials without a cluster.
    pub(super) fn cluster(&self) -> Result<Option<Cluster>> {
        self.client.cluster(self.cluster.as_ref())
    }
}

/// Where `sql` has its queries computed.
#[derive(Args, Debug)]
pub(super) struct QueriesOnCluster {
    /// Read files and run models on a cluster: the address of its scheduler, `df://host:50050`. Files and local models must
    /// have the same paths on all machines. EXPLAIN shows what runs where.
    #[arg(long, value_name = "SCHEDULER")]
    cluster: Option<Address>,

    #[command(flatten)]
    client: ClientArgs,
}

impl QueriesOnCluster {
    /// The cluster, if one is named.
    ///
    /// # Errors
    /// As [`OnCluster::cluster`].
    pub(super) fn cluster(&self) -> Result<Option<Cluster>> {
        self.client.cluster(self.cluster.as_ref())
    }
}

#[derive(Args, Debug)]
struct SchedulerArgs {
    /// The address to listen on. Port 0 takes a free port; the address is printed on stdout.
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT))]
    bind: SocketAddr,

    /// Write the state of the cluster to this file (JSON) every two seconds.
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,

    #[command(flatten)]
    credentials: CredentialArgs,
}

#[derive(Args, Debug)]
struct ExecutorArgs {
    /// The scheduler, `df://host:50050`.
    #[arg(value_name = "SCHEDULER")]
    scheduler: Address,

    /// Units at a time. Two keep the cores busy while one unit ends and the next begins; more take more memory.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    units_in_flight: u16,

    /// The time for running units to end after SIGTERM, such as 110s or 5m. Units that take longer are computed again
    /// elsewhere.
    #[arg(long, value_name = "TIME", default_value = "110s", value_parser = duration)]
    grace: Duration,

    /// A folder or URL below which this executor may write the outputs of pipelines, and read the files of queries; may be
    /// repeated. Required for a scheduler on another machine.
    #[arg(long, value_name = "PLACE")]
    allow: Vec<String>,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,

    /// Write Prometheus metrics of the executor to this file (*.prom), for a textfile collector.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,

    #[command(flatten)]
    credentials: CredentialArgs,
}

#[derive(Args, Debug)]
struct ClusterStatusArgs {
    /// The scheduler, `df://host:50050`.
    #[arg(value_name = "SCHEDULER")]
    scheduler: Address,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    credentials: CredentialArgs,
}

/// A time such as `110s`, `5m` or `1h30m`.
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    crate::config::duration(text)
        .ok_or_else(|| "expected a time such as 90s, 5m or 1h30m".to_owned())
}

impl ClusterArgs {
    pub(super) fn run(self) -> Result<()> {
        match self.service {
            Service::Scheduler(args) => args.run(),
            Service::Executor(args) => args.run(),
            Service::Status(args) => args.run(),
        }
    }
}

impl SchedulerArgs {
    fn run(self) -> Result<()> {
        let credentials = self.credentials.read()?;
        let on_status = self.status_file.map(|path| {
            write_status(&path, &ClusterStatus::default())
                .map_err(|e| cannot_write("status file", &path, e))?;
            let write = move |status: ClusterStatus| {
                if let Err(error) = write_status(&path, &status) {
                    tracing::warn!(%error, "cannot write the status file");
                }
            };
            Ok::<_, Error>(Box::new(write) as Box<dyn Fn(ClusterStatus) + Send + Sync>)
        });
        let on_status = on_status.transpose()?;
        let stop = Stop::listen();
        super::block_on(async {
            let is_insecure = self.credentials.insecure;
            let scheduler =
                Scheduler::bind(self.bind, credentials, is_insecure, Timing::from_env()).await?;
            super::print(format_args!("{}\n", scheduler.address()))?;
            scheduler.serve(stop.asked(), on_status).await
        })
    }
}

fn write_status(path: &Path, status: &ClusterStatus) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(status)?;
    replace(path, text.as_bytes())
}

fn cannot_write(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot write the {what} `{}`", path.display()))
        .source(error)
        .hint("name a file in an existing, writable folder")
}

impl ExecutorArgs {
    fn run(self) -> Result<()> {
        let credentials = self.credentials.for_calls_to(&self.scheduler)?;
        let allow = self.allow()?;
        let hub = super::hub(self.offline);
        signals::allow(self.grace);
        let stop = Stop::listen();
        super::block_on(async {
            let work = Work::new(hub, &allow, &credentials, &self.scheduler)?;
            let options = ExecutorOptions {
                address: self.scheduler,
                credentials,
                slots: usize::from(self.units_in_flight),
                grace: self.grace,
                timing: Timing::from_env(),
            };
            let executor = Executor::new(options, Arc::new(work))?;
            super::print(format_args!("{}\n", executor.id()))?;
            let metrics = self.metrics_file.map(|path| Metrics::start(path, executor.counters()));
            let metrics = metrics.transpose()?;
            let ran = executor.run(stop.asked()).await;
            drop(metrics);
            ran
        })
    }

    /// The places of `--allow`, absolute. Without the flag, every place if only this machine submits jobs.
    fn allow(&self) -> Result<Allow> {
        if self.allow.is_empty() {
            if self.scheduler.is_loopback() {
                return Ok(Allow::everything());
            }
            let message = "an executor for other machines requires `--allow`";
            return Err(Error::new(ErrorKind::Usage, message).hint(
                "name the folders and URLs below which pipelines may write, such as `--allow s3://bucket/out`",
            ));
        }
        let absolute = |place: &String| {
            if place.contains("://") {
                return Ok(place.clone());
            }
            let path = std::path::absolute(place).map_err(|e| {
                Error::new(ErrorKind::Usage, format!("`--allow {place}` is not a folder")).source(e)
            })?;
            Ok(path.display().to_string())
        };
        self.allow.iter().map(absolute).collect::<Result<_>>().map(Allow::only)
    }
}

/// Writes the metrics of an executor until it is dropped, and then once more.
struct Metrics(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Metrics {
    fn start(path: PathBuf, counters: Arc<Counters>) -> Result<Self> {
        let write =
            move || replace(&path, counters.prometheus().as_bytes()).map_err(|e| (e, path.clone()));
        write().map_err(|(error, path)| cannot_write("metrics file", &path, error))?;
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            loop {
                let waited = stopped.recv_timeout(METRICS_INTERVAL);
                if let Err((error, _)) = write() {
                    tracing::warn!(%error, "cannot write the metrics file");
                }
                if waited != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Ok(Self(Some((stop, thread))))
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl ClusterStatusArgs {
    fn run(self) -> Result<()> {
        let credentials = self.credentials.for_calls_to(&self.scheduler)?;
        let status = super::block_on(async {
            let wait = Duration::ZERO;
            Cluster::new(self.scheduler, &credentials, Timing::from_env(), wait)?.status().await
        })?;
        if self.json {
            let json = serde_json::to_value(&status).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot convert the state to JSON").source(e)
            })?;
            return super::terminal::print_json(json);
        }
        super::print(describe(&status))
    }
}

fn describe(status: &ClusterStatus) -> String {
    let ClusterStatus { address, started_at, executors, jobs } = status;
    let mut text =
        format!("{address}: since {started_at}, {}\n", counted(executors.len() as u64, "executor"));
    for executor in executors {
        let busy = executor.slots.saturating_sub(executor.free);
        text += &format!("  {:40} {busy} of {} units in flight\n", executor.id, executor.slots);
    }
    for job in jobs {
        let units = counted(job.units as u64, "unit");
        text +=
            &format!("  {:40} {}, {units}, submitted {}\n", job.name, job.state, job.submitted_at);
    }
    text
}
