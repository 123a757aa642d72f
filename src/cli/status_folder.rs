//! `hfauto-pipe status FOLDER`: shows the last and the next run of each pipeline, and adds the schedule to the status of
//! a single one. Only reads the disk.

use std::fmt;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, TimeZone};
use serde_json::{Value, json};

use super::PipelineArgs;
use crate::config::LoadOptions;
use crate::config::pipeline::{Pipeline, ScheduleSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schedule::{Facts, Folder, Outcome, StateFolder, facts, now};

/// A schedule and the state of its runs.
pub(super) struct Scheduled {
    schedule: ScheduleSpec,
    facts: Facts,
}

/// Shows the status of a folder.
pub(super) fn run(args: &PipelineArgs, state: Option<&Path>, json: bool) -> Result<()> {
    let path = &args.pipeline;
    let options = LoadOptions { set: args.set.clone(), ..LoadOptions::default() };
    let mut folder = Folder::new(path, options);
    folder.look()?;
    let states = StateFolder::new(path, state);
    let rows: Vec<Row> = folder
        .files()
        .iter()
        .map(|(file, entry)| {
            let (name, scheduled) = match &entry.pipeline {
                Ok(pipeline) => {
                    let schedule = pipeline.schedule.as_ref();
                    (
                        Some(pipeline.name.clone()),
                        schedule.map(|it| scheduled(file, it, &states)).transpose(),
                    )
                }
                Err(error) => (None, Err(error.again())),
            };
            Row { file: file.clone(), name, scheduled }
        })
        .collect();
    if json {
        let pipelines: Vec<Value> = rows.iter().map(Row::to_json).collect();
        let whole = json!({"folder": path, "state": states.path(), "pipelines": pipelines});
        return super::terminal::print_json(whole);
    }
    if rows.is_empty() {
        let message = format!("there is no pipeline file in `{}`", path.display());
        return Err(Error::new(ErrorKind::NoInput, message));
    }
    super::print(table(&rows))
}

/// The schedule of a pipeline, if it has one.
pub(super) fn of_pipeline(pipeline: &Pipeline, state: Option<&Path>) -> Result<Option<Scheduled>> {
    let Some(schedule) = &pipeline.schedule else { return Ok(None) };
    let file = pipeline.file.file_name().unwrap_or_default().to_string_lossy();
    scheduled(&file, schedule, &StateFolder::new(&pipeline.dir, state)).map(Some)
}

fn scheduled(file: &str, schedule: &ScheduleSpec, states: &StateFolder) -> Result<Scheduled> {
    let facts = facts(file, schedule, states, now())?;
    Ok(Scheduled { schedule: schedule.clone(), facts })
}

/// A pipeline file of the folder.
struct Row {
    file: String,
    name: Option<String>,
    scheduled: Result<Option<Scheduled>>,
}

impl Row {
    fn to_json(&self) -> Value {
        let mut json = json!({"file": self.file, "name": self.name});
        match &self.scheduled {
            Ok(Some(scheduled)) => json["scheduled"] = scheduled.to_json(),
            Ok(None) => json["scheduled"] = Value::Null,
            Err(error) => json["error"] = error.to_string().into(),
        }
        json
    }
}

// The states of a pipeline.
const RUNNING: &str = "running";
const DUE: &str = "due";
const WAITING: &str = "waiting";

impl Scheduled {
    fn state(&self) -> &'static str {
        match &self.facts {
            Facts { runs: Some(_), .. } => RUNNING,
            Facts { due: Some(_), .. } => DUE,
            _ => WAITING,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { schedule, facts } = self;
        let last = facts.state.as_ref().and_then(|state| state.last.as_ref());
        json!({
            "cron": schedule.expression,
            "timezone": schedule.timezone.name(),
            "jitter_seconds": schedule.jitter.as_secs(),
            "catch_up": schedule.catch_up,
            "state": self.state(),
            "runs": facts.runs,
            "due": facts.due.map(utc),
            "next": facts.next.map(utc),
            "last": last,
        })
    }

    fn next(&self) -> String {
        match (&self.facts.due, &self.facts.next) {
            _ if self.facts.runs.is_some() => "now".to_owned(),
            (Some(due), _) => format!("due {}", shown(due)),
            (None, Some(next)) => shown(next),
            (None, None) => "never".to_owned(),
        }
    }

    /// The outcome and the time of the last run.
    fn last(&self) -> (&'static str, String) {
        if let Some(open) = self.facts.state.as_ref().and_then(|state| state.open.as_ref())
            && open.put_off_at.is_none()
        {
            let started = shown(&open.started_at.with_timezone(&self.schedule.timezone));
            let word = if self.facts.runs.is_some() { RUNNING } else { "interrupted" };
            return (word, started);
        }
        let last = self.facts.state.as_ref().and_then(|state| state.last.as_ref());
        last.map_or(("never run", String::new()), |last| {
            (last.outcome.name(), shown(&last.finished_at.with_timezone(&self.schedule.timezone)))
        })
    }

    /// The error of the last run.
    fn error(&self) -> Option<String> {
        let last = self.facts.state.as_ref()?.last.as_ref()?;
        let error = last.error.as_ref().filter(|_| last.outcome != Outcome::Done)?;
        Some(format!("exit code {}: {error}", last.exit_code))
    }
}

impl fmt::Display for Scheduled {
    /// Two or three lines, below the status of a pipeline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScheduleSpec { expression, timezone, .. } = &self.schedule;
        writeln!(f, "schedule  {expression} {timezone}, next {}", self.next())?;
        let (outcome, at) = self.last();
        writeln!(f, "last run  {}", format!("{outcome} {at}").trim_end())?;
        if let Some(holder) = &self.facts.runs {
            writeln!(f, "          run by {holder}")?;
        }
        if let Some(error) = self.error() {
            writeln!(f, "          {}", error.replace('\n', "\n          "))?;
        }
        Ok(())
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![["PIPELINE", "NEXT", "LAST", "ENDED"].map(str::to_owned)];
    let mut below = vec![None];
    for row in rows {
        let (next, last, ended, text) = match &row.scheduled {
            Ok(Some(scheduled)) => {
                let (outcome, at) = scheduled.last();
                (scheduled.next(), outcome, at, scheduled.error())
            }
            Ok(None) => ("no schedule".to_owned(), "", String::new(), None),
            Err(error) => ("cannot be run".to_owned(), "", String::new(), Some(error.to_string())),
        };
        lines.push([row.file.clone(), next, last.to_owned(), ended]);
        below.push(text);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..4).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (line, below) in lines.iter().zip(below) {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        text += cells.collect::<String>().trim_end();
        text.push('\n');
        for line in below.iter().flat_map(|below| below.lines()) {
            text += format!("    {line}").trim_end();
            text.push('\n');
        }
    }
    text
}

fn utc<Z: TimeZone>(time: DateTime<Z>) -> String {
    time.to_utc().to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn shown(time: &DateTime<chrono_tz::Tz>) -> String {
    time.format("%Y-%m-%d %H:%M:%S %Z").to_string()
}
