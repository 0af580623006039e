//! Atomic changes of tables.

use nix::errno::Errno;

use super::rule::COUNTER;
use super::{Family, Rule};
use crate::netlink::{Attributes, Message, NetlinkError, Socket};

const CREATE: i32 = libc::NLM_F_CREATE;
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;

/// The attribute for userdata of a table.
pub(super) const USERDATA: u16 = 6;

/// A table of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

/// A chain of rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// The hook of a base chain; other chains are reached by `jump` and `goto`.
    pub(crate) hook: Option<Hook>,
}

/// The hook of a base chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) number: i32,
    /// Chains with lower priority run first.
    pub(crate) priority: i32,
    /// The link, for the family [`Family::Netdev`].
    pub(crate) device: Option<&'static str>,
    /// The chain's policy: accept or drop packets without a verdict.
    pub(crate) accepts: bool,
}

/// The type of a set's elements.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetKind {
    /// IPv4 networks.
    Networks,
    /// IPv4 addresses.
    Addresses,
    /// Ports.
    Ports,
    /// IPv4 address and port.
    AddressesAndPorts,
    /// A map from IPv4 address to port.
    PortsByAddress,
    /// Two IPv4 addresses and a port.
    AddressesAndSockets,
    /// User ID, IPv4 address and port.
    UsersAndSockets,
}

/// A transaction under construction.
#[derive(Debug)]
pub(crate) struct Transaction {
    table: Table,
    messages: Vec<Message>,
}

impl Transaction {
    pub(crate) fn on(table: Table) -> Self {
        Self { table, messages: Vec::new() }
    }

    /// Selects the table of the following changes.
    pub(crate) fn then_on(mut self, table: Table) -> Self {
        self.table = table;
        self
    }

    /// Creates the table. The transaction fails if it exists.
    pub(crate) fn create_table(self) -> Self {
        let flags = CREATE | libc::NLM_F_EXCL;
        let name = self.name(1);
        self.push(libc::NFT_MSG_NEWTABLE, flags, &name)
    }

    /// As [`create_table`](Self::create_table), with userdata.
    pub(crate) fn create_table_with_userdata(self, userdata: &[u8]) -> Self {
        let flags = CREATE | libc::NLM_F_EXCL;
        let attributes = self.name(1).bytes(USERDATA, userdata);
        self.push(libc::NFT_MSG_NEWTABLE, flags, &attributes)
    }

    /// Deletes the table.
    pub(crate) fn delete_table(self) -> Self {
        let name = self.name(1);
        self.push(libc::NFT_MSG_DELTABLE, 0, &name)
    }

