//! Valid pipelines, resolved.

use std::num::NonZeroU64;
use std::path::PathBuf;

use super::*;
use crate::config::pipeline::{AddressSpec, Check, Compression, FileFormat, NoticesSpec, StepKind};
use crate::tasks::{Pooling, Precision};

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
        ("text-generation", "input: t, prompt: 'Say {{ t }}', system: 'In {{ lang }}.'"),
    ] {
        let text = format!("{MINIMAL}steps: [{{{task}: {all}{rest}}}}}]\n");
        let read = parse_raw(&text, Path::new("p.yaml"), &options(&[]));
        assert!(read.is_ok(), "{task}\n{}", read.unwrap_err());
        let pipeline = good(&text);
        let StepKind::Task(step) = &pipeline.steps[0].kind else { panic!("{task}") };
        assert_eq!(step.task.id, task);
        assert_eq!((step.max_length, step.truncation), (Some(8), Some(false)));
    }
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
        "two tests are named `a`",
        "a test expects nothing",
    ] {
        assert!(found.contains(expected), "{found}");
    }
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
    assert_eq!(pipeline.run.max_batch_tokens, None);
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
    assert_eq!((step.model.repo.as_str(), third.dimensions), ("gpt2", NonZeroU64::new(8)));
    assert_eq!((third.precision, step.truncation), (Some(Precision::Int8), None));
    assert!(pipeline.sink.is_single_file());
    assert_eq!(pipeline.sink.format, FileFormat::Csv);
    assert_eq!(pipeline.sink.compression, Some(Compression::Gzip));
}

/// All parts of the program agree on whether a path is a file or a folder.
#[test]
fn a_sink_is_a_file_by_its_name_and_format() {
    let sink =
        |rest: &str| good(&format!("version: 1\nsource: {{path: in}}\nsink: {{{rest}}}\n")).sink;
    let arrow = sink("path: out.ipc, format: arrow");
    assert!(arrow.is_single_file());
    assert_eq!(sink("path: out.feather").format, FileFormat::Arrow);
    assert_eq!(sink("path: out.pq").format, FileFormat::Parquet);
    assert!(sink("path: out.json, format: jsonl").is_single_file());
    for folder in ["path: out.ipc/, format: arrow", "path: out.json/, format: jsonl", "path: v1.2"]
    {
        assert!(!sink(folder).is_single_file(), "{folder}");
    }
    let failing = "version: 1\nsource: {path: in}\non_error: {rows: 'null'}\nsink: {path: out.ipc, format: arrow}\n";
    assert_eq!(good(failing).on_error.dead_letter, Path::new("/data/out_errors"));
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
    assert!(shown.contains("the pipeline file is not UTF-8: line 2"), "{shown}");
}

#[test]
fn events_and_reports_have_addresses() {
    let notices = |run: &str| good(&format!("{MINIMAL}run: {{{run}}}\n")).notices;
    assert_eq!(notices("workers: 1"), NoticesSpec::default());
    let collector = |openlineage: &str| {
        let spec = notices(&format!("openlineage: {{{openlineage}}}")).openlineage.unwrap();
        let AddressSpec { url, headers, shown } = spec.address;
        (url.to_string(), headers, shown, spec.namespace)
    };
    let of = |url: &str, shown: &str| {
        (url.to_owned(), Vec::new(), shown.to_owned(), "default".to_owned())
    };
    for url in ["http://m:5000", "http://m:5000/", "HTTP://M:5000"] {
        let expected = of("http://m:5000/api/v1/lineage", "http://m:5000");
        assert_eq!(collector(&format!("url: '{url}'")), expected);
    }
    let path = "https://m/openlineage/events?x=1";
    assert_eq!(collector(&format!("url: '{path}'")), of(path, "https://m"));
    let hidden = of("https://hunter2/api/v1/lineage", "https://${SECRET}");
    assert_eq!(collector("url: 'https://${SECRET}'"), hidden);
    let (_, headers, _, namespace) =
        collector("url: 'https://m', namespace: '${N}', api_key: ' ${SECRET} '");
    let token = ("Authorization".to_owned(), "Bearer hunter2".to_owned());
    assert_eq!((headers, namespace.as_str()), (vec![token], "10"));

    let hook = |run: &str| {
        let AddressSpec { url, headers, shown } = notices(run).on_failure.unwrap();
        (url.to_string(), headers, shown)
    };
    let (url, shown) = ("https://u:pw@h/x".to_owned(), "https://h".to_owned());
    assert_eq!(hook("on_failure: 'https://u:pw@h/x'"), (url.clone(), Vec::new(), shown.clone()));
    let headers = vec![("X-Team".to_owned(), "a b".to_owned())];
    let written = "on_failure: {url: 'https://u:pw@h/x', headers: {X-Team: ' a b '}}";
    assert_eq!(hook(written), (url, headers, shown));
    let debug = format!("{:?}", notices(written));
    assert!(!debug.contains("pw") && !debug.contains("a b"), "{debug}");
}
