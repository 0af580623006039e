//! The byte stream of a connection: its socket, and the bytes that were read before they were needed.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use base::event::Event;
use nix::poll::{PollFd, PollFlags};

use crate::refusal::Refusal;
use crate::socket::Socket;

/// How long a short write, such as `100 Continue`, may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of one read into the buffer.
const PIECE: usize = 16 * 1024;

/// A socket with a read buffer: the head of the current request, then bytes that are not consumed yet.
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    buffer: Vec<u8>,
    /// Where the head of the current request ends.
    head: usize,
    /// Where the bytes begin that are not consumed.
    start: usize,
    /// Ends the reads of the current request.
    interrupt: Option<Arc<Event>>,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, buffer: Vec::new(), head: 0, start: 0, interrupt: None }
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all_until(bytes, Instant::now() + WRITE_TIMEOUT)
    }

    /// The bytes that are not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Marks bytes of [`Wire::unread`] as consumed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.buffer.len().min(self.start + count);
    }

    /// Forgets the last request and frees its memory. The bytes that are not consumed stay.
    pub(crate) fn begin(&mut self) {
        self.buffer = self.unread().to_vec();
        (self.head, self.start) = (0, 0);
        self.interrupt = None;
    }

    /// Makes reads fail with [`Refusal::Interrupted`] from when `event` is set, until the next request.
    pub(crate) fn interrupt_by(&mut self, event: Arc<Event>) {
        self.interrupt = Some(event);
    }

    /// Marks the first bytes of [`Wire::unread`] as the head of the current request.
    pub(crate) fn set_head(&mut self, size: usize) {
        self.consume(size);
        self.head = self.start;
    }

    /// Reads some bytes into the buffer, at most `limit`; 0 at the end of the stream.
    pub(crate) fn fill(&mut self, limit: usize, deadline: Instant) -> io::Result<usize> {
        if self.start == self.buffer.len() {
            self.buffer.truncate(self.head);
            self.start = self.head;
        }
        let end = self.buffer.len();
        self.buffer.resize(end + limit.clamp(1, PIECE), 0);
        let result = match self.buffer.get_mut(end..) {
            Some(room) => receive(&self.socket, self.interrupt.as_deref(), room, deadline),
            None => Ok(0),
        };
        self.buffer.truncate(end + result.as_ref().copied().unwrap_or(0));
        result
    }

    /// Takes the bytes that are not consumed, or reads some from the socket.
    pub(crate) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        if self.unread().is_empty() {
            return receive(&self.socket, self.interrupt.as_deref(), buffer, deadline);
        }
        let count = io::Read::read(&mut self.unread(), buffer)?;
        self.consume(count);
        Ok(count)
    }

    /// The head of the current request as it came, and the bytes after it that are not consumed.
    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Vec<u8>, Socket) {
        let early = self.unread().to_vec();
        self.buffer.truncate(self.head);
        (self.buffer, early, self.socket)
    }
}

fn receive(
    socket: &Socket,
    interrupt: Option<&Event>,
    room: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    if let Some(event) = interrupt {
        let fds = [socket.as_fd(), event.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll_until(&mut { fds }, Some(deadline))?;
        if event.is_set() {
            return Err(Refusal::Interrupted.into());
        }
    }
    socket.read_until(room, deadline)
}
