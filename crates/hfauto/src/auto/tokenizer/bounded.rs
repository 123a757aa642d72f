//! Bounds the normalizers, pre-tokenizers and decoders of a tokenizer.json: limits on the growth of a text and on the
//! time of regular expressions.
//!
//! The library runs the steps. We run the file's regular expressions (`Split`, `Replace`) ourselves, because the
//! library panics at onig's retry limit, and below it a search of a long text may take hours. Not here: checks at load
//! ([`super::checked`]).

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, Instant};

use onig::{MatchParam, Regex, Region, SearchOptions};
use tokenizers::normalizers::Replace;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, Offsets,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Tokenizer,
};

use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::limits;

/// The steps of a tokenizer that need bounds, with compiled regular expressions.
#[derive(Default)]
pub(super) struct Bounded {
    normalizer: Vec<Step<NormalizerWrapper>>,
    pre_tokenizer: Vec<Step<PreTokenizerWrapper>>,
    decoder: Vec<Step<DecoderWrapper>>,
}

/// A step, with our own regular expression in place of the library's if it has one.
struct Step<T> {
    step: T,
    search: Option<Search>,
}

struct Search {
    regex: Regex,
    /// The replacement for matches, for `Replace`.
    content: String,
}

impl Bounded {
    /// Compiles the expressions.
    ///
    /// # Errors
    /// `Model` for a regular expression that onig cannot compile.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut bounded = Self::default();
        if let Some(normalizer) = tokenizer.get_normalizer() {
            flatten_normalizer(normalizer, &mut bounded.normalizer)?;
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            flatten_pre_tokenizer(pre_tokenizer, &mut bounded.pre_tokenizer)?;
        }
        if let Some(decoder) = tokenizer.get_decoder() {
            flatten_decoder(decoder, &mut bounded.decoder)?;
        }
        Ok(bounded)
    }

    /// Splits a text into words for the model.
    ///
    /// # Errors
    /// The library's errors, and [`Exhausted`].
    pub(super) fn words(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
    ) -> tokenizers::Result<PreTokenizedString> {
        let added = tokenizer.get_added_vocabulary();
        let budget = Budget::new(text.len());
        let normalizing =
            Normalizing { steps: &self.normalizer, state: std::sync::Mutex::new((budget, None)) };
        let normalizer = (!self.normalizer.is_empty()).then_some(&normalizing);
        let mut words = added.extract_and_normalize(normalizer, text);
        // The library discards the error of a normalizer.
        let (budget, failure) =
            normalizing.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(failure) = failure {
            return Err(failure);
        }
        let budget = RefCell::new(budget);
        for Step { step, search } in &self.pre_tokenizer {
            match (step, search) {
                (PreTokenizerWrapper::Split(split), Some(search)) => {
                    let pattern = Searching { search, budget: &budget };
                    words.split(|_, part| {
                        if split.invert {
                            part.split(Invert(pattern), split.behavior)
                        } else {
                            part.split(pattern, split.behavior)
                        }
                    })?;
                }
                _ => step.pre_tokenize(&mut words)?,
            }
        }
        Ok(words)
    }

    /// Decodes tokens to text.
    ///
    /// # Errors
    /// The library's errors, and [`Exhausted`].
    pub(super) fn decode(&self, mut tokens: Vec<String>) -> tokenizers::Result<String> {
        let size = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
        let budget = RefCell::new(Budget::new(size(&tokens)));
        for Step { step, search } in &self.decoder {
            tokens = match search {
                Some(search) => tokens
                    .into_iter()
                    .map(|token| search.replaced(&token, &budget))
                    .collect::<tokenizers::Result<_>>()?,
                None => step.decode_chain(tokens)?,
            };
            budget.borrow_mut().grow_to(size(&tokens))?;
        }
        Ok(tokens.join(""))
    }
}

/// Checks that the normalizer handles the added tokens within bounds, as the library normalizes them itself.
///
/// # Errors
/// `Model` for a regular expression that backtracks or a replacement that grows.
pub(super) fn check_added<'a>(
    normalizer: &NormalizerWrapper,
    added: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let mut steps = Vec::new();
    flatten_normalizer(normalizer, &mut steps)?;
    if steps.iter().all(|step| step.search.is_none()) {
        return Ok(());
    }
    let added: Vec<&str> = added.into_iter().collect();
    let budget = RefCell::new(Budget::new(added.iter().map(|content| content.len()).sum()));
    for content in added {
        let mut text = NormalizedString::from(content);
        let mut result = steps.iter().try_for_each(|step| step.normalize(&mut text, &budget));
        if result.is_ok() {
            result = budget.borrow_mut().end_part(text.len()).map_err(Into::into);
        }
        result.map_err(|e| {
            Error::new(ErrorKind::Model, "cannot normalize the added tokens").source(e)
        })?;
    }
    Ok(())
}

