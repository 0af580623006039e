//! Reports of packets that a namespace's rules dropped, by the kernel's packet log (nfnetlink_log).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use sandbox::Dropped;

use crate::error::kernel;
use crate::netlink::{Attributes, Message, Socket};
use crate::{Error, Result};

/// The length of the header that all netfilter messages share.
const HEADER: usize = 4;
/// The length of the fixed header of IPv6.
const IPV6_HEADER: usize = 40;

/// A socket that receives the packets of rules with a `log` statement.
#[derive(Debug)]
pub(crate) struct DropLog(Socket);

impl DropLog {
    /// Opens it in this thread's namespace. A namespace can have one.
    pub(crate) fn open() -> Result<Self> {
        const CONFIG: u16 = 1;
        const COMMAND: u16 = 1;
        const MODE: u16 = 2;
        const THRESHOLD: u16 = 5;
        const BIND: u8 = 1;
        const COPY_PACKET: u8 = 2;
        const LENGTH: [u8; 4] = 64_u32.to_be_bytes();
        let failed = |source| Error::Socket { kind: "log", source };
        let mut socket = Socket::netfilter().map_err(failed)?;
        // Group 0, in the header of the message.
        let message = || Message::netfilter(libc::NFNL_SUBSYS_ULOG, CONFIG, 0, 0);
        let bind = Attributes::new().bytes(COMMAND, &[BIND]);
        let [a, b, c, d] = LENGTH;
        let mode = Attributes::new().bytes(MODE, &[a, b, c, d, COPY_PACKET, 0]);
        let at_once = Attributes::new().be32(THRESHOLD, 1);
        let requests = [message().with(&bind), message().with(&mode), message().with(&at_once)];
        socket.request(&requests).map_err(kernel("listen to", "the log of a network"))?;
        Ok(Self(socket))
    }

    /// The packets since the last call.
    pub(crate) fn take(&self) -> Vec<Dropped> {
        const HEAD: u16 = 1;
        const PAYLOAD: u16 = 9;
        let notifications = self.0.notifications();
        let read = notifications.iter().filter_map(|notification| {
            let (_, attributes) = notification.split(HEADER)?;
            let kind = attributes.get(HEAD)?.first_chunk::<2>()?;
            read(i32::from(u16::from_be_bytes(*kind)), attributes.get(PAYLOAD)?)
        });
        read.collect()
    }
}

impl AsRawFd for DropLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Reads the beginning of a guest's packet; `None` unless it is IPv4 or IPv6.
fn read(kind: i32, packet: &[u8]) -> Option<Dropped> {
    let (protocol, address, payload) = match kind {
        libc::ETH_P_IP => {
            let address = Ipv4Addr::from(*packet.get(16..20)?.first_chunk::<4>()?);
            (*packet.get(9)?, IpAddr::from(address), usize::from(packet.first()? & 0xf) * 4)
        }
        libc::ETH_P_IPV6 => {
            let address = Ipv6Addr::from(*packet.get(24..40)?.first_chunk::<16>()?);
            (*packet.get(6)?, IpAddr::from(address), IPV6_HEADER)
        }
        _ => return None,
    };
    let has_port = [libc::IPPROTO_TCP, libc::IPPROTO_UDP].contains(&i32::from(protocol));
    let port = packet.get(payload + 2..payload + 4).and_then(<[u8]>::first_chunk::<2>);
    let port = port.filter(|_| has_port).map_or(0, |port| u16::from_be_bytes(*port));
    Some(Dropped { protocol, address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_packet_is_read_without_a_panic() {
        let mut packet = [0; 28];
        (packet[0], packet[9]) = (0x45, 17);
        packet[16..20].copy_from_slice(&[9, 8, 7, 6]);
        packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
        let address = IpAddr::from([9, 8, 7, 6]);
        let whole = read(libc::ETH_P_IP, &packet);
        assert_eq!(whole, Some(Dropped { protocol: 17, address, port: 443 }));
        for length in 0..packet.len() {
            let _ = read(libc::ETH_P_IP, &packet[..length]);
        }
    }

    #[test]
    fn a_packet_of_ipv6_is_read_with_its_address_and_port() {
        let mut packet = [0; 44];
        (packet[0], packet[6]) = (0x60, 6);
        packet[24..26].copy_from_slice(&[0x20, 0x01]);
        packet[39] = 8;
        packet[42..44].copy_from_slice(&80_u16.to_be_bytes());
        let address: IpAddr = "2001::8".parse().unwrap();
        let whole = read(libc::ETH_P_IPV6, &packet);
        assert_eq!(whole, Some(Dropped { protocol: 6, address, port: 80 }));
        for length in 0..packet.len() {
            let _ = read(libc::ETH_P_IPV6, &packet[..length]);
        }
    }

    #[test]
    fn other_packets_than_ip_are_not_reported() {
        assert_eq!(read(libc::ETH_P_ARP, &[0; 64]), None);
    }
}
