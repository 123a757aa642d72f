//! Splits texts that are longer than a model reads into parts that fit: at the ends of sentences, where one sentence is too
//! long between words, and where one word is too long inside it. Not here: tokenizing, and joining the results.
//! The entry is [`split_text`].

use crate::error::Result;

/// What may follow the mark that ends a sentence and still belongs to it.
const CLOSING: [char; 10] = ['"', '\'', '”', '’', '»', ')', ']', '」', '』', '）'];

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPart<'t> {
    /// The text, without the white space around it.
    pub text: &'t str,
    /// Whether a line ends between this part and the next.
    pub ends_line: bool,
}

/// Splits `text` into parts of at most `most` tokens, as few as packing sentence by sentence makes. `tokens` counts the tokens
/// of a part. A text that fits, or has nothing but white space, is one part as it is. Only a part of one character may have
/// more tokens.
///
/// # Errors
/// Those of `tokens`.
pub fn split_text<'t>(
    text: &'t str,
    most: usize,
    tokens: &dyn Fn(&str) -> Result<usize>,
) -> Result<Vec<TextPart<'t>>> {
    if text.trim().is_empty() || tokens(text)? <= most {
        return Ok(vec![TextPart { text, ends_line: false }]);
    }
    let mut splitter = Splitter { most, tokens, parts: Vec::new() };
    splitter.split(text, Level::Sentences)?;
    Ok(splitter.parts)
}

/// Where a text is split.
#[derive(Clone, Copy)]
enum Level {
    Sentences,
    Words,
    Characters,
}

impl Level {
    /// The text in pieces: each ends with the white space that follows it.
    fn pieces(self, text: &str) -> Vec<&str> {
        let ends: Vec<usize> = match self {
            Self::Sentences => sentence_ends(text),
            Self::Words => {
                let spaces = text.char_indices().filter(|(_, c)| c.is_whitespace());
                let ends = spaces.map(|(at, c)| at + c.len_utf8());
                ends.filter(|end| !text[*end..].starts_with(char::is_whitespace)).collect()
            }
            Self::Characters => text.char_indices().map(|(at, _)| at).skip(1).collect(),
        };
        let ends = ends.into_iter().filter(|end| *end < text.len()).chain([text.len()]);
        let mut start = 0;
        ends.map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
    }
}

/// The places after the sentences of a text and the white space that follows them.
fn sentence_ends(text: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['.', '!', '?', '…', '。', '！', '？', '\n']) {
        let mark = rest[at..].chars().next().unwrap_or(' ');
        let after = rest[at..].trim_start_matches(['.', '!', '?', '…', '。', '！', '？']);
        let after = after.trim_start_matches(CLOSING);
        let next = after.trim_start();
        // Without a space, the mark may be inside a number or a name; wide marks need none.
        let ends_here = next.len() < after.len() || matches!(mark, '。' | '！' | '？' | '\n');
        rest = if ends_here { next } else { after };
        if ends_here {
            ends.push(text.len() - rest.len());
        }
    }
    ends
}

struct Splitter<'t, 'f> {
    most: usize,
    tokens: &'f dyn Fn(&str) -> Result<usize>,
    parts: Vec<TextPart<'t>>,
}

