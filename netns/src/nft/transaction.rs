//! Changes of tables, all of which take effect at once or none.

use nix::errno::Errno;

use super::rule::COUNTER;
use super::{Family, Rule};
use crate::netlink::{Attributes, Message, Refusal, Socket};

const CREATE: i32 = libc::NLM_F_CREATE;
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;

/// A note on a table.
pub(super) const NOTE: u16 = 6;

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
    /// Where packets enter it; if nowhere, rules lead to it.
    pub(crate) hook: Option<Hook>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) number: i32,
    /// Lower ones come first.
    pub(crate) priority: i32,
    /// Of the family [`Family::Netdev`]: the link.
    pub(crate) device: Option<&'static str>,
    /// What happens to a packet that no rule decides about.
    pub(crate) accepts: bool,
}

/// What the elements of a set are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetKind {
    /// Networks of IPv4.
    Networks,
    /// Ports.
    Ports,
    /// An address of IPv4 and a port.
    AddressesAndPorts,
    /// For an address of IPv4, a port.
    PortsByAddress,
    /// Two addresses of IPv4 and a port.
    AddressesAndSockets,
    /// A user ID, an address of IPv4 and a port.
    UsersAndSockets,
}

/// Changes in the making.
#[derive(Debug)]
pub(crate) struct Transaction {
    table: Table,
    messages: Vec<Message>,
}

impl Transaction {
    pub(crate) fn on(table: Table) -> Self {
        Self { table, messages: Vec::new() }
    }

    /// From here on, changes of another table.
    pub(crate) fn and_on(mut self, table: Table) -> Self {
        self.table = table;
        self
    }

    /// Makes the table. If there is one already, nothing of this takes effect.
    pub(crate) fn make_table(self) -> Self {
        let flags = CREATE | libc::NLM_F_EXCL;
        let name = self.name(1);
        self.push(libc::NFT_MSG_NEWTABLE, flags, &name)
    }

    /// As [`make_table`](Self::make_table), with a note of ours on it.
    pub(crate) fn make_table_with(self, note: &[u8]) -> Self {
        let flags = CREATE | libc::NLM_F_EXCL;
        let attributes = self.name(1).bytes(NOTE, note);
        self.push(libc::NFT_MSG_NEWTABLE, flags, &attributes)
    }

    /// Removes the table.
    pub(crate) fn remove_table(self) -> Self {
        let name = self.name(1);
        self.push(libc::NFT_MSG_DELTABLE, 0, &name)
    }

    pub(crate) fn chain(self, chain: Chain) -> Self {
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

    /// Adds a rule to the end of a chain.
    pub(crate) fn rule(self, chain: &str, rule: &Rule) -> Self {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        let attributes = self.name(TABLE).text(CHAIN, chain);
        let attributes = attributes.nest(EXPRESSIONS, rule.expressions());
        self.push(libc::NFT_MSG_NEWRULE, APPEND, &attributes)
    }

    /// Removes all rules of a chain.
    pub(crate) fn empty(self, chain: &str) -> Self {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        let attributes = self.name(TABLE).text(CHAIN, chain);
        self.push(libc::NFT_MSG_DELRULE, 0, &attributes)
    }

    pub(crate) fn counter(self, name: &str) -> Self {
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

    /// Makes a set. Its elements are added afterwards, or at any time.
    pub(crate) fn set(self, name: &str, kind: SetKind) -> Self {
        const TABLE: u16 = 1;
        const NAME: u16 = 2;
        const FLAGS: u16 = 3;
        const KEY_TYPE: u16 = 4;
        const KEY_LENGTH: u16 = 5;
        const DATA_TYPE: u16 = 6;
        const DATA_LENGTH: u16 = 7;
        const ID: u16 = 10;
        // As `nft` numbers types, so that it shows them well.
        const ADDRESS: u32 = 7;
        const PORT: u32 = 13;
        const USER: u32 = 24;
        const ADDRESS_AND_PORT: u32 = ADDRESS << 6 | PORT;
        let (flags, key, length) = match kind {
            SetKind::Networks => (libc::NFT_SET_INTERVAL, ADDRESS, 4),
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

    /// Removes all elements of a set.
    pub(crate) fn empty_set(self, set: &str) -> Self {
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        let attributes = self.name(TABLE).text(SET, set);
        self.push(libc::NFT_MSG_DELSETELEM, 0, &attributes)
    }

    /// Adds networks to a set of them; one that it has already is no error.
    pub(crate) fn add_networks(self, set: &str, nets: &[ipnet::Ipv4Net]) -> Self {
        const FLAGS: u16 = 3;
        let mut elements = Attributes::new();
        for net in nets {
            elements = elements.nest(LIST_ELEM, &key(&net.network().octets()));
            // An interval ends before its end; the last one of all does not end.
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

    /// Adds to a map.
    pub(crate) fn add_pair(self, map: &str, element: &[u8], value: &[u8]) -> Self {
        const DATA: u16 = 2;
        let value = Attributes::new().bytes(DATA_VALUE, value);
        let pair = key(element).nest(DATA, &value);
        let elements = Attributes::new().nest(LIST_ELEM, &pair);
        self.elements(libc::NFT_MSG_NEWSETELEM, map, &elements)
    }

    /// Removes from a set or map what is there.
    pub(crate) fn remove_element(self, set: &str, element: &[u8]) -> Self {
        let elements = Attributes::new().nest(LIST_ELEM, &key(element));
        self.elements(libc::NFT_MSG_DELSETELEM, set, &elements)
    }

    /// Makes it so.
    pub(crate) fn commit(&self, socket: &mut Socket) -> Result<(), Refusal> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            match socket.transact(&self.messages) {
                // Somebody else's change was quicker.
                Err(refusal) if matches!(refusal.errno, Errno::EAGAIN | Errno::EINTR) => {}
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

    /// The table's name as an attribute.
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
