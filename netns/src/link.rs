//! Links, their addresses and routes, and the queueing disciplines that limit their rate.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::netlink::{Attributes, Message, NetlinkError, Reader, Socket};

const IFF_UP: u32 = libc::IFF_UP as u32;
const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const INET: u8 = libc::AF_INET as u8;

const VETH_INFO_PEER: u16 = 1;
/// The mode in which the kernel generates IPv6 addresses.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

/// The length of `ifinfomsg`, the header of requests about links.
const IFINFO: usize = 16;
/// The length of `ifaddrmsg`, the header of requests about addresses.
const IFADDR: usize = 8;
/// The length of `rtmsg`, the header of requests about routes.
const RTMSG: usize = 12;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `tun`; empty for a physical link.
    pub(crate) kind: String,
    pub(crate) group: u32,
    pub(crate) is_up: bool,
    pub(crate) mac: Option<Mac>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Assigned {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Net,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Ipv4Net,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) link: Option<u32>,
}

/// Makes a veth pair: `here` in the socket's namespace, `there` in another one.
pub(crate) fn make_pair(here: &str, group: u32, there: &str, namespace: u32) -> Message {
    let peer = Attributes::new().text(libc::IFLA_IFNAME, there);
    let peer = peer.u32(libc::IFLA_NET_NS_FD, namespace);
    let peer = [&header(0, 0)[..], peer.as_bytes()].concat();
    let data = Attributes::new().bytes(VETH_INFO_PEER, &peer);
    let info = Attributes::new().text(libc::IFLA_INFO_KIND, "veth");
    let info = info.nest(libc::IFLA_INFO_DATA, &data);
    let link = Attributes::new().text(libc::IFLA_IFNAME, here).u32(libc::IFLA_GROUP, group);
    let link = link.nest(libc::IFLA_LINKINFO, &info);
    Message::new(libc::RTM_NEWLINK, NEW, &header(0, 0)).with(&link)
}

/// Sets a link up.
pub(crate) fn set_up(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &header(index, IFF_UP))
}

/// Sets a link up without an IPv6 link-local address.
pub(crate) fn set_up_without_ipv6(index: u32) -> Message {
    let inet6 = Attributes::new().bytes(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
    let families = Attributes::new().nest(libc::AF_INET6 as u16, &inet6);
    set_up(index).with(&Attributes::new().nest(libc::IFLA_AF_SPEC, &families))
}

/// Sets a link up with another hardware address.
pub(crate) fn set_up_as(index: u32, mac: Mac) -> Message {
    set_up(index).with(&Attributes::new().bytes(libc::IFLA_ADDRESS, &mac))
}

/// Removes a link; the other end of a pair goes with it.
#[cfg(feature = "testing")]
pub(crate) fn remove(index: u32) -> Message {
    Message::new(libc::RTM_DELLINK, 0, &header(index, 0))
}

/// Changes the group of a link, so that many links can be removed with one request.
pub(crate) fn regroup(index: u32, group: u32) -> Message {
    let group = Attributes::new().u32(libc::IFLA_GROUP, group);
    Message::new(libc::RTM_SETLINK, 0, &header(index, 0)).with(&group)
}

/// Removes all links of a group.
pub(crate) fn remove_group(group: u32) -> Message {
    let group = Attributes::new().u32(libc::IFLA_GROUP, group);
    Message::new(libc::RTM_DELLINK, 0, &header(0, 0)).with(&group)
}

/// `ifinfomsg`: family, type, index, flags, and the mask of flags to change.
fn header(index: u32, flags: u32) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Gives a link an address.
pub(crate) fn assign(index: u32, address: Ipv4Addr, prefix: u8) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let header: [u8; IFADDR] = [INET, prefix, 0, 0, a, b, c, d];
    let octets = address.octets();
    let attributes = Attributes::new().bytes(libc::IFA_LOCAL, &octets);
    let attributes = attributes.bytes(libc::IFA_ADDRESS, &octets);
    Message::new(libc::RTM_NEWADDR, NEW, &header).with(&attributes)
}

