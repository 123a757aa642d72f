//! Prefixes that prompts share, such as a system prompt or few-shot examples: computed once, and kept for later prompts.
//!
//! Works on token ids. [`shared_prefixes`] finds what the prompts of one call have in common; [`PrefixCache`] keeps the keys
//! and values of prefixes for the loaded model. Not here: when rows enter (`generate`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Result;

use crate::models::DecoderState;

/// The default minimum length of a shared prefix. A shorter one saves less than its own forward pass and the copies of its
/// keys and values cost.
const MIN_TOKENS: usize = 32;

/// The number of a prompt's last tokens that are never part of a prefix. The logits come from the last one. Two, because on a
/// CPU another kernel computes the attention of a single token, with other last bits.
const OWN_TOKENS: usize = 2;

/// The keys and values of prefixes of prompts, for one loaded model.
///
/// Prompts of later calls reuse them. The least recently used prefixes are dropped when they take more than half of a call's
/// token budget.
#[derive(Debug)]
pub struct PrefixCache {
    min_tokens: usize,
    /// The most recently used first.
    entries: Mutex<Vec<Entry>>,
    reused_tokens: AtomicU64,
    computed_tokens: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    ids: Vec<u32>,
    /// One row with the tokens of `ids`.
    state: DecoderState,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self::new(MIN_TOKENS)
    }
}

impl PrefixCache {
    /// An empty cache for prefixes of at least `min_tokens` tokens, and at least two; with `usize::MAX`, prompts share
    /// nothing.
    pub fn new(min_tokens: usize) -> Self {
        Self {
            min_tokens: min_tokens.max(2),
            entries: Mutex::default(),
            reused_tokens: AtomicU64::new(0),
            computed_tokens: AtomicU64::new(0),
        }
    }

    /// The number of prompt tokens that were not computed because a prefix was reused, since the last call.
    pub fn take_saved_tokens(&self) -> u64 {
        let reused = self.reused_tokens.swap(0, Ordering::Relaxed);
        reused.saturating_sub(self.computed_tokens.swap(0, Ordering::Relaxed))
    }

    /// The tokens of all kept prefixes.
    pub(super) fn tokens(&self) -> usize {
        self.entries().iter().map(|entry| entry.ids.len()).sum()
    }

    /// The state after the longest known prefix of `prompt`, and its length; `None` if no prefix is long enough.
    ///
    /// # Errors
    /// When candle cannot tell the shape of a cache.
    pub(super) fn find(&self, prompt: &[u32]) -> Result<Option<(usize, DecoderState)>> {
        let most = prompt.len().saturating_sub(OWN_TOKENS);
        let mut entries = self.entries();
        let lengths = entries.iter().map(|entry| {
            let length = common(&entry.ids, &prompt[..most]);
            if entry.state.has_prefix(length) { length } else { 0 }
        });
        // Of equally long ones, the most recently used.
        let best = lengths.enumerate().rev().max_by_key(|(_, length)| *length);
        let Some((place, length)) = best.filter(|(_, length)| *length >= self.min_tokens) else {
            return Ok(None);
        };
        entries[..=place].rotate_right(1);
        Ok(Some((length, entries[0].state.prefix(length, 1)?)))
    }

    /// Keeps the state after the prefix `ids`, and at most `max_tokens` tokens in all.
    pub(super) fn insert(&self, ids: &[u32], state: DecoderState, max_tokens: usize) {
        let mut entries = self.entries();
        // A state that has dropped keys outside a window does not replace that of its beginning.
        let replaced =
            |entry: &Entry| ids.starts_with(&entry.ids) && state.has_prefix(entry.ids.len());
        entries.retain(|entry| !replaced(entry));
        entries.insert(0, Entry { ids: ids.to_vec(), state });
        let mut left = max_tokens;
        entries.retain(|entry| {
            let fits = entry.ids.len() <= left;
            left = left.saturating_sub(entry.ids.len());
            fits
        });
    }

    /// Counts the tokens of a reused prefix, or those computed for one.
    pub(super) fn count(&self, reused: usize, computed: usize) {
        self.reused_tokens.fetch_add(reused as u64, Ordering::Relaxed);
        self.computed_tokens.fetch_add(computed as u64, Ordering::Relaxed);
    }

    /// The minimum length of a prefix.
    pub(super) fn min_tokens(&self) -> usize {
        self.min_tokens
    }

