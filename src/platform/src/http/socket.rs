//! A connection of either kind, with a deadline for each read and write.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Reads what is there, or waits for it until the deadline: then `TimedOut`.
    pub(crate) fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            let left = Some(left(deadline)?);
            let result = match self {
                Self::Tcp(socket) => {
                    socket.set_read_timeout(left).and_then(|()| (&*socket).read(buffer))
                }
                Self::Unix(socket) => {
                    socket.set_read_timeout(left).and_then(|()| (&*socket).read(buffer))
                }
            };
            match result {
                // An interrupted or early return; the deadline decides.
                Err(error) if is_early(&error) => {}
                other => return other,
            }
        }
    }

    /// Writes all of it before the deadline, or fails with `TimedOut`.
    pub(crate) fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = Some(left(deadline)?);
            let result = match self {
                Self::Tcp(socket) => {
                    socket.set_write_timeout(left).and_then(|()| (&*socket).write(bytes))
                }
                Self::Unix(socket) => {
                    socket.set_write_timeout(left).and_then(|()| (&*socket).write(bytes))
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends reading, writing, or both, in whatever thread they are. The peer may have done so.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(socket) => socket.shutdown(how),
        };
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
