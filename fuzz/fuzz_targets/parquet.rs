//! Any bytes as a Parquet file: footer, indexes, pages. It is opened, cut into units and read with and without a
//! predicate; what is damaged is an error.
#![no_main]

use hfauto_pipe_fuzz::read_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_table("a.parquet", bytes));