/// Adds a default route.
pub(crate) fn default_route(gateway: Ipv4Addr, index: u32) -> Message {
    let table = libc::RT_TABLE_MAIN;
    let (boot, universe, unicast) = (libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
    let header: [u8; RTMSG] = [INET, 0, 0, 0, table, boot, universe, unicast, 0, 0, 0, 0];
    let attributes = Attributes::new().bytes(libc::RTA_GATEWAY, &gateway.octets());
    Message::new(libc::RTM_NEWROUTE, NEW, &header).with(&attributes.u32(libc::RTA_OIF, index))
}

/// Limits the rate at which packets leave by a link, with a token bucket filter, in bits per second.
pub(crate) fn shape(index: u32, rate: u64) -> Message {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    /// The burst: 20 ms, at least one large packet.
    const LEAST_BURST: u64 = 128 << 10;
    /// The queue: 100 ms.
    const LEAST_QUEUE: u64 = 256 << 10;
    let bytes = (rate / 8).max(1);
    let burst = u32::try_from((bytes / 50).max(LEAST_BURST)).unwrap_or(u32::MAX);
    let queue = u32::try_from((bytes / 10).max(LEAST_QUEUE)).unwrap_or(u32::MAX);
    let narrow = u32::try_from(bytes).unwrap_or(u32::MAX);
    // tc_tbf_qopt: the rate, the peak rate (none), limit, buffer, mtu.
    let mut options = [0; 36];
    options[1] = ETHERNET;
    options[8..12].copy_from_slice(&narrow.to_ne_bytes());
    options[24..28].copy_from_slice(&queue.to_ne_bytes());
    let options = Attributes::new().bytes(TCA_TBF_PARMS, &options);
    let options = options.u64(TCA_TBF_RATE64, bytes).u32(TCA_TBF_BURST, burst);
    let attributes = Attributes::new().text(libc::TCA_KIND, "tbf");
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Message::new(libc::RTM_NEWQDISC, flags, &queue_header(index))
        .with(&attributes.nest(libc::TCA_OPTIONS, &options))
}

/// Removes the token bucket filter.
pub(crate) fn unshape(index: u32) -> Message {
    Message::new(libc::RTM_DELQDISC, 0, &queue_header(index))
}

/// `tcmsg`: family, index, handle, parent (the root), info.
fn queue_header(index: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    header
}

/// The links of a namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let all = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; IFINFO]);
    let entries = socket.list(&all)?;
    Ok(entries.iter().filter_map(|entry| read_link(entry.split(IFINFO)?)).collect())
}

/// The link with this name.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let attributes = Attributes::new().text(libc::IFLA_IFNAME, name);
    let one = Message::new(libc::RTM_GETLINK, 0, &[0; IFINFO]).with(&attributes);
    match socket.list(&one) {
        Err(error) if error.errno == nix::errno::Errno::ENODEV => Ok(None),
        Err(error) => Err(error),
        Ok(entries) => Ok(entries.first().and_then(|entry| read_link(entry.split(IFINFO)?))),
    }
}

fn read_link((header, attributes): (&[u8], Reader<'_>)) -> Option<Link> {
    let info = attributes.nested(libc::IFLA_LINKINFO);
    let kind = info.and_then(|info| info.text(libc::IFLA_INFO_KIND)).unwrap_or_default();
    Some(Link {
        index: u32_at(header, 4)?,
        name: attributes.text(libc::IFLA_IFNAME)?.to_owned(),
        kind: kind.to_owned(),
        group: attributes.u32(libc::IFLA_GROUP).unwrap_or_default(),
        is_up: u32_at(header, 8)? & IFF_UP != 0,
        mac: attributes.get(libc::IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
    })
}

/// The IPv4 addresses of a namespace.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<Assigned>, NetlinkError> {
    let header: [u8; IFADDR] = [INET, 0, 0, 0, 0, 0, 0, 0];
    let entries = socket.list(&Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &header))?;
    let read = |(header, attributes): (&[u8], Reader<'_>)| {
        let address = address(attributes.get(libc::IFA_LOCAL)?)?;
        let address = Ipv4Net::new(address, *header.get(1)?).ok()?;
        Some(Assigned { link: u32_at(header, 4)?, address })
    };
    Ok(entries.iter().filter_map(|entry| read(entry.split(IFADDR)?)).collect())
}

/// The IPv4 routes of a namespace's main table.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut header = [0; RTMSG];
    header[0] = INET;
    let entries = socket.list(&Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &header))?;
    let read = |(header, attributes): (&[u8], Reader<'_>)| {
        let table = attributes.u32(libc::RTA_TABLE)?;
        if table != u32::from(libc::RT_TABLE_MAIN) {
            return None;
        }
        let to = attributes.get(libc::RTA_DST).and_then(address);
        let to = Ipv4Net::new(to.unwrap_or(Ipv4Addr::UNSPECIFIED), *header.get(1)?).ok()?;
        let gateway = attributes.get(libc::RTA_GATEWAY).and_then(address);
        Some(Route { to, gateway, link: attributes.u32(libc::RTA_OIF) })
    };
    Ok(entries.iter().filter_map(|entry| read(entry.split(RTMSG)?)).collect())
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Deletes the entries of a link in the neighbour table (the ARP cache).
pub(crate) fn forget_neighbours(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    const NDMSG: usize = 12;
    const DESTINATION: u16 = 1;
    let mut header = [0; NDMSG];
    header[0] = INET;
    let entries = socket.list(&Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &header))?;
    for entry in &entries {
        let Some((header, attributes)) = entry.split(NDMSG) else { continue };
        if let Some(address) =
            attributes.get(DESTINATION).filter(|_| u32_at(header, 4) == Some(index))
        {
            let one = Attributes::new().bytes(DESTINATION, address);
            socket.request(&[Message::new(libc::RTM_DELNEIGH, 0, header).with(&one)])?;
        }
    }
    Ok(())
}
