//! Rows that fail: the policies of `on_error`, in units and in whole jobs.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use serde_json::Value;

use super::support::{Fixture, repository};

/// Two files of texts for a masked model; those without a mask fail.
fn fixture(more: &str, files: usize) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..files {
        let rows = (0..10).map(|row| {
            let id = file * 10 + row;
            match row {
                3 | 7 => format!("{id},no mask here {id}\n"),
                5 => format!("{id},\n"),
                _ => format!("{id},The [MASK] number {id} was quiet.\n"),
            }
        });
        let csv = format!("id,text\n{}", rows.collect::<String>());
        fixture.file(&format!("in/{file}.csv"), csv);
    }
    let model = repository().join("tests/golden/tasks/bert-mlm");
    fixture.file(
        "fill.yaml",
        format!(
            "version: 1\nsource: {{path: 'in/*.csv'}}\nsteps:\n\
             - fill-mask: {{model: '{0}', input: text, output: words, top_k: 1}}\n\
             - token-count: {{model: '{0}', input: text, output: tokens}}\n\
             sink: {{path: out/}}\n{more}\n",
            model.display()
        ),
    );
    fixture
}

/// A row: id, whether it has words, the number of tokens, the error.
type Row = (i64, bool, Option<i32>, Option<[String; 3]>);

/// The rows of all parts.
fn rows(fixture: &Fixture, folder: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let parts = fixture.files(folder);
    for part in
        parts.iter().filter(|part| part.ends_with(".parquet") && !part.starts_with(['_', '.']))
    {
        let batch = fixture.parquet(&format!("{folder}/{part}"));
        let ids = batch["id"].as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let words = batch.column_by_name("words").is_some_and(|words| words.is_valid(row));
            let tokens = batch.column_by_name("tokens").and_then(|tokens| {
                let tokens = tokens.as_primitive::<arrow::datatypes::Int32Type>();
                tokens.is_valid(row).then(|| tokens.value(row))
            });
            let error = batch.column_by_name("_error").filter(|error| error.is_valid(row));
            let error = error.map(|error| {
                let text = |i: usize| error.as_struct().column(i).as_string::<i32>().value(row);
                [0, 1, 2].map(|part| text(part).to_owned())
            });
            rows.push((ids.value(row), words, tokens, error));
        }
    }
    rows
}

