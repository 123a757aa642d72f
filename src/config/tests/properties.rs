//! Properties: any text, any override, any value at any key.

use proptest::prelude::*;

use super::*;

/// Lines of valid and invalid pipelines.
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

/// The schema agrees with the types: a value of any kind at any key passes both or neither.
#[test]
fn the_check_and_the_types_agree() {
    use crate::config::raw::RawPipeline;
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
        if let Some(options) = step["properties"][task]["properties"].as_object() {
            keys.extend(options.keys().map(|key| format!("steps.0.{task}.{key}")));
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
                // Only the schema checks bounds of fractions and empty lists.
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
    "run.unit_rows",
    "run.incremental",
    "run.reuse",
    "run.openlineage",
    "run.openlineage.url",
    "run.openlineage.namespace",
    "run.openlineage.api_key",
    "run.on_failure",
    "run.on_failure.url",
    "run.on_success",
    "run.on_success.headers",
    "schedule",
    "schedule.cron",
    "schedule.timezone",
    "schedule.jitter",
    "schedule.catch_up",
    "tests",
    "tests.0",
    "unknown",
];
