//! The examples run; what they promise they assert themselves, or return.

use std::path::Path;

use serde_json::Value;

use super::support::{Fixture, mini_embedder, repository};

/// Declares the examples as modules: `main` takes a model from the command line, tests name their own.
macro_rules! examples {
    ($($name:ident $path:literal,)*) => {$(
        #[path = $path]
        #[expect(dead_code, reason = "`main` takes a model from the command line; the test names its own")]
        mod $name;
    )*};
}

examples! {
    auto_model "../../examples/auto_model.rs",
    custom_head "../../examples/custom_head.rs",
    named_entities "../../examples/named_entities.rs",
    question_answering "../../examples/question_answering.rs",
    sequence_classification "../../examples/sequence_classification.rs",
    sql_functions "../../examples/sql_functions.rs",
    text_generation "../../examples/text_generation.rs",
}

/// A model of `tests/golden/tasks`.
fn model(name: &str) -> String {
    repository().join("tests/golden/tasks").join(name).display().to_string()
}

/// What the reference library gives for a text, in a case of `tests/golden/tasks`.
fn expected(case: &str, text: &str) -> Value {
    let file = repository().join("tests/golden/tasks").join(case);
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let row = rows.iter().position(|row| row["text"] == text).unwrap();
    json["expected"][row].clone()
}

#[test]
fn auto_model() {
    auto_model::run(mini_embedder().to_str().unwrap()).unwrap();
}

#[test]
fn sequence_classification() {
    let labels = sequence_classification::run(&model("bert-sentiment")).unwrap();
    let case = "text-classification/bert.json";
    let texts = ["Anna Kowalska met José in Kraków, near the harbour of Porto-Novo.", "Harbour"];
    for (label, text) in labels.iter().zip(texts) {
        assert_eq!(expected(case, text)["label"], label.as_str());
    }
}

#[test]
fn question_answering() {
    // The step takes whole words; the example takes the tokens as they are.
    let answer = question_answering::run(&model("bert-qa")).unwrap();
    assert!("By the harbour".contains(&answer) && answer.contains("the harb"), "{answer}");
}

#[test]
fn text_generation() {
    let texts = text_generation::run(&model("gpt2")).unwrap();
    let case = "text-generation/greedy.json";
    for (text, prompt) in texts.iter().zip(["Harbour", "The film is slow"]) {
        assert_eq!(expected(case, prompt)["text"], text.as_str());
    }
}

#[test]
fn named_entities() {
    let fixture = Fixture::new();
    assert_eq!(named_entities::run(&fixture.path("out")).unwrap(), 100);
    assert!(Path::new(&fixture.path("out/part-00000.parquet")).is_file());
}

#[test]
fn sql_functions() {
    let found = sql_functions::run(mini_embedder().to_str().unwrap()).unwrap();
    // One row of seven hundred, and the model has seen the seven messages and the question.
    assert_eq!(found, ["disk almost full on node-3"]);
}

#[test]
fn custom_head() {
    let logits = custom_head::run(mini_embedder().to_str().unwrap()).unwrap();
    assert_eq!((logits.len(), logits[0].len()), (2, 3));
    // The rows of the weight are equal, so outputs differ by the bias.
    assert!((logits[0][2] - logits[0][0] - 0.2).abs() < 1e-5, "{logits:?}");
    assert_ne!(logits[0], logits[1]);
}
