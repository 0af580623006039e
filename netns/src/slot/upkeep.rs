//! A network in use: what is in force in it, what it has counted, and how it becomes as new.

use std::fmt;
use std::fs::File;
use std::net::SocketAddrV4;

use sandbox::{Limits, Policy};

use super::{Plan, Slot};
use crate::error::kernel;
use crate::guest::TAP;
use crate::host::Host;
use crate::link::{self, Assigned, Link, Route};
use crate::nft::{self, Count, Transaction};
use crate::{Error, Result, conntrack, ruleset, tap};

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
    /// Sent by the guest to a multicast or broadcast address, and dropped.
    pub multicast: Count,
    /// Refused as one connection too many.
    pub over_limit: Count,
}

impl fmt::Display for Counters {
    /// As packets, for the log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = |count: Count| count.packets;
        let (sent, received) = (packets(self.sent), packets(self.received));
        let (refused, spoofed) = (packets(self.refused), packets(self.spoofed));
        let (multicast, over_limit) = (packets(self.multicast), packets(self.over_limit));
        write!(formatter, "sent={sent} received={received} refused={refused} spoofed={spoofed} ")?;
        write!(formatter, "multicast={multicast} over_limit={over_limit}")
    }
}

/// What a namespace looks like, to be compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    links: Vec<Link>,
    addresses: Vec<Assigned>,
    routes: Vec<Route>,
    /// Of the rules.
    generation: Option<u32>,
}

impl Slot {
    /// Opens the tap, for a monitor.
    pub(crate) fn open_tap(&self) -> Result<File> {
        let opened = self.namespace.within(|| tap::open(TAP))?;
        opened.ok_or_else(|| Error::Damaged {
            what: format!("the tap of {} is open already", self.addresses.link()),
        })
    }

    /// Lets a user open the tap by its name, for a monitor that opens it itself.
    pub(crate) fn give_tap(&self, uid: u32) -> Result<()> {
        tap::give(&self.open_tap()?, uid)
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

    /// Redirects all TCP to a port of the host.
    pub(crate) fn redirect(&mut self, port: u16) -> Result<()> {
        let mut host = Host::open()?;
        if std::mem::replace(&mut self.is_redirected, true) {
            host.restore(self.addresses.namespace())?;
        }
        host.redirect(self.addresses.namespace(), port)
    }

    /// Lets the guest reach these sockets of the host, and no others.
    pub(crate) fn reach(&mut self, sockets: &[SocketAddrV4]) -> Result<()> {
        if sockets.is_empty() && !self.is_redirected {
            return Ok(());
        }
        self.is_redirected = true;
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

    /// Makes it as new for the next VM; an error if it is not as it was made, or still in use.
    pub(crate) fn clean(&mut self, host: &mut Host, plan: &Plan) -> Result<()> {
        // That nobody has the tap open says that the monitor is gone.
        drop(self.open_tap()?);
        self.verify(host)?;
        self.forget(host, plan)
    }

    /// Lets nothing pass, and forgets all that did; the VM may run on.
    pub(crate) fn close(&mut self) -> Result<()> {
        let plan = Plan { policy: Policy::none(), ..Plan::default() };
        self.forget(&mut Host::open()?, &plan)
    }

    fn forget(&mut self, host: &mut Host, plan: &Plan) -> Result<()> {
        // Before anything that stands between a guest and the world is taken away.
        self.apply(plan)?;
        if std::mem::take(&mut self.is_redirected) {
            host.restore(self.addresses.namespace())?;
        }
        if std::mem::take(&mut self.is_serving) {
            self.commit(&ruleset::close_services())?;
        }
        // Packets may wait in a queue.
        self.shape(plan.limits, plan.limits)?;
        let link = self.addresses.link();
        conntrack::forget_all(&mut self.netfilter)
            .map_err(kernel("forget the connections of", &link))?;
        let counters = self.counters()?;
        if counters != Counters::default() {
            log::debug!("what a network counted; link={link} {counters}");
        }
        if counters.sent.packets > 0 {
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

    pub(super) fn picture(&mut self) -> Result<Picture> {
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
        let mut all = read(ruleset::GUARD)?;
        all.append(&mut read(ruleset::GATE)?);
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
