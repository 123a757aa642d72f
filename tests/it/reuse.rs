//! Rows whose results an earlier run has kept (`run.reuse`): they are not computed again, and the output is that of a fresh run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use super::support::{Fixture, embed_pipeline, mini_embedder, repository};

const ROWS: usize = 60;

/// A file whose rows have these texts.
fn write_file(fixture: &Fixture, name: &str, texts: impl Iterator<Item = String>) {
    let mut csv = "id,text\n".to_owned();
    for (row, text) in texts.enumerate() {
        writeln!(csv, "{row},\"{text}\"").unwrap();
    }
    fixture.file(&format!("in/{name}.csv"), csv);
}

fn text(row: usize) -> String {
    format!("row {row}: boats, bread and the sea {}", row * row)
}

fn run(fixture: &Fixture, args: &[&str]) -> Value {
    let args = [&["run", "p.yaml", "--report", "report.json"], args].concat();
    fixture.run(&args).succeeds();
    let report = fs::read(fixture.path("report.json")).unwrap();
    serde_json::from_slice::<Value>(&report).unwrap()["run"].clone()
}

/// The rows that a step computed, and those that it reused.
fn counts(report: &Value, step: usize) -> (u64, u64) {
    let counts = &report["steps"][step]["counts"];
    (counts["computed_rows"].as_u64().unwrap(), counts["reused_rows"].as_u64().unwrap())
}

/// The contents of the data files of an output. An incremental run keeps the names of parts whose position has changed.
fn parts(fixture: &Fixture, folder: &str) -> BTreeSet<Vec<u8>> {
    let files = fixture.files(folder).into_iter().filter(|name| !name.starts_with('_'));
    files.map(|name| fs::read(fixture.path(&format!("{folder}/{name}"))).unwrap()).collect()
}

/// The output of a run without `reuse`.
fn fresh(fixture: &Fixture) -> BTreeSet<Vec<u8>> {
    run(fixture, &["--set", "run.reuse=null", "--set", "sink.path=fresh/", "--fresh"]);
    parts(fixture, "fresh")
}

