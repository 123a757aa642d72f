//! Rows of different lengths to batches of similar lengths under a token budget.
//!
//! Not here: text (rows arrive as lengths), tensors ([`crate::nn::ModelInputs`]) and order: a batch
//! lists row numbers, so whoever holds the rows puts results back by number. The entries are
//! [`token_budget_batches`] and [`shares`].

/// Cuts rows into batches: longest first, and no batch larger than `max_batch_tokens` when it is padded
/// to its longest row. A row that alone exceeds the budget gets a batch of its own.
///
/// Sorting makes the rows of one batch alike, so padding is small where a kernel needs it; longest first
/// shows a budget that does not fit in memory at the first batch instead of the last. Equal lengths keep
/// their order, so the same rows always give the same batches.
///
/// Returns row numbers: every number below `lengths.len()` exactly once.
///
/// # Example
/// ```
/// let batches = hfauto_pipe::batch::token_budget_batches(&[3, 9, 4, 3], 10);
/// assert_eq!(batches, [vec![1], vec![2, 0], vec![3]]);
/// ```
pub fn token_budget_batches(lengths: &[usize], max_batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));

    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for row in order {
        match batches.last_mut() {
            Some(batch) if longest * (batch.len() + 1) <= max_batch_tokens => batch.push(row),
            _ => {
                longest = lengths[row].max(1);
                batches.push(vec![row]);
            }
        }
    }
    batches
}

/// Deals rows out to `workers`, longest first and in turn, so that all get about the same work. For tasks
/// that make batches of their share themselves.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_input_gives_no_batch() {
        assert!(token_budget_batches(&[], 16).is_empty());
    }

    #[test]
    fn rows_without_tokens_share_batches() {
        assert_eq!(token_budget_batches(&[0, 0, 0], 2), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn shares_are_dealt_longest_first() {
        assert_eq!(shares(&[3, 9, 4, 3], 2), [vec![1, 0], vec![2, 3]]);
        assert_eq!(shares(&[1], 8), [vec![0]]);
        assert!(shares(&[], 2).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_once_within_budget_and_longest_first(
            lengths in proptest::collection::vec(0usize..600, 0..200),
            budget in 1usize..4096,
        ) {
            let batches = token_budget_batches(&lengths, budget);
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
