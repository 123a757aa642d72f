//! Whole reports, resolution, and properties of reading a pipeline file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::pipeline::{
    Check, Compression, FeatureExtraction, FileFormat, Pooling, Precision, StepKind, TaskOptions,
    TaskStep,
};
use super::*;

const MINIMAL: &str = "version: 1\nsource: {path: in.parquet}\nsink: {path: out/}\n";

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
  = note: valid keys: path, format, csv, select, where, limit

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
  = note: valid values: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken, none

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
   = note: tasks: sql, feature-extraction, text-classification, zero-shot-classification, rerank, token-classification, question-answering, fill-mask, sparse-encoding, text-generation, loglikelihood, text2text-generation, summarization, translation, multiple-choice, next-sentence-prediction, image-classification, token-count

error: a step has one key, its task, but here `output` stands beside `sql`
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
 = note: valid keys: model, input, output, max_length, truncation, auto_class, allow_new_head, outputs, pooling, normalize, prompt, prompt_name, dimensions, precision

error: `steps[0].feature-extraction.precision`: unknown value `f64`
 |
 | --set steps.0.feature-extraction.precision=f64
 |                                            ^^^
 |
 = note: valid values: f32, f16, int8, binary"
    );
    let files: Vec<&str> = found.iter().map(Diagnostic::file).collect();
    assert_eq!(files[0], "--set steps.0.feature-extraction.poling=mean");

    let set = [("steps.0.feature-extraction.pooling", "cls"), ("source.limit", "5"), ("name", "x")];
    let pipeline = read_with(&step(""), &set).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.source.limit), ("x", Some(5)));
    assert_eq!(feature_extraction(&pipeline, 0).1.pooling, Some(Pooling::Cls));
    // An override stands in for a variable that is not set.
    let text = MINIMAL.replace("in.parquet", "'${INPUT:?}'");
    assert!(read_with(&text, &[("source.path", "x.csv")]).is_ok());
    assert!(read_with(&text, &[]).is_err());
}

/// The step `index`, which is `feature-extraction`.
fn feature_extraction(pipeline: &Pipeline, index: usize) -> (&TaskStep, &FeatureExtraction) {
    match &pipeline.steps[index].kind {
        StepKind::Task(step) => match &step.options {
            TaskOptions::FeatureExtraction(options) => (step, options),
            other => panic!("{other:?}"),
        },
        StepKind::Sql(query) => panic!("{query}"),
    }
}

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
  csv: {delimiter: ",", has_header: true}
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

#[test]
fn the_whole_format_is_typed() {
    let raw = parse_raw(WHOLE, Path::new("p.yaml"), &options(&[])).unwrap();
    assert_eq!(raw.models.unwrap()["minilm"].config.as_ref().unwrap()["output_attentions"], true);
    assert_eq!(raw.on_error.as_ref().unwrap().max_fraction, Some(0.01));
    assert_eq!(raw.schedule.unwrap().jitter.as_deref(), Some("60s"));
    assert_eq!(raw.tests.unwrap()[0].expect[0].length, Some(384));
    assert_eq!(raw.run.unwrap().incremental, Some(raw::RawIncremental::NewOrChanged));

    // YAML reads the word `null` as nothing.
    for (text, expected) in [("null", raw::RawRows::Null), ("skip", raw::RawRows::Skip)] {
        let text = format!("{MINIMAL}on_error: {{rows: {text}}}\n");
        let raw = parse_raw(&text, Path::new("p.yaml"), &options(&[])).unwrap();
        assert_eq!(raw.on_error.unwrap().rows, expected);
    }
}

