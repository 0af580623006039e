//! What the threads of [`Api`](super::Api) hear of the platform, put down for the main thread to look at,
//! and what they are to know of this runner.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::poll::{Due, Schedule};
use crate::service::admission::Amount;
use crate::service::context::RunId;
use crate::service::identity::Identity;
use crate::service::source::{Cancelled, Demand, Offer, Presence};

/// The most offers that wait to be looked at. What is dropped, a poll finds.
const MOST_OFFERS: usize = 64;

/// What the threads share with the main thread.
pub(super) struct Shared {
    pub(super) runner: Identity,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) total: Amount,
    pub(super) most: usize,
    pub(super) heard: Mutex<Heard>,
    pub(super) bell: Sender<()>,
    pub(super) wake_poll: Sender<()>,
    pub(super) wake_beat: Sender<()>,
}

/// What is put down.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) demand: Demand,
    pub(super) offers: VecDeque<Offer>,
    /// Whether the main thread has an offer of which the demand does not tell yet what became.
    pub(super) is_deciding: bool,
    pub(super) cancelled: Vec<Cancelled>,
    pub(super) presence: Option<Presence>,
    /// Whether the next heartbeat is the last one.
    pub(super) is_leaving: bool,
    /// Whether this process has told of itself, or tried to: what is claimed before belongs, for the
    /// platform, to the process before.
    pub(super) is_introduced: bool,
    /// Whether jobs are pushed at present.
    pub(super) is_pushed: bool,
    /// Polls besides the usual ones.
    pub(super) schedule: Schedule,
}

impl Shared {
    /// Puts down what the main thread is to look at. Jobs are cancelled as of `asked`.
    pub(super) fn put_down(&self, offer: Option<Offer>, cancelled: Vec<RunId>, asked: Instant) {
        if offer.is_none() && cancelled.is_empty() {
            return;
        }
        let mut heard = self.lock();
        if heard.offers.len() < MOST_OFFERS {
            heard.offers.extend(offer);
        }
        heard.cancelled.extend(cancelled.into_iter().map(|run| Cancelled { run, asked }));
        drop(heard);
        let _ = self.bell.try_send(());
    }

    /// Schedules a poll at that time.
    pub(super) fn schedule(&self, due: Due) {
        self.lock().schedule.add(due);
        let _ = self.wake_poll.try_send(());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while it has the lock.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
