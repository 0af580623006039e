//! What is made inside of a network's namespace, by a thread that is in it.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use nix::net::if_::if_nametoindex;

use crate::error::{file, kernel};
use crate::guest::TAP;
use crate::netlink::Socket;
use crate::{Error, Result, ruleset, tap};

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

/// Where the guest's questions for names arrive.
#[derive(Debug)]
pub(crate) struct NameSockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// What a new namespace has.
pub(super) struct Inside {
    pub(super) route: Socket,
    pub(super) netfilter: Socket,
    pub(super) names: NameSockets,
    pub(super) tap: u32,
}

impl Inside {
    pub(super) fn make() -> Result<Self> {
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
    pub(super) fn drain(&self) {
        while self.udp.recv(&mut [0]).is_ok() {}
        while self.tcp.accept().is_ok() {}
    }
}

fn set((name, value): (&str, &str)) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).map_err(file("write to", path))
}
