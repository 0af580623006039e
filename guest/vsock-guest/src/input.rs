//! Standard input of a command.
//!
//! INVARIANT: holds at most the stream's window; credit is returned as the command takes the
//! bytes. Bytes that a command does not read are dropped, so that the host does not wait.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use vsock_proto::ReceiveWindow;

use crate::terminal;

#[derive(Debug, Default)]
pub(crate) struct Input {
    sink: Option<Sink>,
    queue: VecDeque<u8>,
    window: ReceiveWindow,
    ended: bool,
    /// Whether the last byte written leaves a terminal in the middle of a line.
    mid_line: bool,
}

#[derive(Debug)]
enum Sink {
    Pipe(OwnedFd),
    Terminal(Rc<OwnedFd>),
}

impl Input {
    pub(crate) fn pipe(fd: OwnedFd) -> Self {
        Self { sink: Some(Sink::Pipe(fd)), ..Self::default() }
    }

    pub(crate) fn terminal(master: Rc<OwnedFd>) -> Self {
        Self { sink: Some(Sink::Terminal(master)), ..Self::default() }
    }

    /// Takes bytes from the host; returns the credit to grant now.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> vsock_proto::Result<Option<u64>> {
        self.window.received(bytes.len() as u64)?;
        if self.sink.is_none() || self.ended {
            return Ok(self.window.consumed(bytes.len() as u64));
        }
        self.queue.extend(bytes);
        Ok(self.write())
    }

    /// No more will come.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.close_if_done();
    }

    /// The descriptor, if something is to be written to it.
    pub(crate) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        let sink = self.sink.as_ref()?;
        (self.ended || !self.queue.is_empty()).then_some(match sink {
            Sink::Pipe(fd) => fd.as_fd(),
            Sink::Terminal(master) => master.as_fd(),
        })
    }

    /// Writes without waiting; returns the credit to grant now.
    pub(crate) fn write(&mut self) -> Option<u64> {
        let mut taken = 0;
        while let Some(sink) = &self.sink
            && !self.queue.is_empty()
        {
            let (bytes, _) = self.queue.as_slices();
            let written = match sink {
                Sink::Pipe(fd) => nix::unistd::write(fd, bytes),
                Sink::Terminal(master) => nix::unistd::write(master, bytes),
            };
            match written {
                Ok(count) => {
                    self.mid_line = bytes[..count].last().is_some_and(|byte| *byte != b'\n');
                    self.queue.drain(..count);
                    taken += count;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // The command has closed it.
                Err(_) => {
                    taken += self.queue.len();
                    self.queue = VecDeque::new();
                    self.sink = None;
                }
            }
        }
        self.close_if_done();
        self.window.consumed(taken as u64)
    }

    fn close_if_done(&mut self) {
        if !self.ended || !self.queue.is_empty() {
            return;
        }
        if let Some(Sink::Terminal(master)) = &self.sink {
            let end = terminal::end_of_input(master.as_fd(), self.mid_line);
            if nix::unistd::write(master, &end) == Err(Errno::EAGAIN) {
                return;
            }
        }
        self.sink = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use vsock_proto::{Error, WINDOW};

    use super::*;

    fn pair() -> (UnixStream, Input) {
        let (reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        (reader, Input::pipe(writer.into()))
    }

    #[test]
    fn the_pipe_closes_when_all_is_written() {
        let (mut reader, mut input) = pair();
        input.receive(b"some").unwrap();
        input.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "some");
        assert!(input.wanted().is_none());
    }

    #[test]
    fn a_closed_reader_goes_on_granting() {
        let (reader, mut input) = pair();
        drop(reader);
        let first = input.receive(&vec![0; WINDOW as usize]).unwrap();
        assert_eq!(first, Some(WINDOW));
        let second = input.receive(&vec![0; WINDOW as usize]).unwrap();
        assert_eq!(second, Some(WINDOW));
    }

    #[test]
    fn bytes_without_credit_are_refused() {
        let (_reader, mut input) = pair();
        let result = input.receive(&vec![0; WINDOW as usize + 1]);
        assert!(matches!(result, Err(Error::Overrun { .. })));
    }
}
