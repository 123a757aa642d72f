//! Checks that a model fits in memory before it is loaded.
//!
//! The size of the weights is exact: it comes from the headers of their files. Not here: the available memory and
//! the memory of activations ([`hfauto::memory`], re-exported here); the memory of rows and windows
//! (`crate::exec`).

pub use hfauto::memory::{activation_bytes, available_bytes, batch_tokens, free_bytes};

use super::WeightSize;
use crate::error::{Error, ErrorKind, Result};

/// Rejects weights that exceed the available memory.
///
/// # Errors
/// `Resources` with both sizes.
pub(super) fn check(weights: Option<WeightSize>, available: Option<usize>) -> Result<()> {
    let (Some(weights), Some(available)) = (weights, available) else { return Ok(()) };
    if weights.bytes <= available {
        return Ok(());
    }
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Err(Error::new(
        ErrorKind::Resources,
        format!(
            "the weights take {:.1} GiB, but {:.1} GiB of memory are left",
            gib(weights.bytes),
            gib(available)
        ),
    )
    .hint("choose a smaller model, or a machine with more memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let weights = Some(WeightSize { parameters: 1 << 30, bytes: 4 << 30 });
        assert!(check(weights, Some(4 << 30)).is_ok());
        assert!(check(weights, None).is_ok() && check(None, Some(0)).is_ok());
        let error = check(weights, Some(3 << 30)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resources);
        assert_eq!(error.message(), "the weights take 4.0 GiB, but 3.0 GiB of memory are left");
    }
}
