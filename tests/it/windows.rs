//! Pairs under each truncation strategy, and windows over long texts, compared exactly with transformers'
//! (`tests/golden/windows`).

use std::path::{Path, PathBuf};

use hfauto_pipe::ErrorKind;
use hfauto_pipe::auto::{
    AutoTokenizer, EncodeOptions, Encoding, Side, TruncationStrategy, Window, WindowOptions,
};
use serde_json::{Value, json};

const BASES: [&str; 7] =
    ["bert", "bert-cased-vocab", "distilbert", "mpnet", "roberta", "xlm-roberta", "gpt2"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn tokenizer(base: &str) -> AutoTokenizer {
    AutoTokenizer::from_pretrained(golden().join(base).to_str().unwrap()).unwrap()
}

fn windows_of(base: &str) -> Value {
    let text = std::fs::read_to_string(golden().join(format!("windows/{base}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// One row of a golden.
struct Row {
    texts: Vec<String>,
    options: WindowOptions,
}

impl Row {
    fn new(row: &Value) -> Self {
        let strategy = match row["truncation"].as_str().unwrap() {
            "longest_first" => TruncationStrategy::LongestFirst,
            "only_first" => TruncationStrategy::OnlyFirst,
            "only_second" => TruncationStrategy::OnlySecond,
            other => panic!("{other}"),
        };
        let side = if row["side"] == "left" { Side::Left } else { Side::Right };
        let number = |key: &str| row[key].as_u64().map(|n| usize::try_from(n).unwrap());
        Self {
            texts: serde_json::from_value(row["texts"].clone()).unwrap(),
            options: WindowOptions {
                max_length: number("max_length"),
                stride: number("stride").unwrap(),
                truncation: strategy,
                truncation_side: Some(side),
                add_special_tokens: true,
            },
        }
    }

    fn windows(&self, tokenizer: &AutoTokenizer) -> hfauto::Result<Vec<Window>> {
        let pair = self.texts.get(1).map(String::as_str);
        tokenizer.encode_windows(&self.texts[0], pair, &self.options)
    }

    fn encode(&self, tokenizer: &AutoTokenizer) -> hfauto::Result<Encoding> {
        let options = EncodeOptions {
            max_length: self.options.max_length,
            truncation: self.options.truncation,
            truncation_side: self.options.truncation_side,
            return_offsets_mapping: true,
            return_special_tokens_mask: true,
            return_word_ids: true,
            ..EncodeOptions::default()
        };
        match self.texts.get(1) {
            Some(pair) => tokenizer.encode_pair(&self.texts[0], pair, &options),
            None => tokenizer.encode(&self.texts[0], &options),
        }
    }
}

/// A window in the form of the goldens.
fn compact(window: &Window) -> Value {
    let offsets: Vec<usize> =
        window.offset_mapping.iter().flat_map(|(start, end)| [*start, *end]).collect();
    let sequences: String =
        window.sequence_ids.iter().map(|id| id.map_or("-".into(), |id| id.to_string())).collect();
    let words: Vec<i64> = window.word_ids.iter().map(|id| id.map_or(-1, i64::from)).collect();
    json!([
        window.input_ids,
        window.token_type_ids,
        offsets,
        mask(&window.special_tokens_mask),
        sequences,
        words
    ])
}

fn mask(special: &[bool]) -> String {
    special.iter().map(|special| if *special { '1' } else { '0' }).collect()
}

#[test]
fn windows_are_those_of_transformers() {
    for base in BASES {
        let (tokenizer, golden) = (tokenizer(base), windows_of(base));
        let rows = golden["rows"].as_array().unwrap();
        assert!(rows.len() > 100);
        let (mut several, mut refused) = (0, 0);
        for row in rows {
            let at = format!("{base}: {}", without_windows(row));
            let got = Row::new(row).windows(&tokenizer);
            let Some(expected) = row["windows"].as_array() else {
                let error = got.expect_err(&at);
                let about = if row["error"] == "stride" { "should share" } else { "has only" };
                assert!(error.message().contains(about), "{at}: {error}");
                refused += 1;
                continue;
            };
            let got = got.unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(got.len(), expected.len(), "{at}: windows");
            for (got, expected) in got.iter().zip(expected) {
                assert_eq!(&compact(got), expected, "{at}");
            }
            several += usize::from(expected.len() > 2);
        }
        assert!(several > 20 && refused > 10, "{base}: {several} {refused}");
    }
}

/// The first window is the truncated text.
#[test]
fn pairs_are_cut_as_transformers_cuts_them() {
    for base in BASES {
        let (tokenizer, golden) = (tokenizer(base), windows_of(base));
        for row in golden["rows"].as_array().unwrap() {
            let at = format!("{base}: {}", without_windows(row));
            let (Some(windows), got) =
                (row["windows"].as_array(), Row::new(row).encode(&tokenizer))
            else {
                continue;
            };
            let got = got.unwrap_or_else(|e| panic!("{at}: {e}"));
            let (expected, offsets) = (&windows[0], got.offset_mapping.unwrap());
            assert_eq!(json!(got.input_ids), expected[0], "{at}");
            assert_eq!(json!(got.token_type_ids), expected[1], "{at}");
            let offsets: Vec<_> = offsets.iter().flat_map(|(start, end)| [*start, *end]).collect();
            assert_eq!(json!(offsets), expected[2], "{at}");
            assert_eq!(mask(&got.special_tokens_mask.unwrap()), expected[3], "{at}");
            let words = got.word_ids.unwrap();
            let words: Vec<_> = words.iter().map(|id| id.map_or(-1, i64::from)).collect();
            assert_eq!(json!(words), expected[5], "{at}");
            assert_eq!(got.truncated, windows.len() > 1, "{at}");
        }
    }
}

#[test]
fn words_stand_where_transformers_sees_them() {
    for base in BASES {
        let (tokenizer, golden) = (tokenizer(base), windows_of(base));
        let pairs: Vec<(String, String)> = serde_json::from_value(golden["pairs"].clone()).unwrap();
        let words: Vec<[usize; 5]> = serde_json::from_value(golden["words"].clone()).unwrap();
        assert!(words.len() > 40);
        for [pair, sequence, word, start, end] in words {
            let (first, second) = &pairs[pair];
            let windows =
                tokenizer.encode_windows(first, Some(second), &WindowOptions::default()).unwrap();
            let word_id = u32::try_from(word).unwrap();
            let got = windows[0].word_to_chars(word_id, sequence);
            assert_eq!(got, Some((start, end)), "{base}: {first:?} {second:?} {word}");
            assert_eq!(windows[0].word_to_chars(1000, sequence), None);
        }
    }
}

fn without_windows(row: &Value) -> Value {
    let mut row = row.clone();
    row.as_object_mut().unwrap().remove("windows");
    row
}

#[test]
fn texts_that_cannot_be_truncated_are_refused() {
    let bert = tokenizer("bert");
    let options = EncodeOptions {
        max_length: Some(8),
        truncation: TruncationStrategy::OnlyFirst,
        ..EncodeOptions::default()
    };
    let error = bert.encode_pair("a", "b c d e f g h i", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(
        error.message(),
        "there is room for 5 tokens of 9, but the first text, the only one to truncate, has only 1"
    );
    let second = EncodeOptions { truncation: TruncationStrategy::OnlySecond, ..options };
    assert_eq!(bert.encode_pair("a", "b c d e f g h i", &second).unwrap().input_ids.len(), 8);
    let error = bert.encode("a b c d e f g h i", &second).unwrap_err();
    assert_eq!(error.message(), "truncation is `only_second`, but there is no second text");
    assert_eq!(error.kind(), ErrorKind::Config);

    let windows = |max_length, stride, text: &str, pair: Option<&str>| {
        let options =
            WindowOptions { max_length: Some(max_length), stride, ..WindowOptions::default() };
        bert.encode_windows(text, pair, &options)
    };
    let error = windows(6, 5, "a", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.message(),
        "a window has room for 4 tokens of the text, but should share 5 with the next one"
    );
    assert_eq!(windows(2, 0, "a", None).unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(windows(2, 0, "", None).unwrap().len(), 1);
    assert_eq!(windows(1, 0, "a", None).unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(windows(4, 0, "a b", Some("c d")).unwrap_err().kind(), ErrorKind::Data);
}
