//! The destination of events: the spool to the platform, or standard output in local mode.
//!
//! Pushing never blocks. The reader of the CLI's output checks [`Sink::is_full`] first.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::event::Event;
use crate::spool::SpoolWriter;

/// The most bytes that may wait for the reader of standard output.
const MAX_PENDING: usize = 256 << 10;

/// `PIPE_BUF`: a writable pipe takes this many bytes without blocking.
const CHUNK: usize = 4096;

/// The destination of events.
pub(crate) enum Sink {
    Platform { spool: SpoolWriter, next: u64 },
    Local(Printer),
}

/// Events that wait to be written to standard output.
#[derive(Default)]
pub(crate) struct Printer {
    bytes: Vec<u8>,
    printed: usize,
    /// Standard output has no reader any more.
    closed: bool,
}

impl Sink {
    /// Takes an event. Partial events are only printed, never sent to the platform.
    pub(crate) fn push(&mut self, event: Event) {
        match self {
            Sink::Platform { .. } if event.head.is_partial() => {}
            Sink::Platform { spool, next } => {
                spool.push((*next, event.into_json(Some(*next))));
                *next += 1;
            }
            Sink::Local(printer) => printer.push(&event.into_json(None)),
        }
    }

    /// Records that an event was too long to be sent.
    pub(crate) fn push_too_long(&mut self) {
        match self {
            Sink::Platform { spool, next } => {
                spool.push((*next, Vec::new()));
                *next += 1;
            }
            Sink::Local(_) => log::error!("an event is too long to be printed"),
        }
    }

    /// Closes the sink unless an event waits for room. Returns whether it is closed.
    pub(crate) fn close_if_room(&mut self) -> bool {
        let Sink::Platform { spool, .. } = self else { return true };
        let has_room = !spool.is_full();
        if has_room {
            spool.close();
        }
        has_room
    }

    /// Whether the caller should stop pushing for now.
    pub(crate) fn is_full(&mut self) -> bool {
        match self {
            Sink::Platform { spool, .. } => spool.is_full(),
            Sink::Local(printer) => printer.pending() > MAX_PENDING,
        }
    }
}

impl Printer {
    fn push(&mut self, line: &[u8]) {
        if !self.closed {
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
        }
    }

    /// The number of bytes that are not printed yet.
    pub(crate) fn pending(&self) -> usize {
        self.bytes.len() - self.printed
    }

    /// Prints until nothing is pending or the deadline `until` has passed.
    pub(crate) fn print_until(&mut self, until: Instant) {
        while self.pending() > 0 {
            let mut fds = [PollFd::new(stdout(), PollFlags::POLLOUT)];
            match poll(&mut fds, base::deadline::poll_timeout(until)) {
                Ok(0) => return log::warn!("events are not printed: standard output is blocked"),
                Ok(_) => self.print(),
                Err(Errno::EINTR) => {}
                Err(errno) => return log::warn!("events are not printed; error={errno}"),
            }
        }
    }

    /// Prints one chunk. Standard output must be writable.
    pub(crate) fn print(&mut self) {
        let end = self.bytes.len().min(self.printed + CHUNK);
        match nix::unistd::write(stdout(), &self.bytes[self.printed..end]) {
            Ok(count) => self.printed += count,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                log::warn!("cannot write to standard output; error={errno}");
                self.closed = true;
                self.printed = self.bytes.len();
            }
        }
        if self.printed == self.bytes.len() {
            self.bytes.clear();
            self.printed = 0;
        } else if self.printed > MAX_PENDING {
            self.bytes.drain(..self.printed);
            self.printed = 0;
        }
    }
}

/// This process's standard output, past std's buffer: nothing else writes to it.
pub(crate) fn stdout() -> BorrowedFd<'static> {
    // The handle is of a static, whose descriptor stays open.
    static STDOUT: std::sync::OnceLock<io::Stdout> = std::sync::OnceLock::new();
    STDOUT.get_or_init(io::stdout).as_fd()
}
