//! Any bytes as a CSV file: inspects it, then reads it. After a successful inspection, the number of rows read must
//! equal the number counted.
#![no_main]

use hfauto_pipe_fuzz::read_source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The first byte selects a dialect.
    let Some((dialect, text)) = bytes.split_first() else { return };
    read_source("input.csv", text, |spec| {
        let csv = &mut spec.csv;
        csv.has_header = dialect & 1 == 0;
        csv.escape = (dialect & 2 != 0).then_some(b'\\');
        csv.comment = (dialect & 4 != 0).then_some(b'#');
        csv.quote = (dialect & 8 == 0).then_some(b'"');
        if dialect & 16 != 0 {
            csv.null_values = vec!["NA".to_owned(), "-".to_owned()];
        }
    });
});
