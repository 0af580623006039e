//! The connections that the kernel remembers.

use std::net::Ipv4Addr;

use nix::errno::Errno;

use crate::netlink::{Attributes, Message, Reader, Refusal, Socket};

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

/// Forgets the connections that came from an address.
pub(crate) fn forget(socket: &mut Socket, source: Ipv4Addr) -> Result<(), Refusal> {
    let tuple = Attributes::new().bytes(SOURCE, &source.octets());
    let filter = Attributes::new().u32(FILTER_ORIGINAL, BY_SOURCE).u32(FILTER_REPLY, 0);
    let attributes = Attributes::new().nest(ORIGINAL, &Attributes::new().nest(IP, &tuple));
    match socket.request(&[message(DELETE, 0).with(&attributes.nest(FILTER, &filter))]) {
        // A kernel before Linux 6.10 takes the filter for half of one connection's description.
        Err(refusal) if refusal.errno == Errno::EINVAL => forget_each(socket, source),
        other => other,
    }
}

/// The same, one after the other.
fn forget_each(socket: &mut Socket, source: Ipv4Addr) -> Result<(), Refusal> {
    for entry in socket.list(&message(GET, libc::NLM_F_DUMP))? {
        let Some((_, attributes)) = entry.split(HEADER) else { continue };
        let Some(original) = attributes.get(ORIGINAL) else { continue };
        if source_of(attributes) != Some(source) {
            continue;
        }
        let which = Attributes::new().nest_bytes(ORIGINAL, original);
        match socket.request(&[message(DELETE, 0).with(&which)]) {
            // It ended by itself.
            Err(refusal) if refusal.errno == Errno::ENOENT => {}
            other => other?,
        }
    }
    Ok(())
}

/// Where each connection of the socket's namespace came from.
pub(crate) fn sources(socket: &mut Socket) -> Result<Vec<Ipv4Addr>, Refusal> {
    let entries = socket.list(&message(GET, libc::NLM_F_DUMP))?;
    Ok(entries.iter().filter_map(|entry| source_of(entry.split(HEADER)?.1)).collect())
}

fn source_of(connection: Reader<'_>) -> Option<Ipv4Addr> {
    let source = connection.nested(ORIGINAL)?.nested(IP)?.get(SOURCE)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?))
}

fn message(kind: u16, flags: i32) -> Message {
    let family = libc::AF_INET as u8;
    Message::netfilter(libc::NFNL_SUBSYS_CTNETLINK, kind, flags, family)
}
