//! Runs the examples. They assert their own promises, or return values to check.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::AutoTokenizer;
use hfauto_pipe::hub::Weights;
use hfauto_pipe::nn::PoolingMode;
use hfauto_pipe::pipelines::{
    AggregationStrategy, AnswerSpan, EntitySpan, FillMaskOptions, FillMaskPipeline, MaskFill,
    QuestionAnsweringOptions, QuestionAnsweringPipeline, TextClassificationPipeline,
    TokenClassificationOptions,
};
use hfauto_pipe::sentence_transformers::{
    CrossEncoder, EmbedOptions, PredictOptions, SentenceTransformer,
};
use serde_json::{Value, json};

use super::parity::Tolerance;
use super::support::{Fixture, mini_embedder, repository};

/// Declares the examples as modules: `main` takes a model from the command line; the tests pass their own.
macro_rules! examples {
    ($($name:ident $path:literal,)*) => {$(
        #[path = $path]
        #[expect(dead_code, reason = "`main` takes a model from the command line; the test names its own")]
        mod $name;
    )*};
}

examples! {
    auto_model "../../examples/auto_model.rs",
    chat "../../examples/chat.rs",
    cross_encoder "../../examples/cross_encoder.rs",
    custom_head "../../examples/custom_head.rs",
    fill_mask "../../examples/fill_mask.rs",
    named_entities "../../examples/named_entities.rs",
    question_answering "../../examples/question_answering.rs",
    sentence_embeddings "../../examples/sentence_embeddings.rs",
    sequence_classification "../../examples/sequence_classification.rs",
    sql_functions "../../examples/sql_functions.rs",
    text2text_generation "../../examples/text2text_generation.rs",
    text_classification "../../examples/text_classification.rs",
    text_generation "../../examples/text_generation.rs",
    token_classification "../../examples/token_classification.rs",
}

/// A model of `tests/golden/tasks`.
fn model(name: &str) -> String {
    repository().join("tests/golden/tasks").join(name).display().to_string()
}

/// The reference library's result for a text, in a case of `tests/golden/tasks`.
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

/// The texts and a tensor of a golden of sentence-transformers.
fn golden(case: &str, tensor: &str) -> (Vec<String>, Tensor) {
    let dir = repository().join("tests/golden").join(case);
    let json = std::fs::read(dir.join("golden.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let texts = json["texts"].as_array().unwrap();
    let texts = texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    let weights = Weights::open(&[dir.join("golden.safetensors")]).unwrap();
    (texts, weights.tensor(tensor, DType::F32, &Device::Cpu).unwrap())
}

#[test]
fn sentence_embeddings() {
    let default = EmbedOptions::default;
    for (case, options, tensor) in [
        ("st-cls", default(), "sentence_embedding"),
        ("st-dense", default(), "sentence_embedding"),
        ("st-do-lower-case", default(), "normalizer"),
        ("st-max-seq-length", default(), "sentence_embedding"),
        ("st-mean-normalize", default(), "sentence_embedding"),
        ("st-mean-normalize", default().truncate_dim(8), "truncate_8"),
        ("st-multi-pooling", default().max_batch_tokens(32), "sentence_embedding"),
        ("st-prompts", default(), "sentence_embedding"),
        ("st-prompts", default().prompt_name("query"), "query"),
        ("st-prompts", default().prompt(""), "none"),
        ("st-prompts-exclude", default().prompt("a film: "), "explicit"),
    ] {
        let (texts, expected) = golden(case, tensor);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let dir = repository().join("tests/golden").join(case);
        let ours = sentence_embeddings::run(dir.to_str().unwrap(), &texts, &options).unwrap();
        let ours = Tensor::new(ours, &Device::Cpu).unwrap();
        assert_eq!(Tolerance::Close.check(&ours, &expected), Ok(()), "{case} {options:?}");
    }
}

#[test]
fn embeddings_inside_tokio_and_on_several_threads() {
    let model = SentenceTransformer::from_pretrained(mini_embedder().to_str().unwrap()).unwrap();
    let texts = ["The room was quiet.", "", "A film that is too long by an hour."];
    let expected = model.encode(&texts).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(async { model.encode(&texts).unwrap() }), expected);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| model.encode(&texts).unwrap())).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
    assert!(model.encode::<&str>(&[]).unwrap().is_empty());

    let unknown = model.encode_with(&texts, &EmbedOptions::default().prompt_name("qeury"));
    assert!(unknown.unwrap_err().message().contains("`qeury`"));
    let nothing = model.encode_with(&texts, &EmbedOptions::default().truncate_dim(0));
    assert!(nothing.unwrap_err().message().contains("truncate_dim"));
    let pooled = SentenceTransformer::builder(mini_embedder().display().to_string())
        .pooling([PoolingMode::Cls, PoolingMode::Max])
        .load()
        .unwrap();
    assert_eq!(pooled.encode(&texts).unwrap()[0].len(), pooled.embedding_dimension());
}

