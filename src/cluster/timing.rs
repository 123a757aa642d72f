//! The intervals of a cluster: how fast a lost process is noticed. Not here: the leases of an output (`crate::sink`).

use std::time::Duration;

/// The intervals of scheduler, executors and clients. `HFAUTO_CLUSTER_SECONDS` shortens all of them in proportion to the
/// timeout that it sets; processes of a cluster must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// An executor that has not polled for this long is lost, and its tasks are given to others.
    pub(crate) timeout: Duration,
    /// The time between looks for lost executors.
    pub(crate) check: Duration,
    /// The longest time between two polls of an executor without a free slot.
    pub(crate) heartbeat: Duration,
    /// The longest time between two polls of an executor with a free slot: the longest time until it starts a new job.
    pub(crate) idle: Duration,
    /// The longest time between two looks of a client at the job and its manifests.
    pub(crate) progress: Duration,
}

impl Timing {
    /// The timeout without the variable: four missed heartbeats.
    const TIMEOUT: Duration = Duration::from_secs(20);

    /// Reads `HFAUTO_CLUSTER_SECONDS`.
    pub(crate) fn from_env() -> Self {
        let seconds =
            std::env::var("HFAUTO_CLUSTER_SECONDS").ok().and_then(|text| text.parse().ok());
        Self::of(seconds.map_or(Self::TIMEOUT, |seconds: u64| Duration::from_secs(seconds.max(1))))
    }

    /// The intervals for a timeout of at least a second.
    pub(super) fn of(timeout: Duration) -> Self {
        Self {
            timeout,
            // Ballista counts whole seconds.
            check: (timeout / 10).max(Duration::from_secs(1)),
            heartbeat: timeout / 4,
            idle: timeout / 40,
            progress: timeout / 10,
        }
    }

    /// The time between two polls of an executor that has had a free slot for this long: after a task, the next ones often
    /// come soon.
    pub(super) fn idle_for(&self, free: Duration) -> Duration {
        (free / 8).clamp(self.idle / 5, self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_keep_their_proportions() {
        for seconds in [1, 2, 20, 600] {
            let timing = Timing::of(Duration::from_secs(seconds));
            let Timing { timeout, check, heartbeat, idle, progress } = timing;
            assert!(heartbeat * 3 < timeout && idle < heartbeat && progress < timeout);
            assert!(check >= Duration::from_secs(1));
            assert_eq!(timing.idle_for(Duration::ZERO), idle / 5);
            assert_eq!(timing.idle_for(timeout), idle);
        }
    }
}
