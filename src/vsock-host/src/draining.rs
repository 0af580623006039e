//! Closing a connection after its last bytes are sent, if its peer takes them soon.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;

use crate::engine::Engine;
use crate::outbox::Buffer;
use crate::registration::Registration;

/// How long a peer may take for what is still to be sent to it.
const LIMIT: Duration = Duration::from_secs(1);

/// A connection that is only written to.
pub(crate) struct Draining {
    socket: Arc<UnixStream>,
    registration: Registration,
    rest: Buffer,
    deadline: Instant,
}

impl Draining {
    /// Closes the connection and discards unsent bytes.
    pub(crate) fn end(&self) {
        self.registration.forget(&*self.socket);
        // Handles may keep the socket itself; fails only if the peer is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends what the socket takes; returns whether it is intact and bytes are left.
    fn flush(&mut self) -> bool {
        self.rest.flush(&self.socket).is_ok() && !self.rest.is_empty()
    }
}

impl Engine {
    pub(crate) fn drain(
        &mut self,
        socket: Arc<UnixStream>,
        registration: Registration,
        rest: Buffer,
    ) {
        let token = registration.token();
        let deadline = Instant::now() + LIMIT;
        let mut draining = Draining { socket, registration, rest, deadline };
        let goes_on =
            draining.flush() && draining.registration.only_writable(&*draining.socket).is_ok();
        if !goes_on {
            return draining.end();
        }
        self.timers.insert((deadline, token));
        self.draining.insert(token, draining);
    }

    pub(crate) fn write_draining(&mut self, token: Token) {
        let Some(draining) = self.draining.get_mut(&token) else {
            return;
        };
        if !draining.flush() {
            draining.end();
            self.timers.remove(&(draining.deadline, token));
            self.draining.remove(&token);
        }
    }
}
