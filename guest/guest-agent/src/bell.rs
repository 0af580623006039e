//! Wakes the main thread, from any other.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{Error, Result};

/// A descriptor that is readable from when it rings until it is hushed.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    event: Arc<EventFd>,
}

impl Bell {
    pub(crate) fn new() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event =
            EventFd::from_flags(flags).map_err(|errno| Error::Wait { source: errno.into() })?;
        Ok(Self { event: Arc::new(event) })
    }

    pub(crate) fn ring(&self) {
        // It fails only when it has rung 2^64 times without being heard.
        let _ = self.event.write(1);
    }

    /// Sleeps until it rings, and hushes it; false at `until`.
    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        let timeout = process::poll_timeout(until);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // Interrupted is as good as rung: whoever waits looks what is new.
        let rang = !matches!(poll(&mut fds, timeout), Ok(0)) && timeout != PollTimeout::ZERO;
        self.hush();
        rang
    }

    pub(crate) fn hush(&self) {
        // It fails only when it has not rung.
        let _ = self.event.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
