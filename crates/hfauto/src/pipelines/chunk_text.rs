//! Divides texts into chunks that a model reads whole: windows of tokens, or pieces that end with paragraphs, sentences or
//! words, or with the elements of a Markdown document. Chunks may overlap. Not here: embedding them, and parts whose results
//! are joined ([`split_text`](super::split_text())). The entry is [`Chunker`].
//!
//! # Source
//! The levels of sentences and Markdown are those of the crate `text-splitter`. Windows of tokens are those of
//! `tokenizer(text, max_length=…, stride=…, return_overflowing_tokens=True)` of transformers, as texts.

use std::ops::Range;

use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter, TryChunkSizer};

use super::Characters;
use crate::auto::{AutoTokenizer, EncodeOptions};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::guard::guarded;
use crate::limits::{CHUNK_GROWTH, CHUNK_PART_BYTES, CHUNK_TEXT_BYTES};

/// Where a text is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChunkBy {
    /// After as many tokens as fit, wherever that is.
    Tokens,
    /// At the largest of these that fits: several line breaks, one, a sentence, a word, a character.
    #[default]
    Sentences,
    /// As [`ChunkBy::Sentences`], with the elements of Markdown above: headings, blocks, list items, inline elements.
    Markdown,
}

/// How texts are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkOptions<'a> {
    /// Where a text is divided.
    pub by: ChunkBy,
    /// The most tokens of a chunk as the model reads it: with special tokens and the prompt.
    pub max_tokens: usize,
    /// The tokens of a chunk that the next one repeats. With levels of text, at most this many.
    pub overlap: usize,
    /// The text that will be put before each chunk. It is not part of the chunks.
    pub prompt: &'a str,
}

/// A chunk of a text. Chunks are in the order of the text, and have no white space at their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextChunk {
    /// Its place in the text, in bytes.
    pub bytes: Range<usize>,
    /// Its place in the text.
    ///
    /// # Units
    /// Characters, 0-based, half-open.
    pub characters: Range<usize>,
    /// Its number of tokens as the model reads it: with special tokens and the prompt.
    pub tokens: usize,
}

/// Divides texts for one tokenizer.
///
/// # Example
/// ```
/// use hfauto::auto::AutoTokenizer;
/// use hfauto::pipelines::{ChunkBy, ChunkOptions, Chunker};
///
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/mini-embedder");
/// let tokenizer = AutoTokenizer::from_pretrained(id)?;
/// let options = ChunkOptions { by: ChunkBy::Sentences, max_tokens: 16, overlap: 0, prompt: "" };
/// let text = "The inn was quiet. The bread was warm. We came back twice, and stayed for a week.";
/// let chunks = Chunker::new(&tokenizer, options)?.chunks(text)?;
/// assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.tokens <= 16));
/// assert!(text[chunks[0].bytes.clone()].starts_with("The inn was quiet."));
/// # Ok::<(), hfauto::Error>(())
/// ```
pub struct Chunker<'t> {
    tokenizer: &'t AutoTokenizer,
    by: ChunkBy,
    /// The most tokens of a chunk beside special tokens and the prompt.
    room: usize,
    /// The tokens that are not the chunk's.
    others: usize,
    overlap: usize,
}

