//! The state that all threads of a server share: its limits and the list of open connections.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event;
use base::sync::{Condvar, Mutex, MutexGuard};

use crate::handler::{Handler, Peer};
use crate::memory::Memory;
use crate::refusal::Refusal;
use crate::socket::Socket;

/// How many connections are reserved for clients of the Unix socket.
const UNIX_CONNECTIONS: usize = 32;

/// For how long a new connection may wait for its first request when there are too many.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Limits on connections, memory and time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections, so threads. 32 more are reserved for clients of the Unix socket.
    pub connections: usize,
    /// Connections of one IP address, except loopback.
    pub per_peer: usize,
    /// Bytes of memory for the bodies of all clients, a quarter of it for each, and as much again for
    /// trusted clients. Bodies of at most 64 KiB do not count.
    pub memory: u64,
    /// Timeout of a request's head, and of its body, which gets 1 s more per MiB. Uploads get more.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            per_peer: 64,
            memory: 128 << 20,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// The shared state.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) memory: Memory,
    pub(crate) limits: Limits,
    /// Set when the server stops.
    pub(crate) stop: Event,
    connections: Mutex<Connections>,
    closed: Condvar,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Connection>,
    next: u64,
    is_stopping: bool,
}

struct Connection {
    socket: Socket,
    /// The TCP socket below TLS.
    tcp: Option<Socket>,
    peer: Peer,
    is_busy: bool,
    /// Since when it waits for a request, and whether it had one before.
    idle_since: Instant,
    was_used: bool,
}

impl Connection {
    /// Whether it may be closed so that another client is served: its own finds another way or is slow.
    fn is_spare(&self) -> bool {
        !self.is_busy && (self.was_used || self.idle_since.elapsed() >= FIRST_REQUEST)
    }
}

impl Shared {
    pub(crate) fn new(handler: Arc<dyn Handler>, limits: Limits, stop: Event) -> Self {
        let memory = Memory::new(limits.memory);
        Self {
            handler,
            memory,
            limits,
            stop,
            connections: Mutex::default(),
            closed: Condvar::new(),
        }
    }

    /// Admits a connection and returns its id, unless a limit is reached or the server stops. At a limit, the
    /// connection that has been idle for longest makes room.
    pub(crate) fn admit(
        &self,
        socket: Socket,
        tcp: Option<Socket>,
        peer: Peer,
    ) -> Result<u64, Refusal> {
        let mut connections = self.lock();
        if connections.is_stopping {
            return Err(Refusal::Stopping);
        }
        // Network clients must not lock out those of the Unix socket.
        let (most, is_counted) = match peer {
            Peer::Unix => (self.limits.connections + UNIX_CONNECTIONS, false),
            Peer::Tcp(address) => (self.limits.connections, !address.is_loopback()),
        };
        let is_of_peer = |open: &Connection| is_counted && open.peer == peer;
        let from_peer = connections.open.values().filter(|open| is_of_peer(open)).count();
        let has_room = if from_peer >= self.limits.per_peer {
            connections.close_spare(is_of_peer)
        } else {
            connections.open.len() < most || connections.close_spare(|open| open.peer != Peer::Unix)
        };
        if !has_room {
            log::warn!("a connection was rejected: too many are open; peer={peer:?}");
            return Err(Refusal::Busy);
        }
        connections.next += 1;
        let id = connections.next;
        let (is_busy, was_used, idle_since) = (false, false, Instant::now());
        connections
            .open
            .insert(id, Connection { socket, tcp, peer, is_busy, idle_since, was_used });
        Ok(id)
    }

    /// Whether three quarters of the connections are open, so that each ends after its request.
    pub(crate) fn is_crowded(&self) -> bool {
        let connections = self.lock();
        connections.is_stopping || connections.open.len() * 4 >= self.limits.connections * 3
    }

    /// Rejects new connections, shuts down those without a request, and wakes the streams.
    pub(crate) fn close_idle(&self) {
        let mut connections = self.lock();
        connections.is_stopping = true;
        let idle = connections.open.values().filter(|open| !open.is_busy);
        idle.for_each(|open| open.socket.shutdown(Shutdown::Both));
        drop(connections);
        self.stop.set();
    }

    /// Waits for the connections to end until `deadline`, then shuts down the rest.
    pub(crate) fn close_all(&self, deadline: Instant) {
        let mut connections = self.lock();
        while !connections.open.is_empty() {
            if deadline <= Instant::now() {
                log::warn!("requests are cut off; count={}", connections.open.len());
                break;
            }
            connections = self.closed.wait_until(connections, Some(deadline));
        }
        for open in connections.open.values() {
            open.socket.shutdown(Shutdown::Both);
            if let Some(tcp) = &open.tcp {
                tcp.shutdown(Shutdown::Both);
            }
        }
    }

