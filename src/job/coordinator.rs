//! The side of a job that holds the output: it describes the job and its units to workers in other processes, follows
//! what they commit, and publishes. Not here: computing units (`worker`), and moving descriptions between machines.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::Job;
use super::compute::report_deadly;
use super::progress::{Clock, Progress, Stage};
use super::spec::{JobSpec, UnitSpec};
use super::units::UnitJob;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{RunReport, UnitTime};
use crate::sink::{MAX_ATTEMPTS, Sharing, UnitKey, UnitOutput};

/// A job whose units other processes compute.
pub struct Coordinator {
    job: Job,
    spec: JobSpec,
    output: UnitOutput,
    units: Vec<UnitJob>,
    /// The ids of the finished units.
    done: Mutex<BTreeSet<Arc<str>>>,
    clock: Clock,
}

impl Coordinator {
    /// Locks the output of a prepared job and loads what earlier runs have completed.
    ///
    /// # Errors
    /// `Config` if the job cannot be computed in units; otherwise as [`UnitOutput::open`].
    pub async fn open(job: Job) -> Result<Self> {
        if let Some(reason) = job.why_whole() {
            let message = format!("the job cannot be computed in units: {reason}");
            return Err(Error::new(ErrorKind::Config, message)
                .at(job.file().display())
                .hint("run it on one machine"));
        }
        let clock = Clock::start(&job.progress);
        let units = job.unit_jobs();
        let keys = keys(&units);
        let output = job.open_output(&keys, Sharing::Guests).await?;
        let spec = JobSpec::of(&job, output.token())?;
        let total = units.len();
        job.progress.with_units(|units| units.total = total);
        let mut done = BTreeSet::new();
        if let Some(rows) = output.complete() {
            job.skip_published(rows, total, &keys)?;
            done.extend(keys.into_iter().map(|key| key.id));
        } else {
            let (open, _) = job.open_units(units.iter().collect(), &output);
            let open: BTreeSet<&str> = open.iter().map(|unit| &*unit.key.id).collect();
            let ids = units.iter().map(|unit| &unit.key.id);
            done.extend(ids.filter(|id| !open.contains(&***id)).cloned());
        }
        job.progress.enter(Stage::Running);
        Ok(Self { job, spec, output, units, done: Mutex::new(done), clock })
    }

    /// The name of the pipeline.
    pub fn name(&self) -> &str {
        &self.job.pipeline.name
    }

    /// Adds to an error how many units are done and which command continues.
    #[must_use]
    pub fn with_remedy(&self, error: Error) -> Error {
        self.job.with_remedy(error, &self.output)
    }

    /// The description of the job.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The number of units of the job.
    pub fn total(&self) -> usize {
        self.units.len()
    }

    /// Counters for other threads to read; [`Coordinator::done`] updates them.
    pub fn progress(&self) -> Arc<Progress> {
        self.job.progress()
    }

    /// The units from the position `from` on that are not done, in order.
    pub fn open_units(&self, from: usize) -> impl Iterator<Item = UnitSpec> {
        let units = self.units.get(from..).unwrap_or_default();
        let open = units.iter().filter(|unit| !self.is_done(&unit.key.id));
        open.map(|unit| UnitSpec::of(unit, &self.job.source))
    }

    fn is_done(&self, id: &str) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Looks for units that workers have committed since the last call, and returns the number of units that are done.
    /// Lists the manifests of the output and reads the new ones. Blocks.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read; `Resources` if another run may have taken it over.
    pub fn done(&self) -> Result<usize> {
        self.output.check_held()?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() == self.units.len() {
            return Ok(done.len());
        }
        let committed = self.output.committed_ids()?;
        for unit in &self.units {
            if done.contains(&unit.key.id) || !committed.contains(&*unit.key.id) {
                continue;
            }
            let Some(rows) = self.output.committed_rows(&unit.key)? else { continue };
            let (progress, place) = (&self.job.progress, unit.place());
            progress.wrote(rows, std::time::Duration::ZERO);
            progress.with_units(|units| units.add(UnitTime { unit: place, rows, seconds: 0.0 }));
            done.insert(Arc::clone(&unit.key.id));
        }
        Ok(done.len())
    }

    /// Fails if attempts at an open unit have killed as many processes as allowed. Such units are not tried again before
    /// the next run. Blocks.
    ///
    /// # Errors
    /// `Data` with the rows of the first one.
    pub fn check_deadly(&self) -> Result<()> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let mut deadly = Vec::new();
        for unit in self.units.iter().filter(|unit| !done.contains(&unit.key.id)) {
            if self.output.attempts(&unit.key)?.count() >= MAX_ATTEMPTS {
                deadly.push(unit);
            }
        }
        report_deadly(&deadly, &self.output)
    }

    /// Publishes the output once every unit is done. Workers can commit nothing from then on. Blocks.
    ///
    /// # Errors
    /// `Resources` if units are missing: they are kept for the next run, which computes the missing ones; otherwise as
    /// [`UnitOutput::finish`].
    pub fn publish(self) -> Result<RunReport> {
        let Self { job, output, units, clock, .. } = self;
        job.progress.enter(Stage::Committing);
        if output.complete().is_none() {
            job.publish_all(output, &keys(&units))?;
        }
        drop(clock);
        Ok(job.progress.report())
    }
}

fn keys(units: &[UnitJob]) -> Vec<UnitKey> {
    units.iter().map(|unit| unit.key.clone()).collect()
}
