//! The send buffer of a peer.
//!
//! ```text
//!   caller   encode ─▶ buffer ─▶ send without waiting ── all taken ─▶ done
//!                                      └─ socket full ─▶ ask epoll for "writable"
//!   reactor                                writable ─▶ send ─▶ wake callers that wait for room
//! ```
//!
//! A caller writes by itself, since going through the reactor would cost it two thread switches.
//! It does so under the lock, which keeps frames whole and in order; the send never blocks, so
//! the lock is held no longer than a copy of bytes takes.
//!
//! While the guest does not run, what is sent is held: a vsock device loses track of bytes that come while its queues are stopped.
//!
//! INVARIANT: if the buffer of an open outbox is not empty, then the socket is watched for
//! being writable, and only the reactor sends.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use serde::Serialize;
use vsock_proto::{CHUNK, Hello, HostMessage, encode};

use super::registration::Registration;
use crate::Loss;
use crate::deadline::Deadline;
use crate::error::Halt;
use crate::monitor::Monitor;

/// Above this many unsent bytes callers wait and clients of a relay are not read.
pub(crate) const HIGH_WATER: usize = 4 * CHUNK;

/// A larger buffer is given back as soon as it is empty.
const KEPT: usize = 4 << 10;

/// Frames that are not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// The number of bytes of `bytes` that are sent.
    sent: usize,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push<T: Serialize>(&mut self, message: &T) -> vsock_proto::Result<()> {
        encode(message, &mut self.bytes)
    }

    /// Adds what is in another one, of which nothing was sent.
    fn append(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
    }

    pub(crate) fn push_hello(&mut self, hello: &Hello) -> vsock_proto::Result<()> {
        hello.encode(&mut self.bytes)
    }

    /// Sends as much as the socket takes without waiting.
    pub(crate) fn flush(&mut self, socket: &UnixStream) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while let Some(unsent) = self.bytes.get(self.sent..).filter(|unsent| !unsent.is_empty()) {
            match send(socket.as_raw_fd(), unsent, flags) {
                Ok(count) => self.sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.compact();
                    return Ok(());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
        Ok(())
    }

    /// Keeps the vector from growing at its front; moves at most one byte for each one sent.
    fn compact(&mut self) {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// The send buffer of a guest, shared by its callers and the reactor.
#[derive(Debug)]
pub(crate) struct Outbox {
    socket: Arc<UnixStream>,
    registration: Registration,
    inner: Monitor<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    buffer: Buffer,
    /// What is sent while the guest does not run.
    held: Option<Buffer>,
    is_watched: bool,
    loss: Option<Arc<Loss>>,
}

impl Inner {
    fn backlog(&self) -> usize {
        self.buffer.len() + self.held.as_ref().map_or(0, Buffer::len)
    }
}

impl Outbox {
    pub(crate) fn new(socket: Arc<UnixStream>, registration: Registration) -> Self {
        Self { socket, registration, inner: Monitor::new(Inner::default()) }
    }

    /// Sends a message, or leaves it to the reactor; waits for room until the deadline.
    pub(crate) fn send(&self, message: &HostMessage<'_>, deadline: &Deadline) -> Result<(), Halt> {
        self.inner.wait(deadline, |inner| {
            let has_room = inner.loss.is_some() || inner.backlog() <= HIGH_WATER;
            has_room.then(|| self.push(inner, message))
        })?
    }

    /// The same without waiting, for messages whose number is bounded by other means.
    pub(crate) fn send_now(&self, message: &HostMessage<'_>) -> Result<(), Halt> {
        self.inner.with(|inner| self.push(inner, message))
    }

    /// Sends a message without waiting, and holds all that come after it until [`Outbox::release`].
    pub(crate) fn send_last(&self, message: &HostMessage<'_>) -> Result<(), Halt> {
        self.inner.with(|inner| {
            self.push(inner, message)?;
            inner.held.get_or_insert_default();
            Ok(())
        })
    }

    /// Sends what was held.
    pub(crate) fn release(&self) {
        self.inner.update(|inner| {
            if let Some(held) = inner.held.take() {
                inner.buffer.append(held);
                self.flush(inner);
            }
        });
    }

    /// Sends the bytes that callers left; for the reactor.
    pub(crate) fn drain(&self) -> io::Result<()> {
        self.inner.update(|inner| {
            inner.buffer.flush(&self.socket)?;
            if inner.buffer.is_empty() && inner.is_watched {
                self.registration.readable(&self.socket)?;
                inner.is_watched = false;
            }
            Ok(())
        })
    }

    /// How many bytes are not sent.
    pub(crate) fn backlog(&self) -> usize {
        self.inner.with(|inner| inner.backlog())
    }

    /// Closes the outbox; callers that wait for room get the reason.
    pub(crate) fn close(&self, loss: &Arc<Loss>) {
        self.inner.update(|inner| {
            inner.loss.get_or_insert_with(|| Arc::clone(loss));
        });
    }

    /// The bytes that were unsent when it was closed.
    pub(crate) fn take_rest(&self) -> Buffer {
        self.inner.with(|inner| std::mem::take(&mut inner.buffer))
    }

    fn push(&self, inner: &mut Inner, message: &HostMessage<'_>) -> Result<(), Halt> {
        if let Some(loss) = &inner.loss {
            return Err(Halt::Lost(Arc::clone(loss)));
        }
        if let Some(held) = &mut inner.held {
            return held.push(message).map_err(Halt::Encode);
        }
        inner.buffer.push(message).map_err(Halt::Encode)?;
        self.flush(inner);
        Ok(())
    }

    /// Sends what the socket takes, unless the reactor does.
    fn flush(&self, inner: &mut Inner) {
        if inner.is_watched {
            return;
        }
        let flushed = inner.buffer.flush(&self.socket);
        if flushed.is_err() || !inner.buffer.is_empty() {
            // If the socket is broken, then the reactor finds out at once.
            self.watch_writable(inner);
        }
    }

    fn watch_writable(&self, inner: &mut Inner) {
        inner.is_watched = true;
        if let Err(error) = self.registration.writable(&self.socket) {
            log::error!("a connection cannot be watched and is ended; error={error}");
            // Fails only if it has ended already.
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
    }
}
