//! How a thread is told to end, or to look again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One a thread. Its owner gives it; what works for the thread wakes it.
#[derive(Debug)]
pub(crate) struct Signal {
    given: AtomicBool,
    bell: EventFd,
}

impl Signal {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { given: AtomicBool::new(false), bell }))
    }

    /// Tells the thread to end.
    pub(crate) fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Ends the thread's sleep, or its next one.
    pub(crate) fn wake(&self) {
        // Fails only if so many rings are not heard yet that it is awake anyway.
        let _ = self.bell.write(1);
    }

    /// Takes the rings that were heard.
    pub(crate) fn hear(&self) {
        // There may be none.
        let _ = self.bell.read();
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
