//! Texts that end a sequence.
//!
//! As in transformers' `StopStringCriteria`, a sequence ends with the token that completes a stop string. The stop
//! string, and the rest of the token after it, stay in the text. Each token counts with its own text, so a character
//! split over several tokens completes no stop string.

use std::collections::HashMap;

/// Stop strings, and the mapping from tokens to texts.
pub struct StopStrings<'a> {
    strings: &'a [String],
    /// The number of last tokens that may overlap the longest string: one per character.
    window: usize,
    token_text: &'a (dyn Fn(u32) -> String + Sync),
}

impl<'a> StopStrings<'a> {
    /// Creates stop strings from texts. `token_text` returns a token's text as it appears within a text.
    pub fn new(strings: &'a [String], token_text: &'a (dyn Fn(u32) -> String + Sync)) -> Self {
        let window = strings.iter().map(|string| string.chars().count()).max().unwrap_or(0);
        Self { strings, window, token_text }
    }

    /// Whether the last of `ids` completes a stop string. `texts` caches the texts of tokens between calls.
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
            // In UTF-8, a byte match is always at character boundaries.
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
