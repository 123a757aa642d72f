//! When pipelines are due, and running them then: `hfauto-pipe schedule`, which stays, and `run --due`, which
//! cron, systemd or Kubernetes call.
//!
//! ```text
//! folder      the pipeline files, read again when they change
//! times       cron expression, time zone, clock ─► the next and the last due time
//! due         due time, what was run, clock ─► run it, or wait until
//! state       what was run, on the disk; who is at it
//! scheduler   one after another, each at its time
//! ```
//!
//! `times` and `due` are pure functions of a clock value. Not here: how a pipeline runs ([`crate::engine`]).
//! Entry: [`Scheduler`].

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
