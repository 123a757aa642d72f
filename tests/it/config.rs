//! The pipeline file for users and editors: the committed JSON Schema, and loading from disk.

use std::path::Path;
use std::sync::Arc;

use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::{Error, ErrorKind};

#[test]
fn the_committed_schema_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/schema.json");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let fresh = serde_json::to_string_pretty(&config::schema()).unwrap() + "\n";
    if committed != fresh {
        let line = committed.lines().zip(fresh.lines()).position(|(old, new)| old != new);
        panic!(
            "pipelines/schema.json is stale (first difference at line {:?}); refresh it with \
             `hfauto-pipe schema > pipelines/schema.json`",
            line.map(|line| line + 1)
        );
    }
}

#[test]
fn every_key_of_the_schema_is_described() {
    fn visit(at: &serde_json::Value, path: &str) {
        for (name, property) in at["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            let described = property["description"].is_string() || property["$ref"].is_string();
            assert!(described, "{path} has no description");
        }
        for (name, definition) in at["$defs"].as_object().into_iter().flatten() {
            visit(definition, name);
        }
    }
    visit(&config::schema(), "");
}

#[test]
fn a_file_on_disk_becomes_a_pipeline_or_a_report_with_exit_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("embed.yaml");
    let variables = |name: &str| (name == "OUT").then(|| "out".to_owned());
    let options = LoadOptions { set: Vec::new(), variables: Arc::new(variables) };

    std::fs::write(&path, "version: 1\nsource: {path: a.csv}\nsink: {path: '${OUT}/'}\n").unwrap();
    let pipeline = config::load(&path, &options).unwrap();
    assert_eq!(pipeline.name, "embed");
    assert_eq!(pipeline.sink.path, folder.path().join("out/"));

    std::fs::write(&path, "version: 1\nsource: {pth: a.csv}\nsink: {path: '${IN}/'}\n").unwrap();
    let report = config::load(&path, &options).unwrap_err();
    let places: Vec<(usize, usize)> =
        report.iter().map(|problem| (problem.line(), problem.column())).collect();
    assert_eq!(places, [(2, 1), (2, 10), (3, 14)], "{report}");
    let shown = report.to_string();
    assert!(shown.contains(&format!("{}:2:10", path.display())), "{shown}");
    let error = Error::from(report);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.kind().exit_code(), 78);
}
