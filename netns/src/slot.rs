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

//!
//! | file | what |
//! |---|---|
//! | this one | how a network comes, in its order, and goes |
//! | `inside.rs` | what is made inside of the namespace |
//! | `upkeep.rs` | what is in force, what was counted, how it becomes as new |

mod inside;
mod upkeep;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::errno::Errno;
use sandbox::{Limits, Policy};

use self::inside::Inside;
pub(crate) use self::inside::NameSockets;
pub use self::upkeep::Counters;
use self::upkeep::Picture;
use crate::error::{chain, kernel};
use crate::guest;
use crate::host::{self, Host};
use crate::link;
use crate::lock::Lock;
use crate::membership::Membership;
use crate::namespace::Namespace;
use crate::netlink::Socket;
use crate::range::Addresses;
use crate::remains::{self, Remains};
use crate::ruleset::{self, UPLINK};
use crate::{Error, Result};

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

#[derive(Debug, Clone, Copy)]
struct Links {
    host: u32,
    uplink: u32,
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
            made: Picture::default(),
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
