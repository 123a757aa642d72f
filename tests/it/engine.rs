//! The engine through the library: order, determinism, batches, and pushdown by the optimizer.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions, RunReport};
use hfauto_pipe::sink::Shard;

use super::support::{Fixture, embed_pipeline, mini_embedder, read_parquet, sample_rows};

fn offline_hub() -> Arc<Hub> {
    Arc::new(Hub::new(HubSettings::from_env().with_offline(true)))
}

/// Runs a pipeline text in a folder. Returns the rows and the report.
fn run(fixture: &Fixture, name: &str, text: &str) -> (RecordBatch, RunReport) {
    let out = fixture.path(&format!("{name}.parquet"));
    let set = vec![("sink.path".to_owned(), out.display().to_string())];
    let file = fixture.path("pipeline.yaml");
    std::fs::write(&file, text).unwrap();
    let pipeline = config::load(&file, &LoadOptions { set, ..LoadOptions::default() }).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), offline_hub()).await.unwrap();
        job.run(pending()).await.unwrap()
    });
    (read_parquet(&out), report)
}

fn sample_pipeline(more: &str) -> String {
    embed_pipeline(&mini_embedder(), sample_rows().to_str().unwrap(), "out", more)
}

fn embeddings(batch: &RecordBatch) -> ArrayRef {
    Arc::clone(batch.column_by_name("embedding").unwrap())
}

/// The largest difference between two embedding columns; nulls must agree.
fn difference(a: &ArrayRef, b: &ArrayRef) -> f32 {
    let (a, b) = (a.as_fixed_size_list(), b.as_fixed_size_list());
    assert_eq!(a.len(), b.len());
    let mut largest = 0f32;
    for row in 0..a.len() {
        assert_eq!(a.is_null(row), b.is_null(row), "row {row}");
        if a.is_valid(row) {
            let (a, b) = (a.value(row), b.value(row));
            let pairs = a
                .as_primitive::<arrow::datatypes::Float32Type>()
                .values()
                .iter()
                .zip(b.as_primitive::<arrow::datatypes::Float32Type>().values());
            for (a, b) in pairs {
                largest = largest.max((a - b).abs());
            }
        }
    }
    largest
}

#[test]
fn rows_keep_their_order() {
    let fixture = Fixture::new();
    // Windows and batches so small that every row is reordered.
    let (output, _) =
        run(&fixture, "a", &sample_pipeline("run: {sort_window_rows: 100, max_batch_tokens: 64}"));
    let input = read_parquet(&sample_rows());
    assert_eq!(output.column(0), input.column(0));
}

#[test]
fn windows_batches_and_workers_do_not_change_results() {
    let fixture = Fixture::new();
    let (expected, _) = run(&fixture, "expected", &sample_pipeline("run: {workers: 1}"));
    for (name, settings) in [
        ("small", "run: {sort_window_rows: 17, max_batch_tokens: 40, workers: 3}"),
        ("alone", "run: {sort_window_rows: 500, max_batch_tokens: 1, workers: 2}"),
        ("large", "run: {max_batch_tokens: 65536, workers: 4}"),
    ] {
        let (output, _) = run(&fixture, name, &sample_pipeline(settings));
        let difference = difference(&embeddings(&expected), &embeddings(&output));
        assert!(difference <= 1e-6, "{name}: {difference}");
    }
}

/// A window closes at a dozen batches per worker, so that one is written while the next is computed, unless the task
/// needs a whole window. Only the last batches of a window are partial.
#[test]
fn windows_end_after_a_dozen_batches_for_each_worker() {
    let fixture = Fixture::new();
    let plain = sample_pipeline("run: {max_batch_tokens: 64, workers: 2}");
    let whole = plain.replace("output: embedding", "output: embedding, precision: int8");
    let (plain, whole) = (run(&fixture, "plain", &plain).1, run(&fixture, "whole", &whole).1);
    let (plain, whole) = (plain.steps[0].counts, whole.steps[0].counts);
    assert_eq!(plain.computed_tokens, whole.computed_tokens);
    assert!(plain.batches > whole.batches, "{} {}", plain.batches, whole.batches);
}

