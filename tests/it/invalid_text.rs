//! Text that is not UTF-8: an error of its file, or of its row if `on_error` keeps failed rows.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type as ParquetInt64};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use super::support::{Fixture, repository};

const FORMATS: [&str; 3] = ["csv", "jsonl", "parquet"];

/// A row: its text and a second column, as bytes.
type Bytes2 = (Vec<u8>, Vec<u8>);

/// Rows with their number in the text. The rows in `texts` and `others` are not UTF-8 in that column.
fn rows(count: usize, texts: &[usize], others: &[usize]) -> Vec<Bytes2> {
    let value = |word: &str, row: usize, bad: &[usize]| {
        if bad.contains(&row) {
            [b"caf\xe9 ".as_slice(), row.to_string().as_bytes()].concat()
        } else {
            format!("{word} {row} caf\u{e9}").into_bytes()
        }
    };
    (0..count).map(|row| (value("text", row, texts), value("other", row, others))).collect()
}

fn write(fixture: &Fixture, name: &str, rows: &[Bytes2]) {
    let mut content = Vec::new();
    match name.rsplit_once('.').unwrap().1 {
        "csv" => {
            content.extend(b"id,text,other\n");
            for (id, (text, other)) in rows.iter().enumerate() {
                let id = id.to_string();
                content.extend([id.as_bytes(), b",", text, b",", other, b"\n"].concat());
            }
        }
        "jsonl" => {
            for (id, (text, other)) in rows.iter().enumerate() {
                let id = id.to_string();
                let parts: [&[u8]; 7] = [
                    b"{\"id\":",
                    id.as_bytes(),
                    b",\"text\":\"",
                    text,
                    b"\",\"other\":\"",
                    other,
                    b"\"}\n",
                ];
                content.extend(parts.concat());
            }
        }
        _ => return write_parquet(&fixture.file(name, "").path(name), rows),
    }
    fixture.file(name, content);
}

