//! The end of a program, as its threads learn of it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A signal that is given once, to all who have a clone.
///
/// It ends waits at once, and the requests of every [`Client`](crate::Client) that was made with it.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    given: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    agents: Vec<ureq::Agent>,
}

impl Stop {
    /// One that is not given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it. The second time has no effect.
    pub fn signal(&self) {
        let agents = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.agents)
        };
        self.shared.given.notify_all();
        agents.into_iter().for_each(ureq::Agent::shutdown);
    }

    /// Whether it was given.
    pub fn is_given(&self) -> bool {
        self.lock().stopped
    }

    /// Sleeps until `deadline`, or until it is given: then this is true.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.given.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ends the agent's requests when it is given.
    pub(crate) fn attach(&self, agent: &ureq::Agent) {
        let mut state = self.lock();
        if state.stopped {
            drop(state);
            agent.clone().shutdown();
        } else {
            state.agents.push(agent.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
