//! The handle by which other threads send commands to the reactor.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use mio::{Token, Waker};

use super::handle::Handle;
use super::inbox::Delivery;
use super::port_request::{ForwardRequest, PortWatch};
use crate::{Error, Result};

/// A command to the reactor. Each caller has few under way, so the channel needs no bound.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept guests.
    Listen { token: Token, socket: UnixListener, delivery: Delivery, vm: String },
    /// Stop accepting them.
    Unlisten(Token),
    /// Start the handshake with the peer.
    Adopt { stream: UnixStream, deadline: Instant, reply: Sender<Result<Handle>> },
    /// Send what is unsent, then close.
    Close(Token),
    /// Relay a client to the guest.
    Relay { guest: Token, client: UnixStream },
    /// Forward a connection to a port in a guest.
    Forward(ForwardRequest),
    /// Make a guest watch ports.
    WatchPorts { listener: Token, watch: PortWatch },
    /// Stop the reactor.
    Stop,
    #[cfg(test)]
    Panic,
}

/// Clones reach the same reactor; none keeps it alive.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    next_token: Arc<AtomicUsize>,
}

/// The waker's own token.
pub(crate) const WAKER: Token = Token(0);

impl Remote {
    pub(crate) fn new(commands: Sender<Command>, waker: Waker) -> Self {
        Self { commands, waker: Arc::new(waker), next_token: Arc::new(AtomicUsize::new(1)) }
    }

    /// A new token. Tokens are never reused, so that a late event matches no socket.
    pub(crate) fn next_token(&self) -> Token {
        Token(self.next_token.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::Stopped)?;
        self.waker.wake().map_err(|source| Error::Adopt { source })
    }
}
