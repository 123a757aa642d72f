//! Writes a run's metrics file every few seconds, and its report at the end; tells other systems when it begins and ends. Not
//! here: their contents (`crate::report`, `crate::notify`).

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
use crate::limits::NOTICE_GRACE;
use crate::notify::Notices;
use crate::own_file;
use crate::report::{Kept, Report, prometheus};
use crate::secret;
use crate::sink::{self, Sink};

/// The interval between updates of the metrics: shorter than any scrape interval.
const METRICS_INTERVAL: Duration = Duration::from_secs(2);

/// The time to tell other systems that a signal ends the process at once.
const LAST_NOTICE: Duration = Duration::from_millis(1500);

/// Writes the report and the metrics of a run.
pub(super) struct Observer {
    report: Option<PathBuf>,
    told: Arc<Told>,
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    /// The output, which keeps the report.
    kept: Option<SinkSpec>,
}

/// The state of the run, and its metrics file.
struct Told {
    metrics: Option<(PathBuf, String)>,
    run: Mutex<(Report, Option<Arc<Progress>>)>,
    /// What the run tells other systems, until it has told its end.
    notices: Mutex<Option<Notices>>,
}

impl Observer {
    /// Starts to observe a run of the pipeline `file`, and writes the first metrics.
    ///
    /// # Errors
    /// `Sink` when a file cannot be written.
    pub(super) fn start(
        file: &Path,
        report: Option<PathBuf>,
        metrics: Option<PathBuf>,
    ) -> Result<Self> {
        // An unwritable report fails before the work, not after it.
        if let Some(path) = &report {
            probe(path).map_err(|e| cannot_write("report", path, e))?;
        }
        // The new metrics keep the series about earlier runs.
        let metrics = metrics.map(|path| {
            let before = own_file::read(&path).unwrap_or_default();
            (path, String::from_utf8_lossy(&before).into_owned())
        });
        // Until the pipeline is read, the file's stem stands in for its name.
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let before = metrics.as_ref().and_then(|(_, before)| Kept::pipeline(before));
        let begun = Report::running(before.unwrap_or(stem), now());
        // A killed run cannot report its end: the first report therefore says that the run is in progress, and in which process.
        if let Some(path) = report.as_deref().filter(|path| is_file_or_new(path)) {
            let text = begun.to_json()?;
            replace(path, text.as_bytes()).map_err(|e| cannot_write("report", path, e))?;
        }
        let told =
            Arc::new(Told { metrics, run: Mutex::new((begun, None)), notices: Mutex::default() });
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

    /// Sets the pipeline, once it is read.
    pub(super) fn is_of(&mut self, pipeline: &Pipeline) {
        let sink = &pipeline.sink;
        {
            let report = &mut self.told.lock().0;
            report.pipeline = secret::hide(&pipeline.name).into_owned();
            report.file = Some(pipeline.file.clone());
            report.sink = Some(sink.shown().to_owned());
        }
        self.kept = (!Sink::is_file(sink)).then(|| sink.clone());
    }

    /// Tells other systems that the run has begun.
    pub(super) fn announce(&self, notices: Option<Notices>) {
        let Some(notices) = notices else { return };
        notices.begin(&self.told.lock().0.started_at);
        self.tells_end(notices);
    }

    /// Tells other systems that a run of another process, which has died, has ended.
    pub(super) fn stands_in(&self, notices: Option<Notices>, started_at: String) {
        let Some(notices) = notices else { return };
        self.told.lock().0.started_at = started_at;
        self.tells_end(notices);
    }

    fn tells_end(&self, notices: Notices) {
        self.told.lock().0.run_id = Some(notices.run_id().to_owned());
        *self.told.notices() = Some(notices);
    }

    /// Sets the job, which has the counters.
    pub(super) fn runs(&self, job: &Job) {
        self.told.lock().1 = Some(job.progress());
        if let Some(notices) = self.told.notices().as_mut() {
            notices.describe(job);
        }
    }

    /// Writes the final report and metrics, and tells other systems that the run has ended.
    ///
    /// # Errors
    /// `Sink` when a file cannot be written.
    pub(super) fn finish<T>(mut self, result: &Result<T>) -> Result<()> {
        signals::at_exit_nothing();
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
        {
            let mut told = self.told.lock();
            told.0 = told.0.clone().ended(now(), result.as_ref().err());
        }
        let mut report = self.told.report();
        let mut written = Ok(());
        if let Some((path, _)) = &self.told.metrics {
            let metrics = self.told.write_metrics();
            written = written.and(metrics.map_err(|e| cannot_write("metrics file", path, e)));
        }
        let notices = self.told.notices().take();
        // A pipe takes a single report, and therefore the last one.
        let is_last = notices.is_none();
        if let Some(path) = self.report.as_deref().filter(|path| is_last || is_file_or_new(path)) {
            written = written.and(write_report(path, &report));
        }
        self.keep(result.is_ok(), &report, None);
        let Some(notices) = notices else { return written };
        let before = report.to_json()?;
        report.undelivered = notices.end(&report, NOTICE_GRACE);
        let is_news = !report.undelivered.is_empty();
        if let Some(path) = self.report.as_deref().filter(|path| is_news || !is_file_or_new(path)) {
            written = written.and(write_report(path, &report));
        }
        if is_news {
            self.keep(result.is_ok(), &report, Some(&before));
        }
        written
    }

    /// Keeps the report in the output. With `before`, only in place of that report, which another run may have replaced.
    fn keep(&self, is_done: bool, report: &Report, before: Option<&str>) {
        // Only a run that held the output writes its report there.
        let stage = self.told.lock().1.as_ref().map(|progress| progress.stage());
        let held = is_done || stage.is_some_and(|stage| stage != Stage::Loading);
        if let (Some(spec), Some(run), true) = (&self.kept, &report.run, held) {
            let nothing = run.units.as_ref().is_some_and(|units| units.computed == 0);
            let kept = if let Some(before) = before {
                let path = kept_report(&spec.path);
                let is_ours = own_file::read(&path).is_ok_and(|kept| kept == before.as_bytes());
                if is_ours && !sink::is_remote(spec) { keep(&path, report, false) } else { Ok(()) }
            } else if sink::is_remote(spec) {
                report.to_json().and_then(|text| sink::keep_report(spec, text.as_bytes(), nothing))
            } else {
                keep(&kept_report(&spec.path), report, nothing)
            };
            if let Err(error) = kept {
                let output = spec.path.display();
                tracing::warn!(%error, %output, "cannot write the report to the output");
            }
        }
    }
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Report, Option<Arc<Progress>>)> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notices(&self) -> std::sync::MutexGuard<'_, Option<Notices>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current report.
    fn report(&self) -> Report {
        let (report, progress) = self.lock().clone();
        Report { run: progress.map(|progress| progress.report()), ..report }
    }

