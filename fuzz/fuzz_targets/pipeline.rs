//! Any text as a pipeline file: its problems or a pipeline, but never a panic.
#![no_main]

use std::path::Path;

use hfauto_pipe::config::{LoadOptions, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse(text, Path::new("/data/fuzz.yaml"), &LoadOptions::default()) {
        Ok(pipeline) => assert!(!pipeline.name.is_empty()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
