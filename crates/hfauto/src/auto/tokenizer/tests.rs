use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::auto::FAMILIES;

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##b\n";

/// A directory with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<AutoTokenizer> {
    AutoTokenizer::from_pretrained(folder.to_str().unwrap())
}

fn bert(config: &str) -> AutoTokenizer {
    let files = [
        ("config.json", r#"{"model_type": "bert"}"#),
        ("vocab.txt", VOCAB),
        ("tokenizer_config.json", config),
    ];
    load(folder(&files).path()).unwrap()
}

#[test]
fn truncation_keeps_special_tokens_and_says_so() {
    let tokenizer = bert("{}");
    let options = |max_length| EncodeOptions { max_length, ..EncodeOptions::default() };
    for (max_length, expected, truncated) in [
        (None, vec![2, 5, 6, 7, 3], false),
        (Some(5), vec![2, 5, 6, 7, 3], false),
        (Some(4), vec![2, 5, 6, 3], true),
        (Some(2), vec![2, 3], true),
    ] {
        let encoding = tokenizer.encode("a b c", &options(max_length)).unwrap();
        assert_eq!((encoding.input_ids, encoding.truncated), (expected, truncated));
    }
    let bare = EncodeOptions { max_length: Some(0), add_special_tokens: false, ..options(None) };
    let encoding = tokenizer.encode("a b c", &bare).unwrap();
    assert!(
        encoding.input_ids.is_empty() && encoding.token_type_ids.is_empty() && encoding.truncated
    );
    assert!(!tokenizer.encode("", &bare).unwrap().truncated);
}

#[test]
fn truncation_cuts_the_side_of_the_configuration() {
    let tokenizer = bert(r#"{"truncation_side": "left"}"#);
    for return_offsets_mapping in [false, true] {
        let options = EncodeOptions {
            max_length: Some(4),
            return_offsets_mapping,
            ..EncodeOptions::default()
        };
        assert_eq!(tokenizer.encode("a b c", &options).unwrap().input_ids, [2, 6, 7, 3]);
    }
}

#[test]
fn a_length_without_room_for_the_special_tokens_is_an_error() {
    let tokenizer = bert("{}");
    let options = EncodeOptions { max_length: Some(1), ..EncodeOptions::default() };
    let error = tokenizer.encode("a", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.message(), "`max_length` is 1, but there are 2 special tokens");
    let options = EncodeOptions { max_length: Some(2), ..options };
    assert_eq!(tokenizer.encode_pair("a", "b", &options).unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(tokenizer.encode_batch(&["a"; 3], &options).unwrap().len(), 3);
}

#[test]
fn offsets_count_characters() {
    let options = EncodeOptions { return_offsets_mapping: true, ..EncodeOptions::default() };
    let encoding = bert("{}").encode("房 ab é c", &options).unwrap();
    assert_eq!(encoding.input_ids, [2, 1, 5, 8, 1, 7, 3]);
    let offsets = encoding.offset_mapping.unwrap();
    assert_eq!(offsets, [(0, 0), (0, 1), (2, 3), (3, 4), (5, 6), (7, 8), (0, 0)]);
}

#[test]
fn model_max_length_recognizes_sentinels() {
    for (value, expected) in [
        (json!(512), Some(512)),
        (json!(512.0), Some(512)),
        (json!(1e30), None),
        (json!(-1), None),
        (json!(0), None),
        (json!(null), None),
        (json!("512"), None),
    ] {
        let config = json!({ "model_max_length": value });
        assert_eq!(model_max_length(config.as_object().unwrap()), expected, "{config}");
    }
    let written = r#"{"model_max_length": 1000000000000000019884624838656}"#;
    assert_eq!(model_max_length(&serde_json::from_str(written).unwrap()), None);
    let older = json!({"max_len": 128});
    assert_eq!(model_max_length(older.as_object().unwrap()), Some(128));
}

#[test]
fn missing_files_are_named_with_those_that_are_there() {
    let files = [("config.json", r#"{"model_type": "roberta"}"#), ("vocab.json", "{}")];
    let error = load(folder(&files).path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hub);
    assert_eq!(
        error.message(),
        "no files for `RobertaTokenizerFast`: looked for `tokenizer.json`, or `vocab.json` with \
         `merges.txt`, found `vocab.json`, `config.json`"
    );
    assert!(error.places()[0].starts_with("tokenizer of `"));

    let class = r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#;
    let files = [("tokenizer_config.json", class), ("vocab.txt", VOCAB)];
    let error = load(folder(&files).path()).unwrap_err();
    let expected = "looked for `tokenizer.json`, `tokenizer.model`, found `vocab.txt`";
    assert!(error.message().contains(expected), "{error}");
}

#[test]
fn missing_or_unknown_tokenizer_classes_are_refused() {
    let error = load(folder(&[("vocab.txt", VOCAB)]).path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.message().starts_with("the tokenizer class is not given"), "{error}");
    let error = load(folder(&[("config.json", r#"{"model_type": "xlnet"}"#)]).path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error
            .message()
            .starts_with("no tokenizer is implemented for model type `xlnet`, only for albert, ")
    );
}

#[test]
fn damaged_files_are_named() {
    let roberta = |vocab: &str, merges: &str| {
        let config = ("config.json", r#"{"model_type": "roberta"}"#);
        load(folder(&[config, ("vocab.json", vocab), ("merges.txt", merges)]).path()).unwrap_err()
    };
    let vocab = r#"{"<s>": 0, "</s>": 1, "a": 2, "b": 3}"#;
    let error = roberta(vocab, "#version: 0.2\na b\n");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Model, "`ab` is not in `vocab.json`"));
    assert_eq!(error.places()[0], "merges.txt: line 2");
    let error = roberta(vocab, "#version: 0.2\na\n");
    assert_eq!(error.message(), "expected two tokens to merge, found `a`");
    assert!(roberta(r#"{"a": -1}"#, "\n").message().contains("has the id `-1` for `a`"));

    let bert = ("config.json", r#"{"model_type": "bert"}"#);
    let error = load(folder(&[bert, ("vocab.txt", "a\nb\n")]).path()).unwrap_err();
    assert_eq!(error.message(), "`vocab.txt` has no `[UNK]`");
    let error = load(folder(&[bert, ("tokenizer.json", "{}")]).path()).unwrap_err();
    assert_eq!(error.message(), "`tokenizer.json` is not a tokenizer of this library");
    let error = load(folder(&[bert, ("tokenizer_config.json", "[]")]).path()).unwrap_err();
    assert_eq!(error.message(), "`tokenizer_config.json` is not a JSON object");
    let xlm = ("config.json", r#"{"model_type": "xlm-roberta"}"#);
    let error = load(folder(&[xlm, ("sentencepiece.bpe.model", "\n\u{1}")]).path()).unwrap_err();
    assert_eq!(
        (error.kind(), error.places()[0].as_str()),
        (ErrorKind::Model, "sentencepiece.bpe.model")
    );
}

#[test]
fn a_sentencepiece_model_of_another_type_is_refused_by_name() {
    // One piece "a", and a trainer_spec whose model_type is BPE.
    let model = "\n\u{3}\n\u{1}a\u{12}\u{2}\u{18}\u{2}";
    let files = [("config.json", r#"{"model_type": "camembert"}"#), ("spiece.model", model)];
    let error = load(folder(&files).path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.message(), "sentencepiece model type BPE is not implemented, only UNIGRAM");
}

#[test]
fn the_digest_follows_the_files_that_shape_tokens() {
    let plain = bert("{}").digest();
    assert_eq!(plain, bert("{}").digest());
    assert_ne!(plain, bert(r#"{"do_lower_case": false}"#).digest());
    let distilbert = [
        ("config.json", r#"{"model_type": "distilbert"}"#),
        ("vocab.txt", VOCAB),
        ("tokenizer_config.json", "{}"),
    ];
    assert_ne!(plain, load(folder(&distilbert).path()).unwrap().digest());
    let more = [
        ("config.json", r#"{"model_type": "bert", "hidden_size": 8}"#),
        ("vocab.txt", VOCAB),
        ("tokenizer_config.json", "{}"),
        ("README.md", "about"),
    ];
    assert_eq!(plain, load(folder(&more).path()).unwrap().digest());
}

#[test]
fn one_tokenizer_serves_many_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let tokenizer = bert("{}");
    shared(&tokenizer);
    let texts: Vec<String> = (0..500).map(|n| "a b c ".repeat(n % 7)).collect();
    let options = EncodeOptions::default();
    let batch = tokenizer.encode_batch(&texts, &options).unwrap();
    let alone: Vec<_> =
        texts.iter().map(|text| tokenizer.encode(text, &options).unwrap()).collect();
    assert_eq!(batch, alone);
}

#[test]
fn tokens_and_ids_translate_both_ways() {
    let tokenizer = bert(r#"{"clean_up_tokenization_spaces": false}"#);
    assert_eq!(tokenizer.token_to_id("##b"), Some(8));
    assert_eq!(tokenizer.id_to_token(8).as_deref(), Some("##b"));
    assert_eq!(tokenizer.id_to_token(9), None);
    assert_eq!((tokenizer.vocab_size(), tokenizer.total_vocab_size()), (9, 9));
    assert_eq!(tokenizer.decode(&[2, 5, 8, 7, 3, 99], false).unwrap(), "[CLS] ab c [SEP]");
    assert_eq!(tokenizer.decode(&[2, 5, 8, 7, 3], true).unwrap(), "ab c");
    assert_eq!((tokenizer.pad_token_id(), tokenizer.bos_token_id()), (Some(0), None));
}

#[test]
fn segments_are_given_where_the_class_or_the_files_say_so() {
    assert!(bert("{}").gives_token_type_ids());
    assert!(!bert(r#"{"model_input_names": ["input_ids"]}"#).gives_token_type_ids());
    let named = r#"{"tokenizer_class": "DistilBertTokenizer"}"#;
    assert!(!bert(named).gives_token_type_ids());
}

#[test]
fn invalid_t5_files_are_refused_by_name() {
    let t5 = ("config.json", r#"{"model_type": "t5"}"#);
    let refused =
        |config: &str| load(folder(&[t5, ("tokenizer_config.json", config)]).path()).unwrap_err();
    let two = r#"{"additional_special_tokens": ["<extra_id_0>", "<q>", "<extra_id_1>"]}"#;
    let error = refused(two);
    assert_eq!(
        (error.kind(), error.message()),
        (
            ErrorKind::Model,
            "`additional_special_tokens` have 2 `<extra_id_…>`, but `extra_ids` is 100"
        )
    );
    let error = refused(r#"{"extra_ids": -1}"#);
    assert!(error.message().contains("`extra_ids` in tokenizer_config.json is `-1`"), "{error}");
    let error = refused("{}");
    assert!(error.message().contains("looked for `tokenizer.json`, `spiece.model`"), "{error}");
    let error = refused(r#"{"add_prefix_space": true}"#);
    assert!(error.message().contains("looked for `spiece.model`"), "{error}");
}

#[test]
fn tokenizers_of_decoders_give_the_ids_of_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/modern");
    let mut differences = Vec::new();
    for family in &FAMILIES {
        let dir = root.join(family.model_type).join("model");
        let Ok(text) = fs::read_to_string(dir.join("tokens.json")) else { continue };
        let golden: Value = serde_json::from_str(&text).unwrap();
        let tokenizer = AutoTokenizer::from_pretrained(dir.to_str().unwrap()).unwrap();
        let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(golden["input_ids"].clone()).unwrap();
        assert!(texts.len() > 20 && texts.len() == ids.len());
        for (text, expected) in texts.iter().zip(ids) {
            let ours = tokenizer.encode(text, &EncodeOptions::default()).unwrap().input_ids;
            if ours != expected {
                let model_type = family.model_type;
                differences.push(format!("{model_type} {text:?}: {ours:?}, not {expected:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[derive(serde::Deserialize)]
struct Variant {
    name: String,
    /// The content of each file: text, or the name of a file beside the golden.
    files: BTreeMap<String, Value>,
    input_ids: Vec<Vec<u32>>,
    pairs: Vec<Vec<u32>>,
    decoded: Vec<String>,
    len: usize,
    special_ids: BTreeMap<String, Option<u32>>,
}

#[test]
fn tokenizer_classes_of_decoders_agree_with_transformers() {
    check_variants("modern-tokenizers", 30);
}

#[test]
fn deberta_and_albert_need_their_sentencepiece_model_only() {
    check_variants("spm-tokenizers", 9);
}

/// Compares the variants of a golden folder, and requires at least `least` of them.
fn check_variants(folder: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder);
    let golden = fs::read_to_string(root.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let pairs: Vec<(String, String)> = serde_json::from_value(golden["pairs"].clone()).unwrap();
    let variants: Vec<Variant> = serde_json::from_value(golden["variants"].clone()).unwrap();
    assert!(variants.len() > least);
    let mut differences = Vec::new();
    for variant in variants {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &variant.files {
            let path = dir.path().join(name);
            match content {
                Value::String(file) => drop(fs::copy(root.join(file), path).unwrap()),
                json => fs::write(path, json.to_string()).unwrap(),
            }
        }
        let name = &variant.name;
        let tokenizer = match load(dir.path()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                differences.push(format!("{name}: {error}"));
                continue;
            }
        };
        let mut compare = |what: &str, ours: String, expected: String| {
            if ours != expected {
                differences.push(format!("{name} {what}: {ours}, not {expected}"));
            }
        };
        compare("len", tokenizer.total_vocab_size().to_string(), variant.len.to_string());
        for (attribute, id) in variant.special_ids {
            let ours = tokenizer.special_token_id(&format!("{attribute}_token"));
            compare(&attribute, format!("{ours:?}"), format!("{id:?}"));
        }
        let options = EncodeOptions::default();
        for ((text, ids), decoded) in texts.iter().zip(variant.input_ids).zip(variant.decoded) {
            let ours = tokenizer.encode(text, &options).unwrap().input_ids;
            compare(text, format!("{ours:?}"), format!("{ids:?}"));
            compare(text, tokenizer.decode(&ids, true).unwrap(), decoded);
        }
        for ((first, second), ids) in pairs.iter().zip(variant.pairs) {
            let ours = tokenizer.encode_pair(first, second, &options).unwrap().input_ids;
            compare(first, format!("{ours:?}"), format!("{ids:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn vocabularies_of_tiktoken_are_refused_with_a_hint() {
    for (file, content) in [
        ("tokenizer.model", "IQ== 0\nIg== 1\n"),
        ("tekken.json", "{}"),
        ("qwen.tiktoken", "IQ== 0\n"),
    ] {
        for class in ["LlamaTokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer"] {
            if file == "tokenizer.model" && class == "Qwen2Tokenizer" {
                continue; // It reads no such file.
            }
            let config = format!("{{\"tokenizer_class\": \"{class}\"}}");
            let dir = folder(&[("tokenizer_config.json", &config), (file, content)]);
            let error = load(dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{class}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("`{file}` is a vocabulary of tiktoken")), "{text}");
            assert!(text.contains("save a tokenizer.json"), "{text}");
        }
    }
}

#[test]
fn damaged_sentencepiece_models_are_refused_by_name() {
    for class in ["LlamaTokenizer", "GemmaTokenizer", "TokenizersBackend"] {
        let config = format!("{{\"tokenizer_class\": \"{class}\"}}");
        for (file, expected) in [
            ("tokenizer.model", "no pieces"),
            ("other", "looked for `tokenizer.json`, `tokenizer.model`"),
        ] {
            let dir = folder(&[("tokenizer_config.json", &config), (file, "")]);
            let error = load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{class}: {error}");
        }
    }
    // A sentencepiece model of type WORD with one piece.
    let model = [&[10, 3, 10, 1, b'a'][..], &[18, 2, 24, 3]].concat();
    let dir = folder(&[("tokenizer_config.json", r#"{"tokenizer_class": "LlamaTokenizer"}"#)]);
    fs::write(dir.path().join("tokenizer.model"), model).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("type WORD is not implemented, only BPE and UNIGRAM"), "{error}");
    // A unigram model where the class expects byte pair encoding.
    let unigram = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}"#;
    for class in ["LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer"] {
        let config = format!("{{\"tokenizer_class\": \"{class}\"}}");
        let dir = folder(&[("tokenizer_config.json", &config), ("tokenizer.json", unigram)]);
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("the model is not BPE"), "{class}: {error}");
    }
}

/// The tokenizers of translation and summarisation against transformers: ids, texts, and the tokens of languages.
#[test]
fn translation_tokenizers_give_the_tokens_of_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/seq2seq-tokenizers");
    let mut folders: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 15);
    let mut failures = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let golden = fs::read_to_string(folder.join("tokens.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
        let tokenizer = load(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let class = golden["class"].as_str().unwrap();
        assert!(tokenizer.class_name().starts_with(class), "{name}: {class}");
        for (row, text) in texts.iter().enumerate() {
            let ids = |key: &str| -> Vec<u32> {
                serde_json::from_value(golden[key][row].clone()).unwrap()
            };
            for return_offsets_mapping in [false, true] {
                let options = EncodeOptions { return_offsets_mapping, ..EncodeOptions::default() };
                let found = tokenizer.encode(text, &options).unwrap().input_ids;
                if found != ids("input_ids") {
                    failures.push(format!("{name} {text:?}: {found:?}, {:?}", ids("input_ids")));
                }
            }
            for (key, skip) in [("decoded", true), ("decoded_with_special_tokens", false)] {
                let found = tokenizer.decode(&ids("decoded_ids"), skip).unwrap();
                let expected = golden[key][row].as_str().unwrap();
                if found != expected {
                    failures.push(format!("{name} {text:?} {key}: {found:?}, {expected:?}"));
                }
            }
        }
        for pair in golden["pairs"].as_array().unwrap() {
            let tokens =
                tokenizer.translation_tokens(pair["src_lang"].as_str(), pair["tgt_lang"].as_str());
            let tokens = tokens.unwrap().unwrap();
            let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
            let text = tokenizer.encode("The film is slow", &bare).unwrap().input_ids;
            let expected: Vec<u32> = serde_json::from_value(pair["input_ids"].clone()).unwrap();
            assert_eq!([tokens.before, text, tokens.after].concat(), expected, "{name} {pair}");
            let forced = tokens.forced_bos_token_id.map(u64::from);
            assert_eq!(forced, pair["forced_bos_token_id"].as_u64());
        }
    }
    assert!(failures.is_empty(), "{} of them:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn unknown_languages_are_refused_with_the_nearest_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/seq2seq-tokenizers");
    for (name, unknown, nearest) in
        [("mbart", "ro_RU", "ro_RO"), ("nllb", "fr_Latn", "fra_Latn"), ("m2m_100", "FR", "fr")]
    {
        let tokenizer = load(&root.join(name)).unwrap();
        let known = &tokenizer.language_codes()[0];
        for (src_lang, tgt_lang, key) in
            [(unknown, known.as_str(), "src_lang"), (known.as_str(), unknown, "tgt_lang")]
        {
            let error = tokenizer.translation_tokens(Some(src_lang), Some(tgt_lang)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = error.to_string();
            assert!(text.contains(&format!("`{key}: {unknown}`")), "{text}");
            assert!(text.contains(&format!("did you mean `{nearest}`?")), "{text}");
        }
        let tokens = tokenizer.translation_tokens(Some(known), None).unwrap().unwrap();
        assert_eq!(tokens.forced_bos_token_id, None);
    }
    let marian = load(&root.join("marian")).unwrap();
    assert_eq!(marian.translation_tokens(Some("en"), Some("fr")).unwrap(), None);
    assert!(marian.language_codes().is_empty());
    // The settings of the files are the defaults.
    let settings = load(&root.join("mbart-src-lang")).unwrap();
    let (by_default, given) = (
        settings.translation_tokens(None, None).unwrap(),
        settings.translation_tokens(Some("de_DE"), Some("fr_XX")).unwrap(),
    );
    assert_eq!(by_default, given);
}

#[test]
fn vocabularies_that_do_not_fit_are_refused_by_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/seq2seq-tokenizers");
    let refused = |name: &str, change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(root.join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        change(folder.path());
        load(folder.path()).unwrap_err().to_string()
    };
    let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    for (name, file, text, expected) in [
        ("marian", "vocab.json", r#"{"a": 1}"#, "`vocab.json` has no `<unk>`"),
        ("marian", "vocab.json", r#"{"<unk>": -1}"#, "the id `-1` for `<unk>`"),
        ("marian", "source.spm", "no", "source.spm"),
        ("marian-separate", "target_vocab.json", "[]", "`target_vocab.json` is not a JSON object"),
        (
            "m2m_100",
            "tokenizer_config.json",
            r#"{"tokenizer_class": "M2M100Tokenizer", "language_codes": "m3"}"#,
            "`language_codes: m3`",
        ),
        (
            "m2m_100",
            "tokenizer_config.json",
            r#"{"tokenizer_class": "M2M100Tokenizer", "src_lang": "xx"}"#,
            "`__xx__` is not in the vocabulary",
        ),
        (
            "mbart",
            "tokenizer_config.json",
            r#"{"tokenizer_class": "MBartTokenizer", "src_lang": 3}"#,
            "`src_lang` in tokenizer_config.json is `3`",
        ),
        (
            "pegasus-spm",
            "tokenizer_config.json",
            r#"{"tokenizer_class": "PegasusTokenizer", "offset": 1000000000}"#,
            "`offset` in tokenizer_config.json is `1000000000`",
        ),
    ] {
        let found = refused(name, &|folder| write(folder, file, text));
        assert!(found.contains(expected), "{name}: {found}");
    }
    for (name, file) in [
        ("marian", "vocab.json"),
        ("marian", "source.spm"),
        ("mbart-spm", "sentencepiece.bpe.model"),
    ] {
        let found = refused(name, &|folder| fs::remove_file(folder.join(file)).unwrap());
        assert!(found.contains(&format!("`{file}`")), "{name}: {found}");
    }
}
