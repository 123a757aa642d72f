//! CPU-bound work of the operator off the async threads, and its errors inside DataFusion's. Not here: forward passes
//! (`workers`).

use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;

use crate::error::{Error, ErrorKind};

/// Wraps our error in DataFusion's. Errors that are already DataFusion's stay unchanged.
pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Runs CPU-bound work off the async threads; cancelled with the stream that awaits it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::Result<T> + Send + 'static,
) -> crate::Result<T> {
    joined(SpawnedTask::spawn_blocking(work)).await
}

/// The result of work that was started before.
pub(super) async fn joined<T: Send + 'static>(
    started: SpawnedTask<crate::Result<T>>,
) -> crate::Result<T> {
    started
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a background task panicked").source(e))?
}
