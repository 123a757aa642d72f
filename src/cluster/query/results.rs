//! The results of queries, kept by the scheduler until their client has fetched them. A unit has one result: that of the
//! first attempt which is complete, so that no row comes twice, whichever executors are lost or come back. Results of a
//! query are in one temporary file without a name, which vanishes with the process. Not here: the calls (`wire`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::wire::{Answer, Ask, CHUNK_BYTES, PATH, RawCodec, message, parts, unit_state};

/// How long a read waits for a unit that is not done.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Attempts at a unit that ended with their processes, after which it is not tried again.
const ATTEMPTS: usize = 3;

/// The most queries at a time.
const QUERIES: usize = 1000;

/// The most units of a query.
const UNITS: usize = 10_000_000;

/// The results of all queries of a scheduler.
#[derive(Default)]
pub(in super::super) struct Results {
    queries: Mutex<BTreeMap<String, Arc<Mutex<Query>>>>,
    /// Wakes the readers when a unit is done.
    committed: Notify,
}

struct Query {
    /// The last call of the client.
    touched: Instant,
    file: File,
    /// The end of the file.
    end: u64,
    units: Vec<Unit>,
}

#[derive(Default)]
struct Unit {
    done: Option<(u64, Written)>,
    /// Attempts that have begun and not ended.
    open: BTreeMap<u64, Written>,
}

/// The bytes of an attempt: parts of the file, as offsets and lengths.
#[derive(Default)]
struct Written {
    parts: Vec<(u64, u64)>,
    bytes: u64,
}

impl Unit {
    fn state(&self) -> u8 {
        match self {
            Self { done: Some(_), .. } => unit_state::DONE,
            _ if self.is_deadly() => unit_state::DEADLY,
            _ => unit_state::OPEN,
        }
    }

    fn is_deadly(&self) -> bool {
        self.open.len() >= ATTEMPTS
    }
}

impl Query {
    fn new(units: usize) -> Result<Self, Status> {
        if units > UNITS {
            return Err(Status::invalid_argument(format!("a query has at most {UNITS} units")));
        }
        let file = tempfile::tempfile().map_err(|e| Status::resource_exhausted(e.to_string()))?;
        let units = std::iter::repeat_with(Unit::default).take(units).collect();
        Ok(Self { touched: Instant::now(), file, end: 0, units })
    }

    fn unit(&mut self, number: usize) -> Result<&mut Unit, Status> {
        let wrong = || Status::invalid_argument(format!("the query has no unit {number}"));
        self.units.get_mut(number).ok_or_else(wrong)
    }

    fn begin(&mut self, number: usize) -> Result<Answer, Status> {
        // An attempt that an earlier scheduler knew must not be taken for one of this.
        let attempt = RandomState::new().hash_one(number);
        let unit = self.unit(number)?;
        if unit.done.is_some() {
            return Ok(Answer::WasDone);
        }
        if unit.is_deadly() {
            return Ok(Answer::Deadly);
        }
        unit.open.insert(attempt, Written::default());
        Ok(Answer::Begun { attempt })
    }

