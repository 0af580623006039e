//! The one place where this crate's threads sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::signal::Signal;

/// Which events of a socket to wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
}

/// Sleeps until the signal wakes it, the socket is ready, or the deadline passes. Spurious returns are
/// possible.
pub(crate) fn wait(
    signal: &Signal,
    socket: Option<(BorrowedFd<'_>, Interest)>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let wake = PollFd::new(signal.as_fd(), PollFlags::POLLIN);
    let timeout = deadline.map_or(PollTimeout::NONE, poll_timeout);
    let (polled, is_woken) = match socket {
        Some((fd, interest)) => {
            let mut both = [wake, PollFd::new(fd, interest.flags())];
            (poll(&mut both, timeout), both[0].any())
        }
        None => {
            let mut alone = [wake];
            (poll(&mut alone, timeout), alone[0].any())
        }
    };
    match polled {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    if is_woken == Some(true) {
        signal.drain();
    }
    Ok(())
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Self::Read => PollFlags::POLLIN,
            Self::Write => PollFlags::POLLOUT,
            Self::Both => PollFlags::POLLIN | PollFlags::POLLOUT,
        }
    }
}

/// In milliseconds, rounded up, so that poll does not return just before the deadline.
fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let rounded = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
}
