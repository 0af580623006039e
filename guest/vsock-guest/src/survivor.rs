//! Output of processes that outlived their commands: a server that was left in the background, say.
//!
//! The service reads it and drops it. A writer to a pipe without a reader gets SIGPIPE, and one to a
//! full pipe blocks.
//!
//! INVARIANT: a bounded number of pipes is open, and none holds up the loop: each is read once a turn.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

#[derive(Debug)]
pub(crate) struct Survivors {
    /// In the order in which they came.
    pipes: BTreeMap<u64, OwnedFd>,
    count: u64,
    most: usize,
}

impl Survivors {
    /// Keeps up to `most` pipes. A command has two.
    pub(crate) fn new(most: usize) -> Self {
        Self { pipes: BTreeMap::new(), count: 0, most }
    }

    /// Takes over the non-blocking reading end of a pipe that may have writers. If it is one too many,
    /// then the oldest is closed.
    pub(crate) fn add(&mut self, pipe: OwnedFd) {
        self.pipes.insert(self.count, pipe);
        self.count += 1;
        if self.pipes.len() > self.most && self.pipes.pop_first().is_some() {
            log::warn!("an output that outlived its command is closed; most={}", self.most);
        }
    }

    /// All pipes, each with the key that it is drained by.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.pipes.iter().map(|(key, pipe)| (*key, pipe.as_fd()))
    }

    /// Reads once, and closes the pipe if it has no writer.
    pub(crate) fn drain(&mut self, key: u64, buffer: &mut [u8]) {
        let Some(pipe) = self.pipes.get(&key) else {
            return;
        };
        match nix::unistd::read(pipe, buffer) {
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => drop(self.pipes.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};

    use super::*;

    #[test]
    fn a_pipe_is_read_until_its_last_writer_closes_it() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut survivors = Survivors::new(2);
        survivors.add(reader.into());
        writer.write_all(b"something").unwrap();
        survivors.drain(0, &mut [0; 64]);
        assert_eq!(survivors.pipes().count(), 1);
        drop(writer);
        survivors.drain(0, &mut [0; 64]);
        assert_eq!(survivors.pipes().count(), 0);
    }

    #[test]
    fn the_oldest_of_too_many_is_closed() {
        let mut survivors = Survivors::new(2);
        let mut writers = [(); 3].map(|()| {
            let (reader, writer) = std::io::pipe().unwrap();
            survivors.add(reader.into());
            writer
        });
        let error = writers[0].write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        writers[1].write_all(b"x").unwrap();
        writers[2].write_all(b"x").unwrap();
    }
}
