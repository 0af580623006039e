//! A VM's end of the guest link: the listener, and the guest that dialled last.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vsock_host::{Guest, Listener};

use crate::{Error, Result};

/// Where the guest of one VM dials. Its service may end and dial again: [`Link::guest`] always is
/// the one that lives.
pub(crate) struct Link {
    listener: Listener,
    guest: Mutex<Option<Guest>>,
}

impl Link {
    pub(crate) fn new(listener: Listener) -> Self {
        Self { listener, guest: Mutex::new(None) }
    }

    /// The guest; waits for one until the deadline if none is connected.
    pub(crate) fn guest(&self, deadline: Instant) -> Result<Guest> {
        if let Some(guest) = self.current().clone().filter(|guest| !guest.is_closed()) {
            return Ok(guest);
        }
        let guest = self.listener.accept(deadline).map_err(Error::Link)?;
        if let Some(reason) = guest.previous_failure() {
            log::warn!("the guest's service was restarted; reason={reason:?}");
        }
        *self.current() = Some(guest.clone());
        Ok(guest)
    }

    /// Ends the connection and every call that waits for it.
    pub(crate) fn close(&self) {
        self.listener.close();
        if let Some(guest) = self.current().take() {
            guest.close();
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Guest>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