impl<'t> Splitter<'t, '_> {
    /// Packs the pieces of `text` into parts; splits pieces that are too long at the next level.
    fn split(&mut self, text: &'t str, level: Level) -> Result<()> {
        if let Level::Characters = level {
            return self.halve(text);
        }
        // The pieces from `start` to `end` wait to become a part; together they have about `waiting` tokens.
        let (mut start, mut end, mut waiting) = (0, 0, 0);
        for piece in level.pieces(text) {
            let count = (self.tokens)(piece.trim())?;
            let too_long = count > self.most;
            if too_long || waiting + count > self.most {
                self.push(&text[start..end], level)?;
                (start, waiting) = (end, 0);
            }
            end += piece.len();
            if too_long {
                let next =
                    if let Level::Sentences = level { Level::Words } else { Level::Characters };
                self.split(piece, next)?;
                start = end;
            } else {
                waiting += count;
            }
        }
        self.push(&text[start..end], level)
    }

    /// Adds a part. Pieces may have more tokens together than apart; such a part is split in two.
    fn push(&mut self, text: &'t str, level: Level) -> Result<()> {
        let part = text.trim();
        if part.is_empty() {
            // White space between parts may end a line.
            if let Some(last) = self.parts.last_mut() {
                last.ends_line |= text.contains('\n');
            }
            return Ok(());
        }
        if (self.tokens)(part)? <= self.most {
            let after = &text[text.trim_end().len()..];
            self.parts.push(TextPart { text: part, ends_line: after.contains('\n') });
            return Ok(());
        }
        let pieces = level.pieces(text);
        if pieces.len() < 2 {
            return self.halve(text);
        }
        let first: usize = pieces[..pieces.len() / 2].iter().map(|piece| piece.len()).sum();
        self.push(&text[..first], level)?;
        self.push(&text[first..], level)
    }

    /// Splits a text without white space in two until its parts fit.
    fn halve(&mut self, text: &'t str) -> Result<()> {
        let part = text.trim();
        let middle = part.char_indices().nth(part.chars().count() / 2).map_or(0, |(at, _)| at);
        if middle == 0 || (self.tokens)(part)? <= self.most {
            let after = &text[text.trim_end().len()..];
            self.parts.push(TextPart { text: part, ends_line: after.contains('\n') });
            return Ok(());
        }
        self.halve(&part[..middle])?;
        let rest = text.trim_start();
        self.halve(&rest[middle..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Characters count as tokens, and so does the start of a text.
    fn split(text: &str, most: usize) -> Vec<(&str, bool)> {
        let tokens = |part: &str| Ok(part.chars().count() + 1);
        let parts = split_text(text, most, &tokens).unwrap();
        parts.into_iter().map(|part| (part.text, part.ends_line)).collect()
    }

    #[test]
    fn a_text_that_fits_stays_as_it_is() {
        assert_eq!(split(" One. Two.\n", 40), [(" One. Two.\n", false)]);
        assert_eq!(split("", 1), [("", false)]);
        assert_eq!(split("  \n  ", 2), [("  \n  ", false)]);
    }

    #[test]
    fn parts_end_with_sentences_and_say_where_lines_end() {
        let text = "It is 3.14 today. \"Really?!\" he said.\nYes… So it was.";
        assert_eq!(
            split(text, 24),
            [
                ("It is 3.14 today.", false),
                ("\"Really?!\" he said.", true),
                ("Yes… So it was.", false),
            ]
        );
        assert_eq!(
            split("今天。明天！「好。」后天？", 7),
            [("今天。", false), ("明天！", false), ("「好。」", false), ("后天？", false)]
        );
    }

    #[test]
    fn long_sentences_are_split_between_words_and_long_words_inside() {
        assert_eq!(
            split("one two three four. five", 12),
            [("one two", false), ("three four.", false), ("five", false)]
        );
        assert_eq!(
            split("a abcdefgh b", 6),
            [("a", false), ("abcd", false), ("efgh", false), ("b", false)]
        );
        // A character that has too many tokens by itself is a part.
        assert_eq!(split("ab", 1), [("a", false), ("b", false)]);
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_gets_lost_and_parts_fit(
            text in "[a-c.!?。 \\n\"é房]{0,60}",
            most in 2usize..20,
        ) {
            let parts = split(&text, most);
            let solid = |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace()).collect() };
            let joined: String = parts.iter().map(|(part, _)| *part).collect();
            prop_assert_eq!(solid(&joined), solid(&text));
            if parts.len() > 1 {
                prop_assert!(parts.iter().all(|(part, _)| part.chars().count() < most));
                prop_assert!(parts.iter().all(|(part, _)| part.trim() == *part && !part.is_empty()));
            }
        }
    }
}
