//! The connections that the kernel remembers.

use std::net::Ipv4Addr;

use crate::netlink::{Attributes, Entry, Message, Refusal, Socket};

const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const IP: u16 = 1;
const SOURCE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Which part of an address pair a filter looks at.
const BY_SOURCE: u32 = 1;
/// The length of the header that netfilter's messages have in common.
const HEADER: usize = 4;

/// Forgets every connection of the socket's namespace.
pub(crate) fn forget_all(socket: &mut Socket) -> Result<(), Refusal> {
    socket.request(&[message(DELETE, 0)])
}

/// Forgets the connections that came from an address. Takes Linux 5.8.
pub(crate) fn forget(socket: &mut Socket, source: Ipv4Addr) -> Result<(), Refusal> {
    let tuple = Attributes::new().bytes(SOURCE, &source.octets());
    let filter = Attributes::new().u32(FILTER_ORIGINAL, BY_SOURCE).u32(FILTER_REPLY, 0);
    let attributes = Attributes::new().nest(ORIGINAL, &Attributes::new().nest(IP, &tuple));
    socket.request(&[message(DELETE, 0).with(&attributes.nest(FILTER, &filter))])
}

/// Where each connection of the socket's namespace came from.
pub(crate) fn sources(socket: &mut Socket) -> Result<Vec<Ipv4Addr>, Refusal> {
    let entries = socket.list(&message(GET, libc::NLM_F_DUMP))?;
    let read = |entry: &Entry| {
        let (_, attributes) = entry.split(HEADER)?;
        let source = attributes.nested(ORIGINAL)?.nested(IP)?.get(SOURCE)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?))
    };
    Ok(entries.iter().filter_map(read).collect())
}

fn message(kind: u16, flags: i32) -> Message {
    let family = libc::AF_INET as u8;
    Message::netfilter(libc::NFNL_SUBSYS_CTNETLINK, kind, flags, family)
}
