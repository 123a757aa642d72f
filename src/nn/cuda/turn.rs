//! Turns: threads that give one card work do not do so at the same time.
//!
//! cuBLAS may cut a product into kernels that pass sums on in a workspace of the handle, which all threads share. Another
//! product between them would overwrite these. So a thread hands its batch in as a whole; it lets the next one in when it
//! waits for results, and comes back when it has more to compute.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Device;

static TURN: Mutex<()> = Mutex::new(());

/// What a thread is in.
enum State {
    /// No turns: it is alone with the card, or says so.
    Free,
    /// Between two parts of its work.
    Waiting,
    Held {
        _guard: MutexGuard<'static, ()>,
    },
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::Free) };
}

fn hold() {
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    STATE.set(State::Held { _guard: guard });
}

/// The turn of this thread, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// Guards belong to their thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Waits for this thread's turn, where `device` is a card; `None` where it is not. A thread takes one at a time.
pub fn take_turn(device: &Device) -> Option<Turn> {
    device.is_cuda().then(|| {
        hold();
        Turn { _not_send: std::marker::PhantomData }
    })
}

impl Drop for Turn {
    fn drop(&mut self) {
        STATE.set(State::Free);
    }
}

/// Lets other threads in, if this one has the turn, until it [`resume`]s.
pub(super) fn pause() {
    STATE.with_borrow_mut(|state| {
        if matches!(state, State::Held { .. }) {
            *state = State::Waiting;
        }
    });
}

/// Waits for the turn again, if this thread has given it away: before whatever may be more than one kernel.
pub(in crate::nn) fn resume() {
    if STATE.with_borrow(|state| matches!(state, State::Waiting)) {
        hold();
    }
}
