//! Finds a prefix of a long text that determines its first tokens.
//!
//! Normalizing and splitting a text costs far more than looking up its words, and a text of a hundred pages may be
//! truncated to one. If a tokenizer processes words independently, the tokens of a prefix that ends with a word are a
//! prefix of the text's tokens. This holds for the kinds of tokenizer in [`is_word_by_word`], at the positions in
//! [`end_of_word`]. Other tokenizers process the whole text.

use serde_json::Value;
use tokenizers::{NormalizerWrapper, Tokenizer};

/// The first prefix has this many bytes per wanted token: few texts have longer tokens.
const BYTES_PER_TOKEN: usize = 16;

/// Shorter texts are processed whole.
const MIN_BYTES: usize = 4096;

/// The range, in bytes, in which to search for the end of a word.
const SEARCH_BYTES: usize = 1024;

/// Growing prefixes of a text that end with a word; the last one is the text itself.
pub(super) fn beginnings(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    let first = tokens.saturating_mul(BYTES_PER_TOKEN).max(MIN_BYTES);
    let aims = std::iter::successors(Some(first), |aim| aim.checked_mul(4));
    aims.take_while(|aim| *aim < text.len())
        .map_while(|aim| end_of_word(text, aim))
        .chain([text.len()])
        .map(|end| &text[..end])
}

/// The first position from `from` on where a word ends, a space follows and another word starts.
///
/// Both characters are letters or digits that neither join nor change with their neighbours. For the tokenizers below,
/// this space is equivalent to the end of the text.
fn end_of_word(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let until = bytes.len().min(from.saturating_add(SEARCH_BYTES));
    (from..until).find(|at| {
        bytes[*at] == b' '
            && text[..*at].chars().next_back().is_some_and(is_plain)
            && text[*at + 1..].chars().next().is_some_and(is_plain)
    })
}

/// Latin, Greek and Cyrillic letters, and ASCII digits.
fn is_plain(c: char) -> bool {
    let plain = c.is_ascii_alphanumeric()
        || matches!(c, '\u{c0}'..='\u{24f}' | '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{481}');
    plain && c.is_alphanumeric()
}

/// Whether a word's tokens depend on that word alone.
pub(super) fn is_word_by_word(tokenizer: &Tokenizer) -> bool {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    // An added token can span a space only if it contains one.
    let no_spaces = added.values().all(|token| !token.content.contains(char::is_whitespace));
    let normalizer = tokenizer.get_normalizer().is_none_or(keeps_spaces);
    let splits = serde_json::to_value(tokenizer.get_pre_tokenizer());
    no_spaces && normalizer && splits.is_ok_and(|splits| ends_words_at_spaces(&splits))
}

/// Whether a normalizer works character by character and keeps single spaces within a text.
fn keeps_spaces(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::BertNormalizer(_) => true,
        NormalizerWrapper::Precompiled(rules) => rules.transform(" ").is_none_or(|to| to == " "),
        NormalizerWrapper::StripNormalizer(strip) => !strip.strip_left,
        NormalizerWrapper::Sequence(all) => all.as_ref().iter().all(keeps_spaces),
        // Replaces several spaces by one marker, as transformers does for sentencepiece models.
        NormalizerWrapper::Replace(_) => serde_json::to_value(normalizer).is_ok_and(|replace| {
            replace["pattern"]["Regex"] == " {2,}" && replace["content"] == "▁"
        }),
        _ => false,
    }
}

/// Whether a pre-tokenizer (as JSON, because its fields are private) ends a word at every space.
fn ends_words_at_spaces(splits: &Value) -> bool {
    match splits["type"].as_str() {
        Some("BertPreTokenizer" | "WhitespaceSplit") => true,
        Some("ByteLevel") => splits["use_regex"] == true,
        Some("Metaspace") => splits["split"] == true,
        Some("Sequence") => {
            // Later parts split the output of the first.
            splits["pretokenizers"]
                .as_array()
                .is_some_and(|all| !all.is_empty() && all.iter().all(ends_words_at_spaces))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_end_with_words_and_grow_to_the_text() {
        let text = "word, ".repeat(3000) + &"ähnlich wie ".repeat(3000);
        let ends: Vec<_> = beginnings(&text, 10).map(str::len).collect();
        // The first candidate positions are among the commas, where no plain word ends.
        assert_eq!(ends, [text.len()]);
        let text = "ähnlich wie ".repeat(3000);
        let all: Vec<_> = beginnings(&text, 10).collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|part| text.starts_with(part)));
        assert!(all[0].len() >= MIN_BYTES && all[0].len() < MIN_BYTES + 16);
        assert!(all[0].ends_with("ähnlich") || all[0].ends_with("wie"));
        assert!(all[1].len() > 3 * all[0].len());
        assert_eq!(all[2], text);
        assert_eq!(beginnings("short text", 1).collect::<Vec<_>>(), ["short text"]);
        assert_eq!(beginnings(&text, usize::MAX).count(), 1);
    }

    #[test]
    fn a_word_ends_only_between_plain_characters() {
        for (text, expected) in [
            ("a b", Some(1)),
            ("é б", Some(2)),
            ("a  b", None),
            ("a, b", None),
            ("a <mask>", None),
            ("a \u{301}b", None),
            ("\u{d4e} b", None),
            ("房 b", None),
            ("a\u{a0}b", None),
            ("a ", None),
        ] {
            assert_eq!(end_of_word(text, 0), expected, "{text:?}");
        }
    }
}
