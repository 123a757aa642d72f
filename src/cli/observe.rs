//! What others learn of a run from files: its metrics at any time, its report when it is over. Not here: what they
//! say (`crate::report`).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::signals;
use crate::config::pipeline::{Pipeline, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Job, Progress, Stage};
use crate::own_file;
use crate::report::{Kept, Report, prometheus};
use crate::secret;
use crate::sink::{self, Sink};

/// The time between two states of the metrics: shorter than any scrape interval.
const METRICS_INTERVAL: Duration = Duration::from_secs(2);

/// A run that is told of in files.
pub(super) struct Observer {
    report: Option<PathBuf>,
    told: Arc<Told>,
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    /// The output, which keeps the report.
    kept: Option<SinkSpec>,
}

/// What is known of the run, and where its metrics go.
struct Told {
    metrics: Option<(PathBuf, String)>,
    run: Mutex<(Report, Option<Arc<Progress>>)>,
}

impl Observer {
    /// Begins to tell of a run of the pipeline `file`: the first metrics are written.
    ///
    /// # Errors
    /// `Sink` when a file cannot be written.
    pub(super) fn start(
        file: &Path,
        report: Option<PathBuf>,
        metrics: Option<PathBuf>,
    ) -> Result<Self> {
        // A report that cannot be written is told before the work, not after it.
        if let Some(path) = &report {
            probe(path).map_err(|e| cannot_write("report", path, e))?;
        }
        // The metrics before: what they say of earlier runs stays.
        let metrics = metrics.map(|path| {
            let before = own_file::read(&path).unwrap_or_default();
            (path, String::from_utf8_lossy(&before).into_owned())
        });
        // Until the pipeline is read, its name is the one that the file would give it.
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let before = metrics.as_ref().and_then(|(_, before)| Kept::pipeline(before));
        let begun = Report::running(before.unwrap_or(stem), now());
        // A killed run cannot report its end, so the report first says that it is running, and in which process.
        if let Some(path) = report.as_deref().filter(|path| is_file_or_new(path)) {
            let text = begun.to_json()?;
            replace(path, text.as_bytes()).map_err(|e| cannot_write("report", path, e))?;
        }
        let told = Arc::new(Told { metrics, run: Mutex::new((begun, None)) });
        signals::at_exit({
            let (told, report) = (Arc::clone(&told), report.clone());
            move |kind| told.last_words(kind, report.as_deref())
        });
        let Some((path, _)) = &told.metrics else {
            return Ok(Self { report, told, thread: None, kept: None });
        };
        told.write_metrics().map_err(|e| cannot_write("metrics file", path, e))?;
        let (sender, stopped) = mpsc::channel();
        let thread = std::thread::spawn({
            let told = Arc::clone(&told);
            move || {
                while stopped.recv_timeout(METRICS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = told.write_metrics() {
                        tracing::warn!(%error, "cannot write the metrics file");
                    }
                }
            }
        });
        Ok(Self { report, told, thread: Some((sender, thread)), kept: None })
    }

    /// Says which pipeline it is.
    pub(super) fn is_of(&mut self, pipeline: &Pipeline) {
        self.told.lock().0.pipeline = secret::hide(&pipeline.name).into_owned();
        let sink = &pipeline.sink;
        self.kept = (!Sink::is_file(sink)).then(|| sink.clone());
    }

    /// Says where the counters are.
    pub(super) fn runs(&self, job: &Job) {
        self.told.lock().1 = Some(job.progress());
    }

