//! Any bytes as a JSONL file: inspects it, then reads it. After a successful inspection, the number of rows read must
//! equal the number counted.
#![no_main]

use hfauto_pipe_fuzz::read_source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_source("input.jsonl", bytes, |_| {}));
