//! The state of an output folder, as another process sees it: published, in progress, or interrupted. Locks are held
//! only while the state is read. Not here: how it becomes so (`commit`, `units`).

use serde::{Deserialize, Serialize};

use super::commit;
use super::manifest;
use super::records::count;
use super::target::Target;
use crate::config::pipeline::SinkSpec;
use crate::error::Result;

/// What a job in units writes down when it starts, for others to read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    /// When, RFC 3339, UTC.
    pub(super) at: String,
    /// Units of the job.
    pub(super) units: usize,
    /// Units that were done then.
    pub(super) done: usize,
    /// The process.
    pub(super) pid: u32,
    /// What tells the job from others.
    #[serde(default)]
    pub(super) job: String,
    /// Units of other inputs or other settings that the output had then.
    #[serde(default)]
    pub(super) others: usize,
    /// Rows of all units that were done then.
    #[serde(default)]
    pub(super) rows: u64,
}

/// The file of [`Started`], in the folder of the run.
pub(super) const STARTED: &str = "started.json";

/// The state of an output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OutputState {
    /// Nothing is there.
    Absent,
    /// It is whole.
    Published {
        /// Rows of all files.
        rows: u64,
        /// When, RFC 3339, UTC.
        at: String,
    },
    /// A run is on it, or was, and did not come to its end.
    Unfinished {
        /// Whether the run is there.
        is_running: bool,
        /// The process of the run, when it said so.
        pid: Option<u32>,
        /// When it started.
        started_at: Option<String>,
        /// Units of the job.
        units: Option<usize>,
        /// Units that are done.
        done: usize,
        /// Rows of these, in the output.
        rows: u64,
        /// Rows a second of this run so far.
        rows_per_second: Option<f64>,
        /// Seconds until the end, at the pace of this run so far.
        seconds_left: Option<f64>,
    },
}

impl OutputState {
    /// Looks at an output.
    ///
    /// # Errors
    /// `Sink` when the folder cannot be read, `Config` when it is no output.
    pub fn of(spec: &SinkSpec) -> Result<Self> {
        let target = Target::of(spec)?;
        let storage = target.storage.as_ref();
        if let Some(file) = &target.file {
            return Ok(match storage.modified(file)? {
                Some(modified) => Self::Published { rows: 0, at: rfc3339(modified) },
                None => Self::Absent,
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
            // A clock that was put back tells nothing.
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

/// Whether an output is in an object store.
pub(crate) fn is_remote(spec: &SinkSpec) -> bool {
    crate::store::is_url(&spec.path.to_string_lossy())
}

/// The report that an output in an object store keeps.
///
/// # Errors
/// `Sink` when it cannot be read.
pub(crate) fn kept_report(spec: &SinkSpec) -> Result<Option<Vec<u8>>> {
    Target::of(spec)?.storage.read(REPORT)
}

/// Keeps a report in an output in an object store, if an output is there. One of a run that had nothing to do does not
/// take the place of another.
///
/// # Errors
/// `Sink` when it cannot be written.
pub(crate) fn keep_report(spec: &SinkSpec, report: &[u8], nothing: bool) -> Result<()> {
    let storage = Target::of(spec)?.storage;
    let storage = storage.as_ref();
    let is_output = commit::is_committed(storage)? || !storage.folders(commit::META)?.is_empty();
    if !is_output || nothing && storage.is_file(REPORT)?.is_some() {
        return Ok(());
    }
    storage.write(REPORT, report)
}

fn rfc3339(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
