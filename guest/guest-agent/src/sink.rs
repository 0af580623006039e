//! Where events go: to the platform through the spool, or in local mode to standard output.
//!
//! Neither is ever waited for: who reads the CLI asks first whether there is room.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::event::Event;
use crate::spool::Inlet;

/// How much may wait for the reader of standard output.
const MOST: usize = 256 << 10;

/// As much as a pipe that takes anything takes at once.
const PIECE: usize = 4096;

/// One of both.
pub(crate) enum Sink {
    Platform { spool: Inlet, next: u64 },
    Local(Printer),
}

/// What is to be printed.
#[derive(Default)]
pub(crate) struct Printer {
    bytes: Vec<u8>,
    printed: usize,
    /// Nobody reads it.
    closed: bool,
}

impl Sink {
    /// Takes an event. One that is only a part of another goes to nobody but a reader on this machine.
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

    /// Takes note of an event that is too long to be sent.
    pub(crate) fn push_too_long(&mut self) {
        match self {
            Sink::Platform { spool, next } => {
                spool.push((*next, Vec::new()));
                *next += 1;
            }
            Sink::Local(_) => log::error!("an event is too long to be printed"),
        }
    }

    /// Says that nothing more comes, unless something waits for room; true if it was said.
    pub(crate) fn close_if_room(&mut self) -> bool {
        let Sink::Platform { spool, .. } = self else { return true };
        let has_room = !spool.is_full();
        if has_room {
            spool.close();
        }
        has_room
    }

    /// Whether nothing more should be pushed now.
    pub(crate) fn is_full(&mut self) -> bool {
        match self {
            Sink::Platform { spool, .. } => spool.is_full(),
            Sink::Local(printer) => printer.waiting() > MOST,
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

    /// How much waits.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.printed
    }

    /// Prints all of it, or what is taken before `until`.
    pub(crate) fn print_until(&mut self, until: Instant) {
        while self.waiting() > 0 {
            let mut fds = [PollFd::new(stdout(), PollFlags::POLLOUT)];
            match poll(&mut fds, process::poll_timeout(until)) {
                Ok(0) => return log::warn!("events are not printed, as nobody reads them"),
                Ok(_) => self.print(),
                Err(Errno::EINTR) => {}
                Err(errno) => return log::warn!("events are not printed; error={errno}"),
            }
        }
    }

    /// Prints a piece; standard output must be ready for one.
    pub(crate) fn print(&mut self) {
        let end = self.bytes.len().min(self.printed + PIECE);
        match nix::unistd::write(stdout(), &self.bytes[self.printed..end]) {
            Ok(count) => self.printed += count,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                log::warn!("nobody reads the events; error={errno}");
                self.closed = true;
                self.printed = self.bytes.len();
            }
        }
        if self.printed == self.bytes.len() {
            self.bytes.clear();
            self.printed = 0;
        } else if self.printed > MOST {
            self.bytes.drain(..self.printed);
            self.printed = 0;
        }
    }
}

/// This process's standard output. Nothing else writes to it, so std's buffer is passed by.
pub(crate) fn stdout() -> BorrowedFd<'static> {
    // The handle is of a static, whose descriptor stays open.
    static STDOUT: std::sync::OnceLock<io::Stdout> = std::sync::OnceLock::new();
    STDOUT.get_or_init(io::stdout).as_fd()
}
