//! Truncates a text, or a pair of texts, that has too many tokens.
//!
//! # Source
//! `truncate_encodings` of the library, whose panics are errors here.

use tokenizers::TruncationDirection;

use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// Which text of a pair is truncated, with the names of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TruncationStrategy {
    /// `longest_first`: the longer text, until both have the same length, and then both.
    #[default]
    LongestFirst,
    /// `only_first`: the first text of a pair.
    OnlyFirst,
    /// `only_second`: the second text of a pair.
    OnlySecond,
}

impl TruncationStrategy {
    /// The name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::LongestFirst => "longest_first",
            Self::OnlyFirst => "only_first",
            Self::OnlySecond => "only_second",
        }
    }
}

/// The side of a row where it is truncated or padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `left`: the start.
    Left,
    /// `right`: the end.
    Right,
}

impl Side {
    /// The name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }
}

impl From<Side> for TruncationDirection {
    fn from(side: Side) -> Self {
        match side {
            Side::Left => Self::Left,
            Side::Right => Self::Right,
        }
    }
}

/// How a text or a pair is truncated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// The maximum number of tokens of both texts together.
    pub(super) room: usize,
    pub(super) strategy: TruncationStrategy,
    /// The number of tokens that a window shares with the previous one.
    pub(super) stride: usize,
    pub(super) side: Side,
}

impl Cut {
    /// Truncates one or two texts. The removed tokens become overflowing windows.
    ///
    /// # Errors
    /// `Config` when the second text is to be cut and there is none, or when windows of a text alone
    /// could not go on; `Data` when the text to cut is too short, or when the text beside it leaves so
    /// little that windows could not go on.
    pub(super) fn apply(
        self,
        first: &mut tokenizers::Encoding,
        second: Option<&mut tokenizers::Encoding>,
    ) -> Result<()> {
        let (one, two) = (first.len(), second.as_ref().map(|second| second.len()));
        let (keep_one, keep_two) = self.kept(one, two)?;
        let kind = if two.is_none() { ErrorKind::Config } else { ErrorKind::Data };
        let parts = [Some((first, keep_one)), second.zip(keep_two)];
        for (text, keep) in parts.into_iter().flatten() {
            if 0 < keep && keep < text.len() && keep <= self.stride {
                return Err(no_room(kind, keep, self.stride));
            }
            text.truncate(keep, self.stride, self.side.into());
        }
        Ok(())
    }

    /// The number of tokens that each text keeps.
    fn kept(self, one: usize, two: Option<usize>) -> Result<(usize, Option<usize>)> {
        let (room, total) = (self.room, one + two.unwrap_or(0));
        if total <= room {
            return Ok((one, two));
        }
        if room == 0 {
            return Ok((0, two.map(|_| 0)));
        }
        let surplus = total - room;
        let rest = |length: usize, which: &str| {
            length.checked_sub(surplus).filter(|rest| *rest > 0).ok_or_else(|| {
                Error::of_row(
                    RowErrorKind::NoRoom,
                    format!(
                        "there is room for {room} tokens of {total}, but the {which} text, \
                         the only one to truncate, has only {length}"
                    ),
                )
                .hint("shorten the other text, raise `max_length`, or set another truncation")
            })
        };
        match (self.strategy, two) {
            (TruncationStrategy::OnlySecond, None) => Err(Error::new(
                ErrorKind::Config,
                "truncation is `only_second`, but there is no second text",
            )),
            (TruncationStrategy::OnlyFirst, Some(two)) => Ok((rest(one, "first")?, Some(two))),
            (TruncationStrategy::OnlySecond, Some(two)) => Ok((one, Some(rest(two, "second")?))),
            (_, None) => Ok((room, None)),
            (TruncationStrategy::LongestFirst, Some(two)) => {
                // If both texts are equally long, the first counts as the shorter one.
                let short = one.min(two);
                let (short, long) = match room.checked_sub(short) {
                    Some(rest) if rest >= short => (short, rest),
                    _ => (room / 2, room / 2 + room % 2),
                };
                Ok(if one > two { (long, Some(short)) } else { (short, Some(long)) })
            }
        }
    }
}

/// The error for windows without new tokens beside the shared ones.
pub(super) fn no_room(kind: ErrorKind, room: usize, stride: usize) -> Error {
    Error::new(
        kind,
        format!(
            "a window has room for {room} tokens of the text, but should share {stride} with the \
             next one"
        ),
    )
    .row(RowErrorKind::NoRoom)
    .hint("raise `max_length` or lower the stride")
}
