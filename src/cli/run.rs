//! `hfauto-pipe run`: rows from source to sink, with progress, a report and an exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::PipelineArgs;
use super::observe::Observer;
use super::progress::{ProgressMode, Reporter};
use super::schedule::ScheduledRun;
use super::signals::Stop;
use crate::config::pipeline::{DeviceSpec, Dtype, Pipeline};
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::hub::Hub;
use crate::job::{Job, JobOptions, RunReport};
use crate::sink::{Shard, Sink};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    job: JobArgs,

    /// Run the pipelines of a folder whose `schedule` is due, one after another: PIPELINE is the folder.
    /// Goes on after one that fails; the exit code is that of the first that did. For cron, systemd timers
    /// and Kubernetes CronJobs.
    #[arg(long, conflicts_with_all = ["dry_run", "report"])]
    due: bool,

    /// Where `--due` remembers what was run. Default: `.hfauto/schedule` in the folder.
    #[arg(long, value_name = "DIR", requires = "due")]
    state: Option<PathBuf>,

    /// Check everything and load the models, but compute and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// How to show progress on stderr; auto is a bar on a terminal and plain lines elsewhere.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressMode,

    /// Write the run report to this file as JSON, also when the run fails.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Keep the run's figures in this file as Prometheus metrics (*.prom), as a textfile collector reads it. With
    /// `--due` it is a folder: each pipeline has a file of its own there, `reviews.yaml.prom`.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    metrics_file: Option<PathBuf>,

    /// The run is a child process of a schedule: orders come through stdin, and the schedule reports the result.
    #[arg(long, hide = true)]
    supervised: bool,
}

/// What the command line changes in a job.
#[derive(Args, Debug)]
pub(super) struct JobArgs {
    /// Read at most this many rows of the source.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Replace what is at `sink.path`: the files of an earlier run, or the one file that it names.
    #[arg(long)]
    fresh: bool,

    /// Remove the rows of input files that are no longer there, from the output of an incremental pipeline.
    #[arg(long)]
    prune: bool,

    /// Compute the I-th of N shares of the units, beside other processes that compute the others; the last
    /// one to end publishes the output.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,

    /// The device of every model: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<DeviceSpec>,

    /// The dtype of every model: auto, f32, f16 and bf16 on a GPU, or int8 on a CPU, which is faster and for encoders.
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
}

/// Dtypes of this version.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    Auto,
    F32,
    F16,
    Bf16,
    Int8,
}

impl From<DtypeArg> for Dtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::Auto => Self::Auto,
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::Int8 => Self::Int8,
        }
    }
}

impl RunArgs {
    pub(super) fn run(self) -> Result<()> {
        let RunArgs { pipeline, job, state, progress, .. } = &self;
        if self.due {
            let run = ScheduledRun {
                set: &pipeline.set,
                offline: pipeline.offline,
                job,
                progress: *progress,
                metrics: self.metrics_file.as_deref(),
            };
            return run.run_due(&pipeline.pipeline, state.as_deref());
        }
        if pipeline.pipeline.is_dir() {
            let message = format!("`{}` is a folder", pipeline.pipeline.display());
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("name a pipeline file; `run --due FOLDER` runs what is due of a folder"));
        }
        if self.supervised {
            super::log::say_no_errors();
            super::signals::supervised();
        }
        let (report, metrics) = (self.report.clone(), self.metrics_file.clone());
        let mut observer = Observer::start(&pipeline.pipeline, report, metrics)?;
        // A panic is reported as any other error, in the report too.
        let run = || super::block_on(self.start(&mut observer));
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let message = format!("the run panicked: {}", guard::message(&*panic));
            Err(Error::new(ErrorKind::Internal, message)
                .hint("this is a bug of hfauto-pipe: please report it"))
        });
        let told = observer.finish(&result);
        let report = match (result, told) {
            (Ok(report), told) => told.map(|()| report)?,
            (Err(error), told) => {
                if let Err(told) = told {
                    super::show(&told);
                }
                return Err(error);
            }
        };
        if let Some(report) = report {
            super::print(report)?;
        }
        Ok(())
    }

    async fn start(&self, observer: &mut Observer) -> Result<Option<RunReport>> {
        let pipeline = self.pipeline.load()?;
        observer.is_of(&pipeline);
        let job = self.job.prepare(pipeline, super::hub(self.pipeline.offline)).await?;
        observer.runs(&job);
        if self.dry_run {
            tokio::task::block_in_place(|| job.load_models())?;
            let plan = super::plan::describe(&job).await?;
            super::print(format_args!(
                "{plan}dry run   models loaded, nothing computed or written\n"
            ))?;
            return Ok(None);
        }
        // Before this point there is nothing to shut down: a signal ends the process.
        let stop = Stop::listen();
        run_job(&job, self.progress, stop.asked()).await.map(Some)
    }
}

/// `2/4` is the second of four.
fn device(text: &str) -> std::result::Result<DeviceSpec, String> {
    match (text, DeviceSpec::cuda_ordinal(text)) {
        ("auto", _) => Ok(DeviceSpec::Auto),
        ("cpu", _) => Ok(DeviceSpec::Cpu),
        (_, Some(ordinal)) => Ok(DeviceSpec::Cuda(ordinal)),
        _ => Err("write auto, cpu, cuda or cuda:N, such as cuda:0".to_owned()),
    }
}

fn shard(text: &str) -> std::result::Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(index, count)| {
        Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    });
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => {
            Ok(Shard { index: index - 1, count })
        }
        _ => Err("write it as 1/4, for the first of four".to_owned()),
    }
}

impl JobArgs {
    /// The equivalent command-line arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        add("limit", self.limit.map(|limit| limit.to_string()));
        add("shard", self.shard.map(|shard| shard.to_string()));
        add("device", self.device.map(|device| device.to_string()));
        let dtype = self.dtype.and_then(|dtype| dtype.to_possible_value());
        add("dtype", dtype.map(|dtype| dtype.get_name().to_owned()));
        for (name, is_set) in [("--fresh", self.fresh), ("--prune", self.prune)] {
            arguments.extend(is_set.then(|| name.to_owned()));
        }
        arguments
    }

    /// The job of a pipeline as the command line wants it, checked and planned.
    pub(super) async fn prepare(&self, mut pipeline: Pipeline, hub: Hub) -> Result<Job> {
        for model in pipeline.models_mut() {
            model.device = self.device.unwrap_or(model.device);
            model.dtype = self.dtype.map_or(model.dtype, Into::into);
        }
        Sink::check(&pipeline.sink, self.fresh || pipeline.run.is_incremental)?;
        let (limit, overwrite, prune) = (self.limit, self.fresh, self.prune);
        let options = JobOptions { limit, overwrite, prune, shard: self.shard };
        Job::prepare(pipeline, options, Arc::new(hub)).await
    }
}

/// Runs a job, with progress on stderr.
pub(super) async fn run_job(
    job: &Job,
    progress: ProgressMode,
    stop: impl Future<Output = ErrorKind>,
) -> Result<RunReport> {
    let reporter = Reporter::start(progress, job.progress());
    let result = job.run(stop).await;
    reporter.finish(result.is_ok());
    result
}
