//! Closing a connection after its last bytes are sent, if its peer takes them soon.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;

use crate::engine::Engine;
use crate::outbox::Buffer;
use crate::watch::Watch;

/// How long a peer may take for what is still to be sent to it.
const LIMIT: Duration = Duration::from_secs(1);

/// A connection that nobody reads from any more.
pub(crate) struct Farewell {
    socket: Arc<UnixStream>,
    watch: Watch,
    rest: Buffer,
    deadline: Instant,
}

impl Farewell {
    /// Closes, whatever is unsent.
    pub(crate) fn end(&self) {
        self.watch.forget(&*self.socket);
        // Handles may keep the socket itself; fails only if the peer is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends what it can; whether there is a reason to go on.
    fn flush(&mut self) -> bool {
        self.rest.flush(&self.socket).is_ok() && !self.rest.is_empty()
    }
}

impl Engine {
    pub(crate) fn say_goodbye(&mut self, socket: Arc<UnixStream>, watch: Watch, rest: Buffer) {
        let token = watch.token();
        let deadline = Instant::now() + LIMIT;
        let mut farewell = Farewell { socket, watch, rest, deadline };
        let goes_on = farewell.flush() && farewell.watch.only_writable(&*farewell.socket).is_ok();
        if !goes_on {
            return farewell.end();
        }
        self.timers.insert((deadline, token));
        self.farewells.insert(token, farewell);
    }

    pub(crate) fn write_farewell(&mut self, token: Token) {
        let Some(farewell) = self.farewells.get_mut(&token) else {
            return;
        };
        if !farewell.flush() {
            farewell.end();
            self.timers.remove(&(farewell.deadline, token));
            self.farewells.remove(&token);
        }
    }
}
