//! Any bytes as a Parquet file: footer, indexes, pages. Opens it, splits it into units, and reads it with and without a
//! predicate; damage is an error.
#![no_main]

use hfauto_pipe_fuzz::read_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_table("a.parquet", bytes));
