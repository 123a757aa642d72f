//! Any bytes as weights: the header of safetensors, and the archive and pickle of torch. A file that opens must return
//! every tensor that it names, or an error.
#![no_main]

use std::fs;

use candle_core::{DType, Device};
use hfauto_pipe::hub::Weights;
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let name = if kind % 2 == 0 { "model.safetensors" } else { "pytorch_model.bin" };
    let path = folder().join(name);
    fs::write(&path, content).unwrap();
    let Ok(weights) = Weights::open(&[path]) else { return };
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in names {
        let _ = weights.tensor(&name, DType::F32, &Device::Cpu);
    }
});
