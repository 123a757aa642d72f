//! Lends the threads of idle workers to kernels.
//!
//! While every worker has a batch, each computes its own on its own thread. With fewer batches than workers (one long
//! row, the end of a job), expensive kernels split their work over the threads of idle workers. The result does not
//! depend on it. Not here: which workers there are, and what they compute (`crate::engine` of hfauto-pipe). The
//! entries are [`SpareThreads`] for the workers and [`shared`] for the kernels.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Multiplications that pay for waking a thread and waiting for it, which takes a tenth of a millisecond: in 8 bits they
/// take as long, in f32 three times that.
const MIN_SHARE: usize = 1 << 24;

thread_local! {
    /// Set while a worker computes.
    static SPARE: RefCell<Option<Arc<SpareThreads>>> = const { RefCell::new(None) };
}

/// As many threads as there are workers, for what the busy ones share out.
pub struct SpareThreads {
    workers: usize,
    busy: AtomicUsize,
    pool: rayon::ThreadPool,
}

impl SpareThreads {
    /// Of so many workers.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(workers: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers.saturating_sub(1).max(1))
            .thread_name(|number| format!("spare-{number}"))
            .build()?;
        Ok(Self { workers, busy: AtomicUsize::new(0), pool })
    }

    /// Runs what a worker computes on this thread; its kernels may use the threads of workers at rest.
    pub fn compute<T>(self: &Arc<Self>, batch: impl FnOnce() -> T) -> T {
        /// Also when the batch panics.
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

    /// Threads that each busy worker may use, its own among them.
    fn threads(&self) -> usize {
        (self.workers / self.busy.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// Cuts `0..count` into ranges for this thread and those at rest, and runs `kernel` on each; the results are in the order
/// of the ranges. Ranges begin at multiples of `unit`. There is only one where the `work`, in multiplications, is too little
/// to be shared out, and outside a worker.
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
            // Long enough that another thread takes the next one.
            thread::sleep(std::time::Duration::from_millis(20));
            ((range.start, range.end), thread::current().id())
        });
        shares.into_iter().unzip()
    }

    #[test]
    fn threads_at_rest_take_shares() {
        let spare = Arc::new(SpareThreads::new(4).unwrap());
        let (ranges, threads) = spare.compute(|| threads_of(100, usize::MAX));
        assert_eq!(ranges, [(0, 32), (32, 64), (64, 96), (96, 100)]);
        assert_eq!(threads.len(), 4);
        // Two are busy: each has its own thread and that of one at rest.
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
        // One worker has nobody to share with.
        let alone = Arc::new(SpareThreads::new(1).unwrap());
        assert_eq!(alone.compute(|| threads_of(100, usize::MAX)), (vec![(0, 100)], here));
    }

    #[test]
    fn a_panic_of_a_share_is_that_of_the_worker_and_leaves_nothing_busy() {
        let spare = Arc::new(SpareThreads::new(2).unwrap());
        let panics = || shared(16, 8, usize::MAX, |range| assert_eq!(range.start, 0));
        assert!(catch_unwind(AssertUnwindSafe(|| spare.compute(panics))).is_err());
        assert_eq!(spare.busy.load(Ordering::Relaxed), 0);
        assert!(SPARE.with_borrow(Option::is_none));
    }
}
