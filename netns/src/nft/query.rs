//! Queries: counters, set elements, chains, and the generation of the ruleset.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::Table;
use super::transaction::USERDATA;
use crate::netlink::{Attributes, Message, NetlinkError, Reader, Reply, Socket};

/// The length of the header that all netfilter messages share.
const HEADER: usize = 4;

/// The value of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// The counters of a table by name. With `reset` they start again from zero.
pub(crate) fn counters(
    socket: &mut Socket,
    table: Table,
    reset: bool,
) -> Result<BTreeMap<String, Count>, NetlinkError> {
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
    let read = |entry: &Reply| {
        let (_, attributes) = entry.split(HEADER)?;
        let data = attributes.nested(DATA)?;
        let count = Count { packets: data.be64(PACKETS)?, bytes: data.be64(BYTES)? };
        Some((attributes.text(NAME)?.to_owned(), count))
    };
    Ok(entries.iter().filter_map(read).collect())
}

/// The generation of the ruleset: a number that grows with each transaction in the namespace.
pub(crate) fn generation(socket: &mut Socket) -> Result<Option<u32>, NetlinkError> {
    const ID: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETGEN as u16);
    let entries = socket.list(&Message::netfilter(subsystem, kind, 0, 0))?;
    Ok(entries.iter().find_map(|entry| entry.split(HEADER)?.1.be32(ID)))
}

/// The userdata of a table, which may be empty; `None` if there is no such table.
pub(crate) fn userdata(socket: &mut Socket, table: Table) -> Result<Option<Vec<u8>>, NetlinkError> {
    const NAME: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETTABLE as u16);
    let message = Message::netfilter(subsystem, kind, 0, table.family.number());
    match socket.list(&message.with(&Attributes::new().text(NAME, table.name))) {
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
        Ok(entries) => {
            let userdata = entries.iter().find_map(|entry| entry.split(HEADER)?.1.get(USERDATA));
            Ok(Some(userdata.unwrap_or_default().to_vec()))
        }
    }
}

/// Chains of others at the hook `forward` that drop by default: their verdict holds even if our rules
/// accept.
pub(crate) fn dropping_forward_chains(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const NUMBER: u16 = 1;
    let (subsystem, kind) = (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETCHAIN as u16);
    let entries = socket.list(&Message::netfilter(subsystem, kind, libc::NLM_F_DUMP, 0))?;
    let read = |entry: &Reply| {
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

/// The elements of a set, or the keys of a map.
pub(crate) fn elements(
    socket: &mut Socket,
    table: Table,
    set: &str,
) -> Result<Vec<Vec<u8>>, NetlinkError> {
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
