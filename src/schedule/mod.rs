//! When pipelines are due, and running them then: `hfauto-pipe schedule`, a long-running service, and `run --due`,
//! which cron, systemd or Kubernetes call.
//!
//! ```text
//! folder      the pipeline files, read again when they change
//! times       cron expression, time zone, clock ─► the next and the last due time
//! due         due time, what was run, clock ─► run it, or wait until
//! state       what was run, on disk; which process runs it now
//! scheduler   one after another, each at its time
//! ```
//!
//! `times` and `due` are pure functions of a clock value; `HFAUTO_NOW` sets another clock for tests. croner matches
//! cron expressions. Their meaning around clock changes is ours and that of cron: croner would skip or repeat `0 2,14
//! * * *`.
//!
//! Each due run is a child process, `run --supervised`. It takes orders from its standard input and ends with its
//! parent; the schedule records how it ended. "Started" is written before a run and "done" after it, both under the
//! pipeline's lock, which the operating system releases with the process: a state that says "started" with a free lock
//! is a crash. A due time is the newest one that has come. `done_until` of a state only grows, unless the schedule
//! itself changes.
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

/// The time, in whole seconds. `HFAUTO_NOW` sets another clock for tests: it begins there when the process
/// first looks, and goes on.
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
