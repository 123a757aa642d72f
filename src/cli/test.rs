//! `hfauto-pipe test`: runs the `tests` of pipeline files. The rows of a test go through the real steps, from a temporary
//! file; the pipeline's sink is not written.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use crate::config::pipeline::{Check, DeltaSource, Expectation, FileFormat, Pipeline, TestSpec};
use crate::config::{self, LoadOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Job, JobOptions, counted};

#[derive(Args, Debug)]
pub(super) struct TestArgs {
    /// Pipeline files, or folders of them.
    #[arg(required = true, value_name = "PIPELINE")]
    pipelines: Vec<PathBuf>,

    /// Override a key of the files, for example `--set run.workers=1`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::key_value)]
    set: Vec<(String, String)>,

    /// Run only the tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,
}

impl TestArgs {
    pub(super) fn run(self) -> Result<()> {
        let (mut passed, mut failed) = (0, 0);
        for file in files(&self.pipelines)? {
            let options = LoadOptions { set: self.set.clone(), ..LoadOptions::default() };
            let pipeline = config::load(&file, &options)?;
            let wanted = |test: &&TestSpec| {
                self.name.as_ref().is_none_or(|text| test.name.contains(text.as_str()))
            };
            for test in pipeline.tests.iter().filter(wanted) {
                let problems = self.run_test(&pipeline, test)?;
                let mut text = String::new();
                let verdict = if problems.is_empty() { "ok    " } else { "FAILED" };
                let _ = writeln!(text, "{verdict}  {}: {}", file.display(), test.name);
                for problem in &problems {
                    let _ = writeln!(text, "        {problem}");
                }
                super::print(text)?;
                if problems.is_empty() { passed += 1 } else { failed += 1 }
            }
        }
        super::print(format_args!("{passed} passed, {failed} failed\n"))?;
        if passed + failed == 0 {
            return Err(Error::new(ErrorKind::Config, "there are no tests to run")
                .hint("add `tests` to the pipeline, or choose another `--name`"));
        }
        if failed > 0 {
            let message = format!("{} failed", counted(failed, "test"));
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(())
    }

    /// The failed expectations. If the run fails, its error is the only problem.
    fn run_test(&self, pipeline: &Pipeline, test: &TestSpec) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().map_err(|e| {
            Error::new(ErrorKind::Sink, "cannot make a folder for the rows of a test").source(e)
        })?;
        match super::block_on(self.rows_of(pipeline, test, folder.path())) {
            Ok((columns, rows)) => {
                let problems =
                    test.expect.iter().flat_map(|expect| match missing(expect, &columns) {
                        Some(problem) => vec![problem],
                        None => check(expect, &rows),
                    });
                Ok(problems.collect())
            }
            // A wrong pipeline is an error, not a failed test.
            Err(error) if error.kind() == ErrorKind::Config => Err(error.at(&test.location)),
            Err(error) => Ok(vec![error.to_string().replace('\n', "\n        ")]),
        }
    }

    /// Runs the steps over the rows of a test, and returns the names of the output columns and the rows.
    async fn rows_of(
        &self,
        pipeline: &Pipeline,
        test: &TestSpec,
        folder: &Path,
    ) -> Result<(Vec<String>, Vec<Value>)> {
        let cannot = |e: std::io::Error| {
            Error::new(ErrorKind::Sink, "cannot write the rows of a test").source(e)
        };
        let input = folder.join("rows.jsonl");
        let output = folder.join("result.jsonl");
        let lines: String =
            test.rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect();
        std::fs::write(&input, lines).map_err(cannot)?;

        let mut pipeline = pipeline.clone();
        pipeline.source.paths = vec![input.display().to_string()];
        pipeline.source.format = Some(FileFormat::Jsonl);
        pipeline.source.delta = DeltaSource::default();
        pipeline.sink.path.clone_from(&output);
        pipeline.sink.delta = None;
        pipeline.sink.format = FileFormat::Jsonl;
        pipeline.sink.compression = None;
        pipeline.sink.partition_by.clear();
        pipeline.run.is_incremental = false;
        pipeline.reuse = None;
        pipeline.on_error.dead_letter = folder.join("errors");
        let hub = Arc::new(super::hub(self.offline));
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
        let stop = super::signals::Stop::listen();
        job.run(stop.asked()).await?;
        let text = std::fs::read_to_string(&output).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot read the result of a test").source(e)
        })?;
        let parse = |line| {
            serde_json::from_str(line).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot read the result of a test").source(e)
            })
        };
        let columns = job.schema().fields().iter().map(|field| field.name().clone()).collect();
        Ok((columns, text.lines().map(parse).collect::<Result<_>>()?))
    }
}

/// The given pipeline files and those in the given folders, sorted by name.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let cannot = |e: std::io::Error| {
            Error::new(ErrorKind::NoInput, format!("cannot read `{}`", path.display())).source(e)
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            if file.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::NoInput,
                format!("there is no pipeline file in `{}`", path.display()),
            ));
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// A sentence for each row that does not meet an expectation.
fn check(expect: &Expectation, rows: &[Value]) -> Vec<String> {
    let Expectation { column, row, check } = expect;
    if let Some(row) = row
        && *row >= rows.len()
    {
        return vec![format!("`{column}`: there is no row {row}, the output has {}", rows.len())];
    }
    if rows.is_empty() {
        return vec![format!("`{column}`: the output has no rows")];
    }
    let chosen = rows.iter().enumerate().filter(|(index, _)| row.is_none_or(|row| row == *index));
    chosen
        .filter_map(|(index, row)| {
            let value = at(row, column).unwrap_or(&Value::Null);
            let problem = holds(check, value).err()?;
            Some(format!("`{column}`, row {index}: {problem}"))
        })
        .collect()
}

