//! A network in use: its policy, its counters, and its reset for the next VM.

use std::fmt;
use std::fs::File;
use std::net::SocketAddrV4;

use sandbox::{Limits, Policy};

use super::{Slot, TrafficConfig};
use crate::error::kernel;
use crate::guest::TAP;
use crate::host::Host;
use crate::link::{self, Assigned, Link, Route};
use crate::netlink::Socket;
use crate::nft::{self, Count, Transaction};
use crate::{Error, Result, conntrack, ruleset, tap};

/// The counters of a network since the beginning of its lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent by the guest from its own address, whether accepted or not.
    pub sent: Count,
    /// Forwarded to the guest.
    pub received: Count,
    /// Rejected by the policy.
    pub refused: Count,
    /// Sent by the guest from another address, or neither IPv4 nor ARP.
    pub spoofed: Count,
    /// Sent by the guest to a multicast or broadcast address, and dropped.
    pub multicast: Count,
    /// Rejected because of the limit of connections.
    pub over_limit: Count,
}

impl fmt::Display for Counters {
    /// As packet counts, for the log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = |count: Count| count.packets;
        let (sent, received) = (packets(self.sent), packets(self.received));
        let (refused, spoofed) = (packets(self.refused), packets(self.spoofed));
        let (multicast, over_limit) = (packets(self.multicast), packets(self.over_limit));
        write!(formatter, "sent={sent} received={received} refused={refused} spoofed={spoofed} ")?;
        write!(formatter, "multicast={multicast} over_limit={over_limit}")
    }
}

/// The configuration of a namespace, to detect changes by others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NetworkState {
    links: Vec<Link>,
    addresses: Vec<Assigned>,
    routes: Vec<Route>,
    /// The generation of the ruleset.
    generation: Option<u32>,
}

impl Slot {
    /// Opens the tap for a monitor.
    pub(crate) fn open_tap(&self) -> Result<File> {
        let opened = self.namespace.within(|| tap::open(TAP))?;
        opened.ok_or_else(|| Error::Damaged {
            what: format!("the tap of {} is open already", self.addresses.link()),
        })
    }

    /// A socket by which the forwarder opens addresses of hosts.
    pub(crate) fn open_netfilter(&self) -> Result<Socket> {
        let failed = |source| Error::Socket { kind: "netfilter", source };
        self.namespace.within(|| Socket::netfilter().map_err(failed))
    }

    /// Lets a user open the tap by its name.
    pub(crate) fn give_tap(&self, uid: u32) -> Result<()> {
        tap::give(&self.open_tap()?, uid)
    }

    /// Applies another configuration, also to open connections.
    pub(crate) fn apply(&mut self, traffic: &TrafficConfig) -> Result<()> {
        // The addresses of hosts are closed in any case: the forwarder counts them anew.
        if *traffic == self.traffic && traffic.policy.only.is_none() {
            return Ok(());
        }
        let number = self.next_number();
        let had = self.traffic.limits;
        self.commit(&ruleset::change(traffic, &had, number))?;
        self.traffic = traffic.clone();
        // Until the limits are applied as well, the network is half configured.
        self.is_damaged = true;
        if had != traffic.limits {
            self.shape(had, traffic.limits)?;
        }
        self.is_damaged = false;
        Ok(())
    }

    /// Opens a port of the gateway to the guest.
    pub(crate) fn serve(&mut self, port: u16) -> Result<()> {
        self.is_serving = true;
        self.commit(&ruleset::serve(port))
    }

    /// Redirects all TCP to a port of the host.
    pub(crate) fn redirect(&mut self, port: u16) -> Result<()> {
        let mut host = Host::open()?;
        if std::mem::replace(&mut self.has_host_elements, true) {
            host.restore(self.addresses.namespace())?;
        }
        host.redirect(self.addresses.namespace(), port)
    }

    /// Lets the guest connect to these sockets of the host, and to no others.
    pub(crate) fn reach(&mut self, sockets: &[SocketAddrV4]) -> Result<()> {
        if sockets.is_empty() && !self.has_host_elements {
            return Ok(());
        }
        self.has_host_elements = true;
        Host::open()?.reach(self.addresses.namespace(), sockets)
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

    /// Resets it for the next VM. Fails if it was changed by others or is still in use.
    pub(crate) fn reset(&mut self, host: &mut Host, traffic: &TrafficConfig) -> Result<()> {
        // Fails if a monitor has the tap open.
        drop(self.open_tap()?);
        // The addresses of hosts were added by the forwarder.
        if self.traffic.policy.only.is_some() {
            self.made.generation = self.generation()?;
        }
        self.verify(host)?;
        self.clear(host, traffic)
    }

    /// Stops all traffic and deletes all connections. The VM may continue to run.
    pub(crate) fn close(&mut self) -> Result<()> {
        let traffic = TrafficConfig { policy: Policy::none(), ..TrafficConfig::default() };
        self.clear(&mut Host::open()?, &traffic)
    }

    fn clear(&mut self, host: &mut Host, traffic: &TrafficConfig) -> Result<()> {
        // First the policy, then what it protects.
        self.apply(traffic)?;
        if std::mem::take(&mut self.has_host_elements) {
            host.restore(self.addresses.namespace())?;
        }
        if std::mem::take(&mut self.is_serving) {
            self.commit(&ruleset::close_services())?;
        }
        // New queues: the old ones may hold packets.
        self.shape(traffic.limits, traffic.limits)?;
        let link = self.addresses.link();
        conntrack::flush(&mut self.netfilter)
            .map_err(kernel("forget the connections of", &link))?;
        let counters = self.counters()?;
        if counters != Counters::default() {
            log::debug!("counters of a network; link={link} {counters}");
        }
        if counters.sent.packets > 0 {
            host.forget(&[self.addresses])?;
        }
        link::forget_neighbours(&mut self.route, self.links.tap)
            .map_err(kernel("forget the neighbours of", &link))?;
        self.names.drain();
        self.count(true).map(drop)
    }

    /// Fails if the network differs from what was made.
    fn verify(&mut self, host: &mut Host) -> Result<()> {
        let link = self.addresses.link();
        if self.is_damaged {
            return Err(Error::Damaged {
                what: format!("an earlier change of {link} failed halfway"),
            });
        }
        let outer = link::find(host.route(), &link).map_err(kernel("look for", &link))?;
        let is_there = outer.is_some_and(|outer| outer.index == self.links.host && outer.is_up);
        if !is_there {
            return Err(Error::Damaged { what: format!("the link {link} is gone or down") });
        }
        if self.state()? != self.made {
            return Err(Error::Damaged {
                what: format!("the network of {link} was changed by another program"),
            });
        }
        Ok(())
    }

    pub(super) fn state(&mut self) -> Result<NetworkState> {
        let failed = || kernel("look at", self.addresses.link());
        Ok(NetworkState {
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

    /// Replaces the queues of limits. Packets to the guest leave by the tap, packets from the guest by the
    /// uplink.
    pub(super) fn shape(&mut self, had: Limits, wanted: Limits) -> Result<()> {
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
        let mut all = read(ruleset::INGRESS_TABLE)?;
        all.append(&mut read(ruleset::POLICY_TABLE)?);
        let count = |name| all.get(name).copied().unwrap_or_default();
        Ok(Counters {
            sent: count(ruleset::SENT),
            received: count(ruleset::RECEIVED),
            refused: count(ruleset::REFUSED),
            spoofed: count(ruleset::SPOOFED),
            multicast: count(ruleset::MULTICAST),
            over_limit: count(ruleset::OVER_LIMIT),
        })
    }
}
