//! The byte stream of a connection: its socket, and the bytes that were read beyond a request's head.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::socket::Socket;

/// How long a short write, such as `100 Continue`, may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// A socket with a read buffer.
pub(super) struct Wire {
    pub(super) socket: Arc<Socket>,
    /// Bytes that were read; those from `start` on are not consumed yet.
    pub(super) buffer: Vec<u8>,
    pub(super) start: usize,
}

impl Wire {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, buffer: Vec::new(), start: 0 }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes, Instant::now() + WRITE_TIMEOUT)
    }

    /// Reads the buffered bytes first, then from the socket.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let early = self.buffer.get(self.start..).unwrap_or_default();
        if early.is_empty() {
            return self.socket.read(buffer, deadline);
        }
        let count = early.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), early.get(..count)) {
            to.copy_from_slice(from);
        }
        self.start += count;
        Ok(count)
    }
}
