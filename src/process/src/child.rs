//! A running child process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Result, poll_timeout, sys};

/// A child process. Its pidfd names it and nothing else, even after it ended.
/// Dropping it kills it and waits for it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
    status: std::cell::Cell<Option<Status>>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It returned this code.
    Exited(u8),
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: u8,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
}

impl Child {
    pub(crate) fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, status: std::cell::Cell::new(None) }
    }

    /// Its process id, to be shown: signals go by [`signal`](Self::signal).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends it a signal. One that has ended already is no error.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::signal(self.pidfd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(|source| Error::Signal { pid: self.pid, signal, source }),
        }
    }

    /// Its status, if it has ended.
    pub fn try_wait(&self) -> Result<Option<Status>> {
        self.reap(libc::WEXITED | libc::WNOHANG)
    }

    /// Its status, once it ends.
    pub fn wait(&self) -> Result<Status> {
        loop {
            if let Some(status) = self.reap(libc::WEXITED)? {
                return Ok(status);
            }
        }
    }

    /// Its status if it ends before `deadline`.
    pub fn wait_until(&self, deadline: Instant) -> Result<Option<Status>> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            let timeout = poll_timeout(deadline);
            if timeout == PollTimeout::ZERO {
                return Ok(None);
            }
            let mut fds = [PollFd::new(self.pidfd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.wait_error(errno)),
            }
        }
    }

    fn reap(&self, flags: i32) -> Result<Option<Status>> {
        if let Some(status) = self.status.get() {
            return Ok(Some(status));
        }
        let status = loop {
            match sys::wait(self.pidfd(), flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    break other.map_err(|source| Error::Wait { pid: self.pid, source })?;
                }
            }
        };
        self.status.set(status);
        Ok(status)
    }

    fn wait_error(&self, errno: Errno) -> Error {
        Error::Wait { pid: self.pid, source: io::Error::from(errno) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.get().is_some() {
            return;
        }
        let ended = self.signal(libc::SIGKILL).and_then(|()| self.wait());
        if let Err(error) = ended {
            log::warn!("a process may still run; pid={} error={error}", self.pid);
        }
    }
}
