//! `hfauto-pipe compact`: the rows of an output, their order and the manifests of units stay, whatever happens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use arrow::array::{Array, Int64Array};
use serde_json::Value;

use super::support::{Fixture, embed_pipeline, mini_embedder};

const FILES: usize = 12;

fn write_file(fixture: &Fixture, file: usize, rows: usize) {
    let mut csv = "id,text\n".to_owned();
    for row in 0..rows {
        writeln!(csv, "{},row {row} of file {file}", file * 1000 + row).unwrap();
    }
    fixture.file(&format!("in/{file:03}.csv"), csv);
}

fn fixture(more: &str) -> Fixture {
    let fixture = Fixture::new();
    (0..FILES).for_each(|file| write_file(&fixture, file, 3));
    fixture.file("p.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more));
    fixture
}

fn parts(fixture: &Fixture) -> Vec<String> {
    let mut parts = fixture.files("out");
    // The next run or compaction removes what a killed one has staged.
    parts.retain(|name| name.ends_with(".parquet") && !name.starts_with('_'));
    parts.sort();
    parts
}

/// The rows of the output in order: ids and vectors.
fn rows(fixture: &Fixture) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    for part in parts(fixture) {
        let batch = fixture.parquet(&format!("out/{part}"));
        let ids = batch["id"].as_any().downcast_ref::<Int64Array>().unwrap();
        let vectors = &batch["embedding"];
        rows.extend(
            (0..ids.len()).map(|row| (ids.value(row), format!("{:?}", vectors.slice(row, 1)))),
        );
    }
    rows
}

fn run(fixture: &Fixture, args: &[&str]) -> (u64, u64) {
    let args = [&["run", "p.yaml", "--report", "report.json"], args].concat();
    fixture.run(&args).succeeds();
    let report = fs::read(fixture.path("report.json")).unwrap();
    let units = &serde_json::from_slice::<Value>(&report).unwrap()["run"]["units"];
    (units["computed"].as_u64().unwrap(), units["skipped"].as_u64().unwrap())
}

fn by_id(rows: Vec<(i64, String)>) -> BTreeMap<i64, String> {
    rows.into_iter().collect()
}

#[test]
fn small_parts_become_few_and_no_unit_is_computed_again() {
    let fixture = fixture("run: {incremental: new_or_changed}");
    run(&fixture, &[]);
    let before = rows(&fixture);
    assert_eq!((parts(&fixture).len(), before.len()), (FILES, FILES * 3));
    let compacted = fixture.run(&["compact", "out"]);
    assert!(
        compacted.succeeds().stdout.starts_with("12 parts are 1 part now: 36 rows"),
        "{}",
        compacted.stdout
    );
    assert_eq!((parts(&fixture).len(), rows(&fixture)), (1, before.clone()));
    let again = fixture.run(&["compact", "out"]);
    assert!(again.succeeds().stdout.starts_with("nothing to compact: 1 part"), "{}", again.stdout);
    assert_eq!(run(&fixture, &[]), (0, FILES as u64));
    assert_eq!(rows(&fixture), before);

    // A file changes and one is gone: the rows of the others stay.
    write_file(&fixture, 4, 2);
    fs::remove_file(fixture.path("in/007.csv")).unwrap();
    assert_eq!(run(&fixture, &["--prune"]), (1, FILES as u64 - 2));
    let mut expected = by_id(before);
    expected.retain(|id, _| *id != 4002 && id / 1000 != 7);
    let found = rows(&fixture);
    assert_eq!((found.len(), by_id(found)), (expected.len(), expected.clone()));
    assert_eq!(parts(&fixture).len(), 2);
    fixture.run(&["compact", "out"]).succeeds();
    assert_eq!(parts(&fixture).len(), 1);
    assert_eq!(run(&fixture, &[]), (0, FILES as u64 - 1));
    assert_eq!(by_id(rows(&fixture)), expected);

    // Parts of about a given size.
    fs::remove_dir_all(fixture.path("out")).unwrap();
    run(&fixture, &[]);
    let size = fs::metadata(fixture.path(&format!("out/{}", parts(&fixture)[0]))).unwrap().len();
    let target = (size * 4).to_string();
    fixture.run(&["compact", "out", "--target-file-size", &target]).succeeds();
    assert!((3..=5).contains(&parts(&fixture).len()), "{:?}", parts(&fixture));
    assert_eq!(by_id(rows(&fixture)), expected);
}

#[test]
fn a_compaction_that_is_killed_is_finished_or_undone() {
    let fixture = fixture("");
    run(&fixture, &[]);
    let before = rows(&fixture);
    for place in [
        "publish.begun",
        "publish.planned",
        "publish.unmarked",
        "publish.renamed",
        "publish.removed",
        "publish.marked",
    ] {
        fs::remove_dir_all(fixture.path("out")).unwrap();
        run(&fixture, &[]);
        let status =
            fixture.command(&["compact", "out"]).env("HFAUTO_FAILPOINT", place).output().unwrap();
        assert_eq!(status.status.signal(), Some(9), "{place}");
        // A run completes the publication, and has nothing to compute.
        assert_eq!(run(&fixture, &[]), (0, FILES as u64), "{place}");
        assert_eq!(rows(&fixture), before, "{place}");
        fixture.run(&["compact", "out"]).succeeds();
        assert_eq!((parts(&fixture).len(), rows(&fixture)), (1, before.clone()), "{place}");
        write_file(&fixture, FILES, 3);
        let turn_on = ["--set", "run.incremental=new_or_changed"];
        assert_eq!(run(&fixture, &turn_on), (1, FILES as u64), "{place}");
        fs::remove_file(fixture.path(&format!("in/{FILES:03}.csv"))).unwrap();
    }
}

#[test]
fn what_cannot_be_compacted_is_said() {
    let fixture = fixture("");
    fixture.run(&["compact", "out"]).fails(66, &["there is no complete output"]);
    fixture.run(&["compact", "in"]).fails(66, &["there is no complete output"]);
    run(&fixture, &["--set", "sink.format=csv"]);
    fixture.run(&["compact", "out"]).fails(73, &["of the format csv", "only Parquet and Arrow"]);
    fixture.run(&["compact", "out", "--target-file-size", "many"]).fails(64, &["is not a size"]);
    run(&fixture, &["--fresh"]);
    let part = fixture.path(&format!("out/{}", parts(&fixture)[3]));
    // As long as before, so that only the hash tells.
    let bytes = vec![0; fs::read(&part).unwrap().len()];
    fs::write(&part, bytes).unwrap();
    let before = fixture.files("out");
    fixture.run(&["compact", "out"]).fails(73, &["is damaged or missing"]);
    assert_eq!(fixture.files("out"), before);
}
