//! Turns: only one thread at a time submits work to a GPU. Each GPU has its own turn.
//!
//! cuBLAS may split a product into kernels that pass partial sums in the handle's workspace, which all threads share.
//! Another product in between would overwrite them. A thread therefore submits its batch as a whole. It releases its
//! turn while it waits for results, and reacquires it when it has more to compute.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, DeviceLocation};

/// Indexed by GPU number, modulo the length.
static TURNS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// The state of a thread.
enum State {
    /// Outside of turns: the thread is the only one that uses the GPU.
    Free,
    /// Waiting for results of this GPU, with the turn released.
    Waiting(usize),
    Held {
        card: usize,
        _guard: MutexGuard<'static, ()>,
    },
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::Free) };
}

fn hold(card: usize) {
    let guard = TURNS[card % TURNS.len()].lock().unwrap_or_else(PoisonError::into_inner);
    STATE.set(State::Held { card, _guard: guard });
}

/// This thread's turn, released on drop.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// A `MutexGuard` must be dropped on its own thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Waits for this thread's turn at `device`; `None` if it is not a GPU. A thread may hold one turn at a time.
pub fn take_turn(device: &Device) -> Option<Turn> {
    let DeviceLocation::Cuda { gpu_id } = device.location() else { return None };
    hold(gpu_id);
    Some(Turn { _not_send: std::marker::PhantomData })
}

impl Drop for Turn {
    fn drop(&mut self) {
        STATE.set(State::Free);
    }
}

/// Releases the turn, if this thread has it, until it [`resume`]s.
pub(super) fn pause() {
    STATE.with_borrow_mut(|state| {
        if let State::Held { card, .. } = state {
            *state = State::Waiting(*card);
        }
    });
}

/// Reacquires the turn if this thread has released it. Called before work that may be more than one kernel.
pub(in crate::nn) fn resume() {
    let waiting = STATE.with_borrow(|state| match state {
        State::Waiting(card) => Some(*card),
        State::Free | State::Held { .. } => None,
    });
    if let Some(card) = waiting {
        hold(card);
    }
}
