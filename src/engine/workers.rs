//! Threads that own a device and run forward passes, for all model steps of a session.
//!
//! On a CPU the unit of parallelism is a worker a core, each with single-threaded kernels: batches are
//! independent, so nothing is split and nobody waits. Several models in one plan share the workers, so
//! that they do not crowd each other. Not here: which rows make a batch (`window`).

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::concat;
use tokio::sync::watch;

use super::row_errors::RowError;
use super::step::{ModelStep, RowErrors};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::{Sequence, TaskModel};

/// A batch to compute.
pub(super) struct Job {
    pub(super) step: Arc<ModelStep>,
    pub(super) model: Arc<dyn TaskModel>,
    /// The sequences of its window.
    pub(super) sequences: Arc<Vec<Sequence>>,
    /// Numbers into `sequences`.
    pub(super) batch: Vec<usize>,
}

/// What a batch came to.
pub(super) struct BatchResult {
    /// One value a sequence, in order; null for those that failed.
    pub(super) values: ArrayRef,
    /// The sequences that failed, by their index in the batch, and why. Empty where a failure ends the
    /// run.
    pub(super) failed: Vec<(usize, RowError)>,
}

/// What a batch came to, or will come to, for all who wait for it.
pub(super) type SharedBatch = watch::Receiver<Option<Outcome>>;

/// What a batch came to, to be shared.
pub(super) type Outcome = std::result::Result<Arc<BatchResult>, Arc<Error>>;

/// Waits for a batch.
///
/// # Errors
/// As the task that computes it; `Internal` when its worker has gone.
pub(super) async fn outcome(batch: &mut SharedBatch) -> Result<Arc<BatchResult>> {
    match batch.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Ok(result))) => Ok(Arc::clone(result)),
        Ok(Some(Err(error))) => Err(error.again()),
        Ok(None) | Err(_) => {
            Err(Error::new(ErrorKind::Internal, "a model worker stopped without an answer"))
        }
    }
}

/// A batch on its way to a worker.
struct Queued {
    job: Job,
    since: Instant,
    reply: watch::Sender<Option<Outcome>>,
}

/// The workers of a session: started with the first batch, ended with the last handle, after the batch
/// that they are on.
pub struct WorkerPool {
    workers: usize,
    queue: Mutex<Option<mpsc::Sender<Queued>>>,
}

impl WorkerPool {
    /// A pool of so many workers; at least one.
    pub fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), queue: Mutex::new(None) }
    }

    /// Queues a batch. The queue has no bound of its own: the windows in flight bound it. When nobody
    /// waits for the batch any more, it is not begun.
    ///
    /// # Errors
    /// `Resources` when the system gives no thread.
    pub(super) fn submit(&self, job: Job) -> Result<SharedBatch> {
        let (reply, result) = watch::channel(None);
        let mut queue = self
            .queue
            .lock()
            .map_err(|_| Error::new(ErrorKind::Internal, "starting the model workers panicked"))?;
        let sender = match &mut *queue {
            Some(sender) => sender,
            empty => empty.insert(self.start()?),
        };
        // A send fails only when every worker has gone; the dropped `reply` then says so.
        let _ = sender.send(Queued { job, since: Instant::now(), reply });
        Ok(result)
    }

    fn start(&self) -> Result<mpsc::Sender<Queued>> {
        let (sender, jobs) = mpsc::channel::<Queued>();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..self.workers {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("model-worker-{number}"))
                .spawn(move || work(&jobs))
                .map_err(|e| {
                    Error::new(ErrorKind::Resources, "cannot start a model worker").source(e)
                })?;
        }
        Ok(sender)
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("workers", &self.workers).finish_non_exhaustive()
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Queued>>) {
    // candle hands its matrix products to the rayon pool it is called in: a pool of this one thread
    // keeps every kernel on this core.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let next = || jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
    while let Some(queued) = next() {
        match &pool {
            Ok(pool) => pool.install(|| compute(queued)),
            Err(_) => compute(queued),
        }
    }
}

fn compute(Queued { job, since, reply }: Queued) {
    if reply.is_closed() {
        return;
    }
    let batch: Vec<&Sequence> = job.batch.iter().map(|&i| &job.sequences[i]).collect();
    let start = Instant::now();
    let result = forward(&job, &batch);
    let tokens: usize = batch.iter().map(|sequence| sequence.tokens()).sum();
    let longest = batch.iter().map(|sequence| sequence.tokens()).max().unwrap_or(0);
    let padded = longest * batch.len();
    let (rows, tokens, padded) = (batch.len() as u64, tokens as u64, padded as u64);
    job.step.metrics().computed(rows, tokens, padded, start.elapsed(), start - since);
    let _ = reply.send(Some(result.map(Arc::new).map_err(Arc::new)));
}

/// One forward pass; where errors of rows are kept, those of the rows that fail are found by halving.
fn forward(job: &Job, batch: &[&Sequence]) -> Result<BatchResult> {
    let max_batch_tokens = job.step.settings().max_batch_tokens;
    let result = catch_unwind(AssertUnwindSafe(|| job.model.forward(batch, max_batch_tokens)))
        .unwrap_or_else(|panic| Err(panicked(&*panic)));
    let error = match result {
        Ok(values) => return Ok(BatchResult { values, failed: Vec::new() }),
        Err(error) => error,
    };
    if job.step.row_errors() == RowErrors::Fail || error.kind() != ErrorKind::Data {
        return Err(error);
    }
    if let [_] = batch {
        let values = new_null_array(&job.step.task().sequence_type(), 1);
        return Ok(BatchResult { values, failed: vec![(0, RowError::from(&error))] });
    }
    let (first, second) = batch.split_at(batch.len() / 2);
    let (mut first, second) = (forward(job, first)?, forward(job, second)?);
    let before = first.values.len();
    first.failed.extend(second.failed.into_iter().map(|(index, error)| (before + index, error)));
    let values = concat(&[first.values.as_ref(), second.values.as_ref()])
        .map_err(|e| Error::new(ErrorKind::Internal, "results of a batch").source(e))?;
    Ok(BatchResult { values, failed: first.failed })
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::new(ErrorKind::Internal, format!("a model worker panicked: {text}"))
        .hint("this is a bug of hfauto-pipe: please report it with the model and the pipeline file")
}
