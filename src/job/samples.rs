//! Samples of counters over time in bounded memory: when the limit is reached, drops every second sample and
//! doubles the interval. Not here: the counters and the clock (`progress`).

use std::time::Duration;

use crate::report::Sample;

/// The maximum number of samples; the report adds a current one. It is even, so that dropping every second sample
/// also drops the last one, and the next one keeps the doubled interval.
const MAX_SAMPLES: usize = 198;

/// The first interval between samples; short enough to show the shape of a ten-second run.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);

/// The samples of a run so far.
#[derive(Debug)]
pub(super) struct Samples {
    samples: Vec<Sample>,
    interval: Duration,
}

impl Default for Samples {
    fn default() -> Self {
        Self { samples: Vec::new(), interval: FIRST_INTERVAL }
    }
}

impl Samples {
    /// Adds a sample and returns the time until the next one.
    pub(super) fn push(&mut self, sample: Sample) -> Duration {
        if self.samples.len() == MAX_SAMPLES {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.interval *= 2;
        }
        self.samples.push(sample);
        self.interval
    }

    /// All samples in order.
    pub(super) fn all(&self) -> &[Sample] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_few_samples_evenly_apart() {
        let mut samples = Samples::default();
        let mut seconds = 0.0;
        let mut interval = Duration::ZERO;
        while seconds < 100_000.0 {
            interval = samples.push(Sample { seconds, ..Sample::default() });
            seconds += interval.as_secs_f64();
        }
        let all = samples.all();
        assert!((MAX_SAMPLES / 2..=MAX_SAMPLES).contains(&all.len()), "{}", all.len());
        assert_eq!(all[0], Sample::default());
        let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1].seconds - pair[0].seconds).collect();
        assert!(gaps.iter().all(|gap| *gap <= 2.0 * interval.as_secs_f64()), "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap >= interval.as_secs_f64() * 0.99), "{gaps:?}");
    }
}
