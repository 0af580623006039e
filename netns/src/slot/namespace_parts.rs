//! The parts of a network inside of its namespace, made by a thread that has entered it.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use nix::net::if_::if_nametoindex;

use crate::error::{file, kernel};
use crate::guest::TAP;
use crate::netlink::Socket;
use crate::{Error, Result, ruleset, tap};

/// Enables IP forwarding, disables IPv6, and lifts the kernel's rate limit of ICMP errors, which the rules
/// limit themselves.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/icmp_ratemask", "0"),
];

/// No conntrack entry begins in the middle of a TCP connection. The file exists only if conntrack is in
/// use, which the host's rules ensure.
const STRICT: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_loose", "0");

/// The sockets that receive the guest's DNS queries.
#[derive(Debug)]
pub(crate) struct DnsSockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// The parts of a new namespace.
pub(super) struct NamespaceParts {
    pub(super) route: Socket,
    pub(super) netfilter: Socket,
    pub(super) names: DnsSockets,
    pub(super) tap: u32,
}

impl NamespaceParts {
    pub(super) fn make() -> Result<Self> {
        for setting in SETTINGS {
            match set(setting) {
                // A kernel without IPv6 needs no such setting.
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
            names: DnsSockets::bind()?,
            tap,
        })
    }
}

impl DnsSockets {
    fn bind() -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ruleset::DNS));
        let failed = |source| Error::Listen { address, source };
        let udp = UdpSocket::bind(address).map_err(failed)?;
        let tcp = TcpListener::bind(address).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        Ok(Self { udp, tcp })
    }

    /// Discards queries and connections that were not handled yet.
    pub(super) fn drain(&self) {
        while self.udp.recv(&mut [0]).is_ok() {}
        while self.tcp.accept().is_ok() {}
    }
}

fn set((name, value): (&str, &str)) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).map_err(file("write to", path))
}
