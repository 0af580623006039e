//! Closing a connection after its last bytes are sent, if its peer takes them soon.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use crate::wire::outbox::Buffer;
use crate::wire::registration::Registration;

/// The time-out of a peer that does not take its last bytes.
const LIMIT: Duration = Duration::from_secs(1);

/// A connection that is only written to.
#[derive(Debug)]
pub(crate) struct Draining {
    socket: Arc<UnixStream>,
    registration: Registration,
    rest: Buffer,
    deadline: Instant,
}

impl Draining {
    /// Sends what the socket takes; `None` if nothing is left to send, and the connection is closed.
    pub(crate) fn start(
        socket: Arc<UnixStream>,
        registration: Registration,
        rest: Buffer,
        schedule: &mut Schedule,
    ) -> Option<Self> {
        let deadline = Instant::now() + LIMIT;
        let mut draining = Self { socket, registration, rest, deadline };
        let has_more =
            draining.flush() && draining.registration.only_writable(&*draining.socket).is_ok();
        if !has_more {
            draining.close();
            return None;
        }
        schedule.set_timer(deadline, draining.registration.token());
        Some(draining)
    }

    /// Sends what the socket takes; returns whether bytes are left, and closes the connection if not.
    pub(crate) fn write(&mut self, schedule: &mut Schedule) -> bool {
        let has_more = self.flush();
        if !has_more {
            schedule.cancel_timer(self.deadline, self.registration.token());
            self.close();
        }
        has_more
    }

    /// Closes the connection and discards unsent bytes.
    pub(crate) fn close(&self) {
        self.registration.forget(&*self.socket);
        // Handles may keep the socket itself; fails only if the peer is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Returns whether the socket is intact and bytes are left.
    fn flush(&mut self) -> bool {
        self.rest.flush(&self.socket).is_ok() && !self.rest.is_empty()
    }
}