#[test]
fn same_settings_same_bytes() {
    let fixture = Fixture::new();
    let first = run(&fixture, "first", &sample_pipeline("run: {workers: 1}")).0;
    let second = run(&fixture, "second", &sample_pipeline("run: {workers: 4}")).0;
    assert_eq!(&embeddings(&first), &embeddings(&second));
    let bytes = |name: &str| std::fs::read(fixture.path(name)).unwrap();
    assert_eq!(bytes("first.parquet"), bytes("second.parquet"));
}

#[test]
fn repeated_texts_are_computed_once_and_nulls_never() {
    let fixture = Fixture::new();
    fixture.file("rows.csv", "id,text\n1,same\n2,\n3,same\n4,other\n5,Same\n");
    let text = sample_pipeline("").replace(sample_rows().to_str().unwrap(), "rows.csv");
    let (output, report) = run(&fixture, "a", &text);
    assert_eq!(output.num_rows(), 5);
    let counts = report.steps[0].counts;
    assert_eq!((counts.rows, counts.null_rows), (5, 1));
    // The model lower-cases: `Same` and `same` have the same tokens.
    assert_eq!(counts.computed_rows, 2);
    let embedding = embeddings(&output);
    let embedding = embedding.as_fixed_size_list();
    assert!(embedding.is_null(1));
    assert_eq!(&embedding.value(0), &embedding.value(2));
    assert_eq!(&embedding.value(0), &embedding.value(4));
    assert_ne!(&embedding.value(0), &embedding.value(3));
}

#[test]
fn cheap_filters_and_limits_run_before_the_model() {
    let fixture = Fixture::new();
    let step = "steps:\n- feature-extraction:";
    let query = |sql: &str| {
        let text = sample_pipeline("");
        let sink = text.find("sink:").unwrap();
        format!("{}- sql: {sql}\n{}", &text[..sink], &text[sink..])
    };
    assert!(query("SELECT 1").contains(step));

    let (output, report) = run(
        &fixture,
        "filter",
        &query("SELECT id, embedding FROM input WHERE lang = 'de' AND embedding IS NOT NULL"),
    );
    let counts = report.steps[0].counts;
    let input = read_parquet(&sample_rows());
    let german =
        input["lang"].as_string::<i32>().iter().filter(|lang| *lang == Some("de")).count() as u64;
    assert_eq!(counts.rows, german);
    assert_eq!(output.num_rows() as u64, german - counts.null_rows);
    assert_eq!(output.schema().fields().len(), 2);

    let (output, report) = run(&fixture, "limit", &query("SELECT * FROM input LIMIT 7"));
    assert_eq!(output.num_rows(), 7);
    assert_eq!(report.steps[0].counts.rows, 7);
}

#[test]
fn a_sql_step_before_the_model_and_two_models() {
    let fixture = Fixture::new();
    let model = mini_embedder();
    let text = format!(
        "version: 1\n\
         models: {{mini: {{repo: '{}'}}}}\n\
         source: {{path: '{}', where: lang = 'en', limit: 50}}\n\
         steps:\n\
         - sql: SELECT id, upper(text) AS loud, text FROM input ORDER BY id DESC\n\
         - feature-extraction: {{model: mini, input: text, output: embedding}}\n\
         - feature-extraction: {{model: mini, input: loud, output: loud_embedding, dimensions: 8}}\n\
         sink: {{path: out}}\n",
        model.display(),
        sample_rows().display(),
    );
    let (output, report) = run(&fixture, "a", &text);
    let ids = output["id"].as_primitive::<Int64Type>();
    assert!(ids.values().windows(2).all(|pair| pair[0] > pair[1]), "order of the query is kept");
    assert_eq!(output["loud_embedding"].as_fixed_size_list().value_length(), 8);
    assert_eq!(report.steps.len(), 2);
    let loud = output["loud_embedding"].as_fixed_size_list();
    let embedding = output["embedding"].as_fixed_size_list();
    for row in 0..output.num_rows() {
        if embedding.is_valid(row) {
            assert_eq!(&embedding.value(row).slice(0, 8), &loud.value(row), "row {row}");
        }
    }
}

