//! Token ids compared exactly with transformers': every golden model, with and without tokenizer.json, and tokenizers
//! with contradictory files (`tests/golden/tokenizers`).

use std::fs;
use std::path::{Path, PathBuf};

use hfauto_pipe::auto::{AutoTokenizer, DecodeOptions, EncodeOptions, Encoding};
use serde_json::Value;

const TOKENIZER_FILES: [&str; 10] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
];

/// Each family, with tokenizer.json and without.
const GOLDEN_KINDS: &[&str] = &[
    "bert",
    "bert-cased-vocab",
    "camembert",
    "camembert-spm",
    "distilbert",
    "distilbert-vocab",
    "gpt2",
    "gpt2-vocab-merges",
    "mpnet",
    "mpnet-vocab",
    "roberta",
    "roberta-vocab-merges",
    "t5",
    "t5-spiece",
    "xlm-roberta",
    "xlm-roberta-spm",
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The folders under `tests/golden` that hold `file`, by name, with its content.
fn folders_with(file: &str) -> Vec<(PathBuf, Value)> {
    let folders = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join(file).is_file()).collect();
    folders.sort();
    folders.into_iter().map(|folder| (folder.clone(), json(&folder.join(file)))).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn tokenizer(folder: &Path) -> AutoTokenizer {
    AutoTokenizer::from_pretrained(folder.to_str().unwrap()).unwrap()
}

fn whole() -> EncodeOptions {
    EncodeOptions::default()
}

fn cut(max_length: usize) -> EncodeOptions {
    EncodeOptions { max_length: Some(max_length), ..whole() }
}

fn with_offsets(options: EncodeOptions) -> EncodeOptions {
    EncodeOptions { return_offsets_mapping: true, ..options }
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn ids(encodings: &[Encoding]) -> Vec<Vec<u32>> {
    encodings.iter().map(|encoding| encoding.input_ids.clone()).collect()
}

/// Compares row by row, so that a failure shows its text.
#[track_caller]
fn assert_rows(name: &str, texts: &[String], got: &[Vec<u32>], expected: &[Vec<u32>]) {
    assert_eq!(got.len(), expected.len(), "{name}: rows");
    for ((text, got), expected) in texts.iter().zip(got).zip(expected) {
        assert_eq!(got, expected, "{name}: {text:?}");
    }
}

#[test]
fn every_golden_model_gives_the_ids_of_transformers() {
    let folders = folders_with("tokens.json");
    let names: Vec<_> =
        folders.iter().map(|(f, _)| f.file_name().unwrap().to_str().unwrap()).collect();
    for kind in GOLDEN_KINDS {
        assert!(names.contains(kind), "no golden for {kind}");
    }
    for (folder, tokens) in &folders {
        let name = folder.display().to_string();
        let tokenizer = tokenizer(folder);
        let texts = strings(&tokens["texts"]);
        let expected = rows(&tokens["input_ids"]);
        let encodings = tokenizer.encode_batch(&texts, &whole()).unwrap();
        assert_rows(&name, &texts, &ids(&encodings), &expected);
        assert!(encodings.iter().all(|e| !e.truncated && e.offset_mapping.is_none()));
        let encodings = tokenizer.encode_batch(&texts, &with_offsets(whole())).unwrap();
        assert_rows(&format!("{name} with offsets"), &texts, &ids(&encodings), &expected);
    }
}

#[test]
fn every_golden_truncates_as_transformers_does() {
    let mut compared = 0;
    for (folder, golden) in folders_with("golden.json") {
        let name = folder.display().to_string();
        let (Some(expected), Some(max_length)) =
            (golden.get("input_ids"), golden["max_length"].as_u64())
        else {
            continue;
        };
        let max_length = usize::try_from(max_length).unwrap();
        let tokenizer = tokenizer(&folder);
        let sentence = SentenceSettings::read(&folder);
        let texts: Vec<String> =
            strings(&golden["texts"]).iter().map(|text| sentence.prepare(text)).collect();
        let encodings = tokenizer.encode_batch(&texts, &cut(max_length)).unwrap();
        assert_rows(&name, &texts, &ids(&encodings), &rows(expected));
        for (text, encoding) in texts.iter().zip(&encodings) {
            let length = tokenizer.encode(text, &whole()).unwrap().input_ids.len();
            assert_eq!(encoding.truncated, length > max_length, "{name}: {text:?}");
        }
        if golden.get("token_type_ids").is_some_and(Value::is_array) {
            let types: Vec<_> = encodings.iter().map(|e| e.token_type_ids.clone()).collect();
            assert_rows(&format!("{name} types"), &texts, &types, &rows(&golden["token_type_ids"]));
        }
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} goldens");
}

/// Long texts are not tokenized to their end; the result must not show it.
#[test]
fn the_beginning_of_a_long_text_has_the_tokens_of_the_whole() {
    for (folder, tokens) in folders_with("tokens.json") {
        let tokenizer = tokenizer(&folder);
        let mut texts = strings(&tokens["texts"]);
        // Special tokens after the text: one in most families, none in GPT-2.
        let special = tokenizer.num_special_tokens_to_add(false).div_ceil(2);
        for turn in 0..3 {
            texts.rotate_left(7 * turn + 1);
            let long = texts.join(" and then ").repeat(6);
            let whole = tokenizer.encode(&long, &with_offsets(whole())).unwrap();
            let (ids, offsets) = (whole.input_ids, whole.offset_mapping.unwrap());
            for max_length in [3, 100, 256, 700, 1500, ids.len() - 1] {
                let kept = max_length - special;
                let last = &ids[ids.len() - special..];
                for options in [cut(max_length), with_offsets(cut(max_length))] {
                    let encoding = tokenizer.encode(&long, &options).unwrap();
                    assert!(encoding.truncated);
                    assert_eq!(encoding.input_ids[..kept], ids[..kept], "{folder:?} {max_length}");
                    assert_eq!(&encoding.input_ids[kept..], last);
                    if let Some(mapping) = encoding.offset_mapping {
                        assert_eq!(mapping[..kept], offsets[..kept]);
                    }
                }
            }
            let all = tokenizer.encode(&long, &cut(ids.len())).unwrap();
            assert!(!all.truncated && all.input_ids == ids);
        }
    }
}

/// The preprocessing of sentence-transformers before tokenization.
struct SentenceSettings {
    is_sentence_model: bool,
    do_lower_case: bool,
    prompt: String,
}

impl SentenceSettings {
    fn read(folder: &Path) -> Self {
        let read = |file: &str| {
            let path = folder.join(file);
            if path.is_file() { json(&path) } else { Value::Null }
        };
        let config = read("config_sentence_transformers.json");
        let prompt = config["default_prompt_name"].as_str().map(|name| &config["prompts"][name]);
        Self {
            is_sentence_model: folder.join("modules.json").is_file(),
            do_lower_case: read("sentence_bert_config.json")["do_lower_case"] == true,
            prompt: prompt.and_then(Value::as_str).unwrap_or_default().to_string(),
        }
    }

    fn prepare(&self, text: &str) -> String {
        if !self.is_sentence_model {
            return text.to_string();
        }
        let text = format!("{}{text}", self.prompt);
        let text = text.trim();
        if self.do_lower_case { text.to_lowercase() } else { text.to_string() }
    }
}

/// The directory that a variant of `tests/golden/tokenizers` describes.
fn variant_folder(variant: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let base = golden().join(variant["base"].as_str().unwrap());
    for file in TOKENIZER_FILES {
        let (source, target) = (base.join(file), folder.path().join(file));
        match variant["files"].get(file) {
            Some(Value::Null) => {}
            Some(content) => fs::write(target, content.to_string()).unwrap(),
            None if source.is_file() => drop(fs::copy(source, target).unwrap()),
            None => {}
        }
    }
    let patch = variant["patch"].as_object().unwrap();
    if !patch.is_empty() {
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer = json(&path);
        for (key, value) in patch {
            tokenizer[key] = value.clone();
        }
        fs::write(&path, tokenizer.to_string()).unwrap();
    }
    folder
}

/// Tokens, texts with options other than the tokenizer's own, and the other settings of the files.
fn assert_decodes(name: &str, tokenizer: &AutoTokenizer, ids: &[Vec<u32>], variant: &Value) {
    for (key, skip_special_tokens, clean_up) in
        [("decoded_whole", false, true), ("decoded_untidied", true, false)]
    {
        let options =
            DecodeOptions { skip_special_tokens, clean_up_tokenization_spaces: Some(clean_up) };
        let got: Vec<_> =
            ids.iter().map(|ids| tokenizer.decode_with(ids, &options).unwrap()).collect();
        assert_eq!(got, strings(&variant[key]), "{name}: {key}");
    }

    let some = |tokens: Vec<Option<String>>| tokens.into_iter().map(Option::unwrap).collect();
    let tokens: Vec<String> = some(tokenizer.convert_ids_to_tokens(&ids[3], false));
    assert_eq!(tokens, strings(&variant["tokens"]), "{name}");
    let without: Vec<String> = some(tokenizer.convert_ids_to_tokens(&ids[7], true));
    assert_eq!(without, strings(&variant["tokens_without_special"]), "{name}");
    assert_eq!(tokenizer.convert_ids_to_tokens(&[1 << 30], false), [None]);
    let mut lists: Vec<Vec<String>> = tokens.iter().map(|token| vec![token.clone()]).collect();
    let with_special = some(tokenizer.convert_ids_to_tokens(&ids[7], false));
    lists.extend([tokens[..3].to_vec(), tokens, with_special]);
    let got: Vec<_> =
        lists.into_iter().map(|list| tokenizer.convert_tokens_to_string(list).unwrap()).collect();
    assert_eq!(got, strings(&variant["strings"]), "{name}");

    let special = Value::Object(tokenizer.special_tokens_map());
    assert_eq!(special, variant["special_tokens_map"], "{name}");
    let keys = |map: &Value| map.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&special), keys(&variant["special_tokens_map"]), "{name}");
    assert_eq!(tokenizer.mask_token(), variant["special_tokens_map"]["mask_token"].as_str());
    assert_eq!(tokenizer.eos_token(), variant["special_tokens_map"]["eos_token"].as_str());
    assert_eq!(Value::from(tokenizer.all_special_ids()), variant["all_special_ids"], "{name}");
    assert_eq!(tokenizer.padding_side().name(), variant["padding_side"], "{name}");
    assert_eq!(tokenizer.truncation_side().name(), variant["truncation_side"], "{name}");
    let prefix = variant["continuing_subword_prefix"].as_str();
    assert_eq!(tokenizer.continuing_subword_prefix(), prefix, "{name}");
}

