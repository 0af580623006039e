//! A network in use: whoever has the lease has it alone, until the lease is dropped.

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
use crate::guest;
use crate::pool::Request;
use crate::relay::{GuestPorts, Registration, Relay, Target};
use crate::slot::{Counters, Plan, Slot};
use crate::{Error, Result};

/// A leased network. It is to be dropped only when its monitor has ended: a network that is still in
/// use then is given to nobody else, but removed.
pub struct Lease {
    // Nothing is passed on any more when the network goes back.
    names: Option<Registration>,
    passed_on: Vec<Registration>,
    /// By the port in the guest.
    published: Vec<(u16, Registration)>,
    /// The guest's own way to its ports, once it is there.
    guest: Option<Arc<dyn GuestPorts>>,
    /// Who decides about questions for names.
    watch: Option<Arc<dyn EgressObserver>>,
    relay: Arc<Relay>,
    network: Borrowed,
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lease").field(&self.network).finish()
    }
}

/// The network, which goes back to the pool.
#[derive(Debug)]
struct Borrowed {
    /// None only while it is dropped.
    slot: Option<Box<Slot>>,
    back: Sender<Request>,
}

impl Lease {
    pub(crate) fn new(slot: Box<Slot>, back: &Sender<Request>, relay: &Arc<Relay>) -> Self {
        let network = Borrowed { slot: Some(slot), back: back.clone() };
        let (passed_on, published) = Default::default();
        let relay = Arc::clone(relay);
        Self { names: None, passed_on, published, guest: None, watch: None, relay, network }
    }

    /// The address that the host sees the VM as.
    pub fn address(&self) -> Result<Ipv4Addr> {
        Ok(self.network.slot()?.addresses.namespace())
    }

    /// The name of the host's link to it.
    pub fn link(&self) -> Result<String> {
        Ok(self.network.slot()?.addresses.link())
    }

    /// Opens the tap that the monitor is to serve as the VM's network card.
    pub fn open_tap(&self) -> Result<File> {
        self.network.slot()?.open_tap()
    }

    /// Lets a monitor that runs as `uid` open the tap by its name; returns the namespace that it is
    /// to be in for that.
    pub fn give_tap(&self, uid: u32) -> Result<BorrowedFd<'_>> {
        let slot = self.network.slot()?;
        slot.give_tap(uid)?;
        Ok(slot.namespace.as_fd())
    }

    /// Puts a policy and limits in force, for the open connections too: all of the policy at once.
    /// After an error it is not to be used any more.
    pub fn apply(&mut self, network: &Network) -> Result<()> {
        let mut policy = network.policy.clone();
        policy.rules.splice(0..0, network.reachable.iter().map(reaches));
        let plan = Plan { policy, limits: network.limits };
        let slot = self.network.slot_mut()?;
        slot.reach(&network.reachable)?;
        slot.apply(&plan)?;
        self.names = match (network.policy.dns, self.names.take()) {
            (true, None) => {
                Some(self.relay.handle().answer_names(&slot.names, self.watch.clone())?)
            }
            (true, served) => served,
            (false, _) => None,
        };
        Ok(())
    }

    /// Lets those who are on the host reach a port of the VM, as long as the lease lives; returns
    /// where.
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
        let registration = self.relay.handle().pass_on(listener, Target { namespace, address })?;
        self.published.push((publish.port, registration));
        self.reach_published();
        Ok(host)
    }

    /// Has published ports lead to what listens on the guest's 127.0.0.1, too, and refuses connections
    /// to those that nothing in the guest listens to.
    pub fn reach(&mut self, guest: Arc<dyn GuestPorts>) {
        self.guest = Some(guest);
        self.reach_published();
    }

    fn reach_published(&self) {
        if let Some(guest) = self.guest.as_ref().filter(|_| !self.published.is_empty()) {
            self.relay.handle().reach(&self.published, guest);
        }
    }

    /// Lets the VM reach a service of the host by a port of its gateway, whatever its policy says.
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
        self.passed_on.push(self.relay.handle().pass_on(listener, target)?);
        Ok(())
    }

    /// Has all TCP arrive at a port of the host, and what does not arrive there told to `watch`, which
    /// decides about names, too. To be called before anything is let pass.
    pub fn intercept(&mut self, port: u16, watch: Arc<dyn EgressObserver>) -> Result<()> {
        self.network.slot_mut()?.redirect(port)?;
        let slot = self.network.slot()?;
        let log = slot.namespace.within(DropLog::open)?;
        self.passed_on.push(self.relay.handle().tell_drops(log, Arc::clone(&watch))?);
        self.watch = Some(watch);
        if self.names.take().is_some() {
            self.names = Some(self.relay.handle().answer_names(&slot.names, self.watch.clone())?);
        }
        Ok(())
    }

    /// Lets nothing pass any more, whatever was in force, published or served; the VM may run on, and be
    /// given another policy. After an error it is not to be used any more.
    pub fn close(&mut self) -> Result<()> {
        (self.names, self.watch) = (None, None);
        self.passed_on.clear();
        self.published.clear();
        if let Some(guest) = &self.guest {
            guest.watch(Vec::new(), Box::new(|_| ()));
        }
        self.network.slot_mut()?.close()
    }

    /// Connects from where the guest would be behind, past the rules for what it may send: to try the
    /// way out.
    pub fn connect(&self, to: SocketAddrV4, patience: Duration) -> Result<TcpStream> {
        let failed = |source| Error::Connect { address: to.into(), source };
        let namespace = &self.network.slot()?.namespace;
        namespace.within(|| TcpStream::connect_timeout(&to.into(), patience).map_err(failed))
    }

    /// How many connections the network remembers.
    #[cfg(feature = "testing")]
    pub fn count_connections(&mut self) -> Result<usize> {
        self.network.slot_mut()?.count_connections()
    }

    /// What the network has counted since it was leased.
    pub fn counters(&mut self) -> Result<Counters> {
        self.network.slot_mut()?.counters()
    }
}

/// The rule that lets a VM reach a socket, whatever network it is in.
fn reaches(socket: &SocketAddrV4) -> Rule {
    Rule {
        action: Action::Allow,
        to: Ipv4Net::from(*socket.ip()),
        protocol: Some(Protocol::Tcp),
        ports: Some(socket.port()..=socket.port()),
    }
}

/// A port that the kernel chooses is bound by its number, so that it stays bound while its socket does
/// not listen.
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
            // Where the pool is gone, the network takes itself down.
            drop(self.back.send(Request::Clean(slot)));
        }
    }
}
