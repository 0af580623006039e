//! The host's own network namespace: what all networks of all runners share there.
//!
//! One table, `sandbox_runner`, with as many rules whatever the number of VMs; what differs from VM
//! to VM are elements of its sets. It comes with the first pool of a host and goes with the last.
//!
//! ```text
//!  sr-* ──▶ arrive: from the address that its link has? ──▶ redirect: to a proxy, if the VM has one
//!             │ to the host                         │ to others
//!             ▼                                     ▼
//!           input: only a redirected one          forward: not to other VMs, nor where the host's
//!                                                   own rules send what is published
//!                                                   │
//!                                                   ▼ leave: come from the host's address
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::error::{file, kernel};
use crate::lock::Locks;
use crate::netlink::{Refusal, Socket};
use crate::nft::{Chain, Family, Hook, KNOWN, Rule, SetKind, Table, Transaction};
use crate::range::{Addresses, LINK_PREFIX, Range};
use crate::{Error, Result, conntrack, link, nft};

/// The table.
const TABLE: Table = Table { family: Family::Inet, name: "sandbox_runner" };

/// By a VM's address, the port of the proxy for its TCP.
const TCP_PROXIES: &str = "tcp_proxies";
/// Which VM may reach which TCP port of the host: what the map leads to.
const TCP_PORTS: &str = "tcp_ports";
/// All sets with elements of VMs.
const SETS: [&str; 2] = [TCP_PROXIES, TCP_PORTS];

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// This thread's namespace as that of the host.
#[derive(Debug)]
pub(crate) struct Host {
    route: Socket,
    netfilter: Socket,
}

impl Host {
    pub(crate) fn open() -> Result<Self> {
        let failed = |kind| move |source| Error::Socket { kind, source };
        let route = Socket::route().map_err(failed("routing"))?;
        let netfilter = Socket::netfilter().map_err(failed("netfilter"))?;
        Ok(Self { route, netfilter })
    }

    /// The socket for links.
    pub(crate) fn route(&mut self) -> &mut Socket {
        &mut self.route
    }

    /// Refuses a range that the host has a route into: its own networks would be cut off. The
    /// default route and our own links do not count.
    pub(crate) fn refuse_overlap(&mut self, range: Range) -> Result<()> {
        let links = link::links(&mut self.route).map_err(kernel("list", "links"))?;
        let routes = link::routes(&mut self.route).map_err(kernel("list", "routes"))?;
        for route in routes.iter().filter(|route| route.to.prefix_len() > 0) {
            let link = links.iter().find(|link| Some(link.index) == route.link);
            let device = link.map_or("no device", |link| &link.name);
            let overlaps = route.to.contains(&range.net()) || range.net().contains(&route.to);
            if overlaps && Addresses::of_link(device).is_none() {
                let (range, device) = (range.net(), device.to_owned());
                return Err(Error::RangeOverlaps { range, route: route.to, device });
            }
        }
        Ok(())
    }

    /// Makes the table unless it is there, with a note of whose locks say who has which network.
    pub(crate) fn set_up(&mut self, locks: &Locks) -> Result<()> {
        // A transaction that fails takes the kernel long: so it is looked before.
        if !self.has_table()? {
            table(&locks.identity()?).commit(&mut self.netfilter).map_err(refused)?;
        }
        forward()
    }

