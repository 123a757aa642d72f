//! Writes a stream of rows to a sink. Not here: publishing (`crate::sink`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded_query;
use crate::sink::Sink;
use crate::source::{self, InputFile};

/// Writes all rows of a stream to a sink and leaves the sink ready to be finished. Reports written rows and the time
/// taken to `on_rows`. `cancel` ends it early with an error of the returned kind.
///
/// # Errors
/// The first error of the stream or the sink; partial output is removed.
pub(crate) async fn write_stream(
    mut stream: SendableRecordBatchStream,
    mut sink: Sink,
    files: &[Arc<InputFile>],
    on_rows: impl Fn(u64, Duration) + Send + 'static,
    mut cancel: Pin<&mut impl Future<Output = ErrorKind>>,
) -> Result<Sink> {
    // Encoding and compressing a batch takes as long as a forward pass of a small model. A separate thread overlaps
    // the two.
    let (batches, mut queue) = tokio::sync::mpsc::channel::<RecordBatch>(2);
    let writer = SpawnedTask::spawn_blocking(move || {
        while let Some(batch) = queue.blocking_recv() {
            let start = Instant::now();
            sink.write(&batch)?;
            on_rows(batch.num_rows() as u64, start.elapsed());
        }
        Ok::<_, Error>(sink)
    });
    let mut failure = None;
    loop {
        let next = guarded_query(ErrorKind::Data, async {
            stream.next().await.transpose().map_err(|e| source::stream_error(e, files))
        });
        let batch = tokio::select! {
            batch = next => batch,
            kind = cancel.as_mut() => {
                failure = Some(
                    Error::new(kind, "stopped by a signal; nothing was published")
                        .hint("run the same command again"),
                );
                break;
            }
        };
        match batch {
            // Sending fails only after the writer has stopped; its own error gives the reason.
            Ok(Some(batch)) => {
                if batches.send(batch).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
            Ok(None) => break,
        }
    }
    drop((stream, batches));
    let sink = writer
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "the writer panicked").source(e))??;
    match failure {
        Some(failure) => {
            sink.abort();
            Err(failure)
        }
        None => Ok(sink),
    }
}
