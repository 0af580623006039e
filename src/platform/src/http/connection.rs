//! One connection: requests one after the other, until either side has had enough.
//!
//! ```text
//! idle ──first byte──▶ head ──▶ handler (takes the body) ──▶ reply ──▶ idle
//!   │ 75 s, stop          │ bad, slow: reply                    └─ close: rest of the body unread,
//!   ▼                     ▼                                        asked for, stopping, crowded
//! close                 close
//! ```

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::Body;
use super::head::{Head, LARGEST};
use super::server::{Place, Shared};
use super::socket::Socket;
use super::{Request, Response};
use crate::clock::after;
use crate::{Refusal, Result};

/// How long a connection may lie idle.
const IDLE: Duration = Duration::from_secs(75);

/// How long a client that was refused may go on sending before it reads why.
const LINGER: Duration = Duration::from_secs(2);

/// A socket, and what was read from it too early.
pub(super) struct Wire {
    socket: Arc<Socket>,
    buffer: Vec<u8>,
    start: usize,
}

impl Wire {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, buffer: Vec::new(), start: 0 }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes, Instant::now() + LINGER)
    }

    /// Reads what came too early first.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let early = self.buffer.get(self.start..).unwrap_or_default();
        if early.is_empty() {
            return self.socket.read(buffer, deadline);
        }
        let count = early.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), early.get(..count)) {
            to.copy_from_slice(from);
        }
        self.start += count;
        Ok(count)
    }

    /// The next request's head; `None` if the client has no more.
    fn head(&mut self, place: &Place<'_>, patience: Duration) -> Result<Option<Head>> {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        let mut deadline = Instant::now() + IDLE;
        let mut piece = [0; 4096];
        let mut is_idle = self.buffer.is_empty();
        if !is_idle {
            place.busy();
        }
        loop {
            if !is_idle && let Some((head, size)) = Head::parse(&self.buffer)? {
                self.start = size;
                return Ok(Some(head));
            }
            let room = piece.len().min(LARGEST.saturating_sub(self.buffer.len()).max(1));
            match self.socket.read(piece.get_mut(..room).unwrap_or_default(), deadline) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !is_idle => {
                    return Err(Refusal::TooSlow.into());
                }
                Ok(0) | Err(_) => return Ok(None),
                Ok(count) => self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default()),
            }
            if std::mem::take(&mut is_idle) {
                place.busy();
                deadline = after(Instant::now(), patience);
            }
        }
    }
}

/// Serves a connection to its end.
pub(super) fn serve(place: &Place<'_>, shared: &Shared) {
    let mut wire = Wire::new(Arc::clone(place.socket()));
    while let Some(()) = serve_one(&mut wire, place, shared) {
        if place.idle() {
            return;
        }
    }
    linger(&mut wire);
}

/// Serves one request; `None` if it was the last.
fn serve_one(wire: &mut Wire, place: &Place<'_>, shared: &Shared) -> Option<()> {
    let head = match wire.head(place, shared.limits.patience) {
        Ok(head) => head?,
        Err(error) => {
            let _ = Response::error(&error).send(wire, false);
            return None;
        }
    };
    let (method, keeps_alive) = (head.method, head.keeps_alive);
    // A signature is in the query: it is not for the log.
    log::debug!("request; method={} path={}", method.name(), head.path());
    let body = Body::new(wire, shared, &head);
    let mut request = Request { head, body, is_operator: place.is_operator() };
    let response = shared.handler.handle(&mut request);
    // Nothing is read for whom nobody knows.
    let is_known = response.status != 401;
    let keeps_alive = keeps_alive && is_known && request.body.skip() && !shared.is_crowded();
    if let Err(error) = response.send(wire, keeps_alive) {
        log::debug!("a client did not take its reply; error={error}");
        return None;
    }
    keeps_alive.then_some(())
}

/// Closing a socket with unread bytes in it would take the reply away from the client.
fn linger(wire: &mut Wire) {
    wire.socket.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    while let Ok(1..) = wire.socket.read(&mut buffer, deadline) {}
}
