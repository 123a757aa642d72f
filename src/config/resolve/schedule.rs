//! Resolves `schedule`: a cron expression of five fields, a time zone, a jitter. Not here: due times (`crate::schedule`).

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::{Cursor, Resolver};
use crate::config::pipeline::ScheduleSpec;
use crate::config::raw::RawSchedule;
use crate::document::Diagnostic;

/// The fields of an expression and their values.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, or L for the last"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7 (0 and 7 are Sunday), or MON to SUN"),
];

const NICKNAMES: [&str; 5] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly"];

/// The largest jitter: a later start would belong to another day of the schedule.
const MAX_JITTER: Duration = Duration::from_hours(24);

impl Resolver<'_> {
    /// The schedule; `None` if it has a problem.
    pub(super) fn schedule(&mut self, raw: &RawSchedule, at: Cursor<'_>) -> Option<ScheduleSpec> {
        let cron = self.cron(&raw.cron, at.key("cron"));
        let timezone = match &raw.timezone {
            Some(name) => self.timezone(name, at.key("timezone")),
            None => Some(Tz::UTC),
        };
        let jitter = match &raw.jitter {
            Some(text) => self.jitter(text, at.key("jitter")),
            None => Some(Duration::ZERO),
        };
        Some(ScheduleSpec {
            expression: raw.cron.trim().to_owned(),
            cron: cron?,
            timezone: timezone?,
            jitter: jitter?,
            catch_up: raw.catch_up.unwrap_or(true),
        })
    }

    fn cron(&mut self, text: &str, at: Cursor<'_>) -> Option<Cron> {
        match parse(text) {
            Ok(cron) => Some(cron),
            Err(problem) => {
                let shown = at.shown(text);
                // A part of a variable's value would reveal it.
                let part =
                    |part: &str| if shown == text { format!(" `{part}`") } else { String::new() };
                let diagnostic = match problem {
                    Problem::Nickname => {
                        let names = NICKNAMES.map(str::to_owned);
                        let nearest = at.nearest(text.trim(), &names);
                        Diagnostic::new(
                            at.value,
                            format!("`{shown}` is not the name of a schedule"),
                        )
                        .nearest(nearest.as_deref())
                        .choices("valid names", names)
                    }
                    Problem::Fields(count) => {
                        let message = format!(
                            "`{shown}` is not a cron expression: expected five fields, found {count}"
                        );
                        Diagnostic::new(at.value, message).hint(if count > 5 {
                            "write minute, hour, day of the month, month and day of the week, \
                             as `0 3 * * *`: there are neither seconds nor years"
                        } else {
                            "write minute, hour, day of the month, month and day of the week, \
                             as `0 3 * * *`"
                        })
                    }
                    Problem::Field(index) => {
                        let (name, takes) = FIELDS[index];
                        let field = text.split_whitespace().nth(index).unwrap_or_default();
                        let message = format!(
                            "`{shown}` is not a cron expression: the {name}{} is not valid",
                            part(field)
                        );
                        Diagnostic::new(at.value, message).hint(format!(
                            "it takes {takes}; lists `1,2`, ranges `1-5`, steps `*/2`, or `*` for all"
                        ))
                    }
                    Problem::Never => {
                        let message = format!("`{shown}` is never due: there is no such day");
                        Diagnostic::new(at.value, message)
                            .hint("choose a day that the month has, or `L` for its last")
                    }
                };
                self.report.push(diagnostic);
                None
            }
        }
    }

    fn timezone(&mut self, name: &str, at: Cursor<'_>) -> Option<Tz> {
        if let Ok(timezone) = Tz::from_str(name) {
            return Some(timezone);
        }
        let names: Vec<String> = TZ_VARIANTS.iter().map(|zone| zone.name().to_owned()).collect();
        // `Berlin` and `europe/berlin` are the usual slips.
        let end = format!("/{}", name.trim().replace(' ', "_"));
        let city = names.iter().find(|known| {
            let tail = known.get(known.len().saturating_sub(end.len())..).unwrap_or_default();
            tail.eq_ignore_ascii_case(&end)
        });
        let is_written = at.shown(name) == name;
        let nearest = match city.filter(|_| is_written) {
            Some(city) => Some(city.clone()),
            None => at.nearest(name, &names),
        };
        let message = format!("the time zone `{}` is not known", at.shown(name));
        self.report.push(
            Diagnostic::new(at.value, message).nearest(nearest.as_deref()).hint(
                "write a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`",
            ),
        );
        None
    }

    fn jitter(&mut self, text: &str, at: Cursor<'_>) -> Option<Duration> {
        let shown = at.shown(text);
        let problem = match duration(text) {
            Some(jitter) if jitter <= MAX_JITTER => return Some(jitter),
            Some(_) => {
                let message = format!("a jitter of `{shown}` is more than a day");
                Diagnostic::new(at.value, message).hint("write at most `24h`")
            }
            None => Diagnostic::new(at.value, format!("`{shown}` is not a duration"))
                .hint("write a whole number with s, m or h: `60s`, `5m`, `1h30m`"),
        };
        self.report.push(problem);
        None
    }
}

