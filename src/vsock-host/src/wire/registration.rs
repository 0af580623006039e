//! A socket's place in the reactor's epoll set.
//!
//! Edge-triggered. Being writable is asked for only while something is unsent: each message
//! that the peer takes would wake the reactor otherwise.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// The interest set of a socket; any thread may change it.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    token: Token,
}

impl Registration {
    pub(crate) fn new(registry: &Arc<Registry>, token: Token) -> Self {
        Self { registry: Arc::clone(registry), token }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Registers for reading.
    pub(crate) fn register(&self, socket: &impl AsRawFd) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), self.token, Interest::READABLE)
    }

    /// Watches for reading only.
    pub(crate) fn readable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::READABLE)
    }

    /// Watches for reading and writing; reports at once if the socket is writable.
    pub(crate) fn writable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::READABLE | Interest::WRITABLE)
    }

    /// Watches for writing only.
    pub(crate) fn only_writable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::WRITABLE)
    }

    /// Deregisters. Do it before the socket closes: another thread may hold the socket.
    pub(crate) fn forget(&self, socket: &impl AsRawFd) {
        let fd = socket.as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("a socket was not watched; error={error}");
        }
    }

    fn change(&self, socket: &impl AsRawFd, interest: Interest) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.registry.reregister(&mut SourceFd(&fd), self.token, interest)
    }
}
