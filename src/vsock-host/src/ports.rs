//! Forwarding to the ports of a guest, across its connections.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;

use mio::Token;
use vsock_proto::{HostBody, WatchPorts};

use crate::Result;
use crate::engine::Engine;
use crate::forward::{Destination, ForwardRequest};
use crate::remote::{Command, Remote};

/// Reaches the ports of the guest that a [`Listener`](crate::Listener) has, again after it has
/// dialled again. Clones are the same; nothing here waits.
#[derive(Debug, Clone)]
pub struct Ports {
    listener: Token,
    remote: Remote,
}

/// The callback for the ports that have listeners. The reactor calls it, so it must not wait.
pub(crate) type Tell = Box<dyn Fn(&[u16]) + Send>;

/// The ports that the guest of a listener must watch.
pub(crate) struct PortWatch {
    pub(crate) ports: Vec<u16>,
    pub(crate) tell: Tell,
}

impl fmt::Debug for PortWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortWatch").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Ports {
    pub(crate) fn new(listener: Token, remote: Remote) -> Self {
        Self { listener, remote }
    }

    /// Joins a connected stream socket with a port of the guest. If nothing listens there, or the
    /// connection breaks, a socket of TCP is reset. `kept` is dropped when the connection has ended.
    pub fn connect(&self, port: u16, socket: OwnedFd, kept: Box<dyn Any + Send>) -> Result<()> {
        let opened = Box::new(move |result: std::result::Result<(), _>| {
            if let Err(failed) = result {
                log::debug!("a connection to a guest's port fails; port={port} reason={failed:?}");
            }
        });
        let to = Destination::Listener(self.listener);
        let request = ForwardRequest { to, port, socket, opened, kept };
        self.remote.send(Command::Forward(request))
    }

    /// Has `tell` called with those of `ports` that have listeners in the guest, at first and
    /// whenever that changes. The next call, for no ports perhaps, ends it.
    pub fn watch(&self, ports: Vec<u16>, tell: impl Fn(&[u16]) + Send + 'static) -> Result<()> {
        let watch = PortWatch { ports, tell: Box::new(tell) };
        self.remote.send(Command::WatchPorts { listener: self.listener, watch })
    }
}

impl Engine {
    pub(crate) fn watch_ports(&mut self, listener: Token, watch: PortWatch) {
        if let Some(listening) = self.listeners.get_mut(&listener) {
            listening.ports = Some(watch);
            self.renew_port_watch(listener);
        }
    }

    /// Makes the guest of a listener watch exactly the listener's ports.
    pub(crate) fn renew_port_watch(&mut self, listener: Token) {
        let Some(listening) = self.listeners.get(&listener) else {
            return;
        };
        let Some(link) = listening.current().and_then(|token| self.guests.get_mut(&token)) else {
            return;
        };
        // A lost guest gets the request again when it has reconnected.
        if let Some((id, _)) = link.watched.take() {
            let _ = link.connection.send_now(id, HostBody::Cancel);
        }
        if let Some(watch) = listening.ports.as_ref().filter(|watch| !watch.ports.is_empty()) {
            let id = link.connection.next_id();
            let request = WatchPorts { ports: watch.ports.clone() };
            let _ = link.connection.send_now(id, HostBody::WatchPorts(request));
            link.watched = Some((id, listener));
        }
    }

    /// Reports the ports that have listeners, as the guest sent them.
    pub(crate) fn tell_ports(&self, listener: Token, listening: &[u16]) {
        if let Some(watch) = self.listeners.get(&listener).and_then(|one| one.ports.as_ref()) {
            let is_watched = |port: &u16| listening.contains(port);
            let ports: Vec<u16> = watch.ports.iter().copied().filter(is_watched).collect();
            (watch.tell)(&ports);
        }
    }
}
