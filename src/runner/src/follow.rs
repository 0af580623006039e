//! Follows a log file of a VM until the VM or the command ends.
//!
//! A follower blocks in one poll(2): inotify reports that the file grew or that its folder was removed, and
//! the FIFO `alive` hangs up when the command's runner ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Error, Result, file};

/// An inotify watch of a file and its folder.
pub(crate) struct FileWatch<'a> {
    inotify: Inotify,
    path: &'a Path,
}

impl<'a> FileWatch<'a> {
    pub(crate) fn start(path: &'a Path) -> Result<Self> {
        let failed = |errno: Errno| file("watch", path)(errno);
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).map_err(failed)?;
        let in_folder = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_CLOSE_WRITE;
        let folder = path.parent().unwrap_or(path);
        for (path, events) in [(path, AddWatchFlags::IN_MODIFY), (folder, in_folder)] {
            match inotify.add_watch(path, events) {
                // Removed already: the caller checks for that before it waits.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(Self { inotify, path })
    }

    /// Waits for a change.
    pub(crate) fn sleep(&self) -> Result<()> {
        self.sleep_on(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)])
    }

    /// Waits for a change, or until the FIFO has no writer.
    pub(crate) fn sleep_or(&self, fifo: BorrowedFd<'_>) -> Result<()> {
        self.sleep_on(&mut [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(fifo, PollFlags::empty()),
        ])
    }

    fn sleep_on(&self, fds: &mut [PollFd<'_>]) -> Result<()> {
        let failed = |errno: Errno| file("watch", self.path)(errno);
        match poll(fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        match self.inotify.read_events() {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Prints the rest of the log.
pub(crate) fn show(log: &mut File, out: &mut impl Write) -> Result<()> {
    io::copy(log, out).map(drop).map_err(|source| Error::Output { source })
}

/// Prints the log and everything that is appended while `goes_on` returns true.
pub(crate) fn follow(
    log: &mut File,
    sleep: impl Fn() -> Result<()>,
    mut goes_on: impl FnMut() -> Result<bool>,
    out: &mut impl Write,
) -> Result<()> {
    loop {
        // Checked before the rest is printed, so that the last output is not missed.
        let last = !goes_on()?;
        show(log, out)?;
        if last {
            return Ok(());
        }
        sleep()?;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::output_log;

    #[test]
    fn following_prints_existing_added_and_last_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(output_log::OUTPUT);
        fs::write(&path, "one ").unwrap();
        let mut log = File::open(&path).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let (mut shown, asked) = (Vec::new(), Cell::new(0));
        let goes_on = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => writer.write_all(b"two ").map(|()| true),
                _ => {
                    writer.write_all(b"three").and_then(|()| fs::remove_file(&path)).map(|()| false)
                }
            }
            .map_err(file("write", &path))
        };

        let watch = FileWatch::start(&path).unwrap();
        follow(&mut log, || watch.sleep(), goes_on, &mut shown).unwrap();

        assert_eq!(shown, b"one two three");
        assert_eq!(asked.get(), 2);
    }
}
