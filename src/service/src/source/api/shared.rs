//! The state that the threads of [`Api`](super::Api) share with the main thread: updates of the platform for the main
//! thread, and the runner's demand and status for the platform.

use std::collections::VecDeque;
use std::time::Instant;

use base::sync::{Mutex, MutexGuard};
use contract::RunId;
use crossbeam_channel::Sender;

use super::poll::{Schedule, ScheduledPoll};
use crate::admission::Resources;
use crate::identity::RunnerIdentity;
use crate::source::{CancelRequest, Demand, DiscoveredJob, RunnerStatus};

/// The most queued offers. A later poll finds jobs whose offers were dropped.
const MAX_OFFERS: usize = 64;

/// The shared state, and the runner's constants.
pub(super) struct Shared {
    pub(super) runner: RunnerIdentity,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) total: Resources,
    pub(super) max_concurrent: usize,
    pub(super) state: Mutex<SharedState>,
    pub(super) notifier: Sender<()>,
    pub(super) wake_poll: Sender<()>,
    pub(super) wake_heartbeat: Sender<()>,
}

/// The mutable part.
#[derive(Default)]
pub(super) struct SharedState {
    pub(super) demand: Demand,
    pub(super) offers: VecDeque<DiscoveredJob>,
    /// Whether the main thread has an offer that the demand does not reflect yet.
    pub(super) is_deciding: bool,
    pub(super) cancelled: Vec<CancelRequest>,
    pub(super) status: Option<RunnerStatus>,
    /// Whether the next heartbeat is the last one.
    pub(super) is_stopping: bool,
    /// Whether this process has sent a heartbeat, or tried to. The platform assigns earlier claims to the previous
    /// process.
    pub(super) is_registered: bool,
    /// Whether the subscription for pushes is connected.
    pub(super) is_subscribed: bool,
    /// Polls in addition to the regular ones.
    pub(super) schedule: Schedule,
}

impl Shared {
    /// Queues an offer and cancellations for the main thread, and notifies it.
    pub(super) fn push_update(
        &self,
        offer: Option<DiscoveredJob>,
        cancelled: Vec<RunId>,
        requested_at: Instant,
    ) {
        if offer.is_none() && cancelled.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.offers.len() < MAX_OFFERS {
            state.offers.extend(offer);
        }
        state
            .cancelled
            .extend(cancelled.into_iter().map(|run| CancelRequest { run, requested_at }));
        drop(state);
        let _ = self.notifier.try_send(());
    }

    /// Schedules an additional poll.
    pub(super) fn schedule(&self, due: ScheduledPoll) {
        self.lock().schedule.add(due);
        let _ = self.wake_poll.try_send(());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock()
    }
}
