//! The connection: its send buffer and the limits of that.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, send};
use vsock_proto::{CHUNK, Decoder, GuestBody, GuestMessage, Hello, RequestId};

use crate::{Error, Result};

/// Above this many unsent bytes no output is read: what is in the buffer is what a ping's
/// answer has to wait for.
const CONGESTED: usize = 4 * CHUNK;

/// Above this many unsent bytes not even requests are read: the host does not listen.
const DEAF: usize = 16 * CHUNK;

#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    out: Vec<u8>,
    /// The number of sent bytes in `out`.
    sent: usize,
}

/// The state of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Present,
    Gone,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self> {
        set_nonblocking(&socket).map_err(|errno| Error::Prepare { source: errno.into() })?;
        Ok(Self { socket, out: Vec::new(), sent: 0 })
    }

    pub(crate) fn greet(&mut self, hello: &Hello) -> Result<()> {
        Ok(hello.encode(&mut self.out)?)
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, id: RequestId, body: GuestBody<'_>) -> Result<()> {
        let message = GuestMessage { id, body };
        Ok(vsock_proto::encode(&message, &mut self.out)?)
    }

    /// Sends without waiting.
    pub(crate) fn flush(&mut self) -> Peer {
        while self.sent < self.out.len() {
            let unsent = &self.out[self.sent..];
            match send(self.socket.as_raw_fd(), unsent, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.compact();
                    return Peer::Present;
                }
                Err(errno) => {
                    log::debug!("cannot send to the host; error={errno}");
                    return Peer::Gone;
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        Peer::Present
    }

    /// Reads what is there, once.
    pub(crate) fn receive(&mut self, decoder: &mut Decoder) -> Peer {
        match nix::unistd::read(&self.socket, decoder.space()) {
            Ok(0) => Peer::Gone,
            Ok(count) => {
                decoder.filled(count);
                Peer::Present
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Peer::Present,
            Err(errno) => {
                log::debug!("cannot receive from the host; error={errno}");
                Peer::Gone
            }
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.out.len() - self.sent >= CONGESTED
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.out.len() - self.sent >= DEAF
    }

    /// Keeps the buffer from growing at its front, at most one byte moved per byte sent.
    fn compact(&mut self) {
        if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes calls on `fd` return rather than wait.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
