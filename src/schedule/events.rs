//! What a scheduler has to tell, one line each. Not here: printing it.

use std::fmt;

use chrono::DateTime;
use chrono_tz::Tz;

use super::state::Outcome;
use crate::config::Diagnostics;
use crate::error::Error;
use crate::job::RunReport;

/// Something that happened.
pub struct Event<'a> {
    /// The pipeline file's name; `None` when it is about the folder.
    pub file: Option<&'a str>,
    /// What happened.
    pub what: What<'a>,
}

/// What happened. Times are shown by the clock of the schedule.
pub enum What<'a> {
    /// A pipeline with a schedule is there, or has another one.
    Scheduled {
        /// When it starts next.
        next: Option<DateTime<Tz>>,
        /// Whether it is the first time that a scheduler looks at this schedule.
        is_new: bool,
    },
    /// A pipeline file has no schedule any more.
    Unscheduled,
    /// A pipeline file is gone.
    Removed,
    /// A pipeline file or its state cannot be used; it is not run until that is mended.
    Unusable(&'a Error),
    /// A pipeline file can be used again.
    Mended,
    /// The folder cannot be read; it is tried again.
    FolderAway(&'a Error),
    /// A state file was damaged; it goes by the time at which it was written.
    StateDamaged(DateTime<Tz>),
    /// The clock is behind what was run: nothing is run before it is there again.
    ClockBehind(DateTime<Tz>),
    /// A time has passed that is not caught up with.
    LeftOut(DateTime<Tz>),
    /// Another process runs it.
    Busy(&'a str),
    /// A run starts.
    Started {
        /// The time that it was due.
        due: DateTime<Tz>,
        /// Whether an earlier run did not come to its end.
        is_rerun: bool,
    },
    /// A run is done.
    Done {
        /// Its report.
        report: &'a RunReport,
        /// When it starts next.
        next: Option<DateTime<Tz>>,
    },
    /// A run has failed.
    Failed {
        /// Why.
        error: &'a Error,
        /// When it starts next.
        next: Option<DateTime<Tz>>,
    },
    /// The scheduler ends.
    Stopped,
}

impl What<'_> {
    /// Whether somebody should look at it.
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
                "the clock is behind the last run: nothing is due again before {}; if that is wrong, \
                 remove its state",
                Shown(until)
            ),
            What::LeftOut(due) => {
                write!(f, "left out {}: it has passed, and `catch_up` is false", Shown(due))
            }
            What::Busy(holder) => write!(f, "left alone: {holder} is at it"),
            What::Started { due, is_rerun: false } => write!(f, "started, due {}", Shown(due)),
            What::Started { due, is_rerun: true } => {
                write!(f, "started again, due {}: the run before did not end", Shown(due))
            }
            What::Done { report, next } => {
                let seconds = report.wall_seconds;
                write!(f, "done, {} rows in {seconds:.1} s", report.rows_written)?;
                if let Some(units) = &report.units {
                    write!(
                        f,
                        ", {} units computed, {} done before",
                        units.computed, units.skipped
                    )?;
                }
                write!(f, "; {}", Next(next.as_ref()))
            }
            What::Failed { error, .. } if Outcome::of(error.kind()) == Outcome::Interrupted => {
                write!(f, "interrupted: {}; the next start goes on", one_line(error))
            }
            What::Failed { error, next } => {
                let code = error.kind().exit_code();
                write!(f, "failed with {code}: {}; {}", one_line(error), Next(next.as_ref()))
            }
            What::Stopped => f.write_str("stopped"),
        }
    }
}

/// A moment for people: `2026-03-29 03:00:00 CEST`.
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

/// An error on one line; of a pipeline file, the problems by line and column.
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
