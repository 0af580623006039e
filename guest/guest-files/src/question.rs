//! Lines that follow a watch's request: each asks whether all changes so far are reported.

use std::io::{BufReader, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};

pub(crate) struct Questions<R> {
    /// Gone once it has ended.
    input: Option<R>,
    /// How many are not answered yet.
    open: usize,
}

impl<R: Read + AsFd> Questions<R> {
    /// Those that follow what was read.
    pub(crate) fn new(input: BufReader<R>) -> Self {
        let open = lines(input.buffer());
        Self { input: Some(input.into_inner()), open }
    }

    /// Readable when there are more.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Reads more, where there are some.
    pub(crate) fn read(&mut self) {
        let mut buffer = [0; 64];
        match self.input.as_mut().map(|input| input.read(&mut buffer)) {
            Some(Ok(count @ 1..)) => self.open += lines(&buffer[..count]),
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
            // No more can come.
            _ => self.input = None,
        }
    }

    /// Those that are not answered yet; they count as answered then.
    pub(crate) fn take(&mut self) -> usize {
        std::mem::take(&mut self.open)
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
