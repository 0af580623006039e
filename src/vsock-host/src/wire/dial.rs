//! Connecting to a Unix socket within a deadline.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket,
    sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;

use crate::{Error, Phase, Result};

/// Waits only if the socket's queue is full.
pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<UnixStream> {
    let since = Instant::now();
    let failed = |errno: Errno| Error::Connect { path: path.to_owned(), source: errno.into() };
    let address = UnixAddr::new(path).map_err(failed)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed)?;
    loop {
        // A time-out of zero would mean none at all.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_timeout(&fd, left).map_err(failed)?;
        match connect_socket(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if Instant::now() >= deadline => {
                return Err(Error::TimedOut { after: since.elapsed(), phase: Phase::Dial });
            }
            Err(Errno::EAGAIN) => {}
            Err(errno) => {
                let source = io::Error::from(errno);
                return Err(Error::Connect { path: path.to_owned(), source });
            }
        }
    }
}

/// Connecting obeys the time-out for sending.
fn set_timeout(fd: &OwnedFd, left: Duration) -> nix::Result<()> {
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let timeout = TimeVal::new(seconds, i64::from(left.subsec_micros()));
    setsockopt(fd, SendTimeout, &timeout)
}