    /// Removes a connection whose thread did not start.
    pub(crate) fn remove(&self, id: u64) {
        self.lock().open.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

impl Connections {
    /// Closes the connection that has been idle for longest of those that count. Its thread ends soon.
    fn close_spare(&mut self, counts: impl Fn(&Connection) -> bool) -> bool {
        let spare = self.open.iter().filter(|(_, open)| counts(open) && open.is_spare());
        let spare = spare.min_by_key(|(_, open)| open.idle_since).map(|(id, _)| *id);
        let Some(spare) = spare.and_then(|id| self.open.remove(&id)) else { return false };
        spare.socket.shutdown(Shutdown::Both);
        true
    }
}

/// A connection's entry in the list. Dropping it removes the entry, also after a panic.
pub(crate) struct ConnectionSlot<'a> {
    shared: &'a Shared,
    id: u64,
    socket: Socket,
    /// The TCP socket below TLS.
    tcp: Option<Socket>,
    peer: Peer,
}

impl<'a> ConnectionSlot<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        id: u64,
        (socket, tcp): (Socket, Option<Socket>),
        peer: Peer,
    ) -> Self {
        Self { shared, id, socket, tcp, peer }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tcp.is_some()
    }

    /// Makes the end of the connection a reset, which the client cannot take for the end of a reply.
    pub(crate) fn reset_at_close(&self) {
        self.tcp.as_ref().unwrap_or(&self.socket).reset_at_close();
    }

    /// Marks the connection as busy with a request; `false` if it was closed while it was idle.
    pub(crate) fn busy(&self) -> bool {
        let mut connections = self.shared.lock();
        let open = connections.open.get_mut(&self.id);
        open.map(|open| open.is_busy = true).is_some()
    }

    /// Marks the connection as idle; `true` if the server stops.
    pub(crate) fn idle(&self) -> bool {
        let mut connections = self.shared.lock();
        if let Some(open) = connections.open.get_mut(&self.id) {
            (open.is_busy, open.was_used, open.idle_since) = (false, true, Instant::now());
        }
        connections.is_stopping
    }
}

impl Drop for ConnectionSlot<'_> {
    fn drop(&mut self) {
        self.shared.lock().open.remove(&self.id);
        self.shared.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::handler::Request;
    use crate::response::Response;

    struct Nothing;

    impl Handler for Nothing {
        fn handle(&self, _: &mut Request<'_>) -> Response {
            Response::new(404)
        }
    }

    fn shared(connections: usize) -> Shared {
        let limits =
            Limits { connections, per_peer: 2, memory: 0, request_timeout: Duration::ZERO };
        Shared::new(Arc::new(Nothing), limits, Event::new().unwrap())
    }

    const LOOPBACK: Peer = Peer::Tcp(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn tcp() -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Socket::new(std::net::TcpStream::connect(address).unwrap())
    }

    #[test]
    fn connections_of_one_address_are_limited() {
        let shared = shared(10);
        let (one, other) = (Peer::Tcp([10, 0, 0, 1].into()), Peer::Tcp([10, 0, 0, 2].into()));

        assert!(shared.admit(tcp(), None, one).is_ok());
        assert!(shared.admit(tcp(), None, one).is_ok());
        assert!(shared.admit(tcp(), None, one).is_err());
        assert!(shared.admit(tcp(), None, other).is_ok());
        assert!(shared.admit(tcp(), None, LOOPBACK).is_ok());
    }

    #[test]
    fn a_connection_that_is_idle_makes_room_for_one_of_its_address() {
        let shared = shared(10);
        let (one, other) = (Peer::Tcp([10, 0, 0, 1].into()), Peer::Tcp([10, 0, 0, 2].into()));
        let slot = |peer| {
            let socket = tcp();
            let id = shared.admit(socket.clone(), None, peer).unwrap();
            ConnectionSlot::new(&shared, id, (socket, None), peer)
        };
        let (idle, busy, foreign) = (slot(one), slot(one), slot(other));
        for slot in [&idle, &busy, &foreign] {
            slot.busy();
        }
        idle.idle();
        foreign.idle();

        assert!(shared.admit(tcp(), None, one).is_ok());
        assert!(!idle.busy());
        assert!(busy.busy() && foreign.busy());
        // The new one has not had the time for a request.
        assert!(shared.admit(tcp(), None, one).is_err());
    }

    #[test]
    fn the_operator_connects_when_all_network_connections_are_taken() {
        let shared = shared(1);
        let operator = Socket::new(UnixStream::pair().unwrap().0);

        assert!(shared.admit(tcp(), None, LOOPBACK).is_ok());
        assert!(shared.admit(tcp(), None, LOOPBACK).is_err());
        assert!(shared.is_crowded());
        assert!(shared.admit(operator, None, Peer::Unix).is_ok());
    }

    #[test]
    fn connections_are_rejected_after_the_stop_began() {
        let shared = shared(10);

        shared.close_idle();

        assert!(matches!(shared.admit(tcp(), None, LOOPBACK), Err(Refusal::Stopping)));
    }
}
