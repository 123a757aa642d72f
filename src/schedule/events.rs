//! The events of a scheduler, one line each. Not here: printing them.

use std::fmt;

use chrono::DateTime;
use chrono_tz::Tz;

use super::state::Outcome;
use crate::config::Diagnostics;
use crate::error::Error;
use crate::job::{RunReport, counted};

/// An event.
pub struct Event<'a> {
    /// The pipeline file's name; `None` for events of the folder.
    pub file: Option<&'a str>,
    /// The kind of event.
    pub what: What<'a>,
}

/// The kind of event. Times are shown in the schedule's time zone.
pub enum What<'a> {
    /// A pipeline with a schedule was found, or its schedule changed.
    Scheduled {
        /// The next start.
        next: Option<DateTime<Tz>>,
        /// Whether a scheduler sees this schedule for the first time.
        is_new: bool,
    },
    /// A pipeline file no longer has a schedule.
    Unscheduled,
    /// A pipeline file was removed.
    Removed,
    /// A pipeline file or its state is unusable; it is not run until that is fixed.
    Unusable(&'a Error),
    /// A pipeline file is usable again.
    Mended,
    /// The folder cannot be read; the scheduler will retry.
    FolderAway(&'a Error),
    /// A state file was damaged; times up to its modification time count as run.
    StateDamaged(DateTime<Tz>),
    /// The clock is behind the last run; nothing is due until it catches up.
    ClockBehind(DateTime<Tz>),
    /// A time was missed, and `catch_up` is false.
    LeftOut(DateTime<Tz>),
    /// Another process runs the pipeline.
    Busy(&'a str),
    /// A run started.
    Started {
        /// The due time.
        due: DateTime<Tz>,
        /// Whether an earlier run did not end.
        is_rerun: bool,
    },
    /// A run succeeded.
    Done {
        /// The run's report.
        report: &'a RunReport,
        /// The next start.
        next: Option<DateTime<Tz>>,
    },
    /// A run failed.
    Failed {
        /// The error.
        error: &'a Error,
        /// The next start.
        next: Option<DateTime<Tz>>,
    },
    /// The scheduler stopped.
    Stopped,
}

impl What<'_> {
    /// Whether the event needs attention.
    pub fn is_problem(&self) -> bool {
        matches!(
            self,
            Self::Unusable(_)
                | Self::FolderAway(_)
                | Self::StateDamaged(_)
                | Self::ClockBehind(_)
                | Self::Failed { .. }
        )
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = self.file {
            write!(f, "{file}: ")?;
        }
        match &self.what {
            What::Scheduled { next, is_new } => {
                let seen = if *is_new { "seen for the first time, " } else { "" };
                write!(f, "{seen}{}", Next(next.as_ref()))
            }
            What::Unscheduled => f.write_str("has no schedule"),
            What::Removed => f.write_str("is gone"),
            What::Unusable(error) => write!(f, "cannot be run: {}", one_line(error)),
            What::Mended => f.write_str("can be run again"),
            What::FolderAway(error) => f.write_str(&one_line(error)),
            What::StateDamaged(until) => write!(
                f,
                "its state is damaged: times until {}, when it was written, count as run",
                Shown(until)
            ),
            What::ClockBehind(until) => write!(
                f,
                "the clock is behind the last run: nothing is due before {}; if that is wrong, \
                 remove its state",
                Shown(until)
            ),
            What::LeftOut(due) => {
                write!(f, "skipped {}: the time has passed, and `catch_up` is false", Shown(due))
            }
            What::Busy(holder) => write!(f, "skipped: {holder} is running it"),
            What::Started { due, is_rerun: false } => write!(f, "started, due {}", Shown(due)),
            What::Started { due, is_rerun: true } => {
                write!(f, "started again, due {}: the previous run did not end", Shown(due))
            }
            What::Done { report, next } => {
                let seconds = report.wall_seconds;
                let rows = counted(report.rows_written, "row");
                write!(f, "done, {rows} in {seconds:.1} s")?;
                if let Some(units) = &report.units {
                    let computed = counted(units.computed as u64, "unit");
                    write!(f, ", {computed} computed, {} done before", units.skipped)?;
                }
                write!(f, "; {}", Next(next.as_ref()))
            }
            What::Failed { error, .. } if Outcome::of(error.kind()) == Outcome::Interrupted => {
                write!(f, "interrupted: {}; the next start resumes", one_line(error))
            }
            What::Failed { error, next } => {
                let code = error.kind().exit_code();
                write!(f, "failed with {code}: {}; {}", one_line(error), Next(next.as_ref()))
            }
            What::Stopped => f.write_str("stopped"),
        }
    }
}

/// A moment in readable form: `2026-03-29 03:00:00 CEST`.
pub(super) struct Shown<'a>(pub(super) &'a DateTime<Tz>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format("%Y-%m-%d %H:%M:%S %Z").fmt(f)
    }
}

struct Next<'a>(Option<&'a DateTime<Tz>>);

impl fmt::Display for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(next) => write!(f, "next {}", Shown(next)),
            None => f.write_str("never due again"),
        }
    }
}

/// An error on one line; for a pipeline file, its problems with line and column.
pub(super) fn one_line(error: &Error) -> String {
    if let Some(problems) = Diagnostics::of(error) {
        let list = problems.iter().map(|problem| match problem.line() {
            0 => problem.message().to_owned(),
            line => format!("{line}:{} {}", problem.column(), problem.message()),
        });
        return list.collect::<Vec<_>>().join("; ");
    }
    let text = error.to_string();
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
