//! A unit of an output: its key, its state, and how several processes share the units of a job. Not here: making units
//! durable (`units`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Written;
use super::records::{Record, RowErrorCounts};
use super::storage::Shard;

/// A unit, as identified in its manifest and file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitKey {
    /// A hash of everything that its rows depend on, in hex.
    pub id: Arc<str>,
    /// Its index among the units of the job; part files sort by it.
    pub sequence: usize,
    /// The input file.
    pub input: Arc<str>,
    /// The size and modification time of the file.
    pub file: Arc<str>,
    /// A hash of everything that all units depend on: models, options, SQL.
    pub plan: Arc<str>,
}

/// The planned action for a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitStatus {
    /// Nothing: the unit is done.
    Done,
    /// Compute it for the first time.
    New,
    /// Compute it again, because the file has changed.
    FileChanged,
    /// Compute it again, because a model, an option or the SQL has changed.
    PlanChanged,
}

impl UnitKey {
    /// The stem of the unit's file names: sorts by its index, and is unique for its id.
    pub fn stem(&self) -> String {
        format!("{:05}-{}", self.sequence, self.short())
    }

    /// The prefix of the id that file names contain.
    pub fn short(&self) -> &str {
        short(&self.id)
    }
}

/// A unit that an earlier run completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its output rows.
    pub rows: u64,
    /// Its failed rows.
    pub errors: RowErrorCounts,
}

/// The treatment of an existing output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitMode {
    /// Continues an interrupted run of the same job, and finds nothing to do after a completed one. Refuses the
    /// output of another job, unless it may be overwritten.
    Resume,
    /// Computes new and changed units, and keeps the others.
    Incremental {
        /// Whether to remove the rows of inputs that no longer exist.
        prune: bool,
    },
}

/// The other processes that may work on an output at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// None.
    #[default]
    Alone,
    /// Processes that commit units for the run that opens the output: [`UnitOutput::guest`].
    Guests,
    /// The other shards of the job.
    Shard(Shard),
    /// Any number of processes that claim units one by one.
    Joined,
    /// The run that opened the output, which this process works for.
    Guest,
}

/// Inputs of an output that no longer exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Their paths.
    pub inputs: Vec<String>,
    /// Whether their rows were removed.
    pub removed: bool,
}

/// The result of a run that has computed all its units.
pub enum Finished {
    /// The output is published.
    Published {
        /// Its files.
        written: Written,
        /// Its inputs that no longer exist.
        vanished: Vanished,
        /// The id prefixes of its units.
        units: BTreeSet<String>,
    },
    /// Another process has published the output.
    Complete,
    /// Other shards still have units to compute; the last shard publishes.
    Left {
        /// The number of missing units.
        missing: usize,
    },
}

/// A durable unit.
pub struct Committed(pub(super) Record);

impl Committed {
    /// Its failed rows.
    pub fn errors(&self) -> RowErrorCounts {
        self.0.errors
    }

    /// Its rows.
    pub fn rows(&self) -> u64 {
        self.0.rows
    }

    /// The bytes of its parts.
    pub fn bytes(&self) -> u64 {
        self.0.files.iter().map(|part| part.bytes).sum()
    }
}

/// The prefix of an id that file names contain.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// The identity of a job: a hash of its units.
pub(super) fn job_of(units: &[UnitKey]) -> String {
    let mut hasher = blake3::Hasher::new();
    units.iter().for_each(|unit| {
        hasher.update(unit.id.as_bytes());
    });
    hasher.finalize().to_hex()[..32].to_owned()
}
