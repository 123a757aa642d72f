//! Threads that run forward passes for all model steps of a session.
//!
//! On a CPU, the unit of parallelism is a worker per core: batches are independent, so none is split. Only with fewer
//! batches than workers do kernels use the threads of idle ones ([`SpareThreads`]). A GPU has a few workers of its own,
//! which feed one stream: while it computes a batch, the next is submitted and the previous one is copied out. Several
//! GPUs, each with the weights, take batches from one queue. A batch that does not fit in a GPU's memory is halved.
//! Several models in one plan share the workers of their devices. Not here: forming batches (`window`).

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Instant;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use candle_core::{Device, DeviceLocation};
use tokio::sync::watch;

use super::metrics::{BatchSize, StepMetrics};
use super::row_error::{RowError, RowErrors};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::nn::SpareThreads;
use crate::tasks::{Sequence, Task, TaskModel};

/// A loaded model, once for each device of its task.
pub(crate) type Replicas = Arc<[Arc<dyn TaskModel>]>;

/// A batch to compute.
pub(super) struct Job {
    pub(super) task: Arc<dyn Task>,
    pub(super) models: Replicas,
    /// The sequences of its window.
    pub(super) sequences: Arc<Vec<Sequence>>,
    /// Indices into `sequences`.
    pub(super) batch: Vec<usize>,
    pub(super) max_batch_tokens: usize,
    pub(super) row_errors: RowErrors,
    /// The counters of the step.
    pub(super) metrics: Arc<StepMetrics>,
}

/// The result of a batch.
pub(super) struct BatchResult {
    /// One value per sequence, in order; null for those that failed.
    pub(super) values: ArrayRef,
    /// The failed sequences, by their index in the batch, with their errors. Empty if a failure ends the run.
    pub(super) failed: Vec<(usize, RowError)>,
}

/// The present or future result of a batch, for all that wait for it.
pub(super) type SharedBatch = watch::Receiver<Option<Outcome>>;

/// The shared result of a batch.
pub(super) type Outcome = std::result::Result<Arc<BatchResult>, Arc<Error>>;

/// Waits for a batch.
///
/// # Errors
/// The error of the task that computes the batch; `Internal` when its worker has ended.
pub(super) async fn outcome(batch: &mut SharedBatch) -> Result<Arc<BatchResult>> {
    match batch.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Ok(result))) => Ok(Arc::clone(result)),
        Ok(Some(Err(error))) => Err(error.again()),
        Ok(None) | Err(_) => {
            Err(Error::new(ErrorKind::Internal, "a model worker stopped without a result"))
        }
    }
}

/// A batch in the queue.
struct Queued {
    job: Job,
    since: Instant,
    reply: watch::Sender<Option<Outcome>>,
}

/// Workers per GPU: one batch is computed, one is queued after it, one is copied out.
const WORKERS_PER_GPU: usize = 3;

/// The workers of a session. Those of a set of devices start with its first batch, and end with the last handle, after
/// their current batch.
pub struct WorkerPool {
    /// The number of CPU workers.
    workers: usize,
    /// One queue per set of devices that models share.
    queues: Mutex<Vec<(Vec<DeviceLocation>, mpsc::Sender<Queued>)>>,
}

