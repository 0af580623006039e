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
//!                  or an exception                  own rules send what is published
//!                                                   │
//!                                                   ▼ leave: come from the host's address
//!
//!  a proxy's process ──▶ proxy: not to an address of the host's own, nor to a VM, but for exceptions
//! ```
//!
//! INVARIANT: a process with a user ID of proxies opens no connection to an address of the host's own
//! but to an exception of that user ID, and the name server. The kernel decides by its routing table,
//! so this holds for an address from the moment that the host has it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use sandbox::{HostSocket, PROXY_UID, PROXY_UID_MASK};

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
/// Which VM may reach which TCP socket of the host without a proxy.
const HOST_SOCKETS: &str = "host_sockets";
/// All sets with elements of VMs, each of which begins with the VM's address.
const SETS: [&str; 3] = [TCP_PROXIES, TCP_PORTS, HOST_SOCKETS];
/// By the user ID of a proxy, the TCP sockets of the host that it may reach; the port 0 is every port.
const PROXY_EXCEPTIONS: &str = "proxy_exceptions";

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
        } else if !self.has_proxy_filter()? {
            let table = proxy_filter(Transaction::on(TABLE)).empty(INPUT.name);
            input(table).commit(&mut self.netfilter).map_err(refused)?;
            log::info!("added the filter for proxies to an earlier version's table sandbox_runner");
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

    /// Whether the table has the filter for proxies, which an earlier version's has not.
    fn has_proxy_filter(&mut self) -> Result<bool> {
        match nft::elements(&mut self.netfilter, TABLE, PROXY_EXCEPTIONS) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
            elements => elements.map(|_| true).map_err(kernel("list", "the exceptions of proxies")),
        }
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

    /// Lets a VM reach these sockets of the host without a proxy, and no others.
    pub(crate) fn reach(&mut self, vm: Ipv4Addr, sockets: &[SocketAddrV4]) -> Result<()> {
        let vm_elements = vm.octets();
        let mut transaction =
            self.remove_elements(Transaction::on(TABLE), HOST_SOCKETS, &vm_elements)?;
        for socket in sockets {
            let element = element(vm_elements, *socket.ip(), socket.port());
            transaction = transaction.add_element(HOST_SOCKETS, &element);
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("let the host be reached by", vm.to_string()))
    }

    /// Lets processes of a proxy's user ID reach these sockets of the host, and no others. It is an
    /// error if the table does not have the filter.
    pub(crate) fn permit(&mut self, uid: u32, sockets: &BTreeSet<HostSocket>) -> Result<()> {
        if !self.has_proxy_filter()? {
            return Err(Error::NoProxyFilter);
        }
        let user = uid.to_ne_bytes();
        let mut transaction =
            self.remove_elements(Transaction::on(TABLE), PROXY_EXCEPTIONS, &user)?;
        for HostSocket { address, port } in sockets {
            let element = element(user, *address, port.unwrap_or(0));
            transaction = transaction.add_element(PROXY_EXCEPTIONS, &element);
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("restrict", format!("the processes of user {uid}")))
    }

    /// Takes back what [`redirect`](Self::redirect) and [`reach`](Self::reach) did.
    pub(crate) fn restore(&mut self, vm: Ipv4Addr) -> Result<()> {
        let mut transaction = Transaction::on(TABLE);
        for set in SETS {
            transaction = self.remove_elements(transaction, set, &vm.octets())?;
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("no longer redirect", vm.to_string()))
    }

    /// Removes those elements of a set that begin so.
    fn remove_elements(
        &mut self,
        transaction: Transaction,
        set: &str,
        prefix: &[u8],
    ) -> Result<Transaction> {
        let elements = self.elements(set)?;
        let elements = elements.iter().filter(|element| element.starts_with(prefix));
        Ok(elements.fold(transaction, |all, one| all.remove_element(set, one)))
    }

    /// The elements of a set. An earlier version's table does not have all sets.
    fn elements(&mut self, set: &str) -> Result<Vec<Vec<u8>>> {
        match nft::elements(&mut self.netfilter, TABLE, set) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
            elements => elements.map_err(kernel("list", format!("the set {set}"))),
        }
    }

    /// The networks that the sets have elements of.
    pub(crate) fn redirected(&mut self) -> Result<Vec<Addresses>> {
        let mut elements = self.elements(TCP_PORTS)?;
        elements.append(&mut self.elements(HOST_SOCKETS)?);
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

/// An element of a set of sockets, by what they are for.
fn element(whose: [u8; 4], address: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut element = [whose, address.octets()].concat();
    element.extend(port.to_be_bytes());
    element.extend([0; 2]);
    element
}

const ARRIVE: Chain = chain("arrive", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_MANGLE);
/// Before the host's own rules of this kind, which must not be quicker.
const REDIRECT: Chain =
    chain("redirect", "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST - 10);
const INPUT: Chain = chain("input", "filter", libc::NF_INET_LOCAL_IN, libc::NF_IP_PRI_FILTER);
const FORWARD: Chain = chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER);
const LEAVE: Chain = chain("leave", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC);

const OUTPUT: Chain = chain("output", "filter", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_FILTER);
/// What a process with a user ID of proxies sends.
const PROXY: Chain = Chain { name: "proxy", hook: None };
/// Where the host's name server is asked, which may be the host itself.
const DNS: u16 = 53;

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
    input(proxy_filter(transaction))
        .rule(ARRIVE.name, &ours().ipv6().drop())
        .rule(ARRIVE.name, &ours().spoofed().drop())
        .rule(REDIRECT.name, &ours().protocol(tcp).redirect_by(TCP_PROXIES))
        .rule(FORWARD.name, &ours().output_begins(LINK_PREFIX).refuse())
        .rule(FORWARD.name, &ours().rerouted().refuse())
        .rule(FORWARD.name, &Rule::new().output_begins(LINK_PREFIX).state(KNOWN).accept())
        .rule(FORWARD.name, &Rule::new().output_begins(LINK_PREFIX).drop())
        .rule(LEAVE.name, &ours().output_begins_otherwise(LINK_PREFIX).masquerade())
}

