//! The body of a streaming reply, as a handler writes it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::response::{CHUNK, write_piece};
use crate::socket::Socket;

/// Writes the body of a [`Content::Stream`](crate::Content). Each write is sent at once, as a chunk or as
/// it is (HTTP/1.0). A write fails after 60 s in which the client took less than 128 KiB.
pub struct BodyWriter<'a> {
    socket: &'a Socket,
    is_chunked: bool,
    is_stopping: &'a dyn Fn() -> bool,
}

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(
        socket: &'a Socket,
        is_chunked: bool,
        is_stopping: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { socket, is_chunked, is_stopping }
    }

    /// Whether more is written in vain: the client has closed the connection, or the server stops.
    #[must_use]
    pub fn peer_has_closed(&self) -> bool {
        (self.is_stopping)() || self.socket.peer_has_closed()
    }

    /// Ends the body.
    pub(crate) fn end(self) -> io::Result<()> {
        if self.is_chunked { write_piece(self.socket, b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        if piece.is_empty() {
            // An empty chunk would end the body.
            return Ok(0);
        }
        if self.is_chunked {
            let size = format!("{:x}\r\n", piece.len());
            write_piece(self.socket, &[size.as_bytes(), piece, b"\r\n"].concat())?;
        } else {
            write_piece(self.socket, piece)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For `poll`: POLLRDHUP says that the client has closed its end.
impl AsFd for BodyWriter<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
