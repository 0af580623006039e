//! The state that all threads of a server share: its limits and the list of open connections.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex, MutexGuard};

use super::Handler;
use super::memory::Memory;
use super::socket::Socket;
use crate::{Error, Refusal, Result};

/// How many connections are reserved for the operator.
const OPERATOR_CONNECTIONS: usize = 32;

/// Limits on connections, memory and time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// Connections of one IP address, except loopback.
    pub(crate) per_peer: usize,
    /// Bytes of memory for the bodies of all guests, and as much again for all other clients.
    pub(crate) memory: u64,
    /// Timeout of a request's head, and of its body, which gets 1 s more per MiB. Uploads get more.
    pub(crate) request_timeout: Duration,
}

/// The shared state.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) memory: Memory,
    pub(super) limits: Limits,
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
    socket: Arc<Socket>,
    peer: Option<IpAddr>,
    is_busy: bool,
}

impl Shared {
    pub(super) fn new(handler: Arc<dyn Handler>, limits: Limits) -> Self {
        let memory = Memory::new(limits.memory);
        Self { handler, memory, limits, connections: Mutex::default(), closed: Condvar::new() }
    }

    /// Admits a connection and returns its id, unless a limit is reached or the server stops.
    pub(super) fn admit(&self, socket: Arc<Socket>, peer: Option<IpAddr>) -> Result<u64> {
        let mut connections = self.lock();
        if connections.is_stopping {
            return Err(Error::Stopped);
        }
        let from_peer =
            connections.open.values().filter(|open| peer.is_some() && open.peer == peer);
        // Network clients must not lock the operator out.
        let most = match *socket {
            Socket::Unix(_) => self.limits.connections + OPERATOR_CONNECTIONS,
            Socket::Tcp(_) => self.limits.connections,
        };
        let is_full = connections.open.len() >= most || from_peer.count() >= self.limits.per_peer;
        if is_full {
            log::warn!("a connection was rejected: too many are open; peer={peer:?}");
            return Err(Refusal::Busy.into());
        }
        connections.next += 1;
        let id = connections.next;
        connections.open.insert(id, Connection { socket, peer, is_busy: false });
        Ok(id)
    }

    /// Whether three quarters of the connections are open, so that each ends after its request.
    pub(super) fn is_crowded(&self) -> bool {
        let connections = self.lock();
        connections.is_stopping || connections.open.len() * 4 >= self.limits.connections * 3
    }

    /// Shuts down the connections without a request, and rejects new ones.
    pub(super) fn close_idle(&self) {
        let mut connections = self.lock();
        connections.is_stopping = true;
        let idle = connections.open.values().filter(|open| !open.is_busy);
        idle.for_each(|open| open.socket.shutdown(Shutdown::Both));
    }

    /// Waits for the connections to end until `deadline`, then shuts down the rest.
    pub(super) fn close_all(&self, deadline: Instant) {
        let mut connections = self.lock();
        while !connections.open.is_empty() {
            if deadline <= Instant::now() {
                log::warn!("requests are cut off; count={}", connections.open.len());
                break;
            }
            connections = self.closed.wait_until(connections, Some(deadline));
        }
        connections.open.values().for_each(|open| open.socket.shutdown(Shutdown::Both));
    }

    /// Removes a connection whose thread did not start.
    pub(super) fn remove(&self, id: u64) {
        self.lock().open.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

/// A connection's entry in the list. Dropping it removes the entry, also after a panic.
pub(super) struct ConnectionSlot<'a> {
    shared: &'a Shared,
    id: u64,
    socket: Arc<Socket>,
}

impl<'a> ConnectionSlot<'a> {
    pub(super) fn new(shared: &'a Shared, id: u64, socket: Arc<Socket>) -> Self {
        Self { shared, id, socket }
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(super) fn is_operator(&self) -> bool {
        matches!(*self.socket, Socket::Unix(_))
    }

    /// Marks the connection as busy with a request.
    pub(super) fn busy(&self) {
        self.set(true);
    }

    /// Marks the connection as idle; `true` if the server stops.
    pub(super) fn idle(&self) -> bool {
        self.set(false)
    }

    fn set(&self, is_busy: bool) -> bool {
        let mut connections = self.shared.lock();
        if let Some(open) = connections.open.get_mut(&self.id) {
            open.is_busy = is_busy;
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
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::http::{Request, Response};

    struct Nothing;

    impl Handler for Nothing {
        fn handle(&self, _: &mut Request<'_>) -> Response {
            Refusal::NoRoute.into()
        }
    }

    fn shared(connections: usize) -> Shared {
        let limits =
            Limits { connections, per_peer: 2, memory: 0, request_timeout: Duration::ZERO };
        Shared::new(Arc::new(Nothing), limits)
    }

    fn tcp() -> Arc<Socket> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Arc::new(Socket::Tcp(std::net::TcpStream::connect(address).unwrap()))
    }

    #[test]
    fn connections_of_one_address_are_limited() {
        let shared = shared(10);
        let (one, other) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));

        assert!(shared.admit(tcp(), one).is_ok());
        assert!(shared.admit(tcp(), one).is_ok());
        assert!(shared.admit(tcp(), one).is_err());
        assert!(shared.admit(tcp(), other).is_ok());
        assert!(shared.admit(tcp(), None).is_ok());
    }

    #[test]
    fn the_operator_connects_when_all_network_connections_are_taken() {
        let shared = shared(1);
        let operator = Arc::new(Socket::Unix(UnixStream::pair().unwrap().0));

        assert!(shared.admit(tcp(), None).is_ok());
        assert!(shared.admit(tcp(), None).is_err());
        assert!(shared.is_crowded());
        assert!(shared.admit(operator, None).is_ok());
    }

    #[test]
    fn connections_are_rejected_after_the_stop_began() {
        let shared = shared(10);

        shared.close_idle();

        assert!(matches!(shared.admit(tcp(), None), Err(Error::Stopped)));
    }
}
