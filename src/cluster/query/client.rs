//! The client's side of queries: submits the units of a stage, and fetches their results in order while executors compute
//! the next ones. Not here: which part of a plan is a stage (`plan`), and submitting until all is done (`cluster::client`).

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io::{Seek, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use datafusion::common::Result as DataFusionResult;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use tempfile::SpooledTempFile;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tonic::{Code, Status};

use super::super::client::{Cluster, OpenJob};
use super::super::security::is_lost;
use super::super::units::{OpenUnits, first_units};
use super::wire::{Answer, Ask, ResultsClient, unit_state};
use crate::error::{Error, ErrorKind, Result};

/// The time between two looks at a running query.
const LOOK: Duration = Duration::from_millis(100);

/// The time between two calls that keep fetched and unfetched results at the scheduler.
const TOUCH: Duration = Duration::from_secs(1);

/// The time for a job to end whose results are fetched, or that was cancelled.
const END: Duration = Duration::from_secs(3);

/// The results of a unit that are held in memory; more are spooled to disk.
const SPOOL_BYTES: usize = 32 << 20;

/// The receiver of a query's rows.
pub(super) type Rows = mpsc::Sender<DataFusionResult<RecordBatch>>;

/// Runs stages of queries on a cluster.
pub(super) struct Queries {
    cluster: Cluster,
    results: ResultsClient,
    /// The queries that have not ended.
    running: watch::Sender<usize>,
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").finish_non_exhaustive()
    }
}

/// The units of one submission.
pub(super) struct Submission {
    /// The name under which the scheduler keeps the results.
    pub(super) query: String,
    /// The description of the stage.
    pub(super) job: Vec<u8>,
    pub(super) units: Vec<Vec<u8>>,
    /// What each unit reads, for messages.
    pub(super) names: Vec<String>,
}

/// A name for the results of a query that nobody guesses.
pub(super) fn query_name() -> String {
    let nonce = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", nonce(), nonce())
}

/// A submission, and what is known of its units.
struct QueryJob {
    submission: Submission,
    results: ResultsClient,
    known: Mutex<Known>,
    /// Set when the scheduler does not know the query: it was started again.
    forgotten: Notify,
}

#[derive(Default)]
struct Known {
    fetched: BTreeSet<usize>,
    /// The states of the units at the scheduler.
    states: Vec<u8>,
}

/// Counts a query until it has ended.
struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Queries {
    pub(super) fn new(cluster: Cluster) -> Self {
        let (client, address) = cluster.connection();
        let results = ResultsClient::new(client, address);
        Self { cluster, results, running: watch::Sender::new(0) }
    }

    /// Waits a moment for the queries whose rows nobody wants any more.
    pub(super) async fn settle(&self) {
        let mut running = self.running.subscribe();
        let _ = tokio::time::timeout(2 * END, running.wait_for(|running| *running == 0)).await;
    }

    /// Has units computed and sends their rows in order. Cancels the job if `rows` is closed.
    ///
    /// # Errors
    /// The error of a unit, or that of the cluster.
    pub(super) async fn run(
        self: &Arc<Self>,
        submission: Submission,
        schema: &SchemaRef,
        rows: &Rows,
    ) -> Result<()> {
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        let job = Arc::new(QueryJob {
            submission,
            results: self.results.clone(),
            known: Mutex::default(),
            forgotten: Notify::new(),
        });
        // If the scheduler does not answer, submitting waits for it.
        let _ = job.open().await;
        let mut fetch = std::pin::pin!(fetch(Arc::clone(&job), schema, rows));
        loop {
            let (stop, stopped) = oneshot::channel::<()>();
            let (queries, computed) = (Arc::clone(self), Arc::clone(&job));
            let mut computing = SpawnedTask::spawn(async move {
                let stop = async move {
                    let _ = stopped.await;
                    ErrorKind::Interrupted
                };
                queries.cluster.compute(computed, stop).await
            });
            tokio::select! {
                fetched = &mut fetch => {
                    let is_done = matches!(fetched, Ok(true));
                    #[expect(clippy::disallowed_methods, reason = "the caller need not wait until the scheduler knows")]
                    tokio::spawn(async move {
                        let _running = running;
                        if !is_done || tokio::time::timeout(END, &mut computing).await.is_err() {
                            let _ = stop.send(());
                            let _ = tokio::time::timeout(END, computing).await;
                        }
                        job.close().await;
                    });
                    return fetched.map(drop);
                }
                computed = &mut computing => {
                    let computed = computed.unwrap_or_else(|error| {
                        Err(Error::new(ErrorKind::Internal, "a query panicked").source(error))
                    });
                    if let Err(error) = computed {
                        job.close().await;
                        return Err(error);
                    }
                }
            }
            loop {
                tokio::select! {
                    fetched = &mut fetch => {
                        job.close().await;
                        return fetched.map(drop);
                    }
                    () = job.forgotten.notified() => break,
                    // Whoever takes the rows may take their time: the scheduler keeps the results of callers only.
                    () = tokio::time::sleep(TOUCH) => {
                        let _ = job.look().await;
                    }
                }
            }
        }
    }
}

