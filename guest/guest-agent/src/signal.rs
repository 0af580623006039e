//! A signalfd for the signals that end a run, and for SIGCHLD.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::{Error, Result, descendant};

/// SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked in this thread and in all threads that it starts later.
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor.
    pub(crate) fn block() -> Result<Self> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]
            .into_iter()
            .collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let opened = set.thread_block().and_then(|()| SignalFd::with_flags(&set, flags));
        let fd = opened.map_err(|errno| Error::Wait { source: errno.into() })?;
        Ok(Self { fd })
    }

    /// The number of a pending signal that ends the run. On SIGCHLD, reaps orphans but not `cli`, the
    /// process that its `Child` reaps.
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
