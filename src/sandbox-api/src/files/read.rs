//! Reading a file of a sandbox, in constant memory.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use files_proto::{Code, Entry, Kind, Request};
use sandbox::{EntryKind, TreeItem, TreeReader};

use super::Files;
use super::error::{Error, Result, failed};

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
    tree: Box<dyn TreeReader>,
    /// Bytes before the range, still to come.
    skip: u64,
    /// Bytes of the range, still to come.
    left: u64,
    chunk: Chunk,
    timeout: Duration,
}

/// A piece of the file.
enum Chunk {
    Data { bytes: Vec<u8>, taken: usize },
    Hole(u64),
    End,
}

impl Files<'_> {
    /// Reads a file; a link is followed. The user must be able to see it, and need not be allowed to read
    /// it. `timeout` is for each read.
    pub fn read_file(&self, path: &str, range: Range, timeout: Duration) -> Result<FileReader> {
        let deadline = Instant::now() + timeout;
        let request = Request::Stat { path: path.to_owned(), follow: true };
        let (entry, _) = self.entry(&request, deadline)?;
        match entry.kind {
            Kind::File => {}
            Kind::Dir => {
                let message = format!("cannot read {}: it is a folder", entry.path);
                return Err(failed(Code::IsADirectory, message));
            }
            Kind::Symlink | Kind::Other => {
                let message = format!("cannot read {}: it is not a regular file", entry.path);
                return Err(failed(Code::InvalidArgument, message));
            }
        }
        let mut tree = self.sandbox.read(Path::new(&entry.path), deadline)?;
        let size = match tree.next(deadline)? {
            Some(TreeItem::Entry(sandbox::Entry { kind: EntryKind::File { size }, .. })) => size,
            // It was replaced meanwhile.
            _ => {
                let message = format!("cannot read {}: it is not a file any more", entry.path);
                return Err(failed(Code::InvalidArgument, message));
            }
        };
        Ok(FileReader {
            entry: Entry { size, ..entry },
            tree,
            skip: range.offset,
            left: range.length.unwrap_or(u64::MAX),
            chunk: Chunk::Hole(0),
            timeout,
        })
    }
}

impl FileReader {
    /// The file. Its size is not to be relied on: a file may change, and those of `/proc` have none.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Takes at most `limit` bytes of the piece: puts them into `buffer`, or drops them if there is none.
    fn take(&mut self, buffer: Option<&mut [u8]>, limit: u64) -> u64 {
        let limit = buffer.as_ref().map_or(limit, |buffer| limit.min(buffer.len() as u64));
        match &mut self.chunk {
            Chunk::Data { bytes, taken } => {
                let rest = bytes.get(*taken..).unwrap_or_default();
                let count = usize::try_from(limit).unwrap_or(usize::MAX).min(rest.len());
                if let Some(buffer) = buffer {
                    buffer[..count].copy_from_slice(&rest[..count]);
                }
                *taken += count;
                count as u64
            }
            Chunk::Hole(length) => {
                let count = limit.min(*length);
                if let Some(buffer) = buffer {
                    // At most the buffer's length.
                    buffer[..count as usize].fill(0);
                }
                *length -= count;
                count
            }
            Chunk::End => 0,
        }
    }

    fn is_taken(&self) -> bool {
        match &self.chunk {
            Chunk::Data { bytes, taken } => *taken >= bytes.len(),
            Chunk::Hole(length) => *length == 0,
            Chunk::End => false,
        }
    }

    fn receive(&mut self) -> io::Result<Chunk> {
        let item = self.tree.next(Instant::now() + self.timeout);
        match item.map_err(|error| io::Error::other(Error::from(error)))? {
            None => Ok(Chunk::End),
            Some(TreeItem::Data(bytes)) => Ok(Chunk::Data { bytes, taken: 0 }),
            Some(TreeItem::Entry(sandbox::Entry { kind: EntryKind::Hole { length }, .. })) => {
                Ok(Chunk::Hole(length))
            }
            Some(TreeItem::Entry(_)) => Err(io::Error::other("the sandbox sent a second file")),
        }
    }
}

impl io::Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.left > 0 {
            while self.is_taken() {
                self.chunk = self.receive()?;
            }
            if matches!(self.chunk, Chunk::End) {
                self.left = 0;
            } else if self.skip > 0 {
                self.skip -= self.take(None, self.skip);
            } else {
                let count = self.take(Some(buffer), self.left);
                self.left -= count;
                // At most the buffer's length.
                return Ok(count as usize);
            }
        }
        Ok(0)
    }
}
