//! Texts that end a row.
//!
//! As `StopStringCriteria` of transformers: a row ends with the token that completes a stop string, which
//! stays in the text, as does what the token has after it. Tokens are taken at their own text, so that a
//! character of several tokens, none of which is text by itself, completes nothing.

use std::collections::HashMap;

/// Stop strings, and the way from a token to its text.
pub struct StopStrings<'a> {
    strings: &'a [String],
    /// Tokens at the end of a row that may have a part in the longest string: one a character.
    window: usize,
    token_text: &'a (dyn Fn(u32) -> String + Sync),
}

impl<'a> StopStrings<'a> {
    /// From strings and a function that gives the text of a token as it stands within a text.
    pub fn new(strings: &'a [String], token_text: &'a (dyn Fn(u32) -> String + Sync)) -> Self {
        let window = strings.iter().map(|string| string.chars().count()).max().unwrap_or(0);
        Self { strings, window, token_text }
    }

    /// Whether the last of `ids` completes a string; `texts` keeps texts of tokens between calls.
    pub(super) fn end(&self, ids: &[u32], texts: &mut HashMap<u32, String>) -> bool {
        let window = &ids[ids.len().saturating_sub(self.window)..];
        let mut text = String::new();
        let mut last_start = 0;
        for &id in window {
            last_start = text.len();
            text.push_str(texts.entry(id).or_insert_with(|| (self.token_text)(id)));
        }
        if last_start == text.len() {
            return false;
        }
        self.strings.iter().any(|string| {
            // A string of UTF-8 is found in bytes only where its characters are.
            let (text, string) = (text.as_bytes(), string.as_bytes());
            let from = (last_start + 1).saturating_sub(string.len());
            text[from..].windows(string.len()).any(|part| part == string)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_completes_a_string() {
        const TOKENS: [&str; 10] =
            ["st", "op", "stop", "opera", "las", "topper", "s", "", "é房", "at"];
        let strings = ["stop".to_owned(), "é房a".to_owned()];
        let text = |id: u32| TOKENS[id as usize].to_owned();
        let stop = StopStrings::new(&strings, &text);
        let mut texts = HashMap::new();
        // The examples in the docstring of `StopStringCriteria`.
        let ends: [&[u32]; 8] =
            [&[0, 1], &[2], &[0, 3], &[4, 5], &[9, 0, 1], &[0, 7, 1], &[8, 9], &[2, 2]];
        for ids in ends {
            assert!(stop.end(ids, &mut texts), "{ids:?}");
        }
        let goes_on: [&[u32]; 7] = [&[2, 9], &[0, 1, 9], &[0, 3, 6], &[0], &[], &[2, 7], &[8]];
        for ids in goes_on {
            assert!(!stop.end(ids, &mut texts), "{ids:?}");
        }
    }
}
