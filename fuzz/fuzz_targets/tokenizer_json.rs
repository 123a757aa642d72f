//! Any bytes as a `tokenizer.json`. A tokenizer that loads must encode and decode, or return an error, in bounded time
//! and memory.
#![no_main]

use std::fs;

use hfauto_pipe::auto::{AutoTokenizer, EncodeOptions};
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    fs::write(folder.join("config.json"), "{\"model_type\": \"bert\"}").unwrap();
    fs::write(folder.join("tokenizer.json"), bytes).unwrap();
    let Ok(tokenizer) = AutoTokenizer::from_pretrained(&folder.display().to_string()) else {
        return;
    };
    for text in ["Boats, bread & the sea: 3 été 🙂", &"aaaa ".repeat(200), &"a".repeat(2000)] {
        if let Ok(encoding) = tokenizer.encode(text, &EncodeOptions::default()) {
            let _ = tokenizer.decode(&encoding.input_ids, false);
        }
    }
});
