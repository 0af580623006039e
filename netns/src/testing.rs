//! A host, an internet and guests for tests, each of them a network namespace.
//!
//! ```text
//!  guest: eth0 ◀─ pump ─▶ tap0 :network: uplink ◀──▶ sr-… :host: wan ◀──▶ wan :internet
//! ```
//!
//! The test's own thread is on the host, and so are the threads and processes that it starts. A guest's
//! card is a tap as well: a thread copies frames between the two taps, as a monitor does.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

pub mod frame;
mod guest;

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{getsockopt, sockopt};

pub use guest::Guest;

use crate::link;
use crate::namespace::Namespace;
use crate::netlink::{Message, Socket};
use crate::nft::{Chain, Family, Hook, Table, Transaction};
use crate::{conntrack, host};

/// The host's address in the internet.
pub const HOST: Ipv4Addr = Ipv4Addr::new(100, 0, 0, 1);
/// An address on the internet.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(100, 0, 0, 2);
/// A private address, which this internet also has.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
/// The metadata service of clouds.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const WAN: &str = "wan";

/// A host and an internet.
#[derive(Debug)]
pub struct World {
    internet: Namespace,
}

impl World {
    /// Moves this thread to a new host: to new network and mount namespaces, so that neither other runners
    /// nor named network namespaces (which are mounts) are visible.
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // A new namespace inherits the machine's setting.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let mut route = Socket::route().unwrap();
        let (internet, ()) = Namespace::make(|| Ok(())).unwrap();
        let fd = internet.as_fd().as_raw_fd() as u32;
        route.request(&[link::set_up(1), link::make_pair(WAN, 0, WAN, fd)]).unwrap();
        let wan = index(WAN);
        let host = [
            link::assign(wan, HOST, 24),
            link::set_up_without_ipv6(wan),
            link::default_route(INTERNET, wan),
        ];
        let world = Self { internet };
        world.on_the_internet(|| {
            let wan = index(WAN);
            let there = [
                link::set_up(1),
                link::assign(wan, INTERNET, 24),
                link::assign(wan, PRIVATE, 32),
                link::assign(wan, METADATA, 32),
                link::set_up_without_ipv6(wan),
            ];
            Socket::route().unwrap().request(&there).unwrap();
        });
        route.request(&host).unwrap();
        world
    }

    /// Replaces the hosts file and the DNS server ([`INTERNET`]) for this thread and the threads and processes
    /// that it starts from now on.
    pub fn set_hosts(&self, folder: &Path, hosts: &[(&str, Ipv4Addr)]) {
        let none = None::<&str>;
        let lines = hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        for (file, text) in
            [("hosts", lines.collect()), ("resolv.conf", format!("nameserver {INTERNET}\n"))]
        {
            let (path, target) = (folder.join(file), Path::new("/etc").join(file));
            std::fs::write(&path, text).unwrap();
            mount(Some(&path), &target, none, MsFlags::MS_BIND, none).unwrap();
        }
    }

    /// Runs `work` on the internet. Sockets that it returns stay there.
    pub fn on_the_internet<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.internet.within(|| Ok(work())).unwrap()
    }

    /// See [`inventory`].
    pub fn inventory(&self) -> Vec<String> {
        inventory()
    }

    /// Deletes the host's table, as a flush of all rules does.
    pub fn flush_rules(&self) {
        host::flush(&mut Socket::netfilter().unwrap());
    }

    /// Adds an address to the host.
    pub fn add_host_address(&self, address: Ipv4Addr) {
        let assigned = [link::assign(index(WAN), address, 32)];
        Socket::route().unwrap().request(&assigned).unwrap();
    }

    /// Runs `work` with the file-system user ID `uid`, which is the owner of the sockets that it opens.
    pub fn as_user<T: Send>(&self, uid: u32, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let work = move || {
                // The file-system user ID belongs to the thread.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
                work()
            };
            scope.spawn(work).join().unwrap()
        })
    }

    /// Adds an address to the internet.
    pub fn add_address(&self, address: Ipv4Addr) {
        self.on_the_internet(|| {
            Socket::route().unwrap().request(&[link::assign(index(WAN), address, 32)]).unwrap();
        });
    }

    /// The number of rules on the host.
    pub fn count_rules(&self) -> usize {
        count_rules(&mut Socket::netfilter().unwrap())
    }

    /// Creates a chain on the host that drops forwarded packets, as other programs do.
    pub fn close_forwarding(&self) {
        let table = Table { family: Family::Ip, name: "foreign" };
        let hook = Hook {
            kind: "filter",
            number: libc::NF_INET_FORWARD,
            priority: 0,
            device: None,
            accepts: false,
        };
        let chain = Chain { name: "FORWARD", hook: Some(hook) };
        let made = Transaction::on(table).create_table().add_chain(chain);
        made.commit(&mut Socket::netfilter().unwrap()).unwrap();
    }

    /// Removes a link from the host.
    pub fn remove_link(&self, name: &str) {
        Socket::route().unwrap().request(&[link::remove(index(name))]).unwrap();
    }

    /// Makes a link on the host.
    pub fn make_link(&self, name: &str) {
        let fd = self.internet.as_fd().as_raw_fd() as u32;
        Socket::route().unwrap().request(&[link::make_pair(name, 0, name, fd)]).unwrap();
    }

    /// The number of conntrack entries on the host with this source.
    pub fn count_connections(&self, from: Ipv4Addr) -> usize {
        let sources = conntrack::sources(&mut Socket::netfilter().unwrap()).unwrap();
        sources.iter().filter(|source| **source == from).count()
    }
}

/// Everything that networks could leave on this thread's host, to be compared: links, tables, rules, set
/// elements, conntrack entries of VMs.
pub fn inventory() -> Vec<String> {
    let (mut route, mut netfilter) = (Socket::route().unwrap(), Socket::netfilter().unwrap());
    let links = link::links(&mut route).unwrap();
    let mut inventory: Vec<_> = links.iter().map(|link| format!("link {}", link.name)).collect();
    let tables = Message::netfilter(
        libc::NFNL_SUBSYS_NFTABLES,
        libc::NFT_MSG_GETTABLE as u16,
        libc::NLM_F_DUMP,
        0,
    );
    let tables = netfilter.list(&tables).unwrap();
    inventory.extend(
        tables.iter().map(|table| {
            format!("table {}", table.split(4).unwrap().1.text(1).unwrap_or_default())
        }),
    );
    inventory.push(format!("{} rules", count_rules(&mut netfilter)));
    inventory
        .extend(host::elements(&mut netfilter).into_iter().map(|element| format!("{element:?}")));
    let sources = conntrack::sources(&mut netfilter).unwrap();
    inventory.extend(
        sources
            .iter()
            .filter(|source| source.is_private())
            .map(|source| format!("connection from {source}")),
    );
    inventory
}

fn count_rules(netfilter: &mut Socket) -> usize {
    let rules = Message::netfilter(
        libc::NFNL_SUBSYS_NFTABLES,
        libc::NFT_MSG_GETRULE as u16,
        libc::NLM_F_DUMP,
        0,
    );
    netfilter.list(&rules).unwrap().len()
}

/// The destination of a redirected connection before the redirection.
pub fn original_destination(stream: &TcpStream) -> SocketAddrV4 {
    let address = getsockopt(stream, sockopt::OriginalDst).unwrap();
    SocketAddrV4::new(u32::from_be(address.sin_addr.s_addr).into(), u16::from_be(address.sin_port))
}

/// The index of a link in this thread's namespace.
fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}
