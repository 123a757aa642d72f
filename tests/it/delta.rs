//! Delta tables as sources and outputs. What is read is compared with what delta-rs reads from its own tables
//! (`tests/data/delta`); what is written is read by delta-rs, if `HFAUTO_DELTALAKE` is a Python that has it, or `python3` does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::support::{Fixture, embed_pipeline, mini_embedder, repository, skip};

fn golden(name: &str) -> PathBuf {
    repository().join("tests/data/delta").join(name)
}

/// The columns and rows of a version of a golden table, as delta-rs read them.
fn expected(name: &str, version: &str) -> (Vec<String>, Vec<Value>) {
    let text = std::fs::read_to_string(golden(&format!("{name}.json"))).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let found = &all[version];
    let columns = found["columns"].as_array().unwrap().iter();
    let columns = columns.map(|name| name.as_str().unwrap().to_owned()).collect();
    (columns, found["rows"].as_array().unwrap().clone())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows without nulls, which JSON lines leave out.
fn without_nulls(rows: &[Value]) -> Vec<Value> {
    let kept = |row: &Value| {
        let entries = row.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    rows.iter().map(kept).collect()
}

fn sql(fixture: &Fixture, query: &str) -> Vec<Value> {
    lines(&fixture.run(&["sql", "--format", "jsonl", query]).succeeds().stdout)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A pipeline that copies rows.
fn copy_yaml(source: &str, sink: &str, more: &str) -> String {
    format!("version: 1\nsource: {source}\nsink: {sink}\n{more}")
}

/// The actions of a version.
fn actions(fixture: &Fixture, table: &str, version: u64) -> Vec<Value> {
    let path = fixture.path(&format!("{table}/_delta_log/{version:020}.json"));
    lines(&std::fs::read_to_string(path).unwrap())
}

fn versions(fixture: &Fixture, table: &str) -> usize {
    match std::fs::read_dir(fixture.path(&format!("{table}/_delta_log"))) {
        Ok(names) => names
            .filter(|name| {
                name.as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "json")
            })
            .count(),
        Err(_) => 0,
    }
}

/// The rows of a table as delta-rs reads them; `None` if there is no delta-rs.
fn by_delta_rs(fixture: &Fixture, table: &str) -> Option<Vec<Value>> {
    let python = std::env::var("HFAUTO_DELTALAKE").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import deltalake"]).output();
    if !has.is_ok_and(|ran| ran.status.success()) {
        skip(&format!(
            "no deltalake in `{python}`; `pip install deltalake` and set HFAUTO_DELTALAKE"
        ));
        return None;
    }
    let mut command = Command::new(&python);
    let ran = command.arg(golden("read.py")).arg(fixture.path(table)).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(lines(&String::from_utf8(ran.stdout).unwrap()))
}

#[test]
fn tables_are_read_as_delta_rs_reads_them() {
    let fixture = Fixture::new();
    for (table, version) in [("versions", "4"), ("partitioned", "0"), ("checkpointed", "5")] {
        let (columns, rows) = expected(table, version);
        let path = golden(table);
        let found = sql(&fixture, &format!("SELECT * FROM '{}/' ORDER BY id", path.display()));
        assert_eq!(without_nulls(&found), without_nulls(&rows), "{table}");
        let header = format!("SELECT * FROM '{}/' ORDER BY id LIMIT 1", path.display());
        let header = fixture.run(&["sql", "--format", "csv", &header]).succeeds().stdout.clone();
        assert_eq!(header.lines().next().unwrap(), columns.join(","), "{table}");
    }
}

#[test]
fn an_old_version_is_read_on_request() {
    for version in 0..5 {
        let fixture = Fixture::new();
        let source = format!(
            "{{path: {}, format: delta, version: {version}}}",
            golden("versions").display()
        );
        fixture.file("copy.yaml", copy_yaml(&source, "{path: out.jsonl}", ""));
        fixture.run(&["run", "copy.yaml"]).succeeds();
        let mut found = lines(&std::fs::read_to_string(fixture.path("out.jsonl")).unwrap());
        found.sort_by_key(|row| row["id"].as_i64());
        let (_, rows) = expected("versions", &version.to_string());
        assert_eq!(without_nulls(&found), without_nulls(&rows), "{version}");
    }
    let fixture = Fixture::new();
    let source = format!("{{path: {}, format: delta, version: 9}}", golden("versions").display());
    fixture.file("copy.yaml", copy_yaml(&source, "{path: out.jsonl}", ""));
    fixture.run(&["run", "copy.yaml"]).fails(66, &["has no version 9", "the last one is 4"]);
    let source =
        format!("{{path: {}, format: delta, version: 2}}", golden("checkpointed").display());
    fixture.file("copy.yaml", copy_yaml(&source, "{path: out.jsonl}", ""));
    fixture.run(&["run", "copy.yaml"]).fails(66, &["no version 2", "cleaned up"]);
}

#[test]
fn types_are_those_of_the_log() {
    let fixture = Fixture::new();
    let query = format!(
        "SELECT arrow_typeof(at) AS at, arrow_typeof(price) AS price, arrow_typeof(small) AS small, \
         CAST(at AS VARCHAR) AS text, price = 1.50 AS same, vector[2] AS second, pair['label'] AS label \
         FROM '{}/' WHERE id = 1",
        golden("types").display()
    );
    let expected = json!({
        "at": "Timestamp(µs, \"UTC\")", "price": "Decimal128(10, 2)", "small": "Int16",
        "text": "2026-12-01T04:05:06.789Z", "same": true, "second": 1.5, "label": "x"
    });
    assert_eq!(sql(&fixture, &query), [expected]);
}

#[test]
fn what_would_make_rows_wrong_is_refused_by_name() {
    let log = "versions/_delta_log/00000000000000000004.json";
    let check = |change: &dyn Fn(&str) -> String, texts: &[&str]| {
        let fixture = Fixture::new();
        copy(&golden("versions"), &fixture.path("versions"));
        let text = std::fs::read_to_string(fixture.path(log)).unwrap();
        fixture.file(log, change(&text));
        fixture.run(&["sql", "SELECT * FROM 'versions/'"]).fails(65, texts);
    };
    let protocol = |feature: &str| {
        format!(
            "{{\"protocol\":{{\"minReaderVersion\":3,\"minWriterVersion\":7,\"readerFeatures\":[\"{feature}\"],\
             \"writerFeatures\":[\"{feature}\"]}}}}\n"
        )
    };
    let vector = "\"dataChange\":true,\"deletionVector\":{\"storageType\":\"u\",\"pathOrInlineDv\":\"ab\",\
                  \"offset\":1,\"sizeInBytes\":36,\"cardinality\":1}";
    check(
        &|text| protocol("deletionVectors") + &text.replace("\"dataChange\":true", vector),
        &["deletion vector", "REORG TABLE"],
    );
    check(&|text| protocol("variantType") + text, &["`variantType`", "not read"]);
    check(
        &|text| {
            let first =
                std::fs::read_to_string(golden("versions/_delta_log/00000000000000000003.json"));
            let first = first.unwrap();
            let metadata = first.lines().find(|line| line.contains("metaData")).unwrap();
            let mapped = metadata.replace(
                "\"configuration\":{}",
                "\"configuration\":{\"delta.columnMapping.mode\":\"name\"}",
            );
            format!("{text}\n{mapped}\n")
        },
        &["column mapping by `name`"],
    );
    check(
        &|text| text.replace("\"path\":\"part-", "\"path\":\"../part-"),
        &["outside of its folder"],
    );
    check(
        &|text| text.replace("\"path\":\"part-", "\"path\":\"s3://b/part-"),
        &["outside of its folder"],
    );
    check(&|_| "{\"add\":".to_owned(), &["log of the Delta table", "is damaged"]);
    // A feature that is on, with no file that uses it.
    let fixture = Fixture::new();
    copy(&golden("versions"), &fixture.path("versions"));
    let text = std::fs::read_to_string(fixture.path(log)).unwrap();
    fixture.file(log, protocol("deletionVectors") + &text);
    assert_eq!(sql(&fixture, "SELECT count(*) AS n FROM 'versions/'"), [json!({"n": 2})]);
}

#[test]
fn files_that_are_gone_and_checkpoints_that_are_damaged_are_errors() {
    let fixture = Fixture::new();
    copy(&golden("versions"), &fixture.path("versions"));
    let part = actions(&fixture, "versions", 4)
        .into_iter()
        .find_map(|action| Some(action.get("add")?["path"].as_str().unwrap().to_owned()));
    std::fs::remove_file(fixture.path("versions").join(part.unwrap())).unwrap();
    fixture.run(&["sql", "SELECT * FROM 'versions/'"]).fails(66, &["has lost its file"]);
    copy(&golden("checkpointed"), &fixture.path("checkpointed"));
    let name = "checkpointed/_delta_log/00000000000000000004.checkpoint.parquet";
    let whole = std::fs::read(fixture.path(name)).unwrap();
    for cut in [0, 3, whole.len() / 2, whole.len() - 9] {
        fixture.file(name, &whole[..cut]);
        fixture.run(&["sql", "SELECT * FROM 'checkpointed/'"]).fails(65, &["is damaged"]);
    }
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle..middle + 8].fill(0xff);
    fixture.file(name, &flipped);
    let ran = fixture.run(&["sql", "SELECT count(*) FROM 'checkpointed/'"]);
    assert!([0, 65].contains(&ran.code), "{}", ran.stderr);
    fixture.run(&["sql", "SELECT * FROM 'nothing/_delta_log/'"]).fails(66, &["does not exist"]);
}

#[test]
fn keys_of_tables_are_checked_before_a_run() {
    let fixture = Fixture::new();
    fixture.file("a.csv", "id,text\n1,x\n");
    let check = |source: &str, sink: &str, texts: &[&str]| {
        fixture.file("copy.yaml", copy_yaml(source, sink, ""));
        fixture.run(&["validate", "copy.yaml"]).fails(78, texts);
    };
    check("{path: a.csv, version: 1}", "{path: out}", &["`version` is for Delta tables"]);
    check("{path: [a, b], format: delta}", "{path: out}", &["a Delta table is one folder"]);
    check("{path: a.csv}", "{path: out, mode: append}", &["`mode` is for Delta tables"]);
    check(
        "{path: a.csv}",
        "{path: hf://datasets/a/b/c, format: delta}",
        &["not written to the hub"],
    );
    fixture.file(
        "copy.yaml",
        copy_yaml(
            "{path: a.csv}",
            "{path: out, format: delta}",
            "run: {incremental: new_or_changed}",
        ),
    );
    fixture.run(&["validate", "copy.yaml"]).fails(78, &["a Delta table takes its files away"]);
}

/// Embeds `in.csv` into the Delta table `out`.
fn embed(fixture: &Fixture, rows: &str, sink: &str) {
    fixture.file("in.csv", rows);
    fixture.file("embed.yaml", {
        let yaml = embed_pipeline(&mini_embedder(), "in.csv", "out", "");
        yaml.replace("{path: 'out'}", &format!("{{path: 'out', format: delta, {sink}}}"))
    });
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[test]
fn a_table_is_made_appended_to_and_replaced_once() {
    let fixture = Fixture::new();
    let read =
        || sql(&fixture, "SELECT id, text, embedding[1] IS NOT NULL AS ok FROM 'out/' ORDER BY id");
    let check = |expected: &[i64]| {
        let rows = read();
        assert_eq!(ids(&rows), expected);
        assert!(rows.iter().all(|row| row["ok"] == true), "{rows:?}");
        if let Some(rows) = by_delta_rs(&fixture, "out") {
            assert_eq!(ids(&rows), expected);
            assert!(rows.iter().all(|row| row["embedding"].as_array().unwrap().len() > 1));
        }
        // Nothing is left beside the table.
        assert!(!fixture.path("out/_hfauto").exists());
    };
    embed(&fixture, "id,text\n1,boats\n2,bread\n", "mode: error");
    fixture.run(&["run", "embed.yaml"]).succeeds();
    check(&[1, 2]);
    let first = actions(&fixture, "out", 0);
    let kinds: BTreeSet<&str> = first
        .iter()
        .flat_map(|action| action.as_object().unwrap().keys())
        .map(String::as_str)
        .collect();
    assert_eq!(kinds, BTreeSet::from(["add", "commitInfo", "metaData", "protocol", "txn"]));
    let protocol = first.iter().find_map(|action| action.get("protocol")).unwrap();
    assert_eq!(*protocol, json!({"minReaderVersion": 1, "minWriterVersion": 2}));

    // The same run again has nothing to do; another job is refused.
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(versions(&fixture, "out"), 1);
    embed(&fixture, "id,text\n3,birds\n", "mode: error");
    fixture
        .run(&["run", "embed.yaml"])
        .fails(73, &["the Delta table", "exists", "sink.mode=append"]);

    embed(&fixture, "id,text\n3,birds\n", "mode: append");
    fixture.run(&["run", "embed.yaml"]).succeeds();
    check(&[1, 2, 3]);
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(versions(&fixture, "out"), 2);
    fixture
        .run(&["run", "embed.yaml", "--fresh"])
        .fails(64, &["a second time", "sink.mode=overwrite"]);

    embed(&fixture, "id,text\n7,bells\n8,books\n", "mode: overwrite");
    fixture.run(&["run", "embed.yaml"]).succeeds();
    check(&[7, 8]);
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(versions(&fixture, "out"), 3);
    let third = actions(&fixture, "out", 2);
    assert_eq!(third.iter().filter(|action| action.get("remove").is_some()).count(), 2);

    // Rows that another job has appended since are replaced again.
    embed(&fixture, "id,text\n9,boots\n", "mode: append");
    fixture.run(&["run", "embed.yaml"]).succeeds();
    check(&[7, 8, 9]);
    embed(&fixture, "id,text\n7,bells\n8,books\n", "mode: overwrite");
    fixture.run(&["run", "embed.yaml"]).succeeds();
    check(&[7, 8]);
}

#[test]
fn rows_that_do_not_fit_the_table_name_their_column() {
    let fixture = Fixture::new();
    let run = |rows: &str, sink: &str| {
        fixture.file("in.csv", rows);
        fixture.file("copy.yaml", copy_yaml("{path: in.csv}", sink, ""));
        fixture.run(&["run", "copy.yaml"])
    };
    let append = "{path: out, format: delta, mode: append}";
    run("id,n\n1,2\n", append).succeeds();
    run("id,n\n1,x\n", append)
        .fails(73, &["the column `n` is string, and long in the Delta table"]);
    run("id,n,more\n1,2,3\n", append).fails(73, &["there is no column `more` in the Delta table"]);
    run("id\n1\n", append).fails(73, &["lacks the column `n`", "NULL AS n"]);
    let partitioned = "{path: out, format: delta, mode: append, partition_by: [n]}";
    run("id,n\n1,2\n", partitioned)
        .fails(73, &["`sink.partition_by` is not that of the Delta table"]);
    assert_eq!(versions(&fixture, "out"), 1);
    fixture.file(
        "copy.yaml",
        copy_yaml(
            "{path: in.csv}",
            "{path: other, format: delta}",
            "steps:\n  - sql: SELECT id, arrow_cast(id, 'UInt32') AS u FROM input\n",
        ),
    );
    fixture
        .run(&["run", "copy.yaml"])
        .fails(78, &["the column `u`", "UInt32", "no unsigned integers"]);
    assert!(!fixture.path("other").exists());
}

#[test]
fn partitions_are_written_as_delta_rs_reads_them() {
    let fixture = Fixture::new();
    let rows = [
        json!({"id": 1, "lang": "a/b c=ü%", "n": 1}),
        json!({"id": 2, "lang": null, "n": 2}),
        json!({"id": 3, "lang": "en", "n": 3}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fixture.file("in.jsonl", text);
    let sink = "{path: out, format: delta, partition_by: [lang]}";
    fixture.file("copy.yaml", copy_yaml("{path: in.jsonl}", sink, ""));
    fixture.run(&["run", "copy.yaml"]).succeeds();
    let found = sql(&fixture, "SELECT * FROM 'out/' ORDER BY id");
    assert_eq!(without_nulls(&found), without_nulls(&rows));
    if let Some(found) = by_delta_rs(&fixture, "out") {
        assert_eq!(without_nulls(&found), without_nulls(&rows));
    }
}

#[test]
fn a_run_that_dies_leaves_the_table_and_the_next_one_ends_in_it_once() {
    for (mode, expected) in [("append", vec![1, 2, 5, 6]), ("overwrite", vec![5, 6])] {
        for place in ["push.uploaded", "push.committed", "publish.renamed"] {
            let fixture = Fixture::new();
            embed(&fixture, "id,text\n1,boats\n2,bread\n", "mode: append");
            fixture.run(&["run", "embed.yaml"]).succeeds();
            embed(&fixture, "id,text\n5,birds\n6,beans\n", &format!("mode: {mode}"));
            let ran = fixture.run_with(&["run", "embed.yaml"], &[("HFAUTO_FAILPOINT", place)]);
            assert_ne!(ran.code, 0, "{place}");
            let is_committed = place == "push.committed";
            assert_eq!(versions(&fixture, "out"), 1 + usize::from(is_committed), "{place}");
            let read = || ids(&sql(&fixture, "SELECT id FROM 'out/' ORDER BY id"));
            assert_eq!(read(), if is_committed { expected.clone() } else { vec![1, 2] }, "{place}");
            fixture.run(&["run", "embed.yaml"]).succeeds();
            fixture.run(&["run", "embed.yaml"]).succeeds();
            assert_eq!(
                (read(), versions(&fixture, "out")),
                (expected.clone(), 2),
                "{mode} {place}"
            );
            if let Some(rows) = by_delta_rs(&fixture, "out") {
                assert_eq!(ids(&rows), expected, "{mode} {place}");
            }
            assert!(!fixture.path("out/_hfauto").exists(), "{mode} {place}");
        }
    }
}

#[test]
fn a_table_is_read_and_written_by_one_pipeline() {
    let fixture = Fixture::new();
    copy(&golden("versions"), &fixture.path("table"));
    let steps = "steps:\n  - sql: SELECT id + 100 AS id, text, lang FROM input\n";
    let source = "{path: table, format: delta, version: 4}";
    let sink = "{path: table, format: delta, mode: append}";
    fixture.file("more.yaml", copy_yaml(source, sink, steps));
    for _ in 0..2 {
        fixture.run(&["run", "more.yaml"]).succeeds();
    }
    let rows = sql(&fixture, "SELECT id FROM 'table/' ORDER BY id");
    assert_eq!(ids(&rows), [7, 8, 107, 108]);
}
