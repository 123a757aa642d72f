//! Whole reports: positions, choices, nearest names, and secrets.

use super::*;
use crate::config::pipeline::{DeviceSpec, Dtype};
use crate::nn::PoolingMode;
use crate::tasks::Pooling;

#[test]
fn every_problem_is_shown_with_place_choices_and_nearest_name() {
    let text = "\
version: 1
source:
  path: [in.parquet, 3]
  limitt: 10
steps:
  - feature-extraction:
      model: org/m
      input: text
      pooling: maen
      normalize: yes
  - feature-extractoin: {model: org/m, input: text, output: e}
  - sql: SELECT 1
    output: x
sink:
  path: out/
  compression: zst
  path: out2/
";
    expect_report(
        text,
        r"
error: `source.path[1]`: expected a string, found an integer
 --> /data/p.yaml:3:22
  |
3 |   path: [in.parquet, 3]
  |                      ^
  |
  = hint: quote the value to make it a string

error: unknown key `limitt` in `source`
 --> /data/p.yaml:4:3
  |
4 |   limitt: 10
  |   ^^^^^^
  |
  = help: did you mean `limit`?
  = note: valid keys: path, format, version, csv, types, schema, max_line_size, max_columns, select, where, limit

error: missing key `output` in `steps[0].feature-extraction`
 --> /data/p.yaml:6:5
  |
6 |   - feature-extraction:
  |     ^^^^^^^^^^^^^^^^^^

error: `steps[0].feature-extraction.pooling`: unknown value `maen`
 --> /data/p.yaml:9:16
  |
9 |       pooling: maen
  |                ^^^^
  |
  = help: did you mean `mean`?
  = note: valid values: cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken, none

error: `steps[0].feature-extraction.normalize`: expected true or false, found a string
  --> /data/p.yaml:10:18
   |
10 |       normalize: yes
   |                  ^^^
   |
   = hint: write `true` or `false`, without quotes

error: unknown task `feature-extractoin` in `steps[1]`
  --> /data/p.yaml:11:5
   |
11 |   - feature-extractoin: {model: org/m, input: text, output: e}
   |     ^^^^^^^^^^^^^^^^^^
   |
   = help: did you mean `feature-extraction`?
   = note: tasks: sql, feature-extraction, text-classification, zero-shot-classification, rerank, token-classification, question-answering, fill-mask, sparse-encoding, text-generation, loglikelihood, text2text-generation, summarization, translation, multiple-choice, next-sentence-prediction, image-classification, zero-shot-image-classification, image-feature-extraction, token-count, chunk, sentiment-analysis, ner

error: a step has one key, its task, but this one has `output` in addition to `sql`
  --> /data/p.yaml:13:5
   |
12 |   - sql: SELECT 1
   |     --- the task
13 |     output: x
   |     ^^^^^^
   |
   = hint: indent `output` below `sql`

error: `sink.compression`: unknown value `zst`
  --> /data/p.yaml:16:16
   |
16 |   compression: zst
   |                ^^^
   |
   = help: did you mean `zstd`?
   = note: valid values: zstd, snappy, gzip, lz4, none

error: duplicate key `path`
  --> /data/p.yaml:17:3
   |
15 |   path: out/
   |   ---- first written here
16 |   compression: zst
17 |   path: out2/
   |   ^^^^
",
    );
}

#[test]
fn overrides_are_checked_like_the_file() {
    let set = [
        ("steps.0.feature-extraction.poling", "mean"),
        ("steps.0.feature-extraction.precision", "f64"),
        ("source.limit", "10"),
    ];
    let found = read_with(&step(""), &set).unwrap_err();
    assert_eq!(
        found.to_string(),
        "\
error: unknown key `poling` in `steps[0].feature-extraction`
 |
 | --set steps.0.feature-extraction.poling=mean
 |                                  ^^^^^^
 |
 = help: did you mean `pooling`?
 = note: valid keys: model, input, output, max_length, truncation, auto_class, allow_new_head, outputs, pooling, normalize, prompt, prompt_name, task, dimensions, precision

error: `steps[0].feature-extraction.precision`: unknown value `f64`
 |
 | --set steps.0.feature-extraction.precision=f64
 |                                            ^^^
 |
 = note: valid values: f32, f16, int8, uint8, binary, ubinary"
    );
    let files: Vec<&str> = found.iter().map(Diagnostic::file).collect();
    assert_eq!(files[0], "--set steps.0.feature-extraction.poling=mean");

    let set = [("steps.0.feature-extraction.pooling", "cls"), ("source.limit", "5"), ("name", "x")];
    let pipeline = read_with(&step(""), &set).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.source.limit), ("x", Some(5)));
    assert_eq!(feature_extraction(&pipeline, 0).1.pooling, Some(Pooling::Mode(PoolingMode::Cls)));
    // An override replaces a variable that is not set.
    let text = MINIMAL.replace("in.parquet", "'${INPUT:?}'");
    assert!(read_with(&text, &[("source.path", "x.csv")]).is_ok());
    assert!(read_with(&text, &[]).is_err());
}

