//! `dtype: int8`: close to f32, independent of the batch, shown in the report, and refused by name where it is not
//! implemented.

use std::future::pending;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use hfauto_pipe::auto::{AutoModel, ModelDtype};
use hfauto_pipe::config::pipeline::Dtype;
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::ErrorKind;
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions, RunReport};
use hfauto_pipe::models::Want;

use super::support::{
    Fixture, embed_pipeline, mini_embedder, read_parquet, repository, sample_rows,
};

fn run(fixture: &Fixture, name: &str, dtype: Dtype, more: &str) -> (RecordBatch, RunReport) {
    let out = fixture.path(&format!("{name}.parquet"));
    let text = embed_pipeline(&mini_embedder(), sample_rows().to_str().unwrap(), "out", more);
    let file = fixture.path("pipeline.yaml");
    std::fs::write(&file, text).unwrap();
    let set = vec![("sink.path".to_owned(), out.display().to_string())];
    let options = LoadOptions { set, ..LoadOptions::default() };
    let mut pipeline = config::load(&file, &options).unwrap();
    for model in pipeline.models_mut() {
        model.dtype = dtype;
    }
    let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await.unwrap();
        job.run(pending()).await.unwrap()
    });
    (read_parquet(&out), report)
}

fn rows(batch: &RecordBatch) -> Vec<Option<Vec<f32>>> {
    let column = batch.column_by_name("embedding").unwrap().as_fixed_size_list();
    let row = |row| column.value(row).as_primitive::<Float32Type>().values().to_vec();
    (0..column.len()).map(|i| column.is_valid(i).then(|| row(i))).collect()
}

fn golden(name: &str) -> std::path::PathBuf {
    repository().join("tests/golden").join(name)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn embeddings_are_close_to_those_of_f32_and_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    let (f32s, report) = run(&fixture, "f32", Dtype::Auto, "");
    assert_eq!(report.steps[0].model.dtype, "f32");
    let (int8, report) = run(&fixture, "int8", Dtype::Int8, "");
    assert_eq!(report.steps[0].model.dtype, "int8");
    let (alone, _) = run(&fixture, "alone", Dtype::Int8, "run: {max_batch_tokens: 1, workers: 2}");
    let (f32s, int8) = (rows(&f32s), rows(&int8));
    assert_eq!(int8, rows(&alone));
    assert_ne!(int8, f32s);
    for (int8, f32) in int8.iter().zip(&f32s) {
        assert_eq!(int8.is_some(), f32.is_some());
        if let (Some(int8), Some(f32)) = (int8, f32) {
            let cosine = cosine(int8, f32);
            assert!(cosine > 0.995, "{cosine}");
        }
    }
}

#[test]
fn the_library_loads_it_and_says_so() {
    let id = golden("bert");
    let id = id.to_str().unwrap();
    let f32 = AutoModel::from_pretrained(id).unwrap();
    let int8 = AutoModel::builder(id).dtype(ModelDtype::Int8).load().unwrap();
    assert_eq!((f32.report().dtype.as_str(), int8.report().dtype.as_str()), ("f32", "int8"));
    assert_eq!(f32.report().parameters, int8.report().parameters);
    assert!(int8.report().bytes < f32.report().bytes);
    let ids = [2u32, 17, 40, 23, 3];
    let states = |model: &AutoModel| {
        let inputs = model.inputs([(&ids[..], &[0; 5][..])]).unwrap();
        let output = model.forward(&inputs, &Want::default()).unwrap();
        let values = output.last_hidden_state.values;
        values.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let cosine = cosine(&states(&f32), &states(&int8));
    assert!(cosine > 0.995 && cosine < 1.0, "{cosine}");
}

#[test]
fn unsupported_uses_of_int8_and_f16_are_refused_by_name() {
    let load = |folder: &str, dtype: ModelDtype| {
        AutoModel::builder(golden(folder).to_str().unwrap()).dtype(dtype).load()
    };
    let error = load("heads/vit/model", ModelDtype::Int8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.message(), "dtype `int8` is not implemented for model_type `vit`");
    assert!(error.remedy().unwrap().contains("except beit, clip, "), "{error}");
    let error = load("bert", candle_core::DType::F16.into()).unwrap_err();
    assert!(error.message().contains("`f16` is not implemented on a CPU"), "{error}");
    assert!(load("heads/vit/model", candle_core::DType::BF16.into()).is_ok());
}
