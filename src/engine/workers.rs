//! Threads that own a device and run forward passes.
//!
//! On a CPU the unit of parallelism is a worker a core, each with single-threaded kernels: batches are
//! independent, so nothing is split and nobody waits. Not here: which rows make a batch (`window`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use arrow::array::ArrayRef;
use tokio::sync::oneshot;

use super::metrics::StepMetrics;
use super::step::BatchSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::{Sequence, TaskModel};

/// One batch on its way to a worker.
struct Job {
    sequences: Arc<Vec<Sequence>>,
    batch: Vec<usize>,
    reply: oneshot::Sender<Result<ArrayRef>>,
}

/// A pool of workers over one model. Dropping it ends the threads after the batch they are on.
pub(super) struct Workers {
    queue: mpsc::Sender<Job>,
}

impl Workers {
    /// Starts the threads that `settings` asks for.
    ///
    /// # Errors
    /// `Resources` when the system gives no thread.
    pub(super) fn start(
        model: Arc<dyn TaskModel>,
        settings: BatchSettings,
        metrics: Arc<StepMetrics>,
    ) -> Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let max_batch_tokens = settings.max_batch_tokens;
        for number in 0..settings.workers.max(1) {
            let (model, jobs) = (Arc::clone(&model), Arc::clone(&jobs));
            let metrics = Arc::clone(&metrics);
            std::thread::Builder::new()
                .name(format!("model-worker-{number}"))
                .spawn(move || work(&*model, max_batch_tokens, &jobs, &metrics))
                .map_err(|e| {
                    Error::new(ErrorKind::Resources, "cannot start a model worker").source(e)
                })?;
        }
        Ok(Self { queue })
    }

    /// Queues a batch: numbers into `sequences`. The queue has no bound of its own: the windows in flight
    /// bound it. Dropping the receiver cancels the batch unless it has begun.
    pub(super) fn submit(
        &self,
        sequences: &Arc<Vec<Sequence>>,
        batch: Vec<usize>,
    ) -> oneshot::Receiver<Result<ArrayRef>> {
        let (reply, result) = oneshot::channel();
        // A send fails only when every worker has gone; the dropped `reply` then says so.
        let _ = self.queue.send(Job { sequences: Arc::clone(sequences), batch, reply });
        result
    }
}

/// The error for a reply that never came.
pub(super) fn worker_gone() -> Error {
    Error::new(ErrorKind::Internal, "a model worker stopped without an answer")
}

fn work(
    model: &dyn TaskModel,
    max_batch_tokens: usize,
    jobs: &Mutex<mpsc::Receiver<Job>>,
    metrics: &StepMetrics,
) {
    // candle hands its matrix products to the rayon pool it is called in: a pool of this one thread
    // keeps every kernel on this core.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let run = |job: Job| {
        if job.reply.is_closed() {
            return;
        }
        let batch: Vec<&Sequence> = job.batch.iter().map(|&i| &job.sequences[i]).collect();
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| model.forward(&batch, max_batch_tokens)))
            .unwrap_or_else(|panic| Err(panicked(&*panic)));
        let tokens: usize = batch.iter().map(|sequence| sequence.tokens()).sum();
        let longest = batch.iter().map(|sequence| sequence.tokens()).max().unwrap_or(0);
        let padded = longest * batch.len();
        metrics.computed(batch.len() as u64, tokens as u64, padded as u64, start.elapsed());
        let _ = job.reply.send(result);
    };
    let next = || jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
    while let Some(job) = next() {
        match &pool {
            Ok(pool) => pool.install(|| run(job)),
            Err(_) => run(job),
        }
    }
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
