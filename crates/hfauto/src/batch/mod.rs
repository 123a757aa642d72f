//! Groups rows of different lengths into batches of similar length under a token budget.
//!
//! Not here: text (rows arrive as lengths), tensors ([`crate::nn::ModelInputs`]) and order: a batch lists row numbers,
//! by which the caller puts results back in order. The entries are [`token_budget_batches`] and [`shares`], and
//! [`in_batches`] for callers without their own workers.

use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};

/// The minimum size of the last batches. Every batch reads all weights once, which pays off from about this many
/// tokens.
const MIN_BATCH_TOKENS: usize = 128;

/// Cuts rows into batches for `workers` that share one queue. The longest rows come first. No batch, padded to its
/// longest row, exceeds `max_batch_tokens`; a row that exceeds the budget alone gets its own batch.
///
/// Sorting gives the rows of a batch similar lengths, which keeps padding small where a kernel needs it. With the
/// longest rows first, a budget that exceeds memory fails at the first batch, not the last. Equal lengths keep their
/// order, so equal inputs give equal batches.
///
/// A batch also takes at most one worker's share of the remaining tokens, but at least 128. Batches therefore shrink
/// towards the end, and the workers finish at about the same time. A single worker gets batches as large as the budget
/// allows.
///
/// Returns row numbers: every number below `lengths.len()` exactly once.
///
/// # Source
/// Guided self-scheduling: Polychronopoulos and Kuck 1987; `schedule(guided)` in OpenMP.
///
/// # Example
/// ```
/// use hfauto::batch::token_budget_batches;
///
/// assert_eq!(token_budget_batches(&[3, 9, 4, 3], 10, 1), [vec![1], vec![2, 0], vec![3]]);
/// let tokens: Vec<usize> =
///     token_budget_batches(&[16; 100], 1024, 2).iter().map(|batch| batch.len() * 16).collect();
/// assert_eq!(tokens, [800, 400, 192, 128, 80]);
/// ```
pub fn token_budget_batches(
    lengths: &[usize],
    max_batch_tokens: usize,
    workers: usize,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));

    let mut left: usize = lengths.iter().sum();
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut longest, mut budget) = (0, 0);
    for row in order {
        match batches.last_mut() {
            Some(batch) if longest * (batch.len() + 1) <= budget => batch.push(row),
            _ => {
                longest = lengths[row].max(1);
                let share = left.div_ceil(workers.max(1));
                budget = max_batch_tokens.min(share.max(MIN_BATCH_TOKENS));
                batches.push(vec![row]);
            }
        }
        left -= lengths[row];
    }
    batches
}

/// Deals rows out to `workers` in turn, longest first, for about equal work. For tasks that batch their share
/// themselves.
///
/// Returns row numbers: every number below `lengths.len()` exactly once; no share is empty.
pub fn shares(lengths: &[usize], workers: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut shares = vec![Vec::new(); workers.clamp(1, lengths.len().max(1))];
    let count = shares.len();
    for (place, row) in order.into_iter().enumerate() {
        shares[place % count].push(row);
    }
    shares.retain(|share| !share.is_empty());
    shares
}

