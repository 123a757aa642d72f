//! `feature-extraction` from text column to output column, against the goldens of sentence-transformers
//! and transformers: tokens, batches, modules, options and Arrow layout all at once.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float16Type, Float32Type, Int8Type, UInt8Type};
use candle_core::{DType, Device, Tensor};
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::hub::{Hub, HubSettings, Weights};
use hfauto_pipe::job::{Job, JobOptions};
use serde_json::{Value, json};

use super::parity::Tolerance;
use super::support::{Fixture, mini_embedder, repository, skip};

fn golden_dir(case: &str) -> PathBuf {
    repository().join("tests/golden").join(case)
}

fn golden_texts(case: &str) -> Vec<String> {
    let text = std::fs::read_to_string(golden_dir(case).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn golden_tensor(case: &str, name: &str) -> Tensor {
    let weights = Weights::open(&[golden_dir(case).join("golden.safetensors")]).unwrap();
    weights.tensor(name, DType::F32, &Device::Cpu).unwrap()
}

/// The output column for `texts`, by a pipeline with one step with these options.
fn column(model: &Path, texts: &[String], options: Value) -> Result<ArrayRef, hfauto_pipe::Error> {
    let fixture = Fixture::new();
    let rows: Vec<String> = texts.iter().map(|text| json!({"text": text}).to_string()).collect();
    fixture.file("rows.jsonl", rows.join("\n") + "\n");
    let mut step = json!({"model": model, "input": "text", "output": "out"});
    step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    // JSON is YAML.
    let pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{"feature-extraction": step}],
        "sink": {"path": "out.parquet"},
        "run": {"max_batch_tokens": 64},
    });
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
        job.run(pending()).await
    })?;
    let out = fixture.parquet("out.parquet");
    assert_eq!(out.num_rows(), texts.len());
    Ok(Arc::clone(&out["out"]))
}

