//! The one public error: what went wrong, by whose fault, and where.
//!
//! Every folder returns this type. The [`ErrorKind`] says whose fault it is and fixes the exit code of
//! the program; [`Error::at`] adds places on the way up (file, column, model, rows) and
//! [`Error::hint`] the remedy. Not here: the problems of a pipeline file, which come all at once and
//! with snippets ([`crate::config::Diagnostics`]).

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::fmt::Write as _;

use crate::secret::hide;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit codes of the program; part of the contract with schedulers, listed in the README.
pub mod exit_code {
    /// Done, also when there was nothing to do.
    pub const DONE: u8 = 0;
    /// The command line is wrong (`EX_USAGE`).
    pub const USAGE: u8 = 64;
    /// The rows are at fault: unreadable, truncated or invalid input (`EX_DATAERR`).
    pub const DATA: u8 = 65;
    /// An input file or folder is missing or cannot be opened (`EX_NOINPUT`).
    pub const NO_INPUT: u8 = 66;
    /// A model, or the service it comes from, is not available (`EX_UNAVAILABLE`).
    pub const UNAVAILABLE: u8 = 69;
    /// A bug of ours (`EX_SOFTWARE`).
    pub const INTERNAL: u8 = 70;
    /// The output cannot be written (`EX_CANTCREAT`).
    pub const CANT_CREATE: u8 = 73;
    /// Locked, or short of a resource for now: try again (`EX_TEMPFAIL`).
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
    /// The pipeline is wrong: a key, a column, a SQL text, an option that does not fit the model.
    Config,
    /// An input file or folder does not exist or cannot be opened.
    NoInput,
    /// The input is there, but its content is broken: truncated, ragged, not UTF-8.
    Data,
    /// A model's files cannot be had: no such repository, no network, no permission.
    Hub,
    /// The checkpoint names something that this version does not implement.
    Unsupported,
    /// The checkpoint does not fit its own `config.json`, or its files are damaged.
    Model,
    /// Out of memory or of another resource that may be there next time.
    Resources,
    /// The output exists already, or cannot be written.
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

    /// The kind of a name, as [`Self::name`] gives it.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [
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
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
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

/// What is wrong with a row, where a row is at fault: the words of `_error.kind`, of dead letters, reports and
/// metrics. They stay; new ones may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RowErrorKind {
    /// More tokens than the model takes, where nothing is cut.
    TooLong,
    /// A text beside it, or a prompt, leaves no room for what is to be computed.
    NoRoom,
    /// Nothing to compute: a text without a token, a list without choices, a conversation without messages.
    Empty,
    /// A text without the mask token, or one that is cut off before it.
    MissingMask,
    /// A text with several mask tokens where one is expected.
    SeveralMasks,
    /// An image's file cannot be read.
    ImageRead,
    /// An image does not decode, or is of a format or a size that is not read.
    ImageDecode,
    /// A conversation that the chat template refuses.
    Chat,
    /// The memory of the device does not hold what the model computes of it, alone in a batch.
    OutOfMemory,
    /// A text that is not UTF-8, in a column that a step reads.
    InvalidUtf8,
    /// Anything else.
    #[default]
    Data,
}

impl RowErrorKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::TooLong,
        Self::NoRoom,
        Self::Empty,
        Self::MissingMask,
        Self::SeveralMasks,
        Self::ImageRead,
        Self::ImageDecode,
        Self::Chat,
        Self::OutOfMemory,
        Self::InvalidUtf8,
        Self::Data,
    ];

    /// The kind's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NoRoom => "no_room",
            Self::Empty => "empty",
            Self::MissingMask => "missing_mask",
            Self::SeveralMasks => "several_masks",
            Self::ImageRead => "image_read",
            Self::ImageDecode => "image_decode",
            Self::Chat => "chat",
            Self::OutOfMemory => "out_of_memory",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Data => "data",
        }
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
    message: String,
    at: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error of `kind`; `message` is a lower-case fragment without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            row: None,
            message: shown(message.into()),
            at: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// A new error of kind [`ErrorKind::Data`] that says what is wrong with the row.
    pub fn of_row(row: RowErrorKind, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message).row(row)
    }

    /// Says what is wrong with the row, if it is a row that is at fault.
    #[must_use]
    pub(crate) fn row(mut self, row: RowErrorKind) -> Self {
        self.0.row = (self.0.kind == ErrorKind::Data).then_some(row);
        self
    }

    /// Adds a place on the way up, innermost first: a file, a column, a step, `model@revision`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.at.push(shown(place.to_string()));
        self
    }

    /// Sets what the user can do about it. The first hint stays: it is the closest to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| shown(hint.into()));
        self
    }

    /// Keeps the foreign error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is wrong with the row, for errors of rows.
    pub fn row_kind(&self) -> Option<RowErrorKind> {
        self.0.row
    }

    /// The message alone, without places, cause and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The places, innermost first.
    pub fn places(&self) -> &[String] {
        &self.0.at
    }

    /// What the user can do about it, if we know.
    pub fn remedy(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The same error for one more receiver; of its causes, the texts.
    pub(crate) fn again(&self) -> Self {
        let Inner { kind, row, message, at, hint, .. } = self.0.as_ref();
        let source = StdError::source(self).map(|cause| Box::new(Told::of(cause)) as Box<_>);
        let (message, at, hint) = (message.clone(), at.clone(), hint.clone());
        Self(Box::new(Inner { kind: *kind, row: *row, message, at, hint, source }))
    }
}

/// The text of an error without secrets.
fn shown(text: String) -> String {
    match hide(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(hidden) => hidden,
    }
}

/// What an error and its causes said.
#[derive(Debug)]
struct Told {
    text: String,
    source: Option<Box<Told>>,
}

impl Told {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let source = error.source().map(|cause| Box::new(Self::of(cause)));
        Self { text: error.to_string(), source }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl fmt::Display for Error {
    /// `message: cause: deeper cause` on the first line, then `  at place` lines and `hint: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.message.clone();
        let mut source = StdError::source(self);
        let mut said = self.0.message.clone();
        while let Some(cause) = source {
            let next = cause.source();
            let cause = cause.to_string();
            // Many foreign errors repeat their cause, or what they caused, in their own text.
            if !said.contains(&cause) && !cause.contains(&self.0.message) {
                write!(text, ": {cause}")?;
                said.push_str(&cause);
            }
            source = next;
        }
        for place in &self.0.at {
            write!(text, "\n  at {place}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(text, "\nhint: {hint}")?;
        }
        // Errors of libraries may quote their arguments.
        f.write_str(&hide(&text))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_message_cause_places_and_hint_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Sink, "cannot write `a.parquet`")
            .source(cause)
            .at("sink `out/`")
            .hint("choose another `sink.path`")
            .hint("never shown");
        assert_eq!(
            error.to_string(),
            "cannot write `a.parquet`: disk on fire\n  at sink `out/`\nhint: choose another `sink.path`"
        );
        assert_eq!(error.kind().exit_code(), exit_code::CANT_CREATE);
        assert_eq!(error.again().to_string(), error.to_string());
    }

    #[test]
    fn words_of_row_errors_are_each_its_own_and_stay_with_the_error() {
        let words: std::collections::BTreeSet<_> =
            RowErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(words.len(), RowErrorKind::ALL.len());
        let error = Error::of_row(RowErrorKind::TooLong, "long").at("row 1");
        assert_eq!(error.again().row_kind(), Some(RowErrorKind::TooLong));
        assert_eq!((error.kind(), error.remedy()), (ErrorKind::Data, None));
    }
}
