//! Any bytes as a JSONL file: inspected, then read. What is read after a sound inspection are as many rows as were
//! counted.
#![no_main]

use hfauto_pipe_fuzz::read_source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_source("input.jsonl", bytes, |_| {}));
