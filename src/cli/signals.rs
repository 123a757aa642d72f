//! SIGINT and SIGTERM, handled on a dedicated thread: even if every thread of a run is stuck, a second signal, or
//! [`STOP_GRACE`] after the first, ends the process. Not here: how a run shuts down.
//!
//! In a child process of a schedule (`supervised`), only the schedule requests shutdown, through stdin: a signal to a
//! terminal's process group counts once, and the child ends with the schedule.

use std::future::Future;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, Once, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};
use crate::limits::STOP_GRACE;

/// The bytes that a schedule writes to a run's stdin to end it.
pub(super) const INTERRUPT: u8 = b'i';
pub(super) const TERMINATE: u8 = b't';

/// The longest time for a process's final report.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The number of listeners that shut down on a signal.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// The requested shutdown and its time; cleared once all listeners have ended.
static ASKED: LazyLock<watch::Sender<Option<(ErrorKind, Instant)>>> =
    LazyLock::new(|| watch::channel(None).0);

static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// The time in seconds that a service has beyond [`STOP_GRACE`].
static LONGER_GRACE: AtomicU64 = AtomicU64::new(0);

type AtExit = Box<dyn FnOnce(ErrorKind) + Send>;

static AT_EXIT: Mutex<Option<AtExit>> = Mutex::new(None);

/// Starts handling signals: a signal ends the process as the default action would, or notifies the listeners.
pub(super) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let (ready, is_ready) = mpsc::channel();
        // Without the thread, signals keep their default action, which ends the process.
        let thread = std::thread::Builder::new().name("signals".to_owned());
        if thread.spawn(move || hear(&ready)).is_ok() {
            let _ = is_ready.recv();
        }
    });
}

/// Takes orders from stdin instead of signals. End of file means that the schedule has died, and ends this process.
pub(super) fn supervised() {
    SUPERVISED.store(true, Ordering::SeqCst);
    let orders = || {
        for order in std::io::stdin().lock().bytes() {
            match order {
                Ok(INTERRUPT) => asked(ErrorKind::Interrupted),
                Ok(TERMINATE) => asked(ErrorKind::Terminated),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        exit(ErrorKind::Terminated);
    };
    let _ = std::thread::Builder::new().name("orders".to_owned()).spawn(orders);
}

/// Sets the work to do when the process exits before its run has shut down.
pub(super) fn at_exit(work: impl FnOnce(ErrorKind) + Send + 'static) {
    *AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(work));
}

/// Gives a service more time to shut down than [`STOP_GRACE`]; a second signal still ends it at once.
#[cfg(feature = "cluster")]
pub(super) fn allow(time: Duration) {
    LONGER_GRACE.store(time.as_secs(), Ordering::SeqCst);
}

/// Marks the run as shut down.
pub(super) fn at_exit_nothing() {
    *AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// A listener for signals, registered until it is dropped.
pub(super) struct Stop {
    asked: watch::Receiver<Option<(ErrorKind, Instant)>>,
}

impl Stop {
    /// Registers a listener.
    pub(super) fn listen() -> Self {
        start();
        LISTENERS.fetch_add(1, Ordering::SeqCst);
        Self { asked: ASKED.subscribe() }
    }

    /// Resolves at the first signal.
    pub(super) fn asked(&self) -> impl Future<Output = ErrorKind> + use<> {
        let mut asked = self.asked.clone();
        async move {
            let kind = asked.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
            match kind {
                Some((kind, _)) => kind,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if LISTENERS.fetch_sub(1, Ordering::SeqCst) == 1 {
            ASKED.send_replace(None);
        }
    }
}

/// Waits for signals for the life of the process.
fn hear(ready: &mpsc::Sender<()>) {
    // A separate runtime, because all threads of the run's runtime may be busy.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
        // A write beyond RLIMIT_FSIZE then fails instead of ending the process.
        let _too_large: Option<Signal> = signal(SignalKind::from_raw(libc::SIGXFSZ)).ok();
        let _ = ready.send(());
        let mut changed = ASKED.subscribe();
        loop {
            let since = *changed.borrow_and_update();
            let deadline = async {
                match since {
                    Some((_, at)) => {
                        let longer = Duration::from_secs(LONGER_GRACE.load(Ordering::SeqCst));
                        tokio::time::sleep_until((at + STOP_GRACE + longer).into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => signalled(ErrorKind::Interrupted),
                _ = terminate.recv() => signalled(ErrorKind::Terminated),
                _ = changed.changed() => {}
                () = deadline => {
                    if let Some((kind, _)) = since {
                        exit(kind);
                    }
                }
            }
        }
    });
}

fn signalled(kind: ErrorKind) {
    if !SUPERVISED.load(Ordering::SeqCst) {
        asked(kind);
    }
}

fn asked(kind: ErrorKind) {
    let is_first = ASKED.borrow().is_none();
    if LISTENERS.load(Ordering::SeqCst) == 0 || !is_first {
        exit(kind);
    }
    ASKED.send_replace(Some((kind, Instant::now())));
}

/// Ends the process at once.
fn exit(kind: ErrorKind) -> ! {
    let work = AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        let (done, is_done) = mpsc::channel();
        let told = std::thread::spawn(move || {
            work(kind);
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(LAST_WORDS);
        drop(told);
        let signal = if kind == ErrorKind::Interrupted { "SIGINT" } else { "SIGTERM" };
        let message = format!("{signal} ended the process before the run could shut down");
        super::show(
            &Error::new(kind, message)
                .hint("finished units are kept: the same command resumes from them"),
        );
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the run does not end itself; the disk is sound"
    )]
    std::process::exit(i32::from(kind.exit_code()));
}
