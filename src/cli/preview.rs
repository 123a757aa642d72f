//! `hfauto-pipe preview`: the first rows of a pipeline's output as a table, and what the whole run would take. The rows
//! go through the real steps into a temporary file; the pipeline's sink is not touched.

use std::fs::File;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use clap::Args;

use super::PipelineArgs;
use super::job::ModelArgs;
use super::table::{table, terminal_width};
use crate::config::pipeline::{FileFormat, Pipeline};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::job::{Job, JobOptions, PeakMemory, bytes, count, counted, duration};
use crate::report::RunReport;

/// The time for which rows are computed to estimate the time of the whole run.
const TIMED_SECONDS: f64 = 2.0;

/// The most rows that are computed for the estimate.
const MAX_TIMED_ROWS: usize = 5000;

/// The rows whose tokens are counted for the estimate.
const TOKEN_ROWS: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The number of rows of the source.
    #[arg(short = 'n', long, value_name = "N", default_value = "5", value_parser = rows)]
    rows: usize,

    #[command(flatten)]
    models: ModelArgs,
}

/// At least one row.
fn rows(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of rows, from 1".to_owned()),
        Ok(rows) => Ok(rows),
    }
}

impl PreviewArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut pipeline = self.pipeline.load()?;
        self.models.set(&mut pipeline);
        preview(&pipeline, self.rows, self.pipeline.offline)
    }
}

/// Prints the result of the first `rows` rows of the source, and the estimate for all of them.
pub(super) fn preview(pipeline: &Pipeline, rows: usize, offline: bool) -> Result<()> {
    super::block_on(async {
        let hub = Arc::new(super::hub(offline));
        let sample = Sample::of(pipeline, rows, &hub).await?;
        let schema = sample.job.schema();
        let written: usize = sample.batches.iter().map(RecordBatch::num_rows).sum();
        let table = table(&schema, &sample.batches, terminal_width())?;
        super::print(format_args!(
            "{table}{}, nothing is written\n",
            counted(written as u64, "row")
        ))?;
        let estimate = estimate(pipeline, &sample, rows, &hub).await?;
        super::print(format_args!("whole run: {estimate}\n"))
    })
}

/// The result of a pipeline over its first rows.
struct Sample {
    job: Job,
    batches: Vec<RecordBatch>,
    report: RunReport,
}

impl Sample {
    async fn of(pipeline: &Pipeline, rows: usize, hub: &Arc<Hub>) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| {
            Error::new(ErrorKind::Sink, "cannot make a folder for the rows of a preview").source(e)
        })?;
        let output = folder.path().join("rows.arrow");
        let mut pipeline = pipeline.clone();
        pipeline.sink.path.clone_from(&output);
        pipeline.sink.delta = None;
        pipeline.sink.format = FileFormat::Arrow;
        pipeline.sink.compression = None;
        pipeline.sink.partition_by.clear();
        pipeline.run.is_incremental = false;
        pipeline.reuse = None;
        pipeline.on_error.dead_letter = folder.path().join("errors");
        // A few rows are no sample of the rows that fail.
        pipeline.on_error.max_fraction = 1.0;
        let options = JobOptions { limit: Some(rows), ..JobOptions::default() };
        let job = Box::pin(Job::prepare(pipeline, options, Arc::clone(hub))).await?;
        let stop = super::signals::Stop::listen();
        let report = Box::pin(job.run(stop.asked())).await?;
        let unreadable = |e: ArrowError| {
            Error::new(ErrorKind::Internal, "cannot read the rows of a preview").source(e)
        };
        let batches = File::open(&output)
            .map_err(ArrowError::from)
            .and_then(|file| FileReader::try_new_buffered(file, None))
            .and_then(Iterator::collect)
            .map_err(unreadable)?;
        Ok(Self { job, batches, report })
    }
}

/// What the whole run would take, in words.
async fn estimate(
    pipeline: &Pipeline,
    sample: &Sample,
    rows: usize,
    hub: &Arc<Hub>,
) -> Result<String> {
    let Some(total) = sample.job.source().rows else {
        return Ok("the number of rows is not known before they are read".to_owned());
    };
    let mut parts = vec![counted(total, "row")];
    let samples = sample.job.sample_tokens(TOKEN_ROWS).await?;
    let tokens: f64 = samples.iter().flatten().map(|sample| sample.mean).sum();
    if tokens > 0.0 {
        parts.push(format!("about {} tokens", count((tokens * total as f64) as u64)));
    }
    let mut timed = (rows.min(usize::try_from(total).unwrap_or(rows)), &sample.report);
    // A few short rows say little about the speed.
    let second_rows = timed.0 as f64 / sample.report.run_seconds.max(1e-3) * TIMED_SECONDS;
    let second_rows = (second_rows as usize).min(MAX_TIMED_ROWS).min(total as usize);
    let second;
    if second_rows > 2 * timed.0 {
        second = Sample::of(pipeline, second_rows, hub).await?;
        timed = (second_rows, &second.report);
    }
    let (timed_rows, report) = timed;
    let seconds = report.load_seconds + report.run_seconds * total as f64 / timed_rows as f64;
    let by = counted(timed_rows as u64, "row");
    parts.push(format!("about {} (timed over {by})", duration(seconds)));
    if let Some(peak) = PeakMemory::of(sample.job.steps(), &samples, Some(total)) {
        parts.push(format!("about {} of memory", bytes(peak.total())));
    }
    Ok(parts.join(", "))
}
