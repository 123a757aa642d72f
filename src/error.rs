//! The public error type: what went wrong, whose fault it is, and where.
//!
//! Every folder returns this type, and the library's errors convert to it. The [`ErrorKind`] says whose fault it is and
//! determines the exit code. [`Error::at`] adds places on the way up (file, column, model, rows), and [`Error::hint`] adds
//! the remedy. Not here: the problems of a pipeline file, which are reported together and with snippets
//! ([`crate::config::Diagnostics`]).

use std::error::Error as StdError;
use std::fmt;

pub use hfauto::RowErrorKind;
use hfauto::error::Message;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit codes of the program; part of the contract with schedulers, listed in docs/operations.md.
pub mod exit_code {
    /// Done, also if there was nothing to do.
    pub const DONE: u8 = 0;
    /// The command line is wrong (`EX_USAGE`).
    pub const USAGE: u8 = 64;
    /// The input is unreadable, truncated or invalid (`EX_DATAERR`).
    pub const DATA: u8 = 65;
    /// An input file or folder is missing or cannot be opened (`EX_NOINPUT`).
    pub const NO_INPUT: u8 = 66;
    /// A model, or the service that it comes from, is not available (`EX_UNAVAILABLE`).
    pub const UNAVAILABLE: u8 = 69;
    /// A bug of ours (`EX_SOFTWARE`).
    pub const INTERNAL: u8 = 70;
    /// The output cannot be written (`EX_CANTCREAT`).
    pub const CANT_CREATE: u8 = 73;
    /// Another run holds the output, or a resource is temporarily short: try again (`EX_TEMPFAIL`).
    pub const TEMPORARY: u8 = 75;
    /// The pipeline is wrong (`EX_CONFIG`).
    pub const CONFIG: u8 = 78;
    /// Interrupted by SIGINT (128 + 2).
    pub const INTERRUPTED: u8 = 130;
    /// Terminated by SIGTERM (128 + 15).
    pub const TERMINATED: u8 = 143;
}

/// Whose fault an error is. Each kind has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The command line is wrong.
    Usage,
    /// The pipeline is wrong: a key, a column, a query, an option that does not fit the model.
    Config,
    /// An input file or folder does not exist or cannot be opened.
    NoInput,
    /// The input exists, but its content is broken: truncated, ragged, not UTF-8.
    Data,
    /// A model's files are not available: no such repository, no network, no permission.
    Hub,
    /// The checkpoint needs something that this version does not implement.
    Unsupported,
    /// The checkpoint does not fit its own `config.json`, or its files are damaged.
    Model,
    /// Memory or another resource is temporarily short.
    Resources,
    /// The output already exists, or cannot be written.
    Sink,
    /// SIGINT arrived.
    Interrupted,
    /// SIGTERM arrived.
    Terminated,
    /// A broken invariant: our bug.
    Internal,
}

impl ErrorKind {
    /// The exit code of the program for this kind (see [`exit_code`]).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => exit_code::USAGE,
            Self::Config => exit_code::CONFIG,
            Self::NoInput => exit_code::NO_INPUT,
            Self::Data => exit_code::DATA,
            Self::Hub | Self::Unsupported | Self::Model => exit_code::UNAVAILABLE,
            Self::Resources => exit_code::TEMPORARY,
            Self::Sink => exit_code::CANT_CREATE,
            Self::Interrupted => exit_code::INTERRUPTED,
            Self::Terminated => exit_code::TERMINATED,
            Self::Internal => exit_code::INTERNAL,
        }
    }

    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Usage,
        Self::Config,
        Self::NoInput,
        Self::Data,
        Self::Hub,
        Self::Unsupported,
        Self::Model,
        Self::Resources,
        Self::Sink,
        Self::Interrupted,
        Self::Terminated,
        Self::Internal,
    ];

    /// The kind with a [`Self::name`].
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind's name in reports and JSON, snake_case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::NoInput => "no_input",
            Self::Data => "data",
            Self::Hub => "hub",
            Self::Unsupported => "unsupported",
            Self::Model => "model",
            Self::Resources => "resources",
            Self::Sink => "sink",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::Internal => "internal",
        }
    }
}

