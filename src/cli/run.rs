//! `hfauto-pipe run`: rows from source to sink, with progress, a report and an exit code.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::PipelineArgs;
use super::progress::{ProgressMode, Reporter};
use crate::config::pipeline::{DeviceSpec, Dtype};
use crate::engine::{Job, JobOptions, RunReport};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// Read at most this many rows of the source.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Replace what is at `sink.path`: the files of an earlier run, or the one file that it names.
    #[arg(long)]
    fresh: bool,

    /// Remove the rows of input files that are no longer there, from the output of an incremental pipeline.
    #[arg(long)]
    prune: bool,

    /// The device of every model: auto or cpu.
    #[arg(long, value_enum)]
    device: Option<DeviceArg>,

    /// The dtype of every model: auto, f32, or int8, which is faster and for encoders.
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,

    /// Check everything and load the models, but compute and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// How to show progress on stderr; auto is a bar on a terminal and plain lines elsewhere.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressMode,

    /// Write the run report to this file as JSON, also when the run fails.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Devices of this version.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeviceArg {
    Auto,
    Cpu,
}

/// Dtypes of this version.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    Auto,
    F32,
    Int8,
}

impl From<DeviceArg> for DeviceSpec {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
        }
    }
}

impl From<DtypeArg> for Dtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::Auto => Self::Auto,
            DtypeArg::F32 => Self::F32,
            DtypeArg::Int8 => Self::Int8,
        }
    }
}

impl RunArgs {
    pub(super) fn run(self) -> Result<()> {
        // A report that cannot be written is told before the work, not after it.
        if let Some(file) = &self.report {
            File::create(file).map_err(|e| cannot_report(file, e))?;
        }
        let result = super::block_on(self.start());
        if let Some(file) = &self.report {
            write_report(file, &result)?;
        }
        if let Some(report) = result? {
            super::print(report)?;
        }
        Ok(())
    }

    async fn start(&self) -> Result<Option<RunReport>> {
        let mut pipeline = self.pipeline.load()?;
        for model in pipeline.models_mut() {
            model.device = self.device.map_or(model.device, Into::into);
            model.dtype = self.dtype.map_or(model.dtype, Into::into);
        }
        let hub = super::hub(self.pipeline.offline);
        Sink::check(&pipeline.sink, self.fresh || pipeline.run.is_incremental)?;
        let (limit, overwrite, prune) = (self.limit, self.fresh, self.prune);
        let options = JobOptions { limit, overwrite, prune };
        let job = Job::prepare(pipeline, options, Arc::new(hub)).await?;
        if self.dry_run {
            tokio::task::block_in_place(|| job.load_models())?;
            let plan = super::plan::describe(&job).await?;
            super::print(format_args!(
                "{plan}dry run   models loaded, nothing computed or written\n"
            ))?;
            return Ok(None);
        }
        let reporter = Reporter::start(self.progress, job.progress());
        let result = job.run(stop_or_exit()).await;
        reporter.finish(result.is_ok());
        result.map(Some)
    }
}

/// Resolves at the first SIGINT or SIGTERM.
pub(super) async fn stop_signal() -> ErrorKind {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals keep their default action: they end the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => ErrorKind::Interrupted,
        _ = terminate.recv() => ErrorKind::Terminated,
    }
}

/// [`stop_signal`] of a task of its own, which listens while the job blocks; a second signal ends the process at
/// once, as far as it is.
fn stop_or_exit() -> impl Future<Output = ErrorKind> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let listen = async move {
        let _ = sender.send(stop_signal().await);
        let kind = stop_signal().await;
        #[expect(clippy::disallowed_methods, reason = "the user asks twice; the disk is sound")]
        std::process::exit(i32::from(kind.exit_code()));
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with the process alone")]
    drop(tokio::spawn(listen));
    async { receiver.await.unwrap_or(ErrorKind::Interrupted) }
}

fn write_report(file: &Path, result: &Result<Option<RunReport>>) -> Result<()> {
    let report = match result {
        Ok(report) => json!({"status": "done", "exit_code": 0, "run": report}),
        Err(error) => json!({
            "status": "failed",
            "exit_code": error.kind().exit_code(),
            "error": {
                "kind": error.kind().name(),
                "message": error.message(),
                "at": error.places(),
                "hint": error.remedy(),
                "text": error.to_string(),
            },
        }),
    };
    std::fs::write(file, format!("{report:#}\n")).map_err(|e| cannot_report(file, e))
}

fn cannot_report(file: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot write the report `{}`", file.display()))
        .source(error)
        .hint("choose another `--report`")
}
