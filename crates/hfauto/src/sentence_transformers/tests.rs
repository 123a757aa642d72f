//! Static embeddings, multi-vector encoders and embedders with settings of their own against `tests/golden/static`, `multi-vector`
//! and `embedders`.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::{Map, Value};

use super::{
    EmbedOptions, MultiVectorEncoder, SentenceTransformer, StaticEncoder, StaticModel,
    StaticOptions,
};
use crate::auto::{AutoTokenizer, ModelDtype, SentenceTransformerConfig};
use crate::error::{ErrorKind, Result};
use crate::hub::Snapshot;

fn goldens(kind: &str) -> Vec<(String, PathBuf, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(kind);
    let entries = std::fs::read_dir(root).unwrap();
    let mut all: Vec<_> = entries
        .map(|entry| {
            let dir = entry.unwrap().path();
            let bytes = std::fs::read(dir.join("golden.json")).unwrap();
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            (name, dir, serde_json::from_slice(&bytes).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn texts(json: &Value, key: &str) -> Vec<String> {
    serde_json::from_value(json[key].clone()).unwrap()
}

fn describe(dir: &Path) -> Result<(SentenceTransformerConfig, AutoTokenizer)> {
    let config = SentenceTransformerConfig::from_snapshot(&Snapshot::local(dir)?, &Map::new())?;
    let tokenizer = config.tokenizer()?;
    Ok((config, tokenizer))
}

/// The largest difference of two lists of vectors, which have the same shape.
fn worst(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) -> f32 {
    let shape = |vectors: &[Vec<f32>]| vectors.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(shape(found), shape(expected), "{what}");
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn static_embeddings_equal_those_of_the_libraries() {
    let goldens = goldens("static");
    assert!(goldens.len() >= 7, "{} goldens", goldens.len());
    for (name, dir, json) in goldens {
        let (config, tokenizer) = describe(&dir).unwrap();
        let rows = texts(&json, "texts");
        for case in json["cases"].as_array().unwrap() {
            let options = &case["options"];
            let prompt_name = options["prompt_name"].as_str();
            let prompt = config.prompt_text(options["prompt"].as_str(), prompt_name).unwrap();
            let count = |key: &str| options[key].as_u64().map(|n| n as usize);
            let all = options.get("max_length").is_some_and(Value::is_null);
            let truncate_dim = count("dimensions");
            let settings = StaticOptions {
                max_length: if all { Some(usize::MAX) } else { count("max_length") },
                refuse_longer: false,
                normalize: options["normalize"].as_bool().filter(|_| truncate_dim.is_none()),
                truncate_dim,
                normalize_truncated: options["normalize"] == true && truncate_dim.is_some(),
            };
            let encoder = StaticEncoder::load(&config, &tokenizer, settings).unwrap();
            let mut scratch = Vec::new();
            let vectors: Vec<Vec<f32>> = rows
                .iter()
                .map(|text| {
                    let mut vector = vec![f32::NAN; encoder.dimensions()];
                    let text = format!("{prompt}{text}");
                    encoder.encode_into(&tokenizer, &text, &mut scratch, &mut vector).unwrap();
                    vector
                })
                .collect();
            let expected: Vec<Vec<f32>> = serde_json::from_value(case["vectors"].clone()).unwrap();
            let what = format!("{name} {options}");
            let off = worst(&vectors, &expected, &what);
            // A step of float16 near 2, and the rounding of sums of int8 near 100.
            let most = if name.ends_with("f16") {
                1e-3
            } else if name.ends_with("quantized") {
                2e-5
            } else {
                1e-6
            };
            assert!(off <= most, "{what}: off by {off:e}");
        }
    }
}

#[test]
fn texts_that_are_too_long_are_cut_or_refused() {
    let (_, dir, _) = goldens("static").remove(0);
    let (config, tokenizer) = describe(&dir).unwrap();
    let options = StaticOptions { max_length: Some(3), ..StaticOptions::default() };
    let encoder = StaticEncoder::load(&config, &tokenizer, options).unwrap();
    let mut vector = vec![0.0; encoder.dimensions()];
    let mut row = |encoder: &StaticEncoder, text| {
        encoder.encode_into(&tokenizer, text, &mut Vec::new(), &mut vector)
    };
    let cut = row(&encoder, "the film, the film, the film").unwrap();
    assert!(cut.truncated && cut.tokens <= 3, "{cut:?}");
    assert!(!row(&encoder, "the").unwrap().truncated);
    let options = StaticOptions { refuse_longer: true, ..options };
    let encoder = StaticEncoder::load(&config, &tokenizer, options).unwrap();
    let error = row(&encoder, "the film, the film, the film").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("expected at most 3"), "{error}");
}

#[test]
fn damaged_tables_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_, golden, _) = goldens("static").into_iter().find(|(n, ..)| n == "model2vec").unwrap();
    let copy = |config: &Value, tensors: &[(&str, safetensors::Dtype, Vec<usize>)]| {
        std::fs::copy(golden.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let size = |dtype: &safetensors::Dtype, shape: &[usize]| {
            vec![0u8; shape.iter().product::<usize>() * dtype.bitsize() / 8]
        };
        let bytes: Vec<_> = tensors.iter().map(|(_, dtype, shape)| size(dtype, shape)).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
            let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
            (*name, view.unwrap())
        });
        let path = dir.path().join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        let (config, tokenizer) = describe(dir.path())?;
        StaticEncoder::load(&config, &tokenizer, StaticOptions::default()).map(drop)
    };
    use safetensors::Dtype::{F32, I64};
    let config = serde_json::json!({"model_type": "model2vec"});
    let tokens = AutoTokenizer::from_tokenizer_json(&Snapshot::local(&golden).unwrap())
        .unwrap()
        .total_vocab_size();
    copy(&config, &[("embeddings", F32, vec![tokens, 2])]).unwrap();
    for (tensors, text) in [
        (vec![("other", F32, vec![tokens, 2])], "no tensor `embeddings`"),
        (vec![("embeddings", F32, vec![tokens])], "expected two dimensions"),
        (vec![("embeddings", I64, vec![tokens, 2])], "expected floating point or int8"),
        (vec![("embeddings", F32, vec![tokens - 1, 2])], "but the table"),
        (
            vec![("embeddings", F32, vec![tokens, 2]), ("weights", F32, vec![3])],
            "`weights` has 3 numbers",
        ),
        (
            vec![("embeddings", F32, vec![0, 2]), ("mapping", I64, vec![tokens])],
            "row 0 of a table of 0 rows",
        ),
    ] {
        let error = copy(&config, &tensors).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    let wrong = serde_json::json!({"model_type": "model2vec", "max_length": -1});
    let error = copy(&wrong, &[("embeddings", F32, vec![tokens, 2])]).unwrap_err();
    assert!(error.message().contains("`max_length`"), "{error}");
}

#[test]
fn a_static_embedding_is_no_transformer_and_a_transformer_no_table() {
    let (_, dir, _) = goldens("static").remove(0);
    let (config, _) = describe(&dir).unwrap();
    let error = config.clone().with_pooling([crate::nn::PoolingMode::Cls]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let (transformer, config) = (config.transformer, config.config);
    let error = crate::auto::AutoModel::load_snapshot(&transformer, config, None, &Device::Cpu);
    assert!(error.unwrap_err().to_string().contains("no transformer"));
    let error = SentenceTransformer::from_pretrained(dir.to_str().unwrap()).unwrap_err();
    assert!(error.remedy().is_some_and(|hint| hint.contains("StaticModel")), "{error}");
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bert");
    let error = StaticModel::from_pretrained(bert.to_str().unwrap()).unwrap_err();
    assert!(error.message().contains("no static embedding"), "{error}");
    let error = MultiVectorEncoder::from_pretrained(bert.to_str().unwrap()).unwrap_err();
    assert!(error.message().contains("several vectors"), "{error}");
}

/// f32 after a few layers, of unit vectors or numbers of order 1.
const CLOSE: f32 = 1e-5;

#[test]
fn multi_vector_encoders_equal_those_of_sentence_transformers() {
    let goldens = goldens("multi-vector");
    assert!(goldens.len() >= 9, "{} goldens", goldens.len());
    for (name, dir, json) in goldens {
        let model = MultiVectorEncoder::from_pretrained(dir.to_str().unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (queries, documents) = (texts(&json, "query texts"), texts(&json, "document texts"));
        let queries = model.encode_query(&queries).unwrap();
        let documents = model.encode_document(&documents).unwrap();
        for (key, found) in [("queries", &queries), ("documents", &documents)] {
            let expected: Vec<Vec<Vec<f32>>> = serde_json::from_value(json[key].clone()).unwrap();
            assert_eq!(found.len(), expected.len(), "{name} {key}");
            for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{name} {key} {row}");
                let off = worst(found, expected, &what);
                assert!(off < CLOSE, "{what}: off by {off:e}");
            }
        }
        for (row, query) in queries.iter().enumerate() {
            for (column, document) in documents.iter().enumerate() {
                let expected = json["scores"][row][column].as_f64().unwrap() as f32;
                let found = model.similarity(query, document);
                let most = CLOSE * query.len().max(1) as f32 * expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() < most,
                    "{name} {row} {column}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn multi_vectors_do_not_depend_on_other_texts() {
    for (name, dir, json) in goldens("multi-vector") {
        let model = MultiVectorEncoder::from_pretrained(dir.to_str().unwrap()).unwrap();
        let queries = texts(&json, "query texts");
        let together = model.encode_query(&queries).unwrap();
        for (query, together) in queries.iter().zip(&together) {
            assert_eq!(&model.encode_query(&[query]).unwrap()[0], together, "{name} {query}");
        }
    }
}

/// A model of `embedders/`, with the adapter of a task if one is named.
fn embedder(dir: &Path, default_task: Option<&Value>) -> Result<SentenceTransformer> {
    let builder = SentenceTransformer::builder(dir.to_string_lossy());
    match default_task {
        None => builder.load(),
        Some(task) => {
            let config = Map::from_iter([("default_task".to_owned(), task.clone())]);
            builder.config(config).load()
        }
    }
}

#[test]
fn embedders_equal_sentence_transformers_with_prompts_and_tasks() {
    let goldens = goldens("embedders");
    assert!(goldens.len() >= 3, "{} goldens", goldens.len());
    for (name, dir, json) in goldens {
        let rows = texts(&json, "texts");
        for case in json["cases"].as_array().unwrap() {
            let options = &case["options"];
            let model = embedder(&dir, options.get("default_task")).unwrap();
            assert_eq!(model.model().report().unused, [""; 0], "{name}");
            let settings = EmbedOptions {
                prompt_name: options["prompt_name"].as_str().map(str::to_owned),
                truncate_dim: options["truncate_dim"].as_u64().map(|n| n as usize),
                ..EmbedOptions::default()
            };
            let expected: Vec<Vec<f32>> = serde_json::from_value(case["vectors"].clone()).unwrap();
            let what = format!("{name} {options}");
            let found = model.encode_with(&rows, &settings).unwrap();
            let off = worst(&found, &expected, &what);
            assert!(off < 2e-6, "{what}: {off:e}");
            let reversed: Vec<_> = rows.iter().rev().cloned().collect();
            let mut again = model.encode_with(&reversed, &settings).unwrap();
            again.reverse();
            assert_eq!(again, found, "{what}");
        }
    }
}

#[test]
fn a_directory_names_its_task_and_an_unknown_one_is_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/embedders/jina-v3");
    let encode = |model: &SentenceTransformer| model.encode(&["The room was quiet."]).unwrap();
    let own = encode(&embedder(&dir, None).unwrap());
    let separation = embedder(&dir, Some(&"separation".into())).unwrap();
    assert_eq!(own, encode(&separation));
    let builder = SentenceTransformer::builder(dir.to_string_lossy());
    let query = builder.default_task("retrieval.query").load().unwrap();
    assert_ne!(own, encode(&query));
    assert_ne!(own, encode(&embedder(&dir, Some(&Value::Null)).unwrap()));
    let error = embedder(&dir, Some(&"retrieval.querry".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("the nearest name is `retrieval.query`"), "{error}");
    let other = dir.with_file_name("jina-v2");
    let error = embedder(&other, Some(&"separation".into())).unwrap_err();
    assert!(error.to_string().contains("`default_task` is not a setting"), "{error}");
}

/// int8 of embedders, with the yardstick of the models' tests: the relative error in the root mean square.
#[test]
fn int8_embeddings_are_close_to_those_in_f32() {
    let rows = ["good", "The room was very quiet.", "The little inn by the harbour was quiet."];
    for (name, dir, json) in goldens("embedders") {
        for case in json["cases"].as_array().unwrap() {
            let task = &case["options"]["default_task"];
            let config = match task {
                Value::Null => Map::new(),
                task => Map::from_iter([("default_task".to_owned(), task.clone())]),
            };
            let builder =
                || SentenceTransformer::builder(dir.to_string_lossy()).config(config.clone());
            let f32 = builder().load().unwrap().encode(&rows).unwrap();
            let int8 = builder().dtype(ModelDtype::Int8).load().unwrap();
            let found = int8.encode(&rows).unwrap();
            let off: f32 = found
                .iter()
                .flatten()
                .zip(f32.iter().flatten())
                .map(|(a, b)| (a - b).powi(2))
                .sum();
            let off = (off / f32.iter().flatten().map(|x| x * x).sum::<f32>()).sqrt();
            println!("{off:.4} {name} {task}");
            assert!(off > 0.0 && off < 0.05, "{name} {task}: {off}");
            // A row alone has the bits that it has among others.
            assert_eq!(int8.encode(&rows[1..2]).unwrap()[0], found[1], "{name} {task}");
        }
    }
}
