//! A network in use by one VM, until the lease is dropped.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use ipnet::Ipv4Net;
use sandbox::{Action, EgressObserver, Network, Protocol, Publish, Rule, Service};

use crate::drop_log::DropLog;
use crate::forwarder::{Forwarder, Forwarding, GuestPorts, Hosts, Target};
use crate::guest;
use crate::pool::PoolRequest;
use crate::slot::{Counters, Slot, TrafficConfig};
use crate::{Error, Result};

/// A leased network. Drop it only after its monitor has ended: a network that is still in use then is
/// removed and not reused.
pub struct Lease {
    // Forwardings end before the network goes back to the pool.
    dns: Option<Forwarding>,
    /// The policy has hosts, whose addresses `dns` opens.
    has_hosts: bool,
    forwardings: Vec<Forwarding>,
    /// With the port in the guest.
    published: Vec<(u16, Forwarding)>,
    /// The path to the guest's ports that does not use its network, once it is known.
    guest: Option<Arc<dyn GuestPorts>>,
    /// Decides about DNS queries.
    observer: Option<Arc<dyn EgressObserver>>,
    forwarder: Arc<Forwarder>,
    network: Borrowed,
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lease").field(&self.network).finish()
    }
}

/// A network that goes back to the pool when dropped.
#[derive(Debug)]
struct Borrowed {
    /// `None` only during the drop.
    slot: Option<Box<Slot>>,
    back: Sender<PoolRequest>,
}

impl Lease {
    pub(crate) fn new(
        slot: Box<Slot>,
        back: &Sender<PoolRequest>,
        forwarder: &Arc<Forwarder>,
    ) -> Self {
        let network = Borrowed { slot: Some(slot), back: back.clone() };
        let (forwardings, published) = Default::default();
        let forwarder = Arc::clone(forwarder);
        Self {
            dns: None,
            has_hosts: false,
            forwardings,
            published,
            guest: None,
            observer: None,
            forwarder,
            network,
        }
    }

    /// The VM's address as the host sees it.
    pub fn address(&self) -> Result<Ipv4Addr> {
        Ok(self.network.slot()?.addresses.namespace())
    }

    /// The name of the host's end of the link.
    pub fn link(&self) -> Result<String> {
        Ok(self.network.slot()?.addresses.link())
    }

    /// Opens the tap for a monitor to serve.
    pub fn open_tap(&self) -> Result<File> {
        self.network.slot()?.open_tap()
    }

