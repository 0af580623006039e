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

use super::request::Request;
use crate::deadline::Deadline;
use crate::error::{Halt, Loss};
use crate::monitor::lock;
use crate::wire::outbox::Outbox;
use crate::wire::registration::Registration;

/// The guest's identity, from its greeting.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) boot_id: BootId,
    pub(crate) previous_failure: Option<String>,
    pub(crate) ready: Ready,
}

/// The destination of the guest's answers to one request.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// A caller of this process.
    Call(Arc<Request>),
    /// A client of a relay, and its own id of the request.
    Client(Token, RequestId),
    /// A connection that is forwarded to a port.
    Forward(Token),
    /// The listener whose ports are watched.
    Ports(Token),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) identity: Identity,
    pub(crate) outbox: Outbox,
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) registration: Registration,
    routes: Mutex<BTreeMap<RequestId, Route>>,
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

    /// Sends a request without waiting, and routes its answers.
    pub(crate) fn start(&self, route: Route, body: HostBody<'_>) -> Result<RequestId, Halt> {
        let id = self.next_id();
        self.add_route(id, route)?;
        if let Err(halt) = self.send_now(id, body) {
            self.remove_route(id);
            return Err(halt);
        }
        Ok(id)
    }

    /// Ends a request that no answer is wanted to. If the guest is gone, then so is the request.
    pub(crate) fn cancel(&self, id: RequestId) {
        self.remove_route(id);
        // One for each request at most.
        let _ = self.send_now(id, HostBody::Cancel);
    }

    /// Routes answers to `id`.
    pub(crate) fn add_route(&self, id: RequestId, route: Route) -> Result<(), Halt> {
        let mut routes = lock(&self.routes);
        // Looked at under the lock that `fail` empties the routes under, after it has set this.
        self.check()?;
        routes.insert(id, route);
        Ok(())
    }

    /// The destination of answers to `id`, while the request is under way.
    pub(crate) fn route(&self, id: RequestId) -> Option<Route> {
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

    /// Sends without waiting, and holds what is sent after it.
    pub(crate) fn send_last(&self, id: RequestId, body: HostBody<'_>) -> Result<(), Halt> {
        self.outbox.send_last(&HostMessage { id, body })
    }

    /// Fails all calls; the first reason is kept. The reactor closes the socket.
    pub(crate) fn fail(&self, loss: Loss) {
        let loss = Arc::new(loss);
        if self.loss.set(Arc::clone(&loss)).is_err() {
            return;
        }
        self.outbox.close(&loss);
        let routes = std::mem::take(&mut *lock(&self.routes));
        for route in routes.values() {
            if let Route::Call(request) = route {
                request.fail(&loss);
            }
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
