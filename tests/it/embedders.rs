//! Static embeddings and multi-vector encoders through whole jobs, from a pipeline file to the sink, against the goldens of
//! model2vec and sentence-transformers.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::{ErrorKind, Result};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions};
use serde_json::{Value, json};

use super::support::{Fixture, repository};

/// The tolerance for numbers against the reference's, relative to those above 1.
const CLOSE: f64 = 1e-5;

fn golden(name: &str) -> (PathBuf, Value) {
    let dir = repository().join("tests/golden").join(name);
    let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    (dir, json)
}

/// The column `out` of a one-step pipeline; `more` are further keys of the pipeline.
fn run(task: &str, model: &Path, step: &Value, rows: &[Value], more: &Value) -> Result<Vec<Value>> {
    let fixture = Fixture::new();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fixture.file("rows.jsonl", lines.join("\n") + "\n");
    let mut step = step.as_object().unwrap().clone();
    step.insert("model".to_owned(), model.to_str().unwrap().into());
    step.insert("output".to_owned(), "out".into());
    let mut pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{ task: step }],
        "sink": {"path": "out.jsonl"},
    });
    pipeline.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
        job.run(pending()).await
    })?;
    let text = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    Ok(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect())
}

fn embed(model: &Path, step: Value, texts: &Value) -> Result<Vec<Value>> {
    let mut step = step;
    step["input"] = "text".into();
    let rows: Vec<Value> =
        texts.as_array().unwrap().iter().map(|text| json!({"text": text})).collect();
    let rows = run("feature-extraction", model, &step, &rows, &json!({}))?;
    Ok(rows.into_iter().map(|row| row["out"].clone()).collect())
}

/// Whether two values have the same shape and nearly the same numbers.
fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b))
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= CLOSE * b.abs().max(1.0)
        }
        (a, b) => a == b,
    }
}

#[track_caller]
fn check(found: &[Value], expected: &Value, what: &str) {
    let expected = expected.as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(close(found, expected), "{what}, row {row}: {found} {expected}");
    }
}

#[test]
fn static_embeddings_equal_those_of_the_libraries() {
    for name in [
        "model2vec",
        "model2vec-bpe",
        "model2vec-quantized",
        "sentence-transformers",
        "sentence-transformers-mapping",
    ] {
        let (dir, json) = golden(&format!("static/{name}"));
        for case in json["cases"].as_array().unwrap() {
            let options = case["options"].clone();
            if options["max_length"].is_null() && options.get("max_length").is_some() {
                continue;
            }
            let found = embed(&dir, options.clone(), &json["texts"]).unwrap();
            check(&found, &case["vectors"], &format!("{name} {options}"));
        }
    }
}

#[test]
fn rows_keep_their_order_and_their_nulls_over_many_batches() {
    let (dir, json) = golden("static/model2vec");
    let (texts, vectors) = (json["texts"].as_array().unwrap(), &json["cases"][0]["vectors"]);
    let numbers: Vec<usize> = (0..20_000).map(|row| row * 7 % (texts.len() + 1)).collect();
    let rows = numbers.iter().map(|number| json!({"text": texts.get(*number)}));
    let rows: Vec<Value> = rows.collect();
    let found = run("feature-extraction", &dir, &json!({"input": "text"}), &rows, &json!({}));
    let found = found.unwrap();
    assert_eq!(found.len(), rows.len());
    for (row, number) in found.iter().zip(numbers) {
        assert!(close(&row["out"], vectors.get(number).unwrap_or(&Value::Null)), "{row}");
    }
}

#[test]
fn quantized_static_embeddings_have_the_ranges_of_their_rows() {
    let (dir, json) = golden("static/model2vec");
    let found = embed(&dir, json!({"precision": "uint8"}), &json["texts"]).unwrap();
    let vectors = json["cases"][0]["vectors"].as_array().unwrap();
    for dimension in 0..16 {
        let of = |values: &[Value]| -> Vec<f64> {
            values.iter().map(|vector| vector[dimension].as_f64().unwrap()).collect()
        };
        let (found, vectors) = (of(&found), of(vectors));
        let largest = |values: &[f64]| {
            let best = (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]));
            best.unwrap()
        };
        assert!(found[largest(&vectors)] >= 254.0, "{found:?} {vectors:?}");
    }
    let bits = embed(&dir, json!({"precision": "ubinary"}), &json["texts"]).unwrap();
    assert_eq!(bits[0], json!([0, 0]), "no dimension of an empty text is above 0");
}

