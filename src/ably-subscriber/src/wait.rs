//! The one place where this crate's threads sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::signal::Signal;

/// What of a socket is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
}

/// Sleeps until the signal rings, the socket is ready, or the deadline has come; it may also return
/// for no reason.
pub(crate) fn wait(
    signal: &Signal,
    socket: Option<(BorrowedFd<'_>, Interest)>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let bell = PollFd::new(signal.as_fd(), PollFlags::POLLIN);
    let timeout = deadline.map_or(PollTimeout::NONE, until);
    let (polled, rings) = match socket {
        Some((fd, interest)) => {
            let mut both = [bell, PollFd::new(fd, interest.flags())];
            (poll(&mut both, timeout), both[0].any())
        }
        None => {
            let mut alone = [bell];
            (poll(&mut alone, timeout), alone[0].any())
        }
    };
    match polled {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    if rings == Some(true) {
        signal.hear();
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

/// In milliseconds, rounded up: nobody is to wake before the deadline just to sleep again.
fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let rounded = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
}
