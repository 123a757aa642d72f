//! Slices a text by characters, the unit of token offsets. Not here: the offsets ([`Encoding`](crate::auto::Encoding)).

use std::ops::Range;

/// A text that is indexed by characters.
#[derive(Debug)]
pub struct Characters<'a> {
    text: &'a str,
    /// The byte offset of each character; `None` when every character is one byte.
    starts: Option<Vec<usize>>,
}

impl<'a> Characters<'a> {
    /// Indexes `text`.
    pub fn new(text: &'a str) -> Self {
        let starts = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self { text, starts }
    }

    /// The substring, as Python's `text[start:end]`: indices past the end are clamped, and a range that ends before its
    /// start is empty.
    ///
    /// # Units
    /// Characters, 0-based, half-open.
    pub fn slice(&self, range: Range<usize>) -> &'a str {
        let start = self.byte(range.start);
        let end = self.byte(range.end);
        self.text.get(start..end).unwrap_or_default()
    }

    /// The byte offset of a character, or the end of the text.
    pub(super) fn byte(&self, character: usize) -> usize {
        match &self.starts {
            Some(starts) => starts.get(character).copied().unwrap_or(self.text.len()),
            None => character.min(self.text.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_like_python() {
        for (text, range, expected) in [
            ("harbour", 0..3, "har"),
            ("harbour", 3..99, "bour"),
            ("harbour", 9..12, ""),
            ("Café 🙂 there", 3..6, "é 🙂"),
            ("Café 🙂 there", 5..99, "🙂 there"),
            ("Cafe\u{301}", 4..5, "\u{301}"),
            ("", 0..1, ""),
        ] {
            assert_eq!(Characters::new(text).slice(range.clone()), expected, "{text} {range:?}");
        }
        let (start, end) = (5, 2);
        assert_eq!(Characters::new("é harbour").slice(start..end), "");
    }
}
