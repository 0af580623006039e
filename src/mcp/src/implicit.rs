//! The sandbox of calls that name none: the first such call creates it, and the next one after its end
//! another.

use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex};

/// How often a waiting call looks whether it was cancelled, should a notification come too early.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Implicit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone)]
enum State {
    #[default]
    Absent,
    /// A call creates it.
    Creating,
    Present(String),
}

/// What a call does for its sandbox.
pub(crate) enum Turn<'a> {
    Use(String),
    /// It creates it.
    Create(Creation<'a>),
    Cancelled,
}

/// The right to create the sandbox. Dropping it passes the right on.
pub(crate) struct Creation<'a>(&'a Implicit);

impl Implicit {
    /// The sandbox's id, or the right to create it. Waits while another call creates it.
    pub(crate) fn turn(&self, is_cancelled: impl Fn() -> bool) -> Turn<'_> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Present(id) => return Turn::Use(id.clone()),
                State::Absent => {
                    *state = State::Creating;
                    return Turn::Create(Creation(self));
                }
                State::Creating if is_cancelled() => return Turn::Cancelled,
                State::Creating => {
                    state = self.changed.wait_until(state, Some(Instant::now() + LOOK));
                }
            }
        }
    }

    /// Forgets the sandbox of this id, which has ended.
    pub(crate) fn forget(&self, id: &str) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Present(present) if present == id) {
            *state = State::Absent;
        }
    }

    /// The sandbox's id, if there is one.
    pub(crate) fn present(&self) -> Option<String> {
        match &*self.state.lock() {
            State::Present(id) => Some(id.clone()),
            _ => None,
        }
    }

    /// Wakes waiting calls, so that they see that they are cancelled.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }
}

impl Creation<'_> {
    pub(crate) fn finish(self, id: String) {
        *self.0.state.lock() = State::Present(id);
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if matches!(*state, State::Creating) {
            *state = State::Absent;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}
