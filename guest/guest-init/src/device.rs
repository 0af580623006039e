//! Waiting for disks, which appear in `/dev` as the kernel finds them.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::{Error, Result};

/// Waits until all of `disks` are there.
pub(crate) fn wait_for_all(disks: &[&'static str], timeout: Duration) -> Result<()> {
    let watch = |source| Error::WatchDevices { source };
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let events = Inotify::init(flags).map_err(watch)?;
    // Watch before the first check, so that no later device is missed.
    events.add_watch("/dev", AddWatchFlags::IN_CREATE).map_err(watch)?;
    let deadline = Instant::now() + timeout;
    while let Some(path) = disks.iter().find(|disk| !Path::new(disk).exists()) {
        let left = process::poll_timeout(deadline);
        if left == PollTimeout::ZERO {
            return Err(Error::NoDisk { path, timeout });
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(watch(errno)),
        }
        match events.read_events() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(watch(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_disk_that_does_not_appear_names_it() {
        let result = wait_for_all(&["/dev/null", "/dev/no-such-disk"], Duration::ZERO);
        let error = result.unwrap_err().to_string();
        assert_eq!(error, "no disk /dev/no-such-disk after 0 s");
    }
}
