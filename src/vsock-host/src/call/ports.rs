//! Forwarding to the ports of a guest, across its connections.

use std::any::Any;
use std::os::fd::OwnedFd;

use mio::Token;

use super::port_request::{Destination, ForwardRequest, PortWatch};
use super::remote::{Command, Remote};
use crate::Result;

/// Reaches the ports of the guest that a [`Listener`](crate::Listener) has, again after it has
/// dialled again. Clones are the same; nothing here waits.
#[derive(Debug, Clone)]
pub struct Ports {
    listener: Token,
    remote: Remote,
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

    /// Calls `notify` with those of `ports` that have listeners in the guest, at first and
    /// whenever that changes. The next call replaces this watch; one for no ports ends it.
    pub fn watch(&self, ports: Vec<u16>, notify: impl Fn(&[u16]) + Send + 'static) -> Result<()> {
        let watch = PortWatch { ports, notify: Box::new(notify) };
        self.remote.send(Command::WatchPorts { listener: self.listener, watch })
    }
}
