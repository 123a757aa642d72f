//! Which tokens go when a text, or a pair of texts, is longer than there is room for.
//!
//! # Source
//! `truncate_encodings` of the library, whose panics are errors here.

use tokenizers::TruncationDirection;

use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// Which text gives the tokens that there is no room for, in the words of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TruncationStrategy {
    /// `longest_first`: the longer of the two, until both are as long, and then both.
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

/// The beginning or the end of a row: where it is cut, or where it is filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `left`: at the beginning.
    Left,
    /// `right`: at the end.
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

/// How a text or a pair is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Tokens that both texts together may keep.
    pub(super) room: usize,
    pub(super) strategy: TruncationStrategy,
    /// Tokens that a window has in common with the one before it.
    pub(super) stride: usize,
    pub(super) side: Side,
}

impl Cut {
    /// Cuts one or two texts; what is cut off stays with them as overflowing windows.
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

    /// How many tokens each text keeps.
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
                        "there is room for {room} tokens of {total}, but the {which} text, which alone \
                         may be cut, has only {length}"
                    ),
                )
                .hint("a shorter text beside it, a larger `max_length`, or another truncation")
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
                // The first of two texts of one length counts as the shorter one.
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

/// The error for windows that have nothing new beside what they have in common.
pub(super) fn no_room(kind: ErrorKind, room: usize, stride: usize) -> Error {
    Error::new(
        kind,
        format!(
            "a window has room for {room} tokens of the text, but it should have {stride} in common with \
             the next one"
        ),
    )
    .row(RowErrorKind::NoRoom)
    .hint("a larger `max_length`, or a smaller stride")
}
