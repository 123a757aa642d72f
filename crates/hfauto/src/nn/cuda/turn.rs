//! Turns: only one thread at a time submits work to a card. Each card has its own.
//!
//! cuBLAS may split a product into kernels that pass partial sums in a workspace of the handle, which all threads
//! share. A product in between would overwrite them. So a thread submits its batch as a whole. It gives up its turn
//! while it waits for results, and takes it again when it has more to compute.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, DeviceLocation};

/// By the number of the card; beyond so many, some share one.
static TURNS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// What a thread is in.
enum State {
    /// No turns: it is alone with the card, or says so.
    Free,
    /// Between two parts of its work for this card.
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

/// The turn of this thread, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// Guards belong to their thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Waits for this thread's turn at `device`, where that is a card; `None` where it is not. A thread takes one at a time.
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

/// Lets other threads in, if this one has the turn, until it [`resume`]s.
pub(super) fn pause() {
    STATE.with_borrow_mut(|state| {
        if let State::Held { card, .. } = state {
            *state = State::Waiting(*card);
        }
    });
}

/// Waits for the turn again, if this thread has given it away: before whatever may be more than one kernel.
pub(in crate::nn) fn resume() {
    let waiting = STATE.with_borrow(|state| match state {
        State::Waiting(card) => Some(*card),
        State::Free | State::Held { .. } => None,
    });
    if let Some(card) = waiting {
        hold(card);
    }
}
