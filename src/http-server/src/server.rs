//! The thread that accepts connections, the threads that serve them, and their end.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::deadline::after;
use base::error::chain;
use base::event::Event;
use rustls::ServerConfig;

use crate::connection::serve;
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::shared::{ConnectionSlot, Limits, Shared};
use crate::tls::Pump;

use self::accept::Accepted;

mod accept;

/// A listener. The server makes it non-blocking.
pub enum Endpoint {
    /// For clients of the network.
    Tcp(TcpListener),
    /// For clients of the network, over TLS: see [`tls::config`](crate::tls::config).
    Tls(TcpListener, Arc<ServerConfig>),
    /// For the server's own user and root ([`Peer::Unix`](crate::Peer::Unix)). Other users are rejected.
    Unix(UnixListener),
}

/// A running server. Dropping it closes all connections.
pub struct Server {
    name: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the endpoints. The names of the threads begin with `name`, which has at most 8 bytes.
    pub fn start(
        name: &'static str,
        endpoints: Vec<Endpoint>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Result<Self> {
        let fail = |source| Error::Thread { name: format!("{name}-accept"), source };
        endpoints.iter().try_for_each(Endpoint::set_nonblocking).map_err(fail)?;
        let stop = Event::new().map_err(|errno| fail(errno.into()))?;
        let shared = Arc::new(Shared::new(handler, limits, stop));
        let thread = {
            let shared = Arc::clone(&shared);
            let run = move || accept::run(name, &endpoints, &shared);
            base::thread::spawn(format!("{name}-accept"), run).map_err(fail)?
        };
        Ok(Self { name, shared, thread: Some(thread) })
    }

    /// Accepts no more requests. Those under way get `grace` to finish; then they are closed.
    pub fn stop(&mut self, grace: Duration) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.close_idle();
        self.shared.close_all(after(Instant::now(), grace));
        // The thread joins those of the connections, whose sockets are shut down.
        thread.join().map_err(|_| Error::Panicked { name: format!("{}-accept", self.name) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Duration::ZERO) {
            log::error!("cannot stop the server; error={}", chain(&error));
        }
    }
}

/// Starts the thread of an admitted connection.
fn start(
    name: &'static str,
    shared: &Arc<Shared>,
    id: u64,
    accepted: Accepted,
) -> std::io::Result<JoinHandle<()>> {
    /// Address space; only what a handler uses of it becomes memory.
    const STACK: usize = 512 * 1024;
    let shared = Arc::clone(shared);
    base::thread::spawn_with_stack(format!("{name}-{id}"), STACK, move || {
        let Accepted { socket, peer, encrypted } = accepted;
        let tcp = encrypted.as_ref().map(|one| one.tcp.clone());
        let slot = ConnectionSlot::new(&shared, id, (socket.clone(), tcp), peer);
        let handshake = shared.limits.request_timeout;
        let start = |one| Pump::start((name, id), one, socket, handshake);
        let pump = encrypted.map(start);
        match pump.transpose() {
            Ok(_pump) => serve(&slot, &shared),
            Err(error) => log::warn!("cannot start the thread of a connection; error={error}"),
        }
    })
}
