//! The state of a cluster, as its scheduler sees it: `cluster status`, the status file, and the client's waiting for
//! executors. The call is one of our own beside those of Ballista, whose protocol has none for it. Not here: collecting
//! the state (`gate`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ballista_core::serde::protobuf::KeyValuePair;
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::security::Client;

const PATH: &str = "/hfauto.Cluster/Status";

/// The state of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterStatus {
    /// The scheduler's address.
    pub(crate) address: String,
    /// The scheduler's start, RFC 3339, UTC.
    pub(crate) started_at: String,
    /// The executors that polled recently.
    pub(crate) executors: Vec<ExecutorState>,
    /// The jobs since the scheduler's start, newest first; only the last ones.
    pub(crate) jobs: Vec<JobState>,
}

/// An executor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExecutorState {
    /// Its id, with host and process.
    pub(crate) id: String,
    /// The tasks that it runs at a time.
    pub(crate) slots: usize,
    /// Slots without a task at its last poll.
    pub(crate) free: usize,
    /// The seconds since its last poll.
    pub(crate) seconds_since_poll: f64,
}

/// A submitted job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobState {
    /// Its id in the scheduler.
    pub(crate) id: String,
    /// The pipeline's name.
    pub(crate) name: String,
    /// Its units.
    pub(crate) units: usize,
    /// When it was submitted, RFC 3339, UTC.
    pub(crate) submitted_at: String,
    /// `queued`, `running`, `done`, `failed` or `forgotten`.
    pub(crate) state: String,
}

/// Makes the current state.
pub(super) type Source =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ClusterStatus> + Send>> + Send + Sync>;

/// Serves the state.
#[derive(Clone)]
pub(super) struct StatusServer {
    source: Source,
}

impl StatusServer {
    pub(super) fn new(source: Source) -> Self {
        Self { source }
    }
}

impl NamedService for StatusServer {
    const NAME: &'static str = "hfauto.Cluster";
}

impl Service<http::Request<Body>> for StatusServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("no such call").into_http());
            }
            let codec = ProstCodec::<KeyValuePair, KeyValuePair>::default();
            Ok(tonic::server::Grpc::new(codec).unary(service, request).await)
        })
    }
}

impl UnaryService<KeyValuePair> for StatusServer {
    type Response = KeyValuePair;
    type Future = BoxFuture<Response<KeyValuePair>, Status>;

    fn call(&mut self, _: Request<KeyValuePair>) -> Self::Future {
        let status = (self.source)();
        Box::pin(async move {
            let json = serde_json::to_string(&status.await);
            let json = json.map_err(|e| Status::internal(e.to_string()))?;
            Ok(Response::new(KeyValuePair { key: "status".to_owned(), value: Some(json) }))
        })
    }
}

/// Asks a scheduler for its state.
///
/// # Errors
/// The status of the call.
pub(super) async fn ask(client: &Client) -> Result<ClusterStatus, Status> {
    let mut grpc = tonic::client::Grpc::new(client.clone());
    grpc.ready().await.map_err(|e| Status::from_error(StdError::from(e)))?;
    let codec = ProstCodec::<KeyValuePair, KeyValuePair>::default();
    let path = PathAndQuery::from_static(PATH);
    let request = Request::new(KeyValuePair { key: "status".to_owned(), value: None });
    let answer = grpc.unary(request, path, codec).await?.into_inner();
    let text = answer.value.unwrap_or_default();
    serde_json::from_str(&text).map_err(|e| Status::internal(format!("the status is damaged: {e}")))
}
