//! Not a test: says at the end of a run which tests of `tests/it` were skipped, and why. `cargo test` runs the files of
//! `tests/` in the order of their names and captures what tests print; it does not capture this.
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
    // The next run begins a list of its own.
    let _ = std::fs::remove_file(&list);
}
