//! Escapes text for HTML: every text of a report passes through here. Not here: the content of the page (`page`).

use minijinja::value::Value;
use minijinja::{Error, Output, State};

/// The maximum number of characters of a text on the page.
const MAX_CHARS: usize = 2000;

/// Writes a value of the template, escaped unless it is markup.
pub(super) fn write_escaped(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    let text = value.to_string();
    out.write_str(&if value.is_safe() { text } else { escape(&text) })?;
    Ok(())
}

/// Escapes a text for elements and for attributes in double quotes. Replaces invisible characters by visible ones, and
/// truncates long texts.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for (number, c) in text.chars().enumerate() {
        if number == MAX_CHARS {
            html.push('…');
            break;
        }
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            c if c.is_control() => html.push('\u{fffd}'),
            // These change the direction of the text after them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        let hostile = "<script>alert(\"1\")</script>&'\u{0}\u{202e}x";
        assert_eq!(
            escape(hostile),
            "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;\u{fffd}\u{fffd}x"
        );
        assert_eq!(escape(&"é".repeat(5000)).chars().count(), MAX_CHARS + 1);
    }
}
