//! `CrossEncoder` and `rerank` over decoders: heads of one label and of several, logits of tokens, chat templates; and
//! what they refuse. `tests/it/tasks.rs` compares the columns of the same cases.

use std::path::PathBuf;
use std::sync::Arc;

use hfauto_pipe::auto::AutoTokenizer;
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::{Error, ErrorKind, Result};
use hfauto_pipe::hub::{Hub, HubSettings, Weights};
use hfauto_pipe::job::{Job, JobOptions};
use hfauto_pipe::nn::TorchActivation;
use hfauto_pipe::sentence_transformers::{CrossEncoder, PredictOptions};
use serde_json::{Map, Value, json};

use super::support::{Fixture, repository};

/// The tolerance for scores against the reference's.
const ABSOLUTE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden").join(name)
}

fn read_json(path: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn assert_near(ours: &[f32], expected: &Value, what: &str) {
    let expected: Vec<f64> =
        expected.as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (place, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let apart = (f64::from(*ours) - expected).abs();
        assert!(
            apart <= ABSOLUTE + ABSOLUTE * expected.abs(),
            "{what}, {place}: {ours}, {expected}"
        );
    }
}

/// A cross-encoder with the options of a case of `tasks`.
fn loaded(model: PathBuf, options: &Map<String, Value>) -> CrossEncoder {
    let text = |key: &str| options.get(key).and_then(Value::as_str);
    let mut builder = CrossEncoder::builder(model.display().to_string());
    if let Some(tokens) = options.get("max_length").and_then(Value::as_u64) {
        builder = builder.max_length(usize::try_from(tokens).unwrap());
    }
    if let Some(template) = text("chat_template") {
        builder = builder.chat_template(template);
    }
    if let Some(token) = text("true_token") {
        builder = builder.true_token(token);
    }
    if let Some(token) = text("false_token") {
        builder = builder.false_token(token);
    }
    builder.load().unwrap()
}

#[test]
fn the_library_scores_as_sentence_transformers() {
    let folder = golden("tasks/rerank-decoders");
    let mut cases = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let case = read_json(&path);
        let options = case["options"].as_object().unwrap();
        let model = loaded(folder.join(case["model"].as_str().unwrap()), options);
        let mut predict = PredictOptions::default();
        let text = |key: &str| options.get(key).and_then(Value::as_str);
        if let Some(prompt) = text("prompt").or_else(|| text("instruction")) {
            predict = predict.prompt(prompt);
        }
        if let Some(name) = text("prompt_name") {
            predict = predict.prompt_name(name);
        }
        if text("activation") == Some("identity") {
            predict = predict.activation_fn(TorchActivation::IDENTITY);
        }
        let rows = case["rows"].as_array().unwrap().iter();
        let (pairs, expected): (Vec<_>, Vec<Value>) = rows
            .zip(case["expected"].as_array().unwrap())
            .filter(|(_, expected)| !expected.is_null())
            .map(|(row, expected)| {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                ((text("query"), text("document")), expected.clone())
            })
            .unzip();
        let scores = model.predict_with(&pairs, &predict).unwrap();
        assert_near(&scores, &Value::Array(expected), &path.display().to_string());
        // The head has only the rows of the tokens.
        assert_eq!(model.num_labels(), 1);
        cases += 1;
    }
    assert!(cases >= 20, "{cases}");
}

#[test]
fn several_labels_have_a_row_of_scores() {
    let labels = read_json(&golden("cross-encoder/labels.json"));
    let pairs: Vec<(String, String)> = serde_json::from_value(labels["pairs"].clone()).unwrap();
    for case in labels["cases"].as_array().unwrap() {
        let model = golden(case["model"].as_str().unwrap()).display().to_string();
        let model = CrossEncoder::from_pretrained(&model).unwrap();
        let mut options = PredictOptions::default()
            .apply_softmax(case.get("apply_softmax").is_some_and(|apply| apply == true));
        if case.get("activation_fn").is_some() {
            options = options.activation_fn(TorchActivation::SIGMOID);
        }
        let rows = model.predict_labels(&pairs, &options).unwrap();
        assert_eq!(rows.len(), pairs.len());
        for (row, expected) in rows.iter().zip(case["expected"].as_array().unwrap()) {
            assert_near(row, expected, &case.to_string());
        }
        assert_eq!(model.num_labels(), 3);
        let error = model.predict_with(&pairs, &options).unwrap_err();
        assert!(error.to_string().contains("3 labels"), "{error}");
    }
}