fn flatten_normalizer(of: &NormalizerWrapper, to: &mut Vec<Step<NormalizerWrapper>>) -> Result<()> {
    if let NormalizerWrapper::Sequence(sequence) = of {
        return sequence.as_ref().iter().try_for_each(|step| flatten_normalizer(step, to));
    }
    let search = match of {
        NormalizerWrapper::Replace(replace) => Some(Search::of_replace(replace)?),
        _ => None,
    };
    to.push(Step { step: of.clone(), search });
    Ok(())
}

fn flatten_pre_tokenizer(
    of: &PreTokenizerWrapper,
    to: &mut Vec<Step<PreTokenizerWrapper>>,
) -> Result<()> {
    if let PreTokenizerWrapper::Sequence(sequence) = of {
        return sequence.as_ref().iter().try_for_each(|step| flatten_pre_tokenizer(step, to));
    }
    let search = match of {
        PreTokenizerWrapper::Split(Split { pattern: SplitPattern::Regex(regex), .. }) => {
            Some(Search { regex: compiled(regex)?, content: String::new() })
        }
        _ => None,
    };
    to.push(Step { step: of.clone(), search });
    Ok(())
}

fn flatten_decoder(of: &DecoderWrapper, to: &mut Vec<Step<DecoderWrapper>>) -> Result<()> {
    if let DecoderWrapper::Sequence(sequence) = of {
        return sequence.get_decoders().iter().try_for_each(|step| flatten_decoder(step, to));
    }
    let search = match of {
        DecoderWrapper::Replace(replace) => Some(Search::of_replace(replace)?),
        _ => None,
    };
    to.push(Step { step: of.clone(), search });
    Ok(())
}

fn compiled(regex: &str) -> Result<Regex> {
    Regex::new(regex).map_err(|e| {
        Error::new(ErrorKind::Model, format!("`{regex}` is not a valid regular expression"))
            .source(e)
    })
}

impl Search {
    /// The pattern of a `Replace`, which the library exposes only by serialization.
    fn of_replace(replace: &Replace) -> Result<Self> {
        let written = serde_json::to_value(replace)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot write a `Replace`").source(e))?;
        let pattern = &written["pattern"];
        let regex = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
            (Some(regex), _) => compiled(regex)?,
            (_, Some(text)) => compiled(&escaped(text))?,
            _ => return Err(Error::new(ErrorKind::Model, "a `Replace` has no pattern")),
        };
        Ok(Self { regex, content: replace.content.clone() })
    }

    /// The matches in `text` and the gaps between them, as the library's patterns return them.
    fn find(
        &self,
        text: &str,
        budget: &RefCell<Budget>,
    ) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut found = Vec::new();
        let (mut from, mut last_match, mut between) = (0, None, 0);
        let mut region = Region::new();
        while from <= text.len() {
            let Some((start, end)) = self.next(text, from, &mut region, budget)? else { break };
            // Skip an empty match right after the previous one, which would loop for ever.
            if end == start && last_match == Some(end) {
                from += text[from..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if between != start {
                found.push(((between, start), false));
            }
            found.push(((start, end), true));
            (between, from, last_match) = (end, end, Some(end));
        }
        if between != text.len() {
            found.push(((between, text.len()), false));
        }
        Ok(found)
    }

    /// The first match that begins at `from` or later.
    ///
    /// One search over the rest of the text has a limit of a few retries per position, which suffices for the regular
    /// expressions in use. If it does not, each position is matched separately, with a check of the time in between.
    /// Searching a part of the text would truncate matches at its end.
    fn next(
        &self,
        text: &str,
        from: usize,
        region: &mut Region,
        budget: &RefCell<Budget>,
    ) -> tokenizers::Result<Option<Offsets>> {
        let options = SearchOptions::SEARCH_OPTION_NONE;
        let few = (SEARCH_RETRIES / (text.len() - from + 1)).clamp(MIN_RETRIES, MAX_RETRIES);
        let started = Instant::now();
        region.clear();
        let bounds = match_bounds(few as u32);
        let found = self.regex.search_with_param(
            text,
            from,
            text.len(),
            options,
            Some(&mut *region),
            bounds,
        );
        budget.borrow_mut().spend(started.elapsed())?;
        if let Ok(found) = found {
            return Ok(found.and_then(|_| region.pos(0)));
        }
        let positions = text[from..].char_indices().map(|(index, _)| from + index);
        for at in positions.chain([text.len()]) {
            let started = Instant::now();
            region.clear();
            let bounds = match_bounds(limits::TOKENIZER_REGEX_RETRIES);
            let found = self.regex.match_with_param(text, at, options, Some(&mut *region), bounds);
            budget.borrow_mut().spend(started.elapsed())?;
            if let Some(length) = found.map_err(|_| Exhausted::Retries)? {
                return Ok(Some((at, at + length)));
            }
        }
        Ok(None)
    }

    /// `text` with its matches replaced.
    fn replaced(&self, text: &str, budget: &RefCell<Budget>) -> tokenizers::Result<String> {
        let found = self.find(text, budget)?;
        budget.borrow_mut().grow_to(self.size_after(&found))?;
        let mut out = String::new();
        for ((start, end), is_match) in found {
            out.push_str(if is_match { &self.content } else { &text[start..end] });
        }
        Ok(out)
    }

    fn size_after(&self, found: &[(Offsets, bool)]) -> usize {
        let sizes = found.iter().map(
            |((start, end), is_match)| {
                if *is_match { self.content.len() } else { end - start }
            },
        );
        sizes.fold(0, usize::saturating_add)
    }
}

