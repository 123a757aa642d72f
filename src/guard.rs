//! Guards calls into libraries that read untrusted bytes: a panic becomes an error of the file, the model or the row, and
//! does not end the process.
//!
//! A stack overflow or a failed allocation aborts without a panic; [`crate::limits`] prevents both beforehand.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use hfauto::guard::catch;
pub(crate) use hfauto::guard::message;

use crate::error::{Error, ErrorKind, Result};

/// Calls `work`, which passes untrusted bytes to a library. A panic becomes an error of `kind` that names `what` was read
/// (a fragment such as "the chat template").
///
/// `kind` says whose fault it is: [`ErrorKind::Data`] for files and rows.
///
/// # Errors
/// Those of `work`, and `kind` for a panic.
pub(crate) fn guarded<T>(
    kind: ErrorKind,
    what: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    catch(work).unwrap_or_else(|panic| Err(panicked(kind, what, &*panic)))
}

/// A stream that ends with an error of `kind` if it panics; see [`guarded`].
pub(crate) fn guarded_stream<S, T, E>(
    kind: ErrorKind,
    what: String,
    stream: S,
) -> impl Stream<Item = Result<T, E>>
where
    S: Stream<Item = Result<T, E>> + Unpin,
    E: From<Error>,
{
    Guarded { kind, what, stream: Some(stream) }
}

/// Awaits `work`, in which the query engine plans or evaluates user SQL; turns a panic into an error of `kind`.
///
/// # Errors
/// Errors of `work`, and `kind` for a panic.
pub(crate) async fn guarded_query<T>(
    kind: ErrorKind,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        catch(|| work.as_mut().poll(context))
            .unwrap_or_else(|panic| Poll::Ready(Err(query_panicked(kind, &*panic))))
    })
    .await
}

fn query_panicked(kind: ErrorKind, panic: &(dyn Any + Send)) -> Error {
    Error::new(kind, format!("the query engine cannot compute this: {}", message(panic)))
        .hint("a value may be out of range for an operation: cast it, or rewrite the query")
}

struct Guarded<S> {
    kind: ErrorKind,
    what: String,
    stream: Option<S>,
}

impl<S, T, E> Stream for Guarded<S>
where
    S: Stream<Item = Result<T, E>> + Unpin,
    E: From<Error>,
{
    type Item = Result<T, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match catch(|| Pin::new(stream).poll_next(context)) {
            Ok(polled) => polled,
            Err(panic) => {
                // A stream is in an unknown state after a panic: it is not polled again.
                self.stream = None;
                Poll::Ready(Some(Err(panicked(self.kind, &self.what, &*panic).into())))
            }
        }
    }
}

fn panicked(kind: ErrorKind, what: &str, panic: &(dyn Any + Send)) -> Error {
    Error::new(kind, format!("{what} cannot be read: {}", message(panic)))
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_what_was_read() {
        let result: Result<()> =
            guarded(ErrorKind::Model, "`tokenizer.json`", || panic!("index {} out of range", 7));
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert_eq!(error.to_string(), "`tokenizer.json` cannot be read: index 7 out of range");
        assert_eq!(guarded(ErrorKind::Model, "a file", || Ok(1)).unwrap(), 1);
    }

    #[test]
    fn a_query_that_panics_ends_with_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let query = async {
            tokio::task::yield_now().await;
            if true { panic!("`NaiveDate + TimeDelta` overflowed") } else { Ok(()) }
        };
        let error = runtime.block_on(guarded_query(ErrorKind::Data, query)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.message().ends_with("`NaiveDate + TimeDelta` overflowed"), "{error}");
    }

    #[test]
    fn a_stream_that_panics_ends_with_an_error() {
        let items = stream::iter([1, 2, 3])
            .map(|item| if item == 2 { panic!("page {item}") } else { Ok::<_, Error>(item) });
        let stream = guarded_stream(ErrorKind::Data, "`a.parquet`".to_owned(), items);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all: Vec<_> = runtime.block_on(stream.collect());
        assert_eq!(all.len(), 2);
        assert!(
            all[1].as_ref().unwrap_err().to_string().contains("`a.parquet` cannot be read: page 2")
        );
    }
}
