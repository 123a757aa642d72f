//! Settings in a model's own files take effect or are refused by name: sentence-transformers 6.2 and transformers 5.24
//! over checkpoints of `tests/golden` with modified files, and models with damaged numbers or tables.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hfauto_pipe::auto::{AutoConfig, AutoModelForCausalLM};
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::{Error, ErrorKind, Result};
use hfauto_pipe::generation::{GenerationConfig, generate};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions};
use serde_json::{Map, Value, json};

use super::support::{Fixture, repository};

/// The tolerance for numbers against the reference's.
const ABSOLUTE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Copies a checkpoint to `model` and modifies its JSON files: merges maps; `null` removes the file.
fn changed_model(fixture: &Fixture, base: &Path, changes: &Value) -> PathBuf {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(base.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(name);
            } else {
                let content = std::fs::read(entry.path()).unwrap();
                fixture.file(&format!("model/{}", name.display()), content);
            }
        }
    }
    for (name, change) in changes.as_object().unwrap() {
        let path = fixture.path("model").join(name);
        let mut change = change.clone();
        if change.is_null() {
            std::fs::remove_file(&path).unwrap();
            continue;
        }
        if let Value::Object(change) = &mut change {
            let replaces = change.shift_remove("__replace__").is_some();
            if path.exists() && !replaces {
                let Value::Object(mut merged) = read_json(&path) else { panic!("not a map") };
                merged.extend(change.clone());
                *change = merged;
            }
        }
        fixture.file(&format!("model/{name}"), change.to_string());
    }
    fixture.path("model")
}

/// The column `out` of a one-step pipeline, as JSON; `more` are further keys of the pipeline.
fn run(
    fixture: &Fixture,
    task: &str,
    step: &Value,
    rows: &[Value],
    more: &Value,
) -> Result<Vec<Value>> {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fixture.file("rows.jsonl", lines.join("\n") + "\n");
    let _before = std::fs::remove_file(fixture.path("out.jsonl"));
    let mut step = step.as_object().unwrap().clone();
    step.insert("output".to_owned(), "out".into());
    let mut pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{ task: step }],
        "sink": {"path": "out.jsonl"},
    });
    pipeline.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    // JSON is YAML.
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
    let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
        job.run(pending()).await
    })?;
    let written = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    let rows = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    Ok(rows.map(|row| row.get("out").cloned().unwrap_or_default()).collect())
}

fn run_plain(fixture: &Fixture, task: &str, step: &Value, rows: &[Value]) -> Result<Vec<Value>> {
    run(fixture, task, step, rows, &json!({}))
}

/// The numbers in a case's row, in order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(number) => vec![number.as_f64().unwrap()],
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

fn difference(ours: &Value, expected: &Value) -> Option<String> {
    let (ours, expected) = (numbers(ours), numbers(expected));
    if ours.len() != expected.len() {
        return Some(format!("{} numbers instead of {}", ours.len(), expected.len()));
    }
    let apart =
        ours.iter().zip(&expected).find(|(a, b)| (*a - *b).abs() > ABSOLUTE + ABSOLUTE * b.abs());
    apart.map(|(a, b)| format!("{a} instead of {b}"))
}

