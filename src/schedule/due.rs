//! Whether a pipeline is due: a pure function of its schedule, its past runs, and a clock value. Not here: the calendar
//! (`times`), the disk (`state`).
//!
//! - A time that has passed is due until a run for it has ended. Of several missed times, only the newest is run.
//! - A run that started but did not end (a crash, a signal), or that ended with exit code 75, stays due. It is retried
//!   with increasing delays. A run that failed otherwise has ended.
//! - A clock that is set back makes nothing due again: times up to the last one that was run are done.
//! - A new pipeline, or one whose schedule changed, is due from its next time on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::state::{Open, State};
use super::times::{last_time, next_time};
use crate::config::pipeline::ScheduleSpec;

/// Without `catch_up`, a time is skipped if it passed this long before a process first checked. A restart of the
/// scheduler, or an hourly call of `run --due`, misses nothing.
const GRACE: TimeDelta = TimeDelta::hours(1);

/// The longest wait between two attempts.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);

/// The action for a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run it.
    Due {
        /// The time that is due, without jitter.
        time: DateTime<Utc>,
        /// Whether an earlier run for this time did not end.
        is_rerun: bool,
    },
    /// Nothing is due before this moment; `None` at the end of the calendar.
    Wait(Option<DateTime<Utc>>),
}

/// When a process started to check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    /// The folder: times that passed later, and waited for their turn, are never skipped.
    pub(super) folder: DateTime<Utc>,
    /// The file in its current form: a new file is due from then on.
    pub(super) file: DateTime<Utc>,
}

/// Updates a state to match the schedule: new and changed schedules, and skipped times.
pub(super) fn refresh(
    state: &mut State,
    schedule: &ScheduleSpec,
    now: DateTime<Utc>,
    since: Since,
) -> Option<Refreshed> {
    let written = written(schedule);
    if state.schedule != written {
        let was_there = !std::mem::replace(&mut state.schedule, written).is_empty();
        state.done_until = since.file.min(now);
        return Some(if was_there { Refreshed::Changed } else { Refreshed::New });
    }
    if !schedule.catch_up
        && state.open.is_none()
        && let Some(time) = newest(state, schedule, now)
        && start_time(&state.file, schedule, time) < since.folder - GRACE
    {
        state.done_until = time;
        return Some(Refreshed::LeftOut(time));
    }
    None
}

/// The result of [`refresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    New,
    Changed,
    LeftOut(DateTime<Utc>),
}

/// Whether a pipeline is due at `now`.
pub fn verdict(state: &State, schedule: &ScheduleSpec, now: DateTime<Utc>) -> Verdict {
    let newest = newest(state, schedule, now);
    if let Some(open) = &state.open {
        let again = again_at(open);
        // A clock that is set back far would delay it for as long.
        if again > now && again - now <= LONGEST_WAIT {
            return Verdict::Wait(Some(again));
        }
        let time = newest.map_or(open.due, |newest| newest.max(open.due));
        return Verdict::Due { time, is_rerun: true };
    }
    match newest {
        Some(time) => Verdict::Due { time, is_rerun: false },
        None => Verdict::Wait(next_start(state, schedule, now)),
    }
}

/// The next attempt of a run that did not end: immediately after the first crash or a signal, a minute after a first
/// failure with exit code 75. Each further delay doubles.
fn again_at(open: &Open) -> DateTime<Utc> {
    let (from, doublings) = match open.put_off_at {
        // After a signal, a restarted scheduler resumes the run immediately.
        Some(at) if open.was_stopped => return at,
        Some(at) => (at, open.attempts),
        // The process crashed during the attempt.
        None => (open.started_at, open.attempts.saturating_sub(1)),
    };
    let wait = match doublings {
        0 => TimeDelta::zero(),
        doublings => TimeDelta::minutes(1 << (doublings - 1).min(10)).min(LONGEST_WAIT),
    };
    from + wait
}