impl WorkerPool {
    /// A pool with this number of CPU workers, at least one.
    pub fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), queues: Mutex::default() }
    }

    /// The pool with this number of CPU workers that the jobs of this process share: the threads of an earlier job would keep
    /// their memory, and those of a concurrent one compete for the same cores.
    pub fn shared(workers: usize) -> Arc<Self> {
        static POOLS: Mutex<Vec<Weak<WorkerPool>>> = Mutex::new(Vec::new());
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        let mut known = pools.iter().filter_map(Weak::upgrade);
        if let Some(pool) = known.find(|pool| pool.workers == workers.max(1)) {
            return pool;
        }
        let pool = Arc::new(Self::new(workers));
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// The number of workers for these devices.
    pub fn workers_of(&self, devices: &[Device]) -> usize {
        match devices.iter().filter(|device| !device.is_cpu()).count() {
            0 => self.workers,
            cards => WORKERS_PER_GPU * cards,
        }
    }

    /// Queues a batch. The queue itself is unbounded; the number of windows in flight bounds it. A batch that nothing
    /// waits for any more is not started.
    ///
    /// # Errors
    /// `Resources` when the system cannot start a thread.
    pub(super) fn submit(&self, job: Job) -> Result<SharedBatch> {
        let (reply, result) = watch::channel(None);
        let mut queues = self
            .queues
            .lock()
            .map_err(|_| Error::new(ErrorKind::Internal, "starting the model workers panicked"))?;
        let devices = job.task.devices();
        let locations: Vec<_> = devices.iter().map(Device::location).collect();
        let known = queues.iter().position(|(known, _)| *known == locations);
        let place = if let Some(place) = known {
            place
        } else {
            let sender = start(self.workers_of(devices), &locations)?;
            queues.push((locations, sender));
            queues.len() - 1
        };
        let (_, sender) = &queues[place];
        // A send fails only when every worker has ended; the dropped `reply` then reports it.
        let _ = sender.send(Queued { job, since: Instant::now(), reply });
        Ok(result)
    }
}

/// Starts workers for these devices, the same number for each.
fn start(workers: usize, locations: &[DeviceLocation]) -> Result<mpsc::Sender<Queued>> {
    let no_thread = |e| Error::new(ErrorKind::Resources, "cannot start a model worker").source(e);
    let (sender, jobs) = mpsc::channel::<Queued>();
    let jobs = Arc::new(Mutex::new(jobs));
    let on_a_cpu = locations.iter().all(|location| *location == DeviceLocation::Cpu);
    let spare = (on_a_cpu && workers > 1).then(|| SpareThreads::new(workers));
    let spare = spare.transpose().map_err(|e| no_thread(std::io::Error::other(e)))?.map(Arc::new);
    for number in 0..workers {
        let (jobs, spare) = (Arc::clone(&jobs), spare.clone());
        let device = number % locations.len();
        let name = match locations[device] {
            DeviceLocation::Cpu => "model".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda-{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal-{gpu_id}"),
        };
        std::thread::Builder::new()
            .name(format!("{name}-worker-{number}"))
            .spawn(move || work(&jobs, device, spare.as_ref()))
            .map_err(no_thread)?;
    }
    Ok(sender)
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Runs batches on the device with this index in each step.
fn work(jobs: &Mutex<mpsc::Receiver<Queued>>, device: usize, spare: Option<&Arc<SpareThreads>>) {
    // candle runs matrix products on the current rayon pool. A pool of this one thread keeps every kernel on this core.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let next = || jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
    while let Some(queued) = next() {
        match &pool {
            Ok(pool) => pool.install(|| compute(queued, device, spare)),
            Err(_) => compute(queued, device, spare),
        }
    }
}

fn compute(Queued { job, since, reply }: Queued, device: usize, spare: Option<&Arc<SpareThreads>>) {
    if reply.is_closed() {
        return;
    }
    let batch: Vec<&Sequence> = job.batch.iter().map(|&i| &job.sequences[i]).collect();
    let forward = Forward {
        model: &*job.models[device],
        max_batch_tokens: job.max_batch_tokens,
        data_type: &job.task.sequence_type(),
        row_errors: job.row_errors,
    };
    #[cfg(feature = "cuda")]
    let _turn = crate::nn::cuda::take_turn(&job.task.devices()[device]);
    let start = Instant::now();
    let result = match spare {
        Some(spare) => spare.compute(|| forward.run(&batch)),
        None => forward.run(&batch),
    };
    let tokens: usize = batch.iter().map(|sequence| sequence.tokens()).sum();
    let longest = batch.iter().map(|sequence| sequence.tokens()).max().unwrap_or(0);
    let size = BatchSize {
        rows: batch.len() as u64,
        images: batch.iter().filter(|sequence| sequence.image.is_some()).count() as u64,
        tokens: tokens as u64,
        padded_tokens: (longest * batch.len()) as u64,
        cached_tokens: job.models[device].take_cached_tokens(),
        generated_tokens: job.models[device].take_generated_tokens(),
        image_time: job.models[device].take_image_time(),
    };
    job.metrics.computed(size, start.elapsed(), start - since);
    let _ = reply.send(Some(result.map(Arc::new).map_err(Arc::new)));
}

/// Runs a model over batches of a step.
struct Forward<'a> {
    model: &'a dyn TaskModel,
    max_batch_tokens: usize,
    /// The type of a sequence's result.
    data_type: &'a DataType,
    row_errors: RowErrors,
}

impl Forward<'_> {
    /// One forward pass. A batch that exceeds a GPU's memory is halved. If row errors are kept, failed rows are located
    /// by halving as well.
    fn run(&self, batch: &[&Sequence]) -> Result<BatchResult> {
        let pass = || self.model.forward(batch, self.max_batch_tokens);
        let result =
            catch_unwind(AssertUnwindSafe(pass)).unwrap_or_else(|panic| Err(panicked(&*panic)));
        let mut error = match result {
            Ok(values) => return Ok(BatchResult { values, failed: Vec::new() }),
            Err(error) => error,
        };
        let tokens: usize = batch.iter().map(|sequence| sequence.tokens()).sum();
        let out_of_memory = is_out_of_memory(&error);
        if out_of_memory && batch.len() > 1 {
            let rows = batch.len();
            tracing::warn!(rows, tokens, "out of device memory: halving the batch");
        } else {
            if out_of_memory {
                error = too_large(tokens).source(error);
            }
            if self.row_errors == RowErrors::Fail || error.kind() != ErrorKind::Data {
                return Err(error);
            }
        }
        if let [_] = batch {
            let values = new_null_array(self.data_type, 1);
            return Ok(BatchResult { values, failed: vec![(0, RowError::from(&error))] });
        }
        let (first, second) = batch.split_at(batch.len() / 2);
        let (mut first, second) = (self.run(first)?, self.run(second)?);
        let before = first.values.len();
        let failed = second.failed.into_iter().map(|(index, error)| (before + index, error));
        first.failed.extend(failed);
        let values = concat(&[first.values.as_ref(), second.values.as_ref()])
            .map_err(|e| Error::new(ErrorKind::Internal, "results of a batch").source(e))?;
        Ok(BatchResult { values, failed: first.failed })
    }
}

