//! Computes a job together with other processes, which join and leave at any time. Each claims units one by one in the
//! output's storage. Claims save work; the manifests of units decide what is done, so that a unit that two processes
//! compute is committed once. Not here: claims and locks (`crate::sink`), and computing a unit (`compute`).
//!
//! Each process starts at another unit. When every open unit is claimed, it waits. It takes over the units of processes
//! that died, and computes a unit beside a slow process once that takes [`SLOW`] times as long as units usually do. The
//! process whose result comes later drops it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datafusion::execution::TaskContext;

use super::Job;
use super::compute::{Outcome, report_deadly};
use super::progress::Stage;
use super::units::UnitJob;
use super::worker::lock_lost;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Claim, Sharing, UnitKey, UnitOutput};

/// How many times as long as the median unit a claimed unit takes before another process computes it, too.
const SLOW: f64 = 3.0;

/// A claim is not slow before.
const AT_LEAST: Duration = Duration::from_secs(1);

/// The units of a job, as this process knows them.
struct Joined<'j> {
    job: &'j Job,
    output: &'j UnitOutput,
    units: &'j [UnitJob],
    context: Arc<TaskContext>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The units that are not known to be done, by index.
    open: BTreeSet<usize>,
    /// Units that this process computes now.
    running: BTreeSet<usize>,
    /// Units that others have claimed, and when this process first saw it.
    claimed: BTreeMap<usize, Instant>,
    /// Units that are not tried again.
    deadly: BTreeSet<usize>,
    /// The unit to claim next.
    next: usize,
    /// The seconds of the units that this process has computed.
    seconds: Vec<f64>,
    /// When the manifests were last listed.
    listed: Option<Instant>,
}

/// What a process does next.
enum Next {
    Compute(usize, Claim),
    Wait,
    End,
}

impl Job {
    /// Computes units until all are done, and publishes the output, unless another process does.
    pub(super) async fn run_joined(
        &self,
        jobs: &[UnitJob],
        keys: &[UnitKey],
        cancel: impl Future<Output = ErrorKind>,
    ) -> Result<()> {
        let output = self.open_output(keys, Sharing::Joined).await?;
        self.progress.with_units(|units| units.total = jobs.len());
        if let Some(rows) = output.complete() {
            return self.skip_published(rows, jobs.len(), keys);
        }
        let (open, _) = self.open_units(jobs.iter().collect(), &output);
        let open: BTreeSet<usize> = open.iter().map(|unit| unit.key.sequence).collect();
        if !open.is_empty() {
            tokio::task::block_in_place(|| self.load_models())?;
        }
        self.progress.enter(Stage::Running);
        let state = State { next: output.starts_at(jobs.len()), open, ..State::default() };
        let (context, state) = (self.context.task_ctx(), Mutex::new(state));
        let joined = Joined { job: self, output: &output, units: jobs, context, state };
        let ran = tokio::select! {
            ran = futures::future::try_join(joined.work(), joined.work()) => ran.map(drop),
            error = lock_lost(&output) => Err(error),
            kind = cancel => Err(Error::new(kind, "stopped by a signal")),
        };
        let deadly: Vec<&UnitJob> = joined.state().deadly.iter().map(|unit| &jobs[*unit]).collect();
        let ran = ran.and_then(|()| report_deadly(&deadly, &output));
        ran.map_err(|error| self.with_remedy(error, &output))?;
        self.progress.enter(Stage::Committing);
        tokio::task::block_in_place(|| self.publish_all(output, keys))
    }
}

/// The time between two looks at the output.
fn interval() -> Duration {
    UnitOutput::check_interval() / 8
}