#[test]
fn every_string_type_is_text() {
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Schema};

    let fixture = Fixture::new();
    let input = read_parquet(&sample_rows()).slice(0, 60);
    let plain = Arc::clone(&input["text"]);
    let mut expected = None;
    let types = [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8)),
    ];
    for (index, data_type) in types.iter().enumerate() {
        let column = cast(&plain, data_type).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("text", data_type.clone(), true)]));
        let name = format!("rows{index}.arrow");
        let file = std::fs::File::create(fixture.path(&name)).unwrap();
        let mut writer = arrow::ipc::writer::FileWriter::try_new(file, &schema).unwrap();
        writer.write(&RecordBatch::try_new(schema, vec![column]).unwrap()).unwrap();
        writer.finish().unwrap();
        let text = sample_pipeline("").replace(sample_rows().to_str().unwrap(), &name);
        let (output, _) = run(&fixture, &format!("out{index}"), &text);
        assert_eq!(output["text"].data_type(), data_type, "passthrough keeps its type");
        let embedding = embeddings(&output);
        let expected = expected.get_or_insert_with(|| Arc::clone(&embedding));
        assert_eq!(&embedding, expected, "{data_type}");
    }
}

#[test]
fn without_steps_rows_are_copied() {
    let fixture = Fixture::new();
    let text = format!(
        "version: 1\nsource: {{path: '{}'}}\nsink: {{path: out}}\n",
        sample_rows().display()
    );
    let (output, report) = run(&fixture, "copy", &text);
    let input = read_parquet(&sample_rows());
    assert_eq!(output.columns(), input.columns());
    assert_eq!(output.schema().fields(), input.schema().fields());
    assert!(report.steps.is_empty());
}

#[test]
fn a_row_longer_than_allowed_fails_when_truncation_is_off() {
    let fixture = Fixture::new();
    let text =
        sample_pipeline("").replace("output: embedding", "output: embedding, truncation: false");
    let file = fixture.path("pipeline.yaml");
    std::fs::write(&file, text.replace("embedding, ", "embedding, max_length: 16, ")).unwrap();
    let pipeline = config::load(&file, &LoadOptions::default()).unwrap();
    let error = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), offline_hub()).await.unwrap();
        job.run(pending()).await.unwrap_err()
    });
    assert_eq!(error.kind(), hfauto_pipe::ErrorKind::Data);
    let text = error.to_string();
    assert!(text.contains("16") && text.contains("truncation"), "{text}");
    assert!(!Path::new(&fixture.path("out")).join("part-00000.parquet").exists());
}

/// The command line refuses these flags with hints of its own; users of the library are as safe.
#[test]
fn options_that_would_lose_units_are_refused() {
    let fixture = Fixture::new();
    let file = fixture.path("pipeline.yaml");
    let text = sample_pipeline("run: {incremental: new_or_changed}");
    std::fs::write(&file, text).unwrap();
    let error = |options: JobOptions| {
        let pipeline = config::load(&file, &LoadOptions::default()).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            match Job::prepare(pipeline, options, offline_hub()).await {
                Ok(job) => job.run(pending()).await.unwrap_err(),
                Err(error) => error,
            }
        })
    };
    let limited = error(JobOptions { limit: Some(1), ..JobOptions::default() });
    assert_eq!(limited.kind(), hfauto_pipe::ErrorKind::Config);
    assert!(limited.to_string().contains("limit"), "{limited}");
    let shard = Some(Shard { index: 0, count: 2 });
    let shard = error(JobOptions { shard, overwrite: true, ..JobOptions::default() });
    assert_eq!(shard.kind(), hfauto_pipe::ErrorKind::Usage);
    assert!(!fixture.path("out").exists());
}
