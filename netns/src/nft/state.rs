//! What there is, what rules have counted, and whether anybody has changed them.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::Table;
use super::transaction::NOTE;
use crate::netlink::{Attributes, Entry, Message, Reader, Refusal, Socket};

/// The length of the header that netfilter's messages have in common.
const HEADER: usize = 4;

/// So much of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The counters of a table by their names, and from zero again if `reset`.
pub(crate) fn counters(
    socket: &mut Socket,
    table: Table,
    reset: bool,
) -> Result<BTreeMap<String, Count>, Refusal> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const DATA: u16 = 4;
    const BYTES: u16 = 1;
    const PACKETS: u16 = 2;
    let kind = if reset { libc::NFT_MSG_GETOBJ_RESET } else { libc::NFT_MSG_GETOBJ };
    let (subsystem, flags) = (libc::NFNL_SUBSYS_NFTABLES, libc::NLM_F_DUMP);
    let message = Message::netfilter(subsystem, kind as u16, flags, table.family.number());
    let message = message.with(&Attributes::new().text(TABLE, table.name));
    let entries = socket.list(&message)?;
    let read = |entry: &Entry| {
        let (_, attributes) = entry.split(HEADER)?;
        let data = attributes.nested(DATA)?;
        let count = Count { packets: data.be64(PACKETS)?, bytes: data.be64(BYTES)? };
        Some((attributes.text(NAME)?.to_owned(), count))
    };
    Ok(entries.iter().filter_map(read).collect())
}

/// A number that grows with each transaction in the socket's namespace, whoever commits it.
pub(crate) fn generation(socket: &mut Socket) -> Result<Option<u32>, Refusal> {
    const ID: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETGEN as u16);
    let entries = socket.list(&Message::netfilter(subsystem, kind, 0, 0))?;
    Ok(entries.iter().find_map(|entry| entry.split(HEADER)?.1.be32(ID)))
}

/// The note on a table, which may be empty; none if there is no such table.
pub(crate) fn note(socket: &mut Socket, table: Table) -> Result<Option<Vec<u8>>, Refusal> {
    const NAME: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETTABLE as u16);
    let message = Message::netfilter(subsystem, kind, 0, table.family.number());
    match socket.list(&message.with(&Attributes::new().text(NAME, table.name))) {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
        Err(refusal) => Err(refusal),
        Ok(entries) => {
            let note = entries.iter().find_map(|entry| entry.split(HEADER)?.1.get(NOTE));
            Ok(Some(note.unwrap_or_default().to_vec()))
        }
    }
}

/// The tables of others that forget what they do not know among the packets that are passed on:
/// their verdict is final, whatever ours is.
pub(crate) fn closed_forwarders(socket: &mut Socket) -> Result<Vec<String>, Refusal> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const NUMBER: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETCHAIN as u16);
    let entries = socket.list(&Message::netfilter(subsystem, kind, libc::NLM_F_DUMP, 0))?;
    let read = |entry: &Entry| {
        let (header, chain) = entry.split(HEADER)?;
        let family = i32::from(*header.first()?);
        let is_ours = [libc::NFPROTO_INET, libc::NFPROTO_IPV4].contains(&family);
        let number = chain.nested(HOOK)?.be32(NUMBER)? as i32;
        let drops = chain.be32(POLICY)? as i32 == libc::NF_DROP;
        let name = format!("{} {}", chain.text(TABLE)?, chain.text(NAME)?);
        (is_ours && number == libc::NF_INET_FORWARD && drops).then_some(name)
    };
    Ok(entries.iter().filter_map(read).collect())
}

/// The elements of a set, or those that a map has values for.
pub(crate) fn elements(
    socket: &mut Socket,
    table: Table,
    set: &str,
) -> Result<Vec<Vec<u8>>, Refusal> {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETSETELEM as u16);
    let message = Message::netfilter(subsystem, kind, libc::NLM_F_DUMP, table.family.number());
    let message = message.with(&Attributes::new().text(TABLE, table.name).text(SET, set));
    let mut elements = Vec::new();
    for entry in socket.list(&message)? {
        let Some(list) = entry.split(HEADER).and_then(|(_, found)| found.nested(ELEMENTS)) else {
            continue;
        };
        let keys = list.filter_map(|(_, element)| Reader::new(element).nested(KEY)?.get(VALUE));
        elements.extend(keys.map(<[u8]>::to_vec));
    }
    Ok(elements)
}
