//! Converts panics of libraries that parse untrusted bytes into errors of the file, the model or the row.
//!
//! A stack overflow or a failed allocation aborts without a panic; limits prevent both beforehand.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    /// The nesting depth of guarded calls on this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Calls `work`, which passes untrusted bytes to a library. A panic becomes an error of `kind` that names `what` was
/// read, a fragment such as "the chat template".
///
/// `kind` says whose fault it is: [`ErrorKind::Data`] for texts and images, [`ErrorKind::Model`] for checkpoints.
///
/// # Errors
/// Those of `work`, and `kind` for a panic.
pub(crate) fn guarded<T>(
    kind: ErrorKind,
    what: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    catch(work).unwrap_or_else(|panic| {
        Err(Error::new(kind, format!("{what} cannot be read: {}", message(&*panic))))
    })
}

/// `catch_unwind` without the panic report on stderr, which is reserved for bugs of the program.
///
/// # Errors
/// The payload of the panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if DEPTH.get() == 0 {
                report(panic);
            } else {
                tracing::debug!(%panic, "a library panicked");
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result
}

/// The message of a panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
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
}
