//! The overhead of a whole run over its model: tokens per second of `run`, Parquet to Parquet, compared with the bare
//! model loop over the same rows on as many threads; and the overhead of SQL over `run`, as whole programs. Rounds
//! alternate, so that noise on the machine affects all alike; the medians of the ratios count.
//!
//! `HFAUTO_BENCH_MODEL` sets another model directory, `HFAUTO_BENCH_ROWS` another number of rows.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

use std::collections::VecDeque;
use std::future::pending;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use hfauto_pipe::batch::token_budget_batches;
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions};
use hfauto_pipe::tasks::Sequence;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Anything<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = std::env::var("HFAUTO_BENCH_MODEL")
        .unwrap_or_else(|_| repository.join("examples/models/mini-embedder").display().to_string());
    let rows = std::env::var("HFAUTO_BENCH_ROWS").map_or(Ok(20_000), |rows| rows.parse())?;

    let dir = tempfile::tempdir()?;
    write_rows(
        &repository.join("examples/data/reviews.parquet"),
        &dir.path().join("in.parquet"),
        rows,
    )?;
    let pipeline = format!(
        "version: 1\nsource: {{path: in.parquet}}\nsteps:\n\
         - feature-extraction: {{model: '{model}', input: text, output: embedding}}\n\
         sink: {{path: out/}}\n"
    );
    let file = dir.path().join("pipeline.yaml");
    std::fs::write(&file, pipeline)?;

    let runtime = tokio::runtime::Runtime::new()?;
    let (mut taxes, mut sql_taxes) = (Vec::new(), Vec::new());
    println!("{rows} rows, {model}");
    println!(
        "round   bare tokens/s    run tokens/s   run/bare   run seconds   sql seconds   sql/run"
    );
    for round in 1..=ROUNDS {
        let bare = bare_loop(&runtime, &file, &dir.path().join("in.parquet"))?;
        let run = whole_run(&runtime, &file)?;
        let query = format!("SELECT *, embed(text, '{model}') AS embedding FROM 'in.parquet'");
        let [run_seconds, sql_seconds] = [
            &["run", "pipeline.yaml", "--fresh", "--progress", "none"][..],
            &["sql", &query, "-o", "out/", "--fresh"][..],
        ]
        .map(|args| program(dir.path(), args));
        let (run_seconds, sql_seconds) = (run_seconds?, sql_seconds?);
        println!(
            "{round:>5}   {bare:>13.0}   {run:>13.0}   {:>8.3}   {run_seconds:>11.2}   {sql_seconds:>11.2}   {:>7.3}",
            run / bare,
            run_seconds / sql_seconds
        );
        taxes.push(run / bare);
        sql_taxes.push(run_seconds / sql_seconds);
    }
    for (name, ratios) in [("run/bare", &mut taxes), ("sql/run", &mut sql_taxes)] {
        ratios.sort_by(f64::total_cmp);
        println!("median of {name} {:.3}", ratios[ROUNDS / 2]);
    }
    Ok(())
}

/// The run time of the program with these arguments, in seconds.
fn program(dir: &Path, args: &[&str]) -> Anything<f64> {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_hfauto-pipe"))
        .args(args)
        .current_dir(dir)
        .env("HF_HUB_OFFLINE", "1")
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Tokens per second of a job from its first row to its published files, without loading.
fn whole_run(runtime: &tokio::runtime::Runtime, file: &Path) -> Anything<f64> {
    let job = prepare(runtime, file)?;
    job.load_models()?;
    let start = Instant::now();
    let report = runtime.block_on(job.run(pending()))?;
    Ok(report.steps[0].counts.computed_tokens as f64 / start.elapsed().as_secs_f64())
}

/// Tokens per second of forward passes alone, over batches of whole windows of `sort_window_rows`.
fn bare_loop(runtime: &tokio::runtime::Runtime, file: &Path, rows: &Path) -> Anything<f64> {
    let job = prepare(runtime, file)?;
    let step = &job.steps()[0];
    let (models, settings) = (step.models()?, step.settings());
    let max_batch_tokens = step.max_batch_tokens();
    let mut encoded: Vec<Sequence> = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(rows)?)?.build()? {
        let rows = step.task().encode(batch?.columns(), 0)?;
        encoded.extend(rows.into_iter().flatten().flat_map(|row| row.sequences));
    }
    let mut batches: VecDeque<Vec<&Sequence>> = VecDeque::new();
    for window in encoded.chunks(settings.sort_window_rows) {
        let lengths: Vec<usize> = window.iter().map(Sequence::tokens).collect();
        for batch in token_budget_batches(&lengths, max_batch_tokens, settings.workers) {
            batches.push_back(batch.into_iter().map(|row| &window[row]).collect());
        }
    }
    let tokens: usize = encoded.iter().map(Sequence::tokens).sum();
    let queue = Mutex::new(batches);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..settings.workers {
            scope.spawn(|| {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
                let next = || queue.lock().ok()?.pop_front();
                while let (Ok(pool), Some(batch)) = (&pool, next()) {
                    if let Err(error) = pool.install(|| models[0].forward(&batch, max_batch_tokens))
                    {
                        eprintln!("{error}");
                    }
                }
            });
        }
    });
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

fn prepare(runtime: &tokio::runtime::Runtime, file: &Path) -> Anything<Job> {
    let pipeline = config::load(file, &LoadOptions::default())?;
    let options = JobOptions { overwrite: true, ..JobOptions::default() };
    let hub = Hub::new(HubSettings::from_env().with_offline(true));
    Ok(runtime.block_on(Job::prepare(pipeline, options, Arc::new(hub)))?)
}

/// The sample texts repeated, each time with a small change, so that none occurs twice.
fn write_rows(sample: &Path, file: &Path, rows: usize) -> Anything<()> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(sample)?)?.build()?;
    let mut texts = Vec::new();
    for batch in reader {
        let batch = batch?;
        let column = arrow::compute::cast(&batch["text"], &DataType::Utf8)?;
        texts.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    let texts = StringArray::from_iter_values(
        (0..rows).map(|row| format!("{} {}", texts[row % texts.len()], row / texts.len())),
    );
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
    let mut writer = ArrowWriter::try_new(std::fs::File::create(file)?, Arc::clone(&schema), None)?;
    writer.write(&RecordBatch::try_new(schema, vec![Arc::new(texts) as Arc<dyn Array>])?)?;
    writer.close()?;
    Ok(())
}
