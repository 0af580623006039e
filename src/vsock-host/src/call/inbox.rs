//! The newest guest of a listener, which the reactor delivers and a caller takes.

use std::sync::Arc;

use super::handle::Handle;
use crate::monitor::Monitor;
use crate::{Phase, Result};

pub(crate) type Inbox = Monitor<Arrival>;

#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) newest: Option<Result<Handle>>,
    /// The next step of the guest.
    pub(crate) awaited: Phase,
    pub(crate) end: Option<End>,
}

impl Default for Arrival {
    fn default() -> Self {
        Self { newest: None, awaited: Phase::Dial, end: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Stopped,
    Panicked,
}

/// The reactor's end of a listener; dropping it ends the calls that wait.
#[derive(Debug)]
pub(crate) struct Delivery(Arc<Inbox>);

impl Delivery {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self(inbox)
    }

    /// Delivers a guest, or the reason that one was rejected; a guest takes precedence.
    pub(crate) fn put(&self, newest: Result<Handle>) {
        let older = self.0.update(|arrival| {
            arrival.awaited = Phase::Dial;
            match (&newest, &arrival.newest) {
                (Err(_), Some(Ok(_))) => Some(newest),
                _ => arrival.newest.replace(newest),
            }
        });
        // Outside of the lock: dropping a handle closes its connection.
        drop(older);
    }

    /// Records the current step, for the error of a time-out.
    pub(crate) fn awaits(&self, phase: Phase) {
        self.0.with(|arrival| arrival.awaited = phase);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let end = if std::thread::panicking() { End::Panicked } else { End::Stopped };
        self.0.update(|arrival| {
            arrival.end.get_or_insert(end);
        });
    }
}
