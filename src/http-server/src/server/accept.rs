//! The thread that accepts connections. It sleeps in one `poll`, owns the threads of the connections,
//! and joins them before it ends.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::deadline::poll_timeout;
use base::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{self, PeerCredentials};
use nix::sys::socket::{getsockopt, setsockopt};

use super::{Endpoint, start};
use crate::handler::Peer;
use crate::response::Framing;
use crate::shared::Shared;
use crate::socket::Socket;
use crate::tls::Encrypted;

/// The delay after a failed `accept`, for example without free descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Seconds of silence until a client is asked whether it is there, and between nine such questions.
const KEEP_ALIVE_IDLE: u32 = 60;
const KEEP_ALIVE_INTERVAL: u32 = 15;

/// An accepted connection.
pub(super) struct Accepted {
    /// What the HTTP code serves.
    pub(super) socket: Socket,
    pub(super) peer: Peer,
    /// What is between `socket` and a client of TLS.
    pub(super) encrypted: Option<Encrypted>,
}

type Threads = HashMap<u64, JoinHandle<()>>;

pub(super) fn run(name: &'static str, endpoints: &[Endpoint], shared: &Arc<Shared>) {
    let mut threads = Threads::new();
    let mut paused_until = None;
    while wait(endpoints, &shared.stop, paused_until) {
        reap(&mut threads, JoinHandle::is_finished);
        let mut accept = |endpoint| accept_all(name, endpoint, shared, &mut threads);
        let accepted = endpoints.iter().all(&mut accept);
        paused_until = (!accepted).then(|| Instant::now() + PAUSE);
    }
    reap(&mut threads, |_| true);
}

/// Waits for a connection; `false` at the stop.
fn wait(endpoints: &[Endpoint], stop: &Event, paused_until: Option<Instant>) -> bool {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    let mut timeout = PollTimeout::NONE;
    match paused_until {
        None => fds.extend(endpoints.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN))),
        Some(until) => timeout = poll_timeout(until),
    }
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => {
                log::error!("cannot wait for connections; error={errno}");
                return false;
            }
            Ok(_) => return !fds[0].any().unwrap_or(true),
        }
    }
}

/// Accepts all waiting connections; `false` if `accept` failed.
fn accept_all(
    name: &'static str,
    endpoint: &Endpoint,
    shared: &Arc<Shared>,
    threads: &mut Threads,
) -> bool {
    loop {
        match endpoint.accept() {
            Ok(Some(accepted)) => {
                if let Some((id, thread)) = admit(name, accepted, shared) {
                    threads.insert(id, thread);
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("cannot accept a client; error={error}");
                return false;
            }
        }
    }
}

/// Starts a thread for the connection, or replies with the reason why not.
fn admit(
    name: &'static str,
    accepted: Accepted,
    shared: &Arc<Shared>,
) -> Option<(u64, JoinHandle<()>)> {
    let tcp = accepted.encrypted.as_ref().map(|encrypted| encrypted.tcp.clone());
    let id = match shared.admit(accepted.socket.clone(), tcp, accepted.peer) {
        Ok(id) => id,
        // A handshake first would take a thread.
        Err(_) if accepted.encrypted.is_some() => return None,
        Err(refusal) => {
            // It fits the send buffer of a new socket.
            let _ = shared.handler.refuse(&refusal).send(&accepted.socket, &Framing::LAST);
            return None;
        }
    };
    match start(name, shared, id, accepted) {
        Ok(thread) => Some((id, thread)),
        Err(error) => {
            log::warn!("cannot start the thread of a connection; error={error}");
            shared.remove(id);
            None
        }
    }
}

fn reap(threads: &mut Threads, is_over: impl Fn(&JoinHandle<()>) -> bool) {
    let over = threads.extract_if(|_, thread| is_over(thread)).collect::<Vec<_>>();
    for (_, thread) in over {
        base::thread::join(thread);
    }
}

impl Endpoint {
    /// Accepts a connection; `None` if the peer is rejected.
    fn accept(&self) -> io::Result<Option<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = accept_tcp(listener)?;
                Ok(Some(Accepted { socket, peer, encrypted: None }))
            }
            Self::Tls(listener, config) => {
                let (tcp, peer) = accept_tcp(listener)?;
                let (encrypted, socket) = Encrypted::new(tcp, Arc::clone(config))?;
                Ok(Some(Accepted { socket, peer, encrypted: Some(encrypted) }))
            }
            Self::Unix(listener) => {
                let (socket, _) = listener.accept()?;
                let ours = is_ours(&socket).then(|| Socket::new(socket));
                Ok(ours.map(|socket| Accepted { socket, peer: Peer::Unix, encrypted: None }))
            }
        }
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

fn accept_tcp(listener: &TcpListener) -> io::Result<(Socket, Peer)> {
    let (socket, peer) = listener.accept()?;
    // Without it a reply's last piece waits for the acknowledgement of the one before.
    socket.set_nodelay(true)?;
    // A client that vanished ends a silent stream after some minutes.
    let keep_alive = setsockopt(&socket, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(&socket, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE))
        .and_then(|()| setsockopt(&socket, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL));
    keep_alive.map_err(io::Error::from)?;
    Ok((Socket::new(socket), Peer::Tcp(peer.ip().to_canonical())))
}

/// Whether a client is the user who serves, or root.
fn is_ours(client: &UnixStream) -> bool {
    match getsockopt(client, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => true,
        Ok(peer) => {
            log::warn!("a client was rejected; uid={} pid={}", peer.uid(), peer.pid());
            false
        }
        Err(errno) => {
            log::warn!("cannot read the credentials of a client; error={errno}");
            false
        }
    }
}
