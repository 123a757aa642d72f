//! Any bytes as weights: the header of safetensors, the archive and pickle of torch, and the metadata of GGUF. A file that
//! opens must return every tensor that it names, or an error; a GGUF file also what it says about the model.
#![no_main]

use std::fs;

use candle_core::{DType, Device};
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let name = ["model.safetensors", "pytorch_model.bin", "model.gguf"][usize::from(kind % 3)];
    let path = folder().join(name);
    fs::write(&path, content).unwrap();
    if let (2, Ok(snapshot)) = (kind % 3, Snapshot::local(&path)) {
        for file in
            ["config.json", "generation_config.json", "modules.json", "tokenizer_config.json"]
        {
            let _ = snapshot.json(file);
        }
    }
    let Ok(weights) = Weights::open(&[path]) else { return };
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in names {
        let _ = weights.tensor(&name, DType::F32, &Device::Cpu);
    }
});