    /// Never locked while a forward pass runs: kernels on a shared thread pool may start another row's work on this thread.
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For each prompt, the length of the prefix that it shares with others of `prompts`; 0 where none has `min_tokens` tokens.
///
/// In lexicographic order, prompts with a common prefix are neighbours. A group takes the next prompt as long as that saves
/// more tokens, although the group's prefix may become shorter.
pub(super) fn shared_prefixes(prompts: &[&[u32]], min_tokens: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&place| prompts[place]);
    let mut lengths = vec![0; prompts.len()];
    let mut first = 0;
    while first < order.len() {
        let (mut end, mut length) = (first + 1, usize::MAX);
        while end < order.len() {
            let longest = prompts[order[end - 1]].len().min(prompts[order[end]].len());
            let most = longest.saturating_sub(OWN_TOKENS);
            let next = common(prompts[order[end - 1]], prompts[order[end]]).min(most).min(length);
            let rows = end - first;
            if next < min_tokens || rows * next <= (rows - 1).saturating_mul(length) {
                break;
            }
            (end, length) = (end + 1, next);
        }
        if end - first > 1 {
            order[first..end].iter().for_each(|&place| lengths[place] = length);
        }
        first = end;
    }
    lengths
}

/// The number of first tokens that are the same.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_with_the_same_first_tokens_share_them() {
        let check = |prompts: &[&[u32]], min_tokens, expected: &[usize]| {
            assert_eq!(shared_prefixes(prompts, min_tokens), expected, "{prompts:?}");
        };
        check(&[], 1, &[]);
        check(&[&[1, 2, 3, 4]], 1, &[0]);
        // The last two tokens of each prompt are its own, even if all are the same.
        check(&[&[1, 2, 3, 4], &[1, 2, 3, 4]], 1, &[2, 2]);
        check(&[&[1, 2], &[1, 2, 3, 4]], 1, &[0, 0]);
        check(&[&[], &[], &[1], &[1]], 1, &[0, 0, 0, 0]);
        check(&[&[1, 2, 3, 7, 7], &[9, 9, 9, 9], &[1, 2, 3, 8, 8]], 3, &[3, 0, 3]);
        check(&[&[1, 2, 3, 7, 7], &[1, 2, 3, 8, 8]], 4, &[0, 0]);
        // Three prompts save two times two tokens, two of them three tokens.
        check(&[&[1, 2, 3, 7, 7], &[1, 2, 3, 8, 8], &[1, 2, 4, 9, 9]], 1, &[2, 2, 2]);
        // Here the two with a longer prefix save more.
        let long: [&[u32]; 3] =
            [&[1, 2, 3, 4, 5, 7, 7], &[1, 2, 3, 4, 5, 8, 8], &[1, 2, 9, 9, 9, 9, 9]];
        check(&long, 1, &[5, 5, 0]);
        check(
            &[&[5, 6, 1, 1, 1], &[7, 8, 1, 1, 1], &[5, 6, 2, 2, 2], &[7, 8, 2, 2, 2]],
            2,
            &[2; 4],
        );
    }

    #[test]
    fn the_longest_known_prefix_is_found_and_the_oldest_are_dropped() {
        let cache = PrefixCache::new(2);
        let found = |prompt: &[u32]| cache.find(prompt).unwrap().map(|(length, _)| length);
        let insert = |ids: &[u32], max| cache.insert(ids, DecoderState::default(), max);
        assert_eq!(found(&[1, 2, 3, 4]), None);
        insert(&[1, 2, 3], 6);
        insert(&[7, 8, 9], 6);
        assert_eq!(found(&[1, 2, 3, 4, 5]), Some(3));
        assert_eq!(found(&[1, 2, 3, 4]), Some(2));
        assert_eq!(found(&[1, 2, 3]), None);
        assert_eq!(found(&[7, 8, 1, 1]), Some(2));
        assert_eq!(found(&[7, 1, 1, 1]), None);
        // A longer prefix replaces the one that it begins with.
        insert(&[1, 2, 3, 4], 7);
        assert_eq!((cache.tokens(), found(&[1, 2, 3, 4, 5, 6])), (7, Some(4)));
        insert(&[5, 5], 7);
        assert_eq!((cache.tokens(), found(&[7, 8, 9, 9, 9])), (6, None));
        cache.count(10, 3);
        assert_eq!((cache.take_saved_tokens(), cache.take_saved_tokens()), (7, 0));
    }
}
