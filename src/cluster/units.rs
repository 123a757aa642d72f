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
