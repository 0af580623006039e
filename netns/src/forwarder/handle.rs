//! Requests to the thread, and what its users hold.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::{Registry, Token, Waker};
use sandbox::EgressObserver;

use super::hosts::Hosts;
use crate::drop_log::DropLog;
use crate::namespace::Namespace;
use crate::slot::DnsSockets;
use crate::{Error, Result};

pub(super) const THREAD: &str = "forwarder";

/// The token of the waker: a request has come.
pub(super) const WAKER: Token = Token(0);

/// Starts forwardings. Clones address the same thread.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    requests: Sender<ForwarderRequest>,
    waker: Arc<Waker>,
}

/// A forwarding, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarding {
    handle: Handle,
    id: u64,
}

/// Receives the ports that have listeners.
pub type ListenerCallback = Box<dyn Fn(&[u16]) + Send>;

/// A path to a guest's ports that does not use its network.
pub trait GuestPorts: Send + Sync {
    /// Connects `connection` to a port of the guest, also one on 127.0.0.1. Resets the connection if
    /// nothing listens there. `guard` is dropped when the connection has ended. Does not block.
    fn connect(&self, port: u16, connection: TcpStream, guard: Box<dyn Any + Send>);

    /// Calls `notify` with those of `ports` that have listeners in the guest: once now, and after each
    /// change until the next call of `watch`. Does not block.
    fn watch(&self, ports: Vec<u16>, notify: ListenerCallback);
}

/// The target of the connections to a port.
#[derive(Debug)]
pub(crate) struct Target {
    /// The namespace of the guest; `None` for the host's.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) address: SocketAddr,
}

/// A request to the thread.
pub(super) enum ForwarderRequest {
    /// Start a forwarding, and send its number back.
    Dns(DnsSockets, Option<Arc<dyn EgressObserver>>, Option<Hosts>, Sender<u64>),
    Drops(DropLog, Arc<dyn EgressObserver>, Sender<u64>),
    Tcp(TcpListener, Target, Sender<u64>),
    /// Use `ports` for connections that the guest's network refuses.
    Reach {
        id: u64,
        ports: Arc<dyn GuestPorts>,
        handle: Handle,
    },
    /// Accept the connections to a port, or refuse them.
    Listen {
        id: u64,
        wanted: bool,
    },
    /// A connection by way of `GuestPorts` has ended.
    GuestConnectionEnded {
        id: u64,
    },
    /// End a forwarding. The sender is dropped when all of its sockets are closed.
    End {
        id: u64,
        _done: Sender<()>,
    },
    Stop,
}

impl Handle {
    pub(super) fn new(registry: &Registry) -> Result<(Self, Receiver<ForwarderRequest>)> {
        let waker = Waker::new(registry, WAKER).map_err(|source| Error::Poll { source })?;
        let (requests, requests_rx) = unbounded();
        Ok((Self { requests, waker: Arc::new(waker) }, requests_rx))
    }

    /// Forwards the DNS queries that arrive at `sockets` to the host's DNS servers. An observer decides
    /// which names may be resolved. With `hosts`, other names are refused.
    pub(crate) fn forward_dns(
        &self,
        sockets: &DnsSockets,
        observer: Option<Arc<dyn EgressObserver>>,
        hosts: Option<Hosts>,
    ) -> Result<Forwarding> {
        let sockets = sockets.duplicate()?;
        self.start(|reply| ForwarderRequest::Dns(sockets, observer, hosts, reply))
    }

    /// Reports dropped packets to an observer.
    pub(crate) fn report_drops(
        &self,
        log: DropLog,
        observer: Arc<dyn EgressObserver>,
    ) -> Result<Forwarding> {
        self.start(|reply| ForwarderRequest::Drops(log, observer, reply))
    }

    /// Forwards the connections to `listener`.
    pub(crate) fn forward_tcp(&self, listener: TcpListener, target: Target) -> Result<Forwarding> {
        self.start(|reply| ForwarderRequest::Tcp(listener, target, reply))
    }

    /// Uses `guest` for published ports. From now on, connections to ports without a listener in the
    /// guest are refused.
    pub(crate) fn reach(&self, published: &[(u16, Forwarding)], guest: &Arc<dyn GuestPorts>) {
        for (_, forwarding) in published {
            let (ports, handle) = (Arc::clone(guest), self.clone());
            self.send(ForwarderRequest::Reach { id: forwarding.id, ports, handle });
        }
        let ids: Vec<(u16, u64)> =
            published.iter().map(|(port, forwarding)| (*port, forwarding.id)).collect();
        let ports = published.iter().map(|(port, _)| *port).collect();
        let handle = self.clone();
        let notify = move |listening: &[u16]| {
            for (port, id) in &ids {
                let wanted = listening.contains(port);
                handle.send(ForwarderRequest::Listen { id: *id, wanted });
            }
        };
        guest.watch(ports, Box::new(notify));
    }

    /// A connection by way of `GuestPorts` has ended.
    pub(super) fn guest_connection_ended(&self, id: u64) {
        self.send(ForwarderRequest::GuestConnectionEnded { id });
    }

    pub(super) fn stop(&self) {
        self.send(ForwarderRequest::Stop);
    }

    fn start(&self, request: impl FnOnce(Sender<u64>) -> ForwarderRequest) -> Result<Forwarding> {
        let (reply_tx, reply) = bounded(1);
        self.send(request(reply_tx));
        let id = reply.recv().map_err(|_| Error::Panicked { name: THREAD })?;
        Ok(Forwarding { handle: self.clone(), id })
    }

    fn send(&self, request: ForwarderRequest) {
        // Sending fails only if the thread has ended, and with it every forwarding.
        let _ = self.requests.send(request);
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the forwarder; error={error}");
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let (done_tx, done) = bounded::<()>(0);
        self.handle.send(ForwarderRequest::End { id: self.id, _done: done_tx });
        let _ = done.recv();
    }
}

impl DnsSockets {
    fn duplicate(&self) -> Result<Self> {
        let failed = |source: io::Error| Error::Socket { kind: "DNS", source };
        let udp = self.udp.try_clone().map_err(failed)?;
        let tcp = self.tcp.try_clone().map_err(failed)?;
        Ok(Self { udp, tcp })
    }
}