    /// Tells how the run ended.
    ///
    /// # Errors
    /// `Sink` when a file cannot be written.
    pub(super) fn finish<T>(self, result: &Result<T>) -> Result<()> {
        signals::at_exit_nothing();
        if let Some((stop, thread)) = self.thread {
            drop(stop);
            let _ = thread.join();
        }
        {
            let mut told = self.told.lock();
            told.0 = told.0.clone().ended(now(), result.as_ref().err());
        }
        let report = self.told.report();
        let mut written = Ok(());
        if let Some((path, _)) = &self.told.metrics {
            let metrics = self.told.write_metrics();
            written = written.and(metrics.map_err(|e| cannot_write("metrics file", path, e)));
        }
        if let Some(path) = &self.report {
            let text = report.to_json()?;
            let report = replace(path, text.as_bytes());
            written = written.and(report.map_err(|e| cannot_write("report", path, e)));
        }
        // Only a run that held the output leaves its report there.
        let stage = self.told.lock().1.as_ref().map(|progress| progress.stage());
        let held = result.is_ok() || stage.is_some_and(|stage| stage != Stage::Loading);
        if let (Some(spec), Some(run), true) = (&self.kept, &report.run, held) {
            let nothing = run.units.as_ref().is_some_and(|units| units.computed == 0);
            let kept = if sink::is_remote(spec) {
                report.to_json().and_then(|text| sink::keep_report(spec, text.as_bytes(), nothing))
            } else {
                keep(&kept_report(&spec.path), &report, nothing)
            };
            if let Err(error) = kept {
                let output = spec.path.display();
                tracing::warn!(%error, %output, "the output does not keep the report");
            }
        }
        written
    }
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Report, Option<Arc<Progress>>)> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report as of now.
    fn report(&self) -> Report {
        let (report, progress) = self.lock().clone();
        Report { run: progress.map(|progress| progress.report()), ..report }
    }

    /// Reports that a signal ended the run, which can no longer do so itself. Does not wait for the state: its holder
    /// may never release it.
    fn last_words(&self, kind: ErrorKind, report: Option<&Path>) {
        let Ok(mut told) = self.run.try_lock() else { return };
        let error = Error::new(kind, "a signal ended the process before the run could end itself")
            .hint("units that are done are kept: the same command continues from there");
        told.0 = told.0.clone().ended(now(), Some(&error));
        let (ended, progress) = told.clone();
        drop(told);
        if let Err(error) = self.write_metrics() {
            tracing::warn!(%error, "cannot write the metrics file");
        }
        let ended = Report { run: progress.map(|progress| progress.report()), ..ended };
        if let Some(path) = report
            && let Ok(text) = ended.to_json()
            && let Err(error) = replace(path, text.as_bytes())
        {
            tracing::warn!(%error, "cannot write the report");
        }
    }

    fn write_metrics(&self) -> io::Result<()> {
        let Some((path, before)) = &self.metrics else { return Ok(()) };
        let report = self.report();
        let kept = Kept::of(before, &report.pipeline);
        replace(path, prometheus(&report, kept, chrono::Utc::now()).as_bytes())
    }
}

/// Where an output folder of this machine keeps the report of its last run.
pub(super) fn kept_report(output: &Path) -> PathBuf {
    output.join("_hfauto").join("report.json")
}

/// Keeps a report in an output that is there. One of a run that had nothing to do does not take the place of one
/// that tells how the output was made.
fn keep(path: &Path, report: &Report, nothing: bool) -> Result<()> {
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    if nothing && path.exists() {
        // A run that died may have left the beginning of its report.
        let _ = fs::remove_file(temporary(path));
        return Ok(());
    }
    let text = report.to_json()?;
    let output = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    own_file::check_folders(output, Path::new("_hfauto"))
        .and_then(|()| own_file::replace(path, &temporary(path), text.as_bytes()))
        .map_err(|e| cannot_write("report", path, e))
}

/// Replaces a file atomically. Replaces a link rather than following it: anyone who may write to the folder could point
/// it anywhere.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // What is no file (a pipe, a terminal) is written as it is.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    // These links belong to the system.
    let of_system = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    let is_of_system = of_system.iter().any(|place| path.starts_with(place));
    let path = if is_of_system { fs::canonicalize(path)? } else { path.to_owned() };
    own_file::replace(&path, &temporary(&path), content)
}

/// Where a file is written before it is whole: hidden, and no `.prom` file that a collector would read.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Whether a path names a regular file, or nothing yet. A pipe, or the system's link to one, takes a single report.
fn is_file_or_new(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |found| found.is_file())
}

/// Fails where [`replace`] would.
fn probe(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Ok(()),
        _ => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop)
        }
    }
}

fn cannot_write(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot write the {what} `{}`", path.display()))
        .source(error)
        .hint("name a file in a folder that is there and may be written to")
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
