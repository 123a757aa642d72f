//! `hfauto-pipe run`: rows from source to sink, with progress, a report and an exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use clap::Args;

use super::PipelineArgs;
#[cfg(feature = "cluster")]
use super::cluster::OnCluster;
use super::job::{JobArgs, ModelArgs, RunIdentity};
use super::log::{self, Verbosity};
use super::observe::Observer;
use super::progress::{ProgressMode, Reporter};
use super::schedule::ScheduledRun;
use super::signals::Stop;
#[cfg(feature = "cluster")]
use crate::cluster::run_on_cluster;
use crate::config::pipeline::Pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::job::{Job, RunReport};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    options: RunOptions,

    /// Run the pipelines of a folder whose `schedule` is due, one after another: PIPELINE is the folder. Continues after a
    /// failure; the exit code is that of the first failure. For cron, systemd timers and Kubernetes CronJobs.
    #[arg(long, conflicts_with_all = ["dry_run", "report"])]
    #[cfg_attr(feature = "cluster", arg(conflicts_with = "cluster"))]
    due: bool,

    /// The state folder of `--due`. Default: `.hfauto/schedule` in the folder.
    #[arg(long, value_name = "DIR", requires = "due")]
    state: Option<PathBuf>,

    /// The run is a child process of a schedule, which sends signals through stdin and reports the result.
    #[arg(long, hide = true)]
    supervised: bool,

    #[command(flatten)]
    identity: RunIdentity,
}

/// The flags of every command that runs a pipeline.
#[derive(Args, Debug)]
pub(super) struct RunOptions {
    #[command(flatten)]
    job: JobArgs,

    #[cfg(feature = "cluster")]
    #[command(flatten)]
    on: OnCluster,

    /// Check everything and load the models, but compute and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// The form of progress on stderr; auto is a bar on a terminal and plain lines elsewhere.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressMode,

    /// Write the run report to this file as JSON, also if the run fails.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write Prometheus metrics of the run to this file (*.prom), for a textfile collector. With `run --due`, this is a
    /// folder with one file per pipeline: `reviews.yaml.prom`.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    metrics_file: Option<PathBuf>,
}

impl RunArgs {
    pub(super) fn run(self) -> Result<()> {
        let RunArgs { pipeline, options, state, identity, .. } = &self;
        if self.due {
            let run = ScheduledRun {
                set: &pipeline.set,
                offline: pipeline.offline,
                job: &options.job,
                progress: options.progress,
                metrics: options.metrics_file.as_deref(),
            };
            return run.run_due(&pipeline.pipeline, state.as_deref());
        }
        if pipeline.pipeline.is_dir() {
            let message = format!("`{}` is a folder", pipeline.pipeline.display());
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("name a pipeline file; `run --due FOLDER` runs the pipelines of a folder that are due"));
        }
        if self.supervised {
            log::say_no_errors();
            super::signals::supervised();
        }
        options.run(&pipeline.pipeline, pipeline.offline, identity, || pipeline.load())
    }
}

impl RunOptions {
    /// The options of every model.
    pub(super) fn models(&self) -> &ModelArgs {
        &self.job.models
    }

    /// Runs the pipeline that `load` returns, as `file` says it, and prints its report.
    pub(super) fn run(
        &self,
        file: &Path,
        offline: bool,
        identity: &RunIdentity,
        load: impl Fn() -> Result<Pipeline>,
    ) -> Result<()> {
        let (report, metrics) = (self.report.clone(), self.metrics_file.clone());
        let mut observer = Observer::start(file, report, metrics)?;
        // The report then contains a panic like any other error.
        let run = || super::block_on(self.start(&mut observer, offline, identity, load));
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
        match report {
            Some(report) if log::verbosity() > Verbosity::Quiet => super::print(report),
            _ => Ok(()),
        }
    }

    async fn start(
        &self,
        observer: &mut Observer,
        offline: bool,
        identity: &RunIdentity,
        load: impl Fn() -> Result<Pipeline>,
    ) -> Result<Option<RunReport>> {
        #[cfg(feature = "cluster")]
        let cluster = self.on.cluster()?;
        #[cfg(not(feature = "cluster"))]
        let cluster: Option<()> = None;
        let pipeline = load()?;
        observer.is_of(&pipeline);
        if !self.dry_run {
            observer.announce(identity.clone().notices(&pipeline));
        }
        let job = self.job.prepare(pipeline, super::hub(offline), cluster.is_some()).await?;
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
        #[cfg(feature = "cluster")]
        if let Some(cluster) = cluster {
            let reporter = Reporter::start(self.progress, job.progress());
            let result = run_on_cluster(job, &cluster, stop.asked()).await;
            reporter.finish(result.is_ok());
            return result.map(Some);
        }
        run_job(&job, self.progress, stop.asked()).await.map(Some)
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
