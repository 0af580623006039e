//! The thread that accepts connections, the threads that serve them, and their end.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Handler;
use super::connection::serve;
use super::memory::Memory;
use super::socket::Socket;
use crate::clock::after;
use crate::error::chain;
use crate::{Error, Refusal, Result};

mod accept;

/// How many connections are for the operator alone.
const FOR_OPERATOR: usize = 32;

const THREAD: &str = "platform-accept";

/// How much of everything there may be at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// From one address that is not this host.
    pub(crate) per_peer: usize,
    /// For the bodies of all guests in memory, in bytes, and as much again for all others.
    pub(crate) memory: u64,
    /// For a request's head, and for its body, which has a second more for each MiB; uploads have
    /// more.
    pub(crate) patience: Duration,
}

/// Where connections come from. It does not block.
pub(crate) enum Endpoint {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A running server. Dropping it cuts off what is under way.
pub(crate) struct Server {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        endpoints: Vec<Endpoint>,
        limits: Limits,
        handler: Arc<dyn Handler>,
    ) -> Result<Self> {
        let fail = |source| Error::Thread { name: THREAD, source };
        let memory = Memory::new(limits.memory);
        let shared =
            Shared { handler, memory, limits, places: Mutex::default(), left: Condvar::new() };
        let shared = Arc::new(shared);
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| fail(errno.into()))?;
        let stop = Arc::new(stop);
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            Builder::new()
                .name(THREAD.to_owned())
                .spawn(move || accept::run(&endpoints, &shared, stop.as_fd()))
                .map_err(fail)?
        };
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Takes no more requests; those under way have until `grace` is over, then they are cut off.
    pub(crate) fn stop(&mut self, grace: Duration) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.close_idle();
        if let Err(errno) = self.stop.write(1) {
            log::error!("cannot signal a thread; thread={THREAD} error={errno}");
        }
        self.shared.close_all(after(Instant::now(), grace));
        // It joins those of the connections, which have no socket any more to sleep on.
        thread.join().map_err(|_| Error::Panicked { name: THREAD })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Duration::ZERO) {
            log::error!("the server did not stop well; error={}", chain(&error));
        }
    }
}

/// What all threads of a server share.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) memory: Memory,
    pub(super) limits: Limits,
    places: Mutex<Places>,
    left: Condvar,
}

#[derive(Default)]
struct Places {
    open: HashMap<u64, Open>,
    next: u64,
    is_stopping: bool,
}

struct Open {
    socket: Arc<Socket>,
    peer: Option<IpAddr>,
    is_busy: bool,
}

impl Shared {
    /// A place for a connection, if there is one left and the server goes on.
    fn enter(&self, socket: Arc<Socket>, peer: Option<IpAddr>) -> Result<u64> {
        let mut places = self.lock();
        if places.is_stopping {
            return Err(Error::Stopped);
        }
        let from_peer = places.open.values().filter(|open| peer.is_some() && open.peer == peer);
        // Whoever crowds the network must not lock the operator out.
        let most = match *socket {
            Socket::Unix(_) => self.limits.connections + FOR_OPERATOR,
            Socket::Tcp(_) => self.limits.connections,
        };
        let is_full = places.open.len() >= most || from_peer.count() >= self.limits.per_peer;
        if is_full {
            log::warn!("a client is turned away: there are too many; peer={peer:?}");
            return Err(Refusal::Busy.into());
        }
        places.next += 1;
        let id = places.next;
        places.open.insert(id, Open { socket, peer, is_busy: false });
        Ok(id)
    }

    /// Whether connections should end after their request, to make room.
    pub(super) fn is_crowded(&self) -> bool {
        let places = self.lock();
        places.is_stopping || places.open.len() * 4 >= self.limits.connections * 3
    }

    fn close_idle(&self) {
        let mut places = self.lock();
        places.is_stopping = true;
        let idle = places.open.values().filter(|open| !open.is_busy);
        idle.for_each(|open| open.socket.shutdown(Shutdown::Both));
    }

    fn close_all(&self, deadline: Instant) {
        let mut places = self.lock();
        while !places.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("requests are cut off; count={}", places.open.len());
                break;
            }
            let waited = self.left.wait_timeout(places, left);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        places.open.values().for_each(|open| open.socket.shutdown(Shutdown::Both));
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among all. Dropping it gives it up, in a panic too.
pub(super) struct Place<'a> {
    shared: &'a Shared,
    id: u64,
    socket: Arc<Socket>,
}

impl Place<'_> {
    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(super) fn is_operator(&self) -> bool {
        matches!(*self.socket, Socket::Unix(_))
    }

    /// A request has begun.
    pub(super) fn busy(&self) {
        self.set(true);
    }

    /// A request is over; `true` if it was the last.
    pub(super) fn idle(&self) -> bool {
        self.set(false)
    }

    fn set(&self, is_busy: bool) -> bool {
        let mut places = self.shared.lock();
        if let Some(open) = places.open.get_mut(&self.id) {
            open.is_busy = is_busy;
        }
        places.is_stopping
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.lock().open.remove(&self.id);
        self.shared.left.notify_all();
    }
}

/// Starts the thread of a connection that has a place.
fn start(shared: &Arc<Shared>, id: u64, socket: Arc<Socket>) -> std::io::Result<JoinHandle<()>> {
    const STACK: usize = 512 * 1024;
    let shared = Arc::clone(shared);
    Builder::new().name(format!("platform-{id}")).stack_size(STACK).spawn(move || {
        let place = Place { shared: &shared, id, socket };
        serve(&place, &shared);
    })
}

#[cfg(test)]
mod tests {
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
        Shared {
            handler: Arc::new(Nothing),
            memory: Memory::new(0),
            limits: Limits { connections, per_peer: 2, memory: 0, patience: Duration::ZERO },
            places: Mutex::default(),
            left: Condvar::new(),
        }
    }

    fn tcp() -> Arc<Socket> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Arc::new(Socket::Tcp(std::net::TcpStream::connect(address).unwrap()))
    }

    #[test]
    fn one_peer_gets_its_share_and_no_more() {
        let shared = shared(10);
        let (one, other) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));

        assert!(shared.enter(tcp(), one).is_ok());
        assert!(shared.enter(tcp(), one).is_ok());
        assert!(shared.enter(tcp(), one).is_err());
        assert!(shared.enter(tcp(), other).is_ok());
        assert!(shared.enter(tcp(), None).is_ok());
    }

    #[test]
    fn the_operator_finds_a_place_when_all_others_are_taken() {
        let shared = shared(1);
        let operator = Arc::new(Socket::Unix(UnixStream::pair().unwrap().0));

        assert!(shared.enter(tcp(), None).is_ok());
        assert!(shared.enter(tcp(), None).is_err());
        assert!(shared.is_crowded());
        assert!(shared.enter(operator, None).is_ok());
    }

    #[test]
    fn nobody_is_let_in_after_the_end_has_begun() {
        let shared = shared(10);

        shared.close_idle();

        assert!(matches!(shared.enter(tcp(), None), Err(Error::Stopped)));
    }
}
