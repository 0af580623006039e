//! Bytes from one thread to another in a few buffers that go round, so that memory is bounded and
//! nothing is copied twice.

use std::io::{self, BufRead, Read};

use crossbeam_channel::{Receiver, Sender, bounded};

/// The size of a buffer, and how many there are.
const SIZE: usize = 256 << 10;
const COUNT: usize = 8;

/// The end that bytes go into.
pub(crate) struct Inlet {
    full: Sender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that they come out of.
pub(crate) struct Outlet {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

/// A pipe. When one end is dropped the other one sees the end.
pub(crate) fn pipe() -> (Inlet, Outlet) {
    let (full_sender, full) = bounded(COUNT);
    let (empty, empty_receiver) = bounded(COUNT);
    for _ in 0..COUNT {
        // There is room for all of them. They get their memory when they are first used.
        let _ = empty.send(Vec::new());
    }
    let inlet = Inlet { full: full_sender, empty: empty_receiver };
    (inlet, Outlet { full, empty, current: Vec::new(), at: 0, ended: false })
}

impl Inlet {
    /// Reads `source` to its end, or until nobody listens any more. Its error goes through, too.
    pub(crate) fn fill(&self, source: &mut dyn Read) {
        while let Ok(mut buffer) = self.empty.recv() {
            buffer.resize(SIZE, 0);
            let result = read_full(source, &mut buffer);
            let ended = !matches!(result, Ok(SIZE));
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

/// Fills the buffer as far as the source goes. What came before an error is given up with it.
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

impl BufRead for Outlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.ended {
            match self.full.recv() {
                Ok(Ok(next)) => {
                    let used = std::mem::replace(&mut self.current, next);
                    self.at = 0;
                    // The other end may be done already.
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

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
