//! The token ids of plain words, for tokenizers of BERT's kind.
//!
//! The library follows the place of every character through each of its steps, which takes ten times as long as to look up the words.
//! Where only ids are needed, this finds the words of ASCII itself: to them, BERT's normalizer and pre-tokenizer do no more than to
//! lower-case, to divide at white space, and to set punctuation apart. Everything else goes to the library: words that are not one
//! token of the vocabulary, other characters, and what may be an added token. Not here: other kinds of tokenizers. The entry is
//! [`Words::parts`].

use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// The rules of a tokenizer for plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    lowercase: bool,
    /// Longer words are unknown, whatever the vocabulary has.
    max_chars: usize,
    /// The first characters of added tokens, in either case: a bit for each ASCII character.
    added: u128,
}

/// What a text consists of, without white space between plain words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A word that is one token.
    Token(u32),
    /// A word for the model.
    Word(&'a str),
    /// Words that need every step.
    Text(&'a str),
}

impl Words {
    /// The rules of a tokenizer; `None` for one of another kind.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        let splits = tokenizer.get_pre_tokenizer();
        if !matches!(splits, Some(PreTokenizerWrapper::BertPreTokenizer(_))) {
            return None;
        }
        let mut tokens = tokenizer.get_added_vocabulary().get_added_tokens_decoder().values();
        let added = tokens.try_fold(0, |added, token| {
            let content = token.content.as_bytes();
            // With white space, it may be of several words; with other characters, it may be normalized to ASCII.
            let is_plain = content.iter().all(u8::is_ascii_graphic);
            let first = content.first().filter(|_| is_plain)?;
            Some(added | 1 << first.to_ascii_lowercase() | 1 << first.to_ascii_uppercase())
        })?;
        let lowercase = lower_cases(tokenizer.get_normalizer())?;
        Some(Self { lowercase, max_chars: model.max_input_chars_per_word, added })
    }

    /// Passes the parts of a text to `each`, until it returns false.
    ///
    /// # Errors
    /// Those of `each`.
    pub(super) fn parts<E>(
        self,
        text: &str,
        model: &ModelWrapper,
        mut each: impl FnMut(Part<'_>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let (mut lower, mut rest) = (String::new(), text);
        loop {
            rest = rest.trim_start_matches(is_space);
            let plain = self.plain(rest);
            if plain == 0 {
                // Many short texts would each take all steps.
                let end = self.next_plain(rest);
                if end == 0 || !each(Part::Text(&rest[..end]))? {
                    return Ok(());
                }
                rest = &rest[end..];
                continue;
            }
            let (mut words, after) = rest.split_at(plain);
            while !words.is_empty() {
                let letters = words.bytes().take_while(|c| !c.is_ascii_punctuation()).count();
                let (mut word, others) = words.split_at(letters.max(1));
                if self.lowercase && word.bytes().any(|c| c.is_ascii_uppercase()) {
                    lower.clear();
                    lower.push_str(word);
                    lower.make_ascii_lowercase();
                    word = &lower;
                }
                let is_short = word.len() <= self.max_chars;
                let known = is_short.then(|| model.token_to_id(word)).flatten();
                if !each(known.map_or(Part::Word(word), Part::Token))? {
                    return Ok(());
                }
                words = others;
            }
            rest = after;
        }
    }

    /// The length of the plain words, without white space, that a text begins with.
    fn plain(self, text: &str) -> usize {
        let end = text.find(is_space).unwrap_or(text.len());
        let is_plain = |c: u8| c.is_ascii_graphic() && self.added >> c & 1 == 0;
        if text[..end].bytes().all(is_plain) { end } else { 0 }
    }

    /// Where, after words that are not plain, the next plain ones begin.
    fn next_plain(self, text: &str) -> usize {
        let mut end = 0;
        loop {
            let rest = text[end..].trim_start_matches(is_space);
            let start = text.len() - rest.len();
            if rest.is_empty() || (start > 0 && self.plain(rest) > 0) {
                return start;
            }
            end = start + rest.find(is_space).unwrap_or(rest.len());
        }
    }
}

/// White space that every step treats alike, whether the normalizer removes control characters or not.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Whether a normalizer lower-cases; `None` for one that does something else to plain words.
fn lower_cases(normalizer: Option<&NormalizerWrapper>) -> Option<bool> {
    match normalizer {
        None => Some(false),
        Some(NormalizerWrapper::BertNormalizer(bert)) => Some(bert.lowercase),
        Some(NormalizerWrapper::Lowercase(_)) => Some(true),
        Some(NormalizerWrapper::Sequence(all)) => {
            let mut steps = all.as_ref().iter();
            steps.try_fold(false, |before, step| Some(lower_cases(Some(step))? || before))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::{AutoTokenizer, EncodeOptions, Side};
    use super::*;
    use crate::hub::Snapshot;

    fn tokenizer(folder: &str) -> AutoTokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        AutoTokenizer::from_snapshot(&Snapshot::local(&dir).unwrap()).unwrap()
    }

    #[test]
    fn parts_are_words_tokens_and_the_rest() {
        let bert = tokenizer("examples/models/mini-embedder");
        let words = Words::of(&bert.tokenizer).unwrap();
        let mut parts = Vec::new();
        let text = " The inn,\tqqqqq  é [MASK] ü the.Inn ";
        let stopped = words.parts(text, bert.tokenizer.get_model(), |part| {
            parts.push(match part {
                Part::Token(id) => bert.id_to_token(id).unwrap(),
                Part::Word(word) => format!("word {word}"),
                Part::Text(text) => format!("text {text}"),
            });
            Ok::<_, ()>(true)
        });
        assert_eq!(stopped, Ok(()));
        let expected = ["the", "inn", ",", "word qqqqq", "text é [MASK] ü ", "the", ".", "inn"];
        assert_eq!(parts, expected);
    }

    #[test]
    fn only_tokenizers_of_the_kind_of_bert_have_plain_words() {
        assert!(Words::of(&tokenizer("tests/golden/modern/llama/model").tokenizer).is_none());
        assert!(Words::of(&tokenizer("tests/golden/roberta").tokenizer).is_none());
        let mut bert = tokenizer("tests/golden/bert");
        assert!(Words::of(&bert.tokenizer).is_some());
        let added = tokenizers::AddedToken::from("two words", false);
        bert.tokenizer.add_tokens([added]).unwrap();
        assert_eq!(Words::of(&bert.tokenizer), None);
    }

    /// Tokenizers with and without the rules of this file.
    static PAIRS: LazyLock<[[AutoTokenizer; 2]; 3]> = LazyLock::new(|| {
        let folders =
            ["tests/golden/bert", "tests/golden/bert-cased-vocab", "examples/models/mini-embedder"];
        folders
            .map(|folder| [tokenizer(folder), AutoTokenizer { words: None, ..tokenizer(folder) }])
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn ids_are_those_of_the_library(
            text in prop_oneof![
                "[a-zA-Z ,.'!0-9\t\n-]{0,60}",
                "([Tt]he|INN|was|[a-z]{1,4}|é|房间|\\[MASK\\]|\\[mask\\]|##s|\u{301}|\u{a0}|\u{0}|\u{7f}|≮|[ ]|\r|,){0,14}",
                any::<String>(),
            ],
            max_length in 2usize..20,
            is_left: bool,
        ) {
            for [fast, slow] in &*PAIRS {
                prop_assert!(fast.words.is_some() && slow.words.is_none());
                let side = if is_left { Side::Left } else { Side::Right };
                for max_length in [None, Some(max_length)] {
                    let options = EncodeOptions {
                        max_length,
                        truncation_side: Some(side),
                        ..EncodeOptions::default()
                    };
                    let (ours, theirs) = (fast.encode(&text, &options), slow.encode(&text, &options));
                    prop_assert_eq!(ours.unwrap(), theirs.unwrap(), "{:?}", text);
                }
            }
        }
    }
}