/// Fetches all units in order and sends their rows. Returns false if nobody wants more.
async fn fetch(job: Arc<QueryJob>, schema: &SchemaRef, rows: &Rows) -> Result<bool> {
    for unit in 0..job.submission.units.len() {
        let fetched = tokio::select! {
            fetched = job.fetch(unit) => fetched?,
            () = rows.closed() => return Ok(false),
        };
        job.known().fetched.insert(unit);
        let batches = StreamReader::try_new(fetched, None);
        let batches = batches.map_err(|e| damaged(unit, e))?;
        for batch in batches {
            let batch = batch.map_err(|e| damaged(unit, e))?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let columns = batch.columns().to_vec();
            let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
                .map_err(|e| damaged(unit, e))?;
            if rows.send(Ok(batch)).await.is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn damaged(unit: usize, error: arrow::error::ArrowError) -> Error {
    let message = format!("the result of task {unit} has another form than the plan");
    Error::new(ErrorKind::Internal, message).source(error)
}

impl QueryJob {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn query(&self) -> String {
        self.submission.query.clone()
    }

    async fn open(&self) -> std::result::Result<(), Status> {
        let open = Ask::Open { query: self.query(), units: self.submission.units.len() };
        let (_, states) = self.results.ask(&open, b"").await?;
        self.known().states = states.to_vec();
        Ok(())
    }

    async fn look(&self) -> std::result::Result<(), Status> {
        let (_, states) = self.results.ask(&Ask::States { query: self.query() }, b"").await?;
        self.known().states = states.to_vec();
        Ok(())
    }

    async fn close(&self) {
        let _ = self.results.ask(&Ask::Close { query: self.query() }, b"").await;
    }

    /// The result of a unit, complete: rows of an attempt that another one replaces are not given out.
    async fn fetch(&self, unit: usize) -> Result<SpooledTempFile> {
        let mut file = SpooledTempFile::new(SPOOL_BYTES);
        let (mut offset, mut of) = (0, None);
        let spooled = |error: std::io::Error| {
            Error::new(ErrorKind::Resources, "cannot spool the rows of the query").source(error)
        };
        loop {
            let read = Ask::Read { query: self.query(), unit, offset };
            match self.results.ask(&read, b"").await {
                Ok((Answer::Part { attempt, total }, bytes)) => {
                    if of.is_some_and(|of| of != attempt) {
                        (offset, of) = (0, None);
                        file = SpooledTempFile::new(SPOOL_BYTES);
                        continue;
                    }
                    of = Some(attempt);
                    offset += bytes.len() as u64;
                    file.write_all(&bytes).map_err(spooled)?;
                    if offset >= total {
                        file.rewind().map_err(spooled)?;
                        return Ok(file);
                    }
                }
                Ok(_) => {}
                Err(status) => {
                    if status.code() != Code::NotFound && !is_lost(&status) {
                        return Err(self.results.error(&status));
                    }
                    (offset, of) = (0, None);
                    file = SpooledTempFile::new(SPOOL_BYTES);
                    self.known().states.clear();
                    self.forgotten.notify_one();
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Whether a unit needs no executor.
    fn is_done(known: &Known, unit: usize) -> bool {
        known.fetched.contains(&unit) || known.states.get(unit) == Some(&unit_state::DONE)
    }
}

impl OpenJob for QueryJob {
    fn name(&self) -> &'static str {
        "sql"
    }

    fn job(&self) -> Result<Vec<u8>> {
        Ok(self.submission.job.clone())
    }

    fn open_units(&self, from: usize, most_bytes: usize) -> Result<OpenUnits> {
        let units = &self.submission.units;
        if self.known().fetched.len() < units.len() && block_on(self.open()).is_err() {
            self.known().states.clear();
        }
        let known = self.known();
        let open = units.iter().enumerate().skip(from);
        let open = open.filter(|(unit, _)| !Self::is_done(&known, *unit));
        first_units(most_bytes, open.map(|(number, unit)| (number, Ok(unit.clone()))))
    }

    fn done(&self) -> Result<usize> {
        let units = self.submission.units.len();
        if self.known().fetched.len() < units {
            // Without an answer, the last state counts.
            let _ = block_on(self.look());
        }
        let known = self.known();
        Ok((0..units).filter(|unit| Self::is_done(&known, *unit)).count())
    }

    fn check(&self) -> Result<()> {
        let known = self.known();
        let deadly = known.states.iter().position(|state| *state == unit_state::DEADLY);
        let Some(name) = deadly.and_then(|unit| self.submission.names.get(unit)) else {
            return Ok(());
        };
        let message = "a task of the query has ended its executor in 3 attempts";
        Err(Error::new(ErrorKind::Data, message).at(name).hint(
            "executors may run out of memory: give them more, or lower `max_batch_tokens` in the `run` of `--pipeline`",
        ))
    }

    fn pause(&self) -> Duration {
        LOOK
    }
}

/// Waits on a thread that may block.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(work)
}

/// An error of ours in a stream of DataFusion.
pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
