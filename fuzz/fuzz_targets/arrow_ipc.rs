//! Any bytes as an Arrow IPC file, in file or stream format. Opens and reads it; damage is an error.
#![no_main]

use hfauto_pipe_fuzz::read_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_table("a.arrow", bytes));