#[test]
fn cross_encoder() {
    let file = repository().join("tests/golden/tasks/rerank/bert.json");
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap().iter().zip(json["expected"].as_array().unwrap());
    let (mut pairs, mut expected) = (Vec::new(), Vec::new());
    for (row, score) in rows {
        if let (Some(query), Some(document)) = (row["query"].as_str(), row["document"].as_str()) {
            pairs.push((query, document));
            expected.push(score.as_f64().unwrap() as f32);
        }
    }
    let scores = cross_encoder::run(&model("bert-rerank"), &pairs).unwrap();
    let tensor = |numbers: Vec<f32>| Tensor::new(numbers, &Device::Cpu).unwrap();
    let compared = Tolerance::Close.check(&tensor(scores), &tensor(expected));
    assert_eq!(compared, Ok(()));

    let several = CrossEncoder::from_pretrained(&model("bert-sentiment")).unwrap();
    let error = several.predict(&pairs).unwrap_err();
    assert!(error.message().contains("3 labels"), "{error}");
    let model = CrossEncoder::builder(model("bert-rerank")).max_length(16).load().unwrap();
    let options = PredictOptions::default().prompt_name("qeury");
    assert!(model.predict_with(&pairs, &options).unwrap_err().message().contains("`qeury`"));
}

#[test]
fn pairs_are_classified_as_by_the_pipeline() {
    let file = repository().join("tests/golden/tasks/text-classification/bert-pairs.json");
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let classifier = TextClassificationPipeline::from_pretrained(&model("bert-sentiment")).unwrap();
    let rows = json["rows"].as_array().unwrap().iter().zip(json["expected"].as_array().unwrap());
    let (mut pairs, mut expected) = (Vec::new(), Vec::new());
    for (row, label) in rows {
        if let (Some(text), Some(pair)) = (row["text"].as_str(), row["text_pair"].as_str()) {
            pairs.push((text, pair));
            expected.push(label);
        }
    }
    assert!(pairs.iter().any(|(_, pair)| pair.is_empty()), "a pair without a second text");
    let labels = classifier.predict_pairs(&pairs).unwrap();
    for (label, expected) in labels.iter().zip(expected) {
        assert_eq!(expected["label"], label.label);
        let apart = expected["score"].as_f64().unwrap() - f64::from(label.score);
        assert!(apart.abs() < 1e-5, "{label:?} instead of {expected}");
    }
}

