//! One network: a namespace with a tap for a VM, joined to the host by a pair of links.
//!
//! ```text
//!  host namespace                          the network's namespace
//!  sr-0ac80004  10.200.0.5/30 ◀──veth──▶ uplink 10.200.0.6/30    tap0 192.168.241.1/29 ◀── monitor
//! ```
//!
//! The namespace has no name: nothing of it outlives the process that has it open. What is on the
//! host besides (the link, connections that the kernel remembers, elements of the host's sets) is
//! found by the network's addresses.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use sandbox::{Limits, Policy};

use crate::error::{chain, file, kernel};
use crate::guest::{self, TAP};
use crate::host::{self, Host};
use crate::link::{self, Assigned, Link, Route};
use crate::lock::Lock;
use crate::membership::Membership;
use crate::namespace::Namespace;
use crate::netlink::Socket;
use crate::nft::{self, Count};
use crate::range::Addresses;
use crate::remains::{self, Remains};
use crate::ruleset::{self, UPLINK};
use crate::{Error, Result, conntrack, tap};

/// What the namespace's kernel is told: to pass packets on, to leave IPv6 alone, and to tell each
/// refusal (the rules bound their number).
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/icmp_ratemask", "0"),
];

/// A network that is ready, or in use.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) addresses: Addresses,
    pub(crate) namespace: Namespace,
    pub(crate) names: NameSockets,
    /// Sockets of the namespace.
    route: Socket,
    netfilter: Socket,
    /// Sockets of the host.
    host: Host,
    links: Links,
    plan: Plan,
    /// Of the policy in force.
    number: u32,
    is_redirected: bool,
    made: Picture,
    // These go last, when nothing of it is left.
    _lock: Lock,
    _membership: Arc<Membership>,
}

/// What a network lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
}

/// Where the guest's questions for names arrive.
#[derive(Debug)]
pub(crate) struct NameSockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

#[derive(Debug, Clone, Copy)]
struct Links {
    host: u32,
    uplink: u32,
    tap: u32,
}

/// What a namespace looks like, to be compared.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    links: Vec<Link>,
    addresses: Vec<Assigned>,
    routes: Vec<Route>,
    /// Of the rules.
    generation: Option<u32>,
}

/// What is made inside of the namespace.
struct Inside {
    route: Socket,
    netfilter: Socket,
    names: NameSockets,
    tap: u32,
}

/// Making one, and taking it down.
impl Slot {
    /// Makes a network, in this order:
    ///
    /// 1. the namespace, its settings, its tap
    /// 2. the pair of links, down
    /// 3. addresses, links up, the default route
    /// 4. the rules, before anything of a guest could pass
    ///
    /// When it fails, nothing of it is left.
    pub(crate) fn make(
        addresses: Addresses,
        plan: &Plan,
        lock: Lock,
        membership: Arc<Membership>,
    ) -> Result<Self> {
        let mut host = Host::open()?;
        // 1
        let (namespace, mut inside) = Namespace::make(Inside::make)?;
        // 2
        let links = Links {
            host: join(&mut host, addresses, &namespace)?,
            uplink: find(&mut inside.route, UPLINK)?,
            tap: inside.tap,
        };
        let mut slot = Self {
            addresses,
            namespace,
            names: inside.names,
            route: inside.route,
            netfilter: inside.netfilter,
            host,
            links,
            plan: Plan::default(),
            number: 0,
            is_redirected: false,
            made: Picture::none(),
            _lock: lock,
            _membership: membership,
        };
        // 3, 4
        match slot.furnish(plan) {
            Ok(()) => Ok(slot),
            Err(error) => {
                Self::remove(&[Box::new(slot)]);
                Err(error)
            }
        }
    }

    fn furnish(&mut self, plan: &Plan) -> Result<()> {
        let Self { addresses, links, .. } = *self;
        let prefix = Addresses::PREFIX;
        let outside = [
            link::assign(links.host, addresses.host(), prefix),
            link::set_up_without_ipv6(links.host),
        ];
        let inside = [
            link::set_up(LOOPBACK),
            link::assign(links.uplink, addresses.namespace(), prefix),
            link::set_up(links.uplink),
            link::assign(links.tap, guest::GATEWAY, guest::PREFIX),
            link::set_up_as(links.tap, guest::GATEWAY_MAC),
            link::default_route(addresses.host(), links.uplink),
        ];
        let failed = || kernel("set up", addresses.link());
        self.host.route().request(&outside).map_err(failed())?;
        self.route.request(&inside).map_err(failed())?;
        self.number = 1;
        let rules = ruleset::make(addresses.namespace(), &plan.policy, &plan.limits, self.number);
        rules.commit(&mut self.netfilter).map_err(kernel("make rules for", addresses.link()))?;
        self.shape(&plan.limits)?;
        self.plan = plan.clone();
        self.made = self.picture()?;
        Ok(())
    }

