//! The host's own network namespace, which the networks of all runners share.
//!
//! It has one nftables table, `sandbox_runner`, with a constant number of rules: what differs between VMs
//! are elements of its sets. The first pool of a host creates the table, and the last one deletes it.
//!
//! ```text
//!  sr-* ──▶ arrive: is the source the address of the link? ──▶ redirect: to a proxy, if the VM has one
//!             │ to the host                         │ to others
//!             ▼                                     ▼
//!           input: only redirected connections    forward: not to other VMs, nor to where the host's
//!                  and exceptions                 own rules redirect published ports
//!                                                   │
//!                                                   ▼ leave: masquerade as the host
//!
//!  a proxy's process ──▶ proxy: neither to the host's addresses nor to VMs, except exceptions
//! ```

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use sandbox::HostSocket;

use self::table::{
    HOST_SOCKETS, INPUT, PROXY_EXCEPTIONS, SETS, TABLE, TCP_PORTS, TCP_PROXIES, port_element,
    socket_element,
};

use crate::error::{file, kernel};
use crate::lock::Locks;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::Transaction;
use crate::range::{Addresses, Range};
use crate::{Error, Result, conntrack, link, nft};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Netlink sockets of the host's namespace, which is that of the opening thread.
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

    /// The socket for links, addresses and routes.
    pub(crate) fn route(&mut self) -> &mut Socket {
        &mut self.route
    }

    /// Rejects a range that overlaps a route of the host, which would lose those networks. The default
    /// route and our own links do not count.
    pub(crate) fn check_overlap(&mut self, range: Range) -> Result<()> {
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

    /// Creates the table if it is absent. Its userdata identifies the lock file.
    pub(crate) fn set_up(&mut self, locks: &Locks) -> Result<()> {
        // A failed transaction is slow in the kernel, so look first.
        if !self.has_table()? {
            table::create(&locks.identity()?).commit(&mut self.netfilter).map_err(refused)?;
        } else if !self.has_proxy_filter()? {
            let table = table::add_proxy_filter(Transaction::on(TABLE)).flush_chain(INPUT.name);
            table::add_input_rules(table).commit(&mut self.netfilter).map_err(refused)?;
            log::info!("added the filter for proxies to an earlier version's table sandbox_runner");
        }
        forward()
    }

    /// Rejects a host whose networks use another lock file: the two could not coordinate.
    pub(crate) fn check_lock_file(&mut self, locks: &Locks) -> Result<()> {
        match self.userdata()? {
            Some(userdata) if userdata != locks.identity()? => {
                Err(Error::OtherLockFile { path: locks.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Deletes the table if it is there.
    pub(crate) fn clear(&mut self) -> Result<()> {
        match Transaction::on(TABLE).delete_table().commit(&mut self.netfilter) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            other => other.map_err(kernel("remove", "the table sandbox_runner")),
        }
    }

    pub(crate) fn has_table(&mut self) -> Result<bool> {
        self.userdata().map(|userdata| userdata.is_some())
    }

    /// Whether the table has the filter for proxies. Tables of earlier versions lack it.
    fn has_proxy_filter(&mut self) -> Result<bool> {
        match nft::elements(&mut self.netfilter, TABLE, PROXY_EXCEPTIONS) {
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            elements => elements.map(|_| true).map_err(kernel("list", "the exceptions of proxies")),
        }
    }

    fn userdata(&mut self) -> Result<Option<Vec<u8>>> {
        let userdata = nft::userdata(&mut self.netfilter, TABLE);
        userdata.map_err(kernel("look for", "the table sandbox_runner"))
    }

    /// Chains of others that drop forwarded packets by default.
    pub(crate) fn dropping_forward_chains(&mut self) -> Result<Vec<String>> {
        let found = nft::dropping_forward_chains(&mut self.netfilter);
        found.map_err(kernel("list", "chains"))
    }

    /// Redirects a VM's TCP to a port.
    pub(crate) fn redirect(&mut self, vm: Ipv4Addr, port: u16) -> Result<()> {
        Transaction::on(TABLE)
            .add_element(TCP_PORTS, &port_element(vm, port))
            .add_map_element(TCP_PROXIES, &vm.octets(), &port.to_be_bytes())
            .commit(&mut self.netfilter)
            .map_err(kernel("redirect", vm.to_string()))
    }

    /// Lets a VM connect to these sockets of the host without a proxy, and to no others.
    pub(crate) fn reach(&mut self, vm: Ipv4Addr, sockets: &[SocketAddrV4]) -> Result<()> {
        let vm_elements = vm.octets();
        let mut transaction =
            self.remove_elements(Transaction::on(TABLE), HOST_SOCKETS, &vm_elements)?;
        for socket in sockets {
            let element = socket_element(vm_elements, *socket.ip(), socket.port());
            transaction = transaction.add_element(HOST_SOCKETS, &element);
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("let the host be reached by", vm.to_string()))
    }

    /// Lets processes of a proxy's user ID connect to these sockets of the host, and to no others. Fails
    /// if the table lacks the filter.
    pub(crate) fn permit(&mut self, uid: u32, sockets: &BTreeSet<HostSocket>) -> Result<()> {
        if !self.has_proxy_filter()? {
            return Err(Error::NoProxyFilter);
        }
        let user = uid.to_ne_bytes();
        let mut transaction =
            self.remove_elements(Transaction::on(TABLE), PROXY_EXCEPTIONS, &user)?;
        for HostSocket { address, port } in sockets {
            let element = socket_element(user, *address, port.unwrap_or(0));
            transaction = transaction.add_element(PROXY_EXCEPTIONS, &element);
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("restrict", format!("the processes of user {uid}")))
    }

    /// Undoes [`redirect`](Self::redirect) and [`reach`](Self::reach).
    pub(crate) fn restore(&mut self, vm: Ipv4Addr) -> Result<()> {
        let mut transaction = Transaction::on(TABLE);
        for set in SETS {
            transaction = self.remove_elements(transaction, set, &vm.octets())?;
        }
        let committed = transaction.commit(&mut self.netfilter);
        committed.map_err(kernel("no longer redirect", vm.to_string()))
    }

    /// Deletes the elements of a set that begin with `prefix`.
    fn remove_elements(
        &mut self,
        transaction: Transaction,
        set: &str,
        prefix: &[u8],
    ) -> Result<Transaction> {
        let elements = self.elements(set)?;
        let elements = elements.iter().filter(|element| element.starts_with(prefix));
        Ok(elements.fold(transaction, |all, one| all.delete_element(set, one)))
    }

    /// The elements of a set; none if the table is of an earlier version without the set.
    fn elements(&mut self, set: &str) -> Result<Vec<Vec<u8>>> {
        match nft::elements(&mut self.netfilter, TABLE, set) {
            Err(error) if error.errno == Errno::ENOENT => Ok(Vec::new()),
            elements => elements.map_err(kernel("list", format!("the set {set}"))),
        }
    }

    /// The networks that have elements in the sets.
    pub(crate) fn networks_with_elements(&mut self) -> Result<Vec<Addresses>> {
        let mut elements = self.elements(TCP_PORTS)?;
        elements.append(&mut self.elements(HOST_SOCKETS)?);
        let address = |element: Vec<u8>| Some(Ipv4Addr::from(*element.first_chunk::<4>()?));
        Ok(elements.into_iter().filter_map(address).map(Addresses::containing).collect())
    }

    /// Deletes the conntrack entries of networks.
    pub(crate) fn forget(&mut self, networks: &[Addresses]) -> Result<()> {
        // Each deletion makes the kernel walk its whole table, so look first which networks have entries.
        let remembered = match networks {
            [one] => vec![*one],
            _ => self.remembered()?,
        };
        for addresses in remembered.iter().filter(|of| networks.contains(of)) {
            let forgotten = conntrack::delete(&mut self.netfilter, addresses.namespace());
            forgotten.map_err(kernel("forget the connections of", describe(*addresses)))?;
        }
        Ok(())
    }

    /// The networks that the sources of all conntrack entries belong to, without duplicates. Not all of
    /// them are ours.
    pub(crate) fn remembered(&mut self) -> Result<Vec<Addresses>> {
        let sources = conntrack::sources(&mut self.netfilter);
        let sources = sources.map_err(kernel("list", "connections"))?;
        let mut all: Vec<_> = sources.into_iter().map(Addresses::containing).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

/// These are the errors of a kernel that lacks nf_tables or a part of it.
fn refused(source: NetlinkError) -> Error {
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

/// Enables IP forwarding. It is never disabled again, since others may have come to rely on it.
fn forward() -> Result<()> {
    let path = Path::new(FORWARDING);
    let value = fs::read(path).map_err(file("read", path))?;
    if value.starts_with(b"0") {
        fs::write(path, "1").map_err(file("write to", path))?;
        log::info!("IP forwarding enabled; file={FORWARDING}");
    }
    Ok(())
}

/// Whether IP forwarding is enabled.
pub(crate) fn is_forwarding() -> bool {
    fs::read(FORWARDING).is_ok_and(|value| !value.starts_with(b"0"))
}

/// The networks that have a link on the host, with the link.
pub(crate) fn links(host: &mut Host) -> Result<Vec<(Addresses, link::Link)>> {
    let links = link::links(host.route()).map_err(kernel("list", "links"))?;
    let ours = links.into_iter().filter_map(|link| Some((Addresses::of_link(&link.name)?, link)));
    Ok(ours.collect())
}

/// Whether a link with such a name is one of ours: a veth in a link group. Other links are in no
/// group. Ours change the group while they are removed.
pub(crate) fn is_ours(link: &link::Link) -> bool {
    const NONE: u32 = 0;
    link.kind == "veth" && link.group != NONE
}

/// The link group of our links.
pub(crate) const GROUP: u32 = 0x5352;

/// The network in CIDR notation, for messages.
pub(crate) fn describe(addresses: Addresses) -> String {
    let net = Ipv4Net::new(addresses.host(), Addresses::PREFIX).map(|net| net.trunc());
    net.map_or_else(|_| addresses.link(), |net| net.to_string())
}

/// Creates the table in this thread's namespace, to find out whether the kernel can.
pub(crate) fn probe() -> Result<()> {
    let mut host = Host::open()?;
    table::create(b"a trial").commit(&mut host.netfilter).map_err(refused)
}

pub(crate) fn commit_rules(rules: &Transaction) -> Result<()> {
    let mut host = Host::open()?;
    rules.commit(&mut host.netfilter).map_err(kernel("make", "rules for a VM"))
}

#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub(crate) fn flush(netfilter: &mut Socket) {
    Transaction::on(TABLE).delete_table().commit(netfilter).unwrap();
}

#[cfg(feature = "testing")]
pub(crate) fn elements(netfilter: &mut Socket) -> Vec<Vec<u8>> {
    let mut of = |set| nft::elements(netfilter, TABLE, set).unwrap_or_default();
    SETS.into_iter().chain([PROXY_EXCEPTIONS]).flat_map(&mut of).collect()
}

#[cfg(test)]
mod tests {
    use sandbox::PROXY_UID;

    use super::*;
    use crate::nft::{Rule, SetKind};
    use crate::range::LINK_PREFIX;

    #[test]
    #[ignore = "needs root"]
    fn the_filter_for_proxies_is_added_to_an_earlier_versions_table() {
        let folder = tempfile::tempdir().unwrap();
        let locks = Locks::open(&folder.path().join("lock")).unwrap();
        let socket = HostSocket { address: Ipv4Addr::LOCALHOST, port: Some(80) };
        let done = crate::namespace::Namespace::make(|| {
            let mut host = Host::open()?;
            let earlier = Transaction::on(TABLE).create_table_with_userdata(&locks.identity()?);
            let earlier = earlier.add_set(TCP_PORTS, SetKind::AddressesAndPorts).add_chain(INPUT);
            let rules =
                earlier.add_rule(INPUT.name, &Rule::new().iifname_prefix(LINK_PREFIX).reject());
            rules.commit(&mut host.netfilter).map_err(refused)?;
            let before = host.permit(PROXY_UID, &BTreeSet::from([socket])).is_ok();
            host.set_up(&locks)?;
            host.permit(PROXY_UID, &BTreeSet::from([socket]))?;
            Ok((before, host.elements(PROXY_EXCEPTIONS)?.len()))
        });
        assert_eq!(done.unwrap().1, (false, 1));
    }

    #[test]
    fn a_kernel_without_nftables_is_distinguished_from_one_that_rejects_a_rule() {
        let netlink_error = |errno, index| NetlinkError { index, ..NetlinkError::from(errno) };
        let error = refused(netlink_error(Errno::EOPNOTSUPP, 0)).to_string();
        assert!(error.contains("no nf_tables") && error.contains("CONFIG_NF_TABLES"), "{error}");
        let error = refused(netlink_error(Errno::EINVAL, 3)).to_string();
        assert_eq!(error, "cannot make the table sandbox_runner");
        assert!(matches!(refused(netlink_error(Errno::EPERM, 0)), Error::NotPermitted));
    }
}