#[test]
fn rows_that_are_the_same_are_not_computed_again() {
    let fixture = Fixture::new();
    let more = "run: {incremental: new_or_changed, reuse: out/, unit_rows: 20}";
    fixture.file("p.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more));
    write_file(&fixture, "a", (0..ROWS).map(text));
    write_file(&fixture, "b", (100..110).map(text));
    assert_eq!(counts(&run(&fixture, &[]), 0), (70, 0));
    assert_eq!(parts(&fixture, "out"), fresh(&fixture));

    // A row changed, one was inserted and one comes from the other file: the positions of all are others.
    let mut texts: Vec<String> = (0..ROWS).map(text).collect();
    texts[7] = "seven".to_owned();
    texts.insert(0, "first".to_owned());
    texts.insert(30, text(105));
    write_file(&fixture, "a", texts.into_iter());
    assert_eq!(counts(&run(&fixture, &[]), 0), (2, ROWS as u64));
    let found = parts(&fixture, "out");
    assert_eq!(found, fresh(&fixture));

    // Also when everything is written again. Nothing is kept of rows that are gone.
    assert_eq!(counts(&run(&fixture, &["--fresh"]), 0), (0, ROWS as u64 + 12));
    assert_eq!(parts(&fixture, "out"), found);
    write_file(&fixture, "a", (0..8).map(text));
    assert_eq!(counts(&run(&fixture, &[]), 0), (1, 7));

    // Another option is another result.
    let pipeline = fs::read_to_string(fixture.path("p.yaml")).unwrap();
    fixture.file("p.yaml", pipeline.replace("input: text", "input: text, normalize: false"));
    assert_eq!(counts(&run(&fixture, &[]), 0), (18, 0));
    assert_eq!(parts(&fixture, "out"), fresh(&fixture));
}

#[test]
fn every_step_and_format_reuses_its_rows() {
    let fixture = Fixture::new();
    let models = repository().join("tests/golden/tasks");
    let model = |name: &str| models.join(name).display().to_string();
    let pipeline = |sink: &str, more: &str| {
        format!(
            "version: 1\n\
             source: {{path: 'in/*.csv'}}\n\
             steps:\n\
             - feature-extraction: {{model: '{}', input: text, output: vector}}\n\
             - sql: SELECT *, concat('a ', text) AS longer FROM input WHERE vector[1] > -100 AND id % 7 <> 3\n\
             - text-generation: {{model: '{}', input: longer, output: story, max_new_tokens: 4}}\n\
             - token-count: {{model: '{}', input: longer, output: tokens}}\n\
             sink: {{path: {sink}}}\n\
             {more}\n",
            mini_embedder().display(),
            model("gpt2"),
            mini_embedder().display(),
        )
    };
    for sink in ["out/", "out/, format: csv", "out/, format: jsonl"] {
        let _ = fs::remove_dir_all(fixture.path("out"));
        write_file(&fixture, "a", (0..40).map(text));
        let more = "run: {reuse: out/, unit_rows: 16}\non_error: {rows: 'null', column: _error}";
        fixture.file("p.yaml", pipeline(sink, more));
        let report = run(&fixture, &[]);
        assert_eq!((counts(&report, 0), counts(&report, 1).1), ((40, 0), 0));
        let computed = counts(&report, 1).0;
        write_file(
            &fixture,
            "a",
            (0..40).map(|row| if row == 5 { "five".to_owned() } else { text(row) }),
        );
        let report = run(&fixture, &["--fresh"]);
        assert_eq!(
            (counts(&report, 0), counts(&report, 1)),
            ((1, 39), (1, computed - 1)),
            "{sink}"
        );
        assert_eq!(parts(&fixture, "out"), fresh(&fixture), "{sink}");
    }
}

#[test]
fn folders_without_results_are_refused() {
    let fixture = Fixture::new();
    fixture.file("p.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", ""));
    write_file(&fixture, "a", (0..5).map(text));
    run(&fixture, &[]);
    let refused = |set: &str, code: u8, texts: &[&str]| {
        for verb in ["run", "plan"] {
            fixture
                .run(&[verb, "p.yaml", "--set", set, "--set", "sink.path=new/"])
                .fails(code, texts);
        }
        assert!(!fixture.path("new").exists());
    };
    refused(
        "run.reuse=out/",
        78,
        &["has no results to reuse", "only a run with `reuse` keeps them"],
    );
    refused("run.reuse=none/", 66, &["there is no output"]);
    refused("run.reuse=in/", 78, &["has no results to reuse"]);
    let single = ["--set", "sink.path=x.parquet", "--set", "run.reuse=x.parquet"];
    fixture.run(&[&["validate", "p.yaml"][..], &single].concat()).fails(78, &["keeps no results"]);

    // Results of another option.
    run(&fixture, &["--fresh", "--set", "run.reuse=out/"]);
    let pipeline = fs::read_to_string(fixture.path("p.yaml")).unwrap();
    fixture.file("p.yaml", pipeline.replace("input: text", "input: text, normalize: false"));
    refused("run.reuse=out/", 78, &["are of other models or options"]);
    fixture.file("p.yaml", pipeline);
    // Another output, and a single file, reuse those of a folder.
    for sink in ["new/", "new.parquet"] {
        let sink = format!("sink.path={sink}");
        let report = run(&fixture, &["--set", "run.reuse=out/", "--set", &sink]);
        assert_eq!(counts(&report, 0), (0, 5), "{sink}");
    }
    let results = fixture.path("out/_hfauto/results");
    let damaged = walk(&results).into_iter().find(|path| path.ends_with(".arrow")).unwrap();
    fs::write(&damaged, "no").unwrap();
    let ran = fixture.run(&["run", "p.yaml", "--fresh", "--set", "run.reuse=out/"]);
    ran.fails(73, &["is damaged", "_hfauto/results"]);
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
