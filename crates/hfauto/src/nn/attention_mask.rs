//! Attention masks as rules. Not here: kernels that apply them. The entry is [`AttentionMask`].

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

/// The keys of its row that a query attends to. The last query of a row has the position of its last key; if there are
/// fewer keys than queries, the first query has the position of the first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All keys.
    Full,
    /// The keys up to its own position.
    Causal,
    /// The keys up to its own position that are less than this number of positions away. At least 1.
    CausalWindow(usize),
    /// The keys at most this number of positions away, on either side.
    Window(usize),
}

impl AttentionMask {
    /// Whether a query attends to no later key.
    pub fn is_causal(self) -> bool {
        matches!(self, Self::Causal | Self::CausalWindow(_))
    }

    /// The window of causal attention, if it has one.
    pub(super) fn causal_window(self) -> Option<usize> {
        match self {
            Self::CausalWindow(window) => Some(window),
            _ => None,
        }
    }

    /// The keys that the query at `position` attends to, among `num_keys`.
    pub(super) fn visible(self, position: usize, num_keys: usize) -> Range<usize> {
        let until = (position + 1).min(num_keys);
        match self {
            Self::Full => 0..num_keys,
            Self::Causal => 0..until,
            Self::CausalWindow(window) => until.saturating_sub(window)..until,
            Self::Window(radius) => {
                let until = position.saturating_add(radius + 1).min(num_keys);
                position.saturating_sub(radius).min(until)..until
            }
        }
    }

    /// `(queries, keys)`, f32: 0 where a query attends to a key, and −∞ elsewhere; `None` for a full mask. Every query
    /// attends to some key, so no row is all −∞.
    ///
    /// # Errors
    /// If the device cannot hold the tensor.
    pub(super) fn tensor(
        self,
        queries: usize,
        keys: usize,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        if self == Self::Full {
            return Ok(None);
        }
        let mut mask = vec![f32::NEG_INFINITY; queries * keys];
        for query in 0..queries {
            let position = keys.saturating_sub(queries) + query;
            mask[query * keys..][self.visible(position, keys)].fill(0.0);
        }
        Tensor::from_vec(mask, (queries, keys), device).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_as_transformers_does() {
        use AttentionMask::{Causal, CausalWindow, Full, Window};
        for (mask, position, expected) in [
            (Full, 2, 0..6),
            (Causal, 2, 0..3),
            (CausalWindow(2), 0, 0..1),
            (CausalWindow(2), 4, 3..5),
            (CausalWindow(9), 4, 0..5),
            (Window(0), 4, 4..5),
            (Window(2), 0, 0..3),
            (Window(2), 3, 1..6),
            (Window(2), 5, 3..6),
            // Beyond the last key.
            (Window(2), 7, 5..6),
            (Window(2), 9, 6..6),
            (Causal, 9, 0..6),
        ] {
            assert_eq!(mask.visible(position, 6), expected, "{mask:?} {position}");
        }
    }
}
