//! One output stream of a command.
//!
//! INVARIANT: bytes are read only if they can be sent at once or exceed the cap. Otherwise they stay
//! in the pipe, and a full pipe blocks the command.
//!
//! ```text
//!   open ── command ends ──▶ rest of the pipe ──▶ done ── followed ──▶ open
//!     └──────────── last writer closes ────────▶ closed ◀── last writer closes ──┘
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use vsock_proto::{SendWindow, StreamTotal};

use crate::sys;

#[derive(Debug, Default)]
pub(crate) struct Output {
    fd: Option<Rc<OwnedFd>>,
    window: SendWindow,
    /// The bytes left under the stream's cap.
    allowed: Option<u64>,
    /// The unread bytes of what the pipe held when the command ended. `None` reads until the last
    /// writer closes.
    rest: Option<u64>,
    total: StreamTotal,
}

impl Output {
    pub(crate) fn new(fd: Rc<OwnedFd>, cap: Option<u64>) -> Self {
        Self { fd: Some(fd), allowed: cap, ..Self::default() }
    }

    pub(crate) fn total(&self) -> StreamTotal {
        self.total
    }

    pub(crate) fn granted(&mut self, count: u64) -> vsock_proto::Result<()> {
        self.window.granted(count)
    }

    /// The descriptor, while it must be polled for reading.
    pub(crate) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        let is_wanted = self.window.available() > 0 || self.allowed == Some(0);
        (is_wanted && !self.is_done()).then_some(self.fd.as_ref()?.as_fd())
    }

    /// Whether the command's own output is read, or the last writer has closed.
    pub(crate) fn is_done(&self) -> bool {
        self.fd.is_none() || self.rest == Some(0)
    }

    /// Continues with output of the command's descendants.
    pub(crate) fn follow(&mut self) {
        self.rest = None;
    }

    /// The descriptor, unless the last writer has closed.
    pub(crate) fn into_open(self) -> Option<OwnedFd> {
        Rc::into_inner(self.fd?)
    }

    /// Stops reading, and discards unread bytes.
    pub(crate) fn close(&mut self) {
        self.fd = None;
    }

    /// Limits further reads to the bytes in the pipe, `most`: a descendant that holds the pipe, or
    /// writes to it, does not delay the command's exit.
    pub(crate) fn command_ended(&mut self, most: impl FnOnce(BorrowedFd<'_>) -> u64) {
        self.rest = self.fd.as_ref().map(|fd| most(fd.as_fd()));
    }

    /// Reads once if [`Output::wanted`]; returns the bytes to send.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let limit = self.read_limit(buffer.len());
        // Without credit the limit is 0, and a read of 0 bytes would look like end of file.
        let Some(fd) = self.wanted() else {
            return &[];
        };
        match nix::unistd::read(fd, &mut buffer[..limit]) {
            Ok(0) => {
                self.fd = None;
                &[]
            }
            Ok(count) => {
                let kept = self.account(count);
                &buffer[..kept]
            }
            Err(Errno::EINTR) => &[],
            Err(Errno::EAGAIN) => {
                // The pipe is empty.
                self.rest = self.rest.map(|_| 0);
                &[]
            }
            // EIO: no process has the terminal open.
            Err(_) => {
                self.fd = None;
                &[]
            }
        }
    }

    fn read_limit(&self, most: usize) -> usize {
        let credit = self.window.available();
        let by_credit = match self.allowed {
            Some(allowed) if allowed <= credit => u64::MAX,
            _ => credit,
        };
        let limit = by_credit.min(self.rest.unwrap_or(u64::MAX));
        usize::try_from(limit).map_or(most, |limit| limit.min(most))
    }

    /// Counts `count` bytes; returns how many of them the cap allows to send.
    fn account(&mut self, count: usize) -> usize {
        let read = count as u64;
        let kept = read.min(self.allowed.unwrap_or(u64::MAX));
        self.total.sent += kept;
        self.total.dropped += read - kept;
        self.window.sent(kept);
        if let Some(allowed) = &mut self.allowed {
            *allowed -= kept;
        }
        if let Some(rest) = &mut self.rest {
            *rest -= read;
        }
        kept as usize
    }
}

/// The number of bytes in a pipe.
pub(crate) fn pipe_content(fd: BorrowedFd<'_>) -> u64 {
    sys::readable(fd).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use vsock_proto::WINDOW;

    use super::*;

    fn pair(cap: Option<u64>) -> (UnixStream, Output) {
        let (writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        (writer, Output::new(Rc::new(reader.into()), cap))
    }

    #[test]
    fn bytes_over_the_cap_are_read_and_counted_but_not_sent() {
        let (mut writer, mut output) = pair(Some(3));
        writer.write_all(b"hello").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(output.read(&mut buffer), b"hel");
        writer.write_all(b"!").unwrap();
        assert_eq!(output.read(&mut buffer), b"");
        let total = StreamTotal { sent: 3, dropped: 3 };
        assert_eq!(output.total(), total);
    }

    #[test]
    fn nothing_is_read_without_credit() {
        let (mut writer, mut output) = pair(None);
        output.window.sent(WINDOW - 2);
        writer.write_all(b"hello").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(output.read(&mut buffer), b"he");
        assert!(output.wanted().is_none());
        output.granted(1).unwrap();
        assert_eq!(output.read(&mut buffer), b"l");
    }

    #[test]
    fn what_a_grandchild_writes_after_the_end_is_not_waited_for() {
        let (mut writer, mut output) = pair(None);
        writer.write_all(b"last").unwrap();
        output.command_ended(pipe_content);
        writer.write_all(b"words").unwrap();
        assert_eq!(output.read(&mut [0; 64]), b"last");
        assert!(output.is_done());
        assert!(output.wanted().is_none());
    }

    #[test]
    fn a_grandchild_that_is_followed_is_read_until_it_closes() {
        let (mut writer, mut output) = pair(None);
        writer.write_all(b"last").unwrap();
        output.command_ended(pipe_content);
        assert_eq!(output.read(&mut [0; 64]), b"last");
        output.follow();
        writer.write_all(b"words").unwrap();
        assert_eq!(output.read(&mut [0; 64]), b"words");
        assert!(!output.is_done());
        drop(writer);
        assert_eq!(output.read(&mut [0; 64]), b"");
        assert!(output.is_done() && output.into_open().is_none());
    }

    #[test]
    fn what_is_left_at_the_end_waits_for_credit() {
        let (mut writer, mut output) = pair(None);
        output.window.sent(WINDOW);
        writer.write_all(b"last words").unwrap();
        output.command_ended(pipe_content);
        assert_eq!(output.read(&mut [0; 64]), b"");
        output.granted(WINDOW).unwrap();
        assert_eq!(output.read(&mut [0; 64]), b"last words");
    }

    #[test]
    fn an_empty_pipe_is_done_at_the_end_and_stays_open_for_a_grandchild_that_holds_it() {
        let (_writer, mut output) = pair(None);
        output.command_ended(pipe_content);
        assert!(output.is_done());
        assert!(output.into_open().is_some());
    }
}
