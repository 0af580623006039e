//! One connection: requests one after the other, until either side closes it.
//!
//! ```text
//! idle ──first byte──▶ head ──▶ handler (takes the body) ──▶ reply ──▶ idle
//!   │ 75 s, stop          │ bad, slow: reply   │             └─ close: rest of the body unread,
//!   ▼                     ▼                    ▼                asked for, stopping, crowded
//! close                 close                upgrade: the handler's function has the connection
//! ```

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use base::deadline::after;

use crate::body::Body;
use crate::handler::{Peer, Request};
use crate::head::{Head, LARGEST};
use crate::memory::Account;
use crate::method::Method;
use crate::refusal::Refusal;
use crate::response::{Content, Framing};
use crate::shared::{ConnectionSlot, Shared};
use crate::socket::Socket;
use crate::upgrade::Upgraded;
use crate::wire::Wire;

/// The timeout of an idle connection.
const IDLE: Duration = Duration::from_secs(75);

/// For how long the rest of a rejected request is read, so that the client gets the reply.
const LINGER: Duration = Duration::from_secs(2);

/// The timeout of a write to a connection that was handed over.
const UPGRADED_WRITE: Duration = Duration::from_secs(60);

/// The most bytes of one read of a head.
const PIECE: usize = 4096;

/// What becomes of a connection after a request.
enum Next {
    Request(Wire),
    Linger,
    Gone,
}

/// Serves a connection to its end.
pub(crate) fn serve(slot: &ConnectionSlot<'_>, shared: &Shared) {
    let mut wire = Wire::new(slot.socket().clone());
    loop {
        match serve_one(wire, slot, shared) {
            Next::Request(_) if slot.idle() => return,
            Next::Request(same) => wire = same,
            Next::Linger => return linger(slot.socket()),
            Next::Gone => return,
        }
    }
}

/// Serves one request.
fn serve_one(mut wire: Wire, slot: &ConnectionSlot<'_>, shared: &Shared) -> Next {
    let head = match read_head(&mut wire, slot, shared.limits.request_timeout) {
        Ok(Some(head)) => head,
        Ok(None) => return Next::Linger,
        Err(refusal) => {
            let response = shared.handler.refuse(&refusal);
            let _ = response.send(slot.socket(), &Framing::LAST);
            return Next::Linger;
        }
    };
    let (method, is_1_1, keeps_alive) = (head.method, head.is_1_1, head.keeps_alive);
    // A signature is in the query: it is not for the log.
    log::debug!("request; method={} path={}", method.name(), head.path());
    let account = match slot.peer() {
        Peer::Unix => Account::Trusted,
        Peer::Tcp(address) => Account::Client(address.to_string()),
    };
    let timeout = shared.limits.request_timeout;
    let body = Body::new(&mut wire, &shared.memory, &head, timeout, account);
    let mut request = Request { head, body, peer: slot.peer(), is_tls: slot.is_tls() };
    let response = shared.handler.handle(&mut request);
    if let Content::Upgrade(own) = response.content {
        drop(request);
        let (head, early, socket) = wire.into_parts();
        let without_deadline = socket
            .set_read_timeout(None)
            .and_then(|()| socket.set_write_timeout(Some(UPGRADED_WRITE)));
        if without_deadline.is_ok() {
            own(Upgraded { head, early, socket });
        }
        return Next::Gone;
    }
    // The body of an unauthenticated request is not read.
    let is_known = response.status != 401;
    let keeps_alive = keeps_alive && is_known && request.body.skip() && !shared.is_crowded();
    drop(request);
    wire.begin();
    let framing = Framing {
        has_body: method != Method::Head,
        is_chunked: is_1_1,
        keeps_alive: keeps_alive && (is_1_1 || !response.is_stream()),
        stop: Some(&shared.stop),
    };
    // The memory of the request is free by now, as a stream may take long.
    match response.send(slot.socket(), &framing) {
        Ok(()) if framing.keeps_alive => Next::Request(wire),
        Ok(()) => Next::Linger,
        Err(error) => {
            log::debug!("cannot send a reply; error={error}");
            slot.reset_at_close();
            Next::Gone
        }
    }
}

/// Reads the rest: closing a socket with unread bytes would reset it before the client reads the reply.
fn linger(socket: &Socket) {
    socket.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    while let Ok(1..) = socket.read_until(&mut buffer, deadline) {}
}

/// Reads the head of the next request; `None` if the client closed the connection, or the server to make room.
fn read_head(
    wire: &mut Wire,
    slot: &ConnectionSlot<'_>,
    timeout: Duration,
) -> Result<Option<Head>, Refusal> {
    let mut deadline = Instant::now() + IDLE;
    let mut is_idle = wire.unread().is_empty();
    if !is_idle {
        if !slot.busy() {
            return Ok(None);
        }
        deadline = after(Instant::now(), timeout);
    }
    loop {
        if !is_idle && let Some((head, size)) = Head::parse(wire.unread())? {
            wire.set_head(size);
            return Ok(Some(head));
        }
        let room = PIECE.min(LARGEST.saturating_sub(wire.unread().len()).max(1));
        match wire.fill(room, deadline) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !is_idle => {
                return Err(Refusal::TooSlow);
            }
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
        if std::mem::take(&mut is_idle) {
            if !slot.busy() {
                return Ok(None);
            }
            deadline = after(Instant::now(), timeout);
        }
    }
}
