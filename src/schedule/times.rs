//! The due times of a schedule, as instants: the meaning of a cron expression on a wall clock with daylight saving
//! time. Pure functions. Not here: which times have been run, and jitter (`due`).
//!
//! The rules are cron's (cron(8) of Debian, "daylight saving time and other time changes"):
//!
//! - An expression whose minute or hour starts with `*` follows the wall clock: it is due whenever the clock shows a
//!   matching time. Skipped times are not due and repeated times are due twice, so `0 * * * *` is due once an hour on
//!   every day.
//! - Other expressions name times of day, and each is due once. In a gap, it is due at the first moment after the gap;
//!   several times in one gap are due together. Of a repeated time, the first counts.

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::config::pipeline::ScheduleSpec;

/// The largest backward shift of any zone since cron exists: a day, when islands moved across the date line.
const LONGEST_SHIFT: TimeDelta = TimeDelta::hours(25);

/// The first due time after `after`; `None` at the end of the calendar.
pub fn next_time(schedule: &ScheduleSpec, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if follows_the_clock(schedule) {
        let after = whole_second(after).with_timezone(&schedule.timezone);
        let next = schedule.cron.find_next_occurrence(&after, false).ok()?;
        return Some(next.to_utc());
    }
    // Times of day come in clock order, so the first one after `after` is the next.
    let mut wall = schedule.timezone.from_utc_datetime(&after.naive_utc()).naive_local();
    loop {
        wall = schedule.cron.find_next_occurrence(&wall.and_utc(), false).ok()?.naive_utc();
        let time = once(schedule.timezone, wall)?;
        if time > after {
            return Some(time);
        }
    }
}

/// The last due time up to `until`; `None` at the start of the calendar.
pub fn last_time(schedule: &ScheduleSpec, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let until = whole_second(until);
    if follows_the_clock(schedule) {
        let until = until.with_timezone(&schedule.timezone);
        let last = schedule.cron.find_previous_occurrence(&until, true).ok()?;
        return Some(last.to_utc());
    }
    // In a repeated hour, later clock times have already occurred.
    let wall = schedule.timezone.from_utc_datetime(&until.naive_utc()).naive_local();
    let mut wall = wall.checked_add_signed(LONGEST_SHIFT)?;
    loop {
        wall = schedule.cron.find_previous_occurrence(&wall.and_utc(), false).ok()?.naive_utc();
        let time = once(schedule.timezone, wall)?;
        if time <= until {
            return Some(time);
        }
    }
}

fn follows_the_clock(schedule: &ScheduleSpec) -> bool {
    // The parsed pattern, with `@hourly` expanded.
    let mut fields = schedule.cron.pattern.as_str().split_whitespace();
    fields.by_ref().take(2).any(|field| field.starts_with('*'))
}

/// The instant of a time of day: the first of two, or the end of the gap for a skipped one.
fn once(timezone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    match timezone.from_local_datetime(&wall) {
        LocalResult::Single(time) => Some(time.to_utc()),
        LocalResult::Ambiguous(first, _) => Some(first.to_utc()),
        LocalResult::None => after_gap(timezone, wall),
    }
}

/// The first instant after the gap that contains `wall`.
fn after_gap(timezone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    let is_past = |seconds: i64| {
        let time = Utc.timestamp_opt(seconds, 0).single()?;
        Some(time.with_timezone(&timezone).naive_local() > wall)
    };
    let middle = wall.and_utc().timestamp();
    // Offsets are less than a day, and so are gaps, at most.
    let day = 2 * 24 * 3600;
    let (mut before, mut past) = (middle - day, middle + day);
    while past - before > 1 {
        let between = before.midpoint(past);
        if is_past(between)? { past = between } else { before = between }
    }
    Utc.timestamp_opt(past, 0).single()
}