    /// Lets a monitor that runs as `uid` open the tap by its name; returns the namespace that the monitor
    /// has to enter for that.
    pub fn give_tap(&self, uid: u32) -> Result<BorrowedFd<'_>> {
        let slot = self.network.slot()?;
        slot.give_tap(uid)?;
        Ok(slot.namespace.as_fd())
    }

    /// Applies a policy and limits atomically, also to open connections. After an error the lease must not
    /// be used.
    pub fn apply(&mut self, network: &Network) -> Result<()> {
        let exempt = network.reachable.iter().map(reaches).collect();
        let policy = network.policy.clone();
        let hosts = policy.only.as_ref().map(|only| only.hosts.clone());
        let traffic = TrafficConfig { policy, exempt, limits: network.limits };
        // The addresses of hosts are those of one policy.
        if hosts.is_some() || self.has_hosts {
            self.dns = None;
        }
        self.has_hosts = hosts.is_some();
        let slot = self.network.slot_mut()?;
        slot.reach(&network.reachable)?;
        slot.apply(&traffic)?;
        if !network.policy.dns {
            self.dns = None;
        } else if self.dns.is_none() {
            let open = |names| Ok(Hosts::new(names, slot.open_netfilter()?));
            let hosts = hosts.map(open).transpose()?;
            let observer = self.observer.clone();
            self.dns = Some(self.forwarder.handle().forward_dns(&slot.names, observer, hosts)?);
        }
        Ok(())
    }

    /// Publishes a port of the VM on the host as long as the lease lives; returns the host's address.
    pub fn publish(&mut self, publish: &Publish) -> Result<SocketAddrV4> {
        let failed = |source| Error::Listen { address: publish.host.into(), source };
        let listener = bind(publish.host).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let host = match listener.local_addr().map_err(failed)? {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => publish.host,
        };
        let address = SocketAddr::from((guest::ADDRESS, publish.port));
        let namespace = Some(self.network.slot()?.namespace.duplicate()?);
        let registration =
            self.forwarder.handle().forward_tcp(listener, Target { namespace, address })?;
        self.published.push((publish.port, registration));
        self.reach_published();
        Ok(host)
    }

    /// Lets published ports also reach listeners on the guest's 127.0.0.1, and refuses connections to ports
    /// without a listener in the guest.
    pub fn reach(&mut self, guest: Arc<dyn GuestPorts>) {
        self.guest = Some(guest);
        self.reach_published();
    }

    fn reach_published(&self) {
        if let Some(guest) = self.guest.as_ref().filter(|_| !self.published.is_empty()) {
            self.forwarder.handle().reach(&self.published, guest);
        }
    }

    /// Lets the VM reach a service of the host by a port of its gateway, regardless of its policy.
    pub fn serve(&mut self, service: &Service) -> Result<()> {
        let address = SocketAddr::from((guest::GATEWAY, service.port));
        let listener = self.network.slot()?.namespace.within(|| {
            let failed = |source| Error::Listen { address, source };
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            Ok(listener)
        })?;
        self.network.slot_mut()?.serve(service.port)?;
        let target = Target { namespace: None, address: service.host };
        self.forwardings.push(self.forwarder.handle().forward_tcp(listener, target)?);
        Ok(())
    }

    /// Redirects all TCP to a port of the host. `observer` gets the packets that are dropped, and decides
    /// about DNS queries. Call this before `apply`.
    pub fn intercept(&mut self, port: u16, observer: Arc<dyn EgressObserver>) -> Result<()> {
        self.network.slot_mut()?.redirect(port)?;
        let slot = self.network.slot()?;
        let log = slot.namespace.within(DropLog::open)?;
        self.forwardings.push(self.forwarder.handle().report_drops(log, Arc::clone(&observer))?);
        self.observer = Some(observer);
        if self.dns.take().is_some() {
            let observer = self.observer.clone();
            self.dns = Some(self.forwarder.handle().forward_dns(&slot.names, observer, None)?);
        }
        Ok(())
    }

    /// Closes the network: no traffic, no published ports, no services. The VM may continue to run, and
    /// `apply` opens the network again. After an error the lease must not be used.
    pub fn close(&mut self) -> Result<()> {
        (self.dns, self.observer) = (None, None);
        self.forwardings.clear();
        self.published.clear();
        if let Some(guest) = &self.guest {
            guest.watch(Vec::new(), Box::new(|_| ()));
        }
        self.network.slot_mut()?.close()
    }

    /// Connects from the namespace, bypassing the rules for the guest: to test the path to the proxy.
    pub fn connect(&self, to: SocketAddrV4, timeout: Duration) -> Result<TcpStream> {
        let failed = |source| Error::Connect { address: to.into(), source };
        let namespace = &self.network.slot()?.namespace;
        namespace.within(|| TcpStream::connect_timeout(&to.into(), timeout).map_err(failed))
    }

    /// The number of conntrack entries in the namespace.
    #[cfg(feature = "testing")]
    pub fn count_connections(&mut self) -> Result<usize> {
        self.network.slot_mut()?.count_connections()
    }

    /// The counters since the lease began.
    pub fn counters(&mut self) -> Result<Counters> {
        self.network.slot_mut()?.counters()
    }
}

/// The rule that lets a VM reach a socket, even on an internal network.
fn reaches(socket: &SocketAddrV4) -> Rule {
    Rule {
        action: Action::Allow,
        to: Ipv4Net::from(*socket.ip()),
        protocol: Some(Protocol::Tcp),
        ports: Some(socket.port()..=socket.port()),
    }
}

/// If the kernel chooses the port, binds once more by number: a socket bound to port 0 loses its port when
/// it stops listening.
fn bind(address: SocketAddrV4) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    if address.port() != 0 {
        return Ok(listener);
    }
    let chosen = listener.local_addr()?;
    drop(listener);
    TcpListener::bind(chosen)
}

impl Borrowed {
    fn slot(&self) -> Result<&Slot> {
        self.slot.as_deref().ok_or(Error::Stopped)
    }

    fn slot_mut(&mut self) -> Result<&mut Slot> {
        self.slot.as_deref_mut().ok_or(Error::Stopped)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // If the pool is gone, the network is dropped, which removes it.
            drop(self.back.send(PoolRequest::Reset(slot)));
        }
    }
}
