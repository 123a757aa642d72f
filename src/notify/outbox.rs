//! Posts JSON to one address, in order, from a thread of its own: the run never waits for an answer. Not here: what is
//! posted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode};
use tokio::runtime::Runtime;
use url::{Host, Url};

use crate::config::pipeline::AddressSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::NOTICE_TIMEOUT;
use crate::secret;

/// Attempts to post a message.
const ATTEMPTS: u32 = 3;

/// The pause before the second attempt; it doubles with each one.
const PAUSE: Duration = Duration::from_millis(500);

/// A message, and what it is.
struct Message {
    what: String,
    body: String,
}

/// The messages to one address.
pub(super) struct Outbox {
    shown: String,
    queue: Option<Sender<Message>>,
    ended: Receiver<()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    letters: Mutex<Letters>,
    /// Whether the run has ended: its last message matters most.
    is_closing: AtomicBool,
}

#[derive(Default)]
struct Letters {
    /// Messages without an outcome, in order.
    open: Vec<String>,
    /// Why messages were not delivered.
    failed: Vec<String>,
}

impl Outbox {
    /// An outbox without messages.
    pub(super) fn new(address: AddressSpec) -> Self {
        let (queue, messages) = mpsc::channel();
        let (is_ended, ended) = mpsc::channel();
        let state = Arc::new(State::default());
        let shown = address.shown.clone();
        let work = {
            let state = Arc::clone(&state);
            move || {
                work(&address, &messages, &state);
                drop(is_ended);
            }
        };
        // Without the thread, both channels are closed, and every message fails.
        let _ = std::thread::Builder::new().name("notices".to_owned()).spawn(work);
        Self { shown, queue: Some(queue), ended, state }
    }

    /// Posts a message after those before it.
    pub(super) fn send(&self, what: &str, body: String) {
        self.state.lock().open.push(what.to_owned());
        let message = Message { what: what.to_owned(), body };
        if self.queue.as_ref().is_none_or(|queue| queue.send(message).is_err()) {
            self.give_up(what, "cannot start a thread");
        }
    }

    /// Records a message that cannot be sent.
    pub(super) fn fail(&self, what: &str, why: &str) {
        self.state.lock().open.push(what.to_owned());
        self.give_up(what, why);
    }

    fn give_up(&self, what: &str, why: &str) {
        self.state.settle(&self.shown, what, Err(why.to_owned()));
    }

    /// No message follows. Attempts end soon.
    pub(super) fn close(&mut self) {
        self.state.is_closing.store(true, Ordering::SeqCst);
        self.queue = None;
    }

    /// Waits until all messages are delivered or given up, at most until `deadline`. Returns what was not delivered.
    pub(super) fn settle(mut self, deadline: Instant) -> Vec<String> {
        self.close();
        let time = deadline.saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            let open = self.state.lock().open.clone();
            for what in open {
                self.give_up(&what, "no answer before the end of the process");
            }
        }
        std::mem::take(&mut self.state.lock().failed)
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outcome of a message.
    fn settle(&self, shown: &str, what: &str, outcome: Result<(), String>) {
        let mut letters = self.lock();
        // Messages that were given up have an outcome already.
        let Some(open) = letters.open.iter().position(|open| open == what) else { return };
        letters.open.remove(open);
        if let Err(why) = outcome {
            let failed = format!("{what} was not delivered to {shown}: {why}");
            let failed = secret::hide(&failed).into_owned();
            tracing::warn!("{failed}");
            letters.failed.push(failed);
        }
    }

    /// Whether to give up a message that costs time, because the run has ended and another message waits.
    fn is_late(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst) && self.lock().open.len() > 1
    }
}

/// Posts messages until the outbox is closed.
fn work(address: &AddressSpec, messages: &Receiver<Message>, state: &State) {
    let post = Post::new(address);
    while let Ok(Message { what, body }) = messages.recv() {
        let outcome = match &post {
            Ok(post) => post.deliver(&body, state),
            Err(error) => Err(one_line(error)),
        };
        state.settle(&address.shown, &what, outcome);
    }
}

/// A client for one address.
struct Post {
    runtime: Runtime,
    client: Client,
    url: Url,
    headers: HeaderMap,
}

/// Why an attempt failed.
struct Failure {
    why: String,
    is_transient: bool,
    is_slow: bool,
}

impl Post {
    fn new(address: &AddressSpec) -> Result<Self> {
        let cannot = || Error::new(ErrorKind::Resources, "cannot build an HTTP client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| cannot().source(e))?;
        let mut builder = Client::builder()
            .user_agent(concat!("hfauto-pipe/", env!("CARGO_PKG_VERSION")))
            .timeout(NOTICE_TIMEOUT)
            // Another host must not get the headers, and a redirected POST may become a GET.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&address.url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| cannot().source(e.without_url()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &address.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| cannot().source(e))?;
            let value = HeaderValue::from_bytes(value.as_bytes());
            let mut value = value.map_err(|e| cannot().source(e))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self { runtime, client, url: address.url.clone(), headers })
    }

    fn deliver(&self, body: &str, state: &State) -> Result<(), String> {
        let mut attempt = 1;
        loop {
            let failure = match self.runtime.block_on(self.once(body)) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let is_late = failure.is_slow && state.is_late();
            if !failure.is_transient || attempt == ATTEMPTS || is_late {
                return Err(failure.why);
            }
            std::thread::sleep(PAUSE * (1 << (attempt - 1)));
            attempt += 1;
        }
    }

    async fn once(&self, body: &str) -> Result<(), Failure> {
        // `headers` replaces the one that a user and password in the URL give.
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        match request.body(body.to_owned()).send().await {
            // The answer's body is not read.
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let is_transient = status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    );
                Err(Failure { why: format!("it answered {status}"), is_transient, is_slow: false })
            }
            Err(error) => {
                let (is_transient, is_slow) = (!error.is_builder(), error.is_timeout());
                let what = if is_slow {
                    format!("no answer within {} s", NOTICE_TIMEOUT.as_secs())
                } else {
                    "it cannot be reached".to_owned()
                };
                let error = Error::new(ErrorKind::Resources, what).source(error.without_url());
                Err(Failure { why: one_line(&error), is_transient, is_slow })
            }
        }
    }
}

/// An error with its causes.
fn one_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A proxy cannot reach this machine by these names.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
