//! An eventfd: wakes a thread that sleeps in poll(2).

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Readable from [`Event::set`] until [`Event::clear`].
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// An event that is not set.
    pub fn new() -> nix::Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Self)
    }

    /// Wakes the sleeper. Setting it twice is the same as once.
    pub fn set(&self) {
        // A counter at its limit is set already; no other error is possible.
        if let Err(errno) = self.0.write(1)
            && errno != Errno::EAGAIN
        {
            log::error!("cannot set an event; error={errno}");
        }
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }

    /// Whether it was set; it is not any more.
    pub fn clear(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_was_set_twice_is_cleared_once() {
        let event = Event::new().unwrap();
        assert!(!event.clear());
        event.set();
        event.set();
        assert!(event.is_set());
        assert!(event.clear());
        assert!(!event.is_set());
        assert!(!event.clear());
    }
}