#[test]
fn every_task_is_typed() {
    let all = "{model: a/b, output: o, max_length: 8, truncation: false, allow_new_head: false, ";
    for (task, rest) in [
        (
            "feature-extraction",
            "input: t, pooling: lasttoken, normalize: false, prompt_name: query, dimensions: 8, precision: binary",
        ),
        (
            "text-classification",
            "input: {text: a, text_pair: b}, top_k: all, function_to_apply: none",
        ),
        ("text-classification", "input: t, top_k: 3, function_to_apply: softmax"),
        (
            "zero-shot-classification",
            "input: t, candidate_labels: [a, b], hypothesis_template: 'It is {}.', multi_label: true",
        ),
        ("rerank", "input: {query: q, document: d}, activation: identity"),
        (
            "token-classification",
            "input: t, aggregation_strategy: first, ignore_labels: [], stride: 0",
        ),
        (
            "question-answering",
            "input: {question: q, context: c}, top_k: 2, doc_stride: 8, max_seq_len: 32, max_question_len: 8, max_answer_len: 4, handle_impossible_answer: true",
        ),
        ("fill-mask", "input: t, top_k: 5, targets: word, multiple_masks: false"),
        ("sparse-encoding", "input: t, pooling: sum, top_k: 64"),
        (
            "text-generation",
            "input: {messages: m}, max_new_tokens: 8, do_sample: true, temperature: 1, top_k: 50, top_p: 0.9, min_p: 0, repetition_penalty: 1.1, num_beams: 1, stop: [a], seed: 0, return_full_text: true, chat_template: x",
        ),
        ("loglikelihood", "input: {context: c, continuation: d}"),
        ("loglikelihood", "input: t, stride: 8"),
        ("text2text-generation", "input: t, prefix: 'a: ', num_beams: 4"),
        ("summarization", "input: t, max_new_tokens: 8"),
        ("translation", "input: t, src_lang: en, tgt_lang: de"),
        ("multiple-choice", "input: {prompt: p, choices: [a, b]}"),
        ("multiple-choice", "input: {prompt: p, choices: list}"),
        ("next-sentence-prediction", "input: {text: a, text_pair: b}"),
        ("image-classification", "input: i, top_k: all"),
        ("token-count", "input: t"),
    ] {
        let text = format!("{MINIMAL}steps: [{{{task}: {all}{rest}}}}}]\n");
        let read = parse_raw(&text, Path::new("p.yaml"), &options(&[]));
        assert!(read.is_ok(), "{task}\n{}", read.unwrap_err());
        let pipeline = good(&text);
        let StepKind::Task(step) = &pipeline.steps[0].kind else { panic!("{task}") };
        assert_eq!(step.options.task_id(), task);
        assert_eq!((step.max_length, step.truncation), (Some(8), Some(false)));
    }
}

#[test]
fn options_of_tasks_that_contradict_each_other_are_told() {
    let check = |step: &str, expected: &str| {
        let text = format!("{MINIMAL}steps: [{{{step}}}]\n");
        let found = report(&text);
        assert!(found.contains(expected), "{text}\n{found}");
    };
    let generate =
        |options: &str| format!("text-generation: {{model: a/b, input: t, output: o, {options}}}");
    check(&generate("do_sample: true, num_beams: 2"), "a beam search draws no tokens at random");
    check(&generate("do_sample: false, top_p: 0.5"), "`top_p` is for random tokens");
    check(&generate("min_new_tokens: 9, max_new_tokens: 8"), "`min_new_tokens: 9` is more than");
    check(&generate("temperature: 0"), "`temperature`");
    check(&generate("stop: ['']"), "a stop string is empty");
    check(&generate("chat_template: x"), "`chat_template` is for conversations");
    check(
        &generate("auto_class: AutoModelForMaskedLM"),
        "`text-generation` loads a model with `AutoModelForCausalLM`",
    );
    check(&generate("auto_class: AutoModelForCausalML"), "AutoModelForCausalLM");
    check(&generate("auto_class: AutoModelForT5"), "does not load a model with `AutoModelForT5`");
    check(&generate("outputs: [logits]"), "`text-generation` has no output `logits`");
    good(&format!("{MINIMAL}steps: [{{{}}}]\n", generate("auto_class: AutoModelWithLMHead")));
    check(
        "zero-shot-classification: {model: a/b, input: t, output: o, candidate_labels: ' , ', hypothesis_template: x}",
        "names no label",
    );
    check(
        "question-answering: {model: a/b, input: {question: q, context: c}, output: o, doc_stride: 9, max_seq_len: 9}",
        "`doc_stride: 9` is not less than a window",
    );
    check(
        "summarization: {model: a/b, input: t, output: o, src_lang: en, tgt_lang: de}",
        "`src_lang` is for `translation`",
    );
    check("translation: {model: a/b, input: t, output: o, src_lang: en}", "belong together");
    check(
        "token-classification: {model: a/b, input: t, output: o, stride: 2}",
        "`stride` joins spans of windows",
    );
    check("rerank: {model: a/b, input: {query: ' ', document: d}, output: o}", "`query` is empty");
}

