//! Not a test: reports at the end of a run which tests of `tests/it` were skipped, and why. `cargo test` runs the files
//! of `tests/` in name order. It captures the output of the other tests, but not of this one.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::collections::BTreeMap;
use std::path::Path;

fn main() {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let Ok(text) = std::fs::read_to_string(&list) else { return };
    let mut tests: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (why, test) in text.lines().filter_map(|line| line.split_once('\t')) {
        tests.entry(why).or_default().push(test);
    }
    for (why, mut tests) in tests {
        tests.sort_unstable();
        tests.dedup();
        println!("SKIPPED, {why}: {}", tests.join(", "));
    }
    // The next run starts a new list.
    let _ = std::fs::remove_file(&list);
}
