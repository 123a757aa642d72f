//! Errors of units on their way from an executor through Ballista, which transports text only, to the client. Not here:
//! which of them are worth another attempt (`executor`).

use crate::error::Error;
use crate::report::ErrorReport;
use crate::secret;

/// The mark of an error within a text. Ballista quotes and embeds the text, which leaves hex digits unchanged.
const MARK: &str = "hfauto-pipe-error:";

/// The longest part of a text to transport, in bytes: errors of queries may quote the whole query.
const TEXT_BYTES: usize = 4096;

/// The most places to transport.
const PLACES: usize = 32;

/// The error as a text: the message for the log of the scheduler, and everything for the client.
pub(super) fn encode(error: &Error) -> String {
    let mut report = ErrorReport::from(error);
    // The first line is the message with its causes.
    report.text = cut(report.text.lines().next().unwrap_or_default());
    report.message = cut(&report.message);
    report.hint = report.hint.as_deref().map(cut);
    report.at.truncate(PLACES);
    report.at = report.at.iter().map(|place| cut(place)).collect();
    let json = serde_json::to_string(&report).unwrap_or_default();
    let hex: String = json.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{} ({MARK}{hex})", report.message)
}

/// The error in a text; `None` if it holds none.
pub(super) fn decode(text: &str) -> Option<Error> {
    let (_, rest) = text.split_once(MARK)?;
    let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).collect::<Vec<u8>>();
    let bytes = digits.chunks_exact(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    serde_json::from_slice::<ErrorReport>(&bytes).ok().map(ErrorReport::into_error)
}

/// The beginning of a text, without secrets.
fn cut(text: &str) -> String {
    let text = secret::hide(text);
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_error_survives_ballista() {
        let error = Error::new(ErrorKind::Data, "row 3 of `a\"b`\nis broken")
            .source(std::io::Error::other("disk"))
            .at("rows 1 to 4 of `x`")
            .at("step at 7:3")
            .hint("repair it");
        // As Ballista embeds it: once plain, once with Debug.
        for text in [encode(&error), format!("Task 1 failed 3 times: {:?}", encode(&error))] {
            let back = decode(&text).unwrap();
            assert_eq!((back.kind(), back.places()), (error.kind(), error.places()));
            assert_eq!(back.remedy(), Some("repair it"));
        }
    }

    #[test]
    fn other_texts_hold_no_error() {
        for text in
            ["", "Cancelled", "hfauto-pipe-error:", "hfauto-pipe-error:7b", "hfauto-pipe-error:zz"]
        {
            assert!(decode(text).is_none(), "{text}");
        }
    }

    #[test]
    fn long_errors_are_cut() {
        let error = (0..1000).fold(Error::new(ErrorKind::Data, "ü".repeat(100_000)), Error::at);
        let text = encode(&error);
        assert!(text.len() < 40_000, "{}", text.len());
        assert_eq!(decode(&text).unwrap().kind(), ErrorKind::Data);
    }
}