    /// Reports that a signal ended a run that can no longer report itself. Does not wait for the state's lock, whose holder
    /// may never release it.
    fn last_words(&self, kind: ErrorKind, report: Option<&Path>) {
        let Ok(mut told) = self.run.try_lock() else { return };
        let error = Error::new(kind, "a signal ended the process before the run could shut down")
            .hint("finished units are kept: the same command resumes from them");
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
        if let Ok(Some(notices)) = self.notices.try_lock().map(|mut notices| notices.take()) {
            notices.end(&ended, LAST_NOTICE);
        }
    }

    fn write_metrics(&self) -> io::Result<()> {
        let Some((path, before)) = &self.metrics else { return Ok(()) };
        let report = self.report();
        let kept = Kept::of(before, &report.pipeline);
        replace(path, prometheus(&report, kept, chrono::Utc::now()).as_bytes())
    }
}

/// The path of the report that a local output folder keeps of its last run.
pub(super) fn kept_report(output: &Path) -> PathBuf {
    output.join("_hfauto").join("report.json")
}

/// Writes a report to an existing output. The report of a run that had nothing to do does not replace the report of the
/// run that wrote the output.
fn keep(path: &Path, report: &Report, nothing: bool) -> Result<()> {
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    if nothing && path.exists() {
        // A run that died may have left a truncated report.
        let _ = fs::remove_file(temporary(path));
        return Ok(());
    }
    let text = report.to_json()?;
    let output = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    own_file::check_folders(output, Path::new("_hfauto"))
        .and_then(|()| own_file::replace(path, &temporary(path), text.as_bytes()))
        .map_err(|e| cannot_write("report", path, e))
}

/// Replaces a file atomically. Replaces a link instead of following it, because anyone with write access to the folder
/// can point it anywhere.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A pipe or a terminal is written directly.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    // These links belong to the system.
    let of_system = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    let is_of_system = of_system.iter().any(|place| path.starts_with(place));
    let path = if is_of_system { fs::canonicalize(path)? } else { path.to_owned() };
    own_file::replace(&path, &temporary(&path), content)
}

/// The temporary file: hidden, and without the extension `.prom`, which a collector would read.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Whether a path names a regular file, or nothing yet. A pipe, or the system's link to one, takes a single report.
fn is_file_or_new(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |found| found.is_file())
}

/// Creates the folder of a file, and fails where [`replace`] would.
fn probe(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Ok(()),
        _ => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            tempfile::tempfile_in(folder).map(drop)
        }
    }
}

fn write_report(path: &Path, report: &Report) -> Result<()> {
    let text = report.to_json()?;
    replace(path, text.as_bytes()).map_err(|e| cannot_write("report", path, e))
}

fn cannot_write(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot write the {what} `{}`", path.display()))
        .source(error)
        .hint("name a file in an existing, writable folder")
}

pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