#[test]
fn builders() {
    let id = mini_embedder().display().to_string();
    let overrides = json!({"model_max_length": 12});
    let overrides = overrides.as_object().unwrap().clone();
    let tokenizer = AutoTokenizer::builder(&id).config(overrides).load().unwrap();
    assert_eq!(tokenizer.model_max_length(), Some(12));
    let processor = hfauto_pipe::auto::AutoImageProcessor::builder(model("vit"))
        .config(json!({"size": 18}).as_object().unwrap().clone())
        .load()
        .unwrap();
    assert_eq!(processor.output_size(), Some((18, 18)));
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

/// The rows without nulls of a golden in `tests/golden/tasks`, with the reference library's results as a list.
fn cases(case: &str) -> Vec<(Value, Vec<Value>)> {
    let file = repository().join("tests/golden/tasks").join(case);
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap().iter().zip(json["expected"].as_array().unwrap());
    let rows = rows.filter(|(row, _)| row.as_object().unwrap().values().all(Value::is_string));
    let rows = rows.map(|(row, expected)| match expected {
        Value::Null => (row.clone(), Vec::new()),
        Value::Array(list) => (row.clone(), list.clone()),
        one => (row.clone(), vec![one.clone()]),
    });
    rows.collect()
}

/// Compares exact values and close values of each entry of a row.
#[track_caller]
fn check(case: &str, ours: &[(Value, f32)], expected: &[Value]) {
    let exact = |value: &Value| {
        let mut value = value.as_object().unwrap().clone();
        value.shift_remove("score");
        Value::Object(value)
    };
    let ours_exact: Vec<&Value> = ours.iter().map(|(value, _)| value).collect();
    let expected_exact: Vec<Value> = expected.iter().map(exact).collect();
    assert_eq!(ours_exact, expected_exact.iter().collect::<Vec<_>>(), "{case}");
    if expected.is_empty() {
        return;
    }
    let scores = expected.iter().map(|value| value["score"].as_f64().unwrap() as f32);
    let tensor = |numbers: Vec<f32>| Tensor::new(numbers, &Device::Cpu).unwrap();
    let ours = tensor(ours.iter().map(|(_, score)| *score).collect());
    assert_eq!(Tolerance::Close.check(&ours, &tensor(scores.collect())), Ok(()), "{case}");
}

#[test]
fn text_classification() {
    let case = "text-classification/bert-all.json";
    let rows = cases(case);
    let texts: Vec<&str> = rows.iter().map(|(row, _)| row["text"].as_str().unwrap()).collect();
    let labels = text_classification::run(&model("bert-sentiment"), &texts).unwrap();
    for (labels, (_, expected)) in labels.iter().zip(&rows) {
        let ours = labels.iter().map(|label| (json!({"label": label.label}), label.score));
        check(case, &ours.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn fill_mask() {
    for (options, case) in
        [(FillMaskOptions::default(), "bert"), (FillMaskOptions::default().top_k(2), "bert-top-2")]
    {
        let case = format!("fill-mask/{case}.json");
        let rows = cases(&case);
        let texts: Vec<&str> = rows.iter().map(|(row, _)| row["text"].as_str().unwrap()).collect();
        let filled = fill_mask::run(&model("bert-mlm"), &texts, &options).unwrap();
        for (masks, (_, expected)) in filled.iter().zip(&rows) {
            let ours = masks.iter().flatten().map(|fill| {
                let MaskFill { token_str, token, sequence, .. } = fill;
                let value = json!({"token_str": token_str, "token": token, "sequence": sequence});
                (value, fill.score)
            });
            check(&case, &ours.collect::<Vec<_>>(), expected);
        }
    }
    let model = FillMaskPipeline::from_pretrained(&model("bert-mlm")).unwrap();
    let error = model.predict(&["No mask."]).unwrap_err();
    assert!(error.message().contains("[MASK]") && error.places() == ["text 0"], "{error}");
}

#[test]
fn token_classification() {
    use AggregationStrategy::{Average, First, Max, None, Simple};
    for (strategy, stride, case) in [
        (Simple, Option::None, "bert-simple"),
        (First, Option::None, "bert-first"),
        (Average, Option::None, "bert-average"),
        (Max, Option::None, "bert-max"),
        (None, Option::None, "bert-none"),
        (Simple, Some(8), "bert-stride-simple"),
        (Average, Some(8), "bert-stride-average"),
    ] {
        let case = format!("token-classification/{case}.json");
        let rows = cases(&case);
        let texts: Vec<&str> = rows.iter().map(|(row, _)| row["text"].as_str().unwrap()).collect();
        let mut options = TokenClassificationOptions::default().aggregation_strategy(strategy);
        options.stride = stride;
        let entities = token_classification::run(&model("bert-ner"), &texts, &options).unwrap();
        for (entities, (_, expected)) in entities.iter().zip(&rows) {
            let ours = entities.iter().map(|entity| {
                let EntitySpan { label, word, start, end, index, .. } = entity;
                let mut value = json!({"label": label, "word": word, "start": start, "end": end});
                if strategy == None {
                    value["index"] = (*index).into();
                }
                (value, entity.score)
            });
            check(&case, &ours.collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn question_answering() {
    let default = QuestionAnsweringOptions::default;
    for (options, case) in [
        (default(), "bert"),
        (default().top_k(3), "bert-top-3"),
        (default().handle_impossible_answer(true).doc_stride(8), "bert-impossible"),
    ] {
        let case = format!("question-answering/{case}.json");
        let rows = cases(&case);
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows: Vec<_> = rows
            .iter()
            .map(|(row, expected)| (text(row, "question"), text(row, "context"), expected))
            .collect();
        let questions: Vec<(&str, &str)> =
            rows.iter().map(|(question, context, _)| (&question[..], &context[..])).collect();
        let answers = if options.doc_stride.is_some() {
            let model = QuestionAnsweringPipeline::builder(model("bert-qa")).max_length(24);
            model.load().unwrap().predict_with(&questions, &options).unwrap()
        } else {
            question_answering::run(&model("bert-qa"), &questions, &options).unwrap()
        };
        for (answers, (_, _, expected)) in answers.iter().zip(&rows) {
            let ours = answers.iter().map(|answer| {
                let AnswerSpan { answer: text, start, end, .. } = answer;
                (json!({"answer": text, "start": start, "end": end}), answer.score)
            });
            check(&case, &ours.collect::<Vec<_>>(), expected);
        }
    }
}

/// The non-null inputs of a golden in `tests/golden/tasks`, with the texts that the reference library generated.
fn generated(case: &str, input: &str) -> Vec<(Value, String)> {
    let file = repository().join("tests/golden/tasks").join(case);
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap().iter().zip(json["expected"].as_array().unwrap());
    let rows = rows.filter(|(_, expected)| !expected.is_null());
    rows.map(|(row, expected)| (row[input].clone(), expected["text"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn text_generation() {
    let rows = generated("text-generation/greedy.json", "text");
    let prompts: Vec<&str> = rows.iter().map(|(prompt, _)| prompt.as_str().unwrap()).collect();
    let texts = text_generation::run(&model("gpt2"), &prompts).unwrap();
    let expected: Vec<&String> = rows.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn chat() {
    let rows = generated("text-generation/chat.json", "messages");
    let conversations: Vec<Vec<Value>> =
        rows.iter().map(|(messages, _)| messages.as_array().unwrap().clone()).collect();
    let texts = chat::run(&model("gpt2"), &conversations).unwrap();
    let expected: Vec<&String> = rows.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn text2text_generation() {
    let rows = generated("text2text-generation/t5-greedy.json", "text");
    let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str().unwrap()).collect();
    let texts = text2text_generation::run(&model("t5"), &texts).unwrap();
    let expected: Vec<&String> = rows.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
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
    // One row of seven hundred, for which the model reads the seven messages and the question.
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
