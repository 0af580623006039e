//! A socket's place in the reactor's epoll set.
//!
//! Edge-triggered. Being writable is asked for only while something is unsent: each message
//! that the peer takes would wake the reactor otherwise.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// Any thread may change what the reactor is woken for.
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

    /// Starts with what can be read.
    pub(crate) fn register(&self, socket: &impl AsRawFd) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), self.token, Interest::READABLE)
    }

    /// Only what can be read.
    pub(crate) fn readable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::READABLE)
    }

    /// Room to write, too; reports at once if there is some.
    pub(crate) fn writable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::READABLE | Interest::WRITABLE)
    }

    /// Only room to write.
    pub(crate) fn only_writable(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.change(socket, Interest::WRITABLE)
    }

    /// Nothing any more. It has to be done before the socket closes: another thread may hold it.
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
