//! Named entities as a column: a pipeline run from code, with its output as Parquet.
//!
//! ```sh
//! cargo run --release --example named_entities
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use std::path::Path;
use std::sync::Arc;

use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::hub::Hub;
use hfauto_pipe::job::{Job, JobOptions};

/// The pipeline in this repository, with a tiny, untrained model.
const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/token-classification.yaml");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(Path::new("out/named-entities")).map(drop)
}

/// Runs the pipeline into a folder. Returns the number of rows written.
pub(crate) fn run(out: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    let out = std::path::absolute(out)?;
    // The equivalent of `--set` on the command line.
    let set = vec![("sink.path".to_owned(), format!("{}/", out.display()))];
    let pipeline =
        config::load(Path::new(PIPELINE), &LoadOptions { set, ..LoadOptions::default() })?;

    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        let options = JobOptions { overwrite: true, ..JobOptions::default() };
        let job = Job::prepare(pipeline, options, Arc::new(Hub::from_env())).await?;
        // Types are known before any weight is read.
        println!("{}", job.schema());
        job.run(std::future::pending()).await
    })?;
    println!("{report}");
    Ok(report.rows_written)
}
