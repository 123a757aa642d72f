//! Runs pipelines when they are due: as a long-running service (`hfauto-pipe schedule`), or when cron, systemd or
//! Kubernetes calls `run --due`.
//!
//! ```text
//! folder      the pipeline files, reloaded when they change
//! times       cron expression, time zone, clock ─► the next and the last due time
//! due         due time, past runs, clock ─► run it, or wait until
//! state       past runs, on disk; which process runs it now
//! scheduler   one after another, each at its time
//! ```
//!
//! `times` and `due` are pure functions of a clock value; `HFAUTO_NOW` sets another clock for tests. croner matches
//! cron expressions. Clock changes are handled here, as cron does: croner would skip or repeat `0 2,14 * * *`.
//!
//! Each due run is a child process, `run --supervised`. It takes orders from its standard input and ends with its
//! parent; the schedule records how it ended. "Started" is written before a run and "done" after it, both under the
//! pipeline's lock. The operating system releases the lock with the process, so "started" with a free lock means a
//! crash. A due time is the newest time that has passed. `done_until` of a state only grows, unless the schedule itself
//! changes.
//!
//! Not here: how a pipeline runs ([`crate::job`]). Entry: [`Scheduler`].

mod folder;
mod times;
mod due;
mod state;
mod events;
mod scheduler;

use chrono::{DateTime, Utc};

pub use due::{Verdict, start_time, verdict};
pub use events::{Event, What};
pub use folder::{Change, Entry, Folder};
pub use scheduler::{Facts, Passed, Scheduler, facts};
pub use state::{LastRun, Open, Outcome, STATE_FOLDER, State, StateFolder};
pub use times::{last_time, next_time};

/// The current time in whole seconds. `HFAUTO_NOW` sets another clock for tests: it starts at that time when first
/// read, and then runs on.
pub fn now() -> DateTime<Utc> {
    use std::sync::OnceLock;
    use std::time::Instant;

    static CLOCK: OnceLock<Option<(DateTime<Utc>, Instant)>> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| {
        let start = std::env::var("HFAUTO_NOW").ok()?.parse().ok()?;
        Some((start, Instant::now()))
    });
    let now = match clock {
        Some((start, since)) => *start + since.elapsed(),
        None => Utc::now(),
    };
    DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now)
}