impl<'t> Chunker<'t> {
    /// A chunker for the model of `tokenizer`.
    ///
    /// # Errors
    /// `Config` when `max_tokens` leaves no room for a text, or `overlap` is more than half of that room.
    pub fn new(tokenizer: &'t AutoTokenizer, options: ChunkOptions<'_>) -> Result<Self> {
        let ChunkOptions { by, max_tokens, overlap, prompt } = options;
        let special = tokenizer.num_special_tokens_to_add(false);
        let of_prompt = if prompt.is_empty() { 0 } else { count(tokenizer, prompt)? };
        let others = special + of_prompt;
        let room = max_tokens.saturating_sub(others);
        if room == 0 {
            let of_prompt = match of_prompt {
                0 => String::new(),
                tokens => format!(" and {tokens} tokens of the prompt"),
            };
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`max_tokens: {max_tokens}` leaves no room beside {special} special tokens{of_prompt}"
                ),
            ));
        }
        if overlap > room / 2 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`overlap: {overlap}` is more than half of the {room} tokens of a chunk"),
            )
            .hint(format!("set `overlap` to at most {}, or a larger `max_tokens`", room / 2)));
        }
        Ok(Self { tokenizer, by, room, others, overlap })
    }

    /// The most tokens of a chunk beside special tokens and the prompt, and how many of them the next chunk repeats.
    pub fn room_and_overlap(&self) -> (usize, usize) {
        (self.room, self.overlap)
    }

    /// The chunks of a text; none if it has nothing but white space. Only a chunk of one character may have more than
    /// `max_tokens` tokens.
    ///
    /// A text of more than 64 KiB is divided into parts of that size first, at the end of a paragraph if there is one.
    /// Where a part ends, a chunk ends; with [`ChunkBy::Tokens`], only a token does.
    ///
    /// # Errors
    /// `Data` for a text that is too long, or whose tokens differ wildly from those of its chunks; as
    /// [`AutoTokenizer::encode`].
    pub fn chunks(&self, text: &str) -> Result<Vec<TextChunk>> {
        if text.len() > CHUNK_TEXT_BYTES {
            let message =
                format!("text of {} bytes, expected at most {CHUNK_TEXT_BYTES}", text.len());
            return Err(Error::of_row(RowErrorKind::TooLong, message)
                .hint("divide it in a `sql` step first, for example at its chapters"));
        }
        let mut found = Found { text, counted: (0, 0), size: 0, chunks: Vec::new() };
        match self.by {
            ChunkBy::Tokens => self.windows(&mut found)?,
            ChunkBy::Sentences | ChunkBy::Markdown => self.by_levels(&mut found)?,
        }
        Ok(found.chunks)
    }

    /// The number of tokens of a text without special tokens.
    fn count(&self, text: &str) -> Result<usize> {
        count(self.tokenizer, text)
    }

    /// Divides by the levels of a text.
    fn by_levels(&self, found: &mut Found<'_>) -> Result<()> {
        let text = found.text;
        for part in parts(text, self.by) {
            let config = ChunkConfig::new(self.room).with_sizer(Sizer(self.tokenizer));
            let config = config.with_overlap(self.overlap).map_err(|e| {
                Error::new(ErrorKind::Internal, "the overlap does not fit a chunk").source(e)
            })?;
            let of_part = &text[part.clone()];
            let mut push = |(at, chunk): (usize, &str)| {
                let start = part.start + at;
                self.push(found, start..start + chunk.len())
            };
            // A panic of the library fails only this row.
            guarded(ErrorKind::Data, "the text", || {
                if self.by == ChunkBy::Markdown {
                    let splitter = MarkdownSplitter::new(config);
                    splitter.try_chunk_indices(of_part).try_for_each(|chunk| push(chunk?))
                } else {
                    let splitter = TextSplitter::new(config);
                    splitter.try_chunk_indices(of_part).try_for_each(|chunk| push(chunk?))
                }
            })?;
        }
        Ok(())
    }

    /// Divides into windows of tokens.
    fn windows(&self, found: &mut Found<'_>) -> Result<()> {
        let text = found.text;
        let options = EncodeOptions {
            add_special_tokens: false,
            return_offsets_mapping: true,
            ..EncodeOptions::default()
        };
        let mut windows = Windows { text, spans: Vec::new(), start: 0 };
        for part in parts(text, self.by) {
            let of_part = &text[part.clone()];
            let offsets = self.tokenizer.encode(of_part, &options)?.offset_mapping;
            let characters = Characters::new(of_part);
            let spans = offsets.into_iter().flatten().map(|(start, end)| {
                part.start + characters.byte(start)..part.start + characters.byte(end)
            });
            windows.spans.drain(..std::mem::take(&mut windows.start));
            windows.spans.extend(spans);
            let is_last = part.end == text.len();
            while windows.has_more_than(self.room) || is_last && windows.has_more_than(0) {
                self.next_window(&mut windows, found)?;
            }
        }
        Ok(())
    }

    /// Adds a chunk. One that does not fit after all is halved: tokens of a part of a text may be more than those parts of its
    /// tokens, which `text-splitter` does not expect everywhere.
    fn push(&self, found: &mut Found<'_>, bytes: Range<usize>) -> Result<()> {
        let chunk = &found.text[bytes.clone()];
        let tokens = self.count(chunk)?;
        let middle = chunk.char_indices().nth(chunk.chars().count() / 2).map_or(0, |(at, _)| at);
        if tokens <= self.room || middle == 0 {
            return found.push(bytes, tokens + self.others);
        }
        let middle = bytes.start + middle;
        self.push(found, trimmed(found.text, bytes.start..middle))?;
        self.push(found, trimmed(found.text, middle..bytes.end))
    }

    /// Adds the next window as a chunk.
    fn next_window(&self, windows: &mut Windows<'_>, found: &mut Found<'_>) -> Result<()> {
        let least = windows.boundary(windows.start + 1);
        let mut end = windows.boundary(windows.start + self.room);
        loop {
            let chunk = trimmed(windows.text, windows.bytes(end));
            if end <= least {
                self.push(found, chunk)?;
                break;
            }
            // A text that begins inside a word may have more tokens than this part of the word.
            let tokens = self.count(&windows.text[chunk.clone()])?;
            if tokens <= self.room {
                found.push(chunk, tokens + self.others)?;
                break;
            }
            end = windows.boundary(end.saturating_sub(tokens - self.room));
        }
        windows.advance(end, self.overlap);
        Ok(())
    }
}