fn report(fixture: &Fixture, args: &[&str]) -> Value {
    let args = [&["run", "fill.yaml", "--report", "report.json"], args].concat();
    fixture.run(&args).succeeds();
    let text = std::fs::read(fixture.path("report.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["run"].clone()
}

const ERROR: [&str; 3] = ["words", "missing_mask", "text without the mask token `[MASK]`"];

#[test]
fn the_first_error_ends_a_run_by_default() {
    let fixture = fixture("", 2);
    fixture.run(&["run", "fill.yaml"]).fails(65, &["text without the mask token"]);
}

#[test]
fn null_keeps_the_row_and_its_error() {
    for files in [1, 3] {
        let fixture = fixture("on_error: {rows: null}", files);
        let report = report(&fixture, &[]);
        assert_eq!(report["row_errors"]["failed"], files * 2);
        assert_eq!(report["row_errors"]["rows"], files * 10);
        let rows = rows(&fixture, "out");
        assert_eq!(rows.len(), files * 10);
        for (index, (id, words, tokens, error)) in rows.into_iter().enumerate() {
            assert_eq!(id, index as i64);
            let has_failed = matches!(index % 10, 3 | 7);
            assert_eq!(words, !has_failed && index % 10 != 5, "{id}");
            // Later steps process the row.
            assert_eq!(tokens.is_some(), index % 10 != 5, "{id}");
            assert_eq!(error, has_failed.then(|| ERROR.map(str::to_owned)), "{id}");
        }
    }
}

#[test]
fn skip_leaves_the_row_out_and_keeps_it_in_the_dead_letters() {
    for (files, dead) in [(1, "dead"), (3, "out/_errors")] {
        let at = if dead == "dead" { ", dead_letter: dead" } else { "" };
        let fixture = fixture(&format!("on_error: {{rows: skip{at}}}"), files);
        let report = report(&fixture, &[]);
        assert_eq!(report["row_errors"]["failed"], files * 2);
        assert_eq!(report["rows_written"], files * 8);
        let kept: Vec<i64> = rows(&fixture, "out").iter().map(|row| row.0).collect();
        let all = 0..files as i64 * 10;
        let expected: Vec<i64> = all.clone().filter(|id| !matches!(id % 10, 3 | 7)).collect();
        assert_eq!(kept, expected);
        assert!(rows(&fixture, "out").iter().all(|row| row.3.is_none()));

        let letters = rows(&fixture, dead);
        let failed: Vec<i64> = all.filter(|id| matches!(id % 10, 3 | 7)).collect();
        assert_eq!(letters.iter().map(|row| row.0).collect::<Vec<_>>(), failed);
        for (_, _, _, error) in letters {
            assert_eq!(error, Some(ERROR.map(str::to_owned)));
        }
        // The letter contains the row itself.
        let name = fixture.files(dead).remove(0);
        let batch = fixture.parquet(&format!("{dead}/{name}"));
        assert_eq!(batch["text"].as_string::<i32>().value(0), "no mask here 3");
    }
}

#[test]
fn the_budget_of_errors_is_a_limit() {
    let fixture = fixture("on_error: {rows: null, max_fraction: 0.1}", 2);
    let failed = fixture.run(&["run", "fill.yaml"]);
    failed.fails(65, &["4 of 20 rows failed, a fraction of 0.2000", "max_fraction` is 0.1"]);
    assert!(!fixture.path("out/_SUCCESS").exists());
    // The units are done: with a larger budget, nothing is computed again.
    let text = std::fs::read_to_string(fixture.path("fill.yaml")).unwrap();
    fixture.file("fill.yaml", text.replace("0.1}", "0.2}"));
    let report = report(&fixture, &[]);
    assert_eq!(report["units"]["skipped"], 2);
    assert_eq!(report["row_errors"]["failed"], 4);
    assert_eq!(rows(&fixture, "out").len(), 20);
}

/// The dead letters of a changed file are replaced with its rows.
#[test]
fn dead_letters_are_those_of_the_rows_that_are_there() {
    let fixture = fixture("on_error: {rows: skip}\nrun: {incremental: new_or_changed}", 2);
    report(&fixture, &[]);
    assert_eq!(rows(&fixture, "out/_errors").len(), 4);
    fixture.file("in/0.csv", "id,text\n0,[MASK]\n1,nothing\n");
    report(&fixture, &[]);
    let letters = |fixture: &Fixture| {
        let mut ids: Vec<i64> = rows(fixture, "out/_errors").iter().map(|row| row.0).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(letters(&fixture), [1, 13, 17]);
    // The position of a unit changes, but its letters stay.
    fixture.file("in/-1.csv", "id,text\n90,nothing\n");
    report(&fixture, &[]);
    assert_eq!(letters(&fixture), [1, 13, 17, 90]);
    // A removed file keeps its rows and letters until they are pruned.
    std::fs::remove_file(fixture.path("in/-1.csv")).unwrap();
    report(&fixture, &[]);
    assert_eq!(letters(&fixture), [1, 13, 17, 90]);
    // Results of other options are not mixed with them.
    let text = std::fs::read_to_string(fixture.path("fill.yaml")).unwrap();
    fixture.file("fill.yaml", text.replace("top_k: 1", "top_k: 2"));
    fixture.run(&["run", "fill.yaml"]).fails(73, &["-1.csv` no longer exists", "--prune"]);
    fixture.file("fill.yaml", text.clone());
    report(&fixture, &["--prune"]);
    assert_eq!(letters(&fixture), [1, 13, 17]);
    // A run over the budget publishes no letters.
    fixture.file("fill.yaml", text.replace("rows: skip", "rows: skip, max_fraction: 0.3"));
    fixture.file("in/0.csv", "id,text\n0,nothing\n1,nothing\n2,nothing\n3,nothing\n4,nothing\n");
    fixture.run(&["run", "fill.yaml"]).fails(65, &["max_fraction"]);
    assert_eq!(letters(&fixture), [1, 13, 17]);
    fixture.file("fill.yaml", text);
    fixture.file("in/0.csv", "id,text\n0,[MASK]\n");
    fixture.file("in/1.csv", "id,text\n1,[MASK]\n");
    report(&fixture, &[]);
    assert!(!fixture.path("out/_errors").exists());
    // `plan` reads rows that may fail.
    fixture.file("in/1.csv", "id,text\n1,nothing\n");
    fixture.run(&["plan", "fill.yaml"]).succeeds();
    fixture.run(&["run", "fill.yaml", "--limit", "1"]).fails(64, &["`--limit` conflicts with"]);
    // Without `skip` there are no letters.
    report(&fixture, &[]);
    assert_eq!(letters(&fixture), [1]);
    let text = std::fs::read_to_string(fixture.path("fill.yaml")).unwrap();
    fixture.file("fill.yaml", text.replace("rows: skip", "rows: null"));
    report(&fixture, &["--fresh"]);
    assert!(!fixture.path("out/_errors").exists());
}

#[test]
fn a_column_of_the_name_is_refused() {
    let fixture = fixture("on_error: {rows: null, column: id}", 1);
    fixture
        .run(&["run", "fill.yaml"])
        .fails(78, &["already have a column `id`", "on_error.column"]);
}