#[test]
fn what_a_step_does_not_have_is_refused_by_name() {
    good(WHOLE);
    let check = |text: &str, expected: &str| {
        let found = report(text);
        assert!(found.starts_with(&format!("error: {expected}")), "{text}\n{found}");
    };
    let with = |line: &str| format!("{MINIMAL}{line}\n");
    check(&step("      allow_new_head: true\n"), "`feature-extraction` needs no head");
    check(&step("      outputs: [logits]\n"), "`feature-extraction` has no output `logits`");
    good(&step("      auto_class: AutoModel\n"));
    good(&step("      allow_new_head: false\n"));
    good(&with("on_error: {rows: fail}"));
    good(&with("on_error: {}"));
    good(&with("on_error: {rows: null, column: e, max_fraction: 0.5}"));
    good(&with("on_error: {rows: skip, dead_letter: out/e}"));
    good(&with("on_error: {column: e, dead_letter: e, max_fraction: 0.1}"));
    good(&with("run: {incremental: null}"));
    good(&with("run: {incremental: new_or_changed}"));
    for (dtype, expected) in [
        ("auto", Dtype::Auto),
        ("f32", Dtype::F32),
        ("f16", Dtype::F16),
        ("bf16", Dtype::Bf16),
        ("int8", Dtype::Int8),
    ] {
        let pipeline = good(&with(&format!("models: {{m: {{repo: a/b, dtype: {dtype}}}}}")));
        assert_eq!(pipeline.models["m"].dtype, expected);
    }
    for (device, expected) in [
        ("auto", DeviceSpec::Auto),
        ("cpu", DeviceSpec::Cpu),
        ("cuda", DeviceSpec::Cuda(0)),
        ("cuda:1", DeviceSpec::Cuda(1)),
    ] {
        let pipeline = good(&with(&format!("models: {{m: {{repo: a/b, device: '{device}'}}}}")));
        assert_eq!(pipeline.models["m"].device, expected);
    }
}

#[test]
fn values_of_variables_are_never_shown() {
    let text = "\
version: 1
models: {m: {repo: '${SECRET}/a/b', device: '${SECRET}', dtype: '${SECRET}'}}
source:
  path: hdfs://${SECRET}/x
  select: ['${SECRET}', '${SECRET}']
  limit: ${SECRET}
  csv: {delimiter: '${SECRET}'}
steps:
  - feature-extraction:
      model: ${SECRET}/a/b
      input: ${POOL}
      output: e
      pooling: ${POOL}
sink:
  path: ${SECRET}
  target_file_size: ${SECRET}
  compression: ${SECRET}
";
    let shape = report(text);
    assert!(shape.contains("unknown value `${POOL}`"), "{shape}");
    assert!(!shape.contains("did you mean"), "{shape}");
    let meaning = text
        .replace("      pooling: ${POOL}\n", "")
        .replace("  compression: ${SECRET}\n", "")
        .replace(", dtype: '${SECRET}'", "")
        .replace("limit: ${SECRET}", "limit: ${N}");
    let meaning = report(&meaning);
    assert!(meaning.contains("`target_file_size`: `${SECRET}` is not a size"), "{meaning}");
    assert!(meaning.contains("unknown scheme `hdfs://`"), "{meaning}");
    assert!(meaning.contains("there is no column `${POOL}` here"), "{meaning}");
    for report in [shape, meaning] {
        assert!(!report.contains("hunter2") && !report.contains("meen"), "{report}");
    }
}
