//! The state of an output folder, read by any process: published, in progress, or interrupted. Holds locks only while it
//! reads. Not here: changes of the state (`commit`, `units`).

use serde::{Deserialize, Serialize};

use super::commit;
use super::manifest;
use super::records::count;
use super::storage::META;
use super::target::{Target, staging_of};
use crate::config::pipeline::SinkSpec;
use crate::error::Result;

/// The progress that a job in units records when it starts, for other processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    /// The start time, RFC 3339, UTC.
    pub(super) at: String,
    /// The number of units of the job.
    pub(super) units: usize,
    /// The number of units that were done then.
    pub(super) done: usize,
    /// The process id.
    pub(super) pid: u32,
    /// The identity of the job.
    #[serde(default)]
    pub(super) job: String,
    /// The number of units of other inputs or settings in the output then.
    #[serde(default)]
    pub(super) others: usize,
    /// The rows of all units that were done then.
    #[serde(default)]
    pub(super) rows: u64,
}

/// The file of [`Started`], in the folder of the run.
pub(super) const STARTED: &str = "started.json";

/// The state of an output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OutputState {
    /// The output does not exist.
    Absent,
    /// The output is complete.
    Published {
        /// The rows of all files.
        rows: u64,
        /// The time of publication, RFC 3339, UTC.
        at: String,
    },
    /// A run is in progress, or was interrupted.
    Unfinished {
        /// Whether a run is in progress.
        is_running: bool,
        /// The process id of the run, if it is recorded.
        pid: Option<u32>,
        /// The start time of the run.
        started_at: Option<String>,
        /// The number of units of the job.
        units: Option<usize>,
        /// The number of finished units.
        done: usize,
        /// The rows of finished units in the output.
        rows: u64,
        /// The rows per second of this run so far.
        rows_per_second: Option<f64>,
        /// The estimated seconds until the end, from the pace of this run so far.
        seconds_left: Option<f64>,
    },
}

impl OutputState {
    /// Reads the state of an output.
    ///
    /// # Errors
    /// `Sink` if the folder cannot be read, `Config` if it is not an output.
    pub fn of(spec: &SinkSpec) -> Result<Self> {
        let target = Target::of(spec)?;
        let storage = target.storage.as_ref();
        if let Some(file) = &target.file {
            return Ok(match storage.modified(file)? {
                Some(modified) => Self::Published { rows: 0, at: rfc3339(modified) },
                None => match staging_of(spec) {
                    Some(staging) => Self::of(&staging)?,
                    None => Self::Absent,
                },
            });
        }
        let is_running = storage.is_held()?;
        if let (Some(marked), false) = (commit::marked_at(storage)?, is_running) {
            let rows = commit::summary(storage)?.map_or(0, |summary| summary.rows);
            return Ok(Self::Published { rows, at: rfc3339(marked) });
        }
        let (done, rows) = count(storage)?;
        let mut started = None;
        for dir in commit::run_dirs(storage)?.into_iter().rev() {
            let found = manifest::read::<Started>(storage, &format!("{dir}/{STARTED}"));
            started = started.or(found.ok().flatten());
        }
        if !is_running && done == 0 {
            return Ok(Self::Absent);
        }
        let others = started.as_ref().map_or(0, |started| started.others);
        let done = done.saturating_sub(others);
        let pace = started.as_ref().filter(|_| is_running).and_then(|started| {
            let at = chrono::DateTime::parse_from_rfc3339(&started.at).ok()?;
            let seconds = (chrono::Utc::now() - at.to_utc()).as_seconds_f64();
            // A clock that was set back gives no pace.
            let made = done.checked_sub(started.done).filter(|made| *made > 0 && seconds > 0.0)?;
            let left = started.units.saturating_sub(done) as f64 * seconds / made as f64;
            Some((rows.saturating_sub(started.rows) as f64 / seconds, left))
        });
        Ok(Self::Unfinished {
            is_running,
            pid: started.as_ref().filter(|_| is_running).map(|started| started.pid),
            started_at: started.as_ref().map(|started| started.at.clone()),
            units: started.as_ref().map(|started| started.units),
            done,
            rows,
            rows_per_second: pace.map(|(rows_per_second, _)| rows_per_second),
            seconds_left: pace.map(|(_, seconds_left)| seconds_left),
        })
    }
}

/// The report of the last run, in an output in an object store.
const REPORT: &str = "_hfauto/report.json";

/// Whether the output is in an object store.
pub(crate) fn is_remote(spec: &SinkSpec) -> bool {
    crate::store::is_url(&spec.path.to_string_lossy())
}

/// The report in an output in an object store.
///
/// # Errors
/// `Sink` when it cannot be read.
pub(crate) fn kept_report(spec: &SinkSpec) -> Result<Option<Vec<u8>>> {
    Target::of(spec)?.storage.read(REPORT)
}

/// Writes a report to an output in an object store, if the output exists. The report of a run that had nothing to do does
/// not replace another one.
///
/// # Errors
/// `Sink` when it cannot be written.
pub(crate) fn keep_report(spec: &SinkSpec, report: &[u8], nothing: bool) -> Result<()> {
    let storage = Target::of(spec)?.storage;
    let storage = storage.as_ref();
    let is_output = commit::is_committed(storage)? || !storage.folders(META)?.is_empty();
    if !is_output || nothing && storage.is_file(REPORT)?.is_some() {
        return Ok(());
    }
    storage.write(REPORT, report)
}

fn rfc3339(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
