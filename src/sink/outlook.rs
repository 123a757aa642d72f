//! What a run of a job would do with an existing output. Locks and changes nothing. Not here: the run (`units`).

use std::collections::HashMap;

use super::adopt::adopted;
use super::commit;
use super::records::{Record, for_each_record};
use super::target::Target;
use super::unit::{UnitKey, UnitStatus, job_of};
use super::units::UnitOutput;
use crate::config::pipeline::SinkSpec;
use crate::error::{Error, Result};

impl UnitOutput {
    /// The planned action for each unit. Locks and changes nothing.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn status(spec: &SinkSpec, units: &[UnitKey]) -> Result<Vec<UnitStatus>> {
        let storage = Target::of(spec)?.storage;
        let published = commit::summary(storage.as_ref())?;
        if published.is_some_and(|published| published.job == Some(job_of(units))) {
            return Ok(vec![UnitStatus::Done; units.len()]);
        }
        // Holds one entry per unit and per input, but not the manifests: there may be many more of them.
        let ids: HashMap<&str, usize> =
            units.iter().enumerate().map(|(index, unit)| (&*unit.id, index)).collect();
        let mut done = vec![false; units.len()];
        let mut seen: HashMap<&str, (&UnitKey, UnitStatus)> =
            units.iter().map(|unit| (&*unit.input, (unit, UnitStatus::New))).collect();
        let mut has_records = false;
        let mut visit = |record: Record| {
            if let Some(index) = ids.get(record.unit.as_str()) {
                done[*index] = true;
            }
            if let Some((unit, status)) = seen.get_mut(record.input.as_str()) {
                *status = match *status {
                    // These units have another position in the file.
                    _ if *record.file == *unit.file && *record.plan == *unit.plan => {
                        UnitStatus::Done
                    }
                    UnitStatus::Done => UnitStatus::Done,
                    _ if *record.file == *unit.file => UnitStatus::PlanChanged,
                    UnitStatus::New => UnitStatus::FileChanged,
                    other => other,
                };
            }
        };
        for_each_record(storage.as_ref(), &mut |_, record| {
            has_records |= record.is_some();
            record.into_iter().for_each(&mut visit);
            Ok(())
        })?;
        if !has_records {
            adopted(storage.as_ref(), units)?.into_iter().for_each(visit);
        }
        let status = |(unit, is_done): (&UnitKey, bool)| {
            let of_input = seen.get(&*unit.input).map(|(_, status)| *status);
            match of_input.filter(|status| *status != UnitStatus::Done) {
                _ if is_done => UnitStatus::Done,
                Some(status) => status,
                None => UnitStatus::New,
            }
        };
        Ok(units.iter().zip(done).map(status).collect())
    }

    /// The reason why a run that may not replace the output of another job would end at once. Locks and changes nothing.
    ///
    /// # Errors
    /// `Sink` if the output cannot be read.
    pub fn refusal(spec: &SinkSpec, units: &[UnitKey]) -> Result<Option<Error>> {
        let target = Target::of(spec)?;
        let published = commit::summary(target.storage.as_ref())?;
        if !units.is_empty() && published.is_some_and(|output| output.job == Some(job_of(units))) {
            return Ok(None);
        }
        Ok(target.replaced(false).err())
    }
}
