//! Wakes the main thread from any other thread.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use base::deadline::poll_timeout;
use base::event::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Result};

/// An eventfd that is readable from [`Waker::wake`] until [`Waker::drain`].
#[derive(Debug, Clone)]
pub(crate) struct Waker {
    event: Arc<Event>,
}

impl Waker {
    pub(crate) fn new() -> Result<Self> {
        let event = Event::new().map_err(|errno| Error::Wait { source: errno.into() })?;
        Ok(Self { event: Arc::new(event) })
    }

    pub(crate) fn wake(&self) {
        self.event.set();
    }

    /// Sleeps until it is woken, and drains it. Returns false at the deadline `until`.
    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        let timeout = poll_timeout(until);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // An interrupted sleep counts as a wake-up: callers check their condition again.
        let woken = !matches!(poll(&mut fds, timeout), Ok(0)) && timeout != PollTimeout::ZERO;
        self.drain();
        woken
    }

    /// Makes it unreadable until the next [`Waker::wake`].
    pub(crate) fn drain(&self) {
        self.event.clear();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
