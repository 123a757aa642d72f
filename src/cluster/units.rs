//! What an executor runs and a client submits, apart from how both travel. Not here: the transport (`executor`, `client`).

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::job::Cancel;

/// Computes units. One value serves all jobs of an executor.
#[async_trait]
pub(crate) trait Units: Send + Sync + 'static {
    /// Computes one unit and makes it durable, or finds it done. Ends soon after `cancel`, with an error of its kind.
    ///
    /// # Errors
    /// Those of a run; `Resources`, `Hub` and `Sink` may pass, and the unit is tried again.
    async fn run(&self, job: &[u8], unit: &[u8], cancel: &Cancel) -> Result<UnitDone>;
}

/// A unit that needs no further attempt now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnitDone {
    /// Its id.
    pub(crate) unit: String,
    /// Its output rows; `None` if it was not tried, because earlier attempts have ended with their processes.
    pub(crate) rows: Option<u64>,
    /// Whether it was done before.
    pub(crate) was_done: bool,
}

/// Whether another attempt at a unit may succeed after an error of this kind: storage, hub and memory may recover.
pub(super) fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Resources | ErrorKind::Hub | ErrorKind::Sink)
}

/// Some of the units of a job that are not done.
#[derive(Debug, Default)]
pub(crate) struct OpenUnits {
    /// Their descriptions.
    pub(crate) units: Vec<Vec<u8>>,
    /// The position behind the last one, among all units of the job.
    pub(crate) next: usize,
}

/// The first descriptions of units, with their positions: all, or as many as have `most_bytes` together and one more.
///
/// # Errors
/// The first error of `units`.
pub(super) fn first_units(
    most_bytes: usize,
    units: impl Iterator<Item = (usize, Result<Vec<u8>>)>,
) -> Result<OpenUnits> {
    let (mut first, mut bytes) = (OpenUnits::default(), 0);
    for (position, unit) in units {
        let unit = unit?;
        bytes += unit.len();
        first.units.push(unit);
        first.next = position + 1;
        if bytes > most_bytes {
            break;
        }
    }
    Ok(first)
}
