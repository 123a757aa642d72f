//! `hfauto-pipe schedule` and `run --due`: run the pipelines of a folder at their times, and log each event as a line on
//! stderr. Not here: due times ([`crate::schedule`]), and a single run (`run`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use futures::FutureExt;

use super::job::{JobArgs, RunIdentity};
use super::observe::Observer;
use super::progress::ProgressMode;
use super::signals::Stop;
use super::supervise::Ended;
use super::{observe, supervise, terminal};
use crate::config::LoadOptions;
use crate::config::pipeline::Pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::job::RunReport;
use crate::notify::{self, Notices};
use crate::report::Kept;
use crate::schedule::{Event, Scheduler, What, now};

#[derive(Args, Debug)]
pub(super) struct ScheduleArgs {
    /// The folder of the pipeline files. The service notices files that are added, changed or removed.
    folder: PathBuf,

    /// The state folder. Default: `.hfauto/schedule` in the folder.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Override a key of the files, for example `--set run.workers=1`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::key_value)]
    set: Vec<(String, String)>,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The form of the runs' progress on stderr.
    #[arg(long, value_enum, default_value = "none")]
    progress: ProgressMode,

    /// Write Prometheus metrics of the runs to this folder, for a textfile collector: one file per pipeline,
    /// `reviews.yaml.prom`.
    #[arg(long, value_name = "FOLDER")]
    metrics_file: Option<PathBuf>,
}

impl ScheduleArgs {
    pub(super) fn run(self) -> Result<()> {
        let Self { folder, state, set, offline, job, progress, metrics_file } = &self;
        let (offline, progress) = (*offline, *progress);
        let metrics = metrics_file.as_deref();
        let run = ScheduledRun { set, offline, job, progress, metrics };
        run.stay(folder, state.as_deref())
    }
}

/// The options for the runs of a folder's pipelines.
pub(super) struct ScheduledRun<'a> {
    pub(super) set: &'a [(String, String)],
    pub(super) offline: bool,
    pub(super) job: &'a JobArgs,
    pub(super) progress: ProgressMode,
    /// The folder of the metrics files.
    pub(super) metrics: Option<&'a Path>,
}