impl Joined<'_> {
    /// Computes one unit after another, until every unit is done.
    async fn work(&self) -> Result<()> {
        loop {
            match tokio::task::block_in_place(|| self.next())? {
                Next::Compute(unit, claim) => self.compute(unit, claim).await?,
                Next::Wait => tokio::time::sleep(interval()).await,
                Next::End => return Ok(()),
            }
        }
    }

    async fn compute(&self, unit: usize, claim: Claim) -> Result<()> {
        let start = Instant::now();
        let job = &self.units[unit];
        let run = self.job.run_unit(job, self.output, Arc::clone(&self.context));
        let outcome = tokio::select! {
            outcome = run => Some(outcome?),
            done = self.done_elsewhere(&job.key) => done.map(|()| None)?,
        };
        // The claim ends after the unit is committed: whoever claims it next finds the manifest.
        tokio::task::block_in_place(|| match outcome {
            Some(Outcome::Deadly) => drop(claim),
            Some(Outcome::Done(_)) | None => claim.done(),
        });
        let mut state = self.state();
        state.running.remove(&unit);
        match outcome {
            Some(Outcome::Done(_)) => {
                state.open.remove(&unit);
                state.seconds.push(start.elapsed().as_secs_f64());
            }
            Some(Outcome::Deadly) => drop(state.deadly.insert(unit)),
            None => self.count_other(&mut state, unit),
        }
        Ok(())
    }

    /// Resolves once another process has committed a unit.
    async fn done_elsewhere(&self, unit: &UnitKey) -> Result<()> {
        loop {
            tokio::time::sleep(interval() * 2).await;
            if tokio::task::block_in_place(|| self.output.committed_rows(unit))?.is_some() {
                return Ok(());
            }
        }
    }

    fn next(&self) -> Result<Next> {
        let mut state = self.state();
        self.list(&mut state)?;
        for at in (state.next..self.units.len()).chain(0..state.next) {
            let is_free = state.open.contains(&at)
                && !state.running.contains(&at)
                && !state.deadly.contains(&at)
                && !state.claimed.contains_key(&at);
            if is_free && let Some(claim) = self.claim(&mut state, at, 0)? {
                state.next = at;
                return Ok(Next::Compute(at, claim));
            }
        }
        if state.open.is_subset(&state.deadly) {
            return Ok(Next::End);
        }
        self.take_over(&mut state)
    }

    /// Claims a unit that is not done; `None` if another process has the claim, or the unit is done.
    fn claim(&self, state: &mut State, unit: usize, number: u32) -> Result<Option<Claim>> {
        let key = &self.units[unit].key;
        let Some(claim) = self.output.claim(key, number)? else {
            state.claimed.entry(unit).or_insert_with(Instant::now);
            return Ok(None);
        };
        if self.output.committed_rows(key)?.is_some() {
            self.count_other(state, unit);
            return Ok(None);
        }
        state.running.insert(unit);
        Ok(Some(claim))
    }

    /// Claims a unit of a process that died, or the unit that a slow process has had for the longest time.
    fn take_over(&self, state: &mut State) -> Result<Next> {
        let is_other = |unit: &usize| !state.running.contains(unit) && !state.deadly.contains(unit);
        let others: Vec<usize> = state.open.iter().copied().filter(is_other).collect();
        if others.is_empty() {
            return Ok(Next::Wait);
        }
        let claims = self.output.claims()?;
        let mut slow: Option<(Instant, usize, u32)> = None;
        for unit in others {
            let key = &self.units[unit].key;
            let numbers = claims.get(&*key.id).map_or(&[][..], Vec::as_slice);
            let Some(last) = numbers.last() else {
                // Done, or given up: claimed like any other unit.
                state.claimed.remove(&unit);
                continue;
            };
            let mut live = 0;
            for number in numbers {
                live += usize::from(self.output.is_claimed(key, *number)?);
            }
            let since = *state.claimed.entry(unit).or_insert_with(Instant::now);
            if live == 0
                && let Some(claim) = self.claim(state, unit, last + 1)?
            {
                return Ok(Next::Compute(unit, claim));
            }
            if live == 1 && slow.is_none_or(|(oldest, ..)| since < oldest) {
                slow = Some((since, unit, last + 1));
            }
        }
        if let (Some((since, unit, number)), Some(median)) = (slow, median(&state.seconds))
            && since.elapsed() > Duration::from_secs_f64(median * SLOW).max(AT_LEAST)
            && let Some(claim) = self.claim(state, unit, number)?
        {
            return Ok(Next::Compute(unit, claim));
        }
        Ok(Next::Wait)
    }

    /// Removes the units that other processes have committed from the open ones.
    fn list(&self, state: &mut State) -> Result<()> {
        if state.listed.is_some_and(|listed| listed.elapsed() < interval()) {
            return Ok(());
        }
        let done = self.output.committed_ids()?;
        let is_done = |unit: &usize| {
            done.contains(&*self.units[*unit].key.id) && !state.running.contains(unit)
        };
        let others: Vec<usize> = state.open.iter().copied().filter(is_done).collect();
        for unit in others {
            self.count_other(state, unit);
        }
        state.listed = Some(Instant::now());
        Ok(())
    }

    /// Counts a unit that another process has committed.
    fn count_other(&self, state: &mut State, unit: usize) {
        state.claimed.remove(&unit);
        if !state.open.remove(&unit) {
            return;
        }
        let rows = self.units[unit].unit.rows.as_ref().map_or(0, |rows| rows.end - rows.start);
        let skipped = self.job.progress.with_units(|units| {
            units.by_others += 1;
            units.skipped += 1;
            units.skipped_rows += rows;
            units.skipped_rows
        });
        self.job.progress.skips(skipped);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn median(seconds: &[f64]) -> Option<f64> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_what_is_there() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }
}
