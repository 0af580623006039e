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
use crate::nft::{self, Count, Transaction};
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

/// And that a packet in the middle of no connection that it knows begins none. The host's rules track
/// connections, so the kernel can.
const STRICT: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_loose", "0");

fn set((name, value): (&str, &str)) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).map_err(file("write to", path))
}

/// A network that is ready, or in use.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) addresses: Addresses,
    pub(crate) namespace: Namespace,
    pub(crate) names: NameSockets,
    /// Sockets of the namespace.
    route: Socket,
    netfilter: Socket,
    links: Links,
    plan: Plan,
    /// Of the policy in force.
    number: u32,
    is_redirected: bool,
    /// A port of the gateway leads somewhere.
    is_serving: bool,
    /// Half of a change is in force: it is not to be used again.
    is_damaged: bool,
    /// Nothing of it is left on the host.
    is_removed: bool,
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
        host: &mut Host,
        addresses: Addresses,
        plan: &Plan,
        (lock, membership): (Lock, Arc<Membership>),
    ) -> Result<Box<Self>> {
        // A dead owner's redirection must not become ours.
        if host.redirected()?.contains(&addresses) {
            host.restore(addresses.namespace())?;
        }
        // 1
        let (namespace, mut inside) = Namespace::make(Inside::make)?;
        // 2
        let links = Links {
            host: join(host, addresses, &namespace)?,
            uplink: find(&mut inside.route, UPLINK)?,
            tap: inside.tap,
        };
        let mut slot = Box::new(Self {
            addresses,
            namespace,
            names: inside.names,
            route: inside.route,
            netfilter: inside.netfilter,
            links,
            plan: Plan::default(),
            number: 0,
            is_redirected: false,
            is_serving: false,
            is_damaged: false,
            is_removed: false,
            made: Picture::none(),
            _lock: lock,
            _membership: membership,
        });
        // 3, 4
        slot.furnish(host, plan)?;
        Ok(slot)
    }

    fn furnish(&mut self, host: &mut Host, plan: &Plan) -> Result<()> {
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
        host.route().request(&outside).map_err(failed())?;
        self.route.request(&inside).map_err(failed())?;
        self.number = 1;
        let rules = ruleset::make(addresses.namespace(), &plan.policy, &plan.limits, self.number);
        rules.commit(&mut self.netfilter).map_err(kernel("make rules for", addresses.link()))?;
        self.plan = plan.clone();
        self.shape(Limits::default(), plan.limits)?;
        self.made = self.picture()?;
        Ok(())
    }

    /// Takes networks down, as many as there are in about the time of one.
    #[expect(clippy::vec_box, reason = "so they come, and moving one is moving a page")]
    pub(crate) fn remove(mut slots: Vec<Box<Self>>) {
        let remains: Vec<_> = slots.iter().map(|slot| slot.remains()).collect();
        if !remains.is_empty() {
            remove(&remains);
        }
        for slot in &mut slots {
            slot.is_removed = true;
        }
    }

    fn remains(&self) -> Remains {
        let Self { addresses, is_redirected, .. } = *self;
        Remains { addresses, link: Some(self.links.host), is_redirected }
    }
}

/// However it goes, nothing of it is left.
impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_removed {
            remove(&[self.remains()]);
        }
    }
}

fn remove(remains: &[Remains]) {
    let removed = Host::open().and_then(|mut host| remains::remove(&mut host, remains));
    if let Err(error) = removed {
        log::error!("networks stay; count={} error={}", remains.len(), chain(&error));
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
        let number = self.next_number();
        let had = self.plan.limits;
        self.commit(&ruleset::change(&plan.policy, &plan.limits, &had, number))?;
        self.plan = plan.clone();
        // From here on nothing but all of it will do.
        self.is_damaged = true;
        if had != plan.limits {
            self.shape(had, plan.limits)?;
        }
        self.is_damaged = false;
        Ok(())
    }

    /// Lets the guest reach a port of its gateway.
    pub(crate) fn serve(&mut self, port: u16) -> Result<()> {
        self.is_serving = true;
        self.commit(&ruleset::serve(port))
    }

    /// Redirects all TCP and foreign DNS to the host.
    pub(crate) fn redirect(&mut self, to: host::Redirect) -> Result<()> {
        let mut host = Host::open()?;
        if std::mem::replace(&mut self.is_redirected, true) {
            host.restore(self.addresses.namespace())?;
        }
        host.redirect(self.addresses.namespace(), to)
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1).max(1);
        self.number
    }

    fn commit(&mut self, change: &Transaction) -> Result<()> {
        let committed = change.commit(&mut self.netfilter);
        committed.map_err(kernel("change the rules of", self.addresses.link()))?;
        self.made.generation = self.generation()?;
        Ok(())
    }

    pub(crate) fn counters(&mut self) -> Result<Counters> {
        self.count(false)
    }

    /// Makes it as new for the next VM; an error if it is not as it was made, or still in use.
    pub(crate) fn clean(&mut self, host: &mut Host, plan: &Plan) -> Result<()> {
        // That nobody has the tap open says that the monitor is gone.
        drop(self.open_tap()?);
        self.verify(host)?;
        if std::mem::take(&mut self.is_redirected) {
            host.restore(self.addresses.namespace())?;
        }
        if std::mem::take(&mut self.is_serving) {
            self.commit(&ruleset::close_services())?;
        }
        self.apply(plan)?;
        // Packets may wait in a queue.
        self.shape(plan.limits, plan.limits)?;
        let link = self.addresses.link();
        conntrack::forget_all(&mut self.netfilter)
            .map_err(kernel("forget the connections of", &link))?;
        if self.counters()?.sent.packets > 0 {
            host.forget(&[self.addresses])?;
        }
        link::forget_neighbours(&mut self.route, self.links.tap)
            .map_err(kernel("forget the neighbours of", &link))?;
        self.names.drain();
        self.count(true).map(drop)
    }

    /// Compares it with what it was when it was made.
    fn verify(&mut self, host: &mut Host) -> Result<()> {
        let link = self.addresses.link();
        if self.is_damaged {
            return Err(Error::Damaged {
                what: format!("half of a change is in force for {link}"),
            });
        }
        let outer = link::find(host.route(), &link).map_err(kernel("look for", &link))?;
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

    /// Makes new queues where there were limits or are to be some. What is sent to the guest leaves
    /// by the tap, what the guest sends by the uplink.
    fn shape(&mut self, had: Limits, wanted: Limits) -> Result<()> {
        let queues = [
            (self.links.tap, had.download, wanted.download),
            (self.links.uplink, had.upload, wanted.upload),
        ];
        let mut messages = Vec::new();
        for (index, had, wanted) in queues {
            messages.extend(had.map(|_| link::unshape(index)));
            messages.extend(wanted.map(|rate| link::shape(index, rate)));
        }
        let shaped = self.route.request(&messages);
        shaped.map_err(kernel("limit the rate of", self.addresses.link()))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn count_connections(&mut self) -> Result<usize> {
        let sources = conntrack::sources(&mut self.netfilter);
        let sources = sources.map_err(kernel("list", "connections"))?;
        Ok(sources.len())
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
        for setting in SETTINGS {
            match set(setting) {
                // A kernel without IPv6 has nothing to leave alone.
                Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        set(STRICT)?;
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
