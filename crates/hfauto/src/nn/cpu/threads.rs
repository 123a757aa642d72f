//! Lends the threads of idle workers to kernels.
//!
//! While every worker has a batch, each computes on its own thread. With fewer batches than workers (one long row, the
//! end of a job), expensive kernels split their work over the threads of idle workers. The result does not depend on
//! the split. Not here: the workers themselves, and what they compute (`crate::exec` of hfauto-pipe). The entries are
//! [`SpareThreads`] for the workers and [`shared`] for the kernels.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The minimum number of multiplications per thread. Waking a thread and waiting for it takes a tenth of a millisecond:
/// as long as this many multiplications in 8 bits, and a third of the time in f32.
const MIN_SHARE: usize = 1 << 24;

thread_local! {
    /// Set while a worker computes.
    static SPARE: RefCell<Option<Arc<SpareThreads>>> = const { RefCell::new(None) };
}

/// A pool with one thread per worker, for work that busy workers split.
pub struct SpareThreads {
    workers: usize,
    busy: AtomicUsize,
    pool: rayon::ThreadPool,
}

impl SpareThreads {
    /// Creates a pool for this number of workers.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn new(workers: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers.saturating_sub(1).max(1))
            .thread_name(|number| format!("spare-{number}"))
            .build()?;
        Ok(Self { workers, busy: AtomicUsize::new(0), pool })
    }

    /// Runs a worker's computation on this thread. Its kernels may use the threads of idle workers.
    pub fn compute<T>(self: &Arc<Self>, batch: impl FnOnce() -> T) -> T {
        /// Resets the count even if the batch panics.
        struct Busy<'a>(&'a SpareThreads);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                SPARE.set(None);
                self.0.busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let _busy = Busy(self);
        SPARE.set(Some(Arc::clone(self)));
        batch()
    }

    /// The number of threads that each busy worker may use, including its own.
    fn threads(&self) -> usize {
        (self.workers / self.busy.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// Splits `0..count` into ranges for this thread and idle ones, and runs `kernel` on each. Results are in the order of
/// the ranges. Ranges start at multiples of `unit`. There is one range outside of workers, and where the `work`, in
/// multiplications, is too small to split.
pub(in crate::nn) fn shared<T: Send>(
    count: usize,
    unit: usize,
    work: usize,
    kernel: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<T> {
    let spare = SPARE.with_borrow(Clone::clone);
    let threads = spare.as_ref().map_or(1, |spare| spare.threads().min(work / MIN_SHARE).max(1));
    let share = count.div_ceil(threads).next_multiple_of(unit.max(1)).max(1);
    let (Some(spare), true) = (spare, share < count) else { return vec![kernel(0..count)] };
    let ranges = (0..count).step_by(share).map(|start| start..count.min(start + share));
    let mut results: Vec<(Range<usize>, Option<T>)> = ranges.map(|range| (range, None)).collect();
    let kernel = &kernel;
    let run = |(range, result): &mut (Range<usize>, Option<T>)| {
        *result = Some(kernel(range.clone()));
    };
    if let Some((own, others)) = results.split_first_mut() {
        spare.pool.in_place_scope(|scope| {
            for other in others {
                scope.spawn(move |_| run(other));
            }
            run(own);
        });
    }
    results.into_iter().filter_map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread::{self, ThreadId};

    use super::*;

    fn threads_of(count: usize, work: usize) -> (Vec<(usize, usize)>, HashSet<ThreadId>) {
        let shares = shared(count, 8, work, |range| {
            // Long enough for another thread to take the next range.
            thread::sleep(std::time::Duration::from_millis(20));
            ((range.start, range.end), thread::current().id())
        });
        shares.into_iter().unzip()
    }

    #[test]
    fn idle_threads_take_ranges() {
        let spare = Arc::new(SpareThreads::new(4).unwrap());
        let (ranges, threads) = spare.compute(|| threads_of(100, usize::MAX));
        assert_eq!(ranges, [(0, 32), (32, 64), (64, 96), (96, 100)]);
        assert_eq!(threads.len(), 4);
        // Two workers are busy: each gets its own thread and one idle thread.
        let (ranges, _) = spare.compute(|| {
            let other = || spare.compute(|| threads_of(32, usize::MAX));
            let other = thread::scope(|scope| scope.spawn(other).join().unwrap());
            assert_eq!(other.0, [(0, 16), (16, 32)]);
            threads_of(9, usize::MAX)
        });
        assert_eq!(ranges, [(0, 8), (8, 9)]);
    }

    #[test]
    fn little_work_and_work_outside_a_worker_stay_on_the_thread() {
        let here = HashSet::from([thread::current().id()]);
        assert_eq!(threads_of(100, usize::MAX), (vec![(0, 100)], here.clone()));
        let spare = Arc::new(SpareThreads::new(4).unwrap());
        spare.compute(|| {
            assert_eq!(threads_of(100, 2 * MIN_SHARE - 1), (vec![(0, 100)], here.clone()));
            assert_eq!(threads_of(100, 2 * MIN_SHARE).0, [(0, 56), (56, 100)]);
            assert_eq!(threads_of(0, usize::MAX), (vec![(0, 0)], here.clone()));
        });
        // A single worker has no idle threads to use.
        let alone = Arc::new(SpareThreads::new(1).unwrap());
        assert_eq!(alone.compute(|| threads_of(100, usize::MAX)), (vec![(0, 100)], here));
    }

    #[test]
    fn a_panic_in_a_range_reaches_the_worker_and_leaves_nothing_busy() {
        let spare = Arc::new(SpareThreads::new(2).unwrap());
        let panics = || shared(16, 8, usize::MAX, |range| assert_eq!(range.start, 0));
        assert!(catch_unwind(AssertUnwindSafe(|| spare.compute(panics))).is_err());
        assert_eq!(spare.busy.load(Ordering::Relaxed), 0);
        assert!(SPARE.with_borrow(Option::is_none));
    }
}