fn whole_second(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use croner::parser::{CronParser, Seconds, Year};

    use super::*;

    fn schedule(expression: &str, timezone: &str) -> ScheduleSpec {
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        ScheduleSpec {
            expression: expression.to_owned(),
            cron: parser.parse(expression).unwrap(),
            timezone: timezone.parse().unwrap(),
            jitter: Duration::ZERO,
            catch_up: true,
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The due times of a schedule between two instants, in its own time zone. Walks forward, and checks that walking
    /// backward gives the same.
    fn times(schedule: &ScheduleSpec, from: &str, to: &str) -> Vec<String> {
        let (from, to) = (at(from), at(to));
        let mut found = Vec::new();
        let mut time = from;
        while let Some(next) = next_time(schedule, time)
            && next <= to
        {
            assert!(next > time);
            assert_eq!(last_time(schedule, next), Some(next), "{next}");
            assert_eq!(last_time(schedule, next + TimeDelta::milliseconds(900)), Some(next));
            found.push(next);
            time = next;
        }
        let mut back = Vec::new();
        let mut time = to;
        while let Some(last) = last_time(schedule, time)
            && last > from
        {
            back.push(last);
            time = last - TimeDelta::seconds(1);
        }
        back.reverse();
        assert_eq!(found, back, "{} {}", schedule.expression, schedule.timezone);
        let shown = |time: DateTime<Utc>| {
            time.with_timezone(&schedule.timezone).format("%m-%dT%H:%M %z").to_string()
        };
        found.into_iter().map(shown).collect()
    }

    fn check(expression: &str, timezone: &str, from: &str, to: &str, expected: &[&str]) {
        assert_eq!(times(&schedule(expression, timezone), from, to), expected, "{expression}");
    }

    /// 2026: from 02:00 to 03:00 on 29 March, and back from 03:00 on 25 October.
    const BERLIN: &str = "Europe/Berlin";

    #[test]
    fn a_time_in_a_gap_comes_once_right_after_it() {
        let (from, to) = ("2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
        check(
            "30 2 * * *",
            BERLIN,
            from,
            to,
            &["03-28T02:30 +0100", "03-29T03:00 +0200", "03-30T02:30 +0200"],
        );
        // Three times in one gap are due together, with the time right after it.
        check(
            "0,30 2,3 * * *",
            BERLIN,
            "2026-03-28T23:00:00Z",
            "2026-03-29T23:00:00Z",
            &["03-29T03:00 +0200", "03-29T03:30 +0200"],
        );
        // A schedule for that day alone.
        check("30 2 29 3 *", BERLIN, from, to, &["03-29T03:00 +0200"]);
        check(
            "0 3 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            "2026-03-29T12:00:00Z",
            &["03-29T03:00 +0200"],
        );
    }

    #[test]
    fn a_time_in_an_overlap_comes_once_the_first_time() {
        let (from, to) = ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        check("30 2 * * *", BERLIN, from, to, &["10-25T02:30 +0200", "10-26T02:30 +0100"]);
        check(
            "0,30 2 * * *",
            BERLIN,
            from,
            "2026-10-25T12:00:00Z",
            &["10-25T02:00 +0200", "10-25T02:30 +0200"],
        );
        // The hours before and after are unaffected.
        check(
            "0 1,3 * * *",
            BERLIN,
            from,
            "2026-10-25T12:00:00Z",
            &["10-25T01:00 +0200", "10-25T03:00 +0100"],
        );
        // During the second pass, the first one is over.
        let schedule = schedule("45 2 * * *", BERLIN);
        let second_pass = at("2026-10-25T01:15:00Z");
        assert_eq!(last_time(&schedule, second_pass), Some(at("2026-10-25T00:45:00Z")));
        assert_eq!(next_time(&schedule, second_pass), Some(at("2026-10-26T01:45:00Z")));
    }

    #[test]
    fn hourly_is_every_hour_on_every_day() {
        for expression in ["0 * * * *", "@hourly"] {
            check(
                expression,
                BERLIN,
                "2026-03-28T23:30:00Z",
                "2026-03-29T02:00:00Z",
                &["03-29T01:00 +0100", "03-29T03:00 +0200", "03-29T04:00 +0200"],
            );
            check(
                expression,
                BERLIN,
                "2026-10-24T23:30:00Z",
                "2026-10-25T02:00:00Z",
                &["10-25T02:00 +0200", "10-25T02:00 +0100", "10-25T03:00 +0100"],
            );
        }
        // By the clock: skipped times are not due, repeated times are due twice.
        check(
            "30 */2 * * *",
            BERLIN,
            "2026-03-28T23:00:00Z",
            "2026-03-29T03:00:00Z",
            &["03-29T00:30 +0100", "03-29T04:30 +0200"],
        );
        check(
            "*/20 2 * * *",
            BERLIN,
            "2026-10-24T12:00:00Z",
            "2026-10-25T12:00:00Z",
            &[
                "10-25T02:00 +0200",
                "10-25T02:20 +0200",
                "10-25T02:40 +0200",
                "10-25T02:00 +0100",
                "10-25T02:20 +0100",
                "10-25T02:40 +0100",
            ],
        );
    }

    #[test]
    fn zones_with_other_shifts() {
        // New York: 8 March and 1 November 2026, at 02:00.
        let zone = "America/New_York";
        check(
            "30 2 * * *",
            zone,
            "2026-03-07T12:00:00Z",
            "2026-03-09T12:00:00Z",
            &["03-08T03:00 -0400", "03-09T02:30 -0400"],
        );
        check(
            "30 1 * * *",
            zone,
            "2026-10-31T12:00:00Z",
            "2026-11-02T12:00:00Z",
            &["11-01T01:30 -0400", "11-02T01:30 -0500"],
        );
        // Lord Howe moves by half an hour: 5 April back from 02:00 to 01:30, 4 October from 02:00 to 02:30.
        let zone = "Australia/Lord_Howe";
        check(
            "45 1 * * *",
            zone,
            "2026-04-04T00:00:00Z",
            "2026-04-05T12:00:00Z",
            &["04-05T01:45 +1100"],
        );
        check(
            "15 2 * * *",
            zone,
            "2026-10-03T00:00:00Z",
            "2026-10-04T12:00:00Z",
            &["10-04T02:30 +1100"],
        );
        check(
            "45 * * * *",
            zone,
            "2026-04-04T14:00:00Z",
            "2026-04-04T16:20:00Z",
            &["04-05T01:45 +1100", "04-05T01:45 +1030", "04-05T02:45 +1030"],
        );
        // Samoa skipped 30 December 2011.
        check(
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            "2011-12-31T12:00:00Z",
            &["12-29T12:00 -1000", "12-31T00:00 +1400", "12-31T12:00 +1400"],
        );
        // A day without midnight.
        check(
            "0 0 * * *",
            "America/Asuncion",
            "2023-09-30T12:00:00Z",
            "2023-10-02T12:00:00Z",
            &["10-01T01:00 -0300", "10-02T00:00 -0300"],
        );
    }

    #[test]
    fn days_that_occur_in_few_years() {
        check(
            "0 0 29 2 *",
            "UTC",
            "2026-01-01T00:00:00Z",
            "2033-01-01T00:00:00Z",
            &["02-29T00:00 +0000", "02-29T00:00 +0000"],
        );
        let leap = schedule("0 0 29 2 *", "UTC");
        assert_eq!(next_time(&leap, at("2026-01-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
        assert_eq!(last_time(&leap, at("2026-01-01T00:00:00Z")), Some(at("2024-02-29T00:00:00Z")));
        check(
            "0 0 31 * *",
            "UTC",
            "2026-01-31T00:00:00Z",
            "2026-06-01T00:00:00Z",
            &["03-31T00:00 +0000", "05-31T00:00 +0000"],
        );
        check(
            "0 0 L * *",
            "UTC",
            "2028-01-31T00:00:00Z",
            "2028-04-01T00:00:00Z",
            &["02-29T00:00 +0000", "03-31T00:00 +0000"],
        );
    }

    /// Compares with cron's algorithm, which checks the clock at every minute of a year.
    #[test]
    fn a_year_of_minutes_gives_the_same_times() {
        let zones = [
            BERLIN,
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kolkata",
            "Africa/Casablanca",
        ];
        for zone in zones {
            for expression in
                ["7 * * * *", "*/45 1-3 * * *", "15 */3 * * SUN", "30 2 * * *", "0,20 1,2,3 * * *"]
            {
                let schedule = schedule(expression, zone);
                let by_the_clock = follows_the_clock(&schedule);
                let start = at("2025-12-31T23:59:00Z");
                let mut expected = Vec::new();
                // Clock times that have occurred: no time of day is due twice.
                let mut shown = start.with_timezone(&schedule.timezone).naive_local();
                for minute in 1..=366 * 24 * 60 {
                    let time = start + TimeDelta::minutes(minute);
                    let wall = time.with_timezone(&schedule.timezone).naive_local();
                    let matches = |wall: NaiveDateTime| {
                        schedule.cron.is_time_matching(&wall.and_utc()).unwrap()
                    };
                    if by_the_clock {
                        if matches(wall) {
                            expected.push(time);
                        }
                        continue;
                    }
                    let mut is_due = false;
                    while shown < wall {
                        shown += TimeDelta::minutes(1);
                        is_due |= matches(shown);
                    }
                    if is_due {
                        expected.push(time);
                    }
                }
                let mut found = Vec::new();
                let mut time = start;
                while let Some(next) = next_time(&schedule, time)
                    && found.len() <= expected.len()
                    && next <= start + TimeDelta::minutes(366 * 24 * 60)
                {
                    found.push(next);
                    time = next;
                    assert_eq!(last_time(&schedule, next + TimeDelta::seconds(59)), Some(next));
                }
                assert!(found.len() > 50);
                assert_eq!(found, expected, "{expression} {zone}");
            }
        }
    }
}
