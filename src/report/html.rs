//! Text as HTML: nothing of a report reaches the page but through here. Not here: what the page shows (`page`).

use std::fmt::Write;
use std::ops::RangeBounds;

/// Characters of a text that the page shows.
const MAX_CHARS: usize = 2000;

/// A text as HTML, for elements and for attributes in double quotes. What cannot be seen is shown as such, and a
/// text that would fill the page is cut.
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
            // They turn the direction of what follows them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
    html
}

/// A table; cells are HTML. The columns of `numbers` hold numbers and stand at the right.
pub(super) fn table(
    head: &[&str],
    numbers: impl RangeBounds<usize>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let class = |column: usize| if numbers.contains(&column) { " class=\"n\"" } else { "" };
    let mut html = "<div class=\"scroll\"><table><thead><tr>".to_owned();
    for (column, name) in head.iter().enumerate() {
        let _ = write!(html, "<th scope=\"col\"{}>{name}</th>", class(column));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{cell}</td>", class(column));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// A table that is folded under a plot.
pub(super) fn figures(what: &str, table: &str) -> String {
    format!("<details><summary>{what}</summary>{table}</details>")
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
