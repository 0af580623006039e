//! A guest's connection, as its callers and the reactor share it.
//!
//! INVARIANT: once [`Connection::fail`] has been called, no request is in the routes and none
//! gets in, and every caller has been woken.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::Token;
use vsock_proto::{BootId, HostBody, HostMessage, Ready, RequestId};

use crate::deadline::Deadline;
use crate::error::{Halt, Loss};
use crate::monitor::lock;
use crate::outbox::Outbox;
use crate::registration::Registration;
use crate::remote::{Command, Remote};
use crate::request::Request;

/// The guest's identity, from its greeting.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) boot_id: BootId,
    pub(crate) previous_failure: Option<String>,
    pub(crate) ready: Ready,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) identity: Identity,
    pub(crate) outbox: Outbox,
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) registration: Registration,
    routes: Mutex<BTreeMap<RequestId, Arc<Request>>>,
    next_id: AtomicU64,
    loss: OnceLock<Arc<Loss>>,
    /// Dropped when the connection ends.
    alive: Mutex<Option<Sender<()>>>,
    closed: Receiver<()>,
}

impl Connection {
    pub(crate) fn new(
        socket: Arc<UnixStream>,
        registration: Registration,
        identity: Identity,
    ) -> Self {
        let (alive, closed) = bounded(0);
        Self {
            identity,
            outbox: Outbox::new(Arc::clone(&socket), registration.clone()),
            socket,
            registration,
            routes: Mutex::default(),
            next_id: AtomicU64::new(1),
            loss: OnceLock::new(),
            alive: Mutex::new(Some(alive)),
            closed,
        }
    }

    /// A request id that was never used here.
    pub(crate) fn next_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Routes answers to `id` to `request`.
    pub(crate) fn add_route(&self, id: RequestId, request: &Arc<Request>) -> Result<(), Halt> {
        let mut routes = lock(&self.routes);
        // Looked at under the lock that `fail` empties the routes under, after it has set this.
        self.check()?;
        routes.insert(id, Arc::clone(request));
        Ok(())
    }

    /// The request that gets the answers to `id`.
    pub(crate) fn route(&self, id: RequestId) -> Option<Arc<Request>> {
        lock(&self.routes).get(&id).cloned()
    }

    pub(crate) fn remove_route(&self, id: RequestId) {
        lock(&self.routes).remove(&id);
    }

    pub(crate) fn send(
        &self,
        id: RequestId,
        body: HostBody<'_>,
        deadline: &Deadline,
    ) -> Result<(), Halt> {
        self.outbox.send(&HostMessage { id, body }, deadline)
    }

    /// Sends without waiting; only for messages whose number is bounded by other means.
    pub(crate) fn send_now(&self, id: RequestId, body: HostBody<'_>) -> Result<(), Halt> {
        self.outbox.send_now(&HostMessage { id, body })
    }

    /// Fails all calls; the first reason is kept. The reactor closes the socket.
    pub(crate) fn fail(&self, loss: Loss) {
        let loss = Arc::new(loss);
        if self.loss.set(Arc::clone(&loss)).is_err() {
            return;
        }
        self.outbox.close(&loss);
        let routes = std::mem::take(&mut *lock(&self.routes));
        for request in routes.values() {
            request.fail(&loss);
        }
        lock(&self.alive).take();
    }

    /// An error if it has ended.
    pub(crate) fn check(&self) -> Result<(), Halt> {
        self.loss.get().map_or(Ok(()), |loss| Err(Halt::Lost(Arc::clone(loss))))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.loss.get().is_some()
    }

    pub(crate) fn closed(&self) -> Receiver<()> {
        self.closed.clone()
    }

    pub(crate) fn token(&self) -> Token {
        self.registration.token()
    }
}

/// Keeps a connection open: all handles share one, and dropping the last closes the connection.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) connection: Arc<Connection>,
    pub(crate) remote: Remote,
}

impl Handle {
    /// Ends all calls. The reactor then sends the unsent bytes and closes the connection.
    pub(crate) fn close(&self) {
        self.connection.fail(Loss::ClosedHere);
        // Without a reactor the connection has ended.
        let _ = self.remote.send(Command::Close(self.connection.token()));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
