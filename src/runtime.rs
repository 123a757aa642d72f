//! The threads that plan and run, with the stacks that they need. Not here: the workers of models (`crate::exec`).

use std::future::Future;
use std::io;
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{STACK_BYTES, THREAD_STACK_BYTES};

/// Starts a thread that may plan: deep SQL expressions need a large stack, but the system fixes the main thread's stack
/// size.
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work)
}

/// Runs asynchronous work on a new runtime, from a thread of [`spawn`].
///
/// # Errors
/// Those of `work`; `Resources` when threads cannot be started.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(THREAD_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Resources, "cannot start threads").source(e))?;
    let result = runtime.block_on(work);
    // A running blocking task (such as tokenizing a batch) must not delay the end.
    runtime.shutdown_background();
    result
}
