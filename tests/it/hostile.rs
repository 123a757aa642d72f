//! Malicious models: their files take no more time and memory than their size justifies. They are rejected as the
//! model's fault, or as the row's fault if only a text reveals it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hfauto::ErrorKind;
use hfauto_pipe::auto::{AutoConfig, AutoImageProcessor, AutoTokenizer, EncodeOptions};
use hfauto_pipe::hub::Weights;
use serde_json::{Map, Value, json};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The tokenizer of `bert`, with a modified tokenizer.json.
fn tokenizer(change: impl FnOnce(&mut Value)) -> hfauto::Result<AutoTokenizer> {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden("bert/config.json"), folder.path().join("config.json")).unwrap();
    let text = fs::read_to_string(golden("bert/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    AutoTokenizer::from_pretrained(folder.path().to_str().unwrap())
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn replace(pattern: &Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

/// Encodes `text`, which must fail as a row, and quickly.
#[track_caller]
fn refuses_row(tokenizer: &AutoTokenizer, text: &str) {
    let started = Instant::now();
    let error = tokenizer.encode(text, &EncodeOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // The next row succeeds.
    assert!(tokenizer.encode("fine", &EncodeOptions::default()).is_ok());
}

#[test]
fn expressions_that_backtrack_are_the_rows_fault() {
    let one_place = format!("{}!", "a".repeat(40));
    let many_places = format!("{}!", "a".repeat(29)).repeat(10_000);
    for (regex, text) in
        [("(a+)+$", &one_place), ("(a|aa)+$", &one_place), ("(?:a|aa)+b|x", &many_places)]
    {
        refuses_row(&tokenizer(|j| j["pre_tokenizer"] = split(regex)).unwrap(), text);
        let replaces = replace(&json!({"Regex": regex}), "b");
        refuses_row(&tokenizer(|j| j["normalizer"] = replaces).unwrap(), text);
        let both = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, split(regex)]});
        refuses_row(&tokenizer(|j| j["pre_tokenizer"] = both).unwrap(), text);
    }
}

#[test]
fn normalizers_that_make_much_of_little_are_the_rows_fault() {
    let grows = replace(&json!({"String": "a"}), &"a".repeat(1000));
    let chain = json!({"type": "Sequence", "normalizers": [grows, grows, grows]});
    refuses_row(&tokenizer(|j| j["normalizer"] = chain).unwrap(), "aaaa");
    let between = replace(&json!({"String": ""}), &"b".repeat(8000));
    refuses_row(&tokenizer(|j| j["normalizer"] = between).unwrap(), "to be or not to be");
    let prepend = json!({"type": "Prepend", "prepend": "b".repeat(60_000)});
    let chain = json!({"type": "Sequence", "normalizers": vec![prepend; 200]});
    // Every text grows with this model.
    let prepends = tokenizer(|j| j["normalizer"] = chain).unwrap();
    let error = prepends.encode("fine", &EncodeOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
}

#[test]
fn a_long_word_is_tokenized_as_ever() {
    let plain = tokenizer(|_| ()).unwrap();
    let word = "a".repeat(900_000);
    assert_eq!(plain.encode(&word, &EncodeOptions::default()).unwrap().input_ids.len(), 3);
    let split = tokenizer(|j| j["pre_tokenizer"] = split(r"\s+(?!\S)|\w+|\s+")).unwrap();
    assert_eq!(split.encode(&word, &EncodeOptions::default()).unwrap().input_ids.len(), 3);
}

/// Modifies a tokenizer.json.
type Change = dyn FnOnce(&mut Value);

#[test]
fn sizes_that_no_tokenizer_has_are_the_models_fault() {
    let deep = |key: &str, kind: &str| {
        (0..120).fold(json!({"type": "Lowercase"}), |inner, _| json!({"type": kind, key: [inner]}))
    };
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let refused: [(&str, Box<Change>); 9] = [
        (
            "max_input_chars_per_word",
            Box::new(|j| j["model"]["max_input_chars_per_word"] = json!(1_000_000_000)),
        ),
        (
            "unk_token",
            Box::new(|j| {
                let unk = "u".repeat(1_000_000);
                j["model"]["vocab"][&unk] = json!(100_000);
                j["model"]["unk_token"] = json!(unk);
            }),
        ),
        (
            "continuing_subword_prefix",
            Box::new(|j| j["model"]["continuing_subword_prefix"] = json!("#".repeat(100_000))),
        ),
        (
            "repeats a text",
            Box::new(move |j| {
                j["post_processor"] = json!({
                    "type": "TemplateProcessing", "single": vec![text.clone(); 1000], "pair": [], "special_tokens": {}
                });
            }),
        ),
        (
            "FixedLength",
            Box::new(|j| j["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0})),
        ),
        (
            "steps",
            Box::new(|j| {
                j["pre_tokenizer"] = json!({
                    "type": "Sequence", "pretokenizers": vec![json!({"type": "WhitespaceSplit"}); 10_000]
                });
            }),
        ),
        ("tokenizer.json", Box::new(move |j| j["normalizer"] = deep("normalizers", "Sequence"))),
        ("tokenizer.json", Box::new(|j| j["pre_tokenizer"] = split(&"(".repeat(60_000)))),
        ("tokenizer.json", Box::new(|j| j["pre_tokenizer"] = split(&"(a".repeat(4000)))),
    ];
    for (expected, change) in refused {
        let error = tokenizer(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        let all = format!("{error} {:?}", error.places());
        assert!(all.contains(expected), "`{expected}`: {all}");
    }
}

#[test]
fn added_tokens_that_backtrack_are_the_models_fault() {
    let started = Instant::now();
    let content = format!("{}!", "a".repeat(40));
    let error = tokenizer(|j| {
        j["normalizer"] = replace(&json!({"Regex": "(a+)+$"}), "b");
        let added = j["added_tokens"].as_array_mut().unwrap();
        added.push(json!({
            "id": 100_000, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false
        }));
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Model);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn padding_and_truncation_of_an_export_count_for_nothing() {
    let huge = tokenizer(|j| {
        j["padding"] = json!({
            "strategy": {"Fixed": 1_000_000_000_000_u64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        });
        j["truncation"] = json!({
            "direction": "Right", "max_length": 1_000_000_000_000_u64, "strategy": "LongestFirst", "stride": 0
        });
    });
    let encoding = huge.unwrap().encode("the sea", &EncodeOptions::default()).unwrap();
    assert!(encoding.input_ids.len() < 20);
}

#[test]
fn counts_in_configurations_are_bounded() {
    let none = Map::new();
    for (key, value) in [
        ("num_labels", json!(100_000_000_000_u64)),
        ("num_labels", json!(20_000_000)),
        ("num_hidden_layers", json!(u32::MAX)),
        ("hidden_size", json!(u64::MAX)),
        ("vocab_size", json!(4_000_000_000_u64)),
        ("max_position_embeddings", json!(4_000_000_000_u64)),
        ("intermediate_size", json!(1e30)),
    ] {
        let json = json!({"model_type": "bert", key: value});
        let error = AutoConfig::from_json(json.as_object().unwrap().clone(), &none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        assert!(error.message().contains(&format!("`{key}`")), "{error}");
    }
    let overrides = json!({"num_labels": 100_000_000_000_u64});
    let bert = json!({"model_type": "bert"}).as_object().unwrap().clone();
    let error = AutoConfig::from_json(bert, overrides.as_object().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    for size in [json!(60_000), json!({"height": 65_000, "width": 65_000}), json!(1_000_000_000)] {
        let json = json!({"image_processor_type": "ViTImageProcessor", "size": size});
        let error = AutoImageProcessor::from_json(json.as_object().unwrap(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        assert!(error.message().contains("`size`"), "{error}");
    }
}

#[test]
fn weights_that_change_while_they_are_read_are_the_models_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::copy(golden("bert/model.safetensors"), &path).unwrap();
    let weights = Weights::open(std::slice::from_ref(&path)).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let read =
        |name: &String| weights.tensor(name, candle_core::DType::F32, &candle_core::Device::Cpu);
    let errors: Vec<_> = names.iter().filter_map(|name| read(name).err()).collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|e| e.kind() == ErrorKind::Model), "{errors:?}");
    assert!(errors[0].to_string().contains("was truncated during the read"), "{}", errors[0]);
}

#[test]
fn headers_of_weights_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let open = |bytes: &[u8]| {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        let error = Weights::open(&[path]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
    };
    let with_header = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    for length in [u64::MAX, u64::MAX - 8, 1 << 40, 99] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{}      ");
        open(&bytes);
    }
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let shapes = ["[4294967296,4294967296]", "[18446744073709551615,2]", "[1,1]", "[2,1]"];
    for shape in shapes {
        open(&with_header(&format!(r#"{{"a":{}}}"#, tensor(shape, 0, 16)), 16));
    }
    let ones = format!("[{}1]", "1,".repeat(100_000));
    open(&with_header(&format!(r#"{{"a":{}}}"#, tensor(&ones, 0, 4)), 4));
    let overlap = format!(r#"{{"a":{},"b":{}}}"#, tensor("[2]", 0, 8), tensor("[2]", 4, 12));
    open(&with_header(&overlap, 12));
    let beyond = format!(r#"{{"a":{}}}"#, tensor("[2]", 8, 16));
    open(&with_header(&beyond, 16));
    open(&with_header(&"[".repeat(100_000), 0));
}
