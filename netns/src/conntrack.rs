//! The kernel's connection tracking table.

use std::net::Ipv4Addr;

use nix::errno::Errno;

use crate::netlink::{Attributes, Message, NetlinkError, Reader, Socket};

const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const IP: u16 = 1;
const SOURCE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// A filter that compares the source address.
const BY_SOURCE: u32 = 1;
/// The length of the header that all netfilter messages share.
const HEADER: usize = 4;

/// Deletes every entry of the socket's namespace.
pub(crate) fn flush(socket: &mut Socket) -> Result<(), NetlinkError> {
    socket.request(&[message(DELETE, 0)])
}

/// Deletes the entries with this source.
pub(crate) fn delete(socket: &mut Socket, source: Ipv4Addr) -> Result<(), NetlinkError> {
    let tuple = Attributes::new().bytes(SOURCE, &source.octets());
    let filter = Attributes::new().u32(FILTER_ORIGINAL, BY_SOURCE).u32(FILTER_REPLY, 0);
    let attributes = Attributes::new().nest(ORIGINAL, &Attributes::new().nest(IP, &tuple));
    match socket.request(&[message(DELETE, 0).with(&attributes.nest(FILTER, &filter))]) {
        // Kernels before Linux 6.10 do not know the filter and reject the incomplete tuple.
        Err(error) if error.errno == Errno::EINVAL => delete_each(socket, source),
        other => other,
    }
}

/// Deletes the entries one by one.
fn delete_each(socket: &mut Socket, source: Ipv4Addr) -> Result<(), NetlinkError> {
    for entry in socket.list(&message(GET, libc::NLM_F_DUMP))? {
        let Some((_, attributes)) = entry.split(HEADER) else { continue };
        let Some(original) = attributes.get(ORIGINAL) else { continue };
        if source_of(attributes) != Some(source) {
            continue;
        }
        let which = Attributes::new().nest_bytes(ORIGINAL, original);
        match socket.request(&[message(DELETE, 0).with(&which)]) {
            // The entry has expired meanwhile.
            Err(error) if error.errno == Errno::ENOENT => {}
            other => other?,
        }
    }
    Ok(())
}

/// The source of each entry of the socket's namespace.
pub(crate) fn sources(socket: &mut Socket) -> Result<Vec<Ipv4Addr>, NetlinkError> {
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
