//! Detects the CSV errors that the `csv` crate ignores: a quote without a delimiter after it, an unclosed quote, and an
//! endless record. The bytes pass through here on their way to the crate. Not here: fields and rows (`csv`).

use std::io::{self, Read};

use memchr::{memchr, memchr2};

use super::inspect::too_long;
use crate::config::pipeline::CsvSpec;

/// Tracks the quotes of CSV text.
pub(super) struct QuoteWatch<R> {
    inner: R,
    delimiter: u8,
    quote: Option<u8>,
    escape: Option<u8>,
    comment: Option<u8>,
    max_record_bytes: u64,
    /// The number of bytes so far.
    offset: u64,
    /// The latest possible start of the current record.
    record_begin: u64,
    state: State,
    /// The previous byte.
    before: Option<u8>,
    /// The first position where a quote is not followed by a delimiter.
    misplaced: Option<u64>,
    has_ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Outside quoted fields.
    Outside,
    Comment,
    Inside,
    /// After the escape character.
    Escaped,
    /// After a quote in a quoted field: the next byte decides its meaning.
    AfterQuote,
}

impl<R> QuoteWatch<R> {
    pub(super) fn new(inner: R, spec: &CsvSpec, max_record_bytes: u64) -> Self {
        Self {
            inner,
            delimiter: spec.delimiter,
            quote: spec.quote,
            escape: spec.escape,
            comment: spec.comment,
            max_record_bytes,
            offset: 0,
            record_begin: 0,
            state: State::Outside,
            before: None,
            misplaced: None,
            has_ended: false,
        }
    }

    /// Marks everything before `offset` as parsed into records. Returns whether a quote in it lacks a delimiter after
    /// it.
    pub(super) fn record_ends(&mut self, offset: u64) -> bool {
        self.record_begin = offset;
        self.misplaced.is_some_and(|misplaced| misplaced < offset)
    }

    /// Whether the text ended inside quotes.
    pub(super) fn ends_open(&self) -> bool {
        self.has_ended && matches!(self.state, State::Inside | State::Escaped)
    }

    /// Steps from one significant byte to the next.
    fn watch(&mut self, bytes: &[u8]) {
        let Some(quote) = self.quote else { return };
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let found = match (self.state, self.comment, self.escape) {
                (State::Outside, Some(other), _) | (State::Inside, _, Some(other)) => {
                    memchr2(quote, other, rest)
                }
                (State::Outside | State::Inside, _, _) => memchr(quote, rest),
                (State::Comment, _, _) => memchr(b'\n', rest),
                (State::Escaped | State::AfterQuote, _, _) => Some(0),
            };
            let Some(found) = found else { break };
            let (place, byte) = (at + found, rest[found]);
            let before = if place == 0 { self.before } else { Some(bytes[place - 1]) };
            let begins_line = before.is_none_or(|before| matches!(before, b'\n' | b'\r'));
            at = place + 1;
            self.state = match self.state {
                State::Outside if byte == quote => {
                    let begins = begins_line || before == Some(self.delimiter);
                    if begins { State::Inside } else { State::Outside }
                }
                State::Outside if begins_line => State::Comment,
                State::Outside | State::Comment => State::Outside,
                State::Inside if byte == quote => State::AfterQuote,
                State::Inside => State::Escaped,
                State::Escaped => State::Inside,
                State::AfterQuote if byte == quote => State::Inside,
                State::AfterQuote => {
                    if byte != self.delimiter && !matches!(byte, b'\n' | b'\r') {
                        self.misplaced = self.misplaced.or(Some(self.offset + place as u64));
                    }
                    State::Outside
                }
            };
        }
    }
}

impl<R: Read> Read for QuoteWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.offset - self.record_begin > self.max_record_bytes {
            return Err(io::Error::other(too_long(self.max_record_bytes)));
        }
        let read = self.inner.read(buffer)?;
        self.watch(&buffer[..read]);
        self.before = buffer[..read].last().copied().or(self.before);
        self.offset += read as u64;
        self.has_ended = read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings for a text read in chunks of `size` bytes.
    fn seen(text: &str, spec: &CsvSpec, size: usize) -> (Option<u64>, bool) {
        let mut watch = QuoteWatch::new(text.as_bytes(), spec, 1 << 20);
        let mut buffer = vec![0; size];
        while watch.read(&mut buffer).unwrap() > 0 {}
        (watch.misplaced, watch.ends_open())
    }

    #[test]
    fn quotes_are_followed_wherever_the_text_is_cut() {
        let backslash = CsvSpec { escape: Some(b'\\'), comment: Some(b'#'), ..CsvSpec::default() };
        let single = CsvSpec { quote: Some(b'\''), delimiter: b';', ..CsvSpec::default() };
        let cases: [(&str, CsvSpec, Option<u64>, bool); 14] = [
            ("a,b\n\"x\",\"y\"\n", CsvSpec::default(), None, false),
            ("\"a\"\"b\",\"\"\r\n\"\"\"\"\n", CsvSpec::default(), None, false),
            ("5\" disk,it's\n", CsvSpec::default(), None, false),
            ("\"x\ny\",1\n", CsvSpec::default(), None, false),
            ("\"x\"y,1\n", CsvSpec::default(), Some(3), false),
            ("1,\"x\" ,2\n", CsvSpec::default(), Some(5), false),
            ("1,\"x\n2,y\n", CsvSpec::default(), None, true),
            ("'x;''y';1\n", single, None, false),
            ("\"x\\\"y\",1\n", backslash.clone(), None, false),
            ("\"x\\\"y,1\n", backslash.clone(), None, true),
            ("#\"x\" y,\"\n1,2\n", backslash.clone(), None, false),
            ("# a,\"b\n\"x\n#y\",\"z\"w\n", backslash.clone(), Some(17), false),
            ("1,\"x\"\n#,\"y\n2,\"z\"\n", backslash, None, false),
            ("a,\"x\"\"", CsvSpec { quote: None, ..CsvSpec::default() }, None, false),
        ];
        for (text, spec, misplaced, open) in cases {
            for size in 1..=text.len() + 1 {
                assert_eq!(seen(text, &spec, size), (misplaced, open), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn a_record_has_an_end() {
        let text = "x".repeat(1000);
        let mut watch = QuoteWatch::new(text.as_bytes(), &CsvSpec::default(), 100);
        let error = watch.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}