fn write_parquet(path: &Path, rows: &[Bytes2]) {
    let schema = "message m {
        required int64 id;
        optional binary text (STRING);
        required binary other (STRING);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for (number, part) in rows.chunks(10_000).enumerate() {
        let mut group = writer.next_row_group().unwrap();
        let ids: Vec<i64> = (0..part.len()).map(|id| (number * 10_000 + id) as i64).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ParquetInt64>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let texts: Vec<ByteArray> = part.iter().map(|row| row.0.clone().into()).collect();
        let levels = vec![1; texts.len()];
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        let others: Vec<ByteArray> = part.iter().map(|row| row.1.clone().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&others, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// A pipeline that counts the tokens of `text`; `before` are preceding steps.
fn pipeline(fixture: &Fixture, source: &str, before: &str, more: &str) {
    let model = repository().join("tests/golden/tasks/bert-mlm");
    fixture.file(
        "count.yaml",
        format!(
            "version: 1\nsource: {source}\nsteps:\n{before}- token-count: {{model: '{}', input: text, \
             output: tokens}}\nsink: {{path: out/}}\n{more}\n",
            model.display()
        ),
    );
}

/// All rows below a folder, in file order.
fn read(fixture: &Fixture, folder: &str) -> RecordBatch {
    let parts = fixture.files(folder);
    let parts = parts.iter().filter(|part| {
        part.ends_with(".parquet") && !part.split('/').any(|name| name.starts_with(['_', '.']))
    });
    let batches: Vec<_> = parts.map(|part| fixture.parquet(&format!("{folder}/{part}"))).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn run(fixture: &Fixture, args: &[&str]) -> Value {
    let args = [&["run", "count.yaml", "--report", "report.json"], args].concat();
    fixture.run(&args).succeeds();
    serde_json::from_slice(&std::fs::read(fixture.path("report.json")).unwrap()).unwrap()
}

/// The errors of rows: id, step, kind, message.
fn errors(rows: &RecordBatch) -> Vec<(i64, String, String, String)> {
    let Some(errors) = rows.column_by_name("_error") else { return Vec::new() };
    let ids = rows["id"].as_primitive::<Int64Type>();
    let text = |part: usize, row| errors.as_struct().column(part).as_string::<i32>().value(row);
    let failed = (0..rows.num_rows()).filter(|row| errors.is_valid(*row));
    failed
        .map(|row| {
            let parts = [0, 1, 2].map(|part| text(part, row).to_owned());
            let [step, kind, message] = parts;
            (ids.value(row), step, kind, message)
        })
        .collect()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = arrow::compute::cast(&rows[column], &arrow::datatypes::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn without_a_policy_it_is_an_error_of_its_file() {
    for (format, expected) in [
        ("csv", ["line 4, column `text`", "not UTF-8", "in/0.csv", "on_error"].as_slice()),
        ("jsonl", &["line 3", "not UTF-8", "in/0.jsonl"]),
        ("parquet", &["UTF-8", "in/0.parquet"]),
    ] {
        let fixture = Fixture::new();
        write(&fixture, &format!("in/0.{format}"), &rows(6, &[2], &[4]));
        pipeline(&fixture, "{path: in}", "", "");
        fixture.run(&["run", "count.yaml"]).fails(65, expected);
    }
}

#[test]
fn where_rows_are_kept_it_is_an_error_of_its_row() {
    for format in FORMATS {
        let fixture = Fixture::new();
        write(&fixture, &format!("in/0.{format}"), &rows(6, &[2], &[4]));
        write(&fixture, &format!("in/1.{format}"), &rows(3, &[], &[]));
        pipeline(&fixture, "{path: in}", "", "on_error: {rows: null}");
        let report = run(&fixture, &[]);
        let line = match format {
            "csv" => "line 4",
            "jsonl" => "line 3",
            _ => "row 3",
        };
        let place = fixture.path(&format!("in/0.{format}"));
        let message = format!("the text of `text` is not UTF-8: {line} of `{}`", place.display());
        let error = (2, "source".to_owned(), "invalid_utf8".to_owned(), message.clone());

        let found = read(&fixture, "out");
        assert_eq!(errors(&found), std::slice::from_ref(&error), "{format}");
        assert_eq!(found.num_rows(), 9);
        // A null gives a null. Text that no step reads is kept, with U+FFFD for invalid bytes.
        assert_eq!(texts(&found, "text")[1..3], [Some("text 1 café".to_owned()), None]);
        assert_eq!(texts(&found, "other")[4].as_deref(), Some("caf\u{fffd} 4"), "{format}");
        let tokens = found["tokens"].as_primitive::<Int32Type>();
        assert_eq!((0..9).filter(|row| tokens.is_null(*row)).collect::<Vec<_>>(), [2]);
        assert_eq!(report["run"]["row_errors"]["failed"], 1);
        assert_eq!(report["run"]["row_errors"]["rows"], 9);
        assert_eq!(report["run"]["source_errors"][0]["kind"], "invalid_utf8");
        assert_eq!(report["run"]["source_errors"][0]["examples"][0], message);

        pipeline(&fixture, "{path: in}", "", "on_error: {rows: skip}");
        let metrics = fixture.path("run.prom");
        run(&fixture, &["--fresh", "--metrics-file", metrics.to_str().unwrap()]);
        let found = read(&fixture, "out");
        assert_eq!(found.num_rows(), 8);
        assert!(found.column_by_name("_error").is_none());
        let metrics = std::fs::read_to_string(metrics).unwrap();
        let series = "row_errors_total{pipeline=\"count\",step=\"source\",kind=\"invalid_utf8\"} 1";
        assert!(metrics.contains(series), "{metrics}");
        let letters = read(&fixture, "out/_errors");
        assert_eq!(errors(&letters), [error], "{format}");
        assert_eq!(texts(&letters, "text"), [Some("caf\u{fffd} 2".to_owned())]);
        assert_eq!(texts(&letters, "other"), [Some("other 2 café".to_owned())]);

        // These rows count towards the error budget.
        pipeline(&fixture, "{path: in}", "", "on_error: {rows: skip, max_fraction: 0.1}");
        let failed = fixture.run(&["run", "count.yaml", "--fresh"]);
        failed.fails(65, &["1 of 9 rows failed"]);
    }
}

/// Files with invalid rows are split into the same units as others.
#[test]
fn units_have_the_rows_of_their_places() {
    for format in FORMATS {
        let fixture = Fixture::new();
        write(
            &fixture,
            &format!("in/0.{format}"),
            &rows(20_000, &[0, 16_383, 16_384, 19_999], &[5]),
        );
        pipeline(&fixture, "{path: in}", "", "on_error: {rows: null}");
        let report = run(&fixture, &[]);
        assert_eq!(report["run"]["units"]["computed"], 2, "{format}");
        let found = read(&fixture, "out");
        let ids = found["id"].as_primitive::<Int64Type>().values();
        assert!(ids.iter().copied().eq(0..20_000), "{format}");
        let failed: Vec<i64> = errors(&found).iter().map(|error| error.0).collect();
        assert_eq!(failed, [0, 16_383, 16_384, 19_999], "{format}");
        let of = |row: i64| (row != 5).then(|| format!("other {row} café"));
        let expected = (0..20_000).map(|row| of(row).or(Some("caf\u{fffd} 5".to_owned())));
        assert!(texts(&found, "other").into_iter().eq(expected), "{format}");
    }
}

#[test]
fn only_columns_that_a_step_reads_fail_their_rows() {
    let fixture = Fixture::new();
    write(&fixture, "in/0.csv", &rows(6, &[2], &[4]));
    let failed = |source: &str, before: &str| {
        pipeline(&fixture, source, before, "on_error: {rows: skip}");
        run(&fixture, &["--fresh"]);
        let ids: Vec<i64> = if fixture.path("out/_errors").exists() {
            errors(&read(&fixture, "out/_errors")).into_iter().map(|error| error.0).collect()
        } else {
            Vec::new()
        };
        (ids, read(&fixture, "out").num_rows())
    };
    let all = "{path: in}";
    assert_eq!(failed(all, ""), (vec![2], 5));
    assert_eq!(failed("{path: in, select: [id, other, text]}", ""), (vec![2], 5));
    // A renamed column is the same column; a column that no step reads passes through.
    let renamed = "- sql: SELECT id, other AS text, text AS other FROM input\n";
    assert_eq!(failed(all, renamed), (vec![4], 5));
    // An expression reads its columns.
    let both = "- sql: SELECT id, upper(text) AS text FROM input WHERE other <> 'x'\n";
    assert_eq!(failed(all, both), (vec![2, 4], 4));
    // `where` reads the column and sees U+FFFD. The rows that it removes do not fail.
    assert_eq!(failed("{path: in, where: \"other LIKE 'other%'\"}", ""), (vec![2], 4));
    assert_eq!(failed("{path: in, where: \"text LIKE 'text%'\"}", ""), (Vec::new(), 5));
    assert_eq!(failed("{path: in, limit: 2}", ""), (Vec::new(), 2));

    // The output columns do not depend on whether a file is valid.
    let select = "- sql: SELECT id, text, _error FROM input\n";
    pipeline(&fixture, all, select, "on_error: {rows: null}");
    run(&fixture, &["--fresh"]);
    let schema = read(&fixture, "out").schema();
    write(&fixture, "in/0.csv", &rows(6, &[], &[]));
    run(&fixture, &["--fresh"]);
    assert_eq!(read(&fixture, "out").schema().fields(), schema.fields());
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["id", "text", "tokens", "_error"]);
}

/// A new file with invalid rows does not cause other files to be computed again.
#[test]
fn other_units_stay_as_they_are() {
    let fixture = Fixture::new();
    for file in 0..3 {
        write(&fixture, &format!("in/{file}.jsonl"), &rows(5, &[], &[]));
    }
    let more = "on_error: {rows: skip}\nrun: {incremental: new_or_changed}";
    pipeline(&fixture, "{path: in}", "", more);
    assert_eq!(run(&fixture, &[])["run"]["units"]["computed"], 3);
    write(&fixture, "in/1.jsonl", &rows(6, &[2], &[]));
    assert_eq!(run(&fixture, &[])["run"]["units"]["computed"], 1);
    assert_eq!(read(&fixture, "out").num_rows(), 15);
    assert_eq!(errors(&read(&fixture, "out/_errors")).len(), 1);
}

/// No policy tolerates these: column names, malformed JSON, files in another encoding.
#[test]
fn invalid_text_outside_rows_is_an_error_of_the_file() {
    let fixture = Fixture::new();
    let check = |name: &str, content: &[u8], expected: &str| {
        fixture.file(name, content);
        pipeline(&fixture, &format!("{{path: {name}}}"), "", "on_error: {rows: skip}");
        fixture.run(&["run", "count.yaml"]).fails(65, &[expected]);
    };
    check("a.csv", b"id,text,caf\xe9\n1,a,b\n", "line 1, column 3: the text is not UTF-8");
    check("a.jsonl", b"{\"text\":\"a\",\"caf\xe9\":1}\n", "line 1 is not JSON");
    check("b.jsonl", b"{\"text\":\"caf\xe9\"\n", "line 1 is not JSON");
}

/// An unpaired surrogate is not text: its row fails even if no step reads it.
#[test]
fn half_a_character_costs_its_row() {
    let fixture = Fixture::new();
    let half = "{\"id\":0,\"text\":\"a\",\"other\":\"bad \\ud83d end\"}\n";
    let whole = "{\"id\":1,\"text\":\"b\",\"other\":\"\\ud83d\\ude00\"}\n";
    fixture.file("in/0.jsonl", [half, whole].concat());
    pipeline(&fixture, "{path: in}", "", "");
    fixture
        .run(&["run", "count.yaml"])
        .fails(65, &["line 1, field `other`", "half of a surrogate pair"]);
    pipeline(&fixture, "{path: in}", "", "on_error: {rows: skip}");
    run(&fixture, &[]);
    assert_eq!(texts(&read(&fixture, "out"), "other"), [Some("\u{1f600}".to_owned())]);
    let failed = errors(&read(&fixture, "out/_errors"));
    assert_eq!((failed[0].0, failed[0].2.as_str()), (0, "invalid_utf8"));
    assert!(failed[0].3.contains("contains a lone surrogate") && failed[0].3.contains("line 1"));
    pipeline(&fixture, "{path: in}", "", "on_error: {rows: null}");
    run(&fixture, &["--fresh"]);
    let rows = read(&fixture, "out");
    assert_eq!(texts(&rows, "other"), [None, Some("\u{1f600}".to_owned())]);
    assert_eq!(texts(&rows, "text"), [Some("a".to_owned()), Some("b".to_owned())]);
}