    pub(crate) fn add_chain(self, chain: Chain) -> Self {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const TYPE: u16 = 7;
        const HOOK_NUMBER: u16 = 1;
        const HOOK_PRIORITY: u16 = 2;
        const HOOK_DEVICE: u16 = 3;
        let mut attributes = self.name(TABLE).text(NAME, chain.name);
        if let Some(hook) = chain.hook {
            let place = Attributes::new().be32(HOOK_NUMBER, hook.number as u32);
            let mut place = place.be32(HOOK_PRIORITY, hook.priority as u32);
            if let Some(device) = hook.device {
                place = place.text(HOOK_DEVICE, device);
            }
            let policy = if hook.accepts { libc::NF_ACCEPT } else { libc::NF_DROP };
            attributes = attributes.nest(HOOK, &place).text(TYPE, hook.kind);
            attributes = attributes.be32(POLICY, policy as u32);
        }
        self.push(libc::NFT_MSG_NEWCHAIN, CREATE, &attributes)
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(self, chain: &str, rule: &Rule) -> Self {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        let attributes = self.name(TABLE).text(CHAIN, chain);
        let attributes = attributes.nest(EXPRESSIONS, rule.expressions());
        self.push(libc::NFT_MSG_NEWRULE, APPEND, &attributes)
    }

    /// Deletes all rules of a chain.
    pub(crate) fn flush_chain(self, chain: &str) -> Self {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        let attributes = self.name(TABLE).text(CHAIN, chain);
        self.push(libc::NFT_MSG_DELRULE, 0, &attributes)
    }

    pub(crate) fn add_counter(self, name: &str) -> Self {
        const TABLE: u16 = 1;
        const NAME: u16 = 2;
        const TYPE: u16 = 3;
        const DATA: u16 = 4;
        const BYTES: u16 = 1;
        const PACKETS: u16 = 2;
        let zero = Attributes::new().be64(BYTES, 0).be64(PACKETS, 0);
        let attributes = self.name(TABLE).text(NAME, name);
        let attributes = attributes.be32(TYPE, COUNTER).nest(DATA, &zero);
        self.push(libc::NFT_MSG_NEWOBJ, CREATE, &attributes)
    }

    /// Creates an empty set.
    pub(crate) fn add_set(self, name: &str, kind: SetKind) -> Self {
        const TABLE: u16 = 1;
        const NAME: u16 = 2;
        const FLAGS: u16 = 3;
        const KEY_TYPE: u16 = 4;
        const KEY_LENGTH: u16 = 5;
        const DATA_TYPE: u16 = 6;
        const DATA_LENGTH: u16 = 7;
        const ID: u16 = 10;
        // The numbers of types in `nft`, so that it can display the set.
        const ADDRESS: u32 = 7;
        const PORT: u32 = 13;
        const USER: u32 = 24;
        const ADDRESS_AND_PORT: u32 = ADDRESS << 6 | PORT;
        let (flags, key, length) = match kind {
            SetKind::Networks => (libc::NFT_SET_INTERVAL, ADDRESS, 4),
            SetKind::Addresses => (0, ADDRESS, 4),
            SetKind::Ports => (0, PORT, 2),
            SetKind::AddressesAndPorts => (0, ADDRESS_AND_PORT, 8),
            SetKind::PortsByAddress => (libc::NFT_SET_MAP, ADDRESS, 4),
            SetKind::AddressesAndSockets => (0, ADDRESS << 12 | ADDRESS_AND_PORT, 12),
            SetKind::UsersAndSockets => (0, USER << 12 | ADDRESS_AND_PORT, 12),
        };
        let id = self.messages.len() as u32 + 1;
        let mut attributes = self.name(TABLE).text(NAME, name).be32(FLAGS, flags as u32);
        attributes = attributes.be32(KEY_TYPE, key).be32(KEY_LENGTH, length).be32(ID, id);
        if let SetKind::PortsByAddress = kind {
            attributes = attributes.be32(DATA_TYPE, PORT).be32(DATA_LENGTH, 2);
        }
        self.push(libc::NFT_MSG_NEWSET, CREATE, &attributes)
    }

    /// Deletes all elements of a set.
    pub(crate) fn flush_set(self, set: &str) -> Self {
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        let attributes = self.name(TABLE).text(SET, set);
        self.push(libc::NFT_MSG_DELSETELEM, 0, &attributes)
    }

    /// Adds networks to a set. Existing elements are not an error.
    pub(crate) fn add_networks(self, set: &str, nets: &[ipnet::Ipv4Net]) -> Self {
        const FLAGS: u16 = 3;
        let mut elements = Attributes::new();
        for net in nets {
            elements = elements.nest(LIST_ELEM, &key(&net.network().octets()));
            // The end of an interval is exclusive; the interval up to the last address has no end.
            if let Some(after) = u32::from(net.broadcast()).checked_add(1) {
                let end = key(&after.to_be_bytes());
                let end = end.be32(FLAGS, libc::NFT_SET_ELEM_INTERVAL_END as u32);
                elements = elements.nest(LIST_ELEM, &end);
            }
        }
        self.elements(libc::NFT_MSG_NEWSETELEM, set, &elements)
    }

    pub(crate) fn add_element(self, set: &str, element: &[u8]) -> Self {
        let elements = Attributes::new().nest(LIST_ELEM, &key(element));
        self.elements(libc::NFT_MSG_NEWSETELEM, set, &elements)
    }

    /// Adds an element to a map.
    pub(crate) fn add_map_element(self, map: &str, element: &[u8], value: &[u8]) -> Self {
        const DATA: u16 = 2;
        let value = Attributes::new().bytes(DATA_VALUE, value);
        let pair = key(element).nest(DATA, &value);
        let elements = Attributes::new().nest(LIST_ELEM, &pair);
        self.elements(libc::NFT_MSG_NEWSETELEM, map, &elements)
    }

    /// Deletes an element of a set or map.
    pub(crate) fn delete_element(self, set: &str, element: &[u8]) -> Self {
        let elements = Attributes::new().nest(LIST_ELEM, &key(element));
        self.elements(libc::NFT_MSG_DELSETELEM, set, &elements)
    }

    /// Commits the transaction.
    pub(crate) fn commit(&self, socket: &mut Socket) -> Result<(), NetlinkError> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            match socket.transact(&self.messages) {
                // Another transaction came first: try again.
                Err(error) if matches!(error.errno, Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN.into())
    }

    fn elements(self, kind: i32, set: &str, elements: &Attributes) -> Self {
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        const ELEMENTS: u16 = 3;
        let attributes = self.name(TABLE).text(SET, set).nest(ELEMENTS, elements);
        self.push(kind, CREATE, &attributes)
    }

    /// The attribute with the table's name.
    fn name(&self, kind: u16) -> Attributes {
        Attributes::new().text(kind, self.table.name)
    }

    fn push(mut self, kind: i32, flags: i32, attributes: &Attributes) -> Self {
        let family = self.table.family.number();
        let subsystem = libc::NFNL_SUBSYS_NFTABLES;
        let message = Message::netfilter(subsystem, kind as u16, flags, family);
        self.messages.push(message.with(attributes));
        self
    }
}

fn key(value: &[u8]) -> Attributes {
    const KEY: u16 = 1;
    Attributes::new().nest(KEY, &Attributes::new().bytes(DATA_VALUE, value))
}