    /// Takes networks down, as many as there are in about the time of one.
    pub(crate) fn remove(slots: &[Box<Self>]) {
        let remains: Vec<_> = slots.iter().map(|slot| slot.remains()).collect();
        if remains.is_empty() {
            return;
        }
        let removed = Host::open().and_then(|mut host| remains::remove(&mut host, &remains));
        if let Err(error) = removed {
            log::error!("networks stay; count={} error={}", remains.len(), chain(&error));
        }
    }

    fn remains(&self) -> Remains {
        let Self { addresses, is_redirected, .. } = *self;
        Remains { addresses, link: Some(self.links.host), is_redirected }
    }
}

/// What can be done with one.
impl Slot {
    /// Opens the tap, for a monitor.
    pub(crate) fn open_tap(&self) -> Result<File> {
        let opened = self.namespace.within(|| tap::open(TAP))?;
        opened.ok_or_else(|| Error::Damaged {
            what: format!("the tap of {} is open already", self.addresses.link()),
        })
    }

    /// Puts another plan in force, for the open connections too.
    pub(crate) fn apply(&mut self, plan: &Plan) -> Result<()> {
        if *plan == self.plan {
            return Ok(());
        }
        if plan.limits != self.plan.limits {
            self.shape(&plan.limits)?;
        }
        let number = self.number.wrapping_add(1).max(1);
        let rules = ruleset::change(&plan.policy, &plan.limits, number);
        let link = self.addresses.link();
        rules.commit(&mut self.netfilter).map_err(kernel("change the rules of", link))?;
        self.number = number;
        self.plan = plan.clone();
        self.made.generation = self.generation()?;
        Ok(())
    }

    /// Redirects all TCP and foreign DNS to the host.
    pub(crate) fn redirect(&mut self, to: host::Redirect) -> Result<()> {
        if std::mem::replace(&mut self.is_redirected, true) {
            self.host.restore(self.addresses.namespace())?;
        }
        self.host.redirect(self.addresses.namespace(), to)
    }

    pub(crate) fn counters(&mut self) -> Result<Counters> {
        self.count(false)
    }

    /// Makes it as new for the next VM; an error if it is not as it was made, or still in use.
    pub(crate) fn clean(&mut self, plan: &Plan) -> Result<()> {
        // That nobody has the tap open says that the monitor is gone.
        drop(self.open_tap()?);
        self.verify()?;
        if std::mem::take(&mut self.is_redirected) {
            self.host.restore(self.addresses.namespace())?;
        }
        let link = self.addresses.link();
        conntrack::forget_all(&mut self.netfilter)
            .map_err(kernel("forget the connections of", &link))?;
        if self.counters()?.sent.packets > 0 {
            self.host.forget(&[self.addresses])?;
        }
        link::forget_neighbours(&mut self.route, self.links.tap)
            .map_err(kernel("forget the neighbours of", &link))?;
        self.count(true)?;
        self.names.drain();
        self.apply(plan)
    }

    /// Compares it with what it was when it was made.
    fn verify(&mut self) -> Result<()> {
        let link = self.addresses.link();
        let outer = link::find(self.host.route(), &link).map_err(kernel("look for", &link))?;
        let is_there = outer.is_some_and(|outer| outer.index == self.links.host && outer.is_up);
        if !is_there {
            return Err(Error::Damaged { what: format!("the link {link} is gone or down") });
        }
        if self.picture()? != self.made {
            return Err(Error::Damaged { what: format!("somebody changed the network of {link}") });
        }
        Ok(())
    }

    fn picture(&mut self) -> Result<Picture> {
        let failed = || kernel("look at", self.addresses.link());
        Ok(Picture {
            links: link::links(&mut self.route).map_err(failed())?,
            addresses: link::addresses(&mut self.route).map_err(failed())?,
            routes: link::routes(&mut self.route).map_err(failed())?,
            generation: self.generation()?,
        })
    }

    fn generation(&mut self) -> Result<Option<u32>> {
        let generation = nft::generation(&mut self.netfilter);
        generation.map_err(kernel("look at the rules of", self.addresses.link()))
    }