impl ScheduledRun<'_> {
    fn stay(&self, folder: &Path, state: Option<&Path>) -> Result<()> {
        self.check_metrics()?;
        let mut scheduler = self.scheduler(folder, state);
        let listener = Stop::listen();
        super::block_on(async {
            let stop = listener.asked().shared();
            let run = async |pipeline, due| self.run(pipeline, due, stop.clone()).await;
            scheduler.stay(run, stop.clone(), &mut line).await
        })
    }

    pub(super) fn run_due(&self, folder: &Path, state: Option<&Path>) -> Result<()> {
        self.check_metrics()?;
        let mut scheduler = self.scheduler(folder, state);
        let mut printed = Ok(());
        let listener = Stop::listen();
        let passed = super::block_on(async {
            let stop = listener.asked().shared();
            let run = async |pipeline, due| self.run(pipeline, due, stop.clone()).await;
            let mut tell = |event: &Event<'_>| match event.what {
                // cron calls `run --due` every few minutes: it stays silent about known schedules.
                What::Scheduled { is_new: false, .. } => {}
                What::Done { report, .. } => {
                    line(event);
                    if let Err(error) = super::print(report) {
                        printed = Err(error);
                    }
                }
                _ => line(event),
            };
            scheduler.run_due(run, stop.clone(), &mut tell).await
        })?;
        printed?;
        let Some((_, first)) = passed.failed.first() else {
            if passed.scheduled == 0 {
                tracing::warn!("no pipeline of `{}` has a `schedule`", folder.display());
            }
            return Ok(());
        };
        let names: Vec<_> = passed.failed.iter().map(|(file, _)| format!("`{file}`")).collect();
        let message = match names.as_slice() {
            [name] => format!("{name} failed"),
            names => format!("{} pipelines failed: {}", names.len(), names.join(", ")),
        };
        Err(Error::new(*first, message).at(folder.display()))
    }

    fn scheduler(&self, folder: &Path, state: Option<&Path>) -> Scheduler {
        let options = LoadOptions { set: self.set.to_vec(), ..LoadOptions::default() };
        Scheduler::new(folder, state, options)
    }

    async fn run(
        &self,
        pipeline: Pipeline,
        due: DateTime<Utc>,
        stop: impl Future<Output = ErrorKind> + Clone,
    ) -> Result<RunReport> {
        let metrics = self.metrics_of(&pipeline);
        let identity = RunIdentity { run_id: Some(notify::new_run_id()), nominal_time: Some(due) };
        let begun = observe::now();
        let arguments = self.arguments(&pipeline, metrics.as_deref(), &identity);
        let (result, notices) = match supervise::run(arguments, stop).await {
            Ok(Ended::Told(result)) => (result, None),
            Ok(Ended::Died(error)) => (Err(error), identity.notices(&pipeline)),
            Err(error) => (Err(error), None),
        };
        if let Err(error) = &result
            && let Err(told) = tokio::task::block_in_place(|| {
                tell_of_death(&pipeline, metrics, notices, begun, error)
            })
        {
            super::show(&told);
        }
        result
    }

    /// The arguments for `hfauto-pipe run`.
    fn arguments(
        &self,
        pipeline: &Pipeline,
        metrics: Option<&Path>,
        identity: &RunIdentity,
    ) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        for (key, value) in self.set {
            arguments.push(format!("--set={key}={value}").into());
        }
        if self.offline {
            arguments.push("--offline".into());
        }
        arguments.extend(self.job.arguments().into_iter().map(Into::into));
        let progress = self.progress.to_possible_value();
        let progress = progress.map_or("none".to_owned(), |mode| mode.get_name().to_owned());
        arguments.push(format!("--progress={progress}").into());
        if let Some(run_id) = &identity.run_id {
            arguments.push(format!("--run-id={run_id}").into());
        }
        if let Some(time) = identity.nominal_time {
            let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
            arguments.push(format!("--nominal-time={time}").into());
        }
        if let Some(metrics) = metrics {
            arguments.extend(["--metrics-file".into(), metrics.into()]);
        }
        // A file name may begin with `-`.
        arguments.extend(["--".into(), pipeline.file.clone().into()]);
        arguments
    }

    /// Fails if the metrics path is not a folder. Each pipeline replaces its own file, so runs need not synchronise.
    fn check_metrics(&self) -> Result<()> {
        match self.metrics {
            Some(folder) if !folder.is_dir() => {
                let message = format!("`{}` is not a folder", folder.display());
                Err(Error::new(ErrorKind::Usage, message)
                    .hint("`--metrics-file` needs an existing folder here"))
            }
            _ => Ok(()),
        }
    }

    fn metrics_of(&self, pipeline: &Pipeline) -> Option<PathBuf> {
        let name = pipeline.file.file_name()?.to_string_lossy();
        Some(self.metrics?.join(format!("{name}.prom")))
    }
}

/// Corrects the metrics of a run that died, which still say that it is running, and tells other systems that it has ended.
fn tell_of_death(
    pipeline: &Pipeline,
    metrics: Option<PathBuf>,
    notices: Option<Notices>,
    begun: String,
    error: &Error,
) -> Result<()> {
    let says_running =
        |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| Kept::is_running(&text));
    let metrics = metrics.filter(says_running);
    if metrics.is_none() && notices.is_none() {
        return Ok(());
    }
    let mut observer = Observer::start(&pipeline.file, None, metrics)?;
    observer.is_of(pipeline);
    observer.stands_in(notices, begun);
    observer.finish::<RunReport>(&Err(error.again()))
}

/// `2026-03-29T01:00:00Z  INFO reviews.yaml: started, due 2026-03-29 03:00:00 CEST`
fn line(event: &Event<'_>) {
    let level = if event.what.is_problem() { "WARN" } else { "INFO" };
    let now = now().to_rfc3339_opts(SecondsFormat::Secs, true);
    terminal::say(format_args!("{now}  {level} {event}"));
}
