//! Logs on stderr, as text or as one JSON object per line. With JSON, everything else on stderr is JSON as well. Not here:
//! the events.

use std::ffi::OsString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tracing_subscriber::EnvFilter;

use super::terminal::{self, LogWriter};
use crate::config::Diagnostics;
use crate::error::{Error, ErrorKind, Result};
use crate::report::ErrorReport;

/// The default filter. It drops the events of hf-hub, which logs each retry as an error, and those of Ballista, which
/// logs a cancelled job or a lost executor several times: the final error and our own events say enough.
const TEXT_FILTER: &str = "warn,hf_hub=off,ballista_scheduler=off,ballista_core=off";

/// The default filter for JSON: log collectors also want to see progress.
const JSON_FILTER: &str =
    "warn,hfauto_pipe=info,hf_hub=off,ballista_scheduler=off,ballista_core=off";

/// The format of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// How much the program says on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verbosity {
    /// Errors.
    Quiet,
    /// Also progress, notes and warnings.
    Normal,
    /// Also what happens.
    Verbose,
    /// Also how.
    Debug,
}

impl Verbosity {
    /// The default filter; `None` for the one that the environment or the format names.
    fn filter(self) -> Option<&'static str> {
        match self {
            Self::Quiet => Some("error,hf_hub=off,ballista_scheduler=off,ballista_core=off"),
            Self::Normal => None,
            Self::Verbose => Some(JSON_FILTER),
            Self::Debug => {
                Some("info,hfauto_pipe=debug,hfauto=debug,ballista_scheduler=off,ballista_core=off")
            }
        }
    }

    fn argument(self) -> Option<&'static str> {
        match self {
            Self::Quiet => Some("--quiet"),
            Self::Normal => None,
            Self::Verbose => Some("-v"),
            Self::Debug => Some("-vv"),
        }
    }
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();
static LEVEL: OnceLock<String> = OnceLock::new();
static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();

/// Starts logging.
///
/// # Errors
/// `Usage` if `level` is not a filter.
pub(super) fn start(format: LogFormat, level: Option<&str>, verbosity: Verbosity) -> Result<()> {
    let _ = FORMAT.set(format);
    let _ = VERBOSITY.set(verbosity);
    if let Some(level) = level {
        let _ = LEVEL.set(level.to_owned());
    }
    let filter = match level.or(verbosity.filter()) {
        Some(level) => EnvFilter::try_new(level).map_err(|e| {
            Error::new(ErrorKind::Usage, format!("`--log-level {level}` is not a level")).source(e)
        })?,
        None => EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(if is_json() { JSON_FILTER } else { TEXT_FILTER })),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter { is_json: is_json() });
    // A second call in one process (tests) keeps the first subscriber.
    let _ = if is_json() {
        // Fields of an event are top-level keys; those of its run and unit are in `spans`.
        subscriber.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        subscriber.with_ansi(terminal::has_colours()).with_target(false).try_init()
    };
    Ok(())
}

/// Says something that is neither a result nor an error.
pub(super) fn note(text: &str) {
    if verbosity() == Verbosity::Quiet {
        return;
    }
    if is_json() {
        line("INFO", text, json!({}));
    } else {
        terminal::say(format_args!("note: {text}"));
    }
}

/// Guesses the format from arguments that cannot be parsed.
pub(super) fn guess_format(args: &[OsString]) {
    let is_json = args.iter().any(|arg| arg == "--log-format=json")
        || args.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    let _ = FORMAT.set(if is_json { LogFormat::Json } else { LogFormat::Text });
}

/// The arguments that make a child process log as this one does.
pub(super) fn arguments() -> Vec<String> {
    let mut arguments = Vec::new();
    if is_json() {
        arguments.extend(["--log-format".to_owned(), "json".to_owned()]);
    }
    if let Some(level) = LEVEL.get() {
        arguments.extend(["--log-level".to_owned(), level.clone()]);
    }
    arguments.extend(verbosity().argument().map(str::to_owned));
    arguments
}

static SAYS_NO_ERRORS: AtomicBool = AtomicBool::new(false);

/// Leaves reporting the error to another process.
pub(super) fn say_no_errors() {
    SAYS_NO_ERRORS.store(true, Ordering::SeqCst);
}

/// Whether this process prints errors.
pub(super) fn says_errors() -> bool {
    !SAYS_NO_ERRORS.load(Ordering::SeqCst)
}

/// How much the program says.
pub(super) fn verbosity() -> Verbosity {
    VERBOSITY.get().copied().unwrap_or(Verbosity::Normal)
}

/// Whether stderr is JSON.
pub(super) fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Writes a JSON line in the form of the subscriber's events.
pub(super) fn line(level: &str, message: &str, fields: Value) {
    let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let mut line = Map::from_iter([
        ("timestamp".to_owned(), Value::from(at)),
        ("level".to_owned(), Value::from(level)),
        ("message".to_owned(), Value::from(message)),
    ]);
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    terminal::say_json(Value::Object(line));
}

/// Reports panics as log events: a panic is our bug, and its message may contain untrusted text.
pub(super) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        if is_json() {
            line("ERROR", &format!("{panic}{backtrace}"), json!({"kind": "internal"}));
        } else {
            terminal::say(format_args!("{panic}{backtrace}"));
        }
    }));
}

/// Writes an error as one line, including the problems of a pipeline file.
pub(super) fn error(error: &Error) {
    let ErrorReport { kind, row_error, message, at, hint, text } = ErrorReport::from(error);
    let mut fields = json!({
        "kind": kind,
        "exit_code": error.kind().exit_code(),
        "at": at,
        "hint": hint,
        "text": text,
    });
    if let Some(row_error) = row_error {
        fields["row_error"] = row_error.into();
    }
    if let Some(diagnostics) = Diagnostics::of(error) {
        let problems = diagnostics.iter().map(|problem| {
            json!({
                "file": problem.file(),
                "line": problem.line(),
                "column": problem.column(),
                "message": problem.message(),
                "hint": problem.remedy(),
            })
        });
        fields["problems"] = problems.collect();
    }
    line("ERROR", &message, fields);
}
