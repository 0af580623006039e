//! Forwards the connections to one port: from the host to the guest, or from the gateway to the host.
//!
//! ```text
//!   accepted ─▶ connecting to the target ─▶ forwarded
//!                    └─ refused ─▶ `GuestPorts`, which reaches the guest's 127.0.0.1
//!                                       └─ absent, or also refused: reset
//! ```

use std::any::Any;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::acceptor::Acceptor;
use super::context::Context;
use super::handle::{GuestPorts, Handle, Target};
use super::pair::{ConnectionPairs, reset_on_close};
use crate::{Error, Result};

/// The limit of open connections. More wait in the listen backlog.
const CONNECTIONS: usize = 256;

/// The least time between two warnings about waiting connections.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A listening socket and the target of its connections.
#[derive(Debug)]
pub(super) struct TcpForwarder {
    acceptor: Acceptor,
    target: Target,
    pairs: ConnectionPairs,
    guest: Option<GuestPath>,
    /// Open connections by way of `guest`.
    guest_connections: usize,
    /// The limit is reached, so connections may be waiting.
    is_full: bool,
    last_warning: Option<Instant>,
}

/// A path to the guest's ports that does not use its network.
pub(super) struct GuestPath {
    pub(super) ports: Arc<dyn GuestPorts>,
    pub(super) handle: Handle,
    /// The number of the forwarder.
    pub(super) id: u64,
}

impl std::fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestPath").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Dropped when a connection by way of `GuestPorts` ends.
struct EndNotice {
    handle: Handle,
    id: u64,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.handle.guest_connection_ended(self.id);
    }
}

impl TcpForwarder {
    pub(super) fn open(
        listener: std::net::TcpListener,
        target: Target,
        context: &mut Context<'_>,
    ) -> Self {
        Self {
            acceptor: Acceptor::open(listener, context),
            target,
            pairs: ConnectionPairs::default(),
            guest: None,
            guest_connections: 0,
            is_full: false,
            last_warning: None,
        }
    }

    /// Uses `guest` for refused connections. Until `guest` reports a listener, all connections are
    /// refused.
    pub(super) fn reach(&mut self, guest: GuestPath) {
        if self.guest.replace(guest).is_none() {
            self.acceptor.set_listening(false);
        }
    }

    /// Accepts connections or refuses them.
    pub(super) fn set_listening(&mut self, wanted: bool) {
        self.acceptor.set_listening(wanted);
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token == self.acceptor.token {
            return self.accept(context);
        }
        if let Some(near) = self.pairs.ready(token, context) {
            self.connect_by_guest(near);
        }
        self.resume(context);
    }

    /// A connection by way of `GuestPorts` has ended.
    pub(super) fn guest_connection_ended(&mut self, context: &mut Context<'_>) {
        self.guest_connections = self.guest_connections.saturating_sub(1);
        self.resume(context);
    }

    fn open_count(&self) -> usize {
        self.pairs.count() + self.guest_connections
    }

    fn accept(&mut self, context: &mut Context<'_>) {
        let room = CONNECTIONS.saturating_sub(self.open_count());
        for near in self.acceptor.accept(room, context) {
            match self.target.connect() {
                Ok(far) => self.pairs.add(near, far, context),
                Err(error) => {
                    log::debug!("{}", base::error::chain(&error));
                    self.connect_by_guest(near);
                }
            }
        }
        self.is_full = self.open_count() >= CONNECTIONS;
        let now = Instant::now();
        let may_warn =
            self.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if self.is_full && may_warn {
            self.last_warning = Some(now);
            let to = self.target.address;
            log::warn!("connections to a port have to wait; to={to} open={CONNECTIONS}");
        }
    }

    /// Accepts waiting connections once there is room again.
    fn resume(&mut self, context: &mut Context<'_>) {
        if self.is_full && self.open_count() < CONNECTIONS {
            self.is_full = false;
            context.set_ready(self.acceptor.token);
        }
    }

    /// Hands a connection that the target refused to `GuestPorts`; without one, resets it.
    fn connect_by_guest(&mut self, near: TcpStream) {
        let Some(GuestPath { ports, handle, id }) = &self.guest else {
            return reset_on_close(&near);
        };
        let guard: Box<dyn Any + Send> = Box::new(EndNotice { handle: handle.clone(), id: *id });
        self.guest_connections += 1;
        ports.connect(self.target.address.port(), StdTcpStream::from(near), guard);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.acceptor.retry_at()
    }

    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        self.ready(self.acceptor.token, context);
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        self.pairs.close(context);
        self.acceptor.close(context);
    }
}

impl Target {
    fn connect(&self) -> Result<TcpStream> {
        let connect = || {
            let failed = |source| Error::Socket { kind: "forwarder's", source };
            TcpStream::connect(self.address).map_err(failed)
        };
        match &self.namespace {
            Some(namespace) => namespace.within(connect),
            None => connect(),
        }
    }
}
