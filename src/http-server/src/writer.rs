//! The body of a streaming reply, as a handler writes it.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Instant;

use base::deadline::poll_until;
use base::event::Event;
use nix::libc;
use nix::poll::{PollFd, PollFlags};

use crate::response::{CHUNK, write_piece};
use crate::socket::Socket;

/// Writes the body of a [`Content::Stream`](crate::Content). Each write is sent at once, as a chunk or as
/// it is (HTTP/1.0). A write fails after 60 s in which the client took less than 128 KiB.
pub struct BodyWriter<'a> {
    socket: &'a Socket,
    is_chunked: bool,
    /// Set when the server stops.
    stop: Option<&'a Event>,
    /// [`Wake::HalfClosed`] was returned.
    is_half_closed: bool,
}

/// What ended a [`BodyWriter::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// One of the events is set.
    Event,
    /// The client sends nothing more. Either it has gone, or it still reads: the two are the same until
    /// something is written, after which a client that has gone is [`Wake::Gone`]. It is returned once.
    HalfClosed,
    /// The client has gone, or the server stops.
    Gone,
    /// The deadline has passed.
    TimedOut,
}

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(socket: &'a Socket, is_chunked: bool, stop: Option<&'a Event>) -> Self {
        Self { socket, is_chunked, stop, is_half_closed: false }
    }

    /// Sleeps until one of `events` is set, the client goes, the server stops, or the deadline has passed.
    pub fn wait(&mut self, events: &[&Event], deadline: Option<Instant>) -> io::Result<Wake> {
        let ended = if self.is_half_closed { 0 } else { libc::POLLRDHUP };
        // `PollFlags` does not name POLLRDHUP: in the result it makes `revents` `None`.
        let mut fds = vec![PollFd::new(self.socket.as_fd(), PollFlags::from_bits_retain(ended))];
        let events = self.stop.into_iter().chain(events.iter().copied());
        fds.extend(events.map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN)));
        poll_until(&mut fds, deadline)?;
        let mut is_set = fds.iter().map(|fd| fd.any() != Some(false));
        let is_closed = is_set.next() == Some(true);
        let is_stopping = self.stop.is_some() && is_set.next() == Some(true);
        Ok(if is_stopping || is_closed && self.has_gone()? {
            Wake::Gone
        } else if is_set.any(|is_set| is_set) {
            Wake::Event
        } else if is_closed {
            self.is_half_closed = true;
            Wake::HalfClosed
        } else {
            Wake::TimedOut
        })
    }

    /// Whether both directions of the connection are closed, or it has failed.
    fn has_gone(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        Ok(poll_until(&mut fds, Some(Instant::now()))? > 0)
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
