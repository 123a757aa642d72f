//! Tokenizers without `tokenizer.json`: the first byte selects the files into which the rest is split, at NULs if there
//! are two. A tokenizer that loads must encode.
#![no_main]

use std::fs;

use hfauto_pipe::auto::{AutoTokenizer, EncodeOptions};
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;

const KINDS: &[(&str, &[&str])] = &[
    ("bert", &["vocab.txt", "tokenizer_config.json"]),
    ("gpt2", &["vocab.json", "merges.txt"]),
    ("roberta", &["vocab.json", "merges.txt"]),
    ("t5", &["spiece.model"]),
    ("xlm-roberta", &["sentencepiece.bpe.model"]),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let (model_type, files) = KINDS[usize::from(*kind) % KINDS.len()];
    let folder = folder();
    for (_, names) in KINDS {
        for name in *names {
            let _ = fs::remove_file(folder.join(name));
        }
    }
    fs::write(folder.join("config.json"), format!("{{\"model_type\": \"{model_type}\"}}")).unwrap();
    let mut parts = rest.splitn(files.len(), |byte| files.len() > 1 && *byte == 0);
    for name in files {
        if let Some(part) = parts.next() {
            fs::write(folder.join(name), part).unwrap();
        }
    }
    if let Ok(tokenizer) = AutoTokenizer::from_pretrained(&folder.display().to_string()) {
        let _ = tokenizer.encode("Boats, bread & the sea: 3 été 🙂", &EncodeOptions::default());
    }
});
