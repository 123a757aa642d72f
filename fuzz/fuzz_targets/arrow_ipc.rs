//! Any bytes as an Arrow IPC file, of the file or of the stream format. It is opened and read; what is damaged is an
//! error.
#![no_main]

use hfauto_pipe_fuzz::read_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_table("a.arrow", bytes));
