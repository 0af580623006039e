//! Where guests arrive: the listening sockets, and which guest of each is the one that lives.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::Token;

use crate::engine::Engine;
use crate::handshake::{Handshake, Origin};
use crate::listener::Delivery;
use crate::watch::Watch;
use crate::{Error, Guest, Loss, Phase};

/// How long who dials a listener may take to be ready.
const LIMIT: Duration = Duration::from_secs(10);

/// How long to wait before another attempt to accept.
const RETRY: Duration = Duration::from_secs(1);

/// How many may be greeted on one listener at a time.
const PENDING: usize = 4;

/// A socket that a guest dials.
pub(crate) struct Listening {
    socket: UnixListener,
    watch: Watch,
    pub(crate) delivery: Delivery,
    /// The connection that lives.
    current: Option<Token>,
}

impl Engine {
    pub(crate) fn listen(&mut self, token: Token, socket: UnixListener, delivery: Delivery) {
        let watch = self.watch(token);
        if let Err(source) = watch.register(&socket) {
            return delivery.put(Err(Error::Adopt { source }));
        }
        self.listeners.insert(token, Listening { socket, watch, delivery, current: None });
    }

    pub(crate) fn unlisten(&mut self, token: Token) {
        if let Some(listening) = self.listeners.remove(&token) {
            listening.watch.forget(&listening.socket);
        }
        let is_other = |handshake: &Handshake| !handshake.is_from(token);
        self.timers.retain(|(_, of)| self.handshakes.get(of).is_none_or(is_other));
        self.handshakes.retain(|_, handshake| is_other(handshake));
    }

    /// Takes in all who have dialled.
    pub(crate) fn accept(&mut self, token: Token) {
        while let Some(listening) = self.listeners.get(&token) {
            let stream = match listening.socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // No event tells when there are descriptors again.
                    log::warn!("cannot accept a guest, try again soon; error={error}");
                    self.timers.insert((Instant::now() + RETRY, token));
                    return;
                }
            };
            let pending = self.handshakes.values().filter(|one| one.is_from(token)).count();
            if pending >= PENDING {
                log::warn!("a connection is dropped; too many say no hello; pending={pending}");
                continue;
            }
            listening.delivery.awaits(Phase::Hello);
            if let Err(source) = stream.set_nonblocking(true) {
                log::warn!("cannot set up a guest's connection; error={source}");
                continue;
            }
            self.greet(stream, Instant::now() + LIMIT, Origin::Listener(token));
        }
    }

    /// Notes that a connection has ended.
    pub(crate) fn forget_current(&mut self, token: Token) {
        for listening in self.listeners.values_mut() {
            listening.current.take_if(|current| *current == token);
        }
    }

    /// Makes a guest the one that lives.
    pub(crate) fn replace(&mut self, listener: Token, token: Token, guest: Guest) {
        let Some(listening) = self.listeners.get_mut(&listener) else {
            return;
        };
        if let Some(older) = listening.current.replace(token) {
            self.end_guest(older, Loss::Replaced);
        }
        if let Some(listening) = self.listeners.get(&listener) {
            listening.delivery.put(Ok(guest));
        }
    }
}
