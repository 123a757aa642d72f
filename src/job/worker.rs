//! Computes units of a job that another process has prepared and whose output that process holds. A worker makes the plan
//! itself, checks that it is the same plan, and commits each unit on its own. Not here: which units a worker gets, and
//! publishing (`coordinator`).

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use datafusion::execution::TaskContext;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, Runtime};

use super::compute::{Outcome, deadly};
use super::spec::{JobSpec, UnitSpec};
use super::{Cancel, Job};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::limits::THREAD_STACK_BYTES;
use crate::sink::{Committed, UnitOutput};

/// The jobs that a process keeps open.
const KEPT: usize = 2;

/// The settings of a worker that do not come from the job.
#[derive(Clone, Default)]
pub struct WorkerOptions {
    /// Where models come from. Default: the hub with the settings of the environment.
    pub hub: Option<Arc<Hub>>,
}

/// A job that this process computes units of. Threads share it.
pub struct Worker {
    job: Job,
    output: UnitOutput,
    /// One for all units: later ones use cached results of earlier ones.
    context: Arc<TaskContext>,
    run_id: String,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("run_id", &self.run_id).finish_non_exhaustive()
    }
}

/// A unit that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// The id of the unit.
    pub unit: String,
    /// Its output rows.
    pub rows: u64,
    /// The rows that failed.
    pub failed_rows: u64,
    /// The bytes of its parts.
    pub bytes: u64,
    /// The seconds that this call took.
    pub seconds: f64,
    /// Whether it was done before this call.
    pub was_done: bool,
}

impl UnitRecord {
    fn new(unit: &UnitSpec, done: &Committed, start: Instant, was_done: bool) -> Self {
        Self {
            unit: unit.id().to_owned(),
            rows: done.rows(),
            failed_rows: done.errors().failed,
            bytes: done.bytes(),
            seconds: start.elapsed().as_secs_f64(),
            was_done,
        }
    }
}

type Open = VecDeque<(blake3::Hash, Arc<Worker>)>;

/// The open jobs of this process by the hash of their description, the last used one first.
static OPEN: Mutex<Open> = Mutex::new(VecDeque::new());

impl Worker {
    /// Opens a job, or returns it if this process has it open. Reads no input and no weights. Blocks.
    ///
    /// # Errors
    /// `Config` if this process does not make the same plan, because of another build or other model files; `Resources` if
    /// the process that prepared the job no longer holds the output; otherwise as [`Job::prepare`].
    pub fn open(spec: JobSpec, options: WorkerOptions) -> Result<Arc<Self>> {
        let hash = blake3::hash(&spec.to_bytes()?);
        // Held while the job is opened, so that threads that open the same job share it.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match open.iter().position(|(known, _)| *known == hash) {
            Some(index) => open.remove(index).map(|(_, worker)| worker),
            None => None,
        };
        let worker = match worker {
            Some(worker) => worker,
            None => Arc::new(block_on(|| Self::prepare(&spec, options))?),
        };
        open.push_front((hash, Arc::clone(&worker)));
        open.truncate(KEPT);
        Ok(worker)
    }

    async fn prepare(spec: &JobSpec, options: WorkerOptions) -> Result<Self> {
        let hub = options.hub.unwrap_or_else(|| Arc::new(Hub::from_env()));
        let job = Job::prepare_shipped(spec.pipeline()?, spec, hub).await?;
        if job.plan_hash().to_hex().as_str() != spec.plan_hash() {
            let message = "this process plans the job differently from the one that prepared it";
            return Err(Error::new(ErrorKind::Config, message)
                .at(job.file().display())
                .hint("use the same device, and model folders with the same files and times, on every machine"));
        }
        let schema = job.physical_plan().await?.schema();
        let output = tokio::task::block_in_place(|| {
            UnitOutput::guest(&job.pipeline.sink, schema, job.sink_options(), spec.owner())
        })?;
        let context = job.context.task_ctx();
        Ok(Self { job, output, context, run_id: spec.run_id().to_owned() })
    }

    /// Computes a unit and commits it, unless it is done. Blocks; other threads may compute other units meanwhile.
    ///
    /// # Errors
    /// The first error of any stage; `Data` if earlier attempts at the unit have killed their processes; `Resources` if
    /// the process that prepared the job no longer holds the output; the kind from `cancel`.
    pub fn run(&self, unit: &UnitSpec, cancel: &Cancel) -> Result<UnitRecord> {
        block_on(|| self.run_async(unit, cancel))
    }

    /// Like [`Worker::run`], on a multi-thread runtime of tokio.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn run_async(&self, unit: &UnitSpec, cancel: &Cancel) -> Result<UnitRecord> {
        self.attempt(unit, cancel).await?
    }

    /// Like [`Worker::run_async`], with a result of its own for a unit that was not tried, because earlier attempts have
    /// ended with their processes.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub(crate) async fn attempt(
        &self,
        unit: &UnitSpec,
        cancel: &Cancel,
    ) -> Result<Result<UnitRecord>> {
        let start = Instant::now();
        let (job, rows) = tokio::task::block_in_place(|| unit.open(&self.job))?;
        if let Some(done) = tokio::task::block_in_place(|| self.output.committed(&job.key))? {
            return Ok(Ok(UnitRecord::new(unit, &done, start, true)));
        }
        tokio::task::block_in_place(|| self.output.check_held())?;
        let run = self.job.run_rows(&job, rows, &self.output, Arc::clone(&self.context));
        let outcome = tokio::select! {
            outcome = run => outcome?,
            error = lock_lost(&self.output) => return Err(error),
            kind = cancel.cancelled() => return Err(Error::new(kind, "stopped before the unit was done")),
        };
        match outcome {
            Outcome::Done(done) => Ok(Ok(UnitRecord::new(unit, &done, start, false))),
            Outcome::Deadly => Ok(Err(deadly(&job, 1))),
        }
    }

    /// The rows that this process has computed of the job, and everything else that a report counts.
    pub fn progress(&self) -> Arc<super::Progress> {
        self.job.progress()
    }
}

/// Resolves with the error once another run may hold the output.
pub(super) async fn lock_lost(output: &UnitOutput) -> Error {
    loop {
        tokio::time::sleep(UnitOutput::check_interval()).await;
        if let Err(error) = tokio::task::block_in_place(|| output.check_held()) {
            return error;
        }
    }
}

/// Runs work to its end, inside or outside of a runtime. Blocks.
fn block_on<T: Send, F: Future<Output = Result<T>>>(work: impl FnOnce() -> F + Send) -> Result<T> {
    static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .thread_name("worker")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()
    });
    let failed = || Error::new(ErrorKind::Resources, "cannot start the threads of a worker");
    let runtime = RUNTIME.as_ref().map_err(|error| failed().source(error.to_string()))?;
    if Handle::try_current().is_err() {
        return runtime.block_on(work());
    }
    // A runtime cannot be entered from another one.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, || runtime.block_on(work()));
        let thread = thread.map_err(|error| failed().source(error))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "computing a unit panicked")))
    })
}