/// What VMs reach of the host: the port that they are redirected to, and the exceptions.
fn input(transaction: Transaction) -> Transaction {
    let ours = || Rule::new().input_begins(LINK_PREFIX);
    let tcp = || ours().protocol(libc::IPPROTO_TCP);
    transaction
        .rule(INPUT.name, &tcp().source_and_port_in(TCP_PORTS).accept())
        .rule(INPUT.name, &tcp().source_and_socket_in(HOST_SOCKETS).accept())
        .rule(INPUT.name, &ours().refuse())
}

/// The sets of exceptions, and what proxies may connect to: what is neither the host's own nor a VM's,
/// and the exceptions.
fn proxy_filter(transaction: Transaction) -> Transaction {
    let (tcp, udp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP);
    let to_ipv4 = || Rule::new().ipv4().protocol(tcp);
    transaction
        .set(HOST_SOCKETS, SetKind::AddressesAndSockets)
        .set(PROXY_EXCEPTIONS, SetKind::UsersAndSockets)
        .chain(PROXY)
        .chain(OUTPUT)
        .rule(OUTPUT.name, &Rule::new().skuid(PROXY_UID, PROXY_UID_MASK).jump(PROXY.name))
        .rule(PROXY.name, &Rule::new().state(KNOWN).accept())
        .rule(PROXY.name, &Rule::new().output_begins(LINK_PREFIX).refuse())
        .rule(PROXY.name, &Rule::new().protocol(udp).port(&(DNS..=DNS)).accept())
        .rule(PROXY.name, &Rule::new().protocol(tcp).port(&(DNS..=DNS)).accept())
        .rule(PROXY.name, &to_ipv4().skuid_and_socket_in(PROXY_EXCEPTIONS).accept())
        .rule(PROXY.name, &to_ipv4().skuid_and_address_in(PROXY_EXCEPTIONS).accept())
        .rule(PROXY.name, &Rule::new().fib_daddr_is_not_unicast().refuse())
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

/// Removes the table.
#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub(crate) fn flush(netfilter: &mut Socket) {
    Transaction::on(TABLE).remove_table().commit(netfilter).unwrap();
}

/// All elements of the table's sets.
#[cfg(feature = "testing")]
pub(crate) fn elements(netfilter: &mut Socket) -> Vec<Vec<u8>> {
    let mut of = |set| nft::elements(netfilter, TABLE, set).unwrap_or_default();
    SETS.into_iter().chain([PROXY_EXCEPTIONS]).flat_map(&mut of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn the_filter_for_proxies_is_added_to_an_earlier_versions_table() {
        let folder = tempfile::tempdir().unwrap();
        let locks = Locks::open(&folder.path().join("lock")).unwrap();
        let socket = HostSocket { address: Ipv4Addr::LOCALHOST, port: Some(80) };
        let done = crate::namespace::Namespace::make(|| {
            let mut host = Host::open()?;
            let earlier = Transaction::on(TABLE).make_table_with(&locks.identity()?);
            let earlier = earlier.set(TCP_PORTS, SetKind::AddressesAndPorts).chain(INPUT);
            let rules = earlier.rule(INPUT.name, &Rule::new().input_begins(LINK_PREFIX).refuse());
            rules.commit(&mut host.netfilter).map_err(refused)?;
            let before = host.permit(PROXY_UID, &BTreeSet::from([socket])).is_ok();
            host.set_up(&locks)?;
            host.permit(PROXY_UID, &BTreeSet::from([socket]))?;
            Ok((before, host.elements(PROXY_EXCEPTIONS)?.len()))
        });
        assert_eq!(done.unwrap().1, (false, 1));
    }

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
