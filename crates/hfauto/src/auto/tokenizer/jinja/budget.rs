//! The budget of one rendering: every operation on values pays for the bytes that it reads and writes.
//!
//! The engine's own fuel counts instructions. A single instruction may double a text or compare two trees, so counting
//! them bounds neither time nor memory.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

thread_local! {
    /// The remaining budget of this thread's rendering; unlimited outside of a rendering.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The cost of a reference to a value in a list, with room to grow.
pub(in super::super) const ITEM: usize = 32;

/// Renders with a budget of `bytes`.
pub(super) fn with_budget<T>(bytes: usize, render: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT.set(self.0);
        }
    }
    let _restore = Restore(LEFT.replace(bytes));
    render()
}

/// Pays for reading or writing `bytes`.
///
/// # Errors
/// `OutOfFuel` when the budget is spent.
pub(in super::super) fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get();
    if left == usize::MAX {
        return Ok(());
    }
    let rest = left.checked_sub(bytes.saturating_add(1)).ok_or_else(exhausted)?;
    LEFT.set(rest);
    Ok(())
}

/// [`charge`] for `count` times `bytes`.
pub(in super::super) fn charge_times(count: usize, bytes: usize) -> Result<(), Error> {
    charge(count.saturating_mul(bytes))
}

fn exhausted() -> Error {
    Error::new(ErrorKind::OutOfFuel, "it reads and writes too many bytes")
}
