//! A port that leads elsewhere: one of the host's to the guest, or one of the gateway's to the host.
//!
//! ```text
//!   accepted ─▶ connecting to the target ─▶ passed on
//!                    └─ refused ─▶ the guest's own way (`GuestPorts`), for its 127.0.0.1
//!                                       └─ there is none, or it is refused there, too: reset
//! ```

use std::any::Any;
use std::net::TcpStream as Std;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::door::Door;
use super::reactor::Context;
use super::stream::{Streams, break_off};
use super::{GuestPorts, Handle, Request, Target};
use crate::{Error, Result};

/// As many connections may be open at once; more wait in the socket's backlog.
const CONNECTIONS: usize = 256;

/// How often it is told that connections wait.
const INTERVAL: Duration = Duration::from_secs(10);

/// A socket, and where it leads.
#[derive(Debug)]
pub(super) struct Port {
    door: Door,
    target: Target,
    streams: Streams,
    guest: Option<Guest>,
    /// How many connections go by the guest's own way.
    joined: usize,
    /// Whether connections may wait for want of room.
    is_full: bool,
    told: Option<Instant>,
}

/// A guest's own way to its ports.
pub(super) struct Guest {
    pub(super) ports: Arc<dyn GuestPorts>,
    pub(super) handle: Handle,
    /// Names the port when one of its connections ends.
    pub(super) id: u64,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A connection that goes by the guest's own way; dropped at its end.
struct Joined {
    handle: Handle,
    id: u64,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.handle.ask(Request::Left { id: self.id });
    }
}

impl Port {
    pub(super) fn open(
        listener: std::net::TcpListener,
        target: Target,
        context: &mut Context<'_>,
    ) -> Self {
        let door = Door::open(listener, context);
        let streams = Streams::default();
        Self { door, target, streams, guest: None, joined: 0, is_full: false, told: None }
    }

    /// From now on the guest's own way is there. Connections are refused until it tells of a listener.
    pub(super) fn reach(&mut self, guest: Guest) {
        if self.guest.replace(guest).is_none() {
            self.door.set_listening(false);
        }
    }

    /// Takes connections or refuses them.
    pub(super) fn set_listening(&mut self, wanted: bool) {
        self.door.set_listening(wanted);
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token == self.door.token {
            return self.take(context);
        }
        if let Some(near) = self.streams.ready(token, context) {
            self.refused(near);
        }
        self.resume(context);
    }

    /// A connection by the guest's own way has ended.
    pub(super) fn left(&mut self, context: &mut Context<'_>) {
        self.joined = self.joined.saturating_sub(1);
        self.resume(context);
    }

    fn open_count(&self) -> usize {
        self.streams.count() + self.joined
    }

    fn take(&mut self, context: &mut Context<'_>) {
        let room = CONNECTIONS.saturating_sub(self.open_count());
        for near in self.door.take(room, context) {
            match self.target.connect() {
                Ok(far) => self.streams.add(near, far, context),
                Err(error) => {
                    log::debug!("{}", crate::error::chain(&error));
                    self.refused(near);
                }
            }
        }
        self.is_full = self.open_count() >= CONNECTIONS;
        let now = Instant::now();
        if self.is_full && self.told.is_none_or(|told| now.duration_since(told) >= INTERVAL) {
            self.told = Some(now);
            let to = self.target.address;
            log::warn!("connections to a port have to wait; to={to} open={CONNECTIONS}");
        }
    }

    /// Takes those that wait, if there is room again.
    fn resume(&mut self, context: &mut Context<'_>) {
        if self.is_full && self.open_count() < CONNECTIONS {
            self.is_full = false;
            context.again(self.door.token);
        }
    }

    /// The target did not take a connection.
    fn refused(&mut self, near: TcpStream) {
        let Some(Guest { ports, handle, id }) = &self.guest else {
            return break_off(&near);
        };
        let joined: Box<dyn Any + Send> = Box::new(Joined { handle: handle.clone(), id: *id });
        self.joined += 1;
        ports.connect(self.target.address.port(), Std::from(near), joined);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.door.retry()
    }

    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        self.ready(self.door.token, context);
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        self.streams.close(context);
        self.door.close(context);
    }
}

impl Target {
    fn connect(&self) -> Result<TcpStream> {
        let connect = || {
            let failed = |source| Error::Socket { kind: "relay's", source };
            TcpStream::connect(self.address).map_err(failed)
        };
        match &self.namespace {
            Some(namespace) => namespace.within(connect),
            None => connect(),
        }
    }
}
