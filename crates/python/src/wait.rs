//! Runs work on a thread of its own, while the calling Python thread shows progress and looks for signals without holding
//! the GIL.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use hfauto_pipe::{Error, ErrorKind, Result, runtime};
use pyo3::prelude::*;
use tokio::sync::watch;

use crate::errors::raise;

/// How often signals are looked for.
const TICK: Duration = Duration::from_millis(50);

/// How often progress is shown.
const SHOWN: Duration = Duration::from_millis(200);

/// How long an interrupted call waits for its work to end. Work that takes longer, such as a request to a hub that does
/// not answer, ends on its own thread.
const GRACE: Duration = Duration::from_millis(700);

/// The rows that are done, and all rows if their number is known.
type Rows = (u64, Option<u64>);

/// The state that a call's own thread shares with the thread that waits for it.
#[derive(Clone)]
pub(crate) struct Call {
    rows: Arc<OnceLock<Box<dyn Fn() -> Rows + Send + Sync>>>,
    stop: watch::Receiver<bool>,
}

impl Call {
    /// Sets the counters to show.
    pub(crate) fn counts(&self, rows: impl Fn() -> Rows + Send + Sync + 'static) {
        let _ = self.rows.set(Box::new(rows));
    }

    /// Resolves when the call is interrupted.
    pub(crate) fn interrupted(&self) -> impl Future<Output = ErrorKind> + use<> {
        let mut stop = self.stop.clone();
        async move {
            match stop.wait_for(|stop| *stop).await {
                Ok(_) => ErrorKind::Interrupted,
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Runs asynchronous work until it is done or the call is interrupted.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let interrupted = self.interrupted();
        runtime::block_on(async {
            tokio::select! {
                result = work => result,
                kind = interrupted => Err(Error::new(kind, "the call was interrupted")),
            }
        })
    }
}

/// Runs `work`, and calls `update(rows, total)` of `meter` meanwhile.
///
/// # Errors
/// Those of `work`, as exceptions; `KeyboardInterrupt`, or what else a signal handler or `meter` raises.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    meter: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(Call) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let (stop, stopped) = watch::channel(false);
    let (done, mut result) = mpsc::channel();
    let call = Call { rows: Arc::default(), stop: stopped };
    let theirs = call.clone();
    let thread = runtime::spawn("hfauto-pipe", move || {
        // The receiver is gone after an interrupt.
        let _ = done.send(catch_unwind(AssertUnwindSafe(|| work(theirs))));
    });
    thread.map_err(|e| {
        raise(py, &Error::new(ErrorKind::Resources, "cannot start a thread").source(e))
    })?;
    let mut shown = Instant::now();
    loop {
        let receiver = &mut result;
        match py.detach(move || receiver.recv_timeout(TICK)) {
            Ok(Ok(result)) => {
                if result.is_ok() {
                    show(meter, &call)?;
                }
                return result.map_err(|error| raise(py, &error));
            }
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                let error = Error::new(ErrorKind::Internal, "the call panicked")
                    .hint("this is a bug of hfauto-pipe: please report it with the text above");
                return Err(raise(py, &error));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let mut interrupt = py.check_signals();
        if interrupt.is_ok() && shown.elapsed() >= SHOWN {
            shown = Instant::now();
            interrupt = show(meter, &call);
        }
        if let Err(exception) = interrupt {
            stop.send_replace(true);
            let receiver = &mut result;
            let _ = py.detach(move || receiver.recv_timeout(GRACE));
            return Err(exception);
        }
    }
}

fn show(meter: Option<&Bound<'_, PyAny>>, call: &Call) -> PyResult<()> {
    let (Some(meter), Some(rows)) = (meter, call.rows.get()) else { return Ok(()) };
    meter.call_method1("update", rows()).map(drop)
}
