//! Transfers of file trees to and from a guest.

use std::sync::Arc;
use std::time::Instant;

use vsock_proto::{CHUNK, Entry, HostBody, Read, WINDOW, Write};

use super::handle::Handle;
use super::queue::Item;
use super::request::End;
use super::{Call, Reserved};
use crate::deadline::Deadline;
use crate::error::{Halt, Refusal};
use crate::{Error, Phase, Result};

/// A tree being written. Dropped before it is finished, it is cancelled: the guest removes the
/// file under way, and keeps those that are whole.
#[derive(Debug)]
pub struct WriteTree {
    call: Call,
    path: String,
}

impl WriteTree {
    pub(crate) fn start(handle: &Arc<Handle>, write: Write, deadline: &Deadline) -> Result<Self> {
        let path = String::from_utf8_lossy(&write.target).into_owned();
        match Call::start(handle, HostBody::Write(write), deadline) {
            Ok(call) => Ok(Self { call, path }),
            Err(halt) => Err(halt.during(Phase::Write { path })),
        }
    }

    /// Begins the next file, folder or link.
    pub fn entry(&mut self, entry: Entry, deadline: Instant) -> Result<()> {
        let deadline = Deadline::new(deadline);
        let cost = entry.cost();
        if cost > WINDOW {
            return Err(Error::EntryTooLong { path: self.path.clone(), cost });
        }
        self.reserve(cost, cost, &deadline)?;
        self.send(HostBody::Entry(entry), &deadline)
    }

    /// Sends the next bytes of the file whose entry came last.
    pub fn data(&mut self, mut data: &[u8], deadline: Instant) -> Result<()> {
        let deadline = Deadline::new(deadline);
        while !data.is_empty() {
            let most = data.len().min(CHUNK);
            let count = self.reserve(1, most as u64, &deadline)?;
            // At most `most`.
            let (chunk, rest) = data.split_at(count as usize);
            self.send(HostBody::Data(chunk), &deadline)?;
            data = rest;
        }
        Ok(())
    }

    /// Ends the tree, and waits until all of it is written.
    pub fn finish(self, deadline: Instant) -> Result<()> {
        let deadline = Deadline::new(deadline);
        let phase = || Phase::Complete { path: self.path.clone() };
        let sent = self.call.send(HostBody::End, &deadline);
        let end = sent.and_then(|()| self.call.end(&deadline));
        match end.map_err(|halt| halt.during(phase()))? {
            End::Failed(source) => Err(Error::Refused { phase: phase(), source }),
            End::Done | End::Exit(_) => Ok(()),
        }
    }

    fn reserve(&self, least: u64, most: u64, deadline: &Deadline) -> Result<u64> {
        match self.call.reserve(least, most, deadline).map_err(|halt| self.halted(halt))? {
            Reserved::Granted(count) => Ok(count),
            Reserved::Ended(End::Failed(source)) => {
                Err(Error::Refused { phase: self.phase(), source })
            }
            Reserved::Ended(End::Done | End::Exit(_)) => {
                let source = Refusal { errno: 0, message: "it ended the request early".into() };
                Err(Error::Refused { phase: self.phase(), source })
            }
        }
    }

    fn send(&self, body: HostBody<'_>, deadline: &Deadline) -> Result<()> {
        self.call.send(body, deadline).map_err(|halt| self.halted(halt))
    }

    fn halted(&self, halt: Halt) -> Error {
        halt.during(self.phase())
    }

    fn phase(&self) -> Phase {
        Phase::Write { path: self.path.clone() }
    }
}

/// A tree being read. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub struct ReadTree {
    call: Call,
    path: String,
}

/// A piece of a tree. All of it is untrusted, above all its paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeItem {
    /// The next file, folder or link.
    Entry(Entry),
    /// Bytes of the file whose entry came last; never empty.
    Data(Vec<u8>),
}

impl ReadTree {
    pub(crate) fn start(handle: &Arc<Handle>, read: Read, deadline: &Deadline) -> Result<Self> {
        let path = String::from_utf8_lossy(&read.path).into_owned();
        match Call::start(handle, HostBody::Read(read), deadline) {
            Ok(call) => Ok(Self { call, path }),
            Err(halt) => Err(halt.during(Phase::Read { path })),
        }
    }

    /// The next piece, or `None` when the tree is complete.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<TreeItem>> {
        let phase = || Phase::Read { path: self.path.clone() };
        match self.call.next(&Deadline::new(deadline)).map_err(|halt| halt.during(phase()))? {
            Ok(Item::Entry(entry)) => Ok(Some(TreeItem::Entry(entry))),
            Ok(Item::Output(_, data)) => Ok(Some(TreeItem::Data(data))),
            Err(End::Failed(source)) => Err(Error::Refused { phase: phase(), source }),
            // Of these, `Done` alone is accepted for a tree.
            Ok(Item::Ended(_)) | Err(End::Done | End::Exit(_)) => Ok(None),
        }
    }
}