fn matrix(column: &ArrayRef) -> Tensor {
    let list = column.as_fixed_size_list();
    let values = list.values().as_primitive::<Float32Type>().values().to_vec();
    let shape = (list.len(), list.value_length() as usize);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[track_caller]
fn check(case: &str, options: Value, expected: &str) {
    let ours = column(&golden_dir(case), &golden_texts(case), options.clone()).unwrap();
    let expected = golden_tensor(case, expected);
    let compared = Tolerance::Close.check(&matrix(&ours), &expected);
    assert_eq!(compared, Ok(()), "{case} with {options}");
}

#[test]
fn sentence_embeddings() {
    for case in [
        "st-cls",
        "st-dense",
        "st-dense-identity",
        "st-distilbert",
        "st-lasttoken",
        "st-max-seq-length",
        "st-mean-normalize",
        "st-mpnet",
        "st-multi-pooling",
        "st-new-multi-pooling",
        "st-new-pooling",
        "st-prompts",
        "st-prompts-exclude",
        "st-weightedmean",
    ] {
        check(case, json!({}), "sentence_embedding");
    }
}

#[test]
fn text_is_taken_as_newer_sentence_transformers_take_it() {
    check("st-roberta", json!({}), "unstripped");
    check("st-do-lower-case", json!({}), "normalizer");
}

#[test]
fn prompts_by_name_by_text_and_none() {
    for case in ["st-prompts", "st-prompts-exclude"] {
        check(case, json!({"prompt_name": "query"}), "query");
        check(case, json!({"prompt": "a film: "}), "explicit");
    }
    check("st-prompts", json!({"prompt": ""}), "none");
    let texts = golden_texts("st-prompts");
    let options = json!({"prompt_name": "qeury"});
    let error = column(&golden_dir("st-prompts"), &texts, options).unwrap_err().to_string();
    assert!(error.contains("`qeury`") && error.contains("query"), "{error}");
}

#[test]
fn tasks_of_jina_embeddings_v3_select_an_adapter() {
    let dir = golden_dir("embedders/jina-v3");
    let golden = std::fs::read_to_string(dir.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts = golden_texts("embedders/jina-v3");
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let mut options = case["options"].as_object().unwrap().clone();
        // The directory names a task, which a step can only replace.
        let Some(Value::String(task)) = options.remove("default_task") else { continue };
        options.insert("task".to_owned(), task.into());
        if let Some(dimensions) = options.remove("truncate_dim") {
            options.insert("dimensions".to_owned(), dimensions);
        }
        let vectors: Vec<Vec<f32>> = serde_json::from_value(case["vectors"].clone()).unwrap();
        let expected = Tensor::new(vectors, &Device::Cpu).unwrap();
        let ours = column(&dir, &texts, Value::Object(options.clone())).unwrap();
        assert_eq!(Tolerance::Close.check(&matrix(&ours), &expected), Ok(()), "{options:?}");
        compared += 1;
    }
    assert_eq!(compared, 3);
    let error = column(&dir, &texts, json!({"task": "retrieval.querry"})).unwrap_err().to_string();
    assert!(error.contains("`task`") && error.contains("`retrieval.query`"), "{error}");
    let other = golden_dir("st-cls");
    let error = column(&other, &texts, json!({"task": "separation"})).unwrap_err().to_string();
    assert!(error.contains("`default_task` is not a setting of model_type `bert`"), "{error}");
}

#[test]
fn dimensions_cut_after_normalize() {
    check("st-mean-normalize", json!({"dimensions": 8}), "truncate_8");
    check(
        "st-mean-normalize",
        json!({"dimensions": 8, "normalize": true}),
        "truncate_8_normalized",
    );
    let texts = golden_texts("st-mean-normalize");
    let options = json!({"dimensions": 33});
    let error = column(&golden_dir("st-mean-normalize"), &texts, options).unwrap_err();
    assert!(error.to_string().contains("33"), "{error}");
}

#[test]
fn explicit_pooling_replaces_the_models() {
    // The same weights with another pooling: the first block of cls + max + mean + mean_sqrt_len_tokens.
    let case = "st-multi-pooling";
    let expected = golden_tensor(case, "sentence_embedding");
    for (index, pooling) in ["cls", "max", "mean", "mean_sqrt_len_tokens"].into_iter().enumerate() {
        let ours = column(&golden_dir(case), &golden_texts(case), json!({"pooling": pooling}));
        let block = expected.narrow(1, index * 32, 32).unwrap();
        assert_eq!(Tolerance::Close.check(&matrix(&ours.unwrap()), &block), Ok(()), "{pooling}");
    }
}

#[test]
fn precisions() {
    let case = "st-mean-normalize";
    let texts = golden_texts(case);
    let bytes = |precision: &str| -> Vec<f32> {
        let column = column(&golden_dir(case), &texts, json!({"precision": precision})).unwrap();
        let values = column.as_fixed_size_list().values();
        if precision.starts_with('u') {
            let bytes = values.as_primitive::<UInt8Type>().values();
            return bytes.iter().map(|&byte| f32::from(byte)).collect();
        }
        values.as_primitive::<Int8Type>().values().iter().map(|&byte| f32::from(byte)).collect()
    };
    let expected =
        |name| golden_tensor(case, name).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(bytes("binary"), expected("binary"));
    assert_eq!(bytes("ubinary"), expected("ubinary"));
    // A value at the edge of a bucket may fall on either side.
    let (uint8, uint8_expected) = (bytes("uint8"), expected("uint8"));
    assert_eq!(uint8.len(), uint8_expected.len());
    let apart: Vec<f32> = uint8.iter().zip(&uint8_expected).map(|(a, b)| (a - b).abs()).collect();
    assert!(apart.iter().all(|apart| *apart <= 1.0), "{apart:?}");
    let same = apart.iter().filter(|apart| **apart == 0.0).count();
    assert!(same * 100 >= apart.len() * 95, "{same} of {} are equal", apart.len());
    // The buckets of sentence-transformers 6.2; the goldens' own int8 (5.2) is truncated towards 0.
    assert_eq!(bytes("int8"), uint8.iter().map(|bucket| bucket - 128.0).collect::<Vec<_>>());

    let halves = column(&golden_dir(case), &texts, json!({"precision": "f16"})).unwrap();
    let singles = column(&golden_dir(case), &texts, json!({})).unwrap();
    let halves = halves.as_fixed_size_list().values().as_primitive::<Float16Type>().clone();
    let singles = singles.as_fixed_size_list().values().as_primitive::<Float32Type>().clone();
    let rounded: Vec<_> = singles.values().iter().map(|&x| half::f16::from_f32(x)).collect();
    assert_eq!(halves.values().to_vec(), rounded);
}

/// Row `row` of nested lists as a flat tensor of the golden's shape.
fn row_values(column: &ArrayRef, row: usize) -> Vec<f32> {
    let mut values = column.slice(row, 1);
    loop {
        values = match values.data_type() {
            arrow::datatypes::DataType::List(_) => {
                let list = values.as_list::<i32>();
                let (start, end) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
                list.values().slice(start as usize, (end - start) as usize)
            }
            arrow::datatypes::DataType::FixedSizeList(_, size) => {
                let list = values.as_fixed_size_list();
                let start = list.offset() * *size as usize;
                list.values().slice(start, list.len() * *size as usize)
            }
            _ => return values.as_primitive::<Float32Type>().values().to_vec(),
        };
    }
}

#[test]
fn token_embeddings() {
    let case = "st-mean-normalize";
    let texts = golden_texts(case);
    let ours = column(&golden_dir(case), &texts, json!({"pooling": "none"})).unwrap();
    for row in 0..texts.len() {
        let expected = golden_tensor(case, &format!("token_embeddings.{row}"));
        let values = row_values(&ours, row);
        let ours = Tensor::from_vec(values, expected.shape(), &Device::Cpu).unwrap();
        assert_eq!(Tolerance::Close.check(&ours, &expected), Ok(()), "row {row}");
    }
}

#[test]
fn model_outputs_in_one_struct() {
    for case in ["bert", "distilbert", "mpnet", "roberta", "xlm-roberta", "camembert"] {
        let texts = golden_texts(case);
        let mut outputs = vec!["last_hidden_state", "hidden_states", "attentions"];
        let pooled = case == "bert";
        if pooled {
            outputs.push("pooler_output");
        }
        let ours = column(&golden_dir(case), &texts, json!({"outputs": outputs})).unwrap();
        let ours = ours.as_struct();
        // Other readers of Parquet reject a null struct over a non-nullable field.
        assert!(ours.fields().iter().all(|field| field.is_nullable()));
        let full = ["bert", "distilbert", "mpnet", "roberta"].contains(&case);
        for row in 0..texts.len() {
            for name in &outputs[..if full { 3 } else { 2 }] {
                let expected = golden_tensor(case, &format!("{name}.{row}"));
                let values = row_values(ours.column_by_name(name).unwrap(), row);
                let ours = Tensor::from_vec(values, expected.shape(), &Device::Cpu).unwrap();
                let compared = Tolerance::Close.check(&ours, &expected);
                assert_eq!(compared, Ok(()), "{case}: {name} of row {row}");
            }
        }
        if pooled {
            let ours = matrix(ours.column_by_name("pooler_output").unwrap());
            let compared = Tolerance::Close.check(&ours, &golden_tensor(case, "pooler_output"));
            assert_eq!(compared, Ok(()), "{case}: pooler_output");
        }
    }
}

#[test]
fn a_pooler_that_is_not_there_is_refused() {
    let texts = golden_texts("distilbert");
    let options = json!({"outputs": ["pooler_output"]});
    let error = column(&golden_dir("distilbert"), &texts, options).unwrap_err();
    assert_eq!(error.kind(), hfauto_pipe::ErrorKind::Config);
    assert!(error.to_string().contains("pooler"), "{error}");
}

#[test]
fn the_model_of_the_repository() {
    let ours = column(&mini_embedder(), &golden_texts("mini-embedder"), json!({})).unwrap();
    let expected = golden_tensor("mini-embedder", "sentence_embedding");
    assert_eq!(Tolerance::Close.check(&matrix(&ours), &expected), Ok(()));
}

/// The real all-MiniLM-L6-v2, which is not in the repository: `HFAUTO_MINILM` names its directory.
#[test]
fn all_minilm_l6_v2() {
    let Ok(model) = std::env::var("HFAUTO_MINILM") else {
        skip("HFAUTO_MINILM does not name the directory of all-MiniLM-L6-v2");
        return;
    };
    let ours = column(Path::new(&model), &golden_texts("minilm"), json!({})).unwrap();
    let expected = golden_tensor("minilm", "sentence_embedding");
    assert_eq!(Tolerance::Close.check(&matrix(&ours), &expected), Ok(()));
}
