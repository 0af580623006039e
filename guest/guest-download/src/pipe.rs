//! Passes bytes between two threads in a fixed set of reused buffers: memory is bounded, and bytes are
//! copied once.

use std::io::{self, BufRead, Read};

use crossbeam_channel::{Receiver, Sender, bounded};

const BUFFER_SIZE: usize = 256 << 10;
const BUFFER_COUNT: usize = 8;

/// The writing end.
pub(crate) struct PipeWriter {
    full: Sender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The reading end.
pub(crate) struct PipeReader {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Makes a pipe. Dropping one end ends the other.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (full_sender, full) = bounded(BUFFER_COUNT);
    let (empty, empty_receiver) = bounded(BUFFER_COUNT);
    for _ in 0..BUFFER_COUNT {
        // The channel has room for all buffers. Their memory is allocated at first use.
        let _ = empty.send(Vec::new());
    }
    let writer = PipeWriter { full: full_sender, empty: empty_receiver };
    (writer, PipeReader { full, empty, current: Vec::new(), at: 0, ended: false })
}

impl PipeWriter {
    /// Copies `source` until its end, its error, which the reader gets, or the drop of the reader.
    pub(crate) fn fill(&self, source: &mut dyn Read) {
        while let Ok(mut buffer) = self.empty.recv() {
            buffer.resize(BUFFER_SIZE, 0);
            let result = read_full(source, &mut buffer);
            let ended = !matches!(result, Ok(BUFFER_SIZE));
            let sent = match result {
                Ok(count) => {
                    buffer.truncate(count);
                    self.full.send(Ok(buffer))
                }
                Err(error) => self.full.send(Err(error)),
            };
            if ended || sent.is_err() {
                return;
            }
        }
    }
}

/// Fills the buffer, or reads to the end of the source. After an error the bytes before it are dropped.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.ended {
            match self.full.recv() {
                Ok(Ok(next)) => {
                    let used = std::mem::replace(&mut self.current, next);
                    self.at = 0;
                    // The writer may have ended.
                    let _ = self.empty.send(used);
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
