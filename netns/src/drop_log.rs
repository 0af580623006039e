//! What the rules of a namespace have dropped, packet by packet: the kernel's log of them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};

use sandbox::Protocol;

use crate::error::kernel;
use crate::netlink::{Attributes, Message, Socket};
use crate::{Error, Result};

/// The length of the header that netfilter's messages have in common.
const HEADER: usize = 4;

/// A socket that hears of each packet that a rule tells of.
#[derive(Debug)]
pub(crate) struct DropLog(Socket);

/// A packet that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// None if it is none of those.
    pub(crate) protocol: Option<Protocol>,
    /// The port is 0 where there is none.
    pub(crate) to: SocketAddrV4,
}

impl DropLog {
    /// In this thread's namespace, which has one at most.
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
        // The group is number 0, in the header of the message.
        let message = || Message::netfilter(libc::NFNL_SUBSYS_ULOG, CONFIG, 0, 0);
        let bind = Attributes::new().bytes(COMMAND, &[BIND]);
        let [a, b, c, d] = LENGTH;
        let mode = Attributes::new().bytes(MODE, &[a, b, c, d, COPY_PACKET, 0]);
        let at_once = Attributes::new().be32(THRESHOLD, 1);
        let requests = [message().with(&bind), message().with(&mode), message().with(&at_once)];
        socket.request(&requests).map_err(kernel("listen to", "the log of a network"))?;
        Ok(Self(socket))
    }

    /// What was dropped since the last time.
    pub(crate) fn take(&self) -> Vec<Dropped> {
        const HEAD: u16 = 1;
        const PAYLOAD: u16 = 9;
        let notices = self.0.notices();
        let read = notices.iter().filter_map(|notice| {
            let (_, attributes) = notice.split(HEADER)?;
            let kind = attributes.get(HEAD)?.first_chunk::<2>()?;
            Dropped::read(i32::from(u16::from_be_bytes(*kind)), attributes.get(PAYLOAD)?)
        });
        read.collect()
    }
}

impl AsRawFd for DropLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Dropped {
    /// By the beginning of a packet, which is a guest's. What is not of IPv4 goes to no address.
    fn read(kind: i32, packet: &[u8]) -> Option<Self> {
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        if kind != libc::ETH_P_IP {
            return Some(Self { protocol: None, to: nowhere });
        }
        let protocol = match i32::from(*packet.get(9)?) {
            libc::IPPROTO_TCP => Some(Protocol::Tcp),
            libc::IPPROTO_UDP => Some(Protocol::Udp),
            libc::IPPROTO_ICMP => Some(Protocol::Icmp),
            _ => None,
        };
        let address = Ipv4Addr::from(*packet.get(16..20)?.first_chunk::<4>()?);
        let length = usize::from(packet.first()? & 0xf) * 4;
        let has_port = matches!(protocol, Some(Protocol::Tcp | Protocol::Udp));
        let port = packet.get(length + 2..length + 4).and_then(<[u8]>::first_chunk::<2>);
        let port = port.filter(|_| has_port).map_or(0, |port| u16::from_be_bytes(*port));
        Some(Self { protocol, to: SocketAddrV4::new(address, port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_far_as_it_goes() {
        let mut packet = [0; 28];
        (packet[0], packet[9]) = (0x45, 17);
        packet[16..20].copy_from_slice(&[9, 8, 7, 6]);
        packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
        let whole = Dropped::read(libc::ETH_P_IP, &packet).unwrap();
        assert_eq!(whole.protocol, Some(Protocol::Udp));
        assert_eq!(whole.to.to_string(), "9.8.7.6:443");
        for length in 0..packet.len() {
            let _ = Dropped::read(libc::ETH_P_IP, &packet[..length]);
        }
        assert_eq!(Dropped::read(libc::ETH_P_IPV6, &[]).unwrap().protocol, None);
    }
}
