//! A token by which one thread cancels what another one waits for.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// A cancellation token. Clones are the same token; it is never reset.
#[derive(Debug, Clone)]
pub struct Cancellation {
    /// Dropped to cancel.
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    cancelled: Receiver<Infallible>,
}

impl Cancellation {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        let (sender, cancelled) = bounded(0);
        Self { sender: Arc::new(Mutex::new(Some(sender))), cancelled }
    }

    /// Cancels it. Does not wait for anything.
    pub fn cancel(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Disconnects when the token is cancelled: to be selected on.
    pub fn cancelled(&self) -> &Receiver<Infallible> {
        &self.cancelled
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
        assert!(!clone.is_cancelled());
        token.cancel();
        token.cancel();
        assert!(clone.is_cancelled());
        assert!(clone.cancelled().recv().is_err());
    }
}
