//! What an output folder says of itself to another process: published, being made, or cut off. Nothing is
//! locked for longer than a look. Not here: how it becomes so (`commit`, `units`).

use std::fs::{self, OpenOptions, TryLockError};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::commit::{self, META, UNITS};
use super::target::{self, Target};
use super::units::rows_of_manifest;
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
        let root = target.path;
        if target.single_file {
            return Ok(match fs::metadata(&root).and_then(|found| found.modified()) {
                Ok(modified) => Self::Published { rows: 0, at: rfc3339(modified) },
                Err(_) => Self::Absent,
            });
        }
        let meta = root.join(META);
        let is_running = is_locked(&meta.join("lock"));
        let success = fs::metadata(root.join("_SUCCESS")).and_then(|found| found.modified());
        if let (Ok(modified), false) = (success, is_running) {
            return Ok(Self::Published { rows: commit::rows(&root)?, at: rfc3339(modified) });
        }
        let mut manifests = target::files_of(&meta.join(UNITS))?;
        manifests.retain(|name| name.ends_with(".json"));
        let started = commit::run_dirs(&root)?.into_iter().rev().find_map(|dir| {
            let started = commit::read_json(&dir.join(STARTED)).ok()?;
            serde_json::from_value::<Started>(started).ok()
        });
        if !is_running && manifests.is_empty() {
            return Ok(Self::Absent);
        }
        let rows = manifests.iter().map(|name| rows_of_manifest(&meta.join(UNITS).join(name)));
        let rows = rows.sum::<u64>();
        let others = started.as_ref().map_or(0, |started| started.others);
        let done = manifests.len().saturating_sub(others);
        let pace = started.as_ref().filter(|_| is_running).and_then(|started| {
            let at = chrono::DateTime::parse_from_rfc3339(&started.at).ok()?;
            let seconds = (chrono::Utc::now() - at.to_utc()).as_seconds_f64().max(f64::EPSILON);
            let made = done.checked_sub(started.done).filter(|made| *made > 0)?;
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

/// Whether a process holds a lock.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn rfc3339(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
