//! The thread that accepts connections, the threads that serve them, and their end.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::error::chain;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Handler;
use super::connection::serve;
use super::shared::{ConnectionSlot, Limits, Shared};
use super::socket::Socket;
use crate::clock::after;
use crate::{Error, Result};

mod accept;

const THREAD: &str = "platform-accept";

/// A non-blocking listener.
pub(crate) enum Endpoint {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A running server. Dropping it closes all connections.
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
        let shared = Arc::new(Shared::new(handler, limits));
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| fail(errno.into()))?;
        let stop = Arc::new(stop);
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            let run = move || accept::run(&endpoints, &shared, stop.as_fd());
            base::thread::spawn(THREAD, run).map_err(fail)?
        };
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Accepts no more requests. Those under way get `grace` to finish; then they are closed.
    pub(crate) fn stop(&mut self, grace: Duration) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.close_idle();
        if let Err(errno) = self.stop.write(1) {
            log::error!("cannot signal a thread; thread={THREAD} error={errno}");
        }
        self.shared.close_all(after(Instant::now(), grace));
        // The thread joins those of the connections, whose sockets are shut down.
        thread.join().map_err(|_| Error::Panicked { name: THREAD })
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
fn start(shared: &Arc<Shared>, id: u64, socket: Arc<Socket>) -> std::io::Result<JoinHandle<()>> {
    const STACK: usize = 512 * 1024;
    let shared = Arc::clone(shared);
    base::thread::spawn_with_stack(format!("platform-{id}"), STACK, move || {
        let slot = ConnectionSlot::new(&shared, id, socket);
        serve(&slot, &shared);
    })
}
