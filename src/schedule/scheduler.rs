//! Runs pipelines at their times, one after another: those due now ([`Scheduler::run_due`]), or as a service
//! ([`Scheduler::stay`]). A run that fails or panics does not affect other pipelines. Not here: running a pipeline,
//! which the caller provides, and printing events.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use futures::FutureExt;

use super::due::{Refreshed, Since, Verdict, refresh, start_time, verdict, written};
use super::events::{Event, What};
use super::folder::{Change, Folder};
use super::now;
use super::state::{Asked, Found, Lock, Outcome, State, StateFolder, myself};
use crate::config::LoadOptions;
use crate::config::pipeline::{Pipeline, ScheduleSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::job::RunReport;

/// How often the service checks its folder and the clock, which may be set.
const TICK: Duration = Duration::from_secs(1);

/// The delay before the scheduler checks a busy pipeline, or one with an unusable state, again.
const BUSY: TimeDelta = TimeDelta::seconds(5);
const UNUSABLE: TimeDelta = TimeDelta::minutes(1);

/// A clock that is set back by less than this is an ordinary correction.
const BEHIND: TimeDelta = TimeDelta::hours(1);

/// The pipelines of a folder and their times.
pub struct Scheduler {
    folder: Folder,
    states: StateFolder,
    /// When the scheduler started.
    since: DateTime<Utc>,
    looked_at: DateTime<Utc>,
    pipelines: BTreeMap<String, Seat>,
    is_away: bool,
}

/// The scheduler's knowledge of a file between two reads of its state.
struct Seat {
    since: DateTime<Utc>,
    /// When to read its state again.
    look_at: DateTime<Utc>,
    /// When to start its run, if it is due.
    start: Option<DateTime<Utc>>,
    /// Whether its file was usable.
    was_usable: bool,
    /// The last event, to report a lasting condition only once.
    told: String,
}

/// The result of [`Scheduler::run_due`].
#[derive(Debug, Default)]
pub struct Passed {
    /// Pipelines with a schedule.
    pub scheduled: usize,
    /// Successful runs.
    pub done: usize,
    /// Failures in order; unusable files come first.
    pub failed: Vec<(String, ErrorKind)>,
}

/// The status of a scheduled pipeline.
#[derive(Debug)]
pub struct Facts {
    /// The state on disk; `None` if no scheduler has seen the pipeline.
    pub state: Option<State>,
    /// The next start; `None` when it is due now, or never again.
    pub next: Option<DateTime<Tz>>,
    /// The time that is due now.
    pub due: Option<DateTime<Tz>>,
    /// The process that runs it now.
    pub runs: Option<String>,
}

/// Reads the status of a scheduled pipeline; writes nothing.
///
/// # Errors
/// `Sink` when the state cannot be read.
pub fn facts(
    file: &str,
    schedule: &ScheduleSpec,
    states: &StateFolder,
    now: DateTime<Utc>,
) -> Result<Facts> {
    let (mut as_of_now, _) = current(states.read(file)?, file, schedule);
    let state = states.look(file)?;
    refresh(&mut as_of_now, schedule, now, Since { folder: now, file: now });
    let (next, due) = match verdict(&as_of_now, schedule, now) {
        Verdict::Due { time, .. } => (None, Some(time)),
        Verdict::Wait(until) => (until, None),
    };
    let local = |time: DateTime<Utc>| time.with_timezone(&schedule.timezone);
    Ok(Facts { state, next: next.map(local), due: due.map(local), runs: states.runs(file) })
}

/// The state to schedule by; for a damaged file, one derived from its modification time. The flag reports damage.
fn current(found: Option<Found>, file: &str, schedule: &ScheduleSpec) -> (State, bool) {
    match found {
        None => (State::new(file), false),
        Some(Found::State(state)) => (state, false),
        Some(Found::Damaged(state)) => (State { schedule: written(schedule), ..state }, true),
    }
}

/// Receives events.
type Tell<'a> = &'a mut dyn FnMut(&Event<'_>);

impl Scheduler {
    /// A scheduler for the pipelines of `folder`, which are read with `options`. `states` overrides the folder of
    /// states.
    pub fn new(folder: &Path, states: Option<&Path>, options: LoadOptions) -> Self {
        Self {
            folder: Folder::new(folder, options),
            states: StateFolder::new(folder, states),
            since: now(),
            looked_at: now(),
            pipelines: BTreeMap::new(),
            is_away: false,
        }
    }

    /// Runs the pipelines that are due, one after another, the longest due first, until `stop` resolves. `run` gets a pipeline
    /// and its due time.
    ///
    /// # Errors
    /// `NoInput` when the folder cannot be read, and the kind of `stop`. The result contains the failures of pipelines.
    pub async fn run_due(
        &mut self,
        run: impl AsyncFn(Pipeline, DateTime<Utc>) -> Result<RunReport>,
        stop: impl Future<Output = ErrorKind> + Clone,
        tell: Tell<'_>,
    ) -> Result<Passed> {
        let mut passed = Passed::default();
        self.look(tell)?;
        for (file, entry) in self.folder.files() {
            match &entry.pipeline {
                Ok(pipeline) => passed.scheduled += usize::from(pipeline.schedule.is_some()),
                Err(error) => passed.failed.push((file.clone(), error.kind())),
            }
        }
        for file in self.pipelines.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.settle(&file, tell) {
                passed.failed.push((file, error.kind()));
            }
        }
        while let Some(file) = self.first_due() {
            match self.turn(&file, &run, &stop, tell).await? {
                Some(Ok(())) => passed.done += 1,
                Some(Err(kind)) => passed.failed.push((file.clone(), kind)),
                None => {}
            }
            // One run per pipeline: one that is due again is left to the next call.
            if let Some(seat) = self.pipelines.get_mut(&file) {
                seat.start = None;
            }
        }
        Ok(passed)
    }

    /// Runs pipelines at their times until `stop` resolves, with an error of the kind of `stop`.
    ///
    /// # Errors
    /// `Resources` when another scheduler serves the folder, `NoInput` when the folder cannot be read at the start,
    /// `Sink` when states cannot be stored.
    pub async fn stay(
        &mut self,
        run: impl AsyncFn(Pipeline, DateTime<Utc>) -> Result<RunReport>,
        stop: impl Future<Output = ErrorKind> + Clone,
        tell: Tell<'_>,
    ) -> Result<()> {
        self.folder.check()?;
        let _lock = match self.states.lock_scheduler()? {
            Asked::Ours(lock) => lock,
            Asked::Theirs(holder) => {
                let folder = self.folder.path().display();
                let message = format!("another scheduler serves `{folder}`: {holder}");
                return Err(
                    Error::new(ErrorKind::Resources, message).hint("stop the other one first")
                );
            }
        };
        loop {
            if let Err(error) = self.look(tell) {
                if !std::mem::replace(&mut self.is_away, true) {
                    tell(&Event { file: None, what: What::FolderAway(&error) });
                }
            } else {
                self.is_away = false;
            }
            let now = now();
            let open: Vec<String> = self
                .pipelines
                .iter()
                .filter(|(_, seat)| seat.start.is_none() && seat.look_at <= now)
                .map(|(file, _)| file.clone())
                .collect();
            for file in open {
                // The error has been reported; the state is read again later.
                let _ = self.settle(&file, tell);
            }
            if let Some(file) = self.first_due() {
                self.turn(&file, &run, &stop, tell).await?;
                continue;
            }
            tokio::select! {
                kind = stop.clone() => return Err(stopped(kind, tell)),
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Scans the folder and reports the changes.
    fn look(&mut self, tell: Tell<'_>) -> Result<()> {
        let now = now();
        let before = std::mem::replace(&mut self.looked_at, now);
        if now < before {
            // The clock was set back, so the planned checks are too late.
            self.pipelines.values_mut().for_each(|seat| seat.look_at = now);
        }
        for (file, change) in self.folder.look()? {
            let seat = self.pipelines.remove(&file);
            let entry = self.folder.files().get(&file).filter(|_| change != Change::Removed);
            let Some(entry) = entry else {
                if seat.is_some() {
                    tell(&Event { file: Some(&file), what: What::Removed });
                }
                continue;
            };
            let was_usable = seat.as_ref().is_none_or(|seat| seat.was_usable);
            // During a long run, a file may have existed since the previous scan.
            let put_here = entry.changed_at().unwrap_or(now).max(before).min(now);
            let mut seat = Seat {
                since: put_here,
                look_at: now,
                start: None,
                was_usable: entry.pipeline.is_ok(),
                told: String::new(),
            };
            match &entry.pipeline {
                Err(error) => {
                    tell(&Event { file: Some(&file), what: What::Unusable(error) });
                    seat.look_at = DateTime::<Utc>::MAX_UTC;
                }
                Ok(pipeline) => {
                    if !was_usable {
                        tell(&Event { file: Some(&file), what: What::Mended });
                    }
                    if pipeline.schedule.is_none() {
                        if change == Change::Changed {
                            tell(&Event { file: Some(&file), what: What::Unscheduled });
                        }
                        seat.look_at = DateTime::<Utc>::MAX_UTC;
                    }
                }
            }
            self.pipelines.insert(file, seat);
        }
        Ok(())
    }

    /// The pipeline that has been due for the longest time.
    fn first_due(&self) -> Option<String> {
        let due = self.pipelines.iter().filter_map(|(file, seat)| Some((seat.start?, file)));
        due.min().map(|(_, file)| file.clone())
    }

    fn scheduled(&self, file: &str) -> Option<(&Pipeline, &ScheduleSpec)> {
        let pipeline = self.folder.files().get(file)?.pipeline.as_ref().ok()?;
        Some((pipeline, pipeline.schedule.as_ref()?))
    }

    /// Reads the state of a pipeline and plans its next run.
    fn settle(&mut self, file: &str, tell: Tell<'_>) -> Result<()> {
        let Some(schedule) = self.scheduled(file).map(|(_, schedule)| schedule.clone()) else {
            return Ok(());
        };
        let settled =
            self.settled(file, &schedule, tell).map(|settled| settled.map(|(_, state)| state));
        self.note(file, &schedule, settled, tell)
    }

    /// Records the outcome of reading a state, or of a run.
    fn note(
        &mut self,
        file: &str,
        schedule: &ScheduleSpec,
        state: Result<Option<State>>,
        tell: Tell<'_>,
    ) -> Result<()> {
        let now = now();
        let Some(seat) = self.pipelines.get_mut(file) else { return Ok(()) };
        seat.start = None;
        match state {
            Ok(Some(state)) => match verdict(&state, schedule, now) {
                Verdict::Due { time, .. } => {
                    seat.start = Some(start_time(file, schedule, time));
                }
                Verdict::Wait(until) => {
                    seat.look_at = until.unwrap_or(DateTime::<Utc>::MAX_UTC);
                }
            },
            Ok(None) => seat.look_at = now + BUSY,
            Err(error) => {
                seat.look_at = now + UNUSABLE;
                self.tell_once(file, What::Unusable(&error), tell);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The pipeline's state, updated and locked; `None` when another process holds the lock.
    fn settled(
        &mut self,
        file: &str,
        schedule: &ScheduleSpec,
        tell: Tell<'_>,
    ) -> Result<Option<(Lock, State)>> {
        let lock = match self.states.lock(file)? {
            Asked::Ours(lock) => lock,
            Asked::Theirs(holder) => {
                self.tell_once(file, What::Busy(&holder), tell);
                return Ok(None);
            }
        };
        let now = now();
        let local = |time: DateTime<Utc>| time.with_timezone(&schedule.timezone);
        let (mut state, is_damaged) = current(self.states.read(file)?, file, schedule);
        if is_damaged {
            let what = What::StateDamaged(local(state.done_until));
            tell(&Event { file: Some(file), what });
        }
        let since = self.pipelines.get(file).map_or(now, |seat| seat.since);
        let since = Since { folder: self.since, file: since };
        let refreshed = refresh(&mut state, schedule, now, since);
        if is_damaged || refreshed.is_some() {
            self.states.write(&state)?;
        }
        let next = match verdict(&state, schedule, now) {
            Verdict::Wait(until) => until.map(local),
            Verdict::Due { time, .. } => Some(local(start_time(file, schedule, time))),
        };
        match refreshed {
            Some(Refreshed::LeftOut(time)) => {
                tell(&Event { file: Some(file), what: What::LeftOut(local(time)) });
            }
            refreshed => {
                let is_new = refreshed == Some(Refreshed::New);
                // Reports each file once when it is loaded, not at each check.
                if self.pipelines.get(file).is_some_and(|seat| seat.told.is_empty()) {
                    tell(&Event { file: Some(file), what: What::Scheduled { next, is_new } });
                }
            }
        }
        if let Some(seat) = self.pipelines.get_mut(file) {
            "scheduled".clone_into(&mut seat.told);
        }
        if state.done_until > now + BEHIND {
            self.tell_once(file, What::ClockBehind(local(state.done_until)), tell);
        }
        Ok(Some((lock, state)))
    }

    /// Runs a pipeline if it is still due; `None` when it is not, or another process holds the lock.
    async fn turn(
        &mut self,
        file: &str,
        run: &impl AsyncFn(Pipeline, DateTime<Utc>) -> Result<RunReport>,
        stop: &(impl Future<Output = ErrorKind> + Clone),
        tell: Tell<'_>,
    ) -> Result<Option<Result<(), ErrorKind>>> {
        if let Some(kind) = stop.clone().now_or_never() {
            return Err(stopped(kind, tell));
        }
        let Some((pipeline, schedule)) = self.scheduled(file) else { return Ok(None) };
        let (pipeline, schedule) = (pipeline.clone(), schedule.clone());
        let settled = match self.settled(file, &schedule, tell) {
            Ok(Some(settled)) => settled,
            Ok(None) => {
                let _ = self.note(file, &schedule, Ok(None), tell);
                return Ok(None);
            }
            Err(error) => {
                let kind = error.kind();
                let _ = self.note(file, &schedule, Err(error), tell);
                return Ok(Some(Err(kind)));
            }
        };
        let (lock, mut state) = settled;
        let Verdict::Due { time, is_rerun } = verdict(&state, &schedule, now()) else {
            let _ = self.note(file, &schedule, Ok(Some(state)), tell);
            return Ok(None);
        };
        state.start(time, now(), myself());
        if let Err(error) = self.states.write(&state) {
            let kind = error.kind();
            let _ = self.note(file, &schedule, Err(error), tell);
            return Ok(Some(Err(kind)));
        }
        failpoint("schedule.started");
        let due = time.with_timezone(&schedule.timezone);
        tell(&Event { file: Some(file), what: What::Started { due, is_rerun } });

        let result = AssertUnwindSafe(run(pipeline, time)).catch_unwind().await;
        let result = result.unwrap_or_else(|panic| Err(panicked(&*panic)));
        failpoint("schedule.ran");
        let (outcome, code, text) = match &result {
            Ok(_) => (Outcome::Done, 0, None),
            Err(error) => {
                (Outcome::of(error.kind()), error.kind().exit_code(), Some(error.to_string()))
            }
        };
        state.finish(now(), outcome, code, text);
        let written = self.states.write(&state);
        failpoint("schedule.finished");
        drop(lock);
        let next = match verdict(&state, &schedule, now()) {
            Verdict::Wait(until) => until,
            Verdict::Due { time, .. } => Some(start_time(file, &schedule, time)),
        };
        let next = next.map(|next| next.with_timezone(&schedule.timezone));
        let what = match &result {
            Ok(report) => What::Done { report, next },
            Err(error) => What::Failed { error, next },
        };
        tell(&Event { file: Some(file), what });
        let kept = self.note(file, &schedule, written.map(|()| Some(state)), tell);
        match result.map(drop).map_err(|error| error.kind()) {
            Err(kind @ (ErrorKind::Interrupted | ErrorKind::Terminated)) => {
                Err(stopped(kind, tell))
            }
            Ok(()) => Ok(Some(kept.map_err(|error| error.kind()))),
            failed => Ok(Some(failed)),
        }
    }

    /// Reports a lasting condition once.
    fn tell_once(&mut self, file: &str, what: What<'_>, tell: Tell<'_>) {
        let event = Event { file: Some(file), what };
        let text = event.to_string();
        match self.pipelines.get_mut(file) {
            Some(seat) if seat.told == text => {}
            Some(seat) => {
                seat.told = text;
                tell(&event);
            }
            None => tell(&event),
        }
    }
}

fn stopped(kind: ErrorKind, tell: Tell<'_>) -> Error {
    tell(&Event { file: None, what: What::Stopped });
    let signal = if kind == ErrorKind::Interrupted { "SIGINT" } else { "SIGTERM" };
    Error::new(kind, format!("stopped by {signal}")).hint("the rest is due at the next start")
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::new(ErrorKind::Internal, format!("the run panicked: {text}"))
        .hint("this is a bug of hfauto-pipe: please report it")
}
