//! The thread's sockets, and which forwarder owns each of them.

use std::collections::HashMap;
use std::path::Path;

use mio::event::Source;
use mio::{Interest, Registry, Token};

/// What a forwarder may use of the thread while it handles an event.
pub(super) struct Context<'a> {
    pub(super) registry: &'a Registry,
    pub(super) sockets: &'a mut Sockets,
    /// The number of the forwarder.
    pub(super) forwarder: u64,
    /// Receives the bytes of the next read.
    pub(super) buffer: &'a mut [u8],
    /// The path of the host's `resolv.conf`.
    pub(super) resolv_conf: &'a Path,
}

/// Which socket belongs to which forwarder.
#[derive(Default)]
pub(super) struct Sockets {
    last: usize,
    owners: HashMap<Token, u64>,
    /// Sockets that may be ready although the kernel has not reported them again.
    ready: Vec<Token>,
}

impl Sockets {
    /// The number of the forwarder that owns a socket.
    pub(super) fn owner(&self, token: Token) -> Option<u64> {
        self.owners.get(&token).copied()
    }

    pub(super) fn take_ready(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Context<'_> {
    /// Adds a socket to the poll; its events have the returned token.
    pub(super) fn register(&mut self, socket: &mut impl Source, interest: Interest) -> Token {
        self.sockets.last += 1;
        let token = Token(self.sockets.last);
        if let Err(error) = self.registry.register(socket, token, interest) {
            log::error!("cannot register a socket; error={error}");
        }
        self.sockets.owners.insert(token, self.forwarder);
        // It may have become ready before.
        self.set_ready(token);
        token
    }

    /// Removes a socket from the poll.
    pub(super) fn deregister(&mut self, socket: &mut impl Source, token: Token) {
        self.sockets.owners.remove(&token);
        if let Err(error) = self.registry.deregister(socket) {
            log::debug!("cannot deregister a socket; error={error}");
        }
    }

    /// Handles a socket once more before the thread sleeps: events are edge-triggered.
    pub(super) fn set_ready(&mut self, token: Token) {
        self.sockets.ready.push(token);
    }
}
