//! A token by which one thread cancels what another one waits for.

use std::convert::Infallible;
use std::sync::{Arc, Weak};

use base::event::Event;
use base::sync::Mutex;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// A cancellation token. Clones are the same token; it is never reset.
#[derive(Debug, Clone)]
pub struct Cancellation {
    wakes: Arc<Mutex<Wakes>>,
    cancelled: Receiver<Infallible>,
}

/// What wakes those who wait.
#[derive(Debug)]
struct Wakes {
    /// Dropped to cancel.
    sender: Option<Sender<Infallible>>,
    events: Vec<Weak<Event>>,
}

impl Cancellation {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        let (sender, cancelled) = bounded(0);
        let wakes = Wakes { sender: Some(sender), events: Vec::new() };
        Self { wakes: Arc::new(Mutex::new(wakes)), cancelled }
    }

    /// Cancels it. Does not wait for anything.
    pub fn cancel(&self) {
        let events = {
            let mut wakes = self.wakes.lock();
            wakes.sender = None;
            std::mem::take(&mut wakes.events)
        };
        events.iter().filter_map(Weak::upgrade).for_each(|event| event.set());
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Disconnects when the token is cancelled: to be selected on.
    pub fn cancelled(&self) -> &Receiver<Infallible> {
        &self.cancelled
    }

    /// Sets `event` when the token is cancelled, if it is not yet: for those who poll.
    pub fn notify(&self, event: &Arc<Event>) {
        let mut wakes = self.wakes.lock();
        let event = Arc::downgrade(event);
        wakes.events.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&event));
        wakes.events.push(event);
    }
}

impl Default for Cancellation {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_token_is_cancelled_in_all_its_clones() {
        let token = Cancellation::new();
        let clone = token.clone();
        let event = Arc::new(Event::new().unwrap());
        clone.notify(&event);
        clone.notify(&event);
        assert!(!clone.is_cancelled() && !event.is_set());
        token.cancel();
        token.cancel();
        assert!(clone.is_cancelled() && event.is_set());
        assert!(clone.cancelled().recv().is_err());
    }
}
