//! Detects whether a process that is not our child lives.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use tempfile::TempDir;

use crate::soon;

/// A FIFO that a command's processes open for writing: it is held as long as one of them lives.
pub struct Lifeline {
    path: PathBuf,
    end: File,
    _folder: TempDir,
}

impl Default for Lifeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifeline {
    /// A lifeline without holders.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifeline");
        nix::unistd::mkfifo(&path, Mode::from_bits_retain(0o600)).unwrap();
        let flags = OFlag::O_NONBLOCK.bits();
        let end = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        Self { path, end, _folder: folder }
    }

    /// The path that processes open for writing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether all former holders have ended.
    pub fn is_cut(&self) -> bool {
        self.is_cut_by(Instant::now())
    }

    /// Waits until all former holders have ended.
    pub fn is_cut_soon(&self) -> bool {
        self.is_cut_by(soon())
    }

    fn is_cut_by(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap();
        let mut fds = [PollFd::new(self.end.as_fd(), PollFlags::empty())];
        poll(&mut fds, left).unwrap();
        fds[0].revents().unwrap().contains(PollFlags::POLLHUP)
    }
}
