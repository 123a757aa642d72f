//! How much of a long text has to be looked at to know its first tokens.
//!
//! Normalizing and splitting a text costs far more than looking its words up, and a text of a hundred
//! pages is cut to one. Where a tokenizer treats words one by one, the tokens of a beginning that ends with
//! a word are the beginning of the tokens. That holds for the kinds of tokenizer in [`is_word_by_word`], at
//! the places in [`end_of_word`]; all others see the whole text.

use serde_json::Value;
use tokenizers::{NormalizerWrapper, Tokenizer};

/// The first look takes this many bytes for each token that is wanted: few texts have longer tokens.
const BYTES_PER_TOKEN: usize = 16;

/// Texts up to this length are not worth cutting.
const MIN_BYTES: usize = 4096;

/// How far behind the place aimed at the end of a word is looked for.
const SEARCH_BYTES: usize = 1024;

/// Beginnings of a text that end with a word, each longer than the last, ending with the text itself.
pub(super) fn beginnings(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    let first = tokens.saturating_mul(BYTES_PER_TOKEN).max(MIN_BYTES);
    let aims = std::iter::successors(Some(first), |aim| aim.checked_mul(4));
    aims.take_while(|aim| *aim < text.len())
        .map_while(|aim| end_of_word(text, aim))
        .chain([text.len()])
        .map(|end| &text[..end])
}

/// The first place from `from` on where a word ends, a space follows and another word begins.
///
/// Both are letters or digits that neither join nor change with their neighbours: no tokenizer of the
/// kinds below sees a difference between such a space and the end of the text.
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

/// Whether the tokens of a word depend on that word alone.
pub(super) fn is_word_by_word(tokenizer: &Tokenizer) -> bool {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    // An added token may reach over a space only if it has one.
    let no_spaces = added.values().all(|token| !token.content.contains(char::is_whitespace));
    let normalizer = tokenizer.get_normalizer().is_none_or(keeps_spaces);
    let splits = serde_json::to_value(tokenizer.get_pre_tokenizer());
    no_spaces && normalizer && splits.is_ok_and(|splits| ends_words_at_spaces(&splits))
}

/// Whether a normalizer works character by character and leaves a single space within a text alone.
fn keeps_spaces(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::BertNormalizer(_) => true,
        NormalizerWrapper::Precompiled(rules) => rules.transform(" ").is_none_or(|to| to == " "),
        NormalizerWrapper::StripNormalizer(strip) => !strip.strip_left,
        NormalizerWrapper::Sequence(all) => all.as_ref().iter().all(keeps_spaces),
        // Several spaces to one mark: transformers' own rule for sentencepiece models.
        NormalizerWrapper::Replace(_) => serde_json::to_value(normalizer).is_ok_and(|replace| {
            replace["pattern"]["Regex"] == " {2,}" && replace["content"] == "▁"
        }),
        _ => false,
    }
}

/// Whether a pre-tokenizer (as JSON: its parts are private) ends a word at every space.
fn ends_words_at_spaces(splits: &Value) -> bool {
    match splits["type"].as_str() {
        Some("BertPreTokenizer" | "WhitespaceSplit") => true,
        Some("ByteLevel") => splits["use_regex"] == true,
        Some("Metaspace") => splits["split"] == true,
        Some("Sequence") => {
            // Later parts split what the first has split.
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
        // The first aims lie among the commas, where no plain word ends.
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