/// The newest time that has passed and is not done.
fn newest(state: &State, schedule: &ScheduleSpec, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut time = last_time(schedule, now)?;
    while time > state.done_until {
        if start_time(&state.file, schedule, time) <= now {
            return Some(time);
        }
        time = last_time(schedule, time - TimeDelta::seconds(1))?;
    }
    None
}

/// The start of the next time that is not done.
fn next_start(state: &State, schedule: &ScheduleSpec, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut time = state.done_until.max(now - jitter(schedule));
    loop {
        time = next_time(schedule, time)?;
        let start = start_time(&state.file, schedule, time);
        if start > now {
            return Some(start);
        }
    }
}

/// A due time with its jitter: a number of seconds derived from the file's name and the time, so a restart computes the
/// same.
pub fn start_time(file: &str, schedule: &ScheduleSpec, time: DateTime<Utc>) -> DateTime<Utc> {
    let seconds = schedule.jitter.as_secs();
    if seconds == 0 {
        return time;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(file.as_bytes()).update(&time.timestamp().to_le_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    time + Duration::from_secs(u64::from_le_bytes(bytes) % seconds)
}

fn jitter(schedule: &ScheduleSpec) -> TimeDelta {
    TimeDelta::seconds(schedule.jitter.as_secs() as i64)
}

/// The part of a schedule that identifies it.
pub(super) fn written(schedule: &ScheduleSpec) -> String {
    format!("{} {}", schedule.expression, schedule.timezone.name())
}

#[cfg(test)]
mod tests {
    use croner::parser::CronParser;

    use super::super::state::Outcome;
    use super::*;

    fn refresh(
        state: &mut State,
        schedule: &ScheduleSpec,
        now: DateTime<Utc>,
        since: DateTime<Utc>,
    ) -> Option<Refreshed> {
        super::refresh(state, schedule, now, Since { folder: since, file: now })
    }

    fn schedule(expression: &str) -> ScheduleSpec {
        ScheduleSpec {
            expression: expression.to_owned(),
            cron: CronParser::new().parse(expression).unwrap(),
            timezone: chrono_tz::Tz::UTC,
            jitter: Duration::ZERO,
            catch_up: true,
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// A state as of the evening of 1 March.
    fn seen(schedule: &ScheduleSpec) -> State {
        let mut state = State::new("a.yaml");
        let now = at("2026-03-01T18:00:00Z");
        assert_eq!(refresh(&mut state, schedule, now, now), Some(Refreshed::New));
        assert_eq!(refresh(&mut state, schedule, now, now), None);
        state
    }

    fn due(time: &str, is_rerun: bool) -> Verdict {
        Verdict::Due { time: at(time), is_rerun }
    }

    fn wait(time: &str) -> Verdict {
        Verdict::Wait(Some(at(time)))
    }

    #[test]
    fn each_time_is_due_once() {
        let daily = schedule("0 3 * * *");
        let mut state = seen(&daily);
        assert_eq!(
            verdict(&state, &daily, at("2026-03-01T18:00:00Z")),
            wait("2026-03-02T03:00:00Z")
        );
        assert_eq!(
            verdict(&state, &daily, at("2026-03-02T02:59:59Z")),
            wait("2026-03-02T03:00:00Z")
        );
        let now = at("2026-03-02T03:00:00Z");
        assert_eq!(verdict(&state, &daily, now), due("2026-03-02T03:00:00Z", false));
        state.start(now, now, is_at());
        state.finish(at("2026-03-02T03:10:00Z"), Outcome::Done, 0, None);
        assert_eq!(
            verdict(&state, &daily, at("2026-03-02T03:10:00Z")),
            wait("2026-03-03T03:00:00Z")
        );
        // A failed run is not repeated.
        let now = at("2026-03-03T03:00:00Z");
        state.start(now, now, is_at());
        state.finish(now, Outcome::Failed, 65, Some("bad rows".to_owned()));
        assert_eq!(verdict(&state, &daily, now), wait("2026-03-04T03:00:00Z"));
    }

    fn is_at() -> (u32, String) {
        (7, "host".to_owned())
    }

    #[test]
    fn missed_days_are_one_run() {
        let daily = schedule("0 3 * * *");
        let mut state = seen(&daily);
        let now = at("2026-03-09T12:00:00Z");
        assert_eq!(refresh(&mut state, &daily, now, now), None);
        assert_eq!(verdict(&state, &daily, now), due("2026-03-09T03:00:00Z", false));
        state.start(at("2026-03-09T03:00:00Z"), now, is_at());
        state.finish(now, Outcome::Done, 0, None);
        assert_eq!(verdict(&state, &daily, now), wait("2026-03-10T03:00:00Z"));

        let without = ScheduleSpec { catch_up: false, ..schedule("0 3 * * *") };
        let mut state = seen(&without);
        let left_out = Some(Refreshed::LeftOut(at("2026-03-09T03:00:00Z")));
        assert_eq!(refresh(&mut state, &without, now, now), left_out);
        assert_eq!(verdict(&state, &without, now), wait("2026-03-10T03:00:00Z"));
        // Within an hour, a time is not late. A time that waited for its turn was checked in time.
        for (now, since) in [
            ("2026-03-10T04:00:00Z", "2026-03-10T04:00:00Z"),
            ("2026-03-10T09:00:00Z", "2026-03-10T01:00:00Z"),
        ] {
            assert_eq!(refresh(&mut state, &without, at(now), at(since)), None);
            assert_eq!(verdict(&state, &without, at(now)), due("2026-03-10T03:00:00Z", false));
        }
    }

    #[test]
    fn a_clock_that_jumps_runs_nothing_twice() {
        let hourly = schedule("0 * * * *");
        let mut state = seen(&hourly);
        let now = at("2026-03-02T12:00:00Z");
        assert_eq!(verdict(&state, &hourly, now), due("2026-03-02T12:00:00Z", false));
        state.start(now, now, is_at());
        state.finish(now, Outcome::Done, 0, None);
        // Back by five hours, and by a year: nothing is due until the clock reaches its old value.
        for back in ["2026-03-02T07:30:00Z", "2025-03-02T07:30:00Z"] {
            assert_eq!(verdict(&state, &hourly, at(back)), wait("2026-03-02T13:00:00Z"));
        }
        // Forward by two months: due once.
        let now = at("2026-05-02T12:30:00Z");
        assert_eq!(verdict(&state, &hourly, now), due("2026-05-02T12:00:00Z", false));
        state.start(at("2026-05-02T12:00:00Z"), now, is_at());
        state.finish(now, Outcome::Done, 0, None);
        assert_eq!(verdict(&state, &hourly, now), wait("2026-05-02T13:00:00Z"));
    }

    #[test]
    fn unfinished_runs_stay_due_with_increasing_delays() {
        let daily = ScheduleSpec { catch_up: false, ..schedule("0 3 * * *") };
        let mut state = seen(&daily);
        let time = at("2026-03-02T03:00:00Z");
        let minute = TimeDelta::minutes(1);
        state.start(time, time, is_at());
        // After the first crash, immediately, even days later and without `catch_up`.
        assert_eq!(verdict(&state, &daily, time), due("2026-03-02T03:00:00Z", true));
        let later = at("2026-03-04T02:00:00Z");
        assert_eq!(refresh(&mut state, &daily, later, later), None);
        assert_eq!(verdict(&state, &daily, later), due("2026-03-03T03:00:00Z", true));
        // It crashes again and again.
        for (attempt, minutes) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
            state.start(time, time, is_at());
            let until = time + minute * minutes;
            let before = until - TimeDelta::seconds(1);
            assert_eq!(verdict(&state, &daily, before), Verdict::Wait(Some(until)), "{attempt}");
            assert_eq!(verdict(&state, &daily, until), due("2026-03-02T03:00:00Z", true));
        }
        // A clock that is set back delays nothing.
        let before = at("2026-01-01T00:00:00Z");
        assert_eq!(verdict(&state, &daily, before), due("2026-03-02T03:00:00Z", true));
        // A run that has ended is done.
        state.finish(time, Outcome::Done, 0, None);
        assert_eq!(verdict(&state, &daily, time), wait("2026-03-03T03:00:00Z"));

        // Exit code 75 delays by a minute, a signal not at all.
        let time = at("2026-03-03T03:00:00Z");
        state.start(time, time, is_at());
        state.finish(time, Outcome::Busy, 75, None);
        assert_eq!(verdict(&state, &daily, time), Verdict::Wait(Some(time + minute)));
        assert_eq!(verdict(&state, &daily, time + minute), due("2026-03-03T03:00:00Z", true));
        state.start(time, time + minute, is_at());
        state.finish(time + minute, Outcome::Busy, 75, None);
        assert_eq!(verdict(&state, &daily, time + minute), Verdict::Wait(Some(time + minute * 3)));
        state.start(time, time + minute * 3, is_at());
        state.finish(time + minute * 3, Outcome::Interrupted, 143, None);
        assert_eq!(verdict(&state, &daily, time + minute * 3), due("2026-03-03T03:00:00Z", true));
    }

    #[test]
    fn another_schedule_counts_from_now() {
        let mut state = seen(&schedule("0 3 * * *"));
        let noon = schedule("0 12 * * *");
        let now = at("2026-03-05T13:00:00Z");
        assert_eq!(refresh(&mut state, &noon, now, now), Some(Refreshed::Changed));
        assert_eq!(verdict(&state, &noon, now), wait("2026-03-06T12:00:00Z"));
        // The jitter does not identify a schedule.
        let late = ScheduleSpec { jitter: Duration::from_mins(1), ..noon };
        assert_eq!(refresh(&mut state, &late, now, now), None);
    }

    #[test]
    fn jitter_is_spread_and_deterministic() {
        let schedule = ScheduleSpec { jitter: Duration::from_mins(10), ..schedule("0 * * * *") };
        let mut seconds = Vec::new();
        for hour in 0..1000 {
            let time = at("2026-03-02T00:00:00Z") + TimeDelta::hours(hour);
            let start = start_time("a.yaml", &schedule, time);
            assert_eq!(start, start_time("a.yaml", &schedule, time));
            seconds.push((start - time).num_seconds());
        }
        assert!(seconds.iter().all(|seconds| (0..600).contains(seconds)));
        let mean = seconds.iter().sum::<i64>() / 1000;
        assert!((270..330).contains(&mean), "{mean}");
        let time = at("2026-03-02T03:00:00Z");
        assert_ne!(start_time("a.yaml", &schedule, time), start_time("b.yaml", &schedule, time));

        // Due from its start on, once.
        let mut state = seen(&schedule);
        let time = at("2026-03-01T19:00:00Z");
        let start = start_time("a.yaml", &schedule, time);
        assert!(start > time);
        let second = TimeDelta::seconds(1);
        assert_eq!(verdict(&state, &schedule, start - second), Verdict::Wait(Some(start)));
        assert_eq!(verdict(&state, &schedule, start), Verdict::Due { time, is_rerun: false });
        state.start(time, start, is_at());
        state.finish(start, Outcome::Done, 0, None);
        let next = start_time("a.yaml", &schedule, time + TimeDelta::hours(1));
        assert_eq!(verdict(&state, &schedule, start), Verdict::Wait(Some(next)));

        // The jitter exceeds the time between two due times.
        let dense = ScheduleSpec { jitter: Duration::from_hours(1), ..self::schedule("* * * * *") };
        let mut state = seen(&dense);
        let (mut now, mut runs) = (at("2026-03-01T18:00:00Z"), 0);
        while now < at("2026-03-02T18:00:00Z") {
            match verdict(&state, &dense, now) {
                Verdict::Due { time, .. } => {
                    assert!(time > state.done_until && time <= now);
                    state.start(time, now, is_at());
                    state.finish(now, Outcome::Done, 0, None);
                    runs += 1;
                }
                Verdict::Wait(until) => {
                    let until = until.unwrap();
                    assert!(until > now);
                    now = until;
                }
            }
        }
        assert!((24..1440).contains(&runs), "{runs}");
    }
}