/// Runs `forward` on batches of rows, whose token counts are `lengths`, and returns the results in row order. With
/// several `workers`, batches run in parallel on the current rayon pool.
///
/// `forward` gets the row numbers of a batch and returns one result per row.
///
/// # Errors
/// The first error of `forward`, in batch order; `Internal` when it returns another number of results.
///
/// # Example
/// ```
/// use hfauto::batch::in_batches;
///
/// let texts = ["a", "three words here", "two words"];
/// let lengths: Vec<usize> = texts.iter().map(|text| text.split(' ').count()).collect();
/// let upper = in_batches(&lengths, 4, 1, |rows| {
///     Ok(rows.iter().map(|&row| texts[row].to_uppercase()).collect())
/// })?;
/// assert_eq!(upper, ["A", "THREE WORDS HERE", "TWO WORDS"]);
/// # Ok::<(), hfauto::Error>(())
/// ```
pub fn in_batches<R: Send>(
    lengths: &[usize],
    max_batch_tokens: usize,
    workers: usize,
    forward: impl Fn(&[usize]) -> Result<Vec<R>> + Sync,
) -> Result<Vec<R>> {
    let batches = token_budget_batches(lengths, max_batch_tokens, workers);
    let computed: Vec<Result<Vec<R>>> = if workers > 1 && batches.len() > 1 {
        batches.par_iter().map(|batch| forward(batch)).collect()
    } else {
        batches.iter().map(|batch| forward(batch)).collect()
    };
    let mut results: Vec<Option<R>> = lengths.iter().map(|_| None).collect();
    for (batch, computed) in batches.iter().zip(computed) {
        let computed = computed?;
        if computed.len() != batch.len() {
            let message =
                format!("a batch of {} rows returned {} results", batch.len(), computed.len());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        for (&row, result) in batch.iter().zip(computed) {
            results[row] = Some(result);
        }
    }
    let missing = || Error::new(ErrorKind::Internal, "a row is in no batch");
    results.into_iter().map(|result| result.ok_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_input_gives_no_batch() {
        assert!(token_budget_batches(&[], 16, 2).is_empty());
    }

    #[test]
    fn rows_without_tokens_share_batches() {
        assert_eq!(token_budget_batches(&[0, 0, 0], 2, 1), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn shares_are_dealt_longest_first() {
        assert_eq!(shares(&[3, 9, 4, 3], 2), [vec![1, 0], vec![2, 3]]);
        assert_eq!(shares(&[1], 8), [vec![0]]);
        assert!(shares(&[], 2).is_empty());
    }

    /// The tokens that each of `workers` computes from a shared queue of batches.
    fn finished(batches: &[Vec<usize>], lengths: &[usize], workers: usize) -> Vec<usize> {
        let mut finished = vec![0; workers];
        for batch in batches {
            let first = finished.iter_mut().min().unwrap();
            *first += batch.iter().map(|&row| lengths[row]).sum::<usize>();
        }
        finished
    }

    #[test]
    fn workers_finish_together() {
        for (rows, length, workers) in [(8, 40, 2), (60, 16, 2), (500, 27, 2), (100, 120, 16)] {
            let lengths = vec![length; rows];
            let batches = token_budget_batches(&lengths, 1024, workers);
            let finished = finished(&batches, &lengths, workers);
            let apart = finished.iter().max().unwrap() - finished.iter().min().unwrap();
            assert!(apart <= MIN_BATCH_TOKENS + length, "{rows} of {length}: {finished:?}");
        }
    }

    #[test]
    fn results_are_in_the_order_of_the_rows() {
        let lengths = [3, 9, 4, 3, 0];
        for workers in [1, 4] {
            let rows = in_batches(&lengths, 10, workers, |rows| Ok(rows.to_vec())).unwrap();
            assert_eq!(rows, [0, 1, 2, 3, 4]);
        }
        let too_few = in_batches(&lengths, 10, 1, |rows| Ok(rows[1..].to_vec()));
        assert_eq!(too_few.unwrap_err().kind(), ErrorKind::Internal);
        let too_many = in_batches(&lengths, 10, 1, |rows| Ok([rows, rows].concat()));
        assert_eq!(too_many.unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn one_worker_takes_all_that_the_budget_allows() {
        let batches = token_budget_batches(&[10; 7], 40, 1);
        assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5, 6]]);
    }

    proptest! {
        #[test]
        fn every_row_once_within_budget_and_longest_first(
            lengths in proptest::collection::vec(0usize..600, 0..200),
            budget in 1usize..4096,
            workers in 1usize..9,
        ) {
            let batches = token_budget_batches(&lengths, budget, workers);
            let mut rows: Vec<usize> = batches.iter().flatten().copied().collect();
            let longest: Vec<usize> = rows.iter().map(|&row| lengths[row]).collect();
            prop_assert!(longest.windows(2).all(|pair| pair[0] >= pair[1]));
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let padded = batch.len() * batch.iter().map(|&row| lengths[row]).max().unwrap_or(0);
                prop_assert!(batch.len() == 1 || padded <= budget);
            }
        }
    }
}