/// Counts tokens for `text-splitter`.
struct Sizer<'t>(&'t AutoTokenizer);

impl TryChunkSizer for Sizer<'_> {
    type Error = Error;

    fn try_size(&self, chunk: &str) -> Result<usize> {
        count(self.0, chunk)
    }
}

/// The number of tokens of a text without special tokens.
fn count(tokenizer: &AutoTokenizer, text: &str) -> Result<usize> {
    let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    Ok(tokenizer.encode(text, &options)?.input_ids.len())
}

/// The chunks of a text so far.
struct Found<'a> {
    text: &'a str,
    /// A place whose number of characters is known: its byte and its character.
    counted: (usize, usize),
    /// The bytes of all chunks.
    size: usize,
    chunks: Vec<TextChunk>,
}

impl Found<'_> {
    /// Adds a chunk, unless it is empty or has nothing that the one before has not.
    fn push(&mut self, bytes: Range<usize>, tokens: usize) -> Result<()> {
        let is_repeated = self.chunks.last().is_some_and(|last| bytes.end <= last.bytes.end);
        if bytes.is_empty() || is_repeated {
            return Ok(());
        }
        self.size += bytes.len();
        if self.size > self.text.len().saturating_mul(CHUNK_GROWTH) {
            let message = format!(
                "the chunks of the text are more than {CHUNK_GROWTH} times as long as the text"
            );
            return Err(Error::of_row(RowErrorKind::TooLong, message).hint(
                "the tokenizer makes more tokens of parts of the text: set a smaller `overlap`",
            ));
        }
        // Chunks overlap, but starts ascend.
        let (byte, character) = self.counted;
        let between = self.text.get(byte..bytes.start).unwrap_or_default();
        let start = character + between.chars().count();
        self.counted = (bytes.start.max(byte), start);
        let end = start + self.text[bytes.clone()].chars().count();
        self.chunks.push(TextChunk { bytes, characters: start..end, tokens });
        Ok(())
    }
}

/// The tokens of a text that are not behind all windows.
struct Windows<'a> {
    text: &'a str,
    /// The places of tokens, in bytes.
    spans: Vec<Range<usize>>,
    /// The first token of the next window.
    start: usize,
}

