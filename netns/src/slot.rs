//! One network: a namespace with a tap for a VM, joined to the host by a pair of links.
//!
//! ```text
//!  host namespace                          the network's namespace
//!  sr-0ac80004  10.200.0.5/30 ◀──veth──▶ uplink 10.200.0.6/30    tap0 192.168.241.1/29 ◀── monitor
//! ```
//!
//! The namespace has no name, so it ends with the process that has it open. The rest is on the host: the
//! link, conntrack entries, elements of the host's sets. It is found by the network's addresses.
//!
//! | file | content |
//! |---|---|
//! | this one | making and removing a network |
//! | `namespace_parts.rs` | the parts inside of the namespace |
//! | `runtime.rs` | applying a policy, counters, reset |

mod namespace_parts;
mod runtime;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use base::error::chain;
use nix::errno::Errno;
use sandbox::{Limits, Policy, Rule};

pub(crate) use self::namespace_parts::DnsSockets;
use self::namespace_parts::NamespaceParts;
pub use self::runtime::Counters;
use self::runtime::NetworkState;

use crate::error::kernel;
use crate::garbage::{self, Garbage};
use crate::guest;
use crate::host::{self, Host};
use crate::link;
use crate::lock::Lock;
use crate::membership::Membership;
use crate::namespace::Namespace;
use crate::netlink::Socket;
use crate::range::Addresses;
use crate::ruleset::{self, UPLINK};
use crate::{Error, Result};

/// A network that is ready or leased.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) addresses: Addresses,
    pub(crate) namespace: Namespace,
    pub(crate) names: DnsSockets,
    /// Netlink sockets of the namespace.
    route: Socket,
    netfilter: Socket,
    links: Links,
    traffic: TrafficConfig,
    /// The number of the policy in force.
    number: u32,
    has_host_elements: bool,
    /// A port of the gateway is open.
    is_serving: bool,
    /// A change failed halfway: the network must be removed.
    is_damaged: bool,
    /// The garbage on the host was collected.
    is_removed: bool,
    made: NetworkState,
    // Dropped last, when nothing is left on the host.
    _lock: Lock,
    _membership: Arc<Membership>,
}

/// The policy and the limits of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TrafficConfig {
    pub(crate) policy: Policy,
    /// Rules before those of the policy, for all destinations.
    pub(crate) exempt: Vec<Rule>,
    pub(crate) limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Links {
    host: u32,
    uplink: u32,
    tap: u32,
}

impl Slot {
    /// Makes a network, in this order:
    ///
    /// 1. the namespace, its settings, its tap
    /// 2. the pair of links, down
    /// 3. addresses, links up, the default route
    /// 4. the rules, before the guest can send anything
    ///
    /// A failure leaves nothing behind.
    pub(crate) fn make(
        host: &mut Host,
        addresses: Addresses,
        traffic: &TrafficConfig,
        (lock, membership): (Lock, Arc<Membership>),
    ) -> Result<Box<Self>> {
        // Set elements of a dead owner must not apply to this network.
        if host.networks_with_elements()?.contains(&addresses) {
            host.restore(addresses.namespace())?;
        }
        // 1
        let (namespace, mut inside) = Namespace::make(NamespaceParts::make)?;
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
            traffic: TrafficConfig::default(),
            number: 0,
            has_host_elements: false,
            is_serving: false,
            is_damaged: false,
            is_removed: false,
            made: NetworkState::default(),
            _lock: lock,
            _membership: membership,
        });
        // 3, 4
        slot.configure(host, traffic)?;
        Ok(slot)
    }

    fn configure(&mut self, host: &mut Host, traffic: &TrafficConfig) -> Result<()> {
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
        let rules = ruleset::make(addresses.namespace(), traffic, self.number);
        rules.commit(&mut self.netfilter).map_err(kernel("make rules for", addresses.link()))?;
        self.traffic = traffic.clone();
        self.shape(Limits::default(), traffic.limits)?;
        self.made = self.state()?;
        Ok(())
    }

    /// Removes networks together, in about the time of one.
    #[expect(clippy::vec_box, reason = "slots are boxed everywhere, as they are large")]
    pub(crate) fn remove(mut slots: Vec<Box<Self>>) {
        let garbage: Vec<_> = slots.iter().map(|slot| slot.garbage()).collect();
        if !garbage.is_empty() {
            remove(&garbage);
        }
        for slot in &mut slots {
            slot.is_removed = true;
        }
    }

    fn garbage(&self) -> Garbage {
        let Self { addresses, has_host_elements, .. } = *self;
        Garbage { addresses, link: Some(self.links.host), has_host_elements }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_removed {
            remove(&[self.garbage()]);
        }
    }
}

fn remove(garbage: &[Garbage]) {
    let removed = Host::open().and_then(|mut host| garbage::collect(&mut host, garbage));
    if let Err(error) = removed {
        log::error!("cannot remove networks; count={} error={}", garbage.len(), chain(&error));
    }
}

/// The index of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

/// Makes the veth pair; returns the index of the host's end. Removes a dead runner's link of the same
/// name, which the lock on the addresses allows.
fn join(host: &mut Host, addresses: Addresses, namespace: &Namespace) -> Result<u32> {
    let name = addresses.link();
    let fd = namespace.as_fd().as_raw_fd() as u32;
    let pair = [link::make_pair(&name, host::GROUP, UPLINK, fd)];
    match host.route().request(&pair) {
        Err(error) if error.errno == Errno::EEXIST => {
            let left = link::find(host.route(), &name).map_err(kernel("look for", &name))?;
            if let Some(left) = left {
                if !host::is_ours(&left) {
                    return Err(Error::NameTaken { name });
                }
                let link = Some(left.index);
                garbage::collect(host, &[Garbage { addresses, link, has_host_elements: false }])?;
            }
            host.route().request(&pair).map_err(kernel("make the link", &name))?;
        }
        other => other.map_err(kernel("make the link", &name))?,
    }
    find(host.route(), &name)
}

/// The index of a link that was just made.
fn find(socket: &mut Socket, name: &str) -> Result<u32> {
    let found = link::find(socket, name).map_err(kernel("look for", name))?;
    let gone = || Error::Damaged { what: format!("the link {name} disappeared after it was made") };
    found.map(|link| link.index).ok_or_else(gone)
}