    /// Refuses a host whose networks are kept by other locks: nobody could tell who has which.
    pub(crate) fn refuse_foreign(&mut self, locks: &Locks) -> Result<()> {
        match self.note()? {
            Some(note) if note != locks.identity()? => {
                Err(Error::OtherLocks { path: locks.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Removes the table, if it is there.
    pub(crate) fn clear(&mut self) -> Result<()> {
        match Transaction::on(TABLE).remove_table().commit(&mut self.netfilter) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
            other => other.map_err(kernel("remove", "the table sandbox_runner")),
        }
    }

    /// Whether the table is there.
    pub(crate) fn has_table(&mut self) -> Result<bool> {
        self.note().map(|note| note.is_some())
    }

    fn note(&mut self) -> Result<Option<Vec<u8>>> {
        let note = nft::note(&mut self.netfilter, TABLE);
        note.map_err(kernel("look for", "the table sandbox_runner"))
    }

    /// Who else forgets packets that are passed on.
    pub(crate) fn closed_forwarders(&mut self) -> Result<Vec<String>> {
        let found = nft::closed_forwarders(&mut self.netfilter);
        found.map_err(kernel("list", "chains"))
    }

    /// Redirects a VM's TCP to a port.
    pub(crate) fn redirect(&mut self, vm: Ipv4Addr, port: u16) -> Result<()> {
        Transaction::on(TABLE)
            .add_element(TCP_PORTS, &pair(vm, port))
            .add_pair(TCP_PROXIES, &vm.octets(), &port.to_be_bytes())
            .commit(&mut self.netfilter)
            .map_err(kernel("redirect", vm.to_string()))
    }

    /// Takes back what [`redirect`](Self::redirect) did.
    pub(crate) fn restore(&mut self, vm: Ipv4Addr) -> Result<()> {
        let address = vm.octets();
        let mut transaction = Transaction::on(TABLE);
        for set in SETS {
            let elements = nft::elements(&mut self.netfilter, TABLE, set);
            let elements = elements.map_err(kernel("list", format!("the set {set}")))?;
            for element in elements.iter().filter(|element| element.starts_with(&address)) {
                transaction = transaction.remove_element(set, element);
            }
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("no longer redirect", vm.to_string()))
    }

    /// The networks that something is redirected for.
    pub(crate) fn redirected(&mut self) -> Result<Vec<Addresses>> {
        let elements = nft::elements(&mut self.netfilter, TABLE, TCP_PORTS);
        let elements = elements.map_err(kernel("list", format!("the set {TCP_PORTS}")))?;
        let address = |element: Vec<u8>| Some(Ipv4Addr::from(*element.first_chunk::<4>()?));
        Ok(elements.into_iter().filter_map(address).map(Addresses::containing).collect())
    }

    /// Forgets the connections of VMs.
    pub(crate) fn forget(&mut self, networks: &[Addresses]) -> Result<()> {
        // Each time the kernel looks through all that it remembers.
        let remembered = match networks {
            [one] => vec![*one],
            _ => self.remembered()?,
        };
        for addresses in remembered.iter().filter(|of| networks.contains(of)) {
            let forgotten = conntrack::forget(&mut self.netfilter, addresses.namespace());
            forgotten.map_err(kernel("forget the connections of", describe(*addresses)))?;
        }
        Ok(())
    }

    /// Whose connections the kernel remembers, each once: networks, as far as they are ours.
    pub(crate) fn remembered(&mut self) -> Result<Vec<Addresses>> {
        let sources = conntrack::sources(&mut self.netfilter);
        let sources = sources.map_err(kernel("list", "connections"))?;
        let mut all: Vec<_> = sources.into_iter().map(Addresses::containing).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

/// A kernel without nf_tables, or without a part of it, says so in one of these ways.
fn refused(source: Refusal) -> Error {
    match source.errno {
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT if source.index == 0 => {
            Error::NoFeature {
                feature: "nf_tables",
                remedy: "use a kernel with CONFIG_NF_TABLES, or modprobe nf_tables",
            }
        }
        _ => kernel("make", "the table sandbox_runner")(source),
    }
}

/// An element of the set of ports: both are padded to four bytes.
fn pair(vm: Ipv4Addr, port: u16) -> [u8; 8] {
    let ([a, b, c, d], [high, low]) = (vm.octets(), port.to_be_bytes());
    [a, b, c, d, high, low, 0, 0]
}

const ARRIVE: Chain = chain("arrive", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_MANGLE);
/// Before the host's own rules of this kind, which must not be quicker.
const REDIRECT: Chain =
    chain("redirect", "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST - 10);
const INPUT: Chain = chain("input", "filter", libc::NF_INET_LOCAL_IN, libc::NF_IP_PRI_FILTER);
const FORWARD: Chain = chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER);
const LEAVE: Chain = chain("leave", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC);

/// What the host does with packets of its own is its own affair: only ours are looked at.
const fn chain(name: &'static str, kind: &'static str, number: i32, priority: i32) -> Chain {
    Chain { name, hook: Some(Hook { kind, number, priority, device: None, accepts: true }) }
}

fn table(note: &[u8]) -> Transaction {
    let ours = || Rule::new().input_begins(LINK_PREFIX);
    let mut transaction = Transaction::on(TABLE)
        .make_table_with(note)
        .set(TCP_PROXIES, SetKind::PortsByAddress)
        .set(TCP_PORTS, SetKind::AddressesAndPorts);
    for chain in [ARRIVE, REDIRECT, INPUT, FORWARD, LEAVE] {
        transaction = transaction.chain(chain);
    }
    let tcp = libc::IPPROTO_TCP;
    transaction
        .rule(ARRIVE.name, &ours().ipv6().drop())
        .rule(ARRIVE.name, &ours().spoofed().drop())
        .rule(REDIRECT.name, &ours().protocol(tcp).redirect_by(TCP_PROXIES))
        .rule(INPUT.name, &ours().protocol(tcp).source_and_port_in(TCP_PORTS).accept())
        .rule(INPUT.name, &ours().refuse())
        .rule(FORWARD.name, &ours().output_begins(LINK_PREFIX).refuse())
        .rule(FORWARD.name, &ours().rerouted().refuse())
        .rule(FORWARD.name, &Rule::new().output_begins(LINK_PREFIX).state(KNOWN).accept())
        .rule(FORWARD.name, &Rule::new().output_begins(LINK_PREFIX).drop())
        .rule(LEAVE.name, &ours().output_begins_otherwise(LINK_PREFIX).masquerade())
}

/// Lets the host pass packets on. It stays so: others may have come to rely on it.
fn forward() -> Result<()> {
    let path = Path::new(FORWARDING);
    let value = fs::read(path).map_err(file("read", path))?;
    if value.starts_with(b"0") {
        fs::write(path, "1").map_err(file("write to", path))?;
        log::info!("this host passes packets on from now on; file={FORWARDING}");
    }
    Ok(())
}

/// Whether the host passes packets on.
pub(crate) fn is_forwarding() -> bool {
    fs::read(FORWARDING).is_ok_and(|value| !value.starts_with(b"0"))
}

/// The networks of which there are links on the host, each with its link.
pub(crate) fn links(host: &mut Host) -> Result<Vec<(Addresses, link::Link)>> {
    let links = link::links(host.route()).map_err(kernel("list", "links"))?;
    let ours = links.into_iter().filter_map(|link| Some((Addresses::of_link(&link.name)?, link)));
    Ok(ours.collect())
}

/// Whether a link of such a name is one that we made. Others are in no group, and ours always in
/// one: in another than at first while they are removed.
pub(crate) fn is_ours(link: &link::Link) -> bool {
    const NONE: u32 = 0;
    link.kind == "veth" && link.group != NONE
}

/// The group of our links.
pub(crate) const GROUP: u32 = 0x5352;

/// As a network, for messages.
pub(crate) fn describe(addresses: Addresses) -> String {
    let net = Ipv4Net::new(addresses.host(), Addresses::PREFIX).map(|net| net.trunc());
    net.map_or_else(|_| addresses.link(), |net| net.to_string())
}

/// Makes the table in this thread's namespace, to see whether the kernel can.
pub(crate) fn try_out() -> Result<()> {
    let mut host = Host::open()?;
    table(b"a trial").commit(&mut host.netfilter).map_err(refused)
}

/// Commits rules in this thread's namespace.
pub(crate) fn commit_rules(rules: &Transaction) -> Result<()> {
    let mut host = Host::open()?;
    rules.commit(&mut host.netfilter).map_err(kernel("make", "rules for a VM"))
}

/// All elements of the table's sets.
#[cfg(feature = "testing")]
pub(crate) fn elements(netfilter: &mut Socket) -> Vec<Vec<u8>> {
    let mut of = |set| nft::elements(netfilter, TABLE, set).unwrap_or_default();
    SETS.into_iter().flat_map(&mut of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_rules_is_told_from_one_that_refuses_some() {
        let refusal = |errno, index| Refusal { index, ..Refusal::from(errno) };
        let error = refused(refusal(Errno::EOPNOTSUPP, 0)).to_string();
        assert!(error.contains("no nf_tables") && error.contains("CONFIG_NF_TABLES"), "{error}");
        let error = refused(refusal(Errno::EINVAL, 3)).to_string();
        assert_eq!(error, "cannot make the table sandbox_runner");
        assert!(matches!(refused(refusal(Errno::EPERM, 0)), Error::NotPermitted));
    }
}