/// The error for a row that exceeds the device's memory.
fn too_large(tokens: usize) -> Error {
    let message = format!("a row of {tokens} tokens exceeds the device's memory");
    Error::of_row(RowErrorKind::OutOfMemory, message).hint(
        "truncate rows with `max_length`, or use a smaller model or a device with more memory",
    )
}

/// Whether an error reports that a device is out of memory. candle keeps the errors of the driver and cuBLAS only as
/// text.
fn is_out_of_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let text = error.to_string();
        ["OUT_OF_MEMORY", "ALLOC_FAILED"].iter().any(|name| text.contains(name))
    })
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::{Field, FieldRef, Int32Type};

    use super::super::step::{BatchSettings, ModelStep};
    use super::*;
    use crate::models::Dimensions;
    use crate::tasks::{EncodedRow, Task, TaskBase, WeightSize};

    /// A model on a device whose memory holds this many tokens; it returns the first token of each sequence.
    struct Small(usize);

    impl TaskModel for Small {
        fn forward(&self, sequences: &[&Sequence], _: usize) -> Result<ArrayRef> {
            let tokens: usize = sequences.iter().map(|sequence| sequence.tokens()).sum();
            if tokens > self.0 {
                let driver = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned());
                return Err(Error::new(ErrorKind::Internal, "no forward pass").source(driver));
            }
            let first = sequences.iter().map(|sequence| sequence.input_ids[0] as i32);
            Ok(Arc::new(Int32Array::from_iter_values(first)))
        }

        fn weights(&self) -> WeightSize {
            WeightSize { parameters: 0, bytes: 0 }
        }
    }

    /// A task on two devices, whose models wait until both have a batch.
    #[derive(Debug)]
    struct Both {
        field: FieldRef,
        devices: [Device; 2],
        met: Arc<Barrier>,
    }

    struct Meeting {
        met: Arc<Barrier>,
        met_before: AtomicBool,
    }

    impl TaskModel for Meeting {
        fn forward(&self, sequences: &[&Sequence], _: usize) -> Result<ArrayRef> {
            if !self.met_before.swap(true, Ordering::Relaxed) {
                self.met.wait();
            }
            Small(99).forward(sequences, 99)
        }

        fn weights(&self) -> WeightSize {
            WeightSize { parameters: 0, bytes: 0 }
        }
    }

    impl Task for Both {
        fn base(&self) -> &TaskBase {
            unreachable!("what is asked of the base is answered here")
        }

        fn field(&self) -> &FieldRef {
            &self.field
        }

        fn devices(&self) -> &[Device] {
            &self.devices
        }

        fn dimensions(&self) -> Option<&Dimensions> {
            None
        }

        fn encode(&self, _: &[ArrayRef], _: u64) -> Result<Vec<Option<EncodedRow>>> {
            Ok(Vec::new())
        }

        fn output_bytes(&self, _: usize) -> usize {
            4
        }

        fn load(&self, _: &Device) -> Result<Box<dyn TaskModel>> {
            Ok(Box::new(Meeting { met: Arc::clone(&self.met), met_before: AtomicBool::new(false) }))
        }
    }

    #[test]
    fn every_device_has_its_model_and_takes_batches_from_one_queue() {
        let task = Both {
            field: Arc::new(Field::new("first", DataType::Int32, true)),
            devices: [Device::Cpu, Device::Cpu],
            met: Arc::new(Barrier::new(2)),
        };
        let (settings, pool) = (BatchSettings::default(), Arc::new(WorkerPool::new(2)));
        let place = "a step".to_owned();
        let step = Arc::new(ModelStep::new(Arc::new(task), settings, Arc::clone(&pool), place));
        let models = step.models().unwrap();
        assert_eq!((models.len(), step.num_workers()), (2, 2));
        let sequences: Vec<Sequence> =
            (0..9).map(|first| Sequence::new(vec![first], vec![])).collect();
        let sequences = Arc::new(sequences);
        let batches = (0..9).map(|number| step.submit(&models, &sequences, vec![number]).unwrap());
        let batches: Vec<_> = batches.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for (number, mut batch) in (0..).zip(batches) {
            // A single device would wait for the other for ever.
            let result = runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(30), outcome(&mut batch)).await
            });
            let result = result.expect("a batch on each device").unwrap();
            assert_eq!(result.values.as_primitive::<Int32Type>().values(), &[number]);
        }
    }

    fn run(memory: usize, row_errors: RowErrors) -> Result<BatchResult> {
        let lengths = [6, 3, 3, 2, 1];
        let sequences: Vec<Sequence> =
            lengths.iter().map(|len| Sequence::new(vec![*len; *len as usize], vec![])).collect();
        let batch: Vec<&Sequence> = sequences.iter().collect();
        let (model, data_type) = (Small(memory), DataType::Int32);
        Forward { model: &model, max_batch_tokens: 99, data_type: &data_type, row_errors }
            .run(&batch)
    }

    #[test]
    fn a_batch_that_does_not_fit_in_memory_is_halved() {
        for memory in [6, 7, 14, 15] {
            let result = run(memory, RowErrors::Fail).unwrap();
            assert_eq!(result.values.as_primitive::<Int32Type>().values(), &[6, 3, 3, 2, 1]);
            assert!(result.failed.is_empty());
        }
    }

    #[test]
    fn a_row_that_does_not_fit_alone_is_an_error_of_that_row() {
        let result = run(5, RowErrors::Keep).unwrap();
        let values = result.values.as_primitive::<Int32Type>();
        assert_eq!(values.iter().collect::<Vec<_>>(), [None, Some(3), Some(3), Some(2), Some(1)]);
        let [(0, error)] = &result.failed[..] else { panic!("{}", result.failed.len()) };
        assert_eq!(error.kind, RowErrorKind::OutOfMemory);
        assert!(error.message.contains("a row of 6 tokens"), "{}", error.message);
        let error = run(5, RowErrors::Fail).err().unwrap();
        assert_eq!(error.row_kind(), Some(RowErrorKind::OutOfMemory));
        assert!(error.remedy().is_some_and(|hint| hint.contains("max_length")));
    }
}