#[test]
fn tests_of_a_pipeline_are_typed_and_checked() {
    let text = format!(
        "{MINIMAL}tests:\n  - name: a\n    rows: [{{t: x}}]\n    expect: [{{column: s.label, row: 0, equals: A, is_null: false}}]\n"
    );
    let tests = good(&text).tests;
    assert_eq!((tests[0].rows.len(), tests[0].expect.len()), (1, 2));
    assert!(matches!(&tests[0].expect[0].check, Check::Equals(value, _) if value == "A"));
    let found = report(&format!(
        "{MINIMAL}tests: [{{name: a, rows: [], expect: [{{column: c}}]}}, {{name: a, rows: [{{t: x}}], expect: []}}]\n"
    ));
    for expected in [
        "a test has no rows",
        "nothing is expected of `c`",
        "two tests are called `a`",
        "a test expects nothing",
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn schedules_are_checked_at_their_place() {
    let schedule = good(WHOLE).schedule.unwrap();
    assert_eq!(schedule.expression, "0 3 * * *");
    assert_eq!(schedule.timezone, chrono_tz::Europe::Berlin);
    assert_eq!((schedule.jitter.as_secs(), schedule.catch_up), (60, false));
    let schedule = good(&format!("{MINIMAL}schedule: {{cron: '@daily'}}\n")).schedule.unwrap();
    assert_eq!(schedule.timezone, chrono_tz::Tz::UTC);
    assert_eq!((schedule.jitter.as_secs(), schedule.catch_up), (0, true));
    assert_eq!(good(MINIMAL).schedule, None);

    let check = |line: &str, expected: &[&str]| {
        let found = report(&format!("{MINIMAL}{line}\n"));
        for expected in expected {
            assert!(found.contains(expected), "{line}\n{found}");
        }
    };
    check(
        "schedule: {cron: 0 25 * * *}",
        &[
            "error: `0 25 * * *` is no cron expression: the hour `25` is not valid\n --> /data/p.yaml:4:18",
            "hint: it takes 0 to 23;",
        ],
    );
    check(
        "schedule: {cron: 0 0 3 * * *}",
        &["expected five fields, found 6", "there are neither seconds nor years"],
    );
    check("schedule: {cron: ''}", &["expected five fields, found 0"]);
    check("schedule: {cron: '@dayly'}", &["did you mean `@daily`?", "valid names: @hourly"]);
    check("schedule: {cron: 0 0 30 2 *}", &["`0 0 30 2 *` is never due"]);
    check(
        "schedule: {cron: '@daily', timezone: Europe/Berln}",
        &[
            "the time zone `Europe/Berln` is not known\n --> /data/p.yaml:4:38",
            "did you mean `Europe/Berlin`?",
        ],
    );
    for name in ["Berlin", "europe/berlin"] {
        let line = format!("schedule: {{cron: '@daily', timezone: {name}}}");
        check(&line, &["did you mean `Europe/Berlin`?"]);
    }
    check(
        "schedule: {cron: '@daily', jitter: soon}",
        &[
            "`soon` is no duration\n --> /data/p.yaml:4:36",
            "hint: write a whole number with s, m or h: `60s`",
        ],
    );
    check("schedule: {cron: '@daily', jitter: 25h}", &["a jitter of `25h` is more than a day"]);
    check("schedule: {cron: '@daily', jitter: 60}", &["jitter"]);
    // All at once.
    let found = report(&format!("{MINIMAL}schedule: {{cron: x, timezone: y, jitter: z}}\n"));
    assert_eq!(found.matches("error: ").count(), 3, "{found}");
    // The value of a variable is not told.
    let text = format!(
        "{MINIMAL}schedule: {{cron: '${{SECRET}}', timezone: '${{SECRET}}', jitter: '${{SECRET}}'}}\n"
    );
    let found = report(&text);
    assert!(found.contains("`${SECRET}`") && !found.contains("hunter2"), "{found}");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    good(WHOLE);
    let check = |text: &str, expected: &str| {
        let found = report(text);
        assert!(found.starts_with(&format!("error: {expected}")), "{text}\n{found}");
    };
    let with = |line: &str| format!("{MINIMAL}{line}\n");
    check(
        &with("models: {m: {repo: a/b, dtype: bf16}}"),
        "computing in `bf16` is not available on a CPU in this version\n --> /data/p.yaml:4:32",
    );
    check(
        &with("models: {m: {repo: a/b, device: 'cuda:0'}}"),
        "the device `cuda:0` is not available in this version",
    );
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
    good(&with("models: {m: {repo: a/b, dtype: f32, device: cpu}}"));
    good(&with("models: {m: {repo: a/b, dtype: int8}}"));
}

#[test]
fn resolves_defaults_paths_and_aliases() {
    let pipeline = good(MINIMAL);
    assert_eq!(pipeline.name, "p");
    assert_eq!(pipeline.dir, PathBuf::from("/data"));
    assert_eq!(pipeline.source.paths, ["/data/in.parquet"]);
    assert_eq!(pipeline.source.location, "/data/p.yaml:2:1");
    assert_eq!((pipeline.source.csv.delimiter, pipeline.source.csv.has_header), (b',', true));
    assert_eq!(pipeline.sink.path, PathBuf::from("/data/out/"));
    assert_eq!((pipeline.sink.format, pipeline.sink.compression), (FileFormat::Parquet, None));
    assert_eq!(pipeline.sink.target_file_size_bytes, 256_000_000);
    assert_eq!(pipeline.run.max_batch_tokens, 1024);
    assert_eq!((pipeline.run.sort_window_rows, pipeline.run.workers), (65_536, None));
    assert!(pipeline.steps.is_empty());

    let pipeline = good(
        r#"
version: 1
models:
  a: {repo: ./models/a, revision: v1, config: {x: [1, {y: 2}]}}
  b: {repo: ~/b}
source:
  path: [./a.csv, /abs/b.csv, file:///c%20d.csv, ~/e/*.csv, s3://b/k/*.csv]
  format: csv
  csv: {delimiter: "\t", has_header: false}
  limit: 0
steps:
  - feature-extraction: {model: a, input: t, output: e, pooling: none, max_length: 16, truncation: false}
  - sql: SELECT * FROM input
  - feature-extraction: {model: gpt2, input: t, output: e, dimensions: 8, precision: int8}
sink: {path: "file:///out/x.csv.gz"}
run: {workers: 3}
"#,
    );
    assert_eq!(pipeline.models["a"].repo, "/data/models/a");
    assert_eq!(pipeline.models["a"].revision.as_deref(), Some("v1"));
    assert_eq!(pipeline.models["b"].repo, "/home/me/b");
    let paths = ["/data/a.csv", "/abs/b.csv", "/c d.csv", "/home/me/e/*.csv", "s3://b/k/*.csv"];
    assert_eq!(pipeline.source.paths, paths);
    assert_eq!((pipeline.source.csv.delimiter, pipeline.source.csv.has_header), (b'\t', false));
    assert_eq!((pipeline.source.limit, pipeline.run.workers), (Some(0), Some(3)));
    let (step, first) = feature_extraction(&pipeline, 0);
    assert_eq!((&step.model, step.model_name.as_str()), (&pipeline.models["a"], "a"));
    assert_eq!((first.pooling, step.max_length), (Some(Pooling::None), Some(16)));
    assert_eq!(step.truncation, Some(false));
    assert_eq!(pipeline.steps[1].location, "/data/p.yaml:13:5");
    let (step, third) = feature_extraction(&pipeline, 2);
    assert_eq!((step.model.repo.as_str(), third.dimensions), ("gpt2", Some(8)));
    assert_eq!((third.precision, step.truncation), (Precision::Int8, None));
    assert!(pipeline.sink.is_single_file());
    assert_eq!(pipeline.sink.format, FileFormat::Csv);
    assert_eq!(pipeline.sink.compression, Some(Compression::Gzip));
}

#[test]
fn a_directory_wins_over_a_hub_id_and_globs_start_from_a_literal_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("[1]");
    std::fs::create_dir_all(folder.join("org/m")).unwrap();
    let file = folder.join("p.yaml");
    let text = step("").replace("in.parquet", "'*.csv'");
    std::fs::write(&file, &text).unwrap();
    let pipeline = load(&file, &LoadOptions::default()).unwrap();
    let (step, _) = feature_extraction(&pipeline, 0);
    assert_eq!(Path::new(&step.model.repo), folder.join("org/m"));
    let glob = format!("{}/[[]1[]]/*.csv", root.path().display());
    assert_eq!(pipeline.source.paths, [glob]);

    let missing = load(&folder.join("q.yaml"), &LoadOptions::default()).unwrap_err();
    let shown = missing.to_string();
    assert!(shown.starts_with("error: cannot read the pipeline file: "), "{shown}");
    assert!(shown.contains("did you mean `") && shown.contains("p.yaml`?"), "{shown}");
    assert_eq!(crate::Error::from(missing).kind(), crate::ErrorKind::Config);
    std::fs::write(&file, b"version: 1\nname: \xff\n").unwrap();
    let shown = load(&file, &LoadOptions::default()).unwrap_err().to_string();
    assert!(shown.contains("the pipeline file is not UTF-8 text: line 2"), "{shown}");
}

/// One wrong thing each: the text, the message, the line and column.
#[test]
fn every_wrong_meaning_has_its_place() {
    let wrong = std::cell::RefCell::new(String::new());
    let check = |text: &str, line: usize, column: usize, message: &str| {
        let report = read_with(text, &[]).expect_err(text);
        let found: Vec<(usize, usize, &str)> =
            report.iter().map(|found| (found.line(), found.column(), found.message())).collect();
        if found != [(line, column, message)] {
            wrong.borrow_mut().push_str(&format!("\n{:?}\n{report}\n", (line, column, message)));
        }
    };
    let source = |rest: &str| format!("version: 1\nsource: {{{rest}}}\nsink: {{path: out/}}\n");
    check(&source("path: ''"), 2, 16, "`path` is empty");
    check(&source("path: []"), 2, 16, "`source.path` is empty");
    check(&source("path: [a, '']"), 2, 20, "`path` is empty");
    check(&source("path: hdfs://b/a.parquet"), 2, 16, "the scheme `hdfs://` is not known");
    check(&source("path: ftp://b/a"), 2, 16, "the scheme `ftp://` is not known");
    check(&source("path: file://a"), 2, 16, "`file://a` is not the URL of a local file");
    check(
        &source("path: ~you/a"),
        2,
        16,
        "`~you/a`: the home folders of other users are not supported",
    );
    check(&source("path: a, select: []"), 2, 27, "`select` names no column");
    check(&source("path: a, select: [x, x]"), 2, 31, "the column `x` is in `select` twice");
    check(&source("path: a, where: ' '"), 2, 26, "`where` is empty");
    check(&source("path: a, limit: -1"), 2, 26, "`source.limit`: expected at least 0, found `-1`");
    check(
        &source("path: a, limit: 1.5"),
        2,
        26,
        "`source.limit`: expected an integer, found a number with a fraction",
    );
    check(
        &source("path: a, csv: {delimiter: '||'}"),
        2,
        36,
        "`delimiter`: expected one byte, such as `,`, found `||`",
    );
    check(
        &source("path: a, csv: {delimiter: 'é'}"),
        2,
        36,
        "`delimiter`: expected one byte, such as `,`, found `é`",
    );
    check(&source("path: a, format: json"), 2, 27, "`source.format`: unknown value `json`");
    check(
        &source("path: {a: b}"),
        2,
        16,
        "`source.path`: expected a string or a list, found a mapping",
    );
    check(&source("path: out/"), 3, 14, "the sink would overwrite the source");

    let sink = |rest: &str| format!("version: 1\nsource: {{path: in}}\nsink: {{{rest}}}\n");
    check(&sink("path: ''"), 3, 14, "`path` is empty");
    check(&sink("path: https://b/"), 3, 14, "`https://b/`: nothing is written over HTTP");
    check(
        &sink("path: o.csv, format: parquet"),
        3,
        29,
        "the format is parquet, but the path ends as that of a csv file",
    );
    check(&sink("path: o.json"), 3, 14, "the path ends as that of a file in another format");
    check(
        &sink("path: o.arrow, compression: gzip"),
        3,
        36,
        "arrow files have no `gzip` compression",
    );
    check(
        &sink("path: o, format: csv, compression: snappy"),
        3,
        43,
        "csv files have no `snappy` compression",
    );
    check(
        &sink("path: o, format: jsonl, compression: lz4"),
        3,
        45,
        "jsonl files have no `lz4` compression",
    );
    check(
        &sink("path: o.csv.gz, compression: zstd"),
        3,
        37,
        "the compression is not that of the path's extension",
    );
    check(
        &sink("path: o.csv, partition_by: [a]"),
        3,
        21,
        "`partition_by` needs a folder, but the path is that of one file",
    );
    check(
        &sink("path: o.csv, target_file_size: 1MB"),
        3,
        21,
        "`target_file_size` needs a folder, but the path is that of one file",
    );
    check(
        &sink("path: o, partition_by: [a, a]"),
        3,
        35,
        "the column `a` is in `partition_by` twice",
    );
    check(
        &sink("path: o, target_file_size: big"),
        3,
        35,
        "`target_file_size`: `big` is not a size",
    );
    check(
        &sink("path: o, target_file_size: 0"),
        3,
        35,
        "`sink.target_file_size`: expected at least 1, found `0`",
    );

    let with = |line: &str| format!("{MINIMAL}{line}\n");
    check(
        &with("run: {max_batch_tokens: 0}"),
        4,
        25,
        "`run.max_batch_tokens`: expected at least 1, found `0`",
    );
    check(&with("run: {workers: none}"), 4, 16, "`run.workers`: unknown value `none`");
    check(&with("run: {workers: 0}"), 4, 16, "`run.workers`: expected at least 1, found `0`");
    check(&with("name: ''"), 4, 7, "`name` is empty");
    check(&with("models: {a/b: {repo: x}}"), 4, 10, "`a/b` cannot be an alias");
    check(&with("models: {a: {repo: a/b/c}}"), 4, 20, "`a/b/c` is not the name of a model");
    check(&with("models: {a: {repo: x, device: gpu}}"), 4, 31, "`device`: unknown value `gpu`");
    check(
        &with("models: {a: {repo: 'https://huggingface.co/a/b'}}"),
        4,
        20,
        "expected the id of a model, found its address",
    );
    check(&with("models: {a: {}}"), 4, 10, "missing key `repo` in `models.a`");
    check(
        &with("steps: [sql]"),
        4,
        9,
        "`steps[0]`: expected a mapping with one key, the task; found a string",
    );
    check(&with("steps: [{sql: ''}]"), 4, 15, "`sql` is empty");
    check(
        &with("- x"),
        4,
        3,
        "not valid YAML: while parsing a block mapping, did not find expected key",
    );
    check("version: 2\nstuff: 1\n", 1, 10, "the version `2` of the file format is not known");
    check("", 0, 0, "the pipeline file is empty");
    check("- a\n", 1, 1, "`the pipeline`: expected a mapping, found a list");

    let model = |name: &str| {
        with(&format!(
            "models: {{minilm: {{repo: a/b}}}}\nsteps: [{{feature-extraction: {{model: {name}, input: t, output: e}}}}]"
        ))
    };
    check(&model("minilmm"), 5, 38, "`minilmm` is not an alias of `models`");
    good(&model("bert-base-uncased"));
    good(&model("org/minilmm"));
    check(&model("''"), 5, 38, "`model` is empty");

    let columns = |steps: &str| {
        format!(
            "version: 1\nsource: {{path: in, select: [id, text]}}\nsteps: [{steps}]\nsink: {{path: out/}}\n"
        )
    };
    let task = |input: &str, output: &str| {
        format!("{{feature-extraction: {{model: m, input: {input}, output: {output}}}}}")
    };
    check(&columns(&task("txt", "e")), 3, 48, "there is no column `txt` here");
    check(&columns(&task("text", "id")), 3, 62, "there is a column `id` already");
    let twice = format!("{}, {}", task("text", "e"), task("text", "e"));
    check(&columns(&twice), 3, 120, "there is a column `e` already");
    let apart =
        format!("{}, {{sql: SELECT text FROM input}}, {}", task("text", "e"), task("any", "e"));
    good(&columns(&apart));
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow());
}

#[test]
fn options_that_contradict_each_other() {
    let check = |options: &str, expected: &[&str]| {
        let report = read_with(&step(options), &[]).expect_err(options);
        let found: Vec<&str> = report.iter().map(Diagnostic::message).collect();
        assert_eq!(found, expected, "{report}");
    };
    let shapes = |key: &str| format!("`{key}` shapes the embedding, but `outputs` replaces it");
    check(
        "      prompt: a\n      prompt_name: b\n",
        &["`prompt` and `prompt_name` exclude each other"],
    );
    check(
        "      outputs: [last_hidden_state]\n      pooling: mean\n      normalize: true\n      \
         dimensions: 8\n      precision: f16\n",
        &[&shapes("pooling"), &shapes("normalize"), &shapes("dimensions"), &shapes("precision")],
    );
    check("      outputs: []\n", &["`outputs` names no output"]);
    check("      outputs: [attentions, attentions]\n", &["an output is named twice"]);
    let one = |key: &str| format!("`{key}` needs one vector a row, but `pooling: none` keeps all");
    check("      pooling: none\n      dimensions: 8\n", &[&one("dimensions")]);
    check("      pooling: none\n      precision: binary\n", &[&one("precision")]);
    good(&step("      pooling: none\n      precision: f16\n"));
    good(&step("      outputs: [pooler_output]\n      normalize: false\n      precision: f32\n"));
    expect_report(
        &step("      prompt: a\n      prompt_name: b\n"),
        "
error: `prompt` and `prompt_name` exclude each other
 --> /data/p.yaml:9:7
  |
8 |       prompt: a
  |       ------ the other
9 |       prompt_name: b
  |       ^^^^^^^^^^^
  |
  = hint: keep one of them
",
    );
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
    assert!(meaning.contains("the scheme `hdfs://` is not known"), "{meaning}");
    assert!(meaning.contains("there is no column `${POOL}` here"), "{meaning}");
    for report in [shape, meaning] {
        assert!(!report.contains("hunter2") && !report.contains("meen"), "{report}");
    }
}

/// Lines that make up pipelines, right and wrong.
fn pieces() -> impl Strategy<Value = String> {
    let lines = prop::sample::select(vec![
        "version: 1",
        "version: x",
        "source:",
        "source: {path: a}",
        "  path: a",
        "  path: [a, b]",
        "  limit: 3",
        "  limit: ${N}",
        "  select: [a]",
        "sink: {path: out/}",
        "sink:",
        "  format: csv",
        "  compression: gzip",
        "  target_file_size: 1.5GB",
        "steps:",
        "  - sql: SELECT 1",
        "  - feature-extraction: {model: m, input: a, output: e}",
        "  - rerank:",
        "      model: m",
        "      input: {query: a, document: b}",
        "      output: e",
        "      input: a",
        "models: {m: {repo: a/b}}",
        "on_error: {rows: null}",
        "on_error: {rows: skip, max_fraction: 0.5}",
        "run: {workers: auto}",
        "run: {workers: 2, max_batch_tokens: 1}",
        "  - token-count: {model: m, input: t, output: o}",
        "  - text-classification: {model: m, input: {text: a, text_pair: b}, output: o, top_k: all}",
        "schedule: {cron: x}",
        "schedule: {cron: 0 3 * * *, timezone: UTC, jitter: 5m}",
        "tests: [{name: a, rows: [{a: 1}], expect: [{column: a}]}]",
        "&x",
        "*x",
        "  <<: *x",
        "? a",
        "|",
        "'",
        "\"",
        "\t",
        "---",
        "${",
        "a: ${SECRET}",
        "%YAML 1.2",
        "!!str",
    ]);
    prop::collection::vec(lines, 0..14).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_pipeline_or_a_report(text in prop_oneof![any::<String>(), pieces()]) {
        match read_with(&text, &[("name", "x")]) {
            Ok(pipeline) => prop_assert!(!pipeline.source.paths.is_empty()),
            Err(report) => {
                let shown = report.to_string();
                prop_assert!(shown.starts_with("error: "));
                prop_assert!(!shown.contains("behind it"), "{}\n{}", text, shown);
                prop_assert!(!shown.contains("hunter2"));
            }
        }
    }

    #[test]
    fn any_override_gives_a_pipeline_or_a_report(key in "[a-z0-9.\\[\\]-]{0,20}|source(\\.path|\\.limit)?(\\.[0-9])?", value in any::<String>()) {
        if let Err(report) = read_with(MINIMAL, &[(&key, &value)]) {
            prop_assert!(report.to_string().starts_with("error: "));
        }
    }
}

/// The schema says what the types take: a value of every kind at every key passes both or neither.
#[test]
fn the_check_and_the_types_agree() {
    use super::raw::RawPipeline;
    let values = [
        "null",
        "true",
        "0",
        "1",
        "-1",
        "1.5",
        "1e30",
        "18446744073709551615",
        "99999999999999999999",
        "text",
        "all",
        "auto",
        "[]",
        "[a]",
        "[1]",
        "[null]",
        "{}",
        "{a: 1}",
        "{text: a, text_pair: b}",
        "f32",
        "mean",
        "[{}]",
        "none",
        "parquet",
        "256MB",
    ];
    let mut keys: Vec<String> = WHOLE_KEYS.iter().map(|key| (*key).to_owned()).collect();
    let schema = schema();
    for step in schema["$defs"]["RawStep"]["oneOf"].as_array().unwrap() {
        let task = step["required"][0].as_str().unwrap();
        keys.push(format!("steps.0.{task}"));
        if let Some(name) = step["properties"][task]["$ref"].as_str() {
            let options = schema.pointer(&format!("{}/properties", &name[1..])).unwrap();
            keys.extend(
                options.as_object().unwrap().keys().map(|key| format!("steps.0.{task}.{key}")),
            );
        }
    }
    let (mut accepted, mut refused) = (0, 0);
    for key in &keys {
        for value in values {
            let task = key.split('.').nth(2).filter(|_| key.starts_with("steps.0."));
            let text = match task {
                Some("sql") | None => {
                    format!("{MINIMAL}models: {{m: {{repo: a}}}}\nsteps: [{{sql: x}}]\n")
                }
                Some(task) => {
                    format!("{MINIMAL}steps: [{{{task}: {{model: m, input: i, output: o}}}}]\n")
                }
            };
            let mut report = Diagnostics::new("p.yaml", text.as_str());
            let mut root = node::parse(&text, 0, 0, &mut report).unwrap();
            overrides::apply(&mut root, &[(key.clone(), value.to_owned())], &mut report);
            check::check(&SCHEMA, &root, &mut report);
            let typed = RawPipeline::deserialize(root.to_json());
            if report.is_empty() {
                accepted += 1;
                assert!(typed.is_ok(), "{key}={value}: {typed:?}");
            } else {
                refused += 1;
                // Bounds of fractions, and lists that may not be empty, are the schema's alone.
                let bound = report.iter().all(|problem| {
                    problem.message().contains("expected at")
                        || problem.message().ends_with(" is empty")
                });
                assert!(typed.is_err() || bound, "{key}={value}\n{report}");
            }
        }
    }
    assert!(accepted > 500 && refused > 2000, "{accepted} {refused}");
}

const WHOLE_KEYS: &[&str] = &[
    "version",
    "name",
    "models",
    "models.m",
    "models.m.repo",
    "models.m.revision",
    "models.m.dtype",
    "models.m.device",
    "models.m.config",
    "source",
    "source.path",
    "source.format",
    "source.csv",
    "source.csv.delimiter",
    "source.csv.has_header",
    "source.select",
    "source.where",
    "source.limit",
    "steps",
    "steps.0",
    "on_error",
    "on_error.rows",
    "on_error.column",
    "on_error.dead_letter",
    "on_error.max_fraction",
    "sink",
    "sink.path",
    "sink.format",
    "sink.compression",
    "sink.partition_by",
    "sink.target_file_size",
    "run",
    "run.max_batch_tokens",
    "run.sort_window_rows",
    "run.workers",
    "run.incremental",
    "schedule",
    "schedule.cron",
    "schedule.timezone",
    "schedule.jitter",
    "schedule.catch_up",
    "tests",
    "tests.0",
    "unknown",
];
