//! Prints the program's output, without secrets and without control characters of untrusted text, which a terminal
//! would obey. Rows printed for another program (`sql --format csv`) stay exact unless stdout is a terminal. Not here:
//! the messages themselves.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use crate::error::{Error, ErrorKind, Result};
use crate::secret;

/// Prints a result. A closed pipe is no error: its reader has what it wanted.
///
/// # Errors
/// `Sink` when stdout cannot be written.
pub(super) fn print(text: impl std::fmt::Display) -> Result<()> {
    let text = text.to_string();
    write_out(printable(&secret::hide(&text)).as_bytes()).map(drop)
}

/// Prints a result as valid JSON: control characters become JSON escapes.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(mut value: serde_json::Value) -> Result<()> {
    secret::hide_json(&mut value);
    write_out(format!("{}\n", escaped(&value.to_string(), Form::Json)).as_bytes()).map(drop)
}

/// Writes rows to stdout, and returns whether the reader is still there. A terminal gets their control characters
/// escaped.
///
/// # Errors
/// `Sink` when stdout cannot be written.
pub(super) fn print_rows(rows: &[u8]) -> Result<bool> {
    if io::stdout().is_terminal() {
        let text = String::from_utf8_lossy(rows);
        return write_out(printable(&text).as_bytes());
    }
    write_out(rows)
}

fn write_out(bytes: &[u8]) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::new(ErrorKind::Sink, "cannot write to stdout").source(e)),
    }
}

/// Writes a line to stderr. Ignores a failure, because there is nowhere left to report it.
pub(super) fn say(line: impl std::fmt::Display) {
    let text = line.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", printable(&secret::hide(&text)));
}

/// Whether stderr shows colours: on a terminal, unless `NO_COLOR`, `CLICOLOR=0` or `TERM=dumb` says otherwise.
/// `CLICOLOR_FORCE` asks for them anywhere.
pub(super) fn has_colours() -> bool {
    let value = |name: &str| std::env::var(name).unwrap_or_default();
    if !value("NO_COLOR").is_empty() {
        return false;
    }
    let is_forced = !matches!(value("CLICOLOR_FORCE").as_str(), "" | "0");
    let is_off = value("CLICOLOR") == "0" || value("TERM") == "dumb";
    is_forced || !is_off && io::stderr().is_terminal()
}

/// Like [`say`], with colours on a terminal: `styled` is `plain` with colours. A text with control characters of its
/// own stays plain, as the two could not be told apart.
pub(super) fn say_styled(plain: &str, styled: impl FnOnce() -> String) {
    if !has_colours() || matches!(printable(plain), Cow::Owned(_)) {
        return say(plain);
    }
    let _ = writeln!(io::stderr().lock(), "{}", secret::hide(&styled()));
}

/// Writes a JSON object to stderr as a line.
pub(super) fn say_json(mut line: serde_json::Value) {
    secret::hide_json(&mut line);
    let _ = writeln!(io::stderr().lock(), "{}", escaped(&line.to_string(), Form::Json));
}

/// The text with control characters as `\x1b`; lines and tabs stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, Form::Text)
}

/// The form of a text.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Text,
    /// Text with the logger's colours (SGR sequences); the logger escapes all others.
    Coloured,
    /// JSON, which has control characters only inside strings.
    Json,
}

fn escaped(text: &str, form: Form) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut result = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = if form == Form::Coloured { colour_len(rest) } else { 0 };
        let length = colour.max(character.len_utf8());
        if colour > 0 || !is_harmful(character) {
            result.push_str(&rest[..length]);
        } else if form == Form::Json {
            let _ = write!(result, "\\u{:04x}", u32::from(character));
        } else if u32::from(character) < 0x100 {
            // Writing to a String does not fail.
            let _ = write!(result, "\\x{:02x}", u32::from(character));
        } else {
            let _ = write!(result, "\\u{{{:x}}}", u32::from(character));
        }
        rest = &rest[length..];
    }
    Cow::Owned(result)
}

/// Control characters of ASCII and Latin-1 except tab and line feed, and those that change the writing direction.
fn is_harmful(character: char) -> bool {
    match character {
        '\t' | '\n' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        character => character.is_control(),
    }
}

/// The bytes of a leading colour sequence: `ESC [ 1 ; 31 m`.
fn colour_len(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let length = parameters.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
    if parameters[length..].starts_with('m') { length + 3 } else { 0 }
}

/// The writer of logs: one event per call.
pub(super) struct LogWriter {
    pub(super) is_json: bool,
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let shown = secret::hide(&text);
        let form = match (self.is_json, has_colours()) {
            (true, _) => Form::Json,
            (false, true) => Form::Coloured,
            (false, false) => Form::Text,
        };
        io::stderr().lock().write_all(escaped(&shown, form).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_foreign_text() {
        let check = |text: &str, expected: &str| assert_eq!(printable(text), expected);
        check("naïve\ttext\n", "naïve\ttext\n");
        check("a\u{1b}[2Jb\r\u{7f}", "a\\x1b[2Jb\\x0d\\x7f");
        check("a\u{9b}31m\u{85}", "a\\x9b31m\\x85");
        check("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}");
        check("👩\u{200d}💻 \u{200e}", "👩\u{200d}💻 \u{200e}");
        assert_eq!(escaped("\"\u{9b}\u{202e}\"", Form::Json), r#""\u009b\u202e""#);
        assert_eq!(
            escaped("\u{1b}[1;31merror\u{1b}[0m \u{1b}]0;x", Form::Coloured),
            "\u{1b}[1;31merror\u{1b}[0m \\x1b]0;x"
        );
    }
}
