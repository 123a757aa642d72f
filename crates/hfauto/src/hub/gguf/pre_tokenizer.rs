//! How byte-level tokenizers split a text into words: `tokenizer.ggml.pre` names the rule, which is not in the file. The entry
//! is [`steps`].
//!
//! # Source
//! `llama-vocab.cpp` of llama.cpp for the names; the `tokenizer.json` of the models for the rules.

use serde_json::{Value as Json, json};

use crate::hub::layout::Fault;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// What splits a text.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The regular expression of GPT-2.
    Gpt2,
    /// The same, after each digit became a word.
    Digits,
    /// Falcon: punctuation, the expression of GPT-2, and groups of three digits.
    Falcon,
    /// A regular expression.
    Split(&'static str),
}

/// A row of the table: names that mean the same, the rule, whether texts are normalized to NFC, and whether words that are
/// tokens need no merges.
type Row = (&'static [&'static str], Rule, bool, bool);

const ROWS: [Row; 11] = [
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "a.x-4.0",
            "mellum",
            "jais",
            "gigachat",
        ],
        Rule::Gpt2,
        false,
        false,
    ),
    (&["mpt", "olmo", "modern-bert"], Rule::Gpt2, true, false),
    (
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        Rule::Digits,
        false,
        false,
    ),
    (&["falcon"], Rule::Falcon, false, false),
    (&["bloom", "poro-chat", "gpt3-finnish"], Rule::Split(BLOOM), false, false),
    (
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        Rule::Split(LLAMA3),
        false,
        true,
    ),
    (&["dbrx", "smaug-bpe"], Rule::Split(LLAMA3), false, false),
    (&["qwen2", "deepseek-r1-qwen", "kormo", "megrez", "f2llmv2"], Rule::Split(QWEN2), true, false),
    (&["stablelm2"], Rule::Split(QWEN2), false, false),
    (&["tekken"], Rule::Split(TEKKEN), false, true),
    (&["gpt-4o", "llama4", "kanana2"], Rule::Split(GPT4O), false, false),
];

/// The steps of a `tokenizer.json`.
pub(super) struct Steps {
    pub(super) normalizer: Json,
    pub(super) pre_tokenizer: Json,
    pub(super) ignore_merges: bool,
}

fn row(pre: &str) -> Option<&'static Row> {
    ROWS.iter().find(|(names, ..)| names.contains(&pre))
}

/// Whether a text begins with `bos_token` if the file does not say it.
pub(super) fn adds_bos(pre: &str) -> bool {
    // Of the rules that need no merges, all do.
    row(pre).is_some_and(|(.., ignores)| *ignores)
}

/// The steps of a rule.
pub(super) fn steps(pre: &str) -> Result<Steps, Fault> {
    let Some((_, rule, nfc, ignore_merges)) = row(pre) else {
        let known: Vec<&str> = ROWS.iter().flat_map(|(names, ..)| *names).copied().collect();
        return Err(Fault::unsupported(format!(
            "splits words by the rule `{pre}` (`tokenizer.ggml.pre`), which is not implemented: {} are",
            known.join(", ")
        ))
        .hint("a file without the key is too old: convert the model again"));
    };
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": false,
            "use_regex": use_regex,
        })
    };
    let split = |pattern: &str| {
        json!({
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": false,
        })
    };
    let sequence = |steps: Vec<Json>| json!({"type": "Sequence", "pretokenizers": steps});
    let pre_tokenizer = match rule {
        Rule::Gpt2 => byte_level(true),
        Rule::Digits => {
            sequence(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)])
        }
        Rule::Falcon => sequence(vec![
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            byte_level(true),
            json!({"type": "Digits", "individual_digits": false}),
            split("[0-9][0-9][0-9]"),
        ]),
        Rule::Split(pattern) => sequence(vec![split(pattern), byte_level(false)]),
    };
    Ok(Steps {
        normalizer: if *nfc { json!({"type": "NFC"}) } else { Json::Null },
        pre_tokenizer,
        ignore_merges: *ignore_merges,
    })
}