/// What is wrong with an expression.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// An unknown `@name`.
    Nickname,
    /// So many fields.
    Fields(usize),
    /// A field is invalid.
    Field(usize),
    /// No day matches.
    Never,
}

fn parse(text: &str) -> Result<Cron, Problem> {
    let text = text.trim();
    let fields: Vec<&str> = text.split_whitespace().collect();
    let is_nickname = text.starts_with('@');
    if is_nickname && !NICKNAMES.contains(&text) {
        return Err(Problem::Nickname);
    }
    if !is_nickname && fields.len() != FIELDS.len() {
        return Err(Problem::Fields(fields.len()));
    }
    // As in crontab(5): if one of the two day fields begins with `*` (such as `*/2`), a day must match both; otherwise one
    // is enough.
    let both =
        [2, 4].iter().any(|day| fields.get(*day).is_some_and(|field| field.starts_with('*')));
    let parser = |both| {
        CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .dom_and_dow(both)
            .build()
    };
    let Ok(cron) = parser(both).parse(text) else {
        let is_wrong = |index: &usize| {
            let alone: Vec<&str> = (0..FIELDS.len())
                .map(|other| if other == *index { fields[other] } else { "*" })
                .collect();
            parser(false).parse(&alone.join(" ")).is_err()
        };
        return Err(Problem::Field((0..fields.len()).find(is_wrong).unwrap_or(0)));
    };
    // Eight years contain every day that a schedule can name and that exists.
    let start = DateTime::<Utc>::UNIX_EPOCH;
    match cron.find_next_occurrence(&start, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(Problem::Never),
    }
}

/// The time that a text such as `60s`, `5m`, `1h` or `1h30m` states; `None` for any other text.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0_u64;
    let mut largest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        // Each unit at most once, larger units first.
        if unit >= largest {
            return None;
        }
        largest = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (largest < u64::MAX).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(duration(text), expected.map(Duration::from_secs), "{text}");
        };
        check("60s", Some(60));
        check(" 5m ", Some(300));
        check("1h", Some(3600));
        check("1h30m", Some(5400));
        check("0s", Some(0));
        for text in [
            "",
            " ",
            "60",
            "s",
            "1.5h",
            "-1s",
            "1d",
            "1m1h",
            "1m1m",
            "1h 30m",
            "é",
            "5é",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn expressions() {
        for text in [
            "0 3 * * *",
            "*/15 9-17 * * MON-FRI",
            "0 0 1,15 * *",
            "30 2 29 2 *",
            "0 0 L * *",
            "0 9 * * MON#1",
            "0 22 * * 5L",
            "0 0 * * 7",
            "@daily",
            "@yearly",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
        for (text, expected) in [
            ("", Problem::Fields(0)),
            ("0 3 * *", Problem::Fields(4)),
            ("0 0 3 * * *", Problem::Fields(6)),
            ("60 3 * * *", Problem::Field(0)),
            ("0 24 * * *", Problem::Field(1)),
            ("0 3 0 * *", Problem::Field(2)),
            ("0 3 * 13 *", Problem::Field(3)),
            ("0 3 * * 8", Problem::Field(4)),
            ("0 3 * * noday", Problem::Field(4)),
            ("5-1 3 * * *", Problem::Field(0)),
            ("a b c d e", Problem::Field(0)),
            ("@dayly", Problem::Nickname),
            ("@reboot", Problem::Nickname),
            ("0 0 30 2 *", Problem::Never),
            ("0 0 31 4,6 *", Problem::Never),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