#[test]
fn a_static_row_that_fails_costs_no_other() {
    let (dir, _) = golden("static/model2vec");
    let texts = ["the", "the film, the film, the film", "the the"];
    let rows: Vec<Value> = texts.iter().cycle().take(300).map(|t| json!({"text": t})).collect();
    let step = json!({"input": "text", "max_length": 3, "truncation": false});
    let error = run("feature-extraction", &dir, &step, &rows, &json!({})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("row 2 of the step's input"), "{error}");
    let more = json!({"on_error": {"rows": "null"}});
    let found = run("feature-extraction", &dir, &step, &rows, &more).unwrap();
    assert_eq!(found.len(), 300);
    for (number, row) in found.iter().enumerate() {
        assert_eq!(row["out"].is_null(), number % 3 == 1, "{number}: {row}");
    }
}

#[test]
fn options_that_a_static_embedding_lacks_are_refused_by_name() {
    let (dir, json) = golden("static/sentence-transformers");
    for (step, key) in [
        (json!({"pooling": "cls"}), "`pooling`"),
        (json!({"pooling": "none"}), "`pooling`"),
        (json!({"outputs": ["last_hidden_state"]}), "`outputs`"),
        (json!({"dimensions": 17}), "`dimensions: 17`"),
        (json!({"prompt_name": "qeury"}), "`qeury`"),
    ] {
        let error = embed(&dir, step, &json["texts"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(key), "{key}: {error}");
    }
}

#[test]
fn multi_vectors_equal_those_of_sentence_transformers() {
    let root = repository().join("tests/golden/multi-vector");
    let mut names: Vec<String> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let (dir, json) = golden(&format!("multi-vector/{name}"));
        for (role, texts, key) in
            [("query", "query texts", "queries"), ("document", "document texts", "documents")]
        {
            let found = embed(&dir, json!({"prompt_name": role}), &json[texts]).unwrap();
            check(&found, &json[key], &format!("{name} {role}"));
        }
        let mut rows = Vec::new();
        for query in json["query texts"].as_array().unwrap() {
            for document in json["document texts"].as_array().unwrap() {
                rows.push(json!({"query": query, "document": document}));
            }
        }
        rows.push(json!({"query": null, "document": "x"}));
        let step = json!({"input": {"query": "query", "document": "document"}});
        let found = run("rerank", &dir, &step, &rows, &json!({})).unwrap();
        let scores = json["scores"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap().clone());
        let expected: Vec<Value> = scores.chain([Value::Null]).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let close = match (found["out"].as_f64(), expected.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() < CLOSE * b.abs().max(1.0),
                (a, b) => a == b,
            };
            assert!(close, "{name}: {found} {expected}");
        }
    }
}

#[test]
fn a_multi_vector_encoder_needs_a_role_and_has_several_vectors() {
    let (dir, json) = golden("multi-vector/pylate");
    for (step, key) in [
        (json!({}), "encodes queries and documents differently"),
        (json!({"prompt": "find: "}), "encodes queries and documents differently"),
        (json!({"prompt_name": "query", "dimensions": 4}), "`dimensions`"),
        (json!({"prompt_name": "query", "precision": "int8"}), "`precision`"),
        (json!({"prompt_name": "query", "normalize": false}), "`normalize: false`"),
        (json!({"prompt_name": "query", "max_length": 9}), "have 12 tokens, not 9"),
    ] {
        let error = embed(&dir, step, &json["query texts"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(key), "{key}: {error}");
    }
    let input = json!({"query": "query", "document": "document"});
    let rows = [json!({"query": "a", "document": "b"})];
    for key in ["activation", "prompt", "instruction"] {
        let value = if key == "activation" { "sigmoid" } else { "x" };
        let error = run("rerank", &dir, &json!({"input": input, key: value}), &rows, &json!({}));
        assert!(error.unwrap_err().to_string().contains(&format!("`{key}`")));
    }
}
