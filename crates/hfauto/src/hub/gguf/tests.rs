//! Files that are truncated, or lie about what they hold.

use super::*;
use crate::hub::Weights;

/// The bytes of a file.
#[derive(Clone)]
struct Writer {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(key: &str, value: u32) -> Vec<u8> {
    [text(key), 4u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
}

fn named(key: &str, value: &str) -> Vec<u8> {
    [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat()
}

/// An array of texts.
fn list(key: &str, values: &[&str]) -> Vec<u8> {
    let kind = [9u32.to_le_bytes(), 8u32.to_le_bytes()].concat();
    let count = (values.len() as u64).to_le_bytes().to_vec();
    let values: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
    [text(key), kind, count, values].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    [
        text(name),
        (dims.len() as u32).to_le_bytes().to_vec(),
        dims_bytes,
        kind.to_le_bytes().to_vec(),
        offset.to_le_bytes().to_vec(),
    ]
    .concat()
}

impl Writer {
    fn new() -> Self {
        let keys = vec![named("general.architecture", "qwen2")];
        let tensors = vec![tensor("token_embd.weight", &[32, 2], 8, 0)];
        Self { keys, tensors, data: 68 }
    }

    fn header(&self) -> Vec<u8> {
        [
            b"GGUF".to_vec(),
            3u32.to_le_bytes().to_vec(),
            (self.tensors.len() as u64).to_le_bytes().to_vec(),
            (self.keys.len() as u64).to_le_bytes().to_vec(),
            self.keys.concat(),
            self.tensors.concat(),
        ]
        .concat()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 1);
        bytes
    }
}

/// What opening a file with these bytes says.
fn opened(bytes: &[u8]) -> Result<Weights> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Weights::open(&[path])
}

fn refused(bytes: &[u8], expected: &str) {
    let text = opened(bytes).unwrap_err().to_string();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn tensors_have_the_names_of_transformers() {
    let weights = opened(&Writer::new().bytes()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["model.embed_tokens.weight"]);
    assert_eq!(weights.shape("model.embed_tokens.weight"), Some(&[2, 32][..]));
    assert_eq!(weights.stored_as("model.embed_tokens.weight"), Some("Q8_0"));
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    let bytes = Writer::new().bytes();
    for len in 0..bytes.len() {
        assert!(opened(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_take_no_memory() {
    let good = Writer::new();
    for place in [8, 16, 24] {
        for lie in [u64::MAX, u64::MAX / 8, 1 << 40] {
            let mut bytes = good.bytes();
            bytes[place..place + 8].copy_from_slice(&lie.to_le_bytes());
            assert!(opened(&bytes).is_err());
        }
    }
    let array = |kind: u32, count: u64| {
        let array = [9u32.to_le_bytes(), kind.to_le_bytes()].concat();
        [text("a"), array, count.to_le_bytes().to_vec()].concat()
    };
    for (kind, count) in
        [(8, u64::MAX), (8, 1 << 60), (4, u64::MAX), (12, 1 << 61), (9, 1), (13, 1)]
    {
        let mut file = good.clone();
        file.keys.push(array(kind, count));
        assert!(opened(&file.bytes()).is_err(), "{count} values of type {kind}");
    }
}

#[test]
fn lies_about_tensors_are_named() {
    let of = |tensors: Vec<Vec<u8>>| Writer { tensors, ..Writer::new() }.bytes();
    let one =
        |dims: &[u64], kind, offset| of(vec![tensor("token_embd.weight", dims, kind, offset)]);
    refused(&one(&[33, 2], 8, 0), "`token_embd.weight` has a shape that does not fit Q8_0");
    refused(&one(&[u64::MAX, u64::MAX], 0, 0), "has a shape that does not fit F32");
    refused(&one(&[32, 3], 8, 0), "`token_embd.weight` needs");
    refused(&one(&[32, 2], 8, u64::MAX - 31), "`token_embd.weight` needs");
    refused(&one(&[32, 2], 8, 7), "begins at 7, which 32 does not divide");
    refused(&one(&[], 0, 0), "has 0 dimensions");
    refused(&one(&[1; 5], 0, 0), "has 5 dimensions");
    refused(&one(&[32, 2], 20, 0), "stores tensor `token_embd.weight` as IQ4_NL");
    refused(&one(&[32, 2], 39, 0), "as MXFP4, which is not implemented: F32, F16, ");
    refused(&one(&[32, 2], 99, 0), "as 99, which");
    let twice = tensor("token_embd.weight", &[32, 1], 8, 0);
    refused(&of(vec![twice.clone(), twice]), "it has tensor `token_embd.weight` twice");
    let shared = ["output.weight", "token_embd.weight"].map(|name| tensor(name, &[32, 2], 8, 0));
    let many: Vec<Vec<u8>> =
        (0..20).map(|i| tensor(&format!("t{i}.weight"), &[32, 2], 8, 0)).collect();
    refused(&of([shared.to_vec(), many].concat()), "its tensors share bytes");
}

#[test]
fn keys_are_checked() {
    let with = |keys: &[Vec<u8>]| {
        let mut file = Writer::new();
        file.keys.extend_from_slice(keys);
        file.bytes()
    };
    refused(&with(&[number("general.alignment", 3)]), "is no power of two");
    refused(&with(&[number("general.alignment", 0)]), "is no power of two");
    refused(&with(&[number("a", 1), number("a", 1)]), "it has the key `a` twice");
    refused(&with(&[number("split.count", 3)]), "is one of 3 parts of a model");
    let other = Writer { keys: vec![named("general.architecture", "mamba")], ..Writer::new() };
    refused(&other.bytes(), "has the architecture `mamba`, which is not implemented: bert, bloom,");
    let none = Writer { keys: vec![number("a", 1)], ..Writer::new() };
    refused(&none.bytes(), "has no `general.architecture`");
    let mut bytes = Writer::new().bytes();
    bytes[4] = 9;
    refused(&bytes, "is GGUF of version 9");
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    refused(&bytes, "is a big-endian GGUF file");
    bytes[24 + 8 + 3] = 0xff;
    bytes[4..8].copy_from_slice(&3u32.to_le_bytes());
    refused(&bytes, "is not UTF-8");
}

#[test]
fn experts_are_as_many_as_the_file_says() {
    let file = |count: u32, dims: &[u64]| {
        let keys =
            vec![named("general.architecture", "llama"), number("llama.expert_count", count)];
        let tensors = vec![tensor("blk.0.ffn_up_exps.weight", dims, 8, 0)];
        Writer { keys, tensors, data: 34 * dims.iter().product::<u64>() as usize / 32 }.bytes()
    };
    let weights = opened(&file(2, &[32, 3, 2])).unwrap();
    let name = |expert| format!("model.layers.0.block_sparse_moe.experts.{expert}.w3.weight");
    assert_eq!(weights.names().collect::<Vec<_>>(), [name(0), name(1)]);
    assert_eq!(weights.shape(&name(1)), Some(&[3, 32][..]));
    refused(&file(3, &[32, 3, 2]), "has 2 experts in tensor `blk.0.ffn_up_exps.weight`, not the 3");
    refused(&file(0, &[32, 3, 2]), "has 2 experts");
    refused(&file(2, &[32, 6]), "that is no list of matrices");
}

#[test]
fn heads_of_bert_without_a_pooler_are_refused() {
    for (tensors, expected) in [
        (&["cls.weight"][..], "one layer of a head that scores texts"),
        (&["cls.output.weight"], "one layer of a head that scores texts"),
        (&["cls.weight", "cls.output.weight"], "a DistilBERT, which is not implemented"),
        (&[], "a DistilBERT, which is not implemented"),
    ] {
        let keys = vec![named("general.architecture", "bert")];
        let tensors = tensors.iter().chain(&["token_embd.weight"]);
        let tensors: Vec<_> = tensors.map(|name| tensor(name, &[32, 1], 8, 0)).collect();
        let file = Writer { keys, tensors, data: 34 };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        let error = Gguf::open(&path).and_then(|gguf| gguf.file("config.json")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

/// What the file says about `name`.
fn described(keys: &[Vec<u8>], name: &str) -> Result<Option<serde_json::Value>> {
    let mut file = Writer::new();
    file.keys.extend_from_slice(keys);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let bytes = Gguf::open(&path)?.file(name)?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap()))
}

#[test]
fn settings_that_are_not_implemented_are_named() {
    let sizes = [
        number("qwen2.embedding_length", 32),
        number("qwen2.block_count", 1),
        number("qwen2.feed_forward_length", 32),
        number("qwen2.context_length", 8),
        number("qwen2.attention.head_count", 2),
    ];
    let config = described(&sizes, "config.json").unwrap().unwrap();
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!((&config["head_dim"], &config["num_key_value_heads"]), (&json!(16), &json!(2)));
    for (key, file, expected) in [
        (number("qwen2.expert_count", 8), "config.json", "has a mixture of experts"),
        (named("qwen2.rope.scaling.type", "spiral"), "config.json", "rope scaling `spiral`"),
        (number("qwen2.pooling_type", 9), "modules.json", "has the pooling 9"),
    ] {
        let keys = [&sizes[..], &[key, number("qwen2.rope.scaling.factor", 2)]].concat();
        let error = described(&keys, file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let text = described(&sizes[1..], "config.json").unwrap_err().to_string();
    assert!(text.contains("has no `qwen2.embedding_length`"), "{text}");
}

#[test]
fn tokenizers_that_are_not_implemented_are_named() {
    let kind = |kind: &str| named("tokenizer.ggml.model", kind);
    let tokens = list("tokenizer.ggml.tokens", &["a", "b", "ab", "<|im_end|>"]);
    let merges = list("tokenizer.ggml.merges", &["a b"]);
    let pre = |pre: &str| named("tokenizer.ggml.pre", pre);
    let of = |keys: &[Vec<u8>], file: &str| described(keys, file);
    let text = of(&[kind("rwkv"), tokens.clone()], "tokenizer.json").unwrap_err().to_string();
    assert!(text.contains("tokenizer of kind `rwkv`"), "{text}");
    let keys = [kind("gpt2"), tokens.clone(), merges.clone(), pre("mine")];
    let text = of(&keys, "tokenizer.json").unwrap_err().to_string();
    assert!(text.contains("by the rule `mine`") && text.contains("llama-bpe"), "{text}");
    let keys = [kind("gpt2"), tokens.clone(), merges, pre("qwen2")];
    let json = of(&keys, "tokenizer.json").unwrap().unwrap();
    assert_eq!(json["model"]["merges"], json!([["a", "b"]]));
    let keys = [kind("gpt2"), tokens.clone(), number("tokenizer.ggml.eos_token_id", 9)];
    let text = of(&keys, "tokenizer_config.json").unwrap_err().to_string();
    assert!(text.contains("beyond its 4 tokens"), "{text}");
    assert!(of(&[], "tokenizer.json").unwrap().is_none());
    let text = of(&[kind("llama"), tokens], "tokenizer.model").unwrap_err().to_string();
    assert!(text.contains("has no `tokenizer.ggml.scores`"), "{text}");
}
