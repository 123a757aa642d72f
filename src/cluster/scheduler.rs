//! The scheduler of a cluster: Ballista's, with pulling executors, behind [`Gate`], TLS and a token. Keeps its state in
//! memory: after a restart executors go on, and clients submit the rest of their jobs again. Not here: executors and
//! clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::metrics::NoopMetricsCollector;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::common::runtime::SpawnedTask;
use futures::FutureExt;
use tokio::net::TcpListener;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::codec::UnitCodec;
use super::gate::Gate;
use super::query::{Results, ResultsServer};
use super::security::{Address, Credentials};
use super::status::{ClusterStatus, Source, StatusServer};
use super::timing::Timing;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::CLUSTER_MESSAGE_BYTES;

/// Attempts of a task whose failures may pass: storage, hub, memory.
const TASK_ATTEMPTS: usize = 3;

/// The time that a job waits for executors before Ballista ends it: its client waits no longer than it was told to.
const NO_EXECUTORS_GRACE: Duration = Duration::from_hours(24);

/// A client of a query that has not called for this many timeouts is gone.
const CLIENT_TIMEOUTS: u32 = 3;

/// The time between two writes of the status file.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// A listening scheduler.
pub(crate) struct Scheduler {
    listener: TcpListener,
    address: Address,
    credentials: Credentials,
    timing: Timing,
}

impl Scheduler {
    /// Binds the address; port 0 takes a free port.
    ///
    /// # Errors
    /// `Usage` if other machines could connect without TLS and a token; `Resources` if the address is taken.
    pub(crate) async fn bind(
        bind: SocketAddr,
        credentials: Credentials,
        is_insecure: bool,
        timing: Timing,
    ) -> Result<Self> {
        credentials.check_listener(&Address::of(bind), is_insecure)?;
        let cannot = |e| {
            Error::new(ErrorKind::Resources, format!("cannot listen on `{bind}`"))
                .source(e)
                .hint("another process may use the port; `--bind HOST:0` takes a free one")
        };
        let listener = TcpListener::bind(bind).await.map_err(cannot)?;
        let address = Address::of(listener.local_addr().map_err(cannot)?);
        Ok(Self { listener, address, credentials, timing })
    }

    /// The address that executors and clients use from this machine.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until `stop`. Passes the state of the cluster to `on_status` every few seconds.
    ///
    /// # Errors
    /// `Usage` for damaged certificates; `Internal` if Ballista does not start.
    pub(crate) async fn serve(
        self,
        stop: impl Future<Output = ErrorKind>,
        on_status: Option<Box<dyn Fn(ClusterStatus) + Send + Sync>>,
    ) -> Result<()> {
        let gate = self.gate().await?;
        let service = SchedulerGrpcServer::new(gate.clone())
            .max_decoding_message_size(CLUSTER_MESSAGE_BYTES)
            .max_encoding_message_size(CLUSTER_MESSAGE_BYTES);
        let source: Source = {
            let gate = gate.clone();
            Arc::new(move || {
                let gate = gate.clone();
                async move { gate.status().await }.boxed()
            })
        };
        let mut server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(self.timing.timeout))
            .layer(InterceptorLayer::new(self.credentials.check()));
        if let Some(tls) = self.credentials.server_tls() {
            server = server.tls_config(tls).map_err(|e| {
                Error::new(ErrorKind::Usage, "cannot use `--tls-cert` and `--tls-key`").source(e)
            })?;
        }
        let results = Arc::new(Results::default());
        let expiring = {
            let (results, timing) = (Arc::clone(&results), self.timing);
            SpawnedTask::spawn(async move {
                loop {
                    results.expire(timing.timeout * CLIENT_TIMEOUTS);
                    tokio::time::sleep(timing.check).await;
                }
            })
        };
        let reporting = on_status.map(|on_status| {
            SpawnedTask::spawn(async move {
                loop {
                    on_status(gate.status().await);
                    tokio::time::sleep(STATUS_INTERVAL).await;
                }
            })
        });
        tracing::info!(address = %self.address, "scheduler started");
        let served = server
            .add_service(service)
            .add_service(StatusServer::new(source))
            .add_service(ResultsServer::new(results))
            .serve_with_incoming_shutdown(TcpIncoming::from(self.listener), async {
                stop.await;
            });
        let served = served.await;
        drop((reporting, expiring));
        tracing::info!("scheduler stopped");
        served.map_err(|e| Error::new(ErrorKind::Internal, "the scheduler ended").source(e))
    }

    async fn gate(&self) -> Result<Gate> {
        let started = |e: BallistaError| {
            Error::new(ErrorKind::Internal, "the scheduler does not start").source(e)
        };
        let config = SchedulerConfig {
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            executor_timeout_seconds: self.timing.timeout.as_secs(),
            expire_dead_executor_interval_seconds: self.timing.check.as_secs(),
            no_executors_grace_period_seconds: NO_EXECUTORS_GRACE.as_secs(),
            task_max_failures: TASK_ATTEMPTS,
            override_physical_codec: Some(Arc::new(UnitCodec::default())),
            ..SchedulerConfig::default()
        };
        let cluster = BallistaCluster::new_from_config(&config).await.map_err(started)?;
        let codec = BallistaCodec::new(
            Arc::new(BallistaLogicalExtensionCodec::default()),
            Arc::new(UnitCodec::default()),
        );
        let mut server = SchedulerServer::new(
            self.address.to_string(),
            cluster,
            codec,
            Arc::new(config),
            Arc::new(NoopMetricsCollector::default()),
        );
        server.init().await.map_err(started)?;
        Ok(Gate::new(server, self.address.to_string(), self.timing.timeout))
    }
}
