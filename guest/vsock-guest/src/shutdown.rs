//! Shutdown: ends commands and sends the last answer before power off.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::link::Peer;
use crate::serve::{DRAIN_TIMEOUT, Server};
use crate::{Error, Result};

impl Server<'_> {
    /// Asks all commands to end, and gives them a moment to do so.
    pub(crate) fn ask_to_end(&mut self) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        for command in self.commands.values() {
            command.signal(libc::SIGTERM as u8);
        }
        for command in self.commands.values() {
            command.wait_until(deadline);
        }
    }

    /// Sends the last answer; the host is given a moment to take it.
    pub(crate) fn say_goodbye(&mut self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.link.flush() == Peer::Present && !self.link.is_flushed() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::new(self.link.as_fd(), PollFlags::POLLOUT)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::Wait { source: errno.into() });
                }
            }
        }
        Ok(())
    }
}
