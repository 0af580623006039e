//! Stops or wakes a thread, by an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The stop flag and the wake-up of one thread.
#[derive(Debug)]
pub(crate) struct Signal {
    stopped: AtomicBool,
    eventfd: EventFd,
}

impl Signal {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { stopped: AtomicBool::new(false), eventfd }))
    }

    /// Stops the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends the thread's sleep, or its next one.
    pub(crate) fn wake(&self) {
        // Fails only at the counter's maximum, when the thread is awake anyway.
        let _ = self.eventfd.write(1);
    }

    /// Resets the eventfd.
    pub(crate) fn drain(&self) {
        // EAGAIN if it is reset already.
        let _ = self.eventfd.read();
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