/// Escapes a text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '_' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Adapts a search to the library's `Pattern`.
#[derive(Clone, Copy)]
struct Searching<'a> {
    search: &'a Search,
    budget: &'a RefCell<Budget>,
}

impl Pattern for Searching<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        self.search.find(inside, self.budget)
    }
}

/// Precomputed matches.
struct Found(Vec<(Offsets, bool)>);

impl Pattern for Found {
    fn find_matches(&self, _inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

/// Runs the normalizer's steps on the parts of one text.
struct Normalizing<'a> {
    steps: &'a [Step<NormalizerWrapper>],
    /// The library requires a `Sync` normalizer, although it only uses it on this thread.
    state: std::sync::Mutex<(Budget, Option<tokenizers::Error>)>,
}

impl Normalizer for Normalizing<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.1.is_some() {
            return Ok(());
        }
        let budget = RefCell::new(std::mem::replace(&mut state.0, Budget::new(0)));
        let result = self.steps.iter().try_for_each(|step| step.normalize(text, &budget));
        state.0 = budget.into_inner();
        let end = state.0.end_part(text.len());
        state.1 = result.and(end.map_err(Into::into)).err();
        Ok(())
    }
}

impl Step<NormalizerWrapper> {
    fn normalize(
        &self,
        text: &mut NormalizedString,
        budget: &RefCell<Budget>,
    ) -> tokenizers::Result<()> {
        match (&self.step, &self.search) {
            (_, Some(search)) => {
                let found = search.find(text.get(), budget)?;
                budget.borrow_mut().grow_to(search.size_after(&found))?;
                text.replace(Found(found), &search.content)?;
            }
            (NormalizerWrapper::Prepend(prepend), None) => {
                budget.borrow_mut().grow_to(text.len().saturating_add(prepend.prepend.len()))?;
                self.step.normalize(text)?;
            }
            (step, None) => step.normalize(text)?,
        }
        budget.borrow_mut().grow_to(text.len())?;
        Ok(())
    }
}

/// Retries of one search over a text, divided among its positions.
const SEARCH_RETRIES: usize = 20_000_000;
/// The minimum number of retries per position. For example, some expressions retry once for each space in a run of
/// spaces.
const MIN_RETRIES: usize = 100;
const MAX_RETRIES: usize = 100_000;

/// The bounds of a match at one position.
fn match_bounds(retries: u32) -> MatchParam {
    let mut bounds = MatchParam::default();
    bounds.set_retry_limit_in_match(retries);
    bounds.set_match_stack_limit(limits::TOKENIZER_REGEX_STACK);
    bounds
}