/// A copy of a golden model with other texts in some files.
fn changed(fixture: &Fixture, base: &str, files: &[(&str, &str)]) -> PathBuf {
    let base = golden(base);
    for entry in std::fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() {
            fixture.file(&format!("model/{name}"), std::fs::read(path).unwrap());
        } else {
            let file = format!("{name}/config.json");
            fixture.file(&format!("model/{file}"), std::fs::read(base.join(&file)).unwrap());
        }
    }
    for (name, text) in files {
        fixture.file(&format!("model/{name}"), *text);
    }
    fixture.path("model")
}

/// The job of one `rerank` step over one row.
fn job(fixture: &Fixture, model: &PathBuf, options: &Value) -> Result<Job> {
    fixture.file("rows.jsonl", "{\"query\": \"rain\", \"document\": \"Ships left early.\"}\n");
    let mut step = json!({"model": model, "output": "score",
        "input": {"query": "query", "document": "document"}});
    step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    // JSON is YAML.
    let pipeline = json!({"version": 1, "source": {"path": "rows.jsonl"},
        "steps": [{"rerank": step}], "sink": {"path": "out.jsonl"}});
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
    let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Job::prepare(pipeline, JobOptions::default(), hub))
}

fn refused(model: &PathBuf, options: &Value) -> Error {
    match job(&Fixture::new(), model, options) {
        Ok(_) => panic!("{options} is accepted"),
        Err(error) => error,
    }
}

#[test]
fn options_that_do_not_suit_the_model_are_refused() {
    let causal = golden("tasks/qwen2-causal");
    let bert = golden("tasks/bert-rerank");
    let reranker = golden("tasks/qwen3-rerank");
    for (model, options, text) in [
        (&causal, json!({"true_token": "harbour"}), "`true_token: harbour` has 5 tokens"),
        (&causal, json!({"true_token": ""}), "`true_token: ` has 0 tokens"),
        (&causal, json!({"true_token": "yes", "false_token": "not"}), "`false_token: not` has 2"),
        (&causal, json!({"false_token": "no"}), "`false_token` needs `true_token`"),
        (&causal, json!({"instruction": "be strict"}), "`instruction` needs a chat template"),
        (&causal, json!({"chat_template": "{{ messages"}), "the option `chat_template`"),
        (&causal, json!({"chat_template": "constant"}), "no message with the role `query` or"),
        (
            &causal,
            json!({"chat_template": "{{ messages[0].content }}"}),
            "does not show the message with the role `document`",
        ),
        (
            &causal,
            json!({"chat_template": "{{ raise_exception('only users') }}"}),
            "it fails: the chat template says: only users",
        ),
        (
            &causal,
            json!({"chat_template": "{{ messages[-2].content }}{{ messages[-1].content }}",
                "instruction": "be strict"}),
            "does not show the system message",
        ),
        (&bert, json!({"true_token": "yes"}), "scores by a classification head"),
        (&reranker, json!({"prompt": "a", "instruction": "b"}), "`instruction` and `prompt`"),
        (&reranker, json!({"prompt_name": "x"}), "no prompt `x`"),
        (
            &reranker,
            json!({"auto_class": "AutoModelForSequenceClassification"}),
            "is loaded as `AutoModelForCausalLM`",
        ),
    ] {
        let error = refused(model, &options);
        assert_eq!(error.kind(), ErrorKind::Config, "{options}: {error}");
        assert!(error.to_string().contains(text), "{options}: {error}");
    }
}

