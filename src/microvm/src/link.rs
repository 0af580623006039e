//! The host's end of a VM's guest link: the listener, and the guest that connected last.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vsock_host::{Guest, Listener, Ports};

use crate::{Error, Result};

/// The listener for one VM's guest. The guest's service may restart and connect again: [`GuestLink::guest`]
/// returns the live connection.
pub(crate) struct GuestLink {
    listener: Listener,
    state: Mutex<LinkState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinkState {
    guest: Option<Guest>,
    /// Whether a caller is in `accept`, where each guest arrives once. The other callers wait for its
    /// result.
    is_accepting: bool,
}

impl LinkState {
    fn live(&self) -> Option<Guest> {
        self.guest.clone().filter(|guest| !guest.is_closed())
    }
}

impl GuestLink {
    pub(crate) fn new(listener: Listener) -> Self {
        Self { listener, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The guest; waits for one until the deadline if none is connected.
    pub(crate) fn guest(&self, deadline: Instant) -> Result<Guest> {
        let mut state = self.lock();
        loop {
            if let Some(guest) = state.live() {
                return Ok(guest);
            }
            if !state.is_accepting {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotConnected);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_accepting = true;
        drop(state);
        let arrived = self.listener.accept(deadline);
        let mut state = self.lock();
        state.is_accepting = false;
        self.changed.notify_all();
        keep(&mut state, arrived)
    }

    /// The guest, if one is connected.
    pub(crate) fn guest_now(&self) -> Result<Guest> {
        let mut state = self.lock();
        match state.live() {
            Some(guest) => Ok(guest),
            None if state.is_accepting => Err(Error::NotConnected),
            // Does not wait: the deadline is now.
            None => keep(&mut state, self.listener.accept(Instant::now())),
        }
    }

    /// The ports of whichever guest is connected.
    pub(crate) fn ports(&self) -> Ports {
        self.listener.ports()
    }

    /// Closes the connection; calls that wait for it return.
    pub(crate) fn close(&self) {
        self.listener.close();
        if let Some(guest) = self.lock().guest.take() {
            guest.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(state: &mut LinkState, arrived: vsock_host::Result<Guest>) -> Result<Guest> {
    let guest = arrived.map_err(Error::Link)?;
    if let Some(reason) = guest.previous_failure() {
        log::warn!("the guest's service was restarted; reason={reason:?}");
    }
    state.guest = Some(guest.clone());
    Ok(guest)
}
