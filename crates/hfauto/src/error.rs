//! The one public error of the library: what went wrong, by whose fault, and where.
//!
//! The [`ErrorKind`] says whose fault it is; [`Error::at`] adds places on the way up (file, model) and [`Error::hint`] the
//! remedy. A program with kinds of its own builds its error on [`Message`].

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::fmt::Write as _;

use crate::secret::hide;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's settings: an option that does not exist, or does not fit the model.
    Config,
    /// The input: a text, an image, a conversation.
    Data,
    /// A model's files cannot be had: no such repository, no network, no permission.
    Hub,
    /// The checkpoint names something that this version does not implement.
    Unsupported,
    /// The checkpoint does not fit its own `config.json`, or its files are damaged.
    Model,
    /// Out of memory or of another resource that may be there next time.
    Resources,
    /// A broken invariant: our bug.
    Internal,
}

/// The kind of an error of one row: the words of `_error.kind`, of dead letters, reports and metrics. Existing words are
/// stable; new ones may be added.
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
    message: Message,
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

    /// Says what is wrong with the row, if it is a row that is at fault.
    #[must_use]
    pub fn row(mut self, row: RowErrorKind) -> Self {
        self.0.row = (self.0.kind == ErrorKind::Data).then_some(row);
        self
    }

    /// Adds a place on the way up, innermost first: a file, a column, a step, `model@revision`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message.at(place);
        self
    }

    /// Sets what the user can do about it. The first hint stays: it is the closest to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.message.hint(hint);
        self
    }

    /// Keeps the foreign error that caused this one.
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

    /// What the user can do about it, if known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.message.remedy()
    }

    /// The same error for one more receiver; of its causes, the texts.
    #[must_use]
    pub fn again(&self) -> Self {
        let Inner { kind, row, message } = self.0.as_ref();
        Self(Box::new(Inner { kind: *kind, row: *row, message: message.again() }))
    }

    /// Its parts.
    pub fn into_parts(self) -> (ErrorKind, Option<RowErrorKind>, Message) {
        let Inner { kind, row, message } = *self.0;
        (kind, row, message)
    }
}

/// The error of a tensor operation in a forward pass.
pub(crate) fn forward_failed(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Internal, "a forward pass failed").source(error)
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

/// An error without its kind: a text, the places on the way up, the remedy and the cause. Secrets are hidden in all of
/// them.
#[derive(Debug)]
pub struct Message {
    text: String,
    at: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Message {
    /// A message of one text, a lower-case fragment without a full stop.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: shown(text.into()), at: Vec::new(), hint: None, source: None }
    }

    /// Adds a place, innermost first.
    pub fn at(&mut self, place: impl fmt::Display) {
        self.at.push(shown(place.to_string()));
    }

    /// Sets the remedy, if there is none.
    pub fn hint(&mut self, hint: impl Into<String>) {
        self.hint.get_or_insert_with(|| shown(hint.into()));
    }

    /// Sets the cause.
    pub fn source(&mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) {
        self.source = Some(source.into());
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The places, innermost first.
    pub fn places(&self) -> &[String] {
        &self.at
    }

    /// The remedy.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The cause.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }

    /// The same message; of its causes, the texts.
    #[must_use]
    pub fn again(&self) -> Self {
        let source = self.cause().map(|cause| Box::new(Told::of(cause)) as Box<_>);
        let (text, at, hint) = (self.text.clone(), self.at.clone(), self.hint.clone());
        Self { text, at, hint, source }
    }
}

impl fmt::Display for Message {
    /// `text: cause: deeper cause` on the first line, then `  at place` lines and `hint: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.text.clone();
        let mut source = self.cause();
        let mut said = self.text.clone();
        while let Some(cause) = source {
            let next = cause.source();
            let cause = cause.to_string();
            // Many foreign errors repeat their cause, or what they caused, in their own text.
            if !said.contains(&cause) && !cause.contains(&self.text) {
                write!(text, ": {cause}")?;
                said.push_str(&cause);
            }
            source = next;
        }
        for place in &self.at {
            write!(text, "\n  at {place}")?;
        }
        if let Some(hint) = &self.hint {
            write!(text, "\nhint: {hint}")?;
        }
        // Errors of libraries may quote their arguments.
        f.write_str(&hide(&text))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_message_cause_places_and_hint_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Model, "cannot read `a.json`")
            .source(cause)
            .at("model `out/`")
            .hint("choose another folder")
            .hint("never shown");
        assert_eq!(
            error.to_string(),
            "cannot read `a.json`: disk on fire\n  at model `out/`\nhint: choose another folder"
        );
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