#[test]
fn hostile_files_are_refused_by_name() {
    const SCORE: &str = "1_LogitScore/config.json";
    for (base, file, content, text) in [
        ("tasks/qwen3-rerank", SCORE, r#"{"true_token_id": 100000}"#, "`true_token_id` in `1_Log"),
        ("tasks/qwen3-rerank", SCORE, r#"{"true_token_id": -1}"#, "config.json` is `-1`"),
        (
            "tasks/qwen3-rerank",
            "chat_template.jinja",
            "{{ raise_exception('not for pairs') }}",
            "cannot render a query and a document: it fails: the chat template says: not for pairs",
        ),
        (
            "tasks/qwen3-causal-template",
            "chat_template.jinja",
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "shows no message with the role `query` or `document`",
        ),
        (
            "tasks/qwen3-rerank",
            "chat_template.jinja",
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "cannot render a query and a document: it fails: the chat template exceeds the limits",
        ),
    ] {
        let fixture = Fixture::new();
        let model = changed(&fixture, base, &[(file, content)]);
        let error = refused(&model, &json!({}));
        assert_eq!(error.kind(), ErrorKind::Model, "{content}: {error}");
        assert!(error.to_string().contains(text), "{content}: {error}");
    }
    let fixture = Fixture::new();
    let model = changed(&fixture, "tasks/qwen3-rerank", &[]);
    std::fs::remove_file(model.join(SCORE)).unwrap();
    let error = refused(&model, &json!({}));
    assert!(error.to_string().contains("there is no `1_LogitScore/config.json`"), "{error}");
    // Messages without a template.
    let fixture = Fixture::new();
    let model = changed(&fixture, "tasks/qwen3-rerank", &[]);
    std::fs::remove_file(model.join("chat_template.jinja")).unwrap();
    let error = refused(&model, &json!({}));
    assert!(error.to_string().contains("has no chat template"), "{error}");
}

#[test]
fn a_language_model_without_the_words_of_the_default_is_refused() {
    let model = golden("modern/qwen3/for-causal-lm");
    assert_eq!(
        AutoTokenizer::from_pretrained(model.to_str().unwrap()).unwrap().token_to_id("yes"),
        None
    );
    let error = refused(&model, &json!({}));
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains("no token `yes`"), "{error}");
    job(&Fixture::new(), &model, &json!({"true_token": "1", "false_token": "0"})).unwrap();
}

#[test]
fn a_plan_counts_the_rows_of_the_head_that_are_loaded() {
    for (name, tied, rows) in [
        ("tasks/qwen3-rerank", true, 2),
        ("tasks/qwen3-rerank-left", false, 2),
        ("tasks/gemma2-rerank", false, 1),
    ] {
        let model = golden(name);
        let weights = Weights::open(&[model.join("model.safetensors")]).unwrap();
        let size = |name: &str| weights.shape(name).unwrap().iter().product::<usize>();
        let all: usize = weights.names().map(size).sum();
        let expected = if tied {
            all
        } else {
            let head = weights.shape("lm_head.weight").unwrap();
            all - (head[0] - rows) * head[1]
        };
        let job = job(&Fixture::new(), &model, &json!({})).unwrap();
        let task = job.steps()[0].task();
        assert_eq!(task.weights().unwrap().parameters, expected, "{name}");
        let device = task.devices()[0].clone();
        assert_eq!(task.load(&device).unwrap().weights().parameters, expected, "{name}");
    }
}

#[test]
fn models_says_how_a_reranker_scores() {
    let ran = |name: &str| {
        let model = golden(name).display().to_string();
        Fixture::new().run(&["models", &model]).succeeds().stdout.clone()
    };
    let shown = ran("tasks/qwen3-rerank");
    assert!(shown.contains("LogitScore"), "{shown}");
    let score = "logit of `yes` (281) minus that of `no` (282), Sigmoid, chat template";
    assert!(shown.contains(score), "{shown}");
    let shown = ran("tasks/gemma2-rerank");
    assert!(shown.contains("logit of `a` ("), "{shown}");
    assert!(shown.contains("), Identity, chat template"), "{shown}");
    let shown = ran("tasks/gemma-rerank");
    assert!(shown.contains("classification head, Sigmoid, chat template"), "{shown}");
}
