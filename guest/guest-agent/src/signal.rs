//! Signals as a descriptor: those that end a run, and the one that tells of orphans that exited.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::{Error, Result, descendant};

/// SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked in this thread and all that it starts from now on.
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    pub(crate) fn take() -> Result<Self> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]
            .into_iter()
            .collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let taken = set.thread_block().and_then(|()| SignalFd::with_flags(&set, flags));
        let fd = taken.map_err(|errno| Error::Wait { source: errno.into() })?;
        Ok(Self { fd })
    }

    /// One that came and ends the run, by its number. Orphans that have exited are let go on the way;
    /// `cli` is the process that somebody else waits for.
    pub(crate) fn next(&self, cli: Option<u32>) -> Option<i32> {
        while let Some(info) = self.fd.read_signal().ok().flatten() {
            let signal = i32::try_from(info.ssi_signo).ok()?;
            if signal != Signal::SIGCHLD as i32 {
                return Some(signal);
            }
            descendant::reap(cli);
        }
        None
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
