//! A host, an internet and guests, all of them namespaces: what networks are tested with.
//!
//! ```text
//!  guest: eth0 ◀─ pump ─▶ tap0 :network: uplink ◀──▶ sr-… :host: wan ◀──▶ wan :internet
//! ```
//!
//! The test's own thread is on the host, and so are the threads and processes that it starts. A
//! guest's card is a tap, too, and a thread carries the frames from one tap to the other, as a
//! monitor does.

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

/// The host's address on the way to the internet.
pub const HOST: Ipv4Addr = Ipv4Addr::new(100, 0, 0, 1);
/// An address on the internet.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(100, 0, 0, 2);
/// Addresses that are not to be reached without permission, which this internet has, too.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
/// Where clouds tell their secrets.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const WAN: &str = "wan";

/// A host and an internet.
#[derive(Debug)]
pub struct World {
    internet: Namespace,
}

impl World {
    /// Moves this thread to a new host: a network and a mount namespace of its own, so that neither
    /// other runners nor others' named network namespaces (which are mounts) are seen.
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // Otherwise it is as the machine's.
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

    /// Lets this thread, and what it starts from now on, know hosts by these names and no others. The
    /// name server is [`INTERNET`].
    pub fn know(&self, folder: &Path, hosts: &[(&str, Ipv4Addr)]) {
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

    /// Does something on the internet. Sockets that are returned stay there.
    pub fn on_the_internet<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.internet.within(|| Ok(work())).unwrap()
    }

    /// See [`picture`].
    pub fn picture(&self) -> Vec<String> {
        picture()
    }

    /// Removes the table of the host, as somebody does who flushes all rules.
    pub fn flush_rules(&self) {
        host::flush(&mut Socket::netfilter().unwrap());
    }

    /// Gives the host one more address.
    pub fn add_host_address(&self, address: Ipv4Addr) {
        let assigned = [link::assign(index(WAN), address, 32)];
        Socket::route().unwrap().request(&assigned).unwrap();
    }

    /// Does something with sockets that the kernel takes for those of a user.
    pub fn as_user<T: Send>(&self, uid: u32, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let work = move || {
                // It is the thread's own, and that of the files it opens.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
                work()
            };
            scope.spawn(work).join().unwrap()
        })
    }

    /// Gives the internet one more address.
    pub fn add_address(&self, address: Ipv4Addr) {
        self.on_the_internet(|| {
            Socket::route().unwrap().request(&[link::assign(index(WAN), address, 32)]).unwrap();
        });
    }

    /// How many rules the host has.
    pub fn count_rules(&self) -> usize {
        count_rules(&mut Socket::netfilter().unwrap())
    }

    /// Makes a chain on the host, as others do, that drops all that is passed on.
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
        let made = Transaction::on(table).make_table().chain(chain);
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

    /// How many connections from an address the host remembers.
    pub fn count_connections(&self, from: Ipv4Addr) -> usize {
        let sources = conntrack::sources(&mut Socket::netfilter().unwrap()).unwrap();
        sources.iter().filter(|source| **source == from).count()
    }
}

/// What networks could leave on the host that this thread is on, to be compared: links, tables, the
/// connections of VMs.
pub fn picture() -> Vec<String> {
    let (mut route, mut netfilter) = (Socket::route().unwrap(), Socket::netfilter().unwrap());
    let links = link::links(&mut route).unwrap();
    let mut picture: Vec<_> = links.iter().map(|link| format!("link {}", link.name)).collect();
    let tables = Message::netfilter(
        libc::NFNL_SUBSYS_NFTABLES,
        libc::NFT_MSG_GETTABLE as u16,
        libc::NLM_F_DUMP,
        0,
    );
    let tables = netfilter.list(&tables).unwrap();
    picture.extend(
        tables.iter().map(|table| {
            format!("table {}", table.split(4).unwrap().1.text(1).unwrap_or_default())
        }),
    );
    picture.push(format!("{} rules", count_rules(&mut netfilter)));
    picture
        .extend(host::elements(&mut netfilter).into_iter().map(|element| format!("{element:?}")));
    let sources = conntrack::sources(&mut netfilter).unwrap();
    picture.extend(
        sources
            .iter()
            .filter(|source| source.is_private())
            .map(|source| format!("connection from {source}")),
    );
    picture
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

/// Where a redirected connection was to go.
pub fn original_destination(stream: &TcpStream) -> SocketAddrV4 {
    let address = getsockopt(stream, sockopt::OriginalDst).unwrap();
    SocketAddrV4::new(u32::from_be(address.sin_addr.s_addr).into(), u16::from_be(address.sin_port))
}

/// The number of a link of this thread's namespace.
fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}
