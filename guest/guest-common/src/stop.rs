//! A cancellation token for threads that wait or make requests.

use std::sync::Arc;
use std::time::Instant;

use base::sync::{Condvar, Mutex, MutexGuard};

/// A cancellation token. Clones share the signal, which is given at most once.
///
/// The signal ends waits at once, and the requests of every [`Client`](crate::Client) that was made
/// with the token.
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
    /// A token whose signal is not given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal. A second time has no effect.
    pub fn signal(&self) {
        let agents = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.agents)
        };
        self.shared.given.notify_all();
        agents.into_iter().for_each(ureq::Agent::shutdown);
    }

    /// Whether the signal was given.
    pub fn is_given(&self) -> bool {
        self.lock().stopped
    }

    /// Sleeps until the signal, then returns true; or until `deadline`, then returns false.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.given.wait_timeout(state, left);
        }
        true
    }

    /// Ends the agent's requests at the signal.
    pub(crate) fn attach(&self, agent: &ureq::Agent) {
        let mut state = self.lock();
        if state.stopped {
            drop(state);
            agent.clone().shutdown();
        } else {
            state.agents.push(agent.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }
}
