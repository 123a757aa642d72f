//! Results that several windows share. A text that recurs in a later window, or in another plan node with the same
//! call, is not computed again: the window uses the batch that contains it, finished or in flight. A common table
//! expression that is used twice runs its model once. Sharing batches in flight costs nothing; finished ones are kept
//! up to a size. Not here: repeated texts within one window (`window`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryReservation;

use super::window::places;
use super::workers::SharedBatch;
use crate::error::Result;
use crate::tasks::{ImageSource, Sequence};

/// Finished results are kept up to this size: half a million rows with a label, or forty thousand embeddings of 384
/// dimensions.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// The results of one call in one query, by sequence.
pub(super) struct SharedResults {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// The query that produced the results.
    query: Weak<TaskContext>,
    /// By the hash of a sequence: its window, and its number in that window.
    index: HashMap<u64, (u64, u32)>,
    windows: BTreeMap<u64, Held>,
    next: u64,
    kept_bytes: usize,
}

/// A window in the index.
struct Held {
    window: Weak<WindowBatches>,
    /// Set once the window is finished and kept: its results, their size, and the memory reservation.
    kept: Option<(Arc<WindowBatches>, usize, MemoryReservation)>,
}

impl Held {
    fn window(&self) -> Option<Arc<WindowBatches>> {
        self.window.upgrade()
    }
}

/// The batches that one window computes.
pub(super) struct WindowBatches {
    number: u64,
    sequences: Arc<Vec<Sequence>>,
    /// For every sequence, its (batch, index).
    places: Vec<(usize, usize)>,
    batches: Vec<SharedBatch>,
}

/// The sources of a window's results.
pub(super) struct Claim {
    /// The batches that the window computes itself.
    pub(super) own: Arc<WindowBatches>,
    /// Its own batches, followed by those of other windows.
    pub(super) batches: Vec<SharedBatch>,
    /// For every distinct sequence, its (batch, index).
    pub(super) places: Vec<(usize, usize)>,
}

impl SharedResults {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), hasher: RandomState::new() }
    }

    /// Starts a query: drops the results of the previous one.
    pub(super) fn enter(&self, query: &Arc<TaskContext>) {
        let query = Arc::downgrade(query);
        let mut state = self.lock();
        if !state.query.ptr_eq(&query) {
            let next = state.next;
            *state = State { query, next, ..State::default() };
        }
    }

    /// Divides distinct sequences into those that another window computes, and those that `compute` queues, in batches
    /// of their numbers.
    ///
    /// # Errors
    /// As `compute`.
    pub(super) fn claim(
        &self,
        sequences: Vec<Sequence>,
        compute: impl FnOnce(&Arc<Vec<Sequence>>) -> Result<(Vec<Vec<usize>>, Vec<SharedBatch>)>,
    ) -> Result<Claim> {
        // Locked until the end, so that no other window claims the same sequences meanwhile.
        let mut state = self.lock();
        state.forget_dropped();

        /// The source of a sequence: its number among the window's own, or its place in another window's batch.
        enum Source {
            Own(usize),
            Other(Arc<WindowBatches>, (usize, usize)),
        }
        let mut own = Vec::new();
        let mut hashes = Vec::new();
        let mut sources = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let hash = self.hasher.hash_one(&sequence);
            let Some((window, place)) = state.find(hash, &sequence) else {
                sources.push(Source::Own(own.len()));
                own.push(sequence);
                hashes.push(hash);
                continue;
            };
            sources.push(Source::Other(window, place));
        }
        let own = Arc::new(own);
        let (numbers, own_batches) = compute(&own)?;
        let number = state.next;
        let places = places(&numbers, own.len());
        let own = Arc::new(WindowBatches { number, sequences: own, places, batches: own_batches });

        let mut batches = own.batches.clone();
        let mut borrowed: HashMap<(u64, usize), usize> = HashMap::new();
        let places = sources.into_iter().map(|source| match source {
            Source::Own(sequence) => own.places[sequence],
            Source::Other(window, (batch, index)) => {
                let array = *borrowed.entry((window.number, batch)).or_insert_with(|| {
                    batches.push(window.batches[batch].clone());
                    batches.len() - 1
                });
                (array, index)
            }
        });
        let places = places.collect();
        if !hashes.is_empty() {
            state.next += 1;
            state.index.extend(hashes.into_iter().zip((0..).map(|sequence| (number, sequence))));
            state.windows.insert(number, Held { window: Arc::downgrade(&own), kept: None });
        }
        Ok(Claim { own, batches, places })
    }

    /// Keeps the results of a finished window, if there is room, by dropping the oldest.
    pub(super) fn keep(&self, window: &Arc<WindowBatches>, reservation: &MemoryReservation) {
        let bytes = window.bytes();
        let mut state = self.lock();
        if bytes > MAX_KEPT_BYTES || window.sequences.is_empty() {
            return;
        }
        let State { windows, kept_bytes, .. } = &mut *state;
        for held in windows.values_mut() {
            if *kept_bytes + bytes <= MAX_KEPT_BYTES {
                break;
            }
            if let Some((_, bytes, _)) = held.kept.take() {
                *kept_bytes -= bytes;
            }
        }
        let reservation = reservation.new_empty();
        // Results of a previous query are not kept.
        if let Some(held) = windows.get_mut(&window.number)
            && reservation.try_grow(bytes).is_ok()
        {
            held.kept = Some((Arc::clone(window), bytes, reservation));
            *kept_bytes += bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, hash: u64, sequence: &Sequence) -> Option<(Arc<WindowBatches>, (usize, usize))> {
        let (window, number) = self.index.get(&hash)?;
        let window = self.windows.get(window)?.window()?;
        let number = *number as usize;
        (window.sequences[number] == *sequence).then(|| {
            let place = window.places[number];
            (window, place)
        })
    }

    /// Removes windows from the index that nothing references any more.
    fn forget_dropped(&mut self) {
        let before = self.windows.len();
        self.windows.retain(|_, held| held.window.strong_count() > 0);
        if self.windows.len() < before {
            let windows = &self.windows;
            self.index.retain(|_, (window, _)| windows.contains_key(window));
        }
    }
}

