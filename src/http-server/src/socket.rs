//! A connection, with a deadline for each read and write.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// A connected stream socket of any family. A clone is the same socket; it is closed when all clones are
/// dropped.
#[derive(Debug, Clone)]
pub struct Socket(Arc<UnixStream>);

impl Socket {
    /// The calls on stream sockets are the same in all families, so that of [`UnixStream`] does for all.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Self {
        Self(Arc::new(UnixStream::from(socket.into())))
    }

    /// Reads what is there, or waits for it until the deadline: then `TimedOut`.
    pub fn read_until(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            self.set_read_timeout(Some(left(deadline)?))?;
            match (&*self).read(buffer) {
                // An interrupted or early return; the deadline decides.
                Err(error) if is_early(&error) => {}
                other => return other,
            }
        }
    }

    /// Writes all of it before the deadline, or fails with `TimedOut`.
    pub fn write_all_until(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.set_write_timeout(Some(left(deadline)?))?;
            match (&*self).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the time-out of `Read::read` on all clones. [`Socket::read_until`] changes it.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    /// Sets the time-out of `Write::write` on all clones. [`Socket::write_all_until`] changes it.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    /// For an owner that sleeps in `poll`.
    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.0.set_nonblocking(is_nonblocking)
    }

    /// Makes the last close reset the connection, so that the client cannot take what it got for a whole reply.
    pub(crate) fn reset_at_close(&self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        // Of a socket without resets the client sees the end.
        let _ = setsockopt(&*self.0, sockopt::Linger, &at_once);
    }

    /// Whether [`Socket::reset_at_close`] was called.
    pub(crate) fn resets_at_close(&self) -> bool {
        getsockopt(&*self.0, sockopt::Linger).is_ok_and(|linger| linger.l_onoff != 0)
    }

    /// Ends reading, writing, or both, in whatever thread they are. The peer may have done so.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.0.shutdown(how);
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::new(socket)
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// What is left until the deadline; an error if nothing is.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        // Sockets count in microseconds, and zero means for ever.
        left => Ok(left.max(Duration::from_micros(1))),
    }
}
