//! Reading a file of a sandbox with the user's rights, in constant memory.

use std::io;
use std::time::{Duration, Instant};

use files_proto::{Entry, Reply, Request};

use super::Files;
use super::call::Call;
use super::error::{Error, Result};

/// Which bytes of a file are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// How many at most; all to the end if nothing is said.
    pub length: Option<u64>,
}

/// The bytes of a file. Each read waits for the sandbox for a limited time.
pub struct FileReader {
    entry: Entry,
    call: Call,
    /// Bytes that have come; the first `taken` are taken.
    piece: Vec<u8>,
    taken: usize,
    has_ended: bool,
    timeout: Duration,
}

impl Files<'_> {
    /// Reads a file; a link is followed. `timeout` is for each read.
    pub fn read_file(&self, path: &str, range: Range, timeout: Duration) -> Result<FileReader> {
        let deadline = Instant::now() + timeout;
        let Range { offset, length } = range;
        let request = Request::Read { path: path.to_owned(), offset, length };
        let mut call = self.call(&request, deadline)?;
        call.close_input()?;
        match call.next(Some(deadline))? {
            Reply::Entry(entry) => {
                let (piece, taken, has_ended) = (Vec::new(), 0, false);
                Ok(FileReader { entry, call, piece, taken, has_ended, timeout })
            }
            Reply::Error(failure) => Err(Error::Failed(failure)),
            _ => Err(Error::Malformed),
        }
    }
}

impl FileReader {
    /// The file. Its size is not to be relied on: a file may change, and those of `/proc` have none.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }
}

impl io::Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken >= self.piece.len() && !self.has_ended {
            let piece = self.call.content(Instant::now() + self.timeout);
            self.piece = piece.map_err(io::Error::other)?;
            self.taken = 0;
            self.has_ended = self.piece.is_empty();
        }
        let count = self.piece.get(self.taken..).unwrap_or_default().read(buffer)?;
        self.taken += count;
        Ok(count)
    }
}