    fn append(
        &mut self,
        number: usize,
        attempt: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Answer, Status> {
        let end = self.end;
        let Some(written) = self.unit(number)?.open.get_mut(&attempt) else {
            return Err(Status::aborted("the attempt has ended"));
        };
        let length = bytes.len() as u64;
        // A call whose answer was lost comes again.
        if written.bytes == offset + length {
            return Ok(Answer::Ok);
        }
        if written.bytes != offset {
            return Err(Status::aborted("bytes of the attempt are missing"));
        }
        written.parts.push((end, length));
        written.bytes += length;
        let stored = self.file.write_all_at(bytes, end);
        stored.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        self.end += length;
        Ok(Answer::Ok)
    }

    fn commit(&mut self, number: usize, attempt: u64, bytes: u64) -> Result<Answer, Status> {
        let unit = self.unit(number)?;
        let written = unit.open.remove(&attempt);
        if unit.done.is_some() {
            return Ok(Answer::WasDone);
        }
        match written.filter(|written| written.bytes == bytes) {
            Some(written) => {
                unit.done = Some((attempt, written));
                Ok(Answer::Ok)
            }
            None => Err(Status::aborted("bytes of the attempt are missing")),
        }
    }

    fn read(&mut self, number: usize, offset: u64) -> Result<(Answer, Vec<u8>), Status> {
        let Some((attempt, written)) = &self.unit(number)?.done else {
            return Ok((Answer::NotYet, Vec::new()));
        };
        let (attempt, total) = (*attempt, written.bytes);
        let mut wanted = Vec::new();
        let (mut start, mut room) = (0, CHUNK_BYTES as u64);
        for (place, length) in &written.parts {
            let skipped = offset.saturating_sub(start).min(*length);
            let take = (length - skipped).min(room);
            if take > 0 {
                wanted.push((place + skipped, take as usize));
            }
            room -= take;
            start += length;
        }
        let mut bytes = Vec::new();
        for (place, length) in wanted {
            let from = bytes.len();
            bytes.resize(from + length, 0);
            let read = self.file.read_exact_at(&mut bytes[from..], place);
            read.map_err(|e| Status::internal(format!("cannot read a result: {e}")))?;
        }
        Ok((Answer::Part { attempt, total }, bytes))
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Results {
    /// Drops the results of queries whose clients have not called for `limit`. Their units are refused from then on,
    /// which ends their jobs.
    pub(in super::super) fn expire(&self, limit: Duration) {
        lock(&self.queries).retain(|query, state| {
            let is_kept = lock(state).touched.elapsed() < limit;
            if !is_kept {
                tracing::info!(query, "the client of the query has gone");
            }
            is_kept
        });
    }

    fn query(&self, query: &str) -> Result<Arc<Mutex<Query>>, Status> {
        let known = lock(&self.queries).get(query).map(Arc::clone);
        known.ok_or_else(|| Status::not_found("the scheduler does not know the query"))
    }

    fn touched(&self, query: &str) -> Result<Arc<Mutex<Query>>, Status> {
        let state = self.query(query)?;
        lock(&state).touched = Instant::now();
        Ok(state)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// `NotFound` for an unknown query; `Aborted` for an attempt that is not complete; `ResourceExhausted` without space.
    pub(super) async fn answer(&self, ask: Ask, bytes: &[u8]) -> Result<(Answer, Vec<u8>), Status> {
        let plain = |answer: Answer| Ok((answer, Vec::new()));
        match ask {
            Ask::Open { query, units } => {
                let mut queries = lock(&self.queries);
                if !queries.contains_key(&query) {
                    if queries.len() >= QUERIES {
                        let message = format!("there are {QUERIES} queries already");
                        return Err(Status::resource_exhausted(message));
                    }
                    queries.insert(query.clone(), Arc::new(Mutex::new(Query::new(units)?)));
                }
                drop(queries);
                Ok((Answer::States, self.states(&query)?))
            }
            Ask::States { query } => Ok((Answer::States, self.states(&query)?)),
            Ask::Read { query, unit, offset } => self.read(&query, unit, offset).await,
            Ask::Close { query } => {
                lock(&self.queries).remove(&query);
                plain(Answer::Ok)
            }
            Ask::Begin { query, unit } => plain(lock(&*self.query(&query)?).begin(unit)?),
            Ask::Append { query, unit, attempt, offset } => {
                let state = self.query(&query)?;
                plain(lock(&state).append(unit, attempt, offset, bytes)?)
            }
            Ask::Commit { query, unit, attempt, bytes } => {
                let answer = lock(&*self.query(&query)?).commit(unit, attempt, bytes)?;
                self.committed.notify_waiters();
                plain(answer)
            }
            Ask::Fail { query, unit, attempt } => {
                lock(&*self.query(&query)?).unit(unit)?.open.remove(&attempt);
                plain(Answer::Ok)
            }
        }
    }

    fn states(&self, query: &str) -> Result<Vec<u8>, Status> {
        let state = self.touched(query)?;
        let states = lock(&state).units.iter().map(Unit::state).collect();
        Ok(states)
    }

    async fn read(
        &self,
        query: &str,
        unit: usize,
        offset: u64,
    ) -> Result<(Answer, Vec<u8>), Status> {
        let deadline = tokio::time::Instant::now() + READ_WAIT;
        loop {
            let committed = self.committed.notified();
            let state = self.touched(query)?;
            let read = lock(&state).read(unit, offset)?;
            if read.0 != Answer::NotYet
                || tokio::time::timeout_at(deadline, committed).await.is_err()
            {
                return Ok(read);
            }
        }
    }
}

/// The service of the results.
#[derive(Clone)]
pub(in super::super) struct ResultsServer {
    results: Arc<Results>,
}

impl ResultsServer {
    pub(in super::super) fn new(results: Arc<Results>) -> Self {
        Self { results }
    }
}

impl NamedService for ResultsServer {
    const NAME: &'static str = "hfauto.Results";
}

impl Service<http::Request<Body>> for ResultsServer {
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
            Ok(tonic::server::Grpc::new(RawCodec).unary(service, request).await)
        })
    }
}

impl UnaryService<Bytes> for ResultsServer {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let results = Arc::clone(&self.results);
        Box::pin(async move {
            let (ask, bytes) = parts(request.into_inner())?;
            let (answer, bytes) = results.answer(ask, &bytes).await?;
            Ok(Response::new(message(&answer, &bytes)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const QUERY: &str = "q";

    fn query() -> String {
        QUERY.to_owned()
    }

    async fn answer(results: &Results, ask: Ask, bytes: &[u8]) -> Answer {
        results.answer(ask, bytes).await.unwrap().0
    }

    async fn begin(results: &Results, unit: usize) -> Answer {
        answer(results, Ask::Begin { query: query(), unit }, b"").await
    }

    async fn begun(results: &Results, unit: usize) -> u64 {
        match begin(results, unit).await {
            Answer::Begun { attempt } => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn append(attempt: u64, offset: u64) -> Ask {
        Ask::Append { query: query(), unit: 0, attempt, offset }
    }

    fn commit(attempt: u64, bytes: u64) -> Ask {
        Ask::Commit { query: query(), unit: 0, attempt, bytes }
    }

    async fn read(results: &Results, offset: u64) -> Vec<u8> {
        results.answer(Ask::Read { query: query(), unit: 0, offset }, b"").await.unwrap().1
    }

    async fn open() -> Results {
        let results = Results::default();
        answer(&results, Ask::Open { query: query(), units: 2 }, b"").await;
        results
    }

    #[tokio::test]
    async fn the_first_complete_attempt_counts() {
        let results = open().await;
        let (slow, fast) = (begun(&results, 0).await, begun(&results, 0).await);
        answer(&results, append(slow, 0), b"slow").await;
        answer(&results, append(fast, 0), b"fa").await;
        // The answer was lost: the same bytes come again.
        answer(&results, append(fast, 0), b"fa").await;
        answer(&results, append(fast, 2), b"st").await;
        assert_eq!(answer(&results, commit(fast, 4), b"").await, Answer::Ok);
        assert_eq!(answer(&results, commit(slow, 4), b"").await, Answer::WasDone);
        assert_eq!(begin(&results, 0).await, Answer::WasDone);
        assert_eq!(
            (read(&results, 0).await, read(&results, 3).await),
            (b"fast".to_vec(), b"t".to_vec())
        );
        assert!(read(&results, 4).await.is_empty());
        let (_, states) = results.answer(Ask::States { query: query() }, b"").await.unwrap();
        assert_eq!(states, [unit_state::DONE, unit_state::OPEN]);
    }

    #[tokio::test]
    async fn incomplete_attempts_do_not_count() {
        let results = open().await;
        let attempt = begun(&results, 0).await;
        let code = |ask: Ask| {
            let results = &results;
            async move { results.answer(ask, b"bytes").await.unwrap_err().code() }
        };
        assert_eq!(code(append(attempt, 3)).await, Code::Aborted);
        assert_eq!(code(commit(attempt, 1)).await, Code::Aborted);
        assert_eq!(code(append(attempt, 0)).await, Code::Aborted);
        assert_eq!(code(Ask::Begin { query: query(), unit: 2 }).await, Code::InvalidArgument);
        assert_eq!(code(Ask::States { query: "other".to_owned() }).await, Code::NotFound);
        let not_yet = answer(&results, Ask::Read { query: query(), unit: 0, offset: 0 }, b"").await;
        assert_eq!(not_yet, Answer::NotYet);
    }

    #[tokio::test]
    async fn a_unit_that_ends_its_processes_is_not_tried_for_ever() {
        let results = open().await;
        for _ in 0..ATTEMPTS {
            let failed = begun(&results, 1).await;
            answer(&results, Ask::Fail { query: query(), unit: 1, attempt: failed }, b"").await;
        }
        for _ in 0..ATTEMPTS {
            begun(&results, 1).await;
        }
        assert_eq!(begin(&results, 1).await, Answer::Deadly);
        let (_, states) = results.answer(Ask::States { query: query() }, b"").await.unwrap();
        assert_eq!(states, [unit_state::OPEN, unit_state::DEADLY]);
    }

    #[tokio::test]
    async fn results_without_a_client_are_dropped() {
        let results = open().await;
        results.expire(Duration::from_mins(1));
        begun(&results, 0).await;
        results.expire(Duration::ZERO);
        let refused = results.answer(Ask::Begin { query: query(), unit: 0 }, b"").await;
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn long_results_are_read_in_parts() {
        let results = open().await;
        let attempt = begun(&results, 0).await;
        let bytes: Vec<u8> = (0..CHUNK_BYTES + CHUNK_BYTES / 2).map(|i| (i % 251) as u8).collect();
        let mut offset = 0;
        for part in bytes.chunks(700_000) {
            answer(&results, append(attempt, offset), part).await;
            offset += part.len() as u64;
        }
        answer(&results, commit(attempt, offset), b"").await;
        let first = read(&results, 0).await;
        assert_eq!(first.len(), CHUNK_BYTES);
        let rest = read(&results, first.len() as u64).await;
        assert!([first, rest].concat() == bytes);
    }
}
