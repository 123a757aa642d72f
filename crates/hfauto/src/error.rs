//! The one public error of the library: what went wrong, whose fault it is, and where.
//!
//! [`ErrorKind`] says whose fault it is. Callers add places on the way up ([`Error::at`]: file, model), and the remedy
//! ([`Error::hint`]). A program with its own error kinds builds its error on [`Message`].

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::fmt::Write as _;

use crate::secret::hide;

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's settings: an option that does not exist or does not fit the model.
    Config,
    /// The input: a text, an image, a conversation.
    Data,
    /// A model's files are unavailable: no such repository, no network, no permission.
    Hub,
    /// The checkpoint uses a feature that this version does not implement.
    Unsupported,
    /// The checkpoint does not match its own `config.json`, or its files are damaged.
    Model,
    /// Memory or another resource is exhausted; a retry may succeed.
    Resources,
    /// A broken invariant: our bug.
    Internal,
}

/// The kind of a row's error: the values of `_error.kind`, of dead letters, reports and metrics. Existing values are
/// stable; new ones may be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RowErrorKind {
    /// More tokens than the model accepts, with truncation off.
    TooLong,
    /// The second text or the prompt leaves no room for the text or for generated tokens.
    NoRoom,
    /// Nothing to compute: a text without a token, a list without choices, a conversation without messages.
    Empty,
    /// A text without the mask token, or truncated before it.
    MissingMask,
    /// A text with several mask tokens where one is expected.
    SeveralMasks,
    /// An image file cannot be read.
    ImageRead,
    /// An image does not decode, or has an unsupported format or size.
    ImageDecode,
    /// The chat template rejects the conversation.
    Chat,
    /// The row alone, in a batch of its own, exceeds the device's memory.
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

    /// The kind's stable name.
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
/// Messages are fragments that follow `error:`: lower case, no full stop, names in backticks, the expected and the
/// actual value. The remedy has its own line ([`Error::hint`]).
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

    /// A new error of kind [`ErrorKind::Data`], with the kind of the row's error.
    pub fn of_row(row: RowErrorKind, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message).row(row)
    }

    /// Sets the kind of the row's error, if a row is at fault.
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

    /// Sets the remedy. The first hint wins, because it is closest to the cause.
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

    /// The remedy, if known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.message.remedy()
    }

    /// A copy of the error for another receiver. Its causes are kept as texts.
    #[must_use]
    pub fn again(&self) -> Self {
        let Inner { kind, row, message } = self.0.as_ref();
        Self(Box::new(Inner { kind: *kind, row: *row, message: message.again() }))
    }

    /// The error's parts.
    pub fn into_parts(self) -> (ErrorKind, Option<RowErrorKind>, Message) {
        let Inner { kind, row, message } = *self.0;
        (kind, row, message)
    }
}

/// The candidate that is nearest to `name`, if one is near enough to be a slip.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The error for weights that candle could not load.
pub(crate) fn cannot_load(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Model, "cannot load weights").source(error)
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

/// An error without its kind: a text, the places on the way up, the remedy and the cause. `Display` hides secrets in
/// all of them.
#[derive(Debug)]
pub struct Message {
    text: String,
    at: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Message {
    /// A message with the given text, a lower-case fragment without a full stop.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: shown(text.into()), at: Vec::new(), hint: None, source: None }
    }

    /// Adds a place, innermost first.
    pub fn at(&mut self, place: impl fmt::Display) {
        self.at.push(shown(place.to_string()));
    }

    /// Sets the remedy, unless there is one.
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

    /// A copy of the message. Its causes are kept as texts.
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
            // Many foreign errors repeat their cause, or their effect, in their own text.
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
        // Library errors may quote their arguments.
        f.write_str(&hide(&text))
    }
}

/// The text of an error with secrets hidden.
fn shown(text: String) -> String {
    match hide(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(hidden) => hidden,
    }
}

/// The texts of an error and its causes.
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
    fn row_error_names_are_unique_and_stay_with_the_error() {
        let words: std::collections::BTreeSet<_> =
            RowErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(words.len(), RowErrorKind::ALL.len());
        let error = Error::of_row(RowErrorKind::TooLong, "long").at("row 1");
        assert_eq!(error.again().row_kind(), Some(RowErrorKind::TooLong));
        assert_eq!((error.kind(), error.remedy()), (ErrorKind::Data, None));
    }
}