    fn shape(&mut self, limits: &Limits) -> Result<()> {
        // What is sent to the guest leaves by the tap; what the guest sends leaves by the uplink.
        let queues = [
            (self.links.tap, limits.download, self.plan.limits.download),
            (self.links.uplink, limits.upload, self.plan.limits.upload),
        ];
        for (index, wanted, had) in queues {
            let message = match (wanted, had) {
                (None, None) => continue,
                (Some(rate), _) => link::shape(index, rate),
                (None, Some(_)) => link::unshape(index),
            };
            let link = self.addresses.link();
            self.route.request(&[message]).map_err(kernel("limit the rate of", link))?;
        }
        Ok(())
    }

    fn count(&mut self, reset: bool) -> Result<Counters> {
        let mut read = |table| {
            let counters = nft::counters(&mut self.netfilter, table, reset);
            counters.map_err(kernel("read the counters of", self.addresses.link()))
        };
        let mut all = read(ruleset::GUARD)?;
        all.append(&mut read(ruleset::GATE)?);
        let count = |name| all.get(name).copied().unwrap_or_default();
        Ok(Counters {
            sent: count(ruleset::SENT),
            received: count(ruleset::RECEIVED),
            refused: count(ruleset::REFUSED),
            spoofed: count(ruleset::SPOOFED),
            over_limit: count(ruleset::OVER_LIMIT),
        })
    }
}

/// What a network has counted since it was leased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent by the guest in its own name, whatever became of it.
    pub sent: Count,
    /// Passed on to the guest.
    pub received: Count,
    /// Refused by the policy.
    pub refused: Count,
    /// Sent by the guest in another's name, or neither IPv4 nor ARP.
    pub spoofed: Count,
    /// Refused as one connection too many.
    pub over_limit: Count,
}

impl NameSockets {
    fn bind() -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ruleset::DNS));
        let failed = |source| Error::Listen { address, source };
        let udp = UdpSocket::bind(address).map_err(failed)?;
        let tcp = TcpListener::bind(address).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        Ok(Self { udp, tcp })
    }

    /// Forgets questions and connections that nobody has taken.
    fn drain(&self) {
        while self.udp.recv(&mut [0]).is_ok() {}
        while self.tcp.accept().is_ok() {}
    }
}

impl Inside {
    fn make() -> Result<Self> {
        for (name, value) in SETTINGS {
            let path = Path::new("/proc/sys").join(name);
            match fs::write(&path, value) {
                // A kernel without IPv6 has nothing to leave alone.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other.map_err(file("write to", path))?,
            }
        }
        tap::make(TAP)?;
        let index = if_nametoindex(TAP);
        let tap = index.map_err(|errno| kernel("find", TAP)(errno.into()))?;
        let failed = |kind| move |source| Error::Socket { kind, source };
        Ok(Self {
            route: Socket::route().map_err(failed("routing"))?,
            netfilter: Socket::netfilter().map_err(failed("netfilter"))?,
            names: NameSockets::bind()?,
            tap,
        })
    }
}

impl Picture {
    fn none() -> Self {
        Self { links: Vec::new(), addresses: Vec::new(), routes: Vec::new(), generation: None }
    }
}

/// The number of the loopback device, in every namespace.
const LOOPBACK: u32 = 1;

/// Joins a namespace to the host; returns the number of the host's end. A link that a dead runner
/// left in its place goes: whoever has the lock on the addresses has the name.
fn join(host: &mut Host, addresses: Addresses, namespace: &Namespace) -> Result<u32> {
    let name = addresses.link();
    let fd = namespace.as_fd().as_raw_fd() as u32;
    let pair = [link::make_pair(&name, host::GROUP, UPLINK, fd)];
    match host.route().request(&pair) {
        Err(refusal) if refusal.errno == Errno::EEXIST => {
            let left = link::find(host.route(), &name).map_err(kernel("look for", &name))?;
            if let Some(left) = left {
                if !host::is_ours(&left) {
                    return Err(Error::NameTaken { name });
                }
                let link = Some(left.index);
                remains::remove(host, &[Remains { addresses, link, is_redirected: false }])?;
            }
            host.route().request(&pair).map_err(kernel("make the link", &name))?;
        }
        other => other.map_err(kernel("make the link", &name))?,
    }
    find(host.route(), &name)
}

/// The number of a link that was just made.
fn find(socket: &mut Socket, name: &str) -> Result<u32> {
    let found = link::find(socket, name).map_err(kernel("look for", name))?;
    let gone = || Error::Damaged { what: format!("the link {name} went as it came") };
    found.map(|link| link.index).ok_or_else(gone)
}