impl WindowBatches {
    /// The size of the results, and of the sequences that index them.
    fn bytes(&self) -> usize {
        let values = self.batches.iter().map(|batch| match batch.borrow().as_ref() {
            Some(Ok(result)) => result.values.get_array_memory_size(),
            _ => 0,
        });
        let sequences = self.sequences.iter().map(|sequence| {
            let ids = sequence.input_ids.capacity() + sequence.token_type_ids.capacity();
            let image = match &sequence.image {
                Some(ImageSource::Bytes(bytes)) => bytes.buffer.len(),
                _ => 0,
            };
            size_of::<Sequence>() + ids * size_of::<u32>() + image
        });
        values.sum::<usize>() + sequences.sum::<usize>()
    }
}

impl fmt::Debug for SharedResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedResults").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array};
    use datafusion::execution::memory_pool::{
        GreedyMemoryPool, MemoryConsumer, MemoryPool, UnboundedMemoryPool,
    };
    use tokio::sync::watch;

    use super::super::workers::{BatchResult, Outcome};
    use super::*;

    fn sequences(ids: &[u32]) -> Vec<Sequence> {
        ids.iter().map(|&id| Sequence::new(vec![id], Vec::new())).collect()
    }

    fn reservation(pool: impl MemoryPool + 'static) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::new(pool);
        MemoryConsumer::new("test").register(&pool)
    }

    /// A claim whose own sequences are one batch each, finished or not; and these sequences.
    fn claim(results: &SharedResults, ids: &[u32], is_done: bool) -> (Claim, Vec<u32>) {
        let mut own = Vec::new();
        let claim = results
            .claim(sequences(ids), |sequences| {
                own = sequences.iter().map(|sequence| sequence.input_ids[0]).collect();
                let batches = own.iter().map(|&id| {
                    let values: ArrayRef = Arc::new(Int32Array::from(vec![id as i32]));
                    let outcome: Outcome = Ok(Arc::new(BatchResult { values, failed: Vec::new() }));
                    watch::channel(is_done.then_some(outcome)).1
                });
                let batches = batches.collect();
                Ok(((0..own.len()).map(|number| vec![number]).collect(), batches))
            })
            .unwrap();
        (claim, own)
    }

    fn values(claim: &Claim) -> Vec<i32> {
        let value = |&(batch, index): &(usize, usize)| {
            let outcome = claim.batches[batch].borrow();
            let result = outcome.as_ref().unwrap().as_ref().unwrap();
            let values = result.values.as_any().downcast_ref::<Int32Array>().unwrap();
            values.value(index)
        };
        claim.places.iter().map(value).collect()
    }

    #[test]
    fn sequences_of_another_window_are_not_computed() {
        let results = SharedResults::new();
        let (first, own) = claim(&results, &[1, 2, 3], true);
        assert_eq!((own, values(&first)), (vec![1, 2, 3], vec![1, 2, 3]));
        // In flight, and held by the first window alone.
        let (second, own) = claim(&results, &[3, 4, 1], true);
        assert_eq!((own, values(&second)), (vec![4], vec![3, 4, 1]));
        results.keep(&first.own, &reservation(UnboundedMemoryPool::default()));
        drop((first, second));
        let (third, own) = claim(&results, &[4, 2], true);
        assert_eq!((own, values(&third)), (vec![4], vec![4, 2]));
    }

    #[test]
    fn dropped_windows_leave_the_index() {
        let results = SharedResults::new();
        drop(claim(&results, &[1, 2], false));
        let (second, own) = claim(&results, &[2], false);
        assert_eq!(own, [2]);
        assert_eq!(results.lock().index.len(), 1);
        drop(second);
        let query = Arc::new(TaskContext::default());
        results.enter(&query);
        let (kept, _) = claim(&results, &[5], true);
        results.keep(&kept.own, &reservation(UnboundedMemoryPool::default()));
        results.enter(&query);
        assert!(claim(&results, &[5], true).1.is_empty());
        results.enter(&Arc::new(TaskContext::default()));
        assert_eq!(claim(&results, &[5], true).1, [5]);
    }

    #[test]
    fn a_full_pool_keeps_nothing() {
        let results = SharedResults::new();
        let (first, _) = claim(&results, &[1], true);
        results.keep(&first.own, &reservation(GreedyMemoryPool::new(1)));
        drop(first);
        assert_eq!(claim(&results, &[1], true).1, [1]);
    }
}
