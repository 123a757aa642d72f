//! Every pipeline in `pipelines/` is valid and passes its own tests, offline, through the real program.

use super::support::{Fixture, repository};

#[test]
fn every_pipeline_validates_and_passes_its_tests() {
    let fixture = Fixture::new();
    let folder = repository().join("pipelines");
    let folder = folder.to_str().unwrap();
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains("\ntests:\n"), "{} has no tests", file.display());
            files.push(file.display().to_string());
        }
    }
    files.sort();
    assert_eq!(
        files.len(),
        23,
        "a pipeline for each task, and three for more of what they can: {files:?}"
    );
    let mut validate = vec!["validate", "--offline"];
    validate.extend(files.iter().map(String::as_str));
    fixture.run(&validate).succeeds();

    let ran = fixture.run(&["test", "--offline", folder]);
    ran.succeeds();
    assert!(ran.stdout.ends_with("23 passed, 0 failed\n"), "{}", ran.stdout);
}

#[test]
fn a_test_that_fails_says_what_was_found_and_exits_65() {
    let fixture = Fixture::new();
    let model = repository().join("tests/golden/tasks/bert-sentiment");
    let pipeline = format!(
        "version: 1\nsource: {{path: rows.csv}}\nsink: {{path: out/}}\n\
         steps: [{{token-count: {{model: '{}', input: text, output: tokens}}}}]\n\
         tests:\n  - name: wrong\n    rows: [{{text: a}}]\n    expect: [{{column: tokens, equals: 7}}]\n",
        model.display()
    );
    fixture.file("p.yaml", &pipeline);
    let ran = fixture.run(&["test", "p.yaml"]);
    ran.fails(65, &["1 test failed"]);
    assert!(ran.stdout.contains("FAILED  p.yaml: wrong"), "{}", ran.stdout);
    assert!(ran.stdout.contains("`tokens`, row 0: expected 7, found 3"), "{}", ran.stdout);
    // The pipeline's own source is not read, and its sink is not written.
    assert!(fixture.files("out").is_empty());
    fixture.file("p.yaml", pipeline.replace("equals: 7", "equals: 3"));
    fixture.run(&["test", "p.yaml"]).succeeds();
    fixture.run(&["test", "p.yaml", "--name", "other"]).fails(78, &["no tests to run"]);
}
