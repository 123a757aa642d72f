//! Runs the files in `tests/slt`, in the form of sqllogictest: statements, queries with types and rows, and statements
//! that fail with parts of an error message.
//!
//! ```text
//! statement ok                 query TI rowsort             statement error
//! CREATE MODEL …               SELECT label, count(*) …     SELECT embed(text) …
//!                              ----                         ----
//!                              positive 7                   a part of the message
//!                              negative 4                   another part
//! ```
//! Types: `T` text, `I` integer, `R` real, `B` boolean, `?` anything else. Values of a row are separated by one space;
//! a null is `NULL`, an empty text `(empty)`.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SQLOptions, SessionContext};
use hfauto_pipe::source::session_config;
use hfauto_pipe::sql::{ModelCatalog, model_statement, with_file_tables};

use super::sql::{catalog, context_over};
use super::support::repository;

/// One record of a file.
struct Record {
    line: usize,
    expected: Expected,
    sql: String,
}

enum Expected {
    Ok,
    /// Parts of the message.
    Error(Vec<String>),
    Rows {
        types: String,
        is_sorted: bool,
        rows: Vec<String>,
    },
}

fn parse(text: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, head)) = lines.next() {
        if head.trim().is_empty() || head.starts_with('#') {
            continue;
        }
        let mut block = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.trim().is_empty()) {
            block.push(line);
        }
        let cut = block.iter().position(|line| *line == "----");
        let sql = block[..cut.unwrap_or(block.len())].join("\n");
        let after: Vec<String> =
            cut.map_or(&[][..], |cut| &block[cut + 1..]).iter().map(ToString::to_string).collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        let expected = match words[..] {
            ["statement", "ok"] => Expected::Ok,
            ["statement", "error"] => {
                assert!(!after.is_empty(), "line {}: what does the error say?", number + 1);
                Expected::Error(after)
            }
            ["query", types] | ["query", types, "nosort"] => {
                Expected::Rows { types: types.to_owned(), is_sorted: false, rows: after }
            }
            ["query", types, "rowsort"] => {
                Expected::Rows { types: types.to_owned(), is_sorted: true, rows: after }
            }
            _ => panic!("line {}: `{head}`", number + 1),
        };
        records.push(Record { line: number + 1, expected, sql });
    }
    records
}

fn type_letter(data_type: &DataType) -> char {
    match data_type {
        DataType::Boolean => 'B',
        data_type if data_type.is_integer() => 'I',
        data_type if data_type.is_floating() => 'R',
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 'T',
        _ => '?',
    }
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let value = |column: &ArrayFormatter<'_>| match column.value(row).to_string() {
                text if text.is_empty() => "(empty)".to_owned(),
                text => text,
            };
            rows.push(columns.iter().map(value).collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

async fn run(
    context: &SessionContext,
    models: &ModelCatalog,
    sql: &str,
) -> Result<Vec<RecordBatch>, String> {
    let failed = |error| hfauto_pipe::source::stream_error(error, &[]).to_string();
    if let Some(statement) = model_statement(sql).map_err(|error| error.to_string())? {
        models.execute(&statement).map_err(|error| error.to_string())?;
        return Ok(Vec::new());
    }
    let frame = hfauto_pipe::sql::query(context, sql, SQLOptions::new()).await.map_err(failed)?;
    let schema = std::sync::Arc::clone(frame.schema().inner());
    let mut batches = frame.collect().await.map_err(failed)?;
    batches.push(RecordBatch::new_empty(schema));
    Ok(batches)
}

/// Checks a record and returns the problem, if any.
async fn check(context: &SessionContext, models: &ModelCatalog, record: &Record) -> Option<String> {
    let result = run(context, models, &record.sql).await;
    match (&record.expected, result) {
        (Expected::Ok, Ok(_)) => None,
        (Expected::Error(parts), Err(error)) => {
            let missing: Vec<&str> =
                parts.iter().map(|part| part.trim()).filter(|part| !error.contains(part)).collect();
            (!missing.is_empty()).then(|| format!("{missing:?} not in\n{error}"))
        }
        (Expected::Ok | Expected::Rows { .. }, Err(error)) => Some(error),
        (Expected::Error(_), Ok(_)) => Some("it does not fail".to_owned()),
        (Expected::Rows { types, is_sorted, rows: expected }, Ok(batches)) => {
            let fields = batches.last().map(RecordBatch::schema);
            let letters = fields.iter().flat_map(|schema| schema.fields().iter());
            let letters: String = letters.map(|field| type_letter(field.data_type())).collect();
            let (mut found, mut expected) = (rows(&batches), expected.clone());
            if *is_sorted {
                found.sort();
                expected.sort();
            }
            (letters != *types || found != expected)
                .then(|| format!("types {letters}, rows\n{}", found.join("\n")))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_slt_holds() {
    let folder = repository().join("tests/slt");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3);
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        // One session per file: files do not see each other's models.
        let models = catalog();
        let config = session_config().with_target_partitions(4).with_information_schema(true);
        let context =
            with_file_tables(context_over(config, &models), repository().to_owned()).unwrap();
        let records = parse(&std::fs::read_to_string(&file).unwrap());
        assert!(!records.is_empty(), "{}", file.display());
        count += records.len();
        for record in records {
            if let Some(problem) = check(&context, &models, &record).await {
                let name = file.file_name().unwrap_or_default();
                let place = format!("{}:{}", Path::new(name).display(), record.line);
                wrong.push(format!("{place}\n{}\n{problem}\n", record.sql));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} records:\n{}", wrong.len(), wrong.join("\n"));
}