impl From<hfauto::ErrorKind> for ErrorKind {
    fn from(kind: hfauto::ErrorKind) -> Self {
        match kind {
            hfauto::ErrorKind::Config => Self::Config,
            hfauto::ErrorKind::Data => Self::Data,
            hfauto::ErrorKind::Hub => Self::Hub,
            hfauto::ErrorKind::Unsupported => Self::Unsupported,
            hfauto::ErrorKind::Model => Self::Model,
            hfauto::ErrorKind::Resources => Self::Resources,
            // A kind of the library that is not mapped above is our bug.
            _ => Self::Internal,
        }
    }
}

/// Compares a library's kind with the kind that it converts to.
impl PartialEq<ErrorKind> for hfauto::ErrorKind {
    fn eq(&self, other: &ErrorKind) -> bool {
        ErrorKind::from(*self) == *other
    }
}

/// An error of this crate.
///
/// Messages are fragments that fit after `error:`: lower case, no full stop, names in backticks,
/// what was expected and what was found. The remedy is on a line of its own ([`Error::hint`]).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    row: Option<RowErrorKind>,
    message: Message,
}

impl From<hfauto::Error> for Error {
    fn from(error: hfauto::Error) -> Self {
        let (kind, row, message) = error.into_parts();
        Self(Box::new(Inner { kind: kind.into(), row, message }))
    }
}

impl Error {
    /// A new error of `kind`; `message` is a lower-case fragment without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, row: None, message: Message::new(message) }))
    }

    /// A new error of kind [`ErrorKind::Data`] that says what is wrong with the row.
    pub fn of_row(row: RowErrorKind, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message).row(row)
    }

    /// Sets the kind of the row's error, for an error that a row causes.
    #[must_use]
    pub(crate) fn row(mut self, row: RowErrorKind) -> Self {
        self.0.row = (self.0.kind == ErrorKind::Data).then_some(row);
        self
    }

    /// The same error as the fault of another.
    #[must_use]
    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Adds a place on the way up, innermost first: a file, a column, a step, `model@revision`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message.at(place);
        self
    }

    /// Sets the remedy. The first hint stays, because it is closest to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.message.hint(hint);
        self
    }

    /// Sets the foreign error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.message.source(source);
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kind of the row's error, for errors of rows.
    pub fn row_kind(&self) -> Option<RowErrorKind> {
        self.0.row
    }

    /// The message alone, without places, cause and hint.
    pub fn message(&self) -> &str {
        self.0.message.text()
    }

    /// The places, innermost first.
    pub fn places(&self) -> &[String] {
        self.0.message.places()
    }

    /// The remedy, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.message.remedy()
    }

    /// A copy of the error for another receiver, with its causes as texts.
    #[must_use]
    pub(crate) fn again(&self) -> Self {
        let Inner { kind, row, message } = self.0.as_ref();
        Self(Box::new(Inner { kind: *kind, row: *row, message: message.again() }))
    }
}

impl fmt::Display for Error {
    /// `message: cause: deeper cause` on the first line, then `  at place` lines and `hint: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.message.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.message.cause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_library_keeps_all_that_it_says() {
        let cause = std::io::Error::other("disk on fire");
        let error = hfauto::Error::new(hfauto::ErrorKind::Hub, "cannot read `config.json`")
            .source(cause)
            .at("model `out/`")
            .hint("fetch it again");
        let text = error.to_string();
        let error = Error::from(error).hint("never shown");
        assert_eq!(error.to_string(), text);
        assert_eq!(error.kind().exit_code(), exit_code::UNAVAILABLE);
        assert_eq!(error.again().to_string(), text);
        let row = hfauto::Error::of_row(RowErrorKind::TooLong, "long");
        assert_eq!(Error::from(row).row_kind(), Some(RowErrorKind::TooLong));
        assert_eq!(hfauto::ErrorKind::Resources, ErrorKind::Resources);
    }
}
