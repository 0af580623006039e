//! One connection: requests one after the other, until either side closes it.
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
use super::shared::{ConnectionSlot, Shared};
use super::wire::Wire;
use super::{Request, Response};
use crate::clock::after;
use crate::{Refusal, Result};

/// The timeout of an idle connection.
const IDLE: Duration = Duration::from_secs(75);

/// For how long the rest of a rejected request is read, so that the client gets the reply.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) fn serve(slot: &ConnectionSlot<'_>, shared: &Shared) {
    let mut wire = Wire::new(Arc::clone(slot.socket()));
    while let Some(()) = serve_one(&mut wire, slot, shared) {
        if slot.idle() {
            return;
        }
    }
    linger(&mut wire);
}

/// Serves one request; `None` if it was the last.
fn serve_one(wire: &mut Wire, slot: &ConnectionSlot<'_>, shared: &Shared) -> Option<()> {
    let head = match read_head(wire, slot, shared.limits.request_timeout) {
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
    let mut request = Request { head, body, is_operator: slot.is_operator() };
    let response = shared.handler.handle(&mut request);
    // The body of an unauthenticated request is not read.
    let is_known = response.status != 401;
    let keeps_alive = keeps_alive && is_known && request.body.skip() && !shared.is_crowded();
    if let Err(error) = response.send(wire, keeps_alive) {
        log::debug!("cannot send a reply; error={error}");
        return None;
    }
    keeps_alive.then_some(())
}

/// Reads the rest: closing a socket with unread bytes would reset it before the client reads the reply.
fn linger(wire: &mut Wire) {
    wire.socket.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    while let Ok(1..) = wire.socket.read(&mut buffer, deadline) {}
}

/// Reads the head of the next request; `None` if the client closed the connection.
fn read_head(
    wire: &mut Wire,
    slot: &ConnectionSlot<'_>,
    timeout: Duration,
) -> Result<Option<Head>> {
    wire.buffer.drain(..wire.start.min(wire.buffer.len()));
    wire.start = 0;
    let mut deadline = Instant::now() + IDLE;
    let mut piece = [0; 4096];
    let mut is_idle = wire.buffer.is_empty();
    if !is_idle {
        slot.busy();
    }
    loop {
        if !is_idle && let Some((head, size)) = Head::parse(&wire.buffer)? {
            wire.start = size;
            return Ok(Some(head));
        }
        let room = piece.len().min(LARGEST.saturating_sub(wire.buffer.len()).max(1));
        match wire.socket.read(piece.get_mut(..room).unwrap_or_default(), deadline) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !is_idle => {
                return Err(Refusal::TooSlow.into());
            }
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => wire.buffer.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
        if std::mem::take(&mut is_idle) {
            slot.busy();
            deadline = after(Instant::now(), timeout);
        }
    }
}