/// The problem with an expectation of a missing column, whose missing value would otherwise pass for a null.
fn missing(expect: &Expectation, columns: &[String]) -> Option<String> {
    let column = &expect.column;
    let first = column.split('.').next().unwrap_or(column);
    let is_there = columns.iter().any(|name| name == column || name == first);
    (!is_there).then(|| {
        format!("`{column}`: there is no such column; columns are `{}`", columns.join("`, `"))
    })
}

/// The value at a dotted path; a column's own name may contain dots.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(value);
    }
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let inner = match value {
        Value::Array(items) => items.get(first.parse::<usize>().ok()?)?,
        value => value.get(first)?,
    };
    at(inner, rest)
}

fn holds(check: &Check, value: &Value) -> std::result::Result<(), String> {
    let (holds, expected) = match check {
        Check::Equals(expected, tolerance) => {
            (equals(value, expected, *tolerance), shown(expected))
        }
        Check::Length(expected) => {
            let length = match value {
                Value::Array(items) => Some(items.len()),
                Value::String(text) => Some(text.chars().count()),
                _ => None,
            };
            match length {
                Some(length) if length == *expected => return Ok(()),
                Some(length) => return Err(format!("expected length {expected}, found {length}")),
                None => (false, format!("length {expected}")),
            }
        }
        Check::Contains(part) => {
            let holds = match (value, part) {
                (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
                (Value::Array(items), part) => items.contains(part),
                _ => false,
            };
            (holds, format!("{} in it", shown(part)))
        }
        Check::IsNull(true) => (value.is_null(), "null".to_owned()),
        Check::IsNull(false) => (!value.is_null(), "a value".to_owned()),
    };
    if holds { Ok(()) } else { Err(format!("expected {expected}, found {}", shown(value))) }
}

/// Whether two values are equal; numbers may differ by `tolerance`. A missing key is null.
fn equals(value: &Value, expected: &Value, tolerance: f64) -> bool {
    match (value, expected) {
        (Value::Number(a), Value::Number(b)) => {
            a == b
                || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if (a - b).abs() <= tolerance)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equals(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) => {
            let of = |object: &serde_json::Map<String, Value>, key: &String| {
                object.get(key).cloned().unwrap_or_default()
            };
            a.keys().chain(b.keys()).all(|key| equals(&of(a, key), &of(b, key), tolerance))
        }
        (a, b) => a == b,
    }
}

/// A value as JSON, shortened.
fn shown(value: &Value) -> String {
    const MAX_CHARS: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(column: &str, row: Option<usize>, check: Check, rows: &[Value]) -> Vec<String> {
        super::check(&Expectation { column: column.to_owned(), row, check }, rows)
    }

    #[test]
    fn a_column_that_is_not_there_is_told() {
        let expect = |column: &str| Expectation {
            column: column.to_owned(),
            row: None,
            check: Check::IsNull(true),
        };
        let columns = ["s".to_owned(), "a.b".to_owned()];
        assert_eq!(missing(&expect("s.label"), &columns), None);
        assert_eq!(missing(&expect("a.b"), &columns), None);
        let problem = missing(&expect("nonsense"), &columns).unwrap();
        assert_eq!(problem, "`nonsense`: there is no such column; columns are `s`, `a.b`");
    }

    #[test]
    fn expectations_hold_or_say_what_was_found() {
        let rows = [
            json!({"s": {"label": "A", "score": 0.5}, "e": [1.0, 2.0], "t": "naïve", "a.b": 1}),
            json!({"s": null, "e": [3.0], "t": "x"}),
        ];
        let equals = |value| Check::Equals(value, 1e-4);
        let none: [String; 0] = [];
        assert_eq!(
            problems("s", Some(0), equals(json!({"label": "A", "score": 0.50005})), &rows),
            none
        );
        assert_eq!(problems("s.label", Some(0), equals(json!("A")), &rows), none);
        assert_eq!(problems("e.1", Some(0), equals(json!(2)), &rows), none);
        assert_eq!(problems("a.b", Some(0), equals(json!(1)), &rows), none);
        assert_eq!(problems("t", Some(0), Check::Length(5), &rows), none);
        assert_eq!(problems("t", Some(0), Check::Contains(json!("ïv")), &rows), none);
        assert_eq!(problems("s", Some(1), Check::IsNull(true), &rows), none);
        assert_eq!(
            problems("e", None, Check::Length(2), &rows),
            ["`e`, row 1: expected length 2, found 1"]
        );
        assert_eq!(
            problems("s.score", None, equals(json!(0.6)), &rows),
            [
                "`s.score`, row 0: expected 0.6, found 0.5",
                "`s.score`, row 1: expected 0.6, found null"
            ]
        );
        assert_eq!(
            problems("s", Some(7), Check::IsNull(true), &rows),
            ["`s`: there is no row 7, the output has 2"]
        );
        assert_eq!(problems("s", None, Check::IsNull(true), &[]), ["`s`: the output has no rows"]);
    }
}
