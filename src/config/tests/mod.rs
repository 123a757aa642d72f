//! Whole reports, resolution, and properties of reading a pipeline file.

mod meanings;
mod properties;
mod reports;
mod typed;

use std::path::Path;
use std::sync::Arc;

use super::pipeline::{StepKind, TaskStep};
use super::*;
use crate::tasks::FeatureExtraction;

const MINIMAL: &str = "version: 1\nsource: {path: in.parquet}\nsink: {path: out/}\n";

/// The example of the format's documentation: every key that version 1 has.
const WHOLE: &str = r#"
# yaml-language-server: $schema=./schema.json
version: 1
name: reviews
models:
  minilm:
    repo: sentence-transformers/all-MiniLM-L6-v2
    revision: main
    dtype: auto
    device: auto
    config: {output_attentions: true}
source:
  path: data/reviews/*.parquet
  format: parquet
  csv: {delimiter: ",", has_header: true, quote: "'", escape: "\\", comment: '#', null_values: [NA], encoding: latin1}
  types: {id: int64}
  schema: union
  max_line_size: 64MB
  max_columns: 100
  select: [id, text]
  where: lang = 'en'
  limit: 1000
steps:
  - feature-extraction:
      model: minilm
      input: text
      output: embedding
      pooling: mean
      normalize: true
  - text-classification: {model: distilbert/distilbert-base-uncased-finetuned-sst-2-english, input: text, output: sentiment}
  - sql: SELECT id, embedding, sentiment.label AS label FROM input WHERE sentiment.score > 0.5
on_error: {rows: fail, column: _error, dead_letter: out/_errors, max_fraction: 0.01}
sink:
  path: out/reviews/
  format: parquet
  compression: zstd
  partition_by: []
  target_file_size: 256MB
run: {max_batch_tokens: 16384, sort_window_rows: 65536, workers: auto, incremental: new_or_changed}
schedule: {cron: "0 3 * * *", timezone: Europe/Berlin, jitter: 60s, catch_up: false}
tests:
  - {name: smoke, rows: [{id: 1, text: hello}], expect: [{column: embedding, length: 384}]}
"#;

fn options(set: &[(&str, &str)]) -> LoadOptions {
    let variables = |name: &str| match name {
        "HOME" => Some("/home/me".to_owned()),
        "N" => Some("10".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        "POOL" => Some("meen".to_owned()),
        _ => None,
    };
    LoadOptions {
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        variables: Arc::new(variables),
    }
}

fn read_with(text: &str, set: &[(&str, &str)]) -> Result<Pipeline, Diagnostics> {
    parse(text, Path::new("/data/p.yaml"), &options(set))
}

fn good(text: &str) -> Pipeline {
    read_with(text, &[]).unwrap_or_else(|report| panic!("{text}\n{report}"))
}

fn report(text: &str) -> String {
    match read_with(text, &[]) {
        Ok(pipeline) => panic!("expected problems, found {pipeline:?}"),
        Err(report) => report.to_string(),
    }
}

/// A pipeline with one embedding step with these lines of options.
fn step(options: &str) -> String {
    format!(
        "version: 1\nsource: {{path: in.parquet}}\nsteps:\n  - feature-extraction:\n      \
         model: org/m\n      input: text\n      output: e\n{options}sink: {{path: out/}}\n"
    )
}

#[track_caller]
fn expect_report(text: &str, expected: &str) {
    let found = report(text);
    assert_eq!(found, expected.trim_matches('\n'), "\n--- found:\n{found}\n");
}

/// The step `index`, which is `feature-extraction`.
fn feature_extraction(pipeline: &Pipeline, index: usize) -> (&TaskStep, &FeatureExtraction) {
    match &pipeline.steps[index].kind {
        StepKind::Task(step) => (step, step.options().unwrap()),
        StepKind::Sql(query) => panic!("{query}"),
    }
}
