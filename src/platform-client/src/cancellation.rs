//! The cancellation of threads that wait or make requests.

use std::sync::Arc;
use std::time::Instant;

use base::sync::{Condvar, Mutex, MutexGuard};

/// A cancellation token. Clones share its state.
///
/// A cancellation ends waits at once, and the requests of every [`HttpClient`](crate::HttpClient) that was made
/// with the token.
#[derive(Clone, Default)]
pub struct RequestCancellation {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    cancelled: Condvar,
}

#[derive(Default)]
struct State {
    is_cancelled: bool,
    agents: Vec<ureq::Agent>,
}

impl RequestCancellation {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waits and requests. A second call has no effect.
    pub fn cancel(&self) {
        let agents = {
            let mut state = self.lock();
            state.is_cancelled = true;
            std::mem::take(&mut state.agents)
        };
        self.shared.cancelled.notify_all();
        agents.into_iter().for_each(ureq::Agent::shutdown);
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.lock().is_cancelled
    }

    /// Sleeps until the cancellation, then returns true; or until `deadline`, then returns false.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.is_cancelled {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.cancelled.wait_timeout(state, left);
        }
        true
    }

    /// Ends the agent's requests at the cancellation.
    pub(crate) fn attach(&self, agent: &ureq::Agent) {
        let mut state = self.lock();
        if state.is_cancelled {
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