#[test]
fn directories_are_what_sentence_transformers_makes_of_them() {
    let cases = read_json(&golden("settings/cases.json"));
    let mut wrong = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let fixture = Fixture::new();
        let model = changed_model(&fixture, &golden(text("base")), &case["changes"]);
        for (name, source) in case["files"].as_object().unwrap() {
            let source = golden("settings").join(source.as_str().unwrap());
            fixture.file(&format!("model/{name}"), std::fs::read(source).unwrap());
        }
        let rows = case["rows"].as_array().unwrap();
        let (step, rows): (_, Vec<Value>) = if text("task") == "rerank" {
            let input = json!({"query": "query", "document": "document"});
            let row = |row: &Value| json!({"query": row[0], "document": row[1]});
            (json!({"model": model, "input": input}), rows.iter().map(row).collect())
        } else {
            let row = |row: &Value| json!({"text": row});
            (json!({"model": model, "input": "text"}), rows.iter().map(row).collect())
        };
        let ours = match run_plain(&fixture, text("task"), &step, &rows) {
            Ok(ours) => ours,
            Err(error) => {
                wrong.push(format!("{}: {error}", text("name")));
                continue;
            }
        };
        for (row, (ours, expected)) in
            ours.iter().zip(case["expected"].as_array().unwrap()).enumerate()
        {
            let ours = if text("task") == "sparse-encoding" {
                let weights = ours.as_array().unwrap().iter();
                weights.map(|entry| json!([entry["index"], entry["weight"]])).collect()
            } else {
                ours.clone()
            };
            if let Some(difference) = difference(&ours, expected) {
                wrong.push(format!("{} row {row}: {difference}", text("name")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn prompts_of_rerank_and_sparse_encoding_are_options_too() {
    let fixture = Fixture::new();
    let saved = json!({"prompts": {"q": "find: "}, "default_prompt_name": null, "model_type": "SparseEncoder"});
    let changes = json!({"config_sentence_transformers.json": saved});
    let model = changed_model(&fixture, &golden("tasks/bert-splade"), &changes);
    let of = |options: Value, text: &str| {
        let mut step = json!({"model": model, "input": "text"});
        step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        run_plain(&fixture, "sparse-encoding", &step, &[json!({"text": text})])
    };
    let written = of(json!({}), "find: the harbour").unwrap();
    assert_eq!(of(json!({"prompt_name": "q"}), "the harbour").unwrap(), written);
    assert_eq!(of(json!({"prompt": "find: "}), "the harbour").unwrap(), written);
    assert_ne!(of(json!({}), "the harbour").unwrap(), written);
    let error = of(json!({"prompt_name": "p"}), "x").unwrap_err();
    assert!(error.to_string().contains("no prompt `p`"), "{error}");
    let error = of(json!({"prompt_name": "q", "prompt": "x"}), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);

    let model = golden("tasks/bert-rerank");
    let rerank = |options: Value, query: &str| {
        let input = json!({"query": "query", "document": "document"});
        let mut step = json!({"model": model, "input": input});
        step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let row = json!({"query": query, "document": "ships in the harbour"});
        run_plain(&fixture, "rerank", &step, &[row])
    };
    let written = rerank(json!({}), "find: ships").unwrap();
    assert_eq!(rerank(json!({"prompt": "find: "}), "ships").unwrap(), written);
    assert_ne!(rerank(json!({}), "ships").unwrap(), written);
}

#[test]
fn decoders_generate_with_the_positions_of_generate() {
    let cases = read_json(&golden("settings/generate.json"));
    for case in cases["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let model =
            AutoModelForCausalLM::builder(golden(name).display().to_string()).load().unwrap();
        let decoder = model.decoder().unwrap();
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let rows = case["rows"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["prompt"])).collect();
        let config = GenerationConfig {
            max_new_tokens: Some(5),
            min_new_tokens: Some(5),
            num_beams: case["num_beams"].as_u64().unwrap() as usize,
            eos_token_id: case["eos_token_id"].as_u64().map(|id| id as u32).into_iter().collect(),
            ..GenerationConfig::default()
        };
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        // All together, and each alone.
        let together = generate(&*decoder, &prompts, &config, 4096, None).unwrap();
        for (place, row) in rows.iter().enumerate() {
            let what = format!("{name}, {} beams, row {place}", case["num_beams"]);
            let alone = generate(&*decoder, &prompts[place..=place], &config, 1, None).unwrap();
            assert_eq!(together[place], alone[0], "{what}");
            assert_eq!(together[place].token_ids, ids(&row["tokens"]), "{what}");
            let (_, logits) = decoder.prefill(&prompts[place..=place], &[]).unwrap();
            let logits: Vec<f32> = logits.get(0).unwrap().to_vec1().unwrap();
            let first = json!(logits[..8]);
            assert_eq!(difference(&first, &row["first_logits"]), None, "{what}");
        }
    }
}

/// A checkpoint with every weight NaN.
fn nan_model(fixture: &Fixture, base: &str) -> PathBuf {
    let model = changed_model(fixture, &golden(base), &json!({}));
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    model
}

#[test]
fn weights_of_nan_are_an_error_in_every_task() {
    let pair = json!({"text": "text", "text_pair": "text_pair"});
    let generating = |options: Value| {
        let mut step = json!({"input": "text", "max_new_tokens": 3});
        step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        step
    };
    let cases = [
        ("feature-extraction", "tasks/bert-mlm", json!({"input": "text"})),
        ("feature-extraction", "tasks/bert-mlm", json!({"input": "text", "precision": "binary"})),
        (
            "feature-extraction",
            "tasks/bert-mlm",
            json!({"input": "text", "outputs": ["last_hidden_state"]}),
        ),
        ("text-classification", "tasks/bert-sentiment", json!({"input": "text"})),
        (
            "text-classification",
            "tasks/bert-sentiment",
            json!({"input": "text", "outputs": ["logits"]}),
        ),
        ("text-classification", "tasks/t5-sentiment", json!({"input": "text"})),
        ("text-classification", "tasks/gpt2-sentiment", json!({"input": "text", "top_k": "all"})),
        ("text-classification", "tasks/distilbert-sentiment", json!({"input": "text"})),
        (
            "text-classification",
            "tasks/roberta-sentiment",
            json!({"input": "text", "function_to_apply": "none"}),
        ),
        (
            "zero-shot-classification",
            "tasks/bert-nli",
            json!({"input": "text", "candidate_labels": ["a", "b"]}),
        ),
        (
            "rerank",
            "tasks/bert-rerank",
            json!({"input": {"query": "text", "document": "text_pair"}}),
        ),
        ("token-classification", "tasks/bert-ner", json!({"input": "text"})),
        (
            "token-classification",
            "tasks/bert-ner",
            json!({"input": "text", "aggregation_strategy": "max"}),
        ),
        (
            "question-answering",
            "tasks/bert-qa",
            json!({"input": {"question": "text_pair", "context": "text"}}),
        ),
        ("fill-mask", "tasks/bert-mlm", json!({"input": "masked"})),
        ("sparse-encoding", "tasks/bert-splade", json!({"input": "text"})),
        (
            "multiple-choice",
            "tasks/bert-choice",
            json!({"input": {"prompt": "text", "choices": ["text_pair", "text"]}}),
        ),
        ("next-sentence-prediction", "tasks/bert-next", json!({"input": pair})),
        ("text-generation", "tasks/gpt2", generating(json!({"do_sample": false}))),
        ("text-generation", "tasks/gpt2", generating(json!({"do_sample": true}))),
        ("text-generation", "tasks/gpt2", generating(json!({"do_sample": false, "num_beams": 3}))),
        ("loglikelihood", "tasks/gpt2", json!({"input": "text"})),
        ("text2text-generation", "tasks/t5", generating(json!({}))),
        ("summarization", "tasks/t5", generating(json!({"num_beams": 2}))),
        ("image-classification", "tasks/vit", json!({"input": "image"})),
    ];
    let images = golden("tasks/images");
    let image = std::fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path());
    let image = image.filter(|path| path.extension().is_some_and(|ext| ext == "png")).min();
    let row = json!({"text": "boats on the sea", "text_pair": "the sea", "masked": "boats on [MASK]",
        "image": image});
    let mut wrong = Vec::new();
    for (task, base, step) in cases {
        let fixture = Fixture::new();
        let model = nan_model(&fixture, base);
        let mut step = step;
        step["model"] = json!(model);
        match run_plain(&fixture, task, &step, std::slice::from_ref(&row)) {
            Ok(rows) => wrong.push(format!("{task} {base}: {rows:?}")),
            Err(error) => {
                let text = error.to_string();
                if error.kind() != ErrorKind::Model || !text.contains("computed `NaN`") {
                    wrong.push(format!("{task} {base}: {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A checkpoint with an added token `zyx` beyond its embedding table; returns the token's id.
fn with_added_token(fixture: &Fixture, base: &str) -> (PathBuf, usize) {
    let model = changed_model(fixture, &golden(base), &json!({}));
    let config = read_json(&model.join("config.json"));
    let config = AutoConfig::from_json(config.as_object().unwrap().clone(), &Map::new()).unwrap();
    let rows = config.dimensions().vocab_size;
    let mut tokenizer = read_json(&model.join("tokenizer.json"));
    let token = json!({"id": rows, "content": "zyx", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    // Ids of added tokens must be contiguous up to the new one.
    let vocab = tokenizer["model"]["vocab"].clone();
    let known = vocab.as_object().map_or_else(|| vocab.as_array().unwrap().len(), Map::len);
    if let Value::Object(vocab) = &mut tokenizer["model"]["vocab"] {
        for id in known..rows {
            vocab.insert(format!("[filler{id}]"), id.into());
        }
    } else {
        let vocab = tokenizer["model"]["vocab"].as_array_mut().unwrap();
        vocab.extend((known..rows).map(|id| json!([format!("[filler{id}]"), -99.0])));
    }
    fixture.file("model/tokenizer.json", tokenizer.to_string());
    (model, rows)
}

#[test]
fn a_token_beyond_the_table_fails_its_row_alone() {
    let pair = json!({"text": "text", "text_pair": "text"});
    let cases = [
        ("feature-extraction", "tasks/bert-mlm", json!({"input": "text"})),
        ("text-classification", "tasks/distilbert-sentiment", json!({"input": "text"})),
        ("text-classification", "tasks/roberta-sentiment", json!({"input": pair})),
        (
            "zero-shot-classification",
            "tasks/bert-nli",
            json!({"input": "text", "candidate_labels": ["a", "b"]}),
        ),
        ("rerank", "tasks/bert-rerank", json!({"input": {"query": "text", "document": "text"}})),
        ("token-classification", "tasks/bert-ner", json!({"input": "text"})),
        (
            "question-answering",
            "tasks/bert-qa",
            json!({"input": {"question": "fixed", "context": "text"}}),
        ),
        ("sparse-encoding", "tasks/bert-splade", json!({"input": "text"})),
        (
            "multiple-choice",
            "tasks/bert-choice",
            json!({"input": {"prompt": "fixed", "choices": ["text", "fixed"]}}),
        ),
        ("next-sentence-prediction", "tasks/bert-next", json!({"input": pair})),
        ("text-generation", "tasks/gpt2", json!({"input": "text", "max_new_tokens": 2})),
        ("loglikelihood", "tasks/gpt2", json!({"input": "text"})),
        ("text2text-generation", "tasks/t5", json!({"input": "text", "max_new_tokens": 2})),
    ];
    let rows = ["boats", "boats zyx boats", "the sea"];
    let rows = rows.map(|text| json!({"text": text, "fixed": "the harbour"}));
    for (task, base, mut step) in cases {
        let fixture = Fixture::new();
        let (model, id) = with_added_token(&fixture, base);
        step["model"] = json!(model);
        let error = run_plain(&fixture, task, &step, &rows).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Data, "{task} {base}: {text}");
        for part in
            ["`zyx`".to_owned(), format!("id {id}"), format!("{id} rows"), "row 2".to_owned()]
        {
            assert!(text.contains(&part), "{task} {base}: no `{part}` in {text}");
        }
        let on_error = json!({"on_error": {"rows": "null"}});
        let kept = run(&fixture, task, &step, &rows, &on_error).unwrap();
        let nulls: Vec<bool> = kept.iter().map(Value::is_null).collect();
        assert_eq!(nulls, [false, true, false], "{task} {base}");
    }
}

#[test]
fn a_target_of_fill_mask_beyond_the_table_is_refused() {
    let fixture = Fixture::new();
    let (model, id) = with_added_token(&fixture, "tasks/bert-mlm");
    let step = json!({"model": model, "input": "text", "targets": ["zyx"]});
    let rows = [json!({"text": "boats on [MASK]"})];
    let error = run_plain(&fixture, "fill-mask", &step, &rows).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains(&format!("the id {id}")), "{error}");
}

#[test]
fn segments_that_the_model_does_not_know_fail_their_rows() {
    let fixture = Fixture::new();
    let model = changed_model(&fixture, &golden("tasks/roberta-sentiment"), &json!({}));
    let names = json!({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]});
    let mut tokenizer = read_json(&model.join("tokenizer_config.json"));
    tokenizer.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
    fixture.file("model/tokenizer_config.json", tokenizer.to_string());
    let mut saved = read_json(&model.join("tokenizer.json"));
    // A template that gives the second text its own segment.
    let piece = |name: &str, segment: usize| json!({"Sequence": {"id": name, "type_id": segment}});
    saved["post_processor"] = json!({"type": "TemplateProcessing", "single": [piece("A", 0)],
        "pair": [piece("A", 0), piece("B", 1)], "special_tokens": {}});
    fixture.file("model/tokenizer.json", saved.to_string());
    let step = json!({"model": model, "input": {"text": "a", "text_pair": "b"}});
    let error = run_plain(&fixture, "text-classification", &step, &[json!({"a": "x", "b": "y"})]);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(
        error.to_string().contains("segment 1") && error.to_string().contains("1 rows"),
        "{error}"
    );
}

#[test]
fn a_label_is_that_of_its_id() {
    let base = golden("tasks/bert-sentiment");
    let fixture = Fixture::new();
    let rows: Vec<Value> =
        ["boats on the sea", "x", "the harbour of Porto"].map(|text| json!({"text": text})).into();
    let plain =
        run_plain(&fixture, "text-classification", &json!({"model": base, "input": "text"}), &rows);
    let plain = plain.unwrap();
    let labels = read_json(&base.join("config.json"))["id2label"].clone();
    let ids: Vec<String> = labels.as_object().unwrap().keys().cloned().collect();
    let chosen = plain[0]["label"].as_str().unwrap();
    let id = ids.iter().find(|id| labels[*id] == *chosen).unwrap();
    let others: Vec<&String> = ids.iter().filter(|other| *other != id).collect();

    // One of the other labels has a distant id; a chosen row keeps its own label.
    let mut gap = Map::new();
    gap.insert(id.clone(), "chosen".into());
    for (place, other) in others.iter().enumerate() {
        gap.insert(if place == 0 { "77".to_owned() } else { (*other).clone() }, "other".into());
    }
    let relabelled = |labels: Map<String, Value>| {
        let fixture = Fixture::new();
        let model = changed_model(&fixture, &base, &json!({"config.json": {"id2label": labels}}));
        run_plain(
            &fixture,
            "text-classification",
            &json!({"model": model, "input": "text"}),
            &rows[..1],
        )
    };
    let ours = relabelled(gap).unwrap();
    assert_eq!(ours[0]["label"], "chosen");
    assert_eq!(ours[0]["score"], plain[0]["score"]);

    // A chosen row without a label is an error that names the id.
    let mut missing = Map::new();
    missing.insert("99".to_owned(), "far".into());
    missing.extend(others.iter().map(|other| ((*other).clone(), "other".into())));
    let error = relabelled(missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains(&format!("no label for {id}")), "{error}");
}

#[test]
fn templates_of_zero_shot_are_pythons() {
    let model = golden("tasks/bert-nli");
    let fixture = Fixture::new();
    let of = |template: &str| -> Result<Vec<Value>, Error> {
        let step = json!({"model": model, "input": "text", "candidate_labels": ["ships", "rain"],
            "hypothesis_template": template});
        run_plain(
            &fixture,
            "zero-shot-classification",
            &step,
            &[json!({"text": "boats on the sea"})],
        )
    };
    assert_eq!(of("This is {0}.").unwrap(), of("This is {}.").unwrap());
    assert_eq!(of("This is {{{}}}.").unwrap(), of("This is {{{0!s}}}.").unwrap());
    assert_ne!(of("This is {{{}}}.").unwrap(), of("This is {}.").unwrap());
    for template in ["This is it.", "{} and {}", "{label}", "{", "{{}}", "{1}"] {
        let error = of(template).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{template}");
        assert!(error.to_string().contains("hypothesis_template"), "{error}");
    }
}