/// The remaining budget for one text.
struct Budget {
    /// Bytes that its parts have grown to, and the maximum for all.
    made: usize,
    most: usize,
    spent: Duration,
    time: Duration,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        let most = bytes
            .saturating_mul(limits::TOKENIZER_GROWTH)
            .saturating_add(limits::TOKENIZER_GROWTH_BYTES);
        let per_byte = limits::TOKENIZER_REGEX_TIME_PER_BYTE;
        let time = limits::TOKENIZER_REGEX_TIME
            .saturating_add(per_byte.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)));
        Self { made: 0, most, spent: Duration::ZERO, time }
    }

    /// Checks that the current part may grow to `bytes`.
    fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if self.made.saturating_add(bytes) > self.most {
            Err(Exhausted::Size(self.most))
        } else {
            Ok(())
        }
    }

    fn end_part(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.grow_to(bytes)?;
        self.made += bytes;
        Ok(())
    }

    /// Charges the time of a search. Time beyond what the retry limit allows is due to a busy machine and is not
    /// charged.
    fn spend(&mut self, took: Duration) -> Result<(), Exhausted> {
        self.spent += took.min(Duration::from_millis(500));
        if self.spent > self.time { Err(Exhausted::Time(self.time)) } else { Ok(()) }
    }
}

/// A text that exceeds the tokenizer's budget.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exhausted {
    Retries,
    Time(Duration),
    Size(usize),
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retries => write!(
                f,
                "an expression of tokenizer.json retries more than {} times at one position of the text",
                limits::TOKENIZER_REGEX_RETRIES
            ),
            Self::Time(time) => {
                write!(
                    f,
                    "the expressions of tokenizer.json take more than {time:.1?} for this text"
                )
            }
            Self::Size(most) => {
                write!(f, "the steps of tokenizer.json expand the text to more than {most} bytes")
            }
        }
    }
}

impl std::error::Error for Exhausted {}

/// The error for a text that could not be tokenized: a row error if the text exceeds the budget.
pub(super) fn failed(what: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| match e.downcast_ref::<Exhausted>() {
        Some(exhausted) => Error::of_row(RowErrorKind::Data, format!("cannot {what}: {exhausted}"))
            .hint("use another model, or exclude rows like this (`on_error`)"),
        None => Error::new(ErrorKind::Model, format!("cannot {what}")).source(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(regex: &str, content: &str) -> Search {
        Search { regex: compiled(regex).unwrap(), content: content.into() }
    }

    #[test]
    fn matches_equal_the_librarys() {
        let long = format!("{}b {}", "é".repeat(5000), "a".repeat(300));
        for text in ["", "a b  c", "abab", "日本 語", "'s it's", &long] {
            for regex in ["a", "", "a*", " ", r"\s+(?!\S)|\s+", r"(?<=b)", "é+b", r"\p{L}+$", "x"]
            {
                let expected = tokenizers::utils::SysRegex::new(regex).unwrap();
                // A busy machine may take long.
                let time = Duration::from_mins(1);
                let budget = RefCell::new(Budget { time, ..Budget::new(text.len()) });
                assert_eq!(
                    search(regex, "").find(text, &budget).unwrap(),
                    (&expected).find_matches(text).unwrap(),
                    "{regex:?} in {text:?}"
                );
            }
        }
    }

    #[test]
    fn text_is_escaped_to_itself() {
        for text in ["a.b", "``", "''", "{2}", "-_ \n|", "[x]^$", "日本"] {
            let found = search(&escaped(text), "y");
            let budget = RefCell::new(Budget::new(10));
            assert_eq!(found.replaced(&format!("1{text}2"), &budget).unwrap(), "1y2");
        }
    }

    #[test]
    fn an_expression_that_backtracks_ends_with_an_error() {
        let budget = RefCell::new(Budget::new(41));
        let text = format!("{}!", "a".repeat(40));
        let error = search("(a+)+$", "").find(&text, &budget).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Exhausted::Retries)));

        let text = format!("{}!", "a".repeat(25)).repeat(5000);
        let budget = RefCell::new(Budget { time: Duration::from_millis(200), ..Budget::new(1) });
        let error = search("(?:a|aa)+b|x", "").find(&text, &budget).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Exhausted::Time(_))));
    }

    #[test]
    fn a_replacement_that_grows_ends_with_an_error() {
        let budget = RefCell::new(Budget::new(4));
        let long = search("a", &"a".repeat(50_000));
        let error = long.replaced("aaaa", &budget).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Exhausted::Size(_))));
    }
}