impl Windows<'_> {
    fn has_more_than(&self, tokens: usize) -> bool {
        self.spans.len() - self.start > tokens
    }

    /// Whether a character ends before the token `at`: several tokens may be one character.
    fn is_boundary(&self, at: usize) -> bool {
        match (self.spans[..at].last(), self.spans.get(at)) {
            (Some(before), Some(after)) => before.end <= after.start,
            _ => true,
        }
    }

    /// The last place from the start of the window to `end` where a character ends, or the first one after it. Behind at least
    /// one token.
    fn boundary(&self, end: usize) -> usize {
        let end = end.clamp(self.start + 1, self.spans.len());
        let before = (self.start + 1..=end).rev().find(|at| self.is_boundary(*at));
        let after = || (end..self.spans.len()).find(|at| self.is_boundary(*at));
        before.or_else(after).unwrap_or(self.spans.len())
    }

    /// The place of the window that ends before the token `end`, in bytes.
    fn bytes(&self, end: usize) -> Range<usize> {
        let window = &self.spans[self.start..end];
        let start = window.first().map_or(0, |span| span.start);
        start..window.last().map_or(start, |span| span.end).max(start)
    }

    /// Goes on after a window that ended before the token `end`.
    fn advance(&mut self, end: usize, overlap: usize) {
        if end == self.spans.len() {
            self.start = end;
            return;
        }
        let next = end.saturating_sub(overlap).max(self.start + 1);
        self.start = (next..end).find(|at| self.is_boundary(*at)).unwrap_or(end);
    }
}