#[test]
fn files_that_disagree_are_read_as_transformers_reads_them() {
    let golden = json(&golden().join("tokenizers/golden.json"));
    let texts = strings(&golden["texts"]);
    let pairs: Vec<(String, String)> = serde_json::from_value(golden["pairs"].clone()).unwrap();
    let pair_texts: Vec<_> = pairs.iter().map(|(a, b)| format!("{a} | {b}")).collect();
    let variants = golden["variants"].as_array().unwrap();
    assert!(variants.len() >= 52);
    for variant in variants {
        let name = variant["name"].as_str().unwrap();
        let folder = variant_folder(variant);
        let tokenizer = tokenizer(folder.path());
        assert_eq!(tokenizer.class_name(), variant["class"], "{name}");
        assert_eq!(tokenizer.total_vocab_size(), variant["len"], "{name}");
        for (attribute, id) in [
            ("bos", tokenizer.bos_token_id()),
            ("eos", tokenizer.eos_token_id()),
            ("unk", tokenizer.unk_token_id()),
            ("sep", tokenizer.sep_token_id()),
            ("pad", tokenizer.pad_token_id()),
            ("cls", tokenizer.cls_token_id()),
            ("mask", tokenizer.mask_token_id()),
        ] {
            let expected = variant["special_ids"][attribute].as_u64();
            assert_eq!(id.map(u64::from), expected, "{name}: {attribute}");
        }

        let encode = |options: EncodeOptions| tokenizer.encode_batch(&texts, &options).unwrap();
        let expected = rows(&variant["input_ids"]);
        assert_rows(name, &texts, &ids(&encode(whole())), &expected);
        let with_all_offsets = encode(with_offsets(whole()));
        assert_rows(name, &texts, &ids(&with_all_offsets), &expected);
        let offsets: Vec<Vec<(usize, usize)>> =
            serde_json::from_value(variant["offset_mapping"].clone()).unwrap();
        for ((text, encoding), offsets) in texts.iter().zip(&with_all_offsets).zip(&offsets) {
            assert_eq!(encoding.offset_mapping.as_ref(), Some(offsets), "{name}: {text:?}");
        }
        for (max_length, truncated) in variant["truncated"].as_object().unwrap() {
            let max_length = max_length.parse().unwrap();
            let at = format!("{name} at {max_length}");
            for options in [cut(max_length), with_offsets(cut(max_length))] {
                let encodings = encode(options);
                assert_rows(&at, &texts, &ids(&encodings), &rows(truncated));
                for (encoding, whole) in encodings.iter().zip(&expected) {
                    assert_eq!(encoding.truncated, whole.len() > max_length, "{at}");
                }
            }
        }
        for (text, (ids, decoded)) in
            texts.iter().zip(expected.iter().zip(strings(&variant["decoded"])))
        {
            assert_eq!(tokenizer.decode(ids, true).unwrap(), decoded, "{name}: {text:?}");
        }
        assert_decodes(name, &tokenizer, &expected, variant);

        let encode_pairs = |options: EncodeOptions| -> Vec<Encoding> {
            pairs.iter().map(|(a, b)| tokenizer.encode_pair(a, b, &options).unwrap()).collect()
        };
        let encodings = encode_pairs(whole());
        assert_rows(name, &pair_texts, &ids(&encodings), &rows(&variant["pairs"]));
        let types: Vec<_> = encodings.into_iter().map(|encoding| encoding.token_type_ids).collect();
        assert_rows(name, &pair_texts, &types, &rows(&variant["pair_token_type_ids"]));
        for (max_length, truncated) in variant["pairs_truncated"].as_object().unwrap() {
            let encodings = encode_pairs(cut(max_length.parse().unwrap()));
            assert_rows(name, &pair_texts, &ids(&encodings), &rows(truncated));
        }
    }
}