/// A range of a text without the white space at its ends.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = text.get(range.clone()).unwrap_or_default();
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// The parts of a text that are divided one by one. `text-splitter` looks at the rest of a text for each chunk, and the
/// tokens of a text take some forty times its memory.
fn parts(text: &str, by: ChunkBy) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let length = if rest.len() <= CHUNK_PART_BYTES {
            rest.len()
        } else {
            let end = rest.floor_char_boundary(CHUNK_PART_BYTES);
            let half = rest.floor_char_boundary(end / 2);
            let separators: &[&str] = match by {
                ChunkBy::Markdown => &["\n#", "\n\n", "\n", " "],
                ChunkBy::Tokens | ChunkBy::Sentences => &["\n\n", "\n", " "],
            };
            let near_end = &rest[half..end];
            let at = separators.iter().find_map(|separator| near_end.rfind(separator));
            at.filter(|at| half + at > 0).map_or(end, |at| half + at)
        };
        let part = start..start + length;
        start = part.end;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use text_splitter::ChunkSizer;
    use tokenizers::Tokenizer;

    use super::*;

    /// Checkpoints with WordPiece, byte-level BPE and Unigram.
    const MODELS: [&str; 4] = ["bert", "gpt2", "roberta", "t5"];

    const MARKDOWN: &str = "# The inn\n\nThe little inn by the harbour was *quiet*, bright and very clean. The bread was \
         still warm.\n\n## Rooms\n\n- one with a view of the sea\n- two without: 房间干净安静。🙂👍🏽 Crème brûlée\n\n```\nlet \
         a = 1;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nUnquestionably internationalisation! Was it? Yes…\r\n\r\nThe end.";

    fn file(model: &str) -> String {
        format!("{}/../../tests/golden/{model}", env!("CARGO_MANIFEST_DIR"))
    }

    fn tokenizer(model: &str) -> AutoTokenizer {
        AutoTokenizer::from_pretrained(&file(model)).unwrap()
    }

    fn options(by: ChunkBy, max_tokens: usize, overlap: usize) -> ChunkOptions<'static> {
        ChunkOptions { by, max_tokens, overlap, prompt: "" }
    }

    /// The library's own tokenizer, as the feature `tokenizers` of `text-splitter` counts with it.
    struct Library(Tokenizer);

    impl ChunkSizer for Library {
        fn size(&self, chunk: &str) -> usize {
            self.0.encode_fast(chunk, false).unwrap().len()
        }
    }

    impl Library {
        fn of(model: &str) -> Self {
            let mut tokenizer = Tokenizer::from_file(file(model) + "/tokenizer.json").unwrap();
            tokenizer.with_truncation(None).unwrap().with_padding(None);
            Self(tokenizer)
        }
    }

    /// What every list of chunks keeps.
    fn check(text: &str, chunks: &[TextChunk], max_tokens: usize) {
        let characters: Vec<char> = text.chars().collect();
        for chunk in chunks {
            let own = &text[chunk.bytes.clone()];
            assert!(!own.is_empty() && own.trim() == own, "{own:?}");
            let by_characters: String = characters[chunk.characters.clone()].iter().collect();
            assert_eq!(by_characters, own);
            assert!(chunk.tokens <= max_tokens || own.chars().count() == 1, "{own:?}: {chunk:?}");
        }
        let ascend = |pair: &[TextChunk]| {
            pair[0].bytes.start < pair[1].bytes.start && pair[0].bytes.end < pair[1].bytes.end
        };
        assert!(chunks.windows(2).all(ascend), "{chunks:?}");
    }

    #[test]
    fn levels_are_those_of_text_splitter_with_the_tokenizer_of_the_model() {
        for model in MODELS {
            let tokenizer = tokenizer(model);
            let special = tokenizer.num_special_tokens_to_add(false);
            let (mut compared, mut all_halved) = (0, 0);
            for (room, overlap) in [(5, 0), (12, 0), (12, 4), (30, 15), (400, 1)] {
                let config = || {
                    let config = ChunkConfig::new(room).with_sizer(Library::of(model));
                    config.with_overlap(overlap).unwrap()
                };
                let markdown = MarkdownSplitter::new(config());
                let sentences = TextSplitter::new(config());
                for (by, theirs) in [
                    (ChunkBy::Markdown, markdown.chunk_char_indices(MARKDOWN).collect::<Vec<_>>()),
                    (ChunkBy::Sentences, sentences.chunk_char_indices(MARKDOWN).collect()),
                ] {
                    let max_tokens = room + special;
                    let chunker = Chunker::new(&tokenizer, options(by, max_tokens, overlap));
                    let ours = chunker.unwrap().chunks(MARKDOWN).unwrap();
                    check(MARKDOWN, &ours, max_tokens);
                    // Theirs have too many tokens in some places; ours are halved there.
                    let counter = Library::of(model);
                    let too_long = |chunk: &str| counter.size(chunk) > room;
                    let halved: Vec<_> = theirs.iter().filter(|c| too_long(c.chunk)).collect();
                    let is_half = |chunk: &&TextChunk| {
                        halved.iter().any(|whole| {
                            let end = whole.byte_offset + whole.chunk.len();
                            whole.byte_offset <= chunk.bytes.start && chunk.bytes.end <= end
                        })
                    };
                    let shown = |chunk: &TextChunk| {
                        (chunk.characters.start, MARKDOWN[chunk.bytes.clone()].to_owned())
                    };
                    let ours: Vec<_> = ours.iter().filter(|c| !is_half(c)).map(shown).collect();
                    let theirs = theirs.iter().filter(|c| !too_long(c.chunk));
                    let theirs: Vec<_> =
                        theirs.map(|c| (c.char_offset, c.chunk.to_owned())).collect();
                    assert_eq!(ours, theirs, "{model} {by:?} {room} {overlap}");
                    compared += theirs.len();
                    all_halved += halved.len();
                }
            }
            assert!(compared > 50 && all_halved < 20, "{model}: {compared}, {all_halved}");
        }
    }

    #[test]
    fn windows_have_as_many_tokens_as_fit_and_repeat_some() {
        for model in MODELS {
            let tokenizer = tokenizer(model);
            let special = tokenizer.num_special_tokens_to_add(false);
            for (room, overlap) in [(1, 0), (8, 0), (8, 4), (40, 10)] {
                let chunker =
                    Chunker::new(&tokenizer, options(ChunkBy::Tokens, room + special, overlap));
                let chunks = chunker.unwrap().chunks(MARKDOWN).unwrap();
                check(MARKDOWN, &chunks, room + special);
                // Nothing but white space is left out, and what is repeated is about the overlap.
                let mut end = 0;
                for chunk in &chunks {
                    let between = MARKDOWN.get(end..chunk.bytes.start).unwrap_or_default();
                    assert!(between.trim().is_empty(), "{model} {room} {overlap}: {between:?}");
                    if chunk.bytes.start < end {
                        let repeated = &MARKDOWN[chunk.bytes.start..end];
                        assert!(overlap > 0 && count(&tokenizer, repeated).unwrap() <= 3 * overlap);
                    }
                    end = chunk.bytes.end;
                }
                assert_eq!(end, MARKDOWN.len());
            }
        }
    }

    #[test]
    fn empty_texts_have_no_chunks_and_a_prompt_takes_its_tokens() {
        let tokenizer = tokenizer("bert");
        for by in [ChunkBy::Tokens, ChunkBy::Sentences, ChunkBy::Markdown] {
            let chunker = Chunker::new(&tokenizer, options(by, 8, 2)).unwrap();
            for text in ["", " ", "\n\t \u{3000}"] {
                assert_eq!(chunker.chunks(text).unwrap(), [], "{text:?}");
            }
            let chunks = chunker.chunks(" \n short \n").unwrap();
            assert_eq!((chunks.len(), chunks[0].characters.clone()), (1, 3..8));
            let prompt = "passage: ";
            let with = ChunkOptions { prompt, ..options(by, 20, 0) };
            let with = Chunker::new(&tokenizer, with).unwrap();
            assert_eq!(with.room_and_overlap().0, 20 - 2 - count(&tokenizer, prompt).unwrap());
            for chunk in with.chunks(MARKDOWN).unwrap() {
                let read = format!("{prompt}{}", &MARKDOWN[chunk.bytes.clone()]);
                assert_eq!(count(&tokenizer, &read).unwrap() + 2, chunk.tokens);
                assert!(chunk.tokens <= 20);
            }
        }
    }

    #[test]
    fn a_chunk_needs_room_and_an_overlap_of_at_most_half_of_it() {
        let tokenizer = tokenizer("bert");
        let error = |options| Chunker::new(&tokenizer, options).err().unwrap();
        for (options, part) in [
            (options(ChunkBy::Tokens, 2, 0), "no room beside 2 special tokens"),
            (options(ChunkBy::Tokens, 12, 6), "more than half of the 10 tokens"),
            (ChunkOptions { prompt: "query: ", ..options(ChunkBy::Tokens, 4, 0) }, "of the prompt"),
        ] {
            let error = error(options);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{error}");
        }
        let long = "a ".repeat(CHUNK_TEXT_BYTES / 2 + 1);
        let chunker = Chunker::new(&tokenizer, options(ChunkBy::Tokens, 12, 5)).unwrap();
        let error = chunker.chunks(&long).unwrap_err();
        assert_eq!(error.row_kind(), Some(RowErrorKind::TooLong), "{error}");
    }

    #[test]
    fn long_texts_are_divided_in_parts_at_paragraphs() {
        let text = MARKDOWN.repeat(CHUNK_PART_BYTES * 5 / 2 / MARKDOWN.len());
        for by in [ChunkBy::Tokens, ChunkBy::Sentences, ChunkBy::Markdown] {
            let parts: Vec<_> = parts(&text, by).collect();
            assert!((3..=5).contains(&parts.len()), "{parts:?}");
            assert!(parts.iter().all(|part| part.len() <= CHUNK_PART_BYTES));
            let joined: String = parts.iter().map(|part| &text[part.clone()]).collect();
            assert_eq!(joined, text);
            let start = if by == ChunkBy::Markdown { "\n#" } else { "\n\n" };
            assert!(parts[1..].iter().all(|part| text[part.start..].starts_with(start)));
        }
        let solid = "房".repeat(CHUNK_PART_BYTES);
        assert_eq!(parts(&solid, ChunkBy::Tokens).count(), 4);
        let tokenizer = tokenizer("t5");
        for by in [ChunkBy::Tokens, ChunkBy::Sentences, ChunkBy::Markdown] {
            let chunker = Chunker::new(&tokenizer, options(by, 200, 0)).unwrap();
            let text = &text[..text.floor_char_boundary(CHUNK_PART_BYTES + 3000)];
            let chunks = chunker.chunks(text).unwrap();
            check(text, &chunks, 200);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_has_chunks_that_fit(
            text in "([a-cA-C.!?#*`|\\-\n\r\t 房🙂é\u{301}\u{200d}]|New York|\n\n){0,80}",
            room in 1_usize..20,
            overlap in 0_usize..10,
            model in 0_usize..4,
        ) {
            let tokenizer = tokenizer(MODELS[model]);
            let max_tokens = room + tokenizer.num_special_tokens_to_add(false);
            for by in [ChunkBy::Tokens, ChunkBy::Sentences, ChunkBy::Markdown] {
                let options = options(by, max_tokens, overlap.min(room / 2));
                let chunks = Chunker::new(&tokenizer, options).unwrap().chunks(&text);
                if let Ok(chunks) = chunks {
                    let ends_in_text = |chunk: &TextChunk| chunk.bytes.end <= text.len();
                    prop_assert!(chunks.iter().all(ends_in_text));
                }
            }
        }
    }
}
